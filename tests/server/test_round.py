from dataclasses import replace

import httpx
import numpy as np
import pytest
import torch
from flwr.app import Error, Message, RecordDict

from sottovoce.client.fleet import LocalTraining
from sottovoce.client.message import Enrolment, Instruction, Reply, enrolment_record, read_instruction, reply_record
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.errors import BudgetError, CheckpointError, ConfigError, SottovoceError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server import checkpoint
from sottovoce.server.cohort import enrol
from sottovoce.server.optimizer import PrivateStep, ServerOptimizer
from sottovoce.server.participation import Participation
from sottovoce.server.round import Coordinator
from sottovoce.simulations.grid import InProcessGrid

SIZES = (3, 0, 5)
"""Devices of each node."""


class Nodes:
    """ClientApps by hand: node k answers with ones in the places of its devices, unless a fault bends the answer."""

    def __init__(self, faults=None):
        self.faults = faults or {}
        self.asked = []

    def __call__(self, message, context):
        node = context.node_id
        if message.metadata.message_type == "query":
            return Message(enrolment_record(Enrolment(SIZES[node - 1], node - 1)), reply_to=message)
        asked = read_instruction(message.content)
        self.asked.append((asked.round, node, asked.devices.tolist()))
        places = np.zeros((9, 2), np.float32)
        places[1 + asked.devices + sum(SIZES[: node - 1]), 0] = 1.0
        reply = Reply(asked.run_id, asked.round, asked.plan_hash, {"table": places}, len(asked.devices))
        fault = self.faults.get(node)
        if fault == "error":
            return Message(Error(2, "broken"), reply_to=message)
        return Message(fault(reply) if fault else reply_record(reply), reply_to=message)


def bent(**changes):
    """A fault that changes fields of the reply."""

    def fault(reply):
        fields = {name: getattr(reply, name) for name in ("run_id", "round", "plan_hash", "total", "devices")}
        return reply_record(Reply(**{**fields, **{k: v(reply) if callable(v) else v for k, v in changes.items()}}))

    return fault


def plan(noise=0.0, rounds=5, rate=1.0, clip=1.0, cap=None):
    return MechanismPlan(8, rate, clip, noise, rounds, 1e-2, max_participations=cap)


class Run:
    """A coordinator over hand-made nodes; without noise a round's step is exactly the mean of what was counted."""

    def __init__(self, folder, nodes, plan, seed=0, epsilon=float("inf")):
        self.ledger = Ledger.open(folder / "ledger.db", create=True)
        self.step = PrivateStep(
            {"table": torch.zeros(9, 2)}, ServerOptimizer(kind="fedavg", learning_rate=1.0, averaging=0.0), plan, "run"
        )
        self.coordinator = Coordinator(
            grid=InProcessGrid(nodes, len(SIZES)),
            plan=plan,
            budget=Budget(epsilon, plan.delta, self.ledger),
            step=self.step,
            training=LocalTraining(),
            entropy=SeededEntropy(seed),
            run_id="run",
            schema_digest="schema",
            folder=folder / "checkpoints",
            participation=Participation.begin(folder / "asked", plan.population, plan.max_participations),
        )
        self.records = []

    def go(self, after=0):
        return self.coordinator.run(after, self.records.append)

    def counted(self):
        """Times each device is in the model, with its 8 as the public denominator."""
        return self.step.parameters["table"][1:, 0].numpy() * self.coordinator.plan.expected_cohort

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.ledger.close()


def test_every_device_is_counted_once_a_round_and_under_its_own_number(tmp_path):
    with Run(tmp_path, Nodes(), plan(rounds=3)) as run:
        assert run.go() is None
        np.testing.assert_allclose(run.counted(), 3.0, atol=1e-5)
        assert [record.cohort for record in run.records] == [8, 8, 8]


