import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from small_market import NOW, SCHEMA, campaign, catalogue, event, market, request

from sottovoce.client.events import Event, EventLog
from sottovoce.client.features import Encoder, Inputs
from sottovoce.client.remembered import remembered
from sottovoce.client.request import RequestExt

MARKET = market(5)
ENCODER = Encoder(SCHEMA, MARKET)


def test_shapes_and_types_are_those_of_the_model():
    events, outcomes, _ = ENCODER.history(EventLog((event("impression", 1),)))
    context, ads = ENCODER.context(request(), True), ENCODER.ads([0, 3])
    assert (context.shape, events.shape, outcomes.shape, ads.shape) == ((1, 2), (6, 2), (6,), (2, 3))
    assert {array.dtype for array in (context, events, outcomes, ads)} == {np.dtype(np.int32)}


def test_serving_encodes_as_the_schema_does():
    ads = ENCODER.ads(list(range(5)))
    for place, one in enumerate(MARKET.ads):
        assert ads[place].tolist() == SCHEMA.encode_one(SCHEMA.ad, one.features).tolist()


def test_the_newest_event_is_last_and_padding_is_in_front():
    log = EventLog((event("impression", 1, 30), event("impression", 2, 20), event("impression", 3, 10)))
    events, outcomes, past = ENCODER.history(log)
    assert not events[:3].any()
    assert not outcomes[:3].any()
    for row, n in zip(events[3:], (1, 2, 3), strict=True):
        assert row.tolist() == SCHEMA.encode_one(SCHEMA.history, {"ad_id": n, "category": n}).tolist()
    assert [one.event.crid for one in past] == ["a1", "a2", "a3"]


def test_only_the_last_impressions_fit():
    log = EventLog(tuple(event("impression", n % 5, 100 - n) for n in range(20)))
    _, outcomes, past = ENCODER.history(log)
    assert len(past) == SCHEMA.history_length
    assert outcomes.all()
    assert [one.event.crid for one in past] == [f"a{n % 5}" for n in range(14, 20)]


def outcomes_of(*kinds: tuple[str, int]) -> list[tuple[str, str]]:
    log = EventLog(tuple(event(kind, n) for kind, n in kinds))
    return [(one.event.crid, one.outcome) for one in remembered(log, MARKET, 10)]


def test_a_click_belongs_to_the_latest_impression_of_its_ad():
    shown = outcomes_of(("impression", 1), ("impression", 1), ("impression", 2), ("click", 1), ("impression", 1))
    assert shown == [("a1", "seen"), ("a1", "click"), ("a2", "seen"), ("a1", "seen")]


def test_a_conversion_outranks_a_click_and_is_never_taken_back():
    for order in (("click", "conversion"), ("conversion", "click"), ("conversion",)):
        assert outcomes_of(("impression", 1), *((kind, 1) for kind in order)) == [("a1", "conversion")]


def test_what_has_no_impression_and_a_dismissal_change_nothing():
    assert outcomes_of(("click", 1), ("impression", 1), ("dismiss", 1)) == [("a1", "seen")]
    assert outcomes_of(("click", 1), ("conversion", 2)) == []


def slow_outcomes(log: EventLog) -> list[tuple[str, str]]:
    """The same rule, forwards."""
    rank = ["seen", "click", "conversion"]
    shown: list[list[str]] = []
    for one in log.events:
        if one.event == "impression":
            shown.append([one.crid, "seen"])
        elif one.event in rank:
            for entry in reversed(shown):
                if entry[0] == one.crid:
                    entry[1] = max(entry[1], one.event, key=rank.index)
                    break
    return [(crid, outcome) for crid, outcome in shown]


@given(
    st.lists(
        st.tuples(st.sampled_from(["impression", "click", "conversion", "dismiss"]), st.integers(0, 3)), max_size=25
    ),
    st.integers(1, 10),
)
def test_outcomes_equal_those_counted_forwards(kinds, length):
    log = EventLog(tuple(event(kind, n) for kind, n in kinds))
    got = [(one.event.crid, one.outcome) for one in remembered(log, MARKET, length)]
    assert got == slow_outcomes(log)[-length:]


def test_sensitive_ads_and_ads_of_unknown_campaigns_are_never_remembered():
    campaigns = (campaign("c1"), campaign("c2", cat=("1391",)))
    shop = catalogue(campaigns, ())
    log = EventLog(tuple(Event(NOW, "impression", f"a{n}", cid) for n, cid in enumerate(["c2", "c1", "gone"])))
    assert [one.event.cid for one in remembered(log, shop, 10)] == ["c1"]


def test_an_event_keeps_the_features_it_was_logged_with():
    old = Event(NOW, "impression", "a1", "c1", {"category": 4, "ad_id": 99})
    events, _, _ = ENCODER.history(EventLog((old,)))
    assert events[-1].tolist() == SCHEMA.encode_one(SCHEMA.history, {"category": 4, "ad_id": 99}).tolist()


def test_device_features_are_dropped_unless_personalised():
    full, bare = ENCODER.context(request(), True), ENCODER.context(request(), False)
    assert full[0, 0] != 0
    assert bare[0, 0] == 0
    assert full[0, 1] == bare[0, 1] != 0


def test_missing_and_unknown_features_read_as_padding():
    empty = ENCODER.context(request(ext=RequestExt({"unheard_of": 1})), True)
    assert not empty.any()


def test_groups_can_be_taken_away_without_touching_the_rest():
    events, outcomes, _ = ENCODER.history(EventLog((event("impression", 1),)))
    inputs = Inputs(ENCODER.context(request(), True), events, outcomes, ENCODER.ads([0]), ENCODER.topics)
    forgotten = inputs.without_history()
    assert not forgotten.events.any()
    assert not forgotten.outcomes.any()
    assert (forgotten.context == inputs.context).all()
    assert inputs.without(ENCODER.page_columns).context.tolist() == [[inputs.context[0, 0], 0]]
    assert inputs.without(ENCODER.device_columns).context.tolist() == [[0, inputs.context[0, 1]]]
    assert inputs.events.any()


def test_a_model_without_a_conversion_head_sees_a_conversion_as_the_click_it_was_trained_on():
    log = EventLog((event("impression", 1), event("conversion", 1)))
    clicks_only = msgspec.structs.replace(SCHEMA, heads=("click",))
    both = msgspec.structs.replace(SCHEMA, heads=("click", "conversion"))
    for schema, outcome in ((clicks_only, "click"), (both, "conversion")):
        _, outcomes, _ = Encoder(schema, MARKET).history(log)
        assert outcomes[-1] == schema.outcome_row(outcome)
