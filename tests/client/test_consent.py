import msgspec
import pytest
from gpp_strings import us_national
from hypothesis import given
from hypothesis import strategies as st
from small_market import refusal

from sottovoce.client.consent import Consent, consent, decode_consent
from sottovoce.privacy.errors import DeviceError


def tcf(*purposes: int, **changes: object) -> dict[str, object]:
    given = "".join("1" if number in purposes else "0" for number in range(1, 12))
    return {"IABTCF_gdprApplies": 1, "IABTCF_PurposeConsents": given, "IABTCF_PolicyVersion": 5, "gpc": False} | changes


def gates(keys: dict[str, object]) -> tuple[bool, bool, bool, bool]:
    got = consent(keys)
    return got.serve_personalised, got.learn, got.report, got.serve_contextual


OFF = (False, False, False)


@pytest.mark.parametrize(
    ("purposes", "expected"),
    [
        (range(1, 12), (True, True, True, True)),
        ((), (False, False, False, False)),
        ((1, 2, 3, 4), (True, False, False, True)),
        ((1, 3), (False, False, False, False)),
        ((1, 3, 10), (False, True, False, False)),
        ((1, 4), (False, False, False, False)),
        ((3, 4, 10), (False, False, False, False)),
        ((2,), (False, False, False, True)),
        ((7,), (False, False, True, False)),
    ],
)
def test_each_gate_opens_for_its_own_purposes(purposes, expected):
    assert gates(tcf(*purposes)) == expected


def test_nothing_said_means_nothing_allowed_but_the_page():
    assert gates({}) == (*OFF, True)
    assert Consent().serve_personalised is Consent().learn is Consent().report is False


ALL = tuple(range(1, 12))


@pytest.mark.parametrize(
    "wrong",
    [
        {"IABTCF_PolicyVersion": 3},
        {"IABTCF_PolicyVersion": None},
        {"IABTCF_PolicyVersion": "5"},
        {"IABTCF_PurposeConsents": None},
        {"IABTCF_PurposeConsents": ""},
        {"IABTCF_PurposeConsents": "11111x11111"},
        {"IABTCF_PurposeConsents": "1" * 25},
        {"IABTCF_PurposeConsents": 11111111111},
        {"IABTCF_gdprApplies": "1"},
        {"IABTCF_gdprApplies": True},
        {"IABTCF_gdprApplies": 2},
        {"IABTCF_gdprApplies": None},
        {"gpc": True},
        {"gpc": 1},
        {"gpc": "false"},
        {"gpc": None},
        {"IABGPP_HDR_GppString": "nonsense"},
        {"IABGPP_HDR_GppString": 7},
        {"IABGPP_HDR_GppString": us_national(2, 2, 2, gpc=1)},
        {"IABGPP_HDR_GppString": "DBABh4A~BAAAAAAA"},  # a section other than 2 and 7
    ],
)
def test_a_malformed_or_opposing_key_closes_every_gate(wrong):
    assert gates(tcf(*ALL))[:3] == (True, True, True)
    got = consent(tcf(*ALL) | wrong)
    assert (got.serve_personalised, got.learn, got.report) == OFF
    assert got.notes


def us(sale: int, sharing: int, targeted: int, child: int = 0) -> dict[str, object]:
    return {"IABTCF_gdprApplies": 0, "IABGPP_HDR_GppString": us_national(sale, sharing, targeted, child)}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (us(2, 2, 2), (True, True, True, True)),
        (us(0, 2, 2), (True, True, True, True)),
        (us(1, 2, 2), (*OFF, True)),
        (us(2, 1, 2), (False, False, False, True)),
        (us(2, 2, 1), (False, False, True, True)),
        (us(2, 0, 2), (True, False, False, True)),
        (us(2, 2, 0), (False, False, True, True)),
        (us(0, 0, 0), (*OFF, True)),
        (us(2, 2, 2, child=1), (*OFF, True)),
        ({"IABTCF_gdprApplies": 0}, (*OFF, True)),
        ({"IABTCF_gdprApplies": 0, "IABTCF_PurposeConsents": "1" * 11, "IABTCF_PolicyVersion": 5}, (*OFF, True)),
    ],
)
def test_outside_gdpr_the_us_national_section_decides(keys, expected):
    assert gates(keys) == expected


def test_an_american_opt_out_counts_under_gdpr_too():
    assert gates(tcf(*ALL) | {"IABGPP_HDR_GppString": us_national(2, 2, 1)}) == (False, False, True, True)


def test_no_key_can_open_what_global_privacy_control_closed():
    for keys in (tcf(*ALL), us(2, 2, 2)):
        assert gates(keys | {"gpc": True})[:3] == OFF


def test_a_file_is_read_and_other_keys_are_ignored():
    data = msgspec.json.encode(tcf(*ALL) | {"IABTCF_TCString": "C...", "other": [1, {"x": 2}]})
    assert decode_consent(data).serve_personalised


@pytest.mark.parametrize("bad", [b"", b"[]", b"null", b"{", b"\xff", b'{"a":' * 50_000, b" " * 70_000])
def test_a_file_that_is_no_object_is_refused(bad):
    with pytest.raises(DeviceError, match=r"tcf\.json: "):
        decode_consent(bad, "tcf.json")


KEYS = ("IABTCF_gdprApplies", "IABTCF_PurposeConsents", "IABTCF_PolicyVersion", "IABGPP_HDR_GppString", "gpc")


@given(
    st.dictionaries(
        st.sampled_from(KEYS),
        st.none()
        | st.booleans()
        | st.integers(-1, 9)
        | st.text(max_size=30)
        | st.text("01", max_size=30)
        | st.lists(st.integers()),
    )
)
def test_gates_never_open_without_valid_grounds_whatever_the_keys_hold(keys):
    got = consent(keys)
    if got.serve_personalised or got.learn or got.report:
        assert keys.get("gpc", False) is False
        applies = keys["IABTCF_gdprApplies"]
        assert type(applies) is int
        if applies == 1:
            assert keys["IABTCF_PolicyVersion"] >= 4
            assert set(keys["IABTCF_PurposeConsents"]) <= {"0", "1"}
        else:
            assert keys["IABGPP_HDR_GppString"]


@given(st.binary(max_size=200))
def test_whatever_the_bytes_only_a_device_error_comes_out(data):
    said = refusal(decode_consent, data)
    assert said is None or said.startswith("consent.json: ")
