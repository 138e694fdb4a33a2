import os
import stat
from datetime import timedelta

import msgspec
import pytest
from bundle_line import NOW, TableScorer, scorer_of, version
from small_device import ALL, CATEGORIES, DAY, NONE, Phone, catalogue, filled, page

from sottovoce.client.controls import edit, mute, pause, resume, unmute
from sottovoce.client.device import BUNDLES, STORE
from sottovoce.client.device_models import countable
from sottovoce.client.events import Event
from sottovoce.client.replay import replay
from sottovoce.client.trace import decode_traces, encode_trace, traced
from sottovoce.client.what_if import to_lose
from sottovoce.privacy.errors import BundleError, DeviceError


@pytest.fixture
def phone(tmp_path):
    return filled(tmp_path)


def shown(device, now=NOW, **changes):
    winner = device.pick(page(**changes), now).winner
    return winner and winner.crid


def test_an_empty_folder_answers_and_a_filled_one_answers_with_the_model(tmp_path, phone):
    empty = Phone(tmp_path / "new").open()
    decision = empty.pick(page(), NOW)
    assert (decision.winner, decision.nbr_words) == (None, "the catalogue holds no ads")
    assert {"there is no catalogue.json", "there is no consent.json"} <= set(empty.notes)
    device = phone.open()
    decision = device.pick(page(), NOW)
    assert (decision.fallback, decision.mode, decision.used.model) == ("model", "personalised", "line 1")
    assert device.notes == ()


def test_what_was_asked_last_can_be_asked_again_and_otherwise_whatever_happened_since(phone):
    slow, quick = iter(range(0, 10**15, 30 * 10**6)), []
    device = phone.open(ticks=lambda: 0 if quick else next(slow))
    assert device.asked is None
    decision = device.pick(page(), NOW)
    assert decision.fault, "a clock that runs 30 ms between any two looks at it leaves the model no time"
    asked = device.asked
    quick.append("from now on")
    device.happened("impression", decision, NOW)
    device.decide(lambda one: mute(one, "crids", decision.winner.crid))
    device.take_catalogue(msgspec.json.encode(catalogue(2)), NOW)
    again = asked.pick()
    assert (again, again.losers) == (decision, decision.losers)
    assert {one.winner for one in to_lose(asked)}.isdisjoint({decision.winner.crid})
    line = encode_trace(traced(asked, decision, b"a secret of 16 by"))
    (trace,) = decode_traces(line)
    found = replay(trace, asked.catalogue, device.build, device.log, b"a secret of 16 by")
    assert (found.identical, found.changed) == (True, ())
    device.delete_all(NOW)
    assert device.asked is None


def test_caps_hold_across_restarts(phone):
    seen = []
    for number in range(14):
        device = phone.open(NOW + timedelta(minutes=number))
        decision = device.pick(page(number), NOW + timedelta(minutes=number))
        if decision.winner:
            assert device.happened("impression", decision, NOW + timedelta(minutes=number))
            seen.append(decision.winner.crid)
        device.close()
    assert sorted(seen) == sorted([f"a{n}" for n in range(6)] * 2)


def test_an_impression_keeps_the_page_only_where_the_page_may_count(phone):
    device = phone.open()
    cases = [("483", True, {"hour": 1}), ("286", True, {}), ("483", False, {})]
    for number, (category, allowed, kept) in enumerate(cases):
        device.allow(ALL if allowed else NONE)
        decision = device.pick(page(number, category), NOW)
        device.happened("impression", decision, NOW)
        device.happened("click", decision, NOW)
        assert [event.context for event in device.log.events[-2:]] == [kept, {}]
    assert device.log.events[0].features == catalogue().ads[int(device.log.events[0].crid[1:])].features
    for what in ("nothing", device.pick(page(9), NOW)):
        if what == "nothing" or what.winner is None:
            with pytest.raises(DeviceError, match="no ad"):
                device.happened("click", what, NOW)


