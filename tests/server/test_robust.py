"""Each rule gives what its definition says, few attackers cannot move it out of the honest range, none is private."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.collecting import Collecting
from sottovoce.server.robust import Robust, Rule
from sottovoce.simulations.experiment import compose
from sottovoce.simulations.faults import Rates
from sottovoce.simulations.marked_run import marked_run
from sottovoce.simulations.markers import TABLE, Markers

ROBUST = [rule for rule in get_args(Rule) if rule != "sum"]
NEED_SHARE = ["trimmed_mean", "multi_krum"]

LINE = np.array([[0.0], [1.0], [2.0], [4.0], [5.0], [1000.0]])


def total(rule, updates, share=0.2, asked=None):
    updates = [{"a": np.asarray(one, np.float32)} for one in updates]
    like = {"a": np.zeros_like(updates[0]["a"])} if updates else {"a": np.zeros(2, np.float32)}
    return Robust(rule=rule, attackers=share).total(updates, like, len(updates) if asked is None else asked)["a"]


@pytest.mark.parametrize(
    ("rule", "bad", "mean"),
    [
        ("sum", 1, 1012 / 6),
        ("norm_filter", 1, 12 / 5),  # lengths that are not zero: 1 2 4 5 1000, median 4; nothing above 8
        ("median", 1, 3.0),
        ("trimmed_mean", 0, 1012 / 6),
        ("trimmed_mean", 1, 12 / 4),
        ("trimmed_mean", 2, (2 + 4) / 2),
        ("multi_krum", 1, 12 / 5),  # scores over 3 neighbours: 21 11 9 14 26 and a million
        ("multi_krum", 2, 3.0),  # six updates are not more than 2 * 2 + 2: the median
    ],
)
def test_a_rule_gives_what_it_gives_by_hand(rule, bad, mean):
    assert Robust(rule=rule).mean(LINE, bad) == pytest.approx([mean])


def test_krum_leaves_out_as_many_as_may_be_bad_even_where_none_is():
    """Squares to the 4 nearest for f = 1: 46 27 22 22 27 54 110; 9 is left out."""
    line = np.array([[0.0], [1.0], [2.0], [4.0], [5.0], [7.0], [9.0]])
    assert Robust(rule="multi_krum").mean(line, 1) == pytest.approx([19 / 6])


def test_a_total_is_the_mean_of_the_rule_times_the_answers_in_every_array():
    updates = [
        {"a": np.full((2, 2), value, np.float32), "b": np.array([-value], np.float32)} for value in (1.0, 2.0, 9.0)
    ]
    like = {"a": np.zeros((2, 2), np.float32), "b": np.zeros(1, np.float32)}
    found = Robust(rule="median").total(updates, like, 3)
    np.testing.assert_array_equal(found["a"], np.full((2, 2), 6.0))
    np.testing.assert_array_equal(found["b"], [-6.0])


@pytest.mark.parametrize(
    ("share", "asked", "answered", "bad"),
    [
        (0.2, 10, 10, 2),
        (0.2, 11, 11, 3),
        (0.1, 30, 30, 3),
        (0.07, 100, 100, 7),  # 7.000000000000001 in floating point
        (0.2, 100, 60, 20),  # those who did not answer were not the attackers
        (0.2, 100, 30, 14),
        (0.2, 100, 2, 0),
        (0.49, 1, 1, 0),
        (0.0, 50, 50, 0),
    ],
)
def test_all_attackers_asked_are_reckoned_with_and_never_a_majority(share, asked, answered, bad):
    assert Robust(attackers=share).bad(asked, answered) == bad


@pytest.mark.parametrize("rule", get_args(Rule))
def test_nobody_one_and_everybody_alike(rule):
    np.testing.assert_array_equal(total(rule, [], asked=50), np.zeros(2))
    np.testing.assert_allclose(total(rule, [[3.0, -1.0]], asked=50), [3.0, -1.0])
    np.testing.assert_allclose(total(rule, [[3.0, -1.0]] * 9), [27.0, -9.0])
    np.testing.assert_array_equal(total(rule, [[0.0, 0.0]] * 9), np.zeros(2))


@pytest.mark.parametrize("rule", get_args(Rule))
@pytest.mark.parametrize("count", range(1, 9))
def test_whatever_number_answered_there_is_a_finite_result_among_them(rule, count):
    rng = np.random.default_rng(count)
    updates = rng.normal(size=(count, 3))
    mean = total(rule, updates, share=0.4, asked=20) / count
    assert (updates.min(0) - 1e-6 <= mean).all()
    assert (mean <= updates.max(0) + 1e-6).all()


numbers = st.floats(-1e3, 1e3, width=32)


@settings(deadline=None)
@given(
    updates=st.integers(1, 12).flatmap(lambda n: arrays(np.float32, (n, 3), elements=numbers)),
    rule=st.sampled_from(["sum", "norm_filter", "median", "trimmed_mean"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_order_of_the_answers_does_not_matter(updates, rule, seed):
    order = np.random.default_rng(seed).permutation(len(updates))
    np.testing.assert_allclose(total(rule, updates[order]), total(rule, updates), rtol=1e-9, atol=1e-6)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 15))
def test_nor_does_it_for_krum_where_no_two_are_equally_close(seed, count):
    rng = np.random.default_rng(seed)
    updates = rng.normal(size=(count, 3))
    np.testing.assert_allclose(total("multi_krum", rng.permutation(updates)), total("multi_krum", updates), rtol=1e-9)


@st.composite
def attacks(draw):
    """Honest updates, those of at most as many attackers as are reckoned with, and the share of them."""
    count = draw(st.integers(1, 15))
    share = draw(st.sampled_from([0.0, 0.1, 0.2, 0.34, 0.49]))
    bad = draw(st.integers(0, Robust(attackers=share).bad(count, count)))
    honest = draw(arrays(np.float32, (count - bad, 2), elements=numbers))
    return (
        honest,
        draw(
            arrays(np.float32, (bad, 2), elements=st.sampled_from(np.float32([-1e30, -1e4, 0.0, 1e4, 1e30]).tolist()))
        ),
        share,
    )


@pytest.mark.parametrize("rule", ["median", "trimmed_mean"])
@settings(deadline=None)
@given(attack=attacks())
def test_fewer_than_half_cannot_move_a_coordinate_out_of_the_honest_range(rule, attack):
    honest, lies, share = attack
    count = len(honest) + len(lies)
    mean = total(rule, np.concatenate([lies, honest]), share) / count
    room = 1e-9 * np.abs(honest).max(0)
    assert (honest.min(0) - room <= mean).all()
    assert (mean <= honest.max(0) + room).all()


@pytest.mark.parametrize("rule", ["median", "trimmed_mean"])
def test_more_than_are_reckoned_with_do_move_it(rule):
    """The property above can fail: six of ten against a share of two in ten."""
    lies, honest = np.full((6, 1), 1e6), np.zeros((4, 1))
    assert total(rule, np.concatenate([lies, honest])) > 0


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(7, 30), colluding=st.booleans())
def test_krum_chooses_none_that_lies_far_off(seed, count, colluding):
    """Together in one place, where they are each other's neighbours, or each for itself."""
    rng = np.random.default_rng(seed)
    robust = Robust(rule="multi_krum", attackers=0.25)
    bad = robust.bad(count, count)
    honest = rng.normal(size=(count - bad, 4))
    where = rng.normal(size=(1 if colluding else bad, 4))
    lies = 1e4 * np.broadcast_to(where / np.linalg.norm(where, axis=1, keepdims=True), (bad, 4))
    mean = robust.mean(rng.permutation(np.concatenate([honest, lies])), bad)
    np.testing.assert_array_less(np.abs(mean), np.abs(honest).max() + 1e-9)