def test_a_cohort_is_asked_exactly_and_nobody_else(tmp_path):
    nodes = Nodes()
    with Run(tmp_path, nodes, plan(rounds=4, rate=0.5)) as run:
        run.go()
        drawn = np.zeros(8)
        for _, node, devices in nodes.asked:
            drawn[np.array(devices, int) + sum(SIZES[: node - 1])] += 1
        np.testing.assert_allclose(run.counted(), drawn, atol=1e-5)
        assert 0 < drawn.sum() < 32


def test_a_device_at_its_cap_is_drawn_but_not_asked_and_the_denominator_stays(tmp_path):
    nodes = Nodes()
    with Run(tmp_path, nodes, plan(rounds=5, cap=2)) as run:
        assert run.go() is None
        np.testing.assert_allclose(run.counted(), 2.0, atol=1e-5)
        assert [(record.cohort, record.capped) for record in run.records] == [(8, 0)] * 2 + [(8, 8)] * 3
        assert {number for number, _, _ in nodes.asked} == {1, 2}


def test_what_really_happened_is_kept_beside_the_ledger(tmp_path):
    with Run(tmp_path, Nodes({1: "error"}), plan(noise=3.0, rounds=3, rate=0.5, cap=2)) as run:
        run.go()
        records = list(run.ledger.realised(run.ledger.book()).values())
    assert [(one.population, one.cohort) for one in records] == [(8, record.cohort) for record in run.records]
    assert [one.answered for one in records] == [record.answered for record in run.records]
    assert [one.busiest for one in records] == sorted(one.busiest for one in records)
    assert records[-1].busiest <= 2
    assert len({one.salt for one in records}) == 3


