"""Creatives with parts on a device: nothing is shown that was not approved under a trusted key, byte for byte."""

from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from bundle_line import NOW, scorer_of
from small_creative import BRAND, approved, creative, record, with_component
from small_device import DAY, Phone, filled, live, page
from small_store import in_memory

from sottovoce.client.approval import FRAME, Approvals, digest
from sottovoce.client.combination_posterior import Posterior, encode_posterior, learned
from sottovoce.client.device_creatives import creative_file, read_creatives
from sottovoce.client.reasons import Loss
from sottovoce.client.signed_approvals import Statement, sign_approvals
from sottovoce.models.signing import generate_key

APPROVER, OTHER = generate_key(), generate_key()
TRUSTED = (APPROVER.public_key(),)
CRIDS = [f"a{number}" for number in range(6)]
LATER = NOW + timedelta(minutes=31)

tmp_path = in_memory


def signed(approvals, version=1, days=30, keys=(APPROVER,)):
    return sign_approvals(Statement(version=version, expires=NOW + days * DAY, approvals=approvals), keys)


def everything(*more):
    """Approvals of all six creatives, and more records."""
    records = [one for crid in CRIDS for one in approved(creative(crid=crid)).records]
    return Approvals(1, (*records, *more))


class Shop(Phone):
    """A phone whose six ads have creatives with parts, all of them approved."""

    def open(self, now=NOW, approvers=TRUSTED, **changes):
        return super().open(now, approvers=approvers, **changes)

    def write(self, name, data):
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


@pytest.fixture
def shop(tmp_path):
    filled(tmp_path, most=0)
    made = Shop(tmp_path, scorer_of)
    for crid in CRIDS:
        made.write(f"creatives/{creative_file(crid)}", msgspec.json.encode(creative(crid=crid)))
        made.write(f"guardrails/{creative_file(crid)}", msgspec.json.encode(BRAND))
    made.write("approvals.signed", signed(everything()))
    return made


def shown(device, now=NOW):
    return device.pick(page(), now)


def refused(device, now=NOW, notes="not shown"):
    """Nothing is shown at all, each ad for want of an approval, and a note says why."""
    decision = shown(device, now)
    assert decision.winner is None
    assert set(decision.reasons) <= {Loss.AUDIT_PENDING, Loss.AUDIT_REFUSED, Loss.NO_COMBINATION}
    assert notes in " ".join(device.notes)
    return True


def test_approved_parts_are_shown_and_what_becomes_of_them_is_learnt(shop):
    with closing(shop.open()) as device:
        assert device.notes == ()
        first = live(device, NOW, click=True)
        parts = first.combination.parts
        assert (first.combination.level, len(parts)) == ("bandit", 3)
        moment = device._pages.of("r0").moment
        live(device, LATER, 1)
        shown_digests = [digest(creative(crid=first.winner.crid), part)[:32] for part in parts]
        expected = learned(Posterior(), shown_digests, moment, True)
        assert device.asked.parts == expected
    with closing(shop.open(LATER)) as device:
        shown(device, LATER)
        assert device.asked.parts == expected


def test_shipped_beliefs_count_and_damaged_ones_are_none_with_a_note(shop):
    liked = digest(creative(crid="a1"), "title/bold")[:32]
    shipped = Posterior(1, {liked: (4.0, 0.01)})
    shop.write("parts.json", encode_posterior(shipped))
    with closing(shop.open()) as device:
        assert device._in_use.creatives.shipped == shipped
        assert device.notes == ()
    shop.write("parts.json", b"{")
    with closing(shop.open()) as device:
        assert shown(device).combination.level == "bandit"
        assert "beliefs about parts start from nothing" in " ".join(device.notes)