def test_krum_tells_neighbours_apart_far_from_zero():
    """Squares of a hundred million would drown the differences."""
    near = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [12.0]])
    for place in range(6):
        line = 1e8 + 1e-3 * np.roll(near, place, axis=0)
        assert Robust(rule="multi_krum").mean(line, 1) == pytest.approx([1e8 + 2e-3], abs=1e-6, rel=0)


@settings(deadline=None)
@given(factor=st.floats(2.5, 1e30), count=st.integers(5, 20))
def test_the_filter_drops_what_is_long_and_keeps_what_is_not(factor, count):
    updates = np.ones((count, 3))
    updates[0] *= -factor
    np.testing.assert_allclose(total("norm_filter", updates) / count, np.ones(3))
    updates[0] = 1.9
    np.testing.assert_allclose(total("norm_filter", updates), updates.sum(0), rtol=1e-6)


def test_devices_without_rows_do_not_make_the_others_look_long():
    updates = np.concatenate([np.zeros((7, 2)), np.ones((3, 2))])
    np.testing.assert_allclose(total("norm_filter", updates), [3.0, 3.0])


def run(folder, ledger, hosted, noise=0.0, rounds=1, rates=None):
    markers = Markers(hosted, rounds)
    plan = MechanismPlan(markers.population, 1.0, 1.0, noise, rounds, 1e-3, sampling="none")
    return marked_run(folder, ledger, plan, markers, rates or Rates(), 0, SeededEntropy(0))


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.db", create=True) as opened:
        yield opened


