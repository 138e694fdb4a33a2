import msgspec
import pytest

from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations.experiment import DEFAULTS, Experiment, compose, parse_override

REFUSED = {
    "unknown key": ("roundz = 3", "roundz"),
    "unknown key in a section": ("[privacy]\nepsilonn = 3", "epsilonn"),
    "text for a number": ("rounds = 'many'", "rounds"),
    "fraction for a count": ("rounds = 1.5", "rounds"),
    "truth for a count": ("rounds = true", "rounds"),
    "no rounds": ("rounds = 0", "rounds"),
    "rounds without end": ("rounds = 1000000000000000000", "rounds"),
    "rounds beyond 64 bits": ("rounds = 99999999999999999999999", "rounds"),
    "negative seed": ("seed = -1", "seed"),
    "seed beyond 64 bits": ("seed = 99999999999999999999999", "seed"),
    "negative data seed": ("[data]\nseed = -1", "data.seed"),
    "no nodes": ("nodes = 0", "nodes"),
    "a node a thread a million times": ("nodes = 1000000", "nodes"),
    "unknown data set": ("[data]\nname = 'zzz'", "data.name"),
    "data set that is a number": ("[data]\nname = 3", "data.name"),
    "data that is a number": ("data = 3", "data"),
    "one row a device": ("[data]\nrows_per_device = 1", "rows_per_device"),
    "rows beyond memory": ("[data]\nrows_per_device = 100000000000", "rows_per_device"),
    "epsilon 0": ("[privacy]\nepsilon = 0", "epsilon = 0"),
    "epsilon below 0": ("[privacy]\nepsilon = -1.0", "epsilon = -1"),
    "epsilon NaN": ("[privacy]\nepsilon = nan", "epsilon = nan"),
    "epsilon infinite with noise": ("[privacy]\nepsilon = inf", "go together"),
    "no noise with a finite epsilon": ("[privacy]\nnoise = 'none'", "go together"),
    "delta 0": ("[privacy]\ndelta = 0", "delta = 0"),
    "delta 1": ("[privacy]\ndelta = 1", "delta = 1"),
    "delta NaN": ("[privacy]\ndelta = nan", "delta = nan"),
    "delta below what accountants resolve": ("[privacy]\ndelta = 1e-300", "delta = 1e-300"),
    "clip norm 0": ("[privacy]\nclip_norm = 0", "clip_norm"),
    "clip norm infinite": ("[privacy]\nclip_norm = inf", "clip_norm"),
    "clip norm beyond float32": ("[privacy]\nclip_norm = 1e300", "clip_norm"),
    "sampling rate above 1": ("[privacy]\nsampling_rate = 1.1", "sampling_rate"),
    "sampling rate NaN": ("[privacy]\nsampling_rate = nan", "sampling_rate"),
    "no local steps": ("[local]\nsteps = 0", "local"),
    "server rate NaN": ("[server]\nlearning_rate = nan", "server"),
    "server decay 1": ("[server]\nmomentum = 1", "server"),
    "unknown optimizer": ("[server]\nkind = 'sgd'", "server.kind"),
    "no width": ("[model]\ntower_width = 0", "model"),
    "embeddings of less than no width": ("[model]\nembedding_width = -1", "embedding_width"),
    "personal variance below 0": ("[model]\npersonal_variance = -0.1", "personal_variance"),
    "personal variance NaN": ("[model]\npersonal_variance = nan", "personal_variance"),
    "personal variance beyond what the offset is found for": ("[model]\npersonal_variance = 101", "personal_variance"),
    "embeddings without interest counts": ("[model]\ninterest_counts = false", "interest_counts"),
    "record-level training of a linear model": ("[model]\nembedding_width = 0\n[local.record]", "local.record"),
    "shrinkage above 1": ("[server]\nshrinkage = 1.5", "shrinkage"),
    "shrinkage NaN": ("[server]\nshrinkage = nan", "shrinkage"),
    "unknown schedule": ("[server]\nschedule = 'cosine'", "server.schedule"),
}


