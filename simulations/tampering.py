"""Everything somebody with full power over a database can do to a ledger, done to one: is it found, and the row named?

A tampering is not a statement but the rows that lie there afterwards. So the same ones are tried on every kind of
store, and none is stopped by a trigger. Not among them is what no chain can show: a row rightly sealed at the end is an
append, whoever made it; and restricted records may be thrown away, for people who must forget.
"""

import itertools
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sottovoce.privacy.book import Book
from sottovoce.privacy.chain import GENESIS, Head, Row, link
from sottovoce.privacy.errors import LedgerError
from sottovoce.privacy.events import Gaussian, PoissonGaussian
from sottovoce.privacy.ledger import Ledger, Realised
from sottovoce.privacy.store import open_store

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True, slots=True)
class Content:
    """What lies in a store.

    Attributes:
        rows: the ledger's.
        restricted: records by row.
        highest: the highest row it remembers.
    """

    rows: tuple[Row, ...]
    restricted: tuple[tuple[int, bytes], ...]
    highest: int


@dataclass(frozen=True, slots=True)
class Tampering:
    """One way to lie.

    Attributes:
        what: was done, in words.
        content: that it leaves.
        named: the rows of which the error must name one.
    """

    what: str
    content: Content
    named: tuple[int, ...]


def every_kind(ledger: Ledger) -> None:
    """Fill a new ledger with rows of every kind, twelve in all."""
    secret = PoissonGaussian(sampling_rate=0.02, noise_multiplier=1.0)
    visible = Gaussian(noise_multiplier=4.0)
    ledger.open_campaign(8.0, 1e-5, 6040, filter_order=6.0, shares={"purpose:metric": 500_000, "querier:*": 10})
    for event, cohorts, cap in ((secret, "secret", None), (visible, "visible", 3)):
        settings: dict[str, str | int | float | None] = {"cohorts": cohorts, "max_participations": cap, "rounds": 200}
        ledger.plan(settings, event, 200, "visible" if cap else "secret", cap)
    first, second = ledger.book().plans
    drawn = Realised(population=6040, cohort=118, answered=101, busiest=2, salt="00" * 16)
    ledger.commit(ledger.reserve("run", 0, secret, first, "train", "secure"), "ab" * 32, drawn)
    ledger.void(ledger.reserve("run", 1, secret, first, "train", "secure"), "nobody was contacted")
    ledger.reserve("run", 1, visible, second, "metric", "secure", "analyst")
    ledger.recover()
    ledger.commit(ledger.reserve("run", 2, visible, second, "metric", "seeded"), "cd" * 32, drawn)
    ledger.reserve("run", 3, secret, first, "train", "secure")


def tamperings(whole: Content) -> Iterator[Tampering]:
    """Every way to lie about a whole ledger."""
    rows, last = whole.rows, len(whole.rows)

    def changed(what: str, found: Iterable[Row], *named: int, highest: int = whole.highest) -> Tampering:
        return Tampering(what, replace(whole, rows=tuple(found), highest=highest), named)

    for row in rows:
        others = {at.seq: at for at in rows}
        for what, edited in _edits(row):
            # The first row after a change can be the one that no longer follows.
            named = (row.seq,) if edited.hash == row.hash else (row.seq, row.seq + 1)
            yield changed(f"{what} of row {row.seq} edited", (others | {row.seq: edited}).values(), *named)
        yield changed(f"row {row.seq} deleted", (at for at in rows if at.seq != row.seq), row.seq)
        kept = rows[: row.seq - 1]
        yield changed(f"cut off from row {row.seq}", kept, row.seq)
        yield changed(f"rolled back to before row {row.seq}", kept, row.seq, highest=len(kept))
        later = json.dumps(json.loads(row.body) | {"time": "2001-01-01"}, sort_keys=True, separators=(",", ":"))
        forged = row._replace(body=later.encode())
        yield changed(f"rewritten from row {row.seq}, with right hashes", _resealed(rows, forged), row.seq, last)
    for one, two in itertools.combinations(rows, 2):
        swapped = {one.seq: two._replace(seq=one.seq), two.seq: one._replace(seq=two.seq)}
        found = (swapped.get(row.seq, row) for row in rows)
        yield changed(f"rows {one.seq} and {two.seq} swapped", found, one.seq)
    yield changed(
        "a row added that follows nothing", (*rows, rows[-1]._replace(seq=last + 1)), last + 1, highest=last + 1
    )
    yield from _restricted(whole)


