"""A module of one's own goes the whole way: trained, interrupted, resumed, judged; and refused where it cannot go."""

import re
import tomllib

import pytest
import torch
from torch import nn

from sottovoce.client.own_model import OwnModel
from sottovoce.privacy.errors import CheckpointError, ConfigError
from sottovoce.simulations.cli import run
from sottovoce.simulations.experiment import compose
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.loading import load
from sottovoce.simulations.own_run import own_run
from sottovoce.simulations.run import measure, trained

SETTINGS = [
    ("data.devices", 120),
    ("data.rows_per_device", 8),
    ("rounds", 4),
    ("evaluate_every", 2),
    ("privacy.delta", 1e-3),
    ("privacy.sampling", "none"),  # its noise is found at once
    ("privacy.noise", "seeded"),
]
LOUD = [("privacy.noise", "none"), ("privacy.epsilon", "inf"), ("measure.clip", 1)]
"""Without noise, and with a measurement."""

FILE = """
import torch
from torch import nn
from sottovoce.client.own_model import OwnModel

class Linear(nn.Module):
    def __init__(self, schema, width=1):
        super().__init__()
        self.table = nn.Embedding(schema.rows, len(schema.heads), padding_idx=0)
        self.more = nn.Linear(width, len(schema.heads))
        self.width = width

    def forward(self, batch):
        past = batch.visible.sum(-1, keepdim=True).log1p().expand(-1, self.width)
        return self.table(torch.cat([batch.context, batch.ad], -1)).sum(-2) + self.more(past)

def linear(schema):
    return Linear(schema)

def wide(schema):
    return Linear(schema, 3)

def squared(schema):
    return OwnModel(Linear(schema), schema, losses=lambda z, y: (torch.sigmoid(z) - y).square().sum(-1))

def broken(schema):
    return nn.Linear(schema.price, 1)

def nothing(schema):
    return None

normed = lambda schema: nn.Sequential(Linear(schema), nn.BatchNorm1d(2))
"""


def experiment(*changes):
    return compose(None, [*SETTINGS, *changes])


@pytest.fixture(scope="module")
def dataset():
    return load(experiment().data, None, None)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("module") / "linear.py"
    path.write_text(FILE)
    return path


class Linear(nn.Module):
    """Scores that add up over ids; the padding row would show if noise reached it."""

    def __init__(self, schema, width=2):
        super().__init__()
        self.table = nn.Embedding(schema.rows, width, padding_idx=0)
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.zeros_(self.table.weight)

    def forward(self, batch):
        return (self.table(torch.cat([batch.context, batch.ad], -1)).sum(-2) + self.bias)[:, :2]


