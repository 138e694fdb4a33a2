"""A whole device under trial: do caps hold when it is closed and opened again, and does it answer whatever is broken?

Caps are counted here by themselves, from nothing but what was shown: none of the picker's own code judges them.
"""

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np

from sottovoce.client.bundle_store import BundleStore, litert
from sottovoce.client.catalogue import Ad, Campaign, Catalogue, decode_catalogue
from sottovoce.client.device import BUNDLES, CONSENT, STORE, Device
from sottovoce.client.device_picker import CATALOGUE
from sottovoce.client.keystore import FileKeystore
from sottovoce.client.request import Request, decode_request
from sottovoce.client.runtimes import required
from sottovoce.client.scorer import Scorer
from sottovoce.models.bundle import Bundle
from sottovoce.models.quiet import quiet_stderr
from sottovoce.models.request import Scores
from sottovoce.models.schema import Ids
from sottovoce.models.signing import PublicKey
from sottovoce.models.trust import Trust
from sottovoce.simulations import phone
from sottovoce.simulations.market import Market

YEARS = (0, 1, 40, -30, 0)
"""What the clock does while something is broken."""

_LONGEST_STEP_S = 900
_SLOW_S = 0.06


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """How caps held.

    Attributes:
        decisions: asked for.
        shown: ads that were.
        restarts: of the device.
        reached: decisions in which some ad that fitted was kept back by a cap.
        violated: impressions above a cap, by a count of their own.
    """

    decisions: int
    shown: int
    restarts: int
    reached: int
    violated: int


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """Whether every request was answered.

    Attributes:
        asked: requests, over all faults.
        answered: share of them.
        levels: what the answers came from, by fault.
    """

    asked: int
    answered: float
    levels: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Phone:
    """What it takes to open the same device again.

    Attributes:
        folder: of the device.
        key: whose bundles it believes.
    """

    folder: Path
    key: PublicKey

    def open(self, now: datetime, scorer: Callable[[Bundle], Scorer] = litert) -> Device:
        """The device, from its folder alone."""
        bundles = BundleStore(self.folder / BUNDLES, Trust((self.key,)), required("litert"))
        with quiet_stderr():
            return Device(
                self.folder,
                bundles,
                FileKeystore(self.folder / "key"),
                now,
                lambda: 0.5,
                None,
                scorer,
                time.monotonic_ns,
            )


def ready(folder: Path, market: Market, bundle: bytes, key: PublicKey, now: datetime) -> tuple[Phone, list[Request]]:
    """A device of the market with model, catalogue and every consent, and requests of three sizes."""
    made = Phone(folder, key)
    device = made.open(now)
    person = int(np.flatnonzero(market.block_people(0).learn)[0])
    device.take_bundle(bundle, now)
    device.take_catalogue(msgspec.json.encode(always(decode_catalogue(phone.catalogue_json(market)))), now)
    device.allow(phone.consent_json(market, person))
    device.close()
    return made, [decode_request(phone.request_json(market, person, number)) for number in range(3)]


def always(catalogue: Catalogue) -> Catalogue:
    """The same campaigns with flights that no clock leaves."""
    first, last = datetime(1900, 1, 1, tzinfo=UTC), datetime(2900, 1, 1, tzinfo=UTC)
    campaigns = tuple(msgspec.structs.replace(one, start=first, end=last) for one in catalogue.campaigns)
    return msgspec.structs.replace(catalogue, campaigns=campaigns)


