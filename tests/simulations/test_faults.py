"""Faults are replayable, poison stays within its bound, noise does not depend on who answers, and a soak can fail."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.client.fleet import LocalTraining
from sottovoce.client.message import Instruction, Reply, read_instruction, read_reply, reply_record
from sottovoce.privacy import release
from sottovoce.privacy.clip import SLACK
from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.errors import UpdateError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server import round as round_module
from sottovoce.simulations import marked_run
from sottovoce.simulations.bent_replies import CORRUPTIONS, POISONS, poisoned
from sottovoce.simulations.fault_soak import dropped, hosted, slope, soak
from sottovoce.simulations.faults import Faults, Rates
from sottovoce.simulations.markers import TABLE, Markers


def test_a_schedule_repeats_itself_and_strikes_at_its_rate():
    one, again = (Faults(Rates.every(0.05), 7) for _ in range(2))
    drawn = [one.draw(str(number), node) for number in range(50) for node in range(40)]
    assert drawn[777].kinds == again.draw(str(777 // 40), 777 % 40).kinds
    for name in Rates.__struct_fields__:
        share = np.mean([name in single for single in drawn])
        assert abs(share - 0.05) < 5 * np.sqrt(0.05 * 0.95 / len(drawn))
    other = [Faults(Rates.every(0.05), 8).draw(str(number), 0).kinds for number in range(50)]
    assert other != [one.draw(str(number), 0).kinds for number in range(50)]


def asked(devices=3, clip=0.7):
    return Instruction(
        "run", 4, "plan", clip, LocalTraining(), {"table": np.zeros((6, 2), np.float32)}, np.arange(devices), "schema"
    )


def honest(question):
    total = {"table": np.full((6, 2), question.clip_norm * len(question.devices) / 12**0.5, np.float32)}
    return reply_record(Reply("run", 4, "plan", total, len(question.devices)))


@pytest.mark.parametrize("kind", [kind for kind in CORRUPTIONS if kind != "a flipped bit"])
def test_every_corruption_is_noticed(kind):
    read_reply(honest(asked()), asked())
    with pytest.raises(UpdateError):
        read_reply(CORRUPTIONS[kind](honest(asked()), np.random.default_rng(0)), asked())


def test_a_flipped_bit_is_noticed_or_moves_the_sum_by_no_more_than_a_device_may():
    noticed = 0
    for seed in range(400):
        try:
            reply = read_reply(CORRUPTIONS["a flipped bit"](honest(asked()), np.random.default_rng(seed)), asked())
        except UpdateError:
            noticed += 1
        else:
            assert np.linalg.norm(reply.total["table"].astype(float)) <= 3 * 0.7 * (1 + SLACK)
    assert 0 < noticed < 400


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(sorted(POISONS)), max_size=12),
    clip=st.sampled_from([1e-3, 1.0, 50.0]),
    seed=st.integers(0, 2**32),
)
def test_k_poisoned_devices_move_the_model_by_at_most_k_bounds(kinds, clip, seed, tmp_path_factory, bend_first):
    """Without noise, against the same round in which the poisoned devices are silent."""
    folder = tmp_path_factory.mktemp("run")
    n = 12
    plan = MechanismPlan(n, 1.0, clip, 0.0, 1, 1e-2, sampling="none")
    moved = []
    for name in ("poisoned", "silent"):
        with Ledger.open(folder / f"{name}.db", create=True) as ledger:
            run = marked_run.marked_run(
                folder / name, ledger, plan, Markers((1,) * n, 1), Rates(), seed, SeededEntropy(0)
            )
            bend_first(run.grid, kinds if name == "poisoned" else [None] * len(kinds), seed)
            run.coordinator.run(0, lambda _: None)
            moved.append(run.coordinator.step.parameters[TABLE].numpy().astype(float).ravel())
    distance = np.linalg.norm(moved[0] - moved[1])
    assert np.isfinite(moved[0]).all()
    assert distance <= len(kinds) * clip / n * (1 + SLACK) + 1e-6 * clip


@pytest.fixture(scope="module")
def bend_first():
    """Bends the replies of the first nodes of a grid; None silences one."""

    def bend(grid, kinds, seed):
        inner, push = grid._inner, grid._inner.push_messages
        sent = {}

        def pushed(messages):
            listed = list(messages)
            numbers = list(push(listed))
            sent.update(zip(numbers, listed, strict=True))
            return numbers

        pull = inner.pull_messages

        def pulled(numbers):
            rng = np.random.default_rng(seed)
            for answer in pull(numbers):
                node = answer.metadata.src_node_id
                question = sent[answer.metadata.reply_to_message_id]
                if question.metadata.message_type == "train" and node <= len(kinds):
                    if kinds[node - 1] is None:
                        continue
                    answer.content = poisoned(answer.content, read_instruction(question.content), kinds[node - 1], rng)
                yield answer

        inner.push_messages, inner.pull_messages = pushed, pulled

    return bend


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9])
def test_noise_is_as_promised_whoever_is_silent(rate):
    found = dropped(rate, 25, 10, 800)
    assert found.closed == 25
    assert abs(found.answered - (1 - rate)) < 0.1
    assert found.draws == 200_000
    assert abs(found.noise_ratio - 1) < 0.01  # six standard errors


@pytest.mark.parametrize("wrong", [0.98, 1.02])
def test_noise_that_is_two_percent_off_would_be_noticed(monkeypatch, wrong):
    honest_release = release.release_sum
    monkeypatch.setattr(release, "release_sum", lambda total, std, source: honest_release(total, std * wrong, source))
    found = dropped(0.5, 25, 10, 800)
    assert abs(found.noise_ratio - 1) > 0.01


def test_a_short_soak_holds():
    found = soak(12, 100, 0.1)
    assert (found.closed, found.violations) == (12, [])
    assert set(found.faults) == set(Rates.__struct_fields__)
    assert sum(hosted(1000)) == 1000


def believes_anything(record, asked):
    """A coordinator that looks at nothing but what it can add up."""
    from sottovoce.client.wire import read_arrays

    total = read_arrays(record, "total")
    if total.keys() != asked.parameters.keys() or total["table"].shape != asked.parameters["table"].shape:
        raise UpdateError("cannot be added up")
    return Reply("run", 1, "plan", total, len(asked.devices))


def test_a_coordinator_that_believes_its_nodes_breaks_promises(monkeypatch):
    monkeypatch.setattr(round_module, "read_reply", believes_anything)
    assert soak(6, 60, 0.2).violations


def test_a_coordinator_that_counts_for_one_what_another_sent_breaks_promises(monkeypatch):
    replies = round_module.replies

    def twice(*arguments, **named):
        for message in replies(*arguments, **named):
            yield message
            message.metadata.__dict__["_src_node_id"] = message.metadata.src_node_id % 20 + 1
            yield message

    monkeypatch.setattr(round_module, "replies", twice)
    assert soak(6, 60, 0.05).violations


def test_a_coordinator_that_waits_too_long_breaks_promises(monkeypatch):
    replies = round_module.replies

    def patient(grid, messages, timeout_s, failed, **named):
        return replies(grid, messages, 3 * timeout_s, failed, **named)

    monkeypatch.setattr(round_module, "replies", patient)
    found = soak(4, 60, 0.2)
    assert found.violations
    assert found.closed < 4


def test_a_slope_and_its_error_are_those_of_the_series():
    rng = np.random.default_rng(0)
    rises = slope(3.0 * np.arange(4000) / 1000 + rng.normal(0, 1, 4000))
    flat = slope(rng.normal(0, 1, 4000))
    assert abs(rises.per_1000_rounds - 3.0) < 4 * rises.error
    assert abs(flat.per_1000_rounds) < 4 * flat.error
    assert 0.005 < flat.error < 0.1
    assert slope(np.zeros(10)) is None