def tried(address: Path | str, overwrite: Callable[[Content], None], step: int = 1) -> tuple[int, list[str]]:
    """Try everything on a ledger made by `every_kind`: how many ways, and those not found or told of another row.

    Args:
        address: of the ledger.
        overwrite: puts content in place of what lies there.
        step: try one in so many.
    """
    with closing(open_store(address, create=False, readonly=True)) as store:
        rows, bodies = (
            tuple(store.rows(0)),
            [(seq, body) for seq, body in store.restricted() if isinstance(body, bytes)],
        )
        whole, pinned = Content(rows, tuple(bodies), store.highest()), Head(len(rows), rows[-1].hash)
    count, missed = 0, []
    for tampering in itertools.islice(tamperings(whole), 0, None, step):
        overwrite(tampering.content)
        said = _said(address, pinned)
        if not any(f"row {row}:" in said for row in tampering.named):
            missed.append(f"{tampering.what}: {said or 'not found'}")
        count += 1
    overwrite(whole)
    if said := _said(address, pinned):
        missed.append(f"the whole ledger is refused: {said}")
    return count, missed


def overwrite_file(path: Path, content: Content) -> None:
    """Replace what a SQLite ledger holds, triggers or not."""
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("PRAGMA synchronous = OFF")
        for trigger in ("entries_keep", "entries_stay"):
            raw.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        raw.execute("DELETE FROM entries")
        raw.execute("DELETE FROM restricted")
        raw.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", content.rows)
        raw.executemany("INSERT INTO restricted VALUES (?, ?)", content.restricted)
        raw.execute("UPDATE sqlite_sequence SET seq = ?", (content.highest,))


def overwrite_database(superuser: "psycopg.Connection[Any]", content: Content) -> None:
    """Replace what a PostgreSQL ledger holds, as a superuser connected to its database may."""
    with superuser.transaction(), superuser.cursor() as cursor:
        # A superuser's session can leave triggers out; and this one need not wait for the disk.
        cursor.execute("SET LOCAL session_replication_role = replica; SET LOCAL synchronous_commit = off")
        cursor.execute("DELETE FROM sottovoce_entries; DELETE FROM sottovoce_restricted")
        cursor.executemany("INSERT INTO sottovoce_entries VALUES (%s, %s, %s, %s)", content.rows)
        cursor.executemany("INSERT INTO sottovoce_restricted VALUES (%s, %s)", content.restricted)
        cursor.execute("UPDATE sottovoce_ledger SET highest = %s", (content.highest,))


def _edits(row: Row) -> Iterator[tuple[str, Row]]:
    """Every field of one row with another value, every column too, with the old hash and with the right one."""
    yield "previous hash", row._replace(prev_hash=_other(row.prev_hash))
    yield "hash", row._replace(hash=_other(row.hash))
    for name, value in json.loads(row.body).items():
        body = json.dumps(json.loads(row.body) | {name: _other(value)}, sort_keys=True, separators=(",", ":")).encode()
        yield name, row._replace(body=body)
        yield f"{name} and hash", row._replace(body=body, hash=link(row.prev_hash, body))


def _other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, str):
        return value[:-1] + ("0" if value.endswith("1") else "1")
    if isinstance(value, dict):
        name = next(iter(value), None)
        return {} if name is None else value | {name: _other(value[name])}
    return 1 if value is None else value * 2 + 1


def _resealed(rows: tuple[Row, ...], forged: Row) -> list[Row]:
    """The chain with one row replaced and every later one linked to it anew."""
    found: list[Row] = []
    for row in rows:
        body = forged.body if row.seq == forged.seq else row.body
        before = found[-1].hash if found else GENESIS
        found.append(Row(row.seq, before, link(before, body), body))
    return found


def _restricted(whole: Content) -> Iterator[Tampering]:
    """Every restricted record changed, moved or made up."""
    records = dict(whole.restricted)
    for seq, body in whole.restricted:
        edited = body.replace(b'"cohort":118', b'"cohort":181')
        yield Tampering(f"restricted record of row {seq} edited", _with(whole, records | {seq: edited}), (seq,))
        moved = {at: kept for at, kept in records.items() if at != seq} | {seq + 1: body}
        yield Tampering(f"restricted record of row {seq} moved", _with(whole, moved), (seq + 1,))
    yield Tampering("a restricted record made up", _with(whole, records | {1: b"{}"}), (1,))


def _with(whole: Content, records: dict[int, bytes]) -> Content:
    return replace(whole, restricted=tuple(sorted(records.items())))


def _said(address: Path | str, pinned: Head) -> str:
    """What is wrong with a ledger, in the library's words; empty when nothing is."""
    try:
        with Ledger.open_unchecked(address) as ledger:
            book = Book()
            ledger.replay(book, pinned)
            ledger.realised(book)
    except LedgerError as error:
        return error.what
    return ""