def try_caps(held: Phone, requests: list[Request], now: datetime, decisions: int, restarts: int) -> Caps:
    """Ask again and again, in steps of up to a quarter of an hour, now and then backwards, and count what was shown.

    Args:
        held: a device that is ready.
        requests: take turns.
        now: when to start.
        decisions: how many.
        restarts: how often the device is closed and opened, evenly spread.
    """
    catalogue = decode_catalogue((held.folder / CATALOGUE).read_bytes())
    rng, shown = np.random.default_rng(0), list[tuple[datetime, Ad, Campaign]]()
    reached = violated = 0
    device = held.open(now)
    for number in range(decisions):
        if number and number % max(1, decisions // (restarts + 1)) == 0:
            device.close()
            device = held.open(now)
        decision = device.pick(requests[number % len(requests)], now)
        reached += any(510 <= code <= 513 for code in decision.reasons)
        if decision.winner is not None:
            device.happened("impression", decision, now)
            ad = catalogue.ads[catalogue.place[decision.winner.crid]]
            shown.append((now, ad, catalogue.campaign[ad.cid]))
            violated += above(shown)
        now += timedelta(seconds=int(rng.integers(0, _LONGEST_STEP_S)) * (-1 if number % 50 == 49 else 1))
    device.close()
    return Caps(decisions=decisions, shown=len(shown), restarts=restarts, reached=reached, violated=violated)


def above(shown: list[tuple[datetime, Ad, Campaign]]) -> int:
    """How many impression caps of the last ad shown are exceeded by it; a later time than its own counts as within."""
    now, ad, campaign = shown[-1]
    found = 0
    for cap in campaign.caps:
        if cap.event != "impression":
            continue
        since = now - timedelta(seconds=cap.window_s)
        counted = 0
        for moment, other, of in shown:
            same = {
                "creative": other.crid == ad.crid,
                "campaign": of.cid == campaign.cid,
                "advertiser": of.seat == campaign.seat,
                "category": bool(set(of.cat) & set(campaign.cat)),
            }[cap.level]
            counted += same and moment > since
        found += counted > cap.max
    return found


class _Strange:
    """A model that answers as no model should: not a number, an exception, or late."""

    def __init__(self, model: Scorer, how: str) -> None:
        self._model, self._how = model, how

    def scores(self, context: Ids, events: Ids, outcomes: Ids, ad: Ids) -> Scores:
        """See `Scorer.scores`."""
        if self._how == "raises":
            raise RuntimeError("the native library is gone")
        if self._how == "late":
            time.sleep(_SLOW_S)
        scores = self._model.scores(context, events, outcomes, ad)
        return np.full_like(scores, math.nan) if self._how == "nan" else scores


def _overwrite(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _bundles(folder: Path) -> None:
    for path in (folder / BUNDLES).iterdir():
        path.write_bytes(b"\0" * 100)


def _huge(folder: Path) -> None:
    """As many ads as a catalogue may hold."""
    whole = decode_catalogue((folder / CATALOGUE).read_bytes())
    more = tuple(
        msgspec.structs.replace(whole.ads[n % len(whole.ads)], crid=f"m{n}") for n in range(20_000 - len(whole.ads))
    )
    _overwrite(folder / CATALOGUE, msgspec.json.encode(msgspec.structs.replace(whole, ads=whole.ads + more)))


FAULTS: dict[str, Callable[[Path], None]] = {
    "no fault": lambda _: None,
    "corrupt bundles": _bundles,
    "damaged catalogue": lambda folder: _overwrite(folder / CATALOGUE, b'{"version": 1'),
    "empty catalogue": lambda folder: _overwrite(
        folder / CATALOGUE, msgspec.json.encode(Catalogue(version=1, cur="USD", cattax=8, campaigns=(), ads=()))
    ),
    "huge catalogue": _huge,
    "damaged consent": lambda folder: _overwrite(folder / CONSENT, b"[" * 10_000),
    "damaged store": lambda folder: _overwrite(folder / STORE / "events.db", b"SQLite format 3\0" + b"x" * 9_000),
    "lost key": lambda folder: (folder / "key").unlink(),
    "everything gone": shutil.rmtree,
}
"""What is done to the folder of a device that is closed."""


def try_faults(held: Phone, requests: list[Request], now: datetime, each: int) -> Answers:
    """Break one thing after the other, each on a copy of its own, and ask while the clock jumps by years.

    Args:
        held: a device that is ready; it stays as it is.
        requests: take turns.
        now: when to start.
        each: requests for each fault and clock.
    """
    levels: dict[str, list[str]] = {}
    asked = answered = 0

    def ask(name: str, opened: Callable[[Phone], Device]) -> None:
        nonlocal asked, answered
        copy = Phone(held.folder.parent / "broken", held.key)
        shutil.rmtree(copy.folder, ignore_errors=True)
        shutil.copytree(held.folder, copy.folder)
        device = opened(copy)
        found: dict[str, None] = {}
        for years in YEARS:
            moment = now + timedelta(days=365 * years)
            for number in range(each):
                asked += 1
                try:
                    decision = device.pick(requests[number % len(requests)], moment)
                    if decision.winner is not None:
                        device.happened("impression", decision, moment)
                    answered += decision.winner is not None or decision.nbr is not None
                    found[decision.fallback] = None
                except Exception as error:
                    found[type(error).__name__] = None
        device.close()
        levels[name] = list(found)

    def after(fault: Callable[[Path], None]) -> Callable[[Phone], Device]:
        def opened(copy: Phone) -> Device:
            fault(copy.folder)
            return copy.open(now)

        return opened

    for name, fault in FAULTS.items():
        ask(name, after(fault))
    for how in ("nan", "raises", "late"):
        ask(
            f"model: {how}",
            lambda copy, how=how: copy.open(now, lambda bundle: _Strange(litert(bundle), how)),  # type: ignore[misc]
        )

    def locked(copy: Phone) -> Device:
        others.append(copy.open(now))
        return copy.open(now)

    others: list[Device] = []
    ask("locked store", locked)
    for device in others:
        device.close()
    shutil.rmtree(held.folder.parent / "broken", ignore_errors=True)
    return Answers(asked=asked, answered=answered / asked, levels=levels)
