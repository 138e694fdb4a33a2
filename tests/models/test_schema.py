import contextlib
import hashlib

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sottovoce.models.schema import Feature, FeatureSchema, load_schema
from sottovoce.privacy.errors import SchemaError

DEVICE = Feature(name="kind", source="device", buckets=4)
AD = Feature(name="ad", source="ad", kind="integer", buckets=10, in_history=True)
SIZE = Feature(name="size", source="ad", buckets=3)
PRICE = Feature(name="price", source="ad", kind="bucket", buckets=3, boundaries=(1.0, 2.5), in_history=True)
SCHEMA = FeatureSchema(features=(DEVICE, SIZE, AD, PRICE))


def test_every_feature_owns_its_rows_after_padding_and_before_the_outcomes():
    assert SCHEMA.rows == 1 + 4 + 3 + 10 + 3 + 3
    assert dict(SCHEMA.offsets) == {"kind": 1, "size": 5, "ad": 8, "price": 18}
    assert [SCHEMA.outcome_row(name) for name in ("seen", "click", "conversion")] == [21, 22, 23]


def test_history_features_are_the_first_ad_columns_whatever_the_order_of_declaration():
    assert [feature.name for feature in SCHEMA.ad] == ["ad", "price", "size"]
    assert SCHEMA.history == SCHEMA.ad[:2]


@pytest.mark.parametrize(
    ("feature", "value", "row"),
    [
        (AD, 0, 8),
        (AD, 9, 17),
        (AD, 9.0, 17),
        (AD, "3", 11),
        (AD, 10, 0),
        (AD, -1, 0),
        (AD, 2.5, 0),
        (AD, "nine", 0),
        (PRICE, 0.99, 18),
        (PRICE, 1.0, 19),
        (PRICE, 2.5, 20),
        (PRICE, 1e300, 20),
        (PRICE, float("inf"), 20),
        (AD, float("inf"), 0),
        *((feature, missing, 0) for feature in (AD, PRICE, SIZE) for missing in (None, "", float("nan"))),
    ],
)
def test_a_value_finds_its_row_and_what_is_missing_or_unknown_finds_padding(feature, value, row):
    assert SCHEMA.row(feature, value) == row


def test_the_hash_is_sha256_of_seed_name_and_value_so_that_any_language_can_follow():
    digest = hashlib.sha256(b"0|size|300x250").digest()
    assert SCHEMA.row(SIZE, "300x250") == 5 + int.from_bytes(digest[:8], "big") % 3
    assert SCHEMA.row(SIZE, 7) == SCHEMA.row(SIZE, "7") == SCHEMA.row(SIZE, 7.0)


@given(st.lists(st.one_of(st.none(), st.text(), st.integers(-5, 15), st.floats()), max_size=20))
def test_encoding_a_column_is_encoding_each_value(values):
    for feature in SCHEMA.features:
        rows = SCHEMA.encode(feature, values)
        assert rows.dtype == np.int32
        assert rows.tolist() == [SCHEMA.row(feature, value) for value in values]
        first = SCHEMA.offsets[feature.name]
        assert all(row == 0 or first <= row < first + feature.buckets for row in rows.tolist())


def spelled(text: str, kind: str) -> float | None:
    """The number that a text spells by the grammar, read letter by letter; None where it spells none."""
    rest = text[1:] if text.startswith("-") else text

    def digits() -> str:
        nonlocal rest
        count = 0
        while count < len(rest) and rest[count] in "0123456789":
            count += 1
        found, rest = rest[:count], rest[count:]
        return found

    if not digits():
        return None
    if rest.startswith("."):
        rest = rest[1:]
        part = digits()
        if not part or (kind == "integer" and part.strip("0")):
            return None
    if kind == "bucket" and rest[:1] in ("e", "E"):
        rest = rest[2:] if rest[1:2] in ("+", "-") else rest[1:]
        if not digits():
            return None
    return None if rest else float(text)