def test_an_approval_that_one_byte_was_changed_of_is_none(shop):
    data = signed(everything())
    for place in (5, len(data) // 3, len(data) // 2, len(data) - 60, len(data) - 3):
        shop.write("approvals.signed", data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with closing(shop.open()) as device:
            assert refused(device, notes="creatives with parts are not shown")


def test_what_was_changed_after_it_was_approved_is_not_shown_and_the_rest_is(shop):
    with closing(shop.open()) as device:
        for crid in CRIDS:
            title = with_component("title", 0, text="Tea that takes its tame")
            shop.write(f"creatives/{crid}.json", msgspec.json.encode(msgspec.structs.replace(title, crid=crid)))
        device.reload(NOW)
        assert {shown(device).combination.parts[0] for _ in range(4)} == {"title/bold"}
        for crid in CRIDS:
            link = creative(crid=crid, link="https://www.tea.example/autumm")
            shop.write(f"creatives/{crid}.json", msgspec.json.encode(link))
        device.reload(NOW)
        assert refused(device, notes="the frame is changed")


def nobody_trusted(shop):
    return shop.open(approvers=())


def another_key(shop):
    return shop.open(approvers=(OTHER.public_key(),))


def one_key_of_two(shop):
    return shop.open(approvers=(APPROVER.public_key(), OTHER.public_key()))


def no_approvals(shop):
    (shop.folder / "approvals.signed").unlink()
    return shop.open()


def unsigned(shop):
    shop.write("approvals.signed", msgspec.json.encode(everything()))
    return shop.open()


def a_folder(shop):
    no_approvals(shop).close()
    (shop.folder / "approvals.signed").mkdir()
    return shop.open()


def no_creative_can_be_read(shop):
    for path in (shop.folder / "creatives").iterdir():
        path.write_bytes(b"{")
    return shop.open()


def others_names(shop):
    for number, crid in enumerate(CRIDS):
        shop.write(f"creatives/{crid}.json", msgspec.json.encode(creative(crid=CRIDS[number - 1])))
    return shop.open()


def rules_that_cannot_be_read(shop):
    for crid in CRIDS:
        shop.write(f"guardrails/{crid}.json", b"[]")
    return shop.open()


def denied(shop):
    records = [record(creative(crid=crid), FRAME, 4, by="law/Bo") for crid in CRIDS]
    shop.write("approvals.signed", signed(everything(*records)))
    return shop.open()


CASES = [
    nobody_trusted,
    another_key,
    one_key_of_two,
    no_approvals,
    unsigned,
    a_folder,
    no_creative_can_be_read,
    others_names,
    rules_that_cannot_be_read,
    denied,
]


@pytest.mark.parametrize("case", CASES, ids=lambda one: one.__name__)
def test_what_is_not_approved_or_cannot_be_read_is_not_shown(shop, case):
    with closing(case(shop)) as device:
        assert refused(device)


def test_an_ad_without_a_creative_is_shown_as_the_catalogue_has_it(shop):
    (shop.folder / "creatives" / "a3.json").unlink()
    (shop.folder / "approvals.signed").unlink()
    with closing(shop.open()) as device:
        decision = shown(device)
        assert (decision.winner.crid, decision.combination) == ("a3", None)


def test_older_approvals_do_not_come_back_neither_after_a_restart_nor_after_deleting_everything(shop):
    with closing(shop.open()) as device:
        shop.write("approvals.signed", signed(everything(), version=3))
        device.reload(NOW)
        assert shown(device).winner
        device.delete_all(NOW)
    shop.write("approvals.signed", signed(everything(), version=2))
    with closing(shop.open()) as device:
        assert refused(device, notes="older than 3")


def test_approvals_begin_and_end_while_the_device_is_open_and_their_list_does(shop):
    ends, begins = NOW + DAY / 2, NOW + DAY
    records = [
        record(creative(crid=crid), subject, at=at, until=until)
        for crid in CRIDS
        for subject in (FRAME, *creative(crid=crid).part)
        for at, until in ((NOW - DAY, ends), (begins, NOW + 20 * DAY))
    ]
    shop.write("approvals.signed", signed(Approvals(1, tuple(records)), days=2))
    with closing(shop.open()) as device:
        assert {one.until for one in device._in_use.creatives.ready.values()} == {ends}
        second = timedelta(seconds=1)
        found = [
            shown(device, now).winner is not None
            for now in (NOW, ends - second, ends, begins - second, begins, NOW + 2 * DAY - second, NOW + 2 * DAY, NOW)
        ]
        assert found == [True, True, False, False, True, True, False, True]


def test_nothing_is_shown_beyond_the_end_of_the_list_even_where_each_approval_lasts_longer(shop):
    shop.write("approvals.signed", signed(everything(), days=2))
    with closing(shop.open()) as device:
        shown(device)
        assert device.asked.pick().winner
        assert replace(device.asked, now=NOW + 3 * DAY).pick().winner is None


def test_a_crid_may_hold_whatever_a_file_name_may_not(tmp_path):
    crid = "../a 1/%"
    (tmp_path / "creatives").mkdir()
    (tmp_path / "creatives" / creative_file(crid)).write_bytes(msgspec.json.encode(creative(crid=crid)))
    found = read_creatives(tmp_path, (), 1, NOW)
    assert (set(found.ready), found.ready[crid].creative.crid) == ({crid}, crid)
