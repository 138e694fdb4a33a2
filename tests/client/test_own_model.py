"""A module of one's own is trained as it would be alone, by plain torch; and what cannot be is refused beforehand."""

import copy
import threading
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from small_records import CONFIG, SCHEMA, examples, gap, norm, parameters
from torch import nn

from sottovoce.client.fleet import LocalTraining, fleet_update, update_norms
from sottovoce.client.own_model import OwnModel
from sottovoce.client.scoring import score
from sottovoce.models.batch import Batch, interest
from sottovoce.models.ranker import RankerConfig, logits, losses
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.record import RecordTarget

RAGGED = [7, 1, 0, 12, 1, 9, 3]
TRAINING = LocalTraining(steps=2, learning_rate=0.3, max_rows=5)


class WrappedRanker(nn.Module):
    """The ranker as somebody's module."""

    def __init__(self, values):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(values["table"], freeze=False, padding_idx=0)
        self.rest = nn.ParameterDict({key(name): value for name, value in values.items() if name != "table"})
        self.names = [name for name in values if name != "table"]

    def forward(self, batch):
        values = {"table": self.table.weight} | {name: self.rest[key(name)] for name in self.names}
        return logits(values, batch, interest(batch, SCHEMA.outcome_row("click")), CONFIG)


def key(name):
    return name.replace(".", "_")


def unwrapped(values):
    return {name: values["table.weight" if name == "table" else f"rest.{key(name)}"] for name in parameters()}


class Attending(nn.Module):
    """Two towers with attention to the past, a norm, a number without axes, and an embedding that is no table."""

    def __init__(self, seed=1):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(SCHEMA.rows, 6, padding_idx=0)
            self.outcome = nn.Embedding(4, 6)
            self.user = nn.Linear(2 * 6, 6)
            self.norm = nn.LayerNorm(6)
            self.head = nn.Linear(12, 2)
            self.scale = nn.Parameter(torch.tensor(0.5))
            self.register_buffer("first", torch.tensor(SCHEMA.outcome_row("seen")))

    def forward(self, batch):
        user = torch.tanh(self.user(self.embedding(batch.context).flatten(-2)))
        ad = self.embedding(batch.ad).sum(-2)
        kind = torch.where(batch.outcomes > 0, batch.outcomes - self.first + 1, 0)
        past = self.embedding(batch.events).sum(-2) + self.outcome(kind)
        weight = torch.sigmoid(ad @ past.transpose(-1, -2) * self.scale) * batch.visible
        return self.head(torch.cat([self.norm(ad + weight @ past), user], -1))


def alone(module, rows, device, training):
    """Update of one device: its rows without padding, ordinary modules, ordinary autograd; zeros without rows."""
    model = copy.deepcopy(module)
    begin, end = int(rows.offsets[device]), int(rows.offsets[device + 1])
    count, trained = end - begin, min(training.max_rows, end - begin)
    if count:
        ad = torch.from_numpy(rows.catalogue[rows.ad[begin:end]].astype(np.int64))
        labels = torch.from_numpy(rows.labels[begin:end].astype(np.float32))
        told = np.repeat(rows.device[device][None], count, 0)
        context = torch.from_numpy(np.concatenate([told, rows.context[begin:end]], 1).astype(np.int64))
        outcomes = SCHEMA.outcome_row("seen") + labels.sum(1).long()
        near = [[float(0 < i - e <= SCHEMA.history_length) for e in range(count)] for i in range(count)]
        batch = Batch(context, ad, ad[:, : len(SCHEMA.history)], outcomes, torch.tensor(near))
        shown = torch.cat([context, ad], 1)[-trained:].flatten()
        share = torch.bincount(shown, minlength=SCHEMA.rows) / trained
        share[SCHEMA.outcome_row("seen") :] = 1
        share = share.clamp(1 / trained, 1)
        for _ in range(training.steps):
            model.zero_grad()
            losses(model(batch), labels)[-trained:].mean().backward()
            with torch.no_grad():
                for weight in model.parameters():
                    table = len(weight.shape) and len(weight) == SCHEMA.rows
                    weight -= training.learning_rate * (weight.grad / share[:, None] if table else weight.grad)
    before = dict(module.named_parameters())
    return {name: (value - before[name]).detach().double().numpy() for name, value in model.named_parameters()}