NEARLY = st.text("0123456789-+.eE_ \n\t\u0667\uff17\u00b2\u2212xXfdinfa,\0", max_size=8)
NUMERAL = st.from_regex(r"-?[0-9]{1,3}(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
WHOLE = st.from_regex(r"-?0{0,2}[0-9]{1,2}(\.0{1,3})?", fullmatch=True)
STRANGE = st.sampled_from(
    [" ", "\n", "+", "_", "\u00a0", "\u0667", "\uff11", ".", "e", "0x", "f", "\0", "\ufeff", "nan", "inf"]
)
BROKEN = st.tuples(st.one_of(NUMERAL, WHOLE), STRANGE, st.integers(0, 9)).map(
    lambda t: t[0][: t[2]] + t[1] + t[0][t[2] :]
)


@pytest.mark.parametrize("feature", [AD, PRICE], ids=lambda feature: feature.kind)
@example(text="\u0667")
@example(text="\uff17.0")
@example(text="7.\u0660")
@example(text="1e\u0662")
@example(text="7\n")
@example(text="1_0")
@example(text=" 7 ")
@example(text="0x1")
@given(text=st.one_of(st.text(max_size=6), NEARLY, NUMERAL, WHOLE, BROKEN))
def test_text_is_the_number_it_spells_in_plain_ascii_and_anything_else_is_missing(feature, text):
    number = spelled(text, feature.kind)
    assert feature.reads(text) is (number is not None)
    assert SCHEMA.row(feature, text) == (0 if number is None else SCHEMA.row(feature, number))


@given(st.dictionaries(st.sampled_from(["kind", "ad", "size", "other"]), st.one_of(st.none(), st.integers(0, 9))))
def test_a_context_without_a_feature_counts_it_as_missing(values):
    rows = SCHEMA.encode_one(SCHEMA.ad, values).tolist()
    assert rows == [SCHEMA.row(feature, values.get(feature.name)) for feature in SCHEMA.ad]


def test_the_digest_names_every_detail():
    assert load_schema(SCHEMA.canonical()) == SCHEMA
    changed = [
        msgspec.structs.replace(SCHEMA, history_length=21),
        msgspec.structs.replace(SCHEMA, heads=("click", "conversion")),
        msgspec.structs.replace(SCHEMA, features=(DEVICE, AD, SIZE, PRICE)),
        msgspec.structs.replace(SCHEMA, features=(msgspec.structs.replace(DEVICE, seed=1), SIZE, AD, PRICE)),
    ]
    assert len({SCHEMA.digest(), *(schema.digest() for schema in changed)}) == 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: Feature(name="", source="ad", buckets=1),
        lambda: Feature(name="x", source="ad", buckets=0),
        lambda: Feature(name="x", source="ad", buckets=2, boundaries=(1.0,)),
        lambda: Feature(name="x", source="ad", kind="bucket", buckets=3, boundaries=(2.0, 1.0)),
        lambda: Feature(name="x", source="ad", kind="bucket", buckets=2, boundaries=(1.0, 2.0)),
        lambda: Feature(name="x", source="ad", kind="bucket", buckets=2, boundaries=(float("nan"),)),
        lambda: Feature(name="x", source="context", buckets=2, in_history=True),
        lambda: FeatureSchema(features=(DEVICE,)),
        lambda: FeatureSchema(features=(AD,)),
        lambda: FeatureSchema(features=(DEVICE, AD, AD)),
        lambda: FeatureSchema(features=(DEVICE, AD), history_length=0),
        lambda: FeatureSchema(features=(DEVICE, AD), heads=("conversion",)),
    ],
)
def test_a_schema_that_cannot_be_served_is_refused(make):
    with pytest.raises(SchemaError) as refusal:
        make()
    assert refusal.value.todo


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_a_schema_or_a_schema_error(data):
    with contextlib.suppress(SchemaError):
        load_schema(data)


def test_context_columns_are_the_devices_first_whatever_the_order_of_declaration():
    hour = Feature(name="hour", source="context", buckets=4)
    schema = FeatureSchema(features=(hour, DEVICE, AD))
    assert [feature.name for feature in schema.context] == ["kind", "hour"]