@pytest.mark.parametrize(("text", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_a_setting_that_means_nothing_is_refused_by_name(tmp_path, text, named):
    file = tmp_path / "experiment.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")) as refused:
        compose(file, ())
    assert "\n" not in refused.value.what
    assert refused.value.todo


@pytest.mark.parametrize("data", [b"rounds = [", b"\xff\xfe\x00", b"rounds = 1\nrounds = 2", b"[a]\n[a]"])
def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path, data):
    file = tmp_path / "experiment.toml"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=r"experiment\.toml"):
        compose(file, ())


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(ConfigError):
            compose(path, ())


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_is_printed_is_read_back_as_the_same_experiment(tmp_path, name):
    chosen = compose(None, [("data.name", name)])
    file = tmp_path / "experiment.toml"
    file.write_text(chosen.to_toml())
    assert compose(file, ()) == chosen


def test_an_infinite_epsilon_survives_the_file(tmp_path):
    chosen = compose(None, [("privacy.epsilon", float("inf")), ("privacy.noise", "none")])
    file = tmp_path / "experiment.toml"
    file.write_text(chosen.to_toml())
    assert compose(file, ()) == chosen


def test_overrides_beat_the_file_which_beats_the_defaults_of_its_data_set(tmp_path):
    file = tmp_path / "experiment.toml"
    file.write_text("seed = 5\n[data]\nname = 'movietweetings'\n[privacy]\nclip_norm = 0.5\n")
    chosen = compose(file, [("seed", 6), ("seed", 7)])
    assert (chosen.seed, chosen.privacy.clip_norm) == (7, 0.5)
    assert chosen.privacy.delta == DEFAULTS["movietweetings"]["privacy"]["delta"]
    assert chosen.local == compose(None, [("data.name", "movietweetings")]).local


def test_defaults_are_never_changed_by_what_is_composed_over_them():
    before = msgspec.json.encode(DEFAULTS)
    compose(None, [("data.name", "kuairand"), ("privacy.delta", 1e-7), ("server.momentum", 0.5)])
    assert msgspec.json.encode(DEFAULTS) == before


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("seed=3", ("seed", 3)),
        ("server.kind=fedavg", ("server.kind", "fedavg")),
        ("server.kind='fedavg'", ("server.kind", "fedavg")),
        ("privacy.epsilon=inf", ("privacy.epsilon", float("inf"))),
        ("data.file=a=b.csv", ("data.file", "a=b.csv")),
        ("data.file=", ("data.file", "")),
        ("rounds=1\nseed=4", ("rounds", "1\nseed=4")),
    ],
)
def test_an_override_is_toml_or_else_text_and_one_value_only(text, pair):
    assert parse_override(text) == pair


@pytest.mark.parametrize("text", ["rounds", "=3", ""])
def test_an_override_without_key_or_value_is_refused(text):
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_override(text)


@pytest.mark.parametrize("key", ["a.b.c", "rounds.x", "privacy..epsilon", "..", "privacy"])
def test_an_override_of_what_is_no_setting_is_refused(key):
    with pytest.raises(ConfigError):
        compose(None, [("rounds", 2), (key, 3)])


def test_every_setting_appears_in_the_printed_experiment():
    printed = Experiment().to_toml()
    for section in ("", "data", "model", "local", "server", "privacy"):
        struct = getattr(Experiment(), section) if section else Experiment()
        for name in struct.__struct_fields__:
            assert f"{name} = " in printed or f"[{name}]" in printed or f"[{section}.{name}]" in printed


@pytest.mark.parametrize(
    "address",
    ["postgresql://ann:hunter2@host/db", "postgresql://ann@host/db?password=hunter2", "postgres://:hunter2@h"],
)
def test_a_password_is_not_written_into_run_folders(address):
    with pytest.raises(ConfigError, match="holds a password") as caught:
        compose(None, [("privacy.ledger", address)])
    assert "hunter2" not in f"{caught.value.what} {caught.value.todo}"


@pytest.mark.parametrize(
    "place", ["", "shared.db", "/a:b@c/ledger.db", "postgresql://ann@host:5432/db", "postgresql://[::1]:5432/db"]
)
def test_a_shared_ledger_is_named_without_one(place):
    assert compose(None, [("privacy.ledger", place)]).privacy.ledger == place
