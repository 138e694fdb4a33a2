"""The meaning of rows, without a file."""

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.privacy.book import Book
from sottovoce.privacy.chain import GENESIS, Campaign, Committed, Head, Reserved, Row, SpentOnCrash, Void, seal
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.events import PoissonGaussian

EVENT = PoissonGaussian(sampling_rate=0.02, noise_multiplier=1.0)


def campaign(seq=1):
    return Campaign(seq=seq, time="t", epsilon=4.0, delta=1e-5, population=6040)


def reserved(seq):
    return Reserved(
        seq=seq, time="t", run_id="r", round=seq, purpose="train", noise="secure", event=EVENT, plan_hash="p"
    )


def chain(*entries):
    rows, prev = [], GENESIS
    for entry in entries:
        rows.append(seal(entry, prev))
        prev = rows[-1].hash
    return rows


def read(rows):
    book = Book()
    for row in rows:
        book.add(row)
    return book


def good():
    return chain(
        campaign(),
        reserved(2),
        Committed(seq=3, time="t", reservation=2, artifact_sha256="a" * 64),
        reserved(4),
        Void(seq=5, time="t", reservation=4, reason="nobody was contacted"),
        reserved(6),
        SpentOnCrash(seq=7, time="t", reservation=6),
        reserved(8),
    )


def test_everything_but_void_is_spent():
    book = read(good())
    assert book.spent[EVENT] == 3
    assert dict(book.states) == {"RESERVED": 1, "COMMITTED": 1, "VOID": 1, "SPENT_ON_CRASH": 1}
    assert list(book.open) == [8]
    assert book.head == Head(8, good()[-1].hash)


def test_a_stranger_can_check_a_row_with_sha256_alone_and_read_it_with_any_json_parser():
    prev = GENESIS
    for row in good():
        assert list(json.loads(row.body)) == sorted(json.loads(row.body))
        assert row.hash == hashlib.sha256(prev.encode() + row.body).hexdigest()
        prev = row.hash


@given(st.data())
@settings(max_examples=300)
def test_any_changed_byte_of_any_row_is_found_and_the_row_named(data):
    rows = good()
    at = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from(["prev_hash", "hash", "body"]))
    old = getattr(rows[at], column)
    place = data.draw(st.integers(0, len(old) - 1))
    if column == "body":
        byte = data.draw(st.integers(0, 255).filter(lambda b: b != old[place]))
        new = old[:place] + bytes([byte]) + old[place + 1 :]
    else:
        letter = data.draw(st.characters(codec="ascii").filter(lambda c: c != old[place]))
        new = old[:place] + letter + old[place + 1 :]
    rows[at] = rows[at]._replace(**{column: new})
    with pytest.raises(LedgerError, match=rf"row {at + 1}:"):
        read(rows)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (chain(reserved(1)), 1),
        (chain(campaign(), campaign(2)), 2),
        (chain(campaign(), Committed(seq=2, time="t", reservation=1, artifact_sha256="a" * 64)), 2),
        (chain(campaign(), Void(seq=2, time="t", reservation=9, reason="x")), 2),
        ([*good(), seal(SpentOnCrash(seq=9, time="t", reservation=4), good()[-1].hash)], 9),
        (chain(campaign(), reserved(3)), 2),
    ],
    ids=["no campaign", "two campaigns", "commits a campaign", "void of nothing", "settled twice", "row skipped"],
)
def test_rows_that_make_no_sense_are_refused_even_with_right_hashes(rows, named):
    with pytest.raises(LedgerError, match=rf"row {named}:"):
        read(rows)


@pytest.mark.parametrize("at", range(1, 8))
def test_a_row_sealed_on_another_chain_does_not_fit_here(at):
    rows = good()
    rows[at] = seal(reserved(at + 1), hashlib.sha256(b"another chain").hexdigest())
    with pytest.raises(LedgerError, match=f"row {at + 1}: does not follow"):
        read(rows)


def test_a_row_that_lies_about_its_number_is_refused():
    first = chain(campaign())[0]
    liar = seal(reserved(3), first.hash)
    with pytest.raises(LedgerError, match="row 2: says it is row 3"):
        read([first, liar._replace(seq=2)])


@given(st.binary(max_size=200))
def test_no_body_whatever_escapes_as_anything_but_a_ledger_error(body):
    row = Row(1, GENESIS, hashlib.sha256(GENESIS.encode() + body).hexdigest(), body)
    book = Book()
    with pytest.raises(LedgerError, match="row 1:"):
        book.add(row)
    assert book.head == Head(0, GENESIS)


@pytest.mark.parametrize(
    "change",
    [{"state": "REFUNDED"}, {"event": {"type": "os.system"}}, {"surprise": 1}, {"round": "two"}, {"noise": "loud"}],
)
def test_an_entry_of_unknown_kind_is_refused_not_skipped(change):
    rows = chain(campaign(), reserved(2))
    body = json.dumps(json.loads(rows[1].body) | change, sort_keys=True, separators=(",", ":")).encode()
    forged = Row(2, rows[0].hash, hashlib.sha256(rows[0].hash.encode() + body).hexdigest(), body)
    with pytest.raises(LedgerError, match="row 2: unreadable entry"):
        read([rows[0], forged])
