"""What a page and an ad have in common: the same rows in training and on the phone, counted by hand."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sottovoce.models.schema import Feature, FeatureSchema, Topic
from sottovoce.models.topics import NONE, WINDOW, Topics
from sottovoce.privacy.errors import SchemaError

FEATURES = (
    Feature(name="hour", source="context", kind="integer", buckets=24),
    Feature(name="page", source="context", buckets=50),
    Feature(name="crid", source="ad", kind="integer", buckets=9),
    Feature(name="product", source="ad", kind="integer", buckets=5, in_history=True),
    Feature(name="about", source="page_match", kind="integer", buckets=2),
    Feature(name="often", source="read_match", kind="bucket", buckets=3, boundaries=(-0.1, 0.1)),
)
TOPIC = Topic("page", "product", (("pets", 0), ("cats", 0), ("cars", 3)))
SCHEMA = FeatureSchema(features=FEATURES, topic=TOPIC)
TOPICS = Topics(SCHEMA)
ABOUT, OFTEN = SCHEMA.offsets["about"], SCHEMA.offsets["often"]


def pages(*values):
    return SCHEMA.encode(FEATURES[1], values)


def ads(*products):
    return np.stack([SCHEMA.encode_ad({"crid": 1, "product": product}) for product in products])


def test_match_features_are_the_last_columns_and_in_no_catalogue():
    assert [feature.name for feature in SCHEMA.ad] == ["product", "crid", "about", "often"]
    assert [feature.name for feature in SCHEMA.context] == ["hour", "page"]
    assert ads(3).tolist() == [[SCHEMA.offsets["product"] + 3, SCHEMA.offsets["crid"] + 1, 0, 0]]
    assert SCHEMA.encode_ad({"product": 3, "about": 1, "often": 5.0})[2:].tolist() == [0, 0]


def test_topics_are_those_of_the_pairs_and_nothing_else_has_one():
    assert TOPICS.count == 2
    assert TOPICS.of_rows(pages("pets", "cats", "cars", "opera", None)).tolist() == [0, 0, 1, NONE, NONE]
    assert TOPICS.of_ads(ads(0, 3, 4, None)).tolist() == [0, 1, NONE, NONE]


@pytest.mark.parametrize(
    ("page", "read", "product", "rows"),
    [
        ("cats", (0, 0), 0, (ABOUT + 1, OFTEN + 1)),
        ("cats", (0, 0), 3, (ABOUT, OFTEN + 1)),
        ("opera", (0, 0), 3, (0, OFTEN + 1)),
        ("cars", (0, 0), 4, (0, 0)),
        # ln((5 + 1) * 2 / (6 + 2)) = 0.41 and ln((1 + 1) * 2 / (6 + 2)) = -0.69
        ("cats", (5, 1), 0, (ABOUT + 1, OFTEN + 2)),
        ("cats", (5, 1), 3, (ABOUT, OFTEN)),
    ],
)
def test_a_match_worked_out_by_hand(page, read, product, rows):
    found = TOPICS.match(TOPICS.of_rows(pages(page)), np.array([read]), TOPICS.of_ads(ads(product)))
    assert found.tolist() == [list(rows)]


def test_rows_of_a_device_see_the_pages_before_them_and_no_other_devices():
    read = pages("cats", "cars", "pets", "opera", "cats", "cars")
    before = TOPICS.read_before(TOPICS.of_rows(read), np.array([0, 4, 4, 6]))
    assert before.tolist() == [[0, 0], [1, 0], [1, 1], [2, 1], [0, 0], [1, 0]]


def test_pages_older_than_the_window_no_longer_count():
    read = np.array([1] * 5 + [0] * (WINDOW + 1))
    before = TOPICS.read_before(read, np.array([0, len(read)]))
    assert before[-1].tolist() == [WINDOW, 0]
    assert before[WINDOW].tolist() == [WINDOW - 5, 5]
    assert before[WINDOW + 2].tolist() == [WINDOW - 3, 3]


@given(
    read=st.lists(st.sampled_from(["cats", "cars", "opera", None]), max_size=30),
    products=st.lists(st.sampled_from([0, 3, 4, None]), min_size=1, max_size=5),
)
def test_what_is_read_can_be_forgotten_and_the_page_left_each_by_itself(read, products):
    known = np.bincount(TOPICS.of_rows(pages(*read, "opera")) + 1, minlength=3)[1:][None]
    some = ads(*products)
    here, own = TOPICS.of_rows(pages("cats")), TOPICS.of_ads(some)
    some[:, -2:] = TOPICS.match(here, known, own)
    fresh = some.copy()
    fresh[:, -2:] = TOPICS.match(here, TOPICS.nothing, own)
    assert (TOPICS.unread(some) == fresh).all()
    gone = some.copy()
    gone[:, -2] = 0
    assert (TOPICS.off_page(some) == gone).all()


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_lift_of_two_topics_has_the_sign_of_their_difference(mine, other):
    rows = TOPICS.match(np.array([NONE]), np.array([[mine, other]]), np.array([0]))
    lift = math.log((mine + 1) * 2 / (mine + other + 2))
    assert rows[0, 1] == OFTEN + (lift >= -0.1) + (lift >= 0.1)


BAD = {
    "a topic without match features": {"features": FEATURES[:4]},
    "match features without a topic": {"topic": msgspec.UNSET},
    "a page feature that is none": {"topic": Topic("product", "product", (("cats", 0),))},
    "an ad feature that is none": {"topic": Topic("page", "page", (("cats", 0),))},
    "no pair": {"topic": Topic("page", "product", ())},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_schemas_that_compare_nothing_are_refused(change):
    with pytest.raises(SchemaError):
        msgspec.structs.replace(SCHEMA, **change)


@pytest.mark.parametrize(
    "feature",
    [
        {"source": "page_match", "buckets": 2},
        {"source": "page_match", "kind": "integer", "buckets": 3},
        {"source": "read_match", "kind": "integer", "buckets": 2},
        {"source": "read_match", "kind": "bucket", "buckets": 1, "in_history": True},
    ],
    ids=str,
)
def test_match_features_of_another_kind_are_refused(feature):
    with pytest.raises(SchemaError):
        Feature(name="odd", **feature)


def test_a_schema_without_a_topic_adds_nothing():
    plain = FeatureSchema(features=FEATURES[:4])
    topics = Topics(plain)
    one = plain.encode_ad({"product": 3})[None]
    assert topics.columns == topics.count == 0
    assert (topics.unread(one) == one).all()
    assert (topics.off_page(one) == one).all()
    assert topics.match_rows(pages(), np.array([0, 0]), one).shape == (0, 0)
