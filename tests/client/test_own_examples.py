"""Which of a device's own events become training rows, and what they say."""

from datetime import timedelta

import msgspec
import numpy as np
import pytest
from small_market import NOW, SCHEMA, ad, campaign, catalogue, request

from sottovoce.client.controls import Controls, mute, pause
from sottovoce.client.events import Event, EventLog
from sottovoce.client.own_examples import OutcomeWindow, own_examples, page_context
from sottovoce.client.remembered import remembered
from sottovoce.client.request import Publisher

DAY = timedelta(days=1)
ADS = catalogue(
    (campaign("c0"), campaign("c1"), campaign("c2", cat=("1002",))),
    tuple(ad(f"a{n}", f"c{n}", features={"ad_id": n, "category": n, "advertiser": n}) for n in range(3)),
)
DEVICE = {"device_class": "phone-mid"}


def happened(hours_ago, crid, what="impression", cid=None, features=None, **context):
    number = int(crid[1:])
    shown = {"ad_id": number, "category": number, "advertiser": number} if features is None else features
    return Event(NOW - timedelta(hours=hours_ago), what, crid, cid or f"c{number}", shown, context)


def rows(*events, controls=None, schema=SCHEMA, **changes):
    return own_examples(EventLog(events), ADS, schema, DEVICE, controls or Controls(), NOW, **changes)


def test_rows_stand_in_the_order_of_the_log_with_what_became_of_each():
    found = rows(
        happened(99, "a0", page_category="1"),
        happened(98, "a1", page_category="2"),
        happened(97, "a1", "click"),
        happened(96, "a1", page_category="3"),
        happened(95, "a1", "conversion"),
        happened(94, "a0", "dismiss"),
    )
    page = SCHEMA.context[1]
    assert found.labels.tolist() == [[0, 0], [1, 0], [1, 1]]
    assert found.ad.tolist() == [0, 1, 1]
    assert found.context[:, 0].tolist() == [SCHEMA.row(page, value) for value in ("1", "2", "3")]
    assert found.device.tolist() == [[SCHEMA.row(SCHEMA.context[0], "phone-mid")]]
    assert found.catalogue.tolist() == [SCHEMA.encode_one(SCHEMA.ad, one.features).tolist() for one in ADS.ads]


def test_sensitive_ads_and_campaigns_that_left_are_no_rows():
    found = rows(happened(99, "a2"), happened(98, "a7", cid="gone"), happened(97, "a0"))
    assert found.ad.tolist() == [0]


def test_an_ad_counts_as_it_was_shown_and_stands_behind_the_catalogue():
    changed = {"ad_id": 1, "category": 5, "advertiser": 1}
    left = {"ad_id": 9, "category": 4, "advertiser": 0}
    found = rows(
        happened(99, "a1", features=changed),
        happened(98, "a1"),
        happened(97, "a9", cid="c0", features=left),
        happened(96, "a1", features=changed),
    )
    assert found.ad.tolist() == [3, 1, 4, 3]
    assert found.catalogue[3].tolist() == SCHEMA.encode_one(SCHEMA.ad, changed).tolist()
    assert found.catalogue[4].tolist() == SCHEMA.encode_one(SCHEMA.ad, left).tolist()
    assert len(found.catalogue) == 5


def test_an_impression_too_young_for_its_outcome_waits_whatever_became_of_it():
    window = OutcomeWindow(click_s=3600.0, conversion_s=36_000.0)
    events = [happened(10, "a0"), happened(9.9, "a1"), happened(9.8, "a1", "click"), happened(-1, "a0")]
    assert rows(*events, window=window).ad.tolist() == [0]
    clicks = msgspec.structs.replace(SCHEMA, heads=("click",))
    assert rows(*events, window=window, schema=clicks).labels.tolist() == [[0], [1]]
    assert rows(*events, window=OutcomeWindow(click_s=0.0, conversion_s=0.0)).ad.tolist() == [0, 1]


def test_the_longer_window_holds_for_every_row():
    assert OutcomeWindow(click_s=7200.0, conversion_s=60.0).of(SCHEMA) == timedelta(hours=2)
    assert OutcomeWindow().of(SCHEMA) == DAY


@pytest.mark.parametrize(
    ("controls", "left"),
    [
        (Controls(), [0, 1, 0]),
        (pause(Controls()), []),
        (Controls(since=NOW - timedelta(hours=70)), [0]),
        (mute(Controls(), "crids", "a0"), [1]),
        (mute(Controls(), "seats", "advertiser-c1"), [0, 0]),
        (mute(Controls(), "categories", "1058", 8), []),
    ],
    ids=["none", "paused", "reset", "muted ad", "muted advertiser", "muted category"],
)
def test_what_the_person_hides_is_not_learned_from(controls, left):
    events = happened(80, "a0"), happened(75, "a1"), happened(60, "a0")
    assert rows(*events, controls=controls).ad.tolist() == left


def test_a_click_before_the_reset_is_not_a_label_after_it():
    events = happened(80, "a0"), happened(79, "a0", "click"), happened(60, "a0")
    assert rows(*events, controls=Controls(since=NOW - timedelta(hours=70))).labels.tolist() == [[0, 0]]


def test_a_device_that_saw_nothing_is_a_device_without_rows():
    found = rows()
    assert (found.devices, found.rows, found.context.shape, found.labels.shape) == (1, 0, (0, 1), (0, 2))


def test_every_row_is_one_that_serving_remembers():
    rng = np.random.default_rng(4)
    whats = ["impression", "impression", "click", "conversion", "dismiss"]
    events = [happened(200 - n, f"a{rng.integers(0, 3)}", whats[rng.integers(0, 5)]) for n in range(100)]
    found, past = rows(*events), remembered(EventLog(tuple(events)), ADS, 1000)
    outcomes = [{(0, 0): "seen", (1, 0): "click", (1, 1): "conversion"}[tuple(one)] for one in found.labels.tolist()]
    assert outcomes == [one.outcome for one in past]
    assert [f"a{place}" for place in found.ad] == [one.event.crid for one in past]
    assert len(set(outcomes)) == 3


def test_a_page_is_remembered_by_the_features_of_the_moment_and_a_sensitive_one_by_nothing():
    features = {"page_category": "483", "device_class": "tablet", "ad_id": 3, "other": 1}
    asked = msgspec.structs.replace(request(), ext=msgspec.structs.replace(request().ext, features=features))
    for publisher in (Publisher(cat=("483",), cattax=9), Publisher()):
        plain = msgspec.structs.replace(asked, app=publisher)
        assert page_context(plain, SCHEMA) == {"page_category": "483"}
    for publisher in (
        Publisher(cat=("483", "286"), cattax=9),
        Publisher(pagecat=("453",), cattax=9),
        Publisher(cat=("1",), cattax=500),
    ):
        assert page_context(msgspec.structs.replace(asked, app=publisher), SCHEMA) == {}


@pytest.mark.parametrize("flag", [{"regs": {"coppa": 1}}, {"regs": {"ext": {"gpc": "1"}}}, {"device": {"lmt": 1}}])
def test_a_page_that_forbids_personalisation_is_not_remembered_either(flag):
    asked = msgspec.convert(msgspec.to_builtins(request()) | flag, type(request()))
    assert asked.restriction
    assert page_context(asked, SCHEMA) == {}
