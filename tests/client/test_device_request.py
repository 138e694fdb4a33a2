import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_market import refusal

from sottovoce.client.request import FORBIDDEN, MAX_BYTES, decode_request
from sottovoce.privacy.errors import DeviceError

GOOD = {
    "id": "r1",
    "at": 2,
    "cur": ["USD"],
    "tmax": 50,
    "imp": [{"id": "1", "banner": {"w": 320, "h": 50}, "bidfloor": 0.0, "bidfloorcur": "USD"}],
    "app": {"bundle": "news.example", "cat": ["483"], "cattax": 9},
    "bcat": [],
    "badv": [],
    "wlang": ["en"],
    "device": {"language": "en"},
    "ext": {"features": {"page_category": "483", "hour": 13}},
}


def encode(**changes):
    return msgspec.json.encode(GOOD | changes)


def test_a_request_is_read_and_unknown_fields_are_ignored():
    got = decode_request(encode(somethingnew={"a": [1]}))
    assert got.place.banner.sizes == {(320, 50)}
    assert got.publisher.categories == {("483", 9)}
    assert got.ext.features == {"page_category": "483", "hour": 13}


@pytest.mark.parametrize("key", sorted(FORBIDDEN))
@pytest.mark.parametrize("value", ["x", None, 0])
def test_a_field_that_names_a_person_is_refused_wherever_it_stands(key, value):
    for place in (
        encode(device={key: value}),
        encode(user={"ext": {key: value}}),
        encode(ext={"features": {key.upper(): value}}),
        encode(imp=[GOOD["imp"][0] | {"ext": [{"deep": {key: value}}]}]),
    ):
        with pytest.raises(DeviceError, match="never accepted") as caught:
            decode_request(place)
        assert key in caught.value.what.lower()


def test_a_user_id_is_refused_and_other_ids_are_not():
    with pytest.raises(DeviceError, match=r"user\.id names a person"):
        decode_request(encode(user={"id": "u1"}))
    decode_request(encode(source={"tid": "t"}, app={"id": "app-1"}))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"imp": []}, "imp"),
        ({"imp": GOOD["imp"] * 2}, "imp"),
        ({"at": 3}, "at"),
        ({"imp": [{"id": "1", "banner": {}, "bidfloor": -1}]}, "bidfloor"),
        ({"cur": ["dollars"]}, "cur"),
        ({"id": ""}, "id"),
        ({"ext": {"features": {"a": [1]}}}, "features"),
    ],
)
def test_a_wrong_value_is_refused_with_file_and_place(change, named):
    with pytest.raises(DeviceError) as caught:
        decode_request(encode(**change), "page.json")
    assert caught.value.what.startswith("page.json: ")
    assert named in caught.value.what


def test_an_absent_taxonomy_means_the_first_one():
    got = decode_request(encode(app={"cat": ["1"], "content": {"cat": ["2"], "cattax": 6}}))
    assert got.publisher.categories == {("1", 1), ("2", 6)}
    assert got.cattax == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"regs": {"coppa": 1}}, "children"),
        ({"regs": {"ext": {"gpc": "1"}}}, "Global Privacy Control"),
        ({"regs": {"ext": {"gpc": 1}}}, "Global Privacy Control"),
        ({"device": {"lmt": 1}}, "followed"),
        ({"device": {"dnt": 1}}, "followed"),
    ],
)
def test_a_request_can_rule_out_personalisation_itself(change, word):
    assert word in decode_request(encode(**change)).restriction
    assert decode_request(encode()).restriction == ""


def test_a_request_over_the_limit_is_refused():
    with pytest.raises(DeviceError, match="bytes"):
        decode_request(b" " * (MAX_BYTES + 1))


def test_nesting_without_end_is_refused():
    with pytest.raises(DeviceError):
        decode_request(b'{"a":' * 10_000)
    with pytest.raises(DeviceError):
        decode_request(b'{"id":"r","imp":[{"id":"1"}],"x":' + b"[" * 900 + b'{"ifa":1}' + b"]" * 900 + b"}")


@given(
    st.binary(max_size=300)
    | st.dictionaries(
        st.sampled_from([*GOOD, "user", "site", "regs"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "w", "cat", "ext"]), inner)
            ),
            max_leaves=8,
        ),
    ).map(lambda change: msgspec.json.encode(GOOD | change))
)
def test_whatever_the_bytes_only_a_device_error_comes_out(data):
    said = refusal(decode_request, data)
    assert said is None or said.startswith("request.json: ")