def with_repeated_ids(rows):
    """Every second page is also the topic of its ad, so that a row reads one table row twice."""
    page = rows.context.copy()
    page[::2, 0] = rows.catalogue[rows.ad[::2], 1]
    return replace(rows, context=page)


def test_ten_rounds_end_where_a_plain_loop_over_the_devices_ends():
    rows, devices = with_repeated_ids(examples(RAGGED)), [0, 1, 2, 3, 3, 4, 5, 6]  # one asked twice
    slow = Attending()
    own = OwnModel(slow, SCHEMA)
    fast, clipped = own.initial(SCHEMA, 0), 0
    for _ in range(10):
        update = own.update(fast, rows, TRAINING, 0.5, np.array(devices), chunk_rows=24)
        fast = {name: value + torch.from_numpy(update.total[name]).float() / 4 for name, value in fast.items()}
        clipped += update.clipped
        total = {name: np.zeros(value.shape) for name, value in fast.items()}
        for device in devices:
            mine = alone(slow, rows, device, TRAINING)
            for name, value in mine.items():
                total[name] += value * min(1.0, 0.5 / max(norm(mine), 1e-30))
        with torch.no_grad():
            for name, value in slow.named_parameters():
                value += torch.from_numpy(total[name]).float() / 4
    for name, value in slow.named_parameters():
        torch.testing.assert_close(fast[name], value, atol=1e-5, rtol=0)
    assert 5 <= clipped <= 65
    assert fast["scale"] != 0.5
    assert not fast["embedding.weight"][0].any()


def test_the_ranker_as_a_module_learns_what_it_learns_in_its_own_fleet():
    values, rows, devices = parameters(), examples(RAGGED), np.arange(7)
    own = OwnModel(WrappedRanker(values), SCHEMA)
    given = own.initial(SCHEMA, 0)
    here = own.update(given, rows, TRAINING, 0.7, devices)
    there = fleet_update(values, rows, SCHEMA, CONFIG, TRAINING, 0.7, devices)
    assert gap(there.total, unwrapped(here.total)) <= 1e-5
    assert here.clipped == there.clipped > 0
    np.testing.assert_allclose(
        own.norms(given, rows, TRAINING, devices),
        update_norms(values, rows, SCHEMA, CONFIG, TRAINING, devices),
        rtol=1e-5,
    )
    later = examples([2, 0, 3, 1, 4, 2, 1], seed=5)
    later = replace(later, device=rows.device)
    np.testing.assert_allclose(
        score(given, SCHEMA, own, rows, later), score(values, SCHEMA, CONFIG, rows, later), atol=1e-6
    )


def test_how_devices_are_grouped_makes_no_difference(monkeypatch):
    own, rows = OwnModel(Attending(), SCHEMA), examples(RAGGED)
    given = own.initial(SCHEMA, 0)
    whole = own.update(given, rows, TRAINING, 1.0, np.arange(7)).total
    monkeypatch.setattr("sottovoce.client.own_model.MOST_VALUES", 1)
    assert gap(whole, own.update(given, rows, TRAINING, 1.0, np.arange(7)).total) <= 1e-6


def test_each_device_is_bounded_and_one_that_diverges_counts_as_zero():
    own, rows = OwnModel(Attending(), SCHEMA), examples([6, 4, 0])
    given = own.initial(SCHEMA, 0)
    wild = LocalTraining(steps=2, learning_rate=1e6, max_rows=5)
    for device in range(2):
        assert 0 < norm(own.update(given, rows, wild, 0.3, np.array([device])).total) <= 0.3 * (1 + 1e-6)
    assert norm(own.update(given, rows, wild, 0.3, np.array([2])).total) == 0
    # An ad that only the first device saw, with weights so large that its update overflows.
    free = next(row for row in range(SCHEMA.offsets["ad"], SCHEMA.rows) if row not in rows.catalogue)
    shown = np.array([5, *rows.ad[1:]], np.int32)
    mine = replace(rows, ad=shown, catalogue=np.vstack([rows.catalogue, [[free, 0, 0]]]).astype(np.int32))
    given["embedding.weight"][free] = 3e38
    healthy = own.update(given, mine, TRAINING, 0.3, np.array([1])).total
    assert 0 < norm(healthy) <= 0.3 * (1 + 1e-6)
    assert gap(healthy, own.update(given, mine, TRAINING, 0.3, np.array([0, 1])).total) <= 1e-6
    assert own.norms(given, mine, TRAINING, np.array([0, 1, 2])).tolist()[2] == 0