@pytest.mark.parametrize("rule", ROBUST)
def test_a_private_run_is_refused_with_the_reason(rule, tmp_path, ledger):
    coordinator = run(tmp_path, ledger, (1,) * 5, noise=1.0).coordinator
    replace(coordinator, robust=Robust())
    with pytest.raises(ConfigError, match=f"{rule} in a private run: its noise is made for a sum") as refused:
        replace(coordinator, robust=Robust(rule=rule))
    assert "privacy.noise none" in refused.value.todo
    with pytest.raises(ConfigError, match="the noise of a private run is made for their sum"):
        compose(None, [("robust.rule", rule)])
    assert not ledger.book().spent


@pytest.mark.parametrize("rule", ROBUST)
def test_nodes_of_several_devices_are_refused_before_anybody_pays(rule, tmp_path, ledger):
    coordinator = replace(run(tmp_path, ledger, (1, 2, 1)).coordinator, robust=Robust(rule=rule))
    with pytest.raises(ConfigError, match="a node answers with the sum of 2 devices"):
        coordinator.run(0, lambda _: None)
    assert not ledger.book().spent


@pytest.mark.parametrize("share", [-0.1, 0.5, 1.0])
def test_attackers_are_fewer_than_half(share):
    with pytest.raises(ConfigError, match="attackers"):
        compose(None, [("robust.attackers", share)])


def counted(tmp_path, ledger, rule, rates=None, **collecting):
    """(answered, markers) of one round of twenty devices, each with a coordinate of its own."""
    made = run(tmp_path, ledger, (1,) * 20, rates=rates)
    chosen = Collecting(deadline_s=60.0, **collecting)
    coordinator = replace(made.coordinator, robust=Robust(rule=rule), collecting=chosen)
    records = []
    coordinator.run(0, records.append)
    return records[0].answered, made.markers.read(coordinator.step.parameters[TABLE].numpy().astype(float) * 20)


def test_a_round_uses_the_rule(tmp_path, ledger):
    """What one device alone says, a median does not hear."""
    answered, heard = counted(tmp_path, ledger, "median")
    assert answered == 20
    assert not heard.any()


@pytest.mark.parametrize("rule", ROBUST)
def test_a_round_closed_early_or_without_answers_is_released_with_what_came(rule, tmp_path, ledger):
    answered, heard = counted(tmp_path, ledger, rule, goal=6)
    assert answered == 6
    assert np.isfinite(heard).all()


@pytest.mark.parametrize("rule", ROBUST)
def test_a_round_of_which_nobody_answers_moves_nothing(rule, tmp_path, ledger):
    answered, heard = counted(tmp_path, ledger, rule, rates=Rates(silence=1.0))
    assert answered == 0
    assert not heard.any()
