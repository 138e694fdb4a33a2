"""Settings over their seeds: means, and Student's interval, which knows how little two runs say."""

import math

import pytest

from sottovoce.simulations.metrics import Metrics
from sottovoce.simulations.sweep import Setting
from sottovoce.simulations.sweep_summary import Outcome, confidence, summary


def outcome(setting, seed, primary, seconds=1.0):
    figures = Metrics(primary + 0.1, primary + 0.2, primary - 0.2, primary, 0.5 + seed, 0.01, 10, 100)
    return Outcome(
        run=f"{setting}-{seed}",
        setting=setting,
        seed=seed,
        metrics=figures,
        rounds=2,
        seconds=seconds,
        noise_multiplier=1.0,
        experiment_sha256="ab" * 32,
    )


def test_the_interval_is_that_of_the_tables():
    # Student's t at 97.5 %: 12.706 with one degree of freedom, 4.303 with two.
    assert confidence([0.4, 0.6]) == pytest.approx((0.5 - 12.7062 * 0.1, 0.5 + 12.7062 * 0.1), abs=1e-4)
    low, high = confidence([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)), abs=1e-4)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_one_run_has_no_interval(values):
    assert confidence(values) == (None, None)


def test_a_line_holds_the_finished_runs_of_its_setting_alone():
    settings = [Setting(1, 2.0), Setting(2, 4.0), Setting(3, math.inf)]
    found = summary(settings, [outcome(1, 0, 0.5, 3.0), outcome(3, 0, 0.7), outcome(1, 1, 0.6, 5.0)])
    assert [(line.setting, line.epsilon, line.seeds) for line in found] == [(1, 2.0, 2), (3, None, 1)]
    line = found[0]
    assert (line.primary, line.least, line.most) == pytest.approx((0.55, 0.5, 0.6))
    assert (line.auc, line.gauc, line.ndcg_at_5, line.log_loss) == pytest.approx((0.65, 0.75, 0.35, 1.0))
    assert line.seconds == 4.0
    assert found[1].low is None
