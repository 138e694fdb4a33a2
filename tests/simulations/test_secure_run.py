"""A run by secure sums ends with the weights of the same whole numbers added up in clear, whoever drops out."""

import numpy as np
import pytest
import torch
from flwr.app import Error, Message

from sottovoce.client.secure_messages import KEYS, MASKED, UNMASK, Masked, Session, read
from sottovoce.client.training import summed_update
from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.masks import centred, unpack
from sottovoce.server import round as round_module
from sottovoce.server.secure_collect import Collected
from sottovoce.server.secure_session import open_session
from sottovoce.simulations.experiment import compose
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.loading import load, partition
from sottovoce.simulations.run import nodes, train

SETTINGS = [
    ("data.devices", 60),
    ("data.rows_per_device", 8),
    ("rounds", 2),
    ("nodes", 4),
    ("evaluate_every", 2),
    ("privacy.delta", 1e-3),
    ("privacy.sampling", "none"),
    ("privacy.noise", "seeded"),
    ("privacy.mechanism", "discrete_gaussian"),
    ("privacy.secure_aggregation", True),
    ("model.embedding_width", 4),
    ("model.tower_width", 4),
    ("model.hidden_width", 8),
]


def experiment(*changes):
    return compose(None, [*SETTINGS, *changes])


@pytest.fixture(scope="module")
def dataset():
    return load(experiment().data, None, None)


class Faulty:
    """The nodes, of which some are silent from a question on; keeps what was said."""

    def __init__(self, app, lost=None):
        self.app, self.lost, self.said = app, lost or {}, []

    def __call__(self, message, context):
        kind, node = message.metadata.message_type, context.node_id
        steps = (KEYS, "train.secure_shares", MASKED, UNMASK)
        when = self.lost.get(node)
        if when and kind in steps and steps.index(kind) >= steps.index(when):
            return Message(Error(2, "gone"), reply_to=message)
        answer = self.app(message, context)
        self.said.append((kind, node, message.content, answer.content))
        return answer


def go(path, dataset, chosen, lost=None):
    folder, points = RunFolder(path), []
    folder.create(chosen)
    app = Faulty(nodes(chosen, dataset), lost)
    model = train(InProcessGrid(app, chosen.nodes), chosen, dataset, folder, points.append)
    return model, points, app


def in_clear(chosen, dataset):
    """Collects the same whole numbers without a key, a mask or a message."""

    def collect(secure, wire, plan, population, asked):
        total, devices = 0, 0
        for place, node in enumerate(population.nodes):
            one, share = asked[node], partition(dataset.train, place, chosen.nodes)
            size = sum(value.size for value in one.parameters.values())
            session = open_session(
                plan,
                "r",
                1,
                population.orders,
                size,
                bytes(32),
                dropout=secure.dropout,
                collusion=0.0,
                phones=False,
                random=bytes,
            )
            update = summed_update(
                {name: torch.from_numpy(value) for name, value in one.parameters.items()},
                share,
                dataset.schema,
                chosen.model,
                one.training,
                one.clip_norm,
                one.devices,
            ).total
            flat = np.concatenate([update[name].ravel() for name in sorted(update)])
            entropy = SeededEntropy(chosen.seed)
            sources = [entropy.generator(f"secure {what} {place}", one.round) for what in ("rounding", "noise")]
            total = total + session.encoding().encode(flat, *sources, len(one.devices))
            devices += len(one.devices)
        decoded, found, start = session.encoding().decode(total), {}, 0
        for name in sorted(one.parameters):
            shape = one.parameters[name].shape
            found[name] = decoded[start : start + int(np.prod(shape))].reshape(shape)
            start += int(np.prod(shape))
        return Collected(found, devices, [])

    return collect