def test_a_sensitive_page_and_one_without_consent_are_not_remembered(phone):
    device = phone.open()
    assert device.visit(page(), NOW)
    assert not device.visit(page(category="286"), NOW)
    device.allow(NONE)
    assert not device.visit(page(), NOW)
    assert [visit.categories for visit in device.store.pages] == [(("483", 9),)]


def test_every_control_counts_from_the_next_decision_and_after_a_restart(phone):
    device = phone.open()
    first = shown(device)
    device.decide(lambda one: mute(one, "crids", first))
    second = shown(device)
    device.decide(lambda one: mute(one, "seats", "s" + second[1:]))
    third = shown(device)
    device.decide(lambda one: edit(one, CATEGORIES[int(third[1:]) % 3], 8, "never"))
    fourth = shown(device)
    assert len({first, second, third, fourth}) == 4
    device.close()
    device = phone.open()
    assert shown(device) == fourth
    device.decide(pause)
    assert device.pick(page(), NOW).mode == "contextual"
    device.decide(resume)
    device.decide(lambda one: edit(unmute(one, "crids", first), CATEGORIES[int(third[1:]) % 3], 8, None))
    assert (shown(device), device.pick(page(), NOW).mode) == (first, "personalised")
    device.happened("impression", first, NOW)
    device.forget_interests(NOW)
    assert device.controls.since > NOW


def test_consent_counts_from_the_next_decision_and_after_a_restart(phone):
    device = phone.open()
    for keys, mode in ((NONE, "contextual"), (ALL, "personalised"), (ALL.replace(b"111111111", b"000000000"), "none")):
        device.allow(keys)
        assert device.pick(page(), NOW).mode == mode
    device.close()
    assert phone.open().pick(page(), NOW).mode == "none"
    with pytest.raises(DeviceError):
        device.allow(b"yes")


def test_deleting_everything_leaves_nothing_but_consent_and_model(phone):
    device = phone.open()
    device.happened("impression", device.pick(page(), NOW), NOW)
    device.decide(lambda one: mute(one, "crids", "a1"))
    assert b'"crid": "a' in device.export(NOW)
    device.delete_all(NOW)
    for opened in (device, phone.open):
        if opened is not device:
            device.close()
            opened = opened()
        exported = msgspec.json.decode(opened.export(NOW))
        assert (exported["events"], exported["values"], opened.controls.muted_crids) == ([], {}, ())
        assert opened.pick(page(), NOW).mode == "personalised"


def broken_bundle(phone):
    for path in (phone.folder / BUNDLES).glob("*.svb"):
        path.write_bytes(b"no bundle")


def broken_beliefs(phone):
    for path in (phone.folder / BUNDLES).iterdir():
        path.write_bytes(b"\0")


def broken_catalogue(phone):
    (phone.folder / "catalogue.json").write_bytes(b"{")


def huge_catalogue(phone):
    (phone.folder / "catalogue.json").write_bytes(b" " * (33 << 20))


def broken_consent(phone):
    (phone.folder / "consent.json").write_bytes(b"[" * 100_000)


def no_key(phone):
    (phone.folder / "key").unlink()


def other_key(phone):
    (phone.folder / "key").write_bytes(b"k" * 32)


