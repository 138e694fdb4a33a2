"""What a sweep trains is fixed by its question: every epsilon, every combination, every seed, and nothing twice."""

import math

import pytest

from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations.experiment import composed
from sottovoce.simulations.sweep import FIXED, parse_vary, sweep_of

BASE = composed({"rounds": 2, "privacy": {"delta": 1e-3}}, ())


def asked(epsilons=(4.0,), seeds=1, vary=(), budget=None, base=BASE):
    return sweep_of(base, epsilons, seeds, vary, budget)


def test_every_setting_is_trained_once_before_any_gets_its_second_seed():
    runs = asked([2.0, math.inf, 1.0], seeds=2, vary=["local.steps=1,3"]).runs()
    first = [
        "001-epsilon-1-seed-0",
        "002-epsilon-2-seed-0",
        "003-epsilon-inf-seed-0",
        "004-epsilon-1-seed-0",
        "005-epsilon-2-seed-0",
        "006-epsilon-inf-seed-0",
    ]
    assert [run.name for run in runs] == first + [name.replace("seed-0", "seed-1") for name in first]
    assert [run.experiment.local.steps for run in runs[:6]] == [1, 1, 1, 3, 3, 3]
    assert {run.seed for run in runs[6:]} == {run.experiment.seed for run in runs[6:]} == {1}
    assert runs[5].setting.label == "no noise, local.steps = 3"


def test_noise_is_fresh_unless_the_experiment_says_seeded_and_absent_where_epsilon_is_infinite():
    def noise(told):
        base = composed({"privacy": told}, ())
        return [run.experiment.privacy.noise for run in asked([1.0, math.inf], base=base).runs()]

    assert noise({}) == ["secure", "none"]
    assert noise({"noise": "seeded"}) == ["seeded", "none"]
    assert noise({"noise": "none", "epsilon": math.inf}) == ["secure", "none"]


def test_a_run_takes_one_node_and_the_ledger_that_all_share():
    (run,) = asked(budget=5.0).runs("/somewhere/ledger.db")
    assert (run.experiment.nodes, run.experiment.privacy.ledger) == (1, "/somewhere/ledger.db")
    assert run.name == "epsilon-4-seed-0"


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("local.steps=1,2", "local.steps", [1, 2]),
        (" server.learning_rate = 0.1 , 2e-2", "server.learning_rate", [0.1, 0.02]),
        ("privacy.sampling=poisson,none", "privacy.sampling", ["poisson", "none"]),
        ('server.kind="fedadam"', "server.kind", ["fedadam"]),
    ],
)
def test_values_are_read_as_the_experiment_file_would(text, key, values):
    assert parse_vary(text) == (key, values)


@pytest.mark.parametrize("key", [*FIXED, "data.devices"])
def test_what_would_make_runs_incomparable_may_not_vary_and_says_what_to_do_instead(key):
    with pytest.raises(ConfigError, match="may not vary") as refused:
        parse_vary(f"{key}=1,2")
    assert refused.value.todo


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"epsilons": [1.0, 2.0, 1.0]}, "epsilon 1 is given twice"),
        ({"vary": ["local.steps=1,2,1"]}, "1 is given twice"),
        ({"vary": ["local.steps=1", "local.steps=2"]}, "local.steps is given twice"),
        ({"vary": ["local.steps"]}, "not KEY=V1,V2"),
        ({"vary": ["local.steps="]}, "not KEY=V1,V2"),
        ({"vary": ["local.stepz=1"]}, "stepz"),
        ({"vary": ["local.steps=0,1"]}, "steps"),
        ({"seeds": 1001}, "1,001 runs"),
    ],
)
def test_an_impossible_sweep_is_refused_before_anything_else(changed, said):
    with pytest.raises(ConfigError, match=said):
        asked(**changed)
