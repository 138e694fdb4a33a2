"""Among approved combinations only; with the very probability that is stored; whatever happens, an answer."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_creative import BRAND, DAY, INK, MADE, NOW, approved, creative, record, with_component

from sottovoce.client.approval import Approvals
from sottovoce.client.combination import MOST_TRIED, refusal, showable
from sottovoce.client.combination_choice import DRAWS, Moment, _normals, choose, learn, propensities
from sottovoce.client.combination_posterior import (
    BASE,
    LEAST_VARIANCE,
    MOST_WEIGHTS,
    Posterior,
    decode_posterior,
    encode_posterior,
    keys,
    learned,
)
from sottovoce.client.crowd import MOST, most_combinations, odds
from sottovoce.client.reasons import Loss
from sottovoce.privacy.errors import DeviceError

MADE_OF = creative()
READY = showable(MADE_OF, approved(MADE_OF), BRAND, NOW)
AFTERNOON = Moment(category="596", hour=15, connection=2)
ALL = list(range(len(READY.combinations)))


def wide(slots, components, **changes):
    """A creative with many combinations."""
    names = [f"s{number}" for number in range(slots)]
    template = {"id": "t", "slots": [{"id": name, "kind": "data", "type": 2, **INK} for name in names]}
    parts = [{"id": f"c{n}", "text": f"Text {n}", "language": "en", "provenance": MADE} for n in range(components)]
    return creative(template=template, components=dict.fromkeys(names, parts), **changes)


def test_every_combination_of_approved_components_and_no_other():
    assert len(set(READY.combinations)) == 4
    assert READY.combinations[0] == ("title/calm", "picture/cup", "button/shop")
    denied = showable(MADE_OF, approved(MADE_OF, record(MADE_OF, "title/calm", 4, "legal/Cy")), BRAND, NOW)
    assert {parts[0] for parts in denied.combinations} == {"title/bold"}
    assert refusal(denied.standings["title/calm"]) == Loss.AUDIT_REFUSED
    assert refusal(denied.standings["title/bold"]) is None


def test_an_optional_slot_without_an_approved_component_stays_empty_and_a_required_one_stops_everything():
    without = showable(MADE_OF, approved(MADE_OF, record(MADE_OF, "button/shop", 4)), BRAND, NOW)
    assert {len(parts) for parts in without.combinations} == {2}
    pictures = [record(MADE_OF, f"picture/{name}", 4) for name in ("cup", "leaf")]
    stopped = showable(MADE_OF, approved(MADE_OF, *pictures), BRAND, NOW)
    assert stopped.combinations == ()
    assert stopped.loss == Loss.AUDIT_REFUSED
    assert showable(MADE_OF, Approvals(1), BRAND, NOW).loss == Loss.AUDIT_PENDING
    assert READY.loss is None
    assert "'picture' is required" in stopped.reason
    assert showable(MADE_OF, Approvals(1), BRAND, NOW).reason == "the frame is pending"


def test_a_component_that_breaks_a_guardrail_is_left_out_though_approved():
    made = with_component("title", 0, text="x" * 26)
    ready = showable(made, approved(made), BRAND, NOW)
    assert {parts[0] for parts in ready.combinations} == {"title/bold"}


def test_listed_and_apart_narrow_the_choice_and_findings_say_what_fell():
    only = creative(listed=[["title/bold", "picture/cup", "button/shop"]] * 2)
    assert showable(only, approved(only), BRAND, NOW).combinations == (only.listed[0],)
    apart = creative(apart=[["title/bold", "picture/cup"]])
    ready = showable(apart, approved(apart), BRAND, NOW)
    assert len(ready.combinations) == 3
    assert [finding.where for finding in ready.findings] == ["title/bold+picture/cup+button/shop"]


def test_the_crowd_bounds_the_number_of_combinations():
    few = creative(audience=3_000)
    assert len(showable(few, approved(few), BRAND, NOW).combinations) == most_combinations(3_000, 0.1) == 2
    unknown = creative(audience=0)
    assert len(showable(unknown, approved(unknown), BRAND, NOW).combinations) == 1
    assert len(showable(MADE_OF, approved(MADE_OF), BRAND, NOW, epsilon=0.0).combinations) == 1


@pytest.mark.parametrize("audience", [2_000, 10_000, 100_000, 10**6, 10**10])
def test_the_cap_keeps_the_crowd_promise_by_the_exact_binomial(audience):
    count = most_combinations(audience, 0.1)
    assert 1 <= count <= MOST
    if count > 1:
        mean = audience * 0.1 / count
        # Poisson is the limit of this binomial and has the heavier lower tail.
        below = math.fsum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(50))
        assert count * below <= 1e-6


def test_of_very_many_combinations_an_even_spread_is_looked_at():
    made = wide(8, 8, audience=10**8)
    ready = showable(made, approved(made), BRAND, NOW)
    assert (ready.possible, ready.tried, len(ready.combinations)) == (8**8, MOST_TRIED, MOST)
    used = [len({parts[slot] for parts in ready.combinations}) for slot in range(8)]
    assert used == [8] * 8
    assert len(set(ready.combinations)) == MOST


def test_nothing_learned_shows_everything_and_the_chances_sum_to_one():
    chances = propensities(READY, Posterior(), AFTERNOON.features, ALL)
    assert chances.sum() == pytest.approx(1, abs=1e-12)
    assert chances.min() > 0.1


def test_the_stored_propensity_is_the_share_of_draws_that_show_it():
    posterior = Posterior()
    for _ in range(40):
        posterior = learned(posterior, [READY.digests["title/bold"]], AFTERNOON.features, True)
    draws = (np.arange(4_000) + 0.5) / 4_000
    seen = [choose(READY, posterior, AFTERNOON, NOW, float(draw)) for draw in draws]
    for parts in READY.combinations:
        mine = [choice for choice in seen if choice.parts == parts]
        assert len({choice.propensity for choice in mine}) == 1
        assert len(mine) / len(draws) == pytest.approx(mine[0].propensity, abs=1e-3)
        assert mine[0].propensity >= 0.1 / 4
    assert sum(choice.parts[0] == "title/bold" for choice in seen) > 0.8 * len(draws)


def test_the_chances_are_those_of_thompson_sampling():
    """Of two components, the difference of whose weights is Gaussian: a closed form."""
    made = wide(1, 2, audience=10**6)
    ready = showable(made, approved(made), BRAND, NOW)
    first, second = (keys(ready.digests[part], ())[0] for part in ("s0/c0", "s0/c1"))
    posterior = Posterior(1, {first: (0.3, 0.04), second: (0.1, 0.09)})
    expected = 0.5 * math.erfc(-0.2 / math.sqrt(0.13) / math.sqrt(2))
    got = propensities(ready, posterior, (), [0, 1])[0]
    spread = math.sqrt(expected * (1 - expected) / DRAWS)
    assert got == pytest.approx(0.05 + 0.9 * expected, abs=3 * spread)


def test_it_learns_what_is_liked_where():
    rng = np.random.default_rng(0)
    morning = Moment(category="483", hour=8)
    posterior = Posterior()
    for _ in range(3_000):
        moment, liked = (AFTERNOON, "title/calm") if rng.random() < 0.5 else (morning, "title/bold")
        choice = choose(READY, posterior, moment, NOW, rng.random())
        posterior = learn(posterior, READY, choice, moment, rng.random() < (0.3 if choice.parts[0] == liked else 0.05))
    for moment, liked in ((AFTERNOON, "title/calm"), (morning, "title/bold")):
        chances = propensities(READY, posterior, moment.features, ALL)
        assert sum(chances[place] for place in ALL if READY.combinations[place][0] == liked) > 0.85


def test_a_changed_component_starts_afresh():
    posterior = learned(Posterior(), [READY.digests["title/calm"]], (), True)
    made = with_component("title", 0, text="Other")
    ready = showable(made, approved(made), BRAND, NOW)
    assert posterior.score(ready.digests["title/calm"], ()) == Posterior().score("x", ())
    assert posterior.score(READY.digests["title/calm"], ())[0] > 0


@pytest.mark.parametrize("clicked", [True, False])
def test_one_update_has_the_moments_of_the_exact_posterior(clicked):
    """Two weights, prior N(-2, 0.5) and N(0, 0.04), on a fine grid."""
    base, own = np.meshgrid(np.linspace(-6, 2, 801), np.linspace(-1.2, 1.2, 401), indexing="ij")
    chance = np.vectorize(lambda t: 0.5 * math.erfc(-t / math.sqrt(2)))(np.linspace(-8, 4, 2401))
    likely = np.interp(base + own, np.linspace(-8, 4, 2401), chance)
    mass = np.exp(-((base + 2) ** 2) / 1.0 - own**2 / 0.08) * (likely if clicked else 1 - likely)
    mass /= mass.sum()
    after = learned(Posterior(), ["a" * 64], (), clicked)
    for key, weight in (("base", base), ("a" * 32, own)):
        mean = (mass * weight).sum()
        assert after.weights[key] == pytest.approx((mean, (mass * (weight - mean) ** 2).sum()), abs=2e-4)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60))
def test_beliefs_stay_finite_bounded_and_as_written(history):
    posterior = Posterior()
    for part, clicked in history:
        posterior = learned(posterior, [f"{part:064d}"], ("t1", "n2"), clicked)
    for key, (mean, variance) in posterior.weights.items():
        assert abs(mean) <= 8
        assert LEAST_VARIANCE <= variance <= (BASE[1] if key == "base" else 0.04)
    assert decode_posterior(encode_posterior(posterior)) == posterior


def test_memory_is_bounded_and_the_oldest_goes_first():
    posterior = Posterior(1, {f"{n:032d}": (0.0, 0.01) for n in range(MOST_WEIGHTS)})
    after = learned(posterior, ["f" * 64], (), False)
    assert len(after.weights) == MOST_WEIGHTS
    assert f"{0:032d}" not in after.weights
    assert "f" * 32 in after.weights
    assert len(encode_posterior(after)) < 512 * 1024


@pytest.mark.parametrize("value", [[0.0, -1.0], [0.0, 0.0], [9.0, 0.1], [0.0], "x"])
def test_a_damaged_posterior_is_refused(value):
    with pytest.raises(DeviceError):
        decode_posterior(msgspec.json.encode({"version": 1, "weights": {"base": value}}))


NAN = Posterior(1, {keys(READY.digests["title/calm"], ())[0]: (math.nan, 0.1)})


@pytest.mark.parametrize(
    ("ready", "posterior", "now", "draw", "languages", "level", "named"),
    [
        (READY, NAN, NOW, 0.5, (), "first", "finite"),
        (READY, None, NOW, 0.5, (), "first", "AttributeError"),
        (READY, Posterior(), NOW, 1.0, (), "first", "draw"),
        (READY, Posterior(), NOW, math.nan, (), "first", "draw"),
        (READY, Posterior(), NOW + 400 * DAY, 0.5, (), "plain", "approval"),
        (READY, Posterior(), NOW - 400 * DAY, 0.5, (), "plain", "approval"),
        (READY, Posterior(), NOW.replace(tzinfo=None), 0.5, (), "plain", "TypeError"),
        (READY, Posterior(), NOW, 0.5, ("fr",), "plain", "language"),
        (READY, Posterior(), NOW, 0.5, (None,), "plain", "AttributeError"),
        (replace(READY, digests={}), Posterior(), NOW, 0.5, (), "first", "KeyError"),
        (showable(MADE_OF, Approvals(1), BRAND, NOW), Posterior(), NOW, 0.5, (), "plain", "the frame is pending"),
    ],
)
def test_whatever_is_wrong_there_is_an_answer_with_its_reason(ready, posterior, now, draw, languages, level, named):
    choice = choose(ready, posterior, AFTERNOON, now, draw, languages)
    assert (choice.level, choice.propensity) == (level, 1.0)
    assert named in choice.fault
    assert choice.parts == (READY.combinations[0] if level == "first" else ())


def test_the_same_draw_gives_the_same_choice_and_a_page_gets_its_language():
    assert choose(READY, Posterior(), AFTERNOON, NOW, 0.7) == choose(READY, Posterior(), AFTERNOON, NOW, 0.7)
    assert choose(READY, Posterior(), AFTERNOON, NOW, 0.7, ("en-GB", "fr")).level == "bandit"
    plain = choose(READY, Posterior(), AFTERNOON, NOW + 400 * DAY, 0.7)
    assert learn(Posterior(), READY, plain, AFTERNOON, True) == Posterior()


def test_no_showing_says_more_than_the_uniform_share_allows():
    sure = Posterior(1, {keys(READY.digests["title/bold"], ())[0]: (8.0, 1e-4)})
    other = Posterior(1, {keys(READY.digests["title/bold"], ())[0]: (-8.0, 1e-4)})
    ratio = propensities(READY, sure, (), ALL) / propensities(READY, other, (), ALL)
    assert ratio.max() <= odds(4, 0.1) == pytest.approx(37)
    assert odds(1, 0.0) == 1
    assert odds(2, 0.0) == math.inf


def test_the_table_of_draws_is_the_same_everywhere():
    chances = propensities(READY, Posterior(), AFTERNOON.features, ALL)
    assert np.round((chances - 0.025) / 0.9 * DRAWS).tolist() == [64, 68, 61, 63]
    normals = _normals()
    assert abs(normals.mean()) < 0.01
    assert abs(normals.std() - 1) < 0.01
    assert abs(np.corrcoef(normals[:40]) - np.eye(40)).max() < 0.3


def test_over_many_requests_the_table_favours_no_combination():
    each = [propensities(READY, Posterior(), (), ALL, f"request {number}") for number in range(400)]
    assert len({tuple(one) for one in each}) > 200
    assert np.mean(each, 0) == pytest.approx(np.full(4, 0.25), abs=0.01)