FAULTS = {
    "error reply": "error",
    "empty message": lambda reply: RecordDict(),
    "another run": bent(run_id="other"),
    "another round": bent(round=99),
    "another plan": bent(plan_hash="other"),
    "more devices than asked": bent(devices=10**9),
    "NaN": bent(total={"table": np.full((9, 2), np.nan, np.float32)}),
    "infinity": bent(total={"table": np.full((9, 2), np.inf, np.float32)}),
    "1e30": bent(total={"table": np.full((9, 2), 1e30, np.float32)}),
    "a sum longer than its devices can make": bent(total=lambda reply: {"table": reply.total["table"] * 10}),
    "a shape that would broadcast": bent(total={"table": np.ones((1, 2), np.float32)}),
    "another name": bent(total={"tables": np.zeros((9, 2), np.float32)}),
    "one more array": bent(total=lambda reply: {**reply.total, "extra": np.zeros(1, np.float32)}),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_an_unusable_reply_counts_as_zero_and_the_round_closes(tmp_path, fault):
    with Run(tmp_path, Nodes({3: fault}), plan(rounds=1)) as run:
        assert run.go() is None
        np.testing.assert_allclose(run.counted(), [1, 1, 1, 0, 0, 0, 0, 0], atol=1e-5)
        (record,) = run.records
        assert record.answered == 3
        assert len(record.dropped) == (0 if fault == "error" else 1)


def test_when_nobody_answers_the_round_still_releases_noise_of_the_promised_size(tmp_path):
    with Run(tmp_path, Nodes(dict.fromkeys((1, 3), "error")), plan(noise=2.0, rounds=400)) as run:
        before, steps = run.step.parameters["table"].numpy().copy(), []
        run.coordinator.run(0, lambda record: steps.append(run.step.parameters["table"].numpy().copy()))
        moves = np.diff(np.stack([before, *steps]), axis=0)[:, 1:].ravel() * 8
        assert abs(moves.std() / 2.0 - 1) < 0.04  # 6,400 draws: standard error 0.9 %


def test_a_node_that_grows_after_the_plan_was_made_stops_the_run(tmp_path):
    with (
        Run(tmp_path, Nodes(), MechanismPlan(7, 1.0, 1.0, 0.0, 1, 1e-2)) as run,
        pytest.raises(ConfigError, match="8 devices"),
    ):
        run.go()
    assert not (tmp_path / "checkpoints").exists()


def test_the_round_that_would_overspend_is_refused_before_anybody_is_asked(tmp_path):
    private = plan(noise=3.0, rounds=3)
    budget = private.claims(2)[0].epsilon + 1e-3
    nodes = Nodes()
    with Run(tmp_path, nodes, private, epsilon=budget) as run:
        early = run.go()
        assert early is not None
        assert "round 3 of 3" in early
        assert {number for number, _, _ in nodes.asked} == {1, 2}
        assert len(list(run.ledger.entries())) == 2 + 2 * 2  # the campaign, the plan, two rounds
    with Run(tmp_path, nodes, private, epsilon=budget) as again, pytest.raises(BudgetError):
        again.go()


def test_every_checkpoint_is_in_the_ledger_by_its_digest(tmp_path):
    import hashlib

    with Run(tmp_path, Nodes(), plan(rounds=2)) as run:
        run.go()
        committed = {e.artifact_sha256 for e in run.ledger.entries() if type(e).__name__ == "Committed"}
    files = sorted((tmp_path / "checkpoints").iterdir())
    assert {hashlib.sha256(file.read_bytes()).hexdigest() for file in files} == committed


def test_a_reservation_is_good_for_one_step_of_its_own_run(tmp_path):
    with Run(tmp_path, Nodes(), plan()) as run:
        source = SeededEntropy(0).generator("noise", 1)
        total = {"table": np.zeros((9, 2))}
        mine = run.coordinator.budget.reserve(run.coordinator.plan, "run", 1, "seeded")
        run.step.step(total, mine, source)
        with pytest.raises(ValueError, match="used before"):
            run.step.step(total, mine, source)
        other = run.coordinator.budget.reserve(run.coordinator.plan, "another", 1, "seeded")
        with pytest.raises(ValueError, match="another run"):
            run.step.step(total, other, source)


def test_a_population_of_nobody_is_refused():
    def silent(message, context):
        return Message(Error(2, "broken"), reply_to=message)

    with pytest.raises(SottovoceError, match="none of 2 nodes"):
        enrol(InProcessGrid(silent, 2), 1.0)


def test_two_nodes_with_one_place_are_refused():
    def same(message, context):
        return Message(enrolment_record(Enrolment(1, 0)), reply_to=message)

    with pytest.raises(SottovoceError, match="same place"):
        enrol(InProcessGrid(same, 2), 1.0)


def test_an_instruction_survives_the_wire():
    sent = Instruction(
        "r", 3, "p", 0.5, LocalTraining(3, 0.1, 7), {"table": np.ones((2, 2), np.float32)}, np.array([4, 9]), "s"
    )
    from sottovoce.client.message import instruction_record

    got = read_instruction(instruction_record(sent))
    assert (got.run_id, got.round, got.plan_hash, got.schema_digest) == ("r", 3, "p", "s")
    assert (got.clip_norm, got.training) == (0.5, sent.training)
    np.testing.assert_array_equal(got.devices, sent.devices)
    np.testing.assert_array_equal(got.parameters["table"], sent.parameters["table"])


def test_the_average_is_of_the_weights_and_starts_without_bias(tmp_path):
    private = plan(rounds=9)
    step = PrivateStep(
        {"table": torch.zeros(9, 2)}, ServerOptimizer(kind="fedavg", learning_rate=1.0, averaging=0.5), private, "run"
    )
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        budget, seen = Budget(float("inf"), private.delta, ledger), []
        for number in range(1, 4):
            total = {"table": np.full((9, 2), 8.0 * number)}
            step.step(
                total, budget.reserve(private, "run", number, "none"), SeededEntropy(0).generator("noise", number)
            )
            seen.append(step.parameters["table"].clone())
    weights = torch.tensor([0.25, 0.5, 1.0])
    expected = sum(w * value for w, value in zip(weights, seen, strict=True)) / weights.sum()
    torch.testing.assert_close(step.averaged["table"], expected)


@pytest.mark.parametrize("kind", ["fedavg", "momentum", "fedadam"])
def test_a_restored_step_goes_on_as_if_it_had_never_stopped(tmp_path, kind):
    private, optimizer = plan(noise=1.0, rounds=9), ServerOptimizer(kind=kind)
    rng = np.random.default_rng(0)
    totals = [{"table": rng.normal(size=(9, 2))} for _ in range(6)]
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        budget = Budget(1e6, private.delta, ledger)

        def steps(step, numbers):
            for number in numbers:
                paid = budget.reserve(private, "run", number, "seeded")
                step.step(totals[number], paid, SeededEntropy(0).generator("noise", number))

        straight = PrivateStep({"table": torch.zeros(9, 2)}, optimizer, private, "run")
        steps(straight, range(6))
        first = PrivateStep({"table": torch.zeros(9, 2)}, optimizer, private, "run")
        steps(first, range(3))
        facts = checkpoint.Facts(
            run_id="run", round=3, plan_hash="p", schema_digest="s", ledger_length=1, ledger_hash="0" * 64
        )
        checkpoint.write(tmp_path / "checkpoints", first.state(), facts)
        kept = checkpoint.newest(tmp_path / "checkpoints")
        assert (kept.facts, kept.problems) == (facts, ())
        second = PrivateStep({"table": torch.ones(9, 2)}, optimizer, private, "run")
        second.restore(kept.state)
        steps(second, range(3, 6))
    torch.testing.assert_close(second.parameters, straight.parameters, rtol=0, atol=0)
    torch.testing.assert_close(second.averaged, straight.averaged, rtol=0, atol=0)


def test_a_checkpoint_of_another_server_optimizer_is_refused_before_anything_is_paid():
    private = plan(noise=1.0)
    kinds = ("fedavg", "momentum", "fedadam")
    steps = {
        kind: PrivateStep({"table": torch.zeros(9, 2)}, ServerOptimizer(kind=kind), private, "run") for kind in kinds
    }
    for one in kinds:
        for other in kinds:
            if one == other:
                steps[one].restore(steps[other].state())
            else:
                with pytest.raises(CheckpointError, match=one):
                    steps[one].restore(steps[other].state())


def test_a_reply_that_is_sent_again_in_the_next_round_counts_once(tmp_path):
    """Whoever kept a genuine reply, its node included, gets it counted in its own round and in no other."""
    kept = []

    def again(reply):
        kept.append(reply_record(reply))
        return kept[0]

    with Run(tmp_path, Nodes({1: again}), plan(rounds=3)) as run:
        run.go()
        np.testing.assert_allclose(run.counted(), [1.0] * 3 + [3.0] * 5, atol=1e-5)
        assert [record.answered for record in run.records] == [8, 5, 5]
        assert all("asked was" in record.dropped[0] for record in run.records[1:])


class Unreadable(InProcessGrid):
    """As Flower's grid does with bytes that are no message: it raises, and what it had fetched is gone."""

    def __init__(self, nodes, node, error):
        super().__init__(nodes, len(SIZES))
        self.node, self.error = node, error

    def pull_messages(self, message_ids):
        found = list(super().pull_messages(message_ids))
        if any(one.metadata.src_node_id == self.node and one.metadata.message_type == "train" for one in found):
            raise self.error
        return found


@pytest.mark.parametrize("error", [ValueError("no JSON"), KeyError("Massage"), RecursionError()], ids=repr)
def test_a_reply_whose_bytes_are_no_message_is_left_out_and_the_others_count(tmp_path, error):
    with Run(tmp_path, Nodes(), plan(rounds=2)) as run:
        coordinator = replace(run.coordinator, grid=Unreadable(Nodes(), 1, error))
        assert coordinator.run(0, run.records.append) is None
        np.testing.assert_allclose(run.counted(), [0.0] * 3 + [2.0] * 5, atol=1e-5)
        assert [record.answered for record in run.records] == [5, 5]


def test_a_superlink_that_refuses_ends_the_run_and_counts_nobody_as_silent(tmp_path):
    with Run(tmp_path, Nodes(), plan(rounds=2)) as run:
        coordinator = replace(run.coordinator, grid=Unreadable(Nodes(), 1, httpx.HTTPError("403")))
        with pytest.raises(httpx.HTTPError):
            coordinator.run(0, run.records.append)
        assert not run.records