def test_the_weights_are_those_of_the_whole_numbers_added_up_in_clear_exactly(tmp_path, dataset, monkeypatch):
    model, points, app = go(tmp_path / "secure", dataset, experiment())
    assert [point.record.answered for point in points] == [point.record.cohort for point in points]
    # No node ever sent anything in clear, and what two of them sent in the same round has nothing in common.
    assert {kind for kind, *_ in app.said if kind.startswith("train")} == {KEYS, "train.secure_shares", MASKED, UNMASK}
    session = next(read(asked, Session) for kind, _, asked, _ in app.said if kind == KEYS)
    vectors = [read(said, Masked).vector for kind, _, _, said in app.said if kind == MASKED]
    bits = session.encoding().bits
    spread = [centred(unpack(vector, session.size, bits), bits).std() / 2**bits for vector in vectors]
    assert min(spread) > 0.27  # 1 / sqrt(12) = 0.289 for uniform numbers; a vector in clear has below 0.1
    monkeypatch.setattr(round_module, "collect_securely", in_clear(experiment(), dataset))
    clear, _, quiet = go(tmp_path / "clear", dataset, experiment())
    assert not any(kind.startswith("train") for kind, *_ in quiet.said)
    assert all(torch.equal(model.parameters[name], clear.parameters[name]) for name in clear.parameters)


def test_a_lost_node_is_left_out_and_the_round_closes(tmp_path, dataset):
    _, points, _ = go(tmp_path / "run", dataset, experiment(), {2: MASKED})
    assert [point.record.dropped for point in points] == [(), ()]
    assert all(0 < point.record.answered < point.record.cohort for point in points)


def test_too_many_lost_nodes_make_a_round_that_nobody_answered_with_the_coordinators_own_noise(tmp_path, dataset):
    model, points, app = go(tmp_path / "run", dataset, experiment(), {2: MASKED, 3: MASKED})
    assert all(point.record.answered == 0 for point in points)
    assert all("2 of 4 nodes are left" in point.record.dropped[0] for point in points)
    assert not any(kind == UNMASK for kind, *_ in app.said)
    quiet, *_ = go(tmp_path / "quiet", dataset, experiment(), dict.fromkeys((1, 2, 3, 4), KEYS))
    assert all(torch.equal(model.parameters[name], quiet.parameters[name]) for name in quiet.parameters)


def test_every_phone_takes_part_drawn_or_not_so_that_none_learns_who_was_drawn(tmp_path):
    sampled = [("privacy.sampling", "poisson"), ("privacy.sampling_rate", 0.5), ("privacy.cohorts", "visible")]
    exact = [("privacy.noise", "none"), ("privacy.epsilon", float("inf"))]
    chosen = experiment(("data.devices", 30), ("nodes", 30), ("rounds", 1), *sampled, *exact)
    phones = load(chosen.data, None, None)
    _, points, app = go(tmp_path / "run", phones, chosen)
    told = [read(asked, Session) for kind, _, asked, _ in app.said if kind == KEYS]
    assert all(one.phones and len(one.ring) == 30 and one.neighbours == 29 for one in told)
    assert 0 < points[0].record.cohort < 30
    assert points[0].record.answered == points[0].record.cohort
    assert sum(kind == MASKED for kind, *_ in app.said) == 30


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("nodes", 2), "nodes = 3"),
        (("privacy.mechanism", "gaussian"), "discrete_gaussian"),
        (("privacy.dropout", 0.5), "dropout"),
        (("privacy.collusion", 0.4), "collusion = 0.4"),
        (("privacy.sampling", "poisson"), "cohorts = 'visible'"),
        (("measure.popularity", 1), "no measurements"),
    ],
)
def test_settings_that_cannot_hide_anybody_are_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        experiment(change)


EXACT = (("privacy.noise", "none"), ("privacy.epsilon", float("inf")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([("collect.goal", 20)], r"collect\.goal = 20 with secure aggregation"),
        ([("robust.rule", "median"), *EXACT], "nobody sees single updates"),
    ],
)
def test_a_run_that_secure_sums_do_not_fit_is_refused_before_anything_is_paid_for(tmp_path, dataset, changes, said):
    with pytest.raises(ConfigError, match=said):
        go(tmp_path / "run", dataset, experiment(*changes))
    with Ledger.open(RunFolder(tmp_path / "run").ledger, readonly=True) as ledger:
        assert not ledger.book().spent


def test_a_failed_sum_is_skipped_where_a_minimum_is_asked_for(tmp_path, dataset):
    chosen = experiment(("collect.minimum", 1), ("rounds", 1))
    model, points, _ = go(tmp_path / "run", dataset, chosen, {2: MASKED, 3: MASKED})
    assert [point.record.skipped for point in points] == [True]
    fresh = chosen.model.initial(dataset.schema, chosen.seed)
    assert all(torch.equal(model.parameters[name], fresh[name]) for name in fresh)