def test_nodes_that_train_at_the_same_time_do_not_meet_in_the_module():
    own, rows = OwnModel(Attending(), SCHEMA), examples(RAGGED)
    given = [own.initial(SCHEMA, 0), {name: value + 0.1 for name, value in own.initial(SCHEMA, 0).items()}]
    expected = [own.update(values, rows, TRAINING, 1.0, np.arange(7)).total for values in given]
    worst = [0.0, 0.0]

    def train(node):
        for _ in range(12):
            total = own.update(given[node], rows, TRAINING, 1.0, np.arange(7)).total
            worst[node] = max(worst[node], gap(total, expected[node]))

    threads = [threading.Thread(target=train, args=(node,)) for node in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(worst) <= 1e-7


def test_the_module_that_was_given_stays_as_it_is_and_later_changes_to_it_make_no_difference():
    module = Attending()
    before = copy.deepcopy(module.state_dict())
    own = OwnModel(module, SCHEMA)
    own.update(own.initial(SCHEMA, 0), examples([5]), TRAINING, 1.0, np.array([0]))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    digest = own.digest()
    with torch.no_grad():
        module.scale += 1
    assert own.initial(SCHEMA, 0)["scale"] == 0.5
    assert digest == own.digest() == OwnModel(Attending(seed=2), SCHEMA).digest()  # shapes and buffers, no weights
    with pytest.raises(ConfigError, match="another schema"):
        own.shapes(msgspec.structs.replace(SCHEMA, history_length=5))


def test_local_training_that_only_the_ranker_knows_is_refused():
    own, rows = OwnModel(Attending(), SCHEMA), examples([5])
    private = msgspec.structs.replace(TRAINING, record=RecordTarget())
    with pytest.raises(ConfigError, match=r"local\.record is not available"):
        own.update(own.initial(SCHEMA, 0), rows, private, 1.0, np.array([0]))


class Plain(nn.Module):
    """A sound module, for others to spoil: `extra` layers, and `spoil(self, batch, logits)`."""

    def __init__(self, spoil=None, heads=2, **extra):
        super().__init__()
        self.embedding = nn.Embedding(SCHEMA.rows, 4, padding_idx=0)
        self.head = nn.Linear(4, heads)
        self.spoil = spoil
        for name, layer in extra.items():
            setattr(self, name, layer)
        self.register_buffer("calls", torch.zeros(()))
        self.seen = 0

    def forward(self, batch):
        out = self.head(torch.cat([self.embedding(batch.context), self.embedding(batch.ad)], -2).sum(-2))
        return self.spoil(self, batch, out) if self.spoil else out


def remembers(module, batch, out):
    module.seen += 1
    return out * module.seen


def counts(module, batch, out):
    module.calls += 1
    return out


def peeks(module, batch, out):
    """Row i reads event i, which is row i: its own outcome."""
    return (
        out
        + (batch.visible @ module.embedding(batch.outcomes)).sum(-1, keepdim=True)
        + (module.embedding(batch.outcomes).mean() * 10)
    )


def frozen():
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad = False
    return layer


SPOILT = {
    "batch norm": (lambda: Plain(norm=nn.BatchNorm1d(4)), "BatchNorm1d: it mixes the rows"),
    "running statistics": (lambda: Plain(norm=nn.InstanceNorm1d(4, track_running_stats=True)), "running statistics"),
    "dropout": (lambda: Plain(drop=nn.Dropout(0.1)), "Dropout with dropout: its random numbers"),
    "dropout between layers": (lambda: Plain(past=nn.GRU(4, 4, num_layers=2, dropout=0.2)), "GRU with dropout"),
    "random numbers": (
        lambda: Plain(lambda m, b, out: nn.functional.dropout(out, 0.5)),
        "differently when asked twice",
    ),
    "a memory": (lambda: Plain(remembers), "draws random numbers or remembers"),
    "a counter": (lambda: Plain(counts), "changes its buffer 'calls'"),
    "company": (lambda: Plain(lambda m, b, out: out - out.mean(0)), "changes with other rows"),
    "peeking": (lambda: Plain(peeks), "its own outcome among them"),
    "a question to python": (lambda: Plain(lambda m, b, out: out if out.sum().item() else -out), r"vmap.*\.item\(\)"),
    "no number for padding": (
        lambda: Plain(lambda m, b, out: out + m.embedding(b.ad[:, :1]).norm(dim=-1).log()),
        "when rows of padding are added",
    ),
    "another shape": (lambda: Plain(heads=3), r"float32 \[6, 3\] for 6 rows, not float32 \[6, 2\]"),
    "no tensor": (lambda: Plain(lambda m, b, out: [out]), "returns list"),
    "not a number": (lambda: Plain(lambda m, b, out: out / 0.0 * 0.0), "NaN or infinity for ordinary rows"),
    "an error": (lambda: Plain(lambda m, b, out: out + b.price), "AttributeError: .*price"),
    "double precision": (lambda: Plain(more=nn.Linear(2, 2).double()), "float64"),
    "a frozen weight": (lambda: Plain(more=frozen()), "'more.weight' is frozen"),
    "a lazy layer": (lambda: Plain(more=nn.LazyLinear(2)), "no shape yet"),
    "another padding row": (lambda: Plain(more=nn.Embedding(9, 2, padding_idx=3)), "padding_idx=3"),
    "a renormalised embedding": (lambda: Plain(more=nn.Embedding(9, 2, max_norm=1.0)), "write in place"),
    "nothing to learn": (lambda: nn.Identity(), "no parameters"),
}


@pytest.mark.parametrize(("make", "why"), SPOILT.values(), ids=SPOILT)
def test_a_module_that_a_fleet_would_train_otherwise_is_refused_with_the_reason(make, why):
    OwnModel(Plain(), SCHEMA)
    with pytest.raises(ConfigError, match=f"(?s){why}") as refused:
        OwnModel(make(), SCHEMA)
    assert refused.value.todo


class Counting(Plain):
    """Insists on one context and one line of visible events for each ad."""

    def forward(self, batch):
        rows, events = len(batch.ad), len(batch.events)
        if (len(batch.context), batch.visible.shape, len(batch.outcomes)) != (rows, (rows, events), events):
            raise ValueError("not row by row")
        return super().forward(batch)


@pytest.mark.parametrize("moments", [True, False], ids=["page features", "no page features"])
def test_a_module_sees_one_context_for_each_row_in_training_and_in_scoring(moments):
    schema, rows, later = SCHEMA, examples([5, 2]), examples([3, 4], seed=2)
    if not moments:
        kind, page, *ads = SCHEMA.features
        schema = msgspec.structs.replace(SCHEMA, features=(kind, msgspec.structs.replace(page, source="device"), *ads))
        told = np.concatenate([rows.device, [[schema.offsets["page"]]] * 2], 1).astype(np.int32)
        rows, later = (replace(one, device=told, context=one.context[:, :0]) for one in (rows, later))
    own = OwnModel(Counting(), schema)
    given = own.initial(schema, 0)
    assert norm(own.update(given, rows, TRAINING, 1.0, np.array([0, 1])).total) > 0
    assert score(given, schema, own, rows, later).shape == (7, 2)


def test_a_loss_of_its_own_is_used_and_must_tell_rows_apart():
    values, rows = Plain(), examples([5])

    def squared(scores, labels):
        return (torch.sigmoid(scores) - labels).square().sum(-1)

    own, usual = OwnModel(values, SCHEMA, losses=squared), OwnModel(values, SCHEMA)
    given = own.initial(SCHEMA, 0)
    mine, theirs = (one.update(given, rows, TRAINING, 9.0, np.array([0])).total for one in (own, usual))
    assert gap(mine, theirs) > 1e-3
    with pytest.raises(ConfigError, match=r"loss has shape \[\] for 6 rows"):
        OwnModel(values, SCHEMA, losses=lambda scores, labels: squared(scores, labels).mean())


def test_the_ranker_answers_to_the_same_questions_as_a_module():
    config = RankerConfig(embedding_width=3)
    assert config.padding == ("table",)
    assert {name: tuple(value.shape) for name, value in config.initial(SCHEMA, 0).items()} == config.shapes(SCHEMA)
