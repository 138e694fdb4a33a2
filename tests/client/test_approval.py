"""Nothing is shown but the exact bytes that the right people approved, while their word holds."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_creative import BRAND, DAY, NOW, approved, creative, record, with_component, with_slot

from sottovoce.client.approval import FRAME, Approvals, decode_approvals, digest, statuses
from sottovoce.client.combination import showable
from sottovoce.client.creative import decode_creative
from sottovoce.privacy.errors import DeviceError

TITLE = "title/calm"
GOOD = creative()
BYTES = msgspec.json.encode(GOOD)


def status(*records, of=GOOD, now=NOW, roles=()):
    return statuses(of, Approvals(1, records), now, roles)[TITLE].status


def said(status=3, day=-1, by="brand/Ada", until=30, of=GOOD):
    return record(of, TITLE, status, by, NOW + day * DAY, NOW + until * DAY)


@pytest.mark.parametrize(
    ("records", "roles", "expected"),
    [
        ((), (), 1),
        ((said(),), (), 3),
        ((said(2),), (), 2),
        ((said(4),), (), 4),
        ((said(until=0),), (), 6),
        ((said(until=1),), (), 3),
        ((said(day=1),), (), 1),  # a word from the future
        ((said(day=0),), (), 3),
        ((said(4, day=-3), said(3, day=-2)), (), 3),  # the last word of one person
        ((said(3, day=-3), said(4, day=-2)), (), 4),
        ((said(3, day=-2), said(4, day=-2)), (), 4),  # two at one moment: the stricter
        ((said(4, day=-3), said(3, day=-2, by="brand/Bob")), (), 4),  # nobody overrules a denial of someone else
        ((said(2), said(3, by="legal/Cy")), (), 2),
        ((said(),), ("brand", "legal"), 1),
        ((said(), said(by="legal/Cy")), ("brand", "legal"), 3),
        ((said(), said(4, by="legal/Cy")), ("brand", "legal"), 4),
        ((said(), said(by="legal/Cy", until=0)), ("brand", "legal"), 6),
        ((said(of=with_component("title", 0, text="Other")),), (), 5),
        ((said(4, of=with_component("title", 0, text="Other")),), (), 5),
        ((said(of=with_component("title", 0, text="Other")), said(by="legal/Cy")), (), 5),
        ((said(day=-3, of=with_component("title", 0, text="Other")), said(day=-2)), (), 3),
    ],
)
def test_what_was_said_decides(records, roles, expected):
    assert status(*records, roles=roles) == expected


@pytest.mark.parametrize(
    "changed",
    [
        with_component("title", 0, text="Tea that takes its time\u200b"),
        with_component("title", 0, language="en-GB"),
        with_component("title", 0, provenance=None),
        with_slot(0, color="#202021"),
        with_slot(1, wmin=601),  # another slot of the same template
        creative(crid="a2"),
    ],
)
def test_a_change_of_component_slot_template_or_creative_is_status_5_or_unheard(changed):
    got = statuses(changed, approved(GOOD), NOW)[TITLE]
    assert got.status == (1 if changed.crid != GOOD.crid else 5)


def test_a_change_of_one_component_leaves_the_others_approved():
    got = statuses(with_component("title", 1, text="Other"), approved(GOOD), NOW)
    assert [subject for subject, standing in got.items() if standing.status != 3] == ["title/bold"]


@pytest.mark.parametrize(
    "changes", [{"link": "https://tea.example/"}, {"audience": 10**9}, {"cat": ["1002"]}, {"each_approved": True}]
)
def test_rules_link_and_audience_are_approved_too(changes):
    changed = creative(**changes)
    assert statuses(changed, approved(GOOD), NOW)[FRAME].status == 5
    assert showable(changed, approved(GOOD), BRAND, NOW).combinations == ()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(BYTES) - 1), st.integers(1, 255))
def test_no_flipped_byte_of_a_creative_is_ever_approved(place, mask):
    flipped = BYTES[:place] + bytes([BYTES[place] ^ mask]) + BYTES[place + 1 :]
    try:
        got = decode_creative(flipped)
    except DeviceError:
        return
    if got == GOOD:  # another spelling of the same JSON, if there is one
        return
    after = statuses(got, approved(GOOD), NOW)
    for subject, standing in after.items():
        same = subject == FRAME or subject in GOOD.part
        assert standing.shown == (same and got.crid == GOOD.crid and digest(got, subject) == digest(GOOD, subject))
    assert not all(standing.shown for standing in after.values())


def test_digests_of_component_frame_and_combination_never_meet():
    subjects = [FRAME, *GOOD.part, "title/calm+picture/cup", "title/calm+picture/leaf"]
    assert len({digest(GOOD, subject) for subject in subjects}) == len(subjects)
    with pytest.raises(ValueError, match="no subject"):
        digest(GOOD, "title/none")


def test_the_canonical_bytes_stay_what_they_are():
    """Approvals outlive releases: another spelling would take back everything that was approved."""
    assert digest(GOOD, TITLE) == "de628022b3206c38ad97beff2f87a50c0592f1fe73bca58f28fff3e0bcec2507"
    assert digest(GOOD, FRAME) == "c717673fa6f0588c0c9b86e4ac359cdadb66836bfab41484c5c84687a32fc83a"


def test_a_combination_has_an_approval_of_its_own_where_the_creative_asks_for_it():
    strict = creative(each_approved=True)
    name = "title/calm+picture/cup+button/shop"
    assert showable(strict, approved(strict), BRAND, NOW).reason == "no combination is approved"
    ready = showable(strict, approved(strict, record(strict, name)), BRAND, NOW)
    assert ready.combinations == (tuple(name.split("+")),)
    other = msgspec.structs.replace(strict, audience=5)
    assert statuses(other, approved(strict, record(strict, name)), NOW, (), [tuple(name.split("+"))])[name].status == 5


def test_the_list_holds_only_as_long_as_every_word_in_it():
    ready = showable(GOOD, approved(GOOD, said(4, day=3), said(day=-2, by="b/x", until=9)), BRAND, NOW)
    assert (ready.since, ready.until) == (NOW - DAY, NOW + 3 * DAY)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"until": "2026-11-19T00:00:00Z"}, "$.records[0]"),
        ({"status": 5}, "$.records[0].status"),
        ({"sha256": "A" * 64}, "$.records[0].sha256"),
        ({"at": "2026-11-01T00:00:00"}, "$.records[0].at"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_wrong_record_is_refused_with_its_place(change, named):
    good = {"crid": "a1", "subject": TITLE, "sha256": "a" * 64, "status": 3, "by": "x"}
    good |= {"at": "2026-11-19T00:00:00Z", "until": "2027-01-01T00:00:00Z"}
    assert decode_approvals(msgspec.json.encode({"version": 1, "records": [good]})).records[0].role == "x"
    with pytest.raises(DeviceError) as caught:
        decode_approvals(msgspec.json.encode({"version": 1, "records": [good | change]}), "list.json")
    assert named in caught.value.what
    assert caught.value.what.startswith("list.json")
