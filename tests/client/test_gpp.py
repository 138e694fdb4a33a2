import pytest
from gpp_strings import ALPHABET, text, us_national
from hypothesis import given
from hypothesis import strategies as st
from small_market import refusal

from sottovoce.client.gpp import MAX_CHARACTERS, decode_platform
from sottovoce.privacy.errors import DeviceError


@pytest.mark.parametrize(
    ("header", "sections"), [("DBABMA", (2,)), ("DBABLA", (7,)), ("DBACNYA", (2, 6)), ("DBAA", ())]
)
def test_published_headers_list_their_sections(header, sections):
    body = ["BVVqAAAAAAA.QA"] if 7 in sections else ["x"] * len(sections)
    assert decode_platform("~".join([header, *body])).sections == sections


def test_a_range_of_sections_is_read():
    # type 3, version 1, one entry: a range from 6 (fibonacci 10011) over 2 more (011), then sections 6, 7, 8
    header = text("000011" + "000001" + f"{1:012b}" + "1" + "10011" + "011")
    assert decode_platform(f"{header}~a~BVVqAAAAAAA~b").sections == (6, 7, 8)


def test_a_published_us_national_string_is_read():
    got = decode_platform("DBABLA~BVVqAAAAAAA.QA").us_national
    assert (got.sale, got.sharing, got.targeted, got.known_child, got.gpc) == (2, 2, 2, False, False)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("sale", "sharing", "targeted"), [(1, 2, 0), (2, 1, 2), (0, 0, 1)])
@pytest.mark.parametrize("child", [0, 1])
@pytest.mark.parametrize("gpc", [None, 0, 1])
def test_every_field_of_the_section_is_read(version, sale, sharing, targeted, child, gpc):
    got = decode_platform(us_national(sale, sharing, targeted, child, gpc, version)).us_national
    assert (got.sale, got.sharing, got.targeted) == (sale, sharing, targeted)
    assert (got.known_child, got.gpc) == (bool(child), bool(gpc))


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "C",
        "CPX",
        "DBABLA",
        "DBABLA~BVVqAAAAAAA~x",
        "DBABLA~",
        "DBABLA~B",
        "DBABLA~DVVqAAAAAAA",
        "DBABLA~BVV!",
        "DBABL",
        text("000011" + "000001" + "1" * 12 + "1" + "0" * 60 + "11" + "011"),
        "A" * (MAX_CHARACTERS + 1),
    ],
)
def test_a_broken_string_is_refused(bad):
    with pytest.raises(DeviceError, match="GPP string"):
        decode_platform(bad)


@given(st.text(max_size=60) | st.text(ALPHABET + "~.", max_size=80).map(lambda tail: "DBA" + tail))
def test_whatever_the_text_only_a_device_error_comes_out(anything):
    said = refusal(decode_platform, anything)
    assert said is None or said.startswith("GPP string")
