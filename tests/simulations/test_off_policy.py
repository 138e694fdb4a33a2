"""Off-policy evaluation: right on a bandit whose values are known, and refused where a log cannot carry it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sottovoce.client.exploration import Candidates, Exploration, explore
from sottovoce.privacy.errors import DataError
from sottovoce.simulations.decision_log import decode
from sottovoce.simulations.off_policy import Logged, checked, effective_size, evaluate

ARMS = np.array([0.05, 0.1, 0.3])
OLD = np.array([0.45, 0.35, 0.2])
NEW = np.array([0.1, 0.3, 0.6])
TRUTH = float(NEW @ ARMS)


def bandit(rng, n=4000, predicted=None):
    arm = rng.choice(3, n, p=OLD)
    reward = (rng.random(n) < ARMS[arm]).astype(float)
    q = None if predicted is None else np.asarray(predicted)
    return Logged(
        reward,
        OLD[arm],
        NEW[arm],
        None if q is None else q[arm],
        None if q is None else np.full(n, float(NEW @ q)),
    )


def means(estimates):
    values = np.array(estimates)
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))


def test_estimates_are_unbiased_and_their_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    found = [evaluate(bandit(rng, predicted=[0.0, 0.5, 0.1])) for _ in range(400)]
    for told in ([one.ips for one in found], [one.dr for one in found], [one.snips for one in found]):
        mean, error = means([one.value for one in told])
        assert abs(mean - TRUTH) < 4.5 * error
        assert 0.92 < np.mean([one.low <= TRUTH <= one.high for one in told]) < 0.98
    assert all(one.ips.bernstein_low <= TRUTH <= one.ips.bernstein_high for one in found)
    assert all(one.dr.bernstein_low <= TRUTH <= one.dr.bernstein_high for one in found)


def test_doubly_robust_is_right_when_only_the_predictions_are():
    rng = np.random.default_rng(1)
    # Wrong in a way that the mean weight does not give away.
    weight = np.array([1.6, 0.4, 0.7])
    assert OLD @ weight == pytest.approx(1)
    estimates = []
    for _ in range(300):
        rows = bandit(rng, predicted=ARMS)
        arm = np.searchsorted(NEW, rows.new)
        found = evaluate(replace(rows, propensity=(NEW / weight)[arm]))
        estimates.append((found.ips.value, found.dr.value))
    mean, error = means(estimates)
    assert abs(mean[1] - TRUTH) < 4.5 * error[1]
    assert abs(mean[0] - TRUTH) > 10 * error[0]


def test_good_predictions_make_the_estimate_steadier():
    rng = np.random.default_rng(2)
    found = [evaluate(bandit(rng, predicted=ARMS)) for _ in range(100)]
    assert np.std([one.dr.value for one in found]) < 0.97 * np.std([one.ips.value for one in found])


@pytest.mark.parametrize("factor", [2.0, 0.5, 1.15])
def test_logged_propensities_that_are_off_by_a_factor_are_found(factor):
    rows = bandit(np.random.default_rng(3))
    with pytest.raises(DataError, match="mean weight"):
        evaluate(replace(rows, propensity=rows.propensity * factor))


def test_right_propensities_are_not_refused_by_chance():
    rng = np.random.default_rng(4)
    assert max(abs(evaluate(bandit(rng, 1000)).weight_error) for _ in range(500)) < 5


@pytest.mark.parametrize("wrong", [0.0, np.nan, -0.1, 1.01, np.inf])
@pytest.mark.parametrize("column", ["propensity", "new"])
def test_probabilities_that_cannot_be_are_refused_by_row(column, wrong):
    rows = bandit(np.random.default_rng(5))
    values = getattr(rows, column).copy()
    values[41] = wrong
    if (column, wrong) == ("new", 0.0):
        checked(replace(rows, new=values))
        return
    with pytest.raises(DataError, match="row 42"):
        evaluate(replace(rows, **{column: values}))


@pytest.mark.parametrize("reward", [np.nan, -1.0, np.inf])
def test_rewards_that_cannot_be_are_refused(reward):
    rows = bandit(np.random.default_rng(5))
    rows.reward[0] = reward
    with pytest.raises(DataError, match="row 1: the reward"):
        evaluate(rows)


def test_few_rows_that_count_are_refused_before_anything_is_told():
    n = 10_000
    new = np.full(n, 1e-4)
    new[0] = 1.0
    rows = Logged(np.ones(n), np.full(n, 1e-4), new)
    with pytest.raises(DataError, match=r"rows count like 4\.0"):
        evaluate(rows)
    with pytest.raises(DataError, match=r"rows count like 0\.0"):
        evaluate(replace(rows, new=np.zeros(n)))
    assert effective_size(np.ones(7)) == 7.0


def test_clipping_lowers_the_estimate_and_says_how_many_rows():
    rows = bandit(np.random.default_rng(6))
    whole, cut = evaluate(rows), evaluate(rows, clip=2.0)
    assert cut.ips.value < whole.ips.value
    assert cut.clipped == pytest.approx(float((rows.new / rows.propensity > 2).mean()))
    assert whole.clipped == 0.0
    assert cut.effective_size == whole.effective_size


def test_the_same_ranker_is_worth_what_it_earned():
    rows = bandit(np.random.default_rng(7))
    found = evaluate(replace(rows, new=rows.propensity))
    assert found.ips.value == found.snips.value == found.logged
    assert (found.mean_weight, found.weight_error, found.effective_size) == (1.0, 0.0, 4000.0)


def test_a_ranker_is_judged_rightly_from_what_exploration_on_the_device_logged():
    rng = np.random.default_rng(8)
    chance = np.array([0.02, 0.05, 0.03, 0.01])
    value = np.array([4000, 3000, 2900, 2000])
    ads = Candidates(value, value, value, chance, np.arange(4), np.zeros(4), np.full(4, 0.3))
    rule = Exploration(method="thompson", epsilon=0.1)
    truth = np.array([0.1, 0.4, 0.2, 0.3])
    lines = []
    for draw in rng.random(2500):
        drawn = explore(rule, ads, 0, float(draw))
        shown = {f"ad{place}": float(p) for place, p in zip(drawn.places, drawn.propensities, strict=True)}
        reward = float(rng.random() < truth[drawn.place])
        row = {"chosen": f"ad{drawn.place}", "reward": reward, "propensity": drawn.propensity, "candidates": shown}
        row |= {"new": {"ad1": 0.5, "ad3": 0.5}, "predicted": {f"ad{n}": 0.25 for n in range(4)}}
        lines.append(json.dumps(row))
    found = evaluate(decode("\n".join(lines).encode()), largest_weight=4 / 0.1)
    for one in (found.ips, found.snips, found.dr):
        assert one.low - 0.01 < 0.35 < one.high + 0.01
    assert found.largest_weight <= 4 / 0.1


GOOD = {"chosen": "a", "reward": 1, "candidates": {"a": 0.9, "b": 0.1}, "new": {"b": 1.0}}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"candidates": None}, "no propensity"),
        ({"chosen": "c"}, "is no candidate"),
        ({"propensity": 0.8}, "among the candidates"),
        ({"candidates": {"a": 0.9, "b": 0.2}}, "add up to"),
        ({"candidates": {"a": 1.5, "b": -0.5}}, "negative"),
        ({"new": {"c": 1.0}}, "no candidate"),
        ({"new": {"b": 0.4}}, "add up to"),
        ({"new": None}, "new"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_line_that_contradicts_itself_is_named(change, word):
    data = f"{json.dumps(GOOD)}\n\n{json.dumps(GOOD | change)}".encode()
    with pytest.raises(DataError, match=r"log.jsonl, line 3.*" + word):
        decode(data)


def test_lines_become_columns():
    rows = decode(json.dumps(GOOD).encode() + b'\n{"chosen":"a","reward":2.5,"propensity":0.5,"new":0.25}\n')
    assert (rows.reward.tolist(), rows.propensity.tolist(), rows.new.tolist()) == ([1.0, 2.5], [0.9, 0.5], [0.0, 0.25])
    assert rows.predicted is None
    with pytest.raises(DataError, match="no rows"):
        decode(b"\n\n")