@pytest.fixture(scope="module")
def straight(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "run"
    return path, own_run(Linear(dataset.schema), dataset, experiment(), path)


def test_what_comes_back_is_what_lies_in_the_folder_and_fits_the_module(straight, dataset):
    path, done = straight
    module = Linear(dataset.schema)
    module.load_state_dict(done.trained.parameters)
    assert not done.trained.parameters["table.weight"][0].any()
    assert done.trained.parameters["table.weight"][1:].any(1).all()
    folder = RunFolder(path)
    own = OwnModel(module, dataset.schema)
    assert done.results.metrics == measure(experiment(), dataset, own.initial(dataset.schema, 0), own)
    assert done.results.audit.rounds == 4
    assert (done.results.release, done.results.baselines) == (None, {})
    assert any("trains Linear, a module of its user's own" in note for note in done.results.notes)
    assert folder.module().name == "Linear"
    assert "Linear" in folder.report_file.read_text()
    assert [point.record.round for point in folder.points() if point.metrics] == [2, 4]
    assert "module" not in tomllib.loads(folder.experiment_file.read_text())


def test_an_interrupted_run_continues_to_the_same_weights_whatever_the_nodes(straight, dataset, tmp_path):
    one = experiment(("nodes", 1))

    def stop(point):
        if point.record.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        own_run(Linear(dataset.schema), dataset, one, tmp_path / "run", on_point=stop)
    again = own_run(Linear(dataset.schema), dataset, one, tmp_path / "run")
    for name, value in straight[1].trained.parameters.items():
        torch.testing.assert_close(again.trained.parameters[name], value, atol=1e-4, rtol=0)


def test_another_module_another_experiment_or_none_is_refused(straight, dataset, tmp_path):
    path, _ = straight
    with pytest.raises(ConfigError, match=r"trains Linear with .* weights, digest .*; given is Linear with"):
        own_run(Linear(dataset.schema, width=3), dataset, experiment(), path)
    with pytest.raises(ConfigError, match="another experiment"):
        own_run(Linear(dataset.schema), dataset, experiment(("rounds", 5)), path)
    with pytest.raises(ConfigError, match="whose code is not in the folder"):
        trained(experiment(), dataset, RunFolder(path))
    private = experiment(("local.record.epsilon", 5.0))
    with pytest.raises(ConfigError, match=r"local\.record is not available"):
        own_run(Linear(dataset.schema), dataset, private, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    # Even if somebody removes the note, the checkpoint itself does not fit.
    (path / "module.json").rename(tmp_path / "module.json")
    try:
        with pytest.raises(CheckpointError, match="does not fit this model"):
            trained(experiment(), dataset, RunFolder(path))
    finally:
        (tmp_path / "module.json").rename(path / "module.json")


def test_the_command_line_trains_judges_and_measures_it_and_releases_it_not(file, tmp_path, capsys):
    out, linear = str(tmp_path / "run"), ["--module", f"{file}:linear"]
    settings = [f"--set={key}={value}" for key, value in [*SETTINGS, *LOUD]]

    def call(*arguments):
        code = run(list(arguments))
        told = capsys.readouterr()
        return code, told.out + told.err

    code, told = call("simulate", *settings, "--no-baselines", *linear, "--out", out)
    assert code == 0, told
    assert "Linear, a module of your own, in place of the ranker" in told
    assert call("evaluate", out, *linear)[0] == 0
    assert call("measure", out, "clip", *linear)[0] == 0
    assert call("simulate", "--resume", out, "--no-baselines", *linear)[0] == 0
    for command in (["evaluate", out], ["measure", out, "clip"], ["simulate", "--resume", out]):
        code, told = call(*command)
        assert code == 1
        assert "--module FILE.py:FACTORY" in told
    code, told = call("simulate", "--resume", out, "--module", f"{file}:wide")
    assert code == 1
    assert "same shapes" in told
    code, told = call("release", out)
    assert code == 1
    assert "only the built-in ranker can be exported" in told
    assert not (tmp_path / "run" / "bundle.svb").exists()


@pytest.mark.parametrize(
    ("module", "why"),
    {
        "linear.py": "not FILE.py:FACTORY",
        "linear:linear": "not FILE.py:FACTORY",
        "absent.py:linear": "no such file",
        "linear.py:absent": "has no function 'absent'",
        "linear.py:nothing": "returned a NoneType",
        "linear.py:broken": r"AttributeError: .*price.*\(linear.py, line \d+\)",
        "linear.py:normed": "BatchNorm1d: it mixes the rows",
        "typo.py:linear": r"SyntaxError: .*\(typo.py, line 1\)$",
    }.items(),
)
def test_what_cannot_be_loaded_is_refused_in_two_lines_before_anything_is_made(
    file, tmp_path, monkeypatch, capsys, module, why
):
    monkeypatch.chdir(file.parent)
    (file.parent / "typo.py").write_text("def linear(schema) return 1")
    arguments = ["simulate", "--devices", "20", "--delta", "1e-2", "--out", str(tmp_path / "run"), "--module", module]
    assert run(arguments) == 1
    told = capsys.readouterr().err
    assert re.search(why, told, re.M)
    assert told.count("\n") == 2
    assert not (tmp_path / "run").exists()


def test_a_factory_may_bring_its_own_loss_and_the_seed_of_the_experiment_draws_its_weights(file, dataset):
    from sottovoce.simulations.module_file import load_module

    state = torch.random.get_rng_state()
    first, same, other = (load_module(f"{file}:squared", dataset.schema, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [one.initial(dataset.schema, 0)["more.weight"] for one in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert load_module(None, dataset.schema, 0) is None