def no_store(phone):
    (phone.folder / STORE / "events.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)


def file_as_store(phone):
    os.rename(phone.folder / STORE, phone.folder / "elsewhere")
    (phone.folder / STORE).write_bytes(b"")


def folders_for_files(phone):
    for name in ("catalogue.json", "consent.json"):
        (phone.folder / name).unlink()
        (phone.folder / name).mkdir()


def nan_scores(phone):
    phone.scorer = lambda bundle: TableScorer(bundle.tflite, float("nan"))


def no_runtime(phone):
    def fails(bundle):
        raise DeviceError("no runtime", "")

    phone.scorer = fails


FAULTS = (
    broken_bundle,
    broken_beliefs,
    broken_catalogue,
    huge_catalogue,
    broken_consent,
    no_key,
    other_key,
    no_store,
    file_as_store,
    folders_for_files,
    nan_scores,
    no_runtime,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_whatever_lies_in_the_folder_every_request_is_answered(phone, fault):
    fault(phone)
    device = phone.open()
    for years in (0, 1, -30, 200, 0):
        now = NOW + timedelta(days=365 * years)
        decision = device.pick(page(), now)
        assert decision.winner is not None or decision.nbr is not None
        if decision.winner:
            device.happened("impression", decision, now)
    assert device.notes
    device.close()


def test_a_model_that_fails_is_followed_by_the_one_before_it_then_by_the_page_then_by_turns(phone):
    device = phone.open()
    device.take_bundle(version(2), NOW)
    device.close()
    newest = []

    class Late:
        """The newest model works while it is asked for its table of pages, and fails once `broken` is set."""

        def __init__(self, bundle):
            self.model, self.version = scorer_of(bundle), bundle.manifest.version

        def scores(self, *inputs):
            if self.version in newest:
                raise RuntimeError("gone")
            return self.model.scores(*inputs)

    phone.scorer = Late
    device = phone.open()
    found = []
    for broken in ((), (2,), (1, 2)):
        newest[:] = broken
        decision = device.pick(page(), NOW)
        found.append((decision.fallback, decision.used.model))
    assert [level for level, _ in found] == ["model", "previous", "contextual"]
    assert [name for _, name in found][:2] == ["line 2", "line 1"]


def test_a_model_that_expires_stops_and_comes_back_with_the_clock(phone):
    device = phone.open()
    levels = [device.pick(page(n), NOW + days * DAY).fallback for n, days in enumerate((1, 40, 41, 2))]
    assert levels == ["model", "rotation", "rotation", "model"]


def test_where_events_were_lost_an_ad_rests_until_its_caps_can_be_counted_again(phone):
    device = phone.open()
    device.take_catalogue(msgspec.json.encode(catalogue(house=True)), NOW)
    device.close()
    no_store(phone)
    device = phone.open()
    assert shown(device) == "house"
    device.close()
    device = phone.open(NOW + DAY / 2)
    assert shown(device, NOW + DAY / 2) == "house"
    device.delete_all(NOW + DAY / 2)
    assert shown(device, NOW + DAY / 2) == "house"
    assert shown(device, NOW + DAY) != "house"


def test_a_bundle_or_catalogue_that_is_refused_leaves_the_one_in_use(phone):
    device = phone.open()
    before = shown(device)
    with pytest.raises(BundleError):
        device.take_bundle(b"x", NOW)
    with pytest.raises(DeviceError):
        device.take_catalogue(b"{}", NOW)
    assert shown(device) == before
    device.take_bundle(version(2), NOW)
    assert device.pick(page(), NOW).used.model == "line 2"


def test_nothing_a_person_did_can_be_read_in_the_folder(phone):
    device = phone.open()
    crid = shown(device)
    device.store.append(Event(NOW, "click", crid, "PLANTED-CAMPAIGN", {"ad": "PLANTED-FEATURE"}), NOW)
    device.decide(lambda one: mute(one, "seats", "PLANTED-SEAT"))
    for closed in (False, True):
        if closed:
            device.close()
        files = [path for path in phone.folder.rglob("*") if path.is_file()]
        assert not [path for path in files if b"PLANTED" in path.read_bytes()]
    assert stat.S_IMODE((phone.folder / "key").stat().st_mode) == 0o600


def test_the_longest_window_decides_which_ads_can_be_counted():
    made = catalogue(3, window_s=3600)
    assert len(countable(made, timedelta(seconds=3599)).ads) == 0
    assert countable(made, timedelta(seconds=3600)) == made
