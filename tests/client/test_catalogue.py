import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_market import ad, campaign, catalogue, market, refusal

from sottovoce.client.catalogue import MAX_BYTES, decode_catalogue
from sottovoce.client.columns import columns
from sottovoce.privacy.errors import DeviceError

GOOD = {
    "version": 1,
    "cur": "USD",
    "cattax": 8,
    "campaigns": [
        {
            "cid": "c1",
            "seat": "advertiser-1",
            "adomain": ["advertiser-1.example"],
            "cat": ["1058"],
            "price": 0.8,
            "pricing": "cpc",
            "start": "2026-11-01T00:00:00Z",
            "end": "2026-12-01T00:00:00Z",
            "dayparts": [{"dow": [0, 6], "start_minute": 0, "end_minute": 1440}],
            "caps": [{"level": "creative", "event": "impression", "max": 3, "window_s": 86400}],
            "throttle": 1.0,
        }
    ],
    "ads": [
        {"crid": "a1", "cid": "c1", "mtype": 1, "w": 320, "h": 50, "language": "en", "attr": [], "audit": 3}
        | {"title": "T", "sponsored": "advertiser-1", "features": {"ad_id": 17, "category": 12}}
    ],
}


def changed(path: str, value: object) -> bytes:
    """GOOD with one value replaced; `path` like "ads.0.cid"."""
    copy = msgspec.json.decode(msgspec.json.encode(GOOD))
    node = copy
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in way:
        node = node[step]
    node[last] = value
    return msgspec.json.encode(copy)


def test_a_catalogue_is_read_as_written():
    got = decode_catalogue(msgspec.json.encode(GOOD))
    assert got.campaign["c1"].dayparts[0].dow == (0, 6)
    assert got.ads[got.place["a1"]].features == {"ad_id": 17, "category": 12}
    assert decode_catalogue(msgspec.json.encode(got)) == got


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("ads.0.cid", "c9", "'c9', which is not listed"),
        ("ads.0.mtype", 9, "$.ads[0].mtype"),
        ("ads.0.colour", "red", "colour"),
        ("ads.0.features", {"x": True}, "features"),
        ("ads.0.features", {"x": 2**60}, "features"),
        ("campaigns.0.price", -1, "price"),
        ("campaigns.0.throttle", 1.01, "throttle"),
        ("campaigns.0.pricing", "cpx", "pricing"),
        ("campaigns.0.end", "2026-10-01T00:00:00Z", "ends before it starts"),
        ("campaigns.0.start", "2026-11-01T00:00:00", "start"),
        ("campaigns.0.caps.0.window_s", 0, "window_s"),
        ("campaigns.0.caps", GOOD["campaigns"][0]["caps"] * 21, "caps"),
        ("campaigns.0.dayparts.0.end_minute", 1441, "end_minute"),
        (
            "campaigns.0.dayparts.0",
            {"dow": [0], "start_minute": 600, "end_minute": 600},
            "'c1', dayparts[0] ends before",
        ),
        ("cur", "usd", "cur"),
        ("version", 2, "version"),
    ],
)
def test_a_wrong_value_is_refused_with_file_and_place(path, value, named):
    with pytest.raises(DeviceError) as caught:
        decode_catalogue(changed(path, value), "mine.json")
    assert caught.value.what.startswith("mine.json: ")
    assert named in caught.value.what
    assert caught.value.todo


def test_an_ad_or_campaign_given_twice_is_refused():
    with pytest.raises(DeviceError, match=r"ads\[1\]: crid 'a1' is given twice"):
        catalogue((campaign(),), (ad(), ad()))
    with pytest.raises(DeviceError, match=r"campaigns\[1\]: cid 'c1' is given twice"):
        catalogue((campaign(), campaign()), ())


def test_a_catalogue_over_the_limit_is_refused_before_it_is_parsed():
    with pytest.raises(DeviceError, match="bytes"):
        decode_catalogue(b" " * (MAX_BYTES + 1))


def test_thousands_of_ads_are_read_and_share_their_forms():
    got = decode_catalogue(msgspec.json.encode(market(5000)))
    assert len(got.ads) == 5000
    forms = columns(got).forms
    assert len(forms.audit) == 1
    assert set(forms.of) == {0}


@given(
    st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["version", "cur", "cattax", "campaigns", "ads", "cid", "crid"]), inner, max_size=5
                )
            ),
            max_leaves=12,
        ).map(msgspec.json.encode),
    )
)
def test_whatever_the_bytes_only_a_device_error_comes_out(data):
    said = refusal(decode_catalogue, data)
    assert said is None or said.startswith("catalogue.json: ")


@given(st.integers(0, len(msgspec.json.encode(GOOD)) - 1), st.integers(0, 255))
def test_whatever_byte_is_changed_only_a_device_error_comes_out(at, byte):
    data = bytearray(msgspec.json.encode(GOOD))
    data[at] = byte
    said = refusal(decode_catalogue, bytes(data))
    assert said is None or said.startswith("catalogue.json: ")


def test_nesting_without_end_is_refused():
    with pytest.raises(DeviceError):
        decode_catalogue(b'{"version":1,"ads":' + b"[" * 200_000)
