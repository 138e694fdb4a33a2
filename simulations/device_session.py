"""What can be said to a device, one line at a time, and what it answers.

A line is a command and its words. Every answer is data for scripts and a few lines for people. The page that was opened
last and its ad are what `click`, `dismiss` and `why` are about.
"""

import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from sottovoce.client import controls as person
from sottovoce.client import personal_data
from sottovoce.client.controls import Kind, Wish
from sottovoce.client.decision import Decision
from sottovoce.client.device import Device
from sottovoce.client.explanation import why
from sottovoce.client.occasion import Occasion
from sottovoce.client.request import Request, decode_request
from sottovoce.client.taxonomy import named
from sottovoce.client.what_if import to_lose, to_win
from sottovoce.client.why_not import why_not
from sottovoce.models.atomic import write_atomically
from sottovoce.privacy.errors import DeviceError
from sottovoce.simulations.device_answer import Answer, file_content, one_word
from sottovoce.simulations.device_conditions import CONDITIONS, IN_HAND, believed, changed, in_words, offered
from sottovoce.simulations.market import CATEGORIES, SIZES

HELP = """\
page [CATEGORY] [WxH]   open a page and see its ad; a name such as sports, or an id of Content Taxonomy 3.1
request FILE            open the page that an OpenRTB request describes
click, dismiss, buy     what you do with the ad that is shown
why [CRID]              why this ad; why not that one (also: why not CRID)
what-if [CRID]          what would have made that ad win; or, of the ad that is shown, another one
consent all|page|none   what you allow; or a FILE of TCF, GPP and GPC keys
mute ad|advertiser|category [ID]    of the ad that is shown, unless you name another; unmute likewise
more, less, never, any CATEGORY     what you want of a category of ads, by its id
pause, resume, reset    stop personalisation; go on; start anew (caps stay)
controls, history [N], status       what is set; what happened; what the device is
export FILE             everything the device knows about you
learnt                  what it believes that you like
train?                  would it take part in training now; if not, which gate is closed
power on|off, idle on|off, network unmetered|metered, heat none|hot, battery 0-100    how the phone is doing
delete all | ad ID | advertiser ID | category ID    forget it
clock +3d               put the clock forward; m, h, d, or a time such as 2026-11-25T12:00:00Z
quit"""

_KINDS: dict[str, Kind] = {"ad": "crids", "advertiser": "seats", "category": "categories"}
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_GIVEN = {"all": "11111111111", "page": "01000000000", "none": "00000000000"}
_WISHES: dict[str, Wish | None] = {"more": "more", "less": "less", "never": "never", "any": None}
_NEWEST = 10


class Session:
    """A talk with one device.

    Args:
        device: that answers.
        clock: the time that it starts from, with time zone; it goes on by itself.
        written: gets each decision with what it was made from; None writes nothing down.
    """

    def __init__(
        self,
        device: Device,
        clock: Callable[[], datetime],
        written: Callable[[Occasion, Decision], None] | None = None,
    ) -> None:
        self.device, self._written = device, written
        self._clock, self._ahead = clock, timedelta(0)
        self._decision: Decision | None = None
        self._pages, self._condition = 0, IN_HAND
        commands: dict[str, Callable[[list[str]], Answer]] = {
            "page": self._page,
            "request": self._request,
            "why": self._why,
            "what-if": self._what_if,
            "consent": self._consent,
            "mute": lambda words: self._mute(words, person.mute),
            "unmute": lambda words: self._mute(words, person.unmute),
            "pause": lambda _: self._decide(person.pause, "paused: pages alone choose ads, nothing is learned"),
            "resume": lambda _: self._decide(person.resume, "personalised again, where consent allows"),
            "reset": self._reset,
            "controls": self._controls,
            "history": self._history,
            "status": self._status,
            "learnt": lambda _: believed(self.device, self.now),
            "train?": lambda _: offered(self.device, self._condition, self.now),
            "export": self._export,
            "delete": self._delete,
            "clock": self._set_clock,
            "help": lambda _: Answer(HELP, {"help": HELP.splitlines()}),
            "quit": lambda _: Answer("", {}, done=True),
        }
        for word, kind in (("click", "click"), ("dismiss", "dismiss"), ("buy", "conversion")):
            commands[word] = lambda _, kind=kind: self._did(kind)  # type: ignore[misc]
        for word, wish in _WISHES.items():
            commands[word] = lambda words, wish=wish: self._wish(words, wish)  # type: ignore[misc]
        for word in CONDITIONS:
            commands[word] = lambda words, word=word: self._set_condition(word, words)  # type: ignore[misc]
        self._commands = commands

    @property
    def now(self) -> datetime:
        """The device's time."""
        return self._clock() + self._ahead

    def say(self, line: str) -> Answer | None:
        """The answer to a line; None to an empty one or a comment.

        Raises:
            SottovoceError: the line cannot be followed; nothing changed, unless the message says so.
        """
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise DeviceError(f"this line cannot be read: {error}", "close the quotation mark") from None
        if not words:
            return None
        command = self._commands.get(words[0])
        if command is None:
            raise DeviceError(f"{words[0]!r} is no command", "say help for all of them")
        return command(words[1:])

    def greeting(self) -> str:
        """Five lines to begin with."""
        device = self.device
        model = "none, ads take turns" if device.bundle is None else self._model()
        notes = f"  Note: {device.notes[0]}." if device.notes else ""
        return (
            f"A device with {len(device.catalogue.ads)} ads and {len(device.log.events)} remembered events; it is"
            f" {self.now:%Y-%m-%d %H:%M} there.\n"
            f"Model: {model}. Consent: {'; '.join(device.consent.notes)}.{notes}\n"
            "Nothing that you do here leaves this folder.\n"
            "Say `page sports` to open a page, `click` or `dismiss`, then `why`.\n"
            "Say `help` for everything, `quit` to leave."
        )

    def _page(self, words: list[str]) -> Answer:
        rest = list(words)
        size = next((word for word in rest if "x" in word and word.replace("x", "", 1).isdigit()), None)
        if size is not None:
            rest.remove(size)
        wanted = rest[0] if rest else "sports"
        category = next((page for _, page, name in CATEGORIES if wanted in (name, page)), wanted)
        width, height = (int(part) for part in size.split("x")) if size else SIZES[self._pages % len(SIZES)]
        features = {
            "page_category": category,
            "hour_part": self.now.hour // 3,
            "connection": "wifi",
            "device_class": "phone-mid",
        }
        asked = {
            "id": f"page-{self._pages + 1}",
            "cur": [self.device.catalogue.cur],
            "imp": [{"id": "1", "banner": {"w": width, "h": height}}],
            "app": {"bundle": "page.example", "cat": [category], "cattax": 9},
            "ext": {"features": features},
        }
        return self._open(decode_request(msgspec.json.encode(asked), "page"))

    def _request(self, words: list[str]) -> Answer:
        path = one_word(words, "request FILE")
        return self._open(decode_request(file_content(path), path))

    def _open(self, request: Request) -> Answer:
        self._pages += 1
        device, now = self.device, self.now
        decision = device.pick(request, now)
        self._decision = decision
        if self._written is not None and device.asked is not None:
            self._written(device.asked, decision)
        device.visit(request, now)
        data: dict[str, Any] = {"decision": decision}
        winner = decision.winner
        if winner is None:
            return Answer(f"no ad: {decision.nbr_words}", data)
        device.happened("impression", decision, now)
        title = device.catalogue.ads[device.catalogue.place[winner.crid]].title
        chance = f", chance of a click {winner.scores[0]:.1%}" if winner.scores else ""
        return Answer(
            f"[{winner.crid}] {title or winner.sponsored}  ({winner.category})\n"
            f"    chosen by {decision.fallback}, {decision.mode}{chance}",
            data,
        )

    def _shown(self) -> Decision:
        if self._decision is None or self._decision.winner is None:
            raise DeviceError("no ad is shown", "open a page first: page sports")
        return self._decision

    def _did(self, kind: Any) -> Answer:
        decision = self._shown()
        durable = self.device.happened(kind, decision, self.now)
        crid = decision.winner.crid if decision.winner else ""
        kept = "" if durable else "; it is not on the disk"
        return Answer(f"{kind} of {crid} remembered{kept}", {"event": kind, "crid": crid, "durable": durable})

    def _why(self, words: list[str]) -> Answer:
        decision = self._opened()
        if not words:
            told = why(decision)
            return Answer(told.sentence, {"sentence": told.sentence, "dsa": told.dsa, "openrtb": told.openrtb})
        crid = one_word(words[1:] if words[0] == "not" else words, "why not CRID")
        if decision.winner and decision.winner.crid == crid:
            return self._why([])
        found = why_not(decision, crid)
        rules = "".join(f"\n    {int(one.reason)} {one.rule}: {one.detail}" for one in found.against)
        return Answer(found.sentence + rules, {"why_not": found})

    def _what_if(self, words: list[str]) -> Answer:
        decision, occasion = self._opened(), self.device.asked
        shown = decision.winner.crid if decision.winner else None
        if occasion is None or (not words and shown is None):
            raise DeviceError("no ad is shown", "name one: what-if CRID")
        crid = one_word(words, "what-if CRID") if words else shown
        found = to_lose(occasion) if crid == shown or crid is None else to_win(occasion, crid)
        none = f"no single change of the kinds that are tried makes {crid} {'lose' if crid == shown else 'win'}"
        return Answer("\n".join(one.sentence for one in found) or none, {"what_if": crid, "would_change": found})

    def _opened(self) -> Decision:
        if self._decision is None:
            raise DeviceError("no page is open", "open one first: page sports")
        return self._decision

    def _consent(self, words: list[str]) -> Answer:
        what = one_word(words, "consent all|page|none|FILE")
        if what in _GIVEN:
            keys: dict[str, Any] = {"IABTCF_gdprApplies": 1, "IABTCF_PolicyVersion": 5, "gpc": False}
            content = msgspec.json.encode({**keys, "IABTCF_PurposeConsents": _GIVEN[what]})
        else:
            content = file_content(what)
        found = self.device.allow(content)
        gates = ("serve_contextual", "serve_personalised", "learn", "report")
        opened = ", ".join(name for name in gates if getattr(found, name))
        return Answer(f"open: {opened or 'nothing'} ({'; '.join(found.notes)})", {"consent": found})

    def _decide(self, change: Callable[[person.Controls], person.Controls], text: str) -> Answer:
        durable = self.device.decide(change)
        return Answer(text + ("" if durable else "; it is not on the disk"), {"durable": durable})

    def _mute(self, words: list[str], change: Callable[..., person.Controls]) -> Answer:
        if not 1 <= len(words) <= 2 or words[0] not in _KINDS:
            raise DeviceError("it is not said what to mute", "say: mute ad|advertiser|category [ID]")
        kind, cattax = _KINDS[words[0]], self.device.catalogue.cattax
        what = words[1] if len(words) == 2 else self._of_shown(words[0])
        said = "muted" if change is person.mute else "no longer muted"
        return self._decide(
            lambda one: change(one, kind, what, cattax if kind == "categories" else 0), f"{words[0]} {what} {said}"
        )

    def _of_shown(self, kind: str) -> str:
        winner = self._shown().winner
        campaign = self.device.catalogue.campaign[winner.cid] if winner else None
        if winner is None or campaign is None or (kind == "category" and not campaign.cat):
            raise DeviceError("the ad that is shown has none", "name one")
        return {"ad": winner.crid, "advertiser": winner.seat}.get(kind) or campaign.cat[0]

    def _wish(self, words: list[str], wish: Wish | None) -> Answer:
        category, cattax = one_word(words, "more CATEGORY"), self.device.catalogue.cattax
        label = named(category, cattax)
        return self._decide(lambda one: person.edit(one, category, cattax, wish), f"{label}: {wish or 'as it comes'}")

    def _reset(self, words: list[str]) -> Answer:  # noqa: ARG002 - every command takes words
        durable = self.device.forget_interests(self.now)
        return Answer("a new start: earlier events count for caps only", {"durable": durable})

    def _controls(self, words: list[str]) -> Answer:  # noqa: ARG002 - as above
        data = msgspec.to_builtins(self.device.controls)
        return Answer("\n".join(f"{name}: {value}" for name, value in data.items()), {"controls": data})

    def _history(self, words: list[str]) -> Answer:
        count = int(words[0]) if words and words[0].isdigit() else _NEWEST
        events = self.device.log.events[-count:] if count else ()
        lines = [f"{one.ts:%Y-%m-%d %H:%M}  {one.event:10}  {one.crid}" for one in events]
        return Answer("\n".join(lines) or "nothing happened yet", {"events": events})

    def _status(self, words: list[str]) -> Answer:  # noqa: ARG002 - as above
        device = self.device
        data = {
            "now": self.now,
            "model": self._model(),
            "ads": len(device.catalogue.ads),
            "events": len(device.log.events),
            "pages": len(device.store.pages),
            "paused": device.controls.paused,
            "notes": device.notes,
        }
        return Answer("\n".join(f"{name}: {value}" for name, value in data.items()), data)

    def _set_condition(self, what: str, words: list[str]) -> Answer:
        self._condition = changed(self._condition, what, words)
        return Answer(in_words(self._condition), {"condition": self._condition})

    def _model(self) -> str:
        if self.device.bundle is None:
            return ""
        manifest = self.device.bundle.manifest
        return f"{manifest.model_id} version {manifest.version}"

    def _export(self, words: list[str]) -> Answer:
        path = Path(one_word(words, "export FILE"))
        content = self.device.export(self.now)
        try:
            write_atomically(path, content, mode=0o600)
        except OSError as error:
            raise DeviceError(f"{path}: {error.strerror or error}", "name a file you may write") from None
        return Answer(f"{path}: {len(content):,} bytes", {"file": str(path), "bytes": len(content)})

    def _delete(self, words: list[str]) -> Answer:
        device, now, cattax = self.device, self.now, self.device.catalogue.cattax
        if words == ["all"]:
            device.delete_all(now)
            self._decision = None
            return Answer("everything is forgotten, controls too; consent and the model stay", {"deleted": "all"})
        if len(words) != 2 or words[0] not in _KINDS:
            raise DeviceError("it is not said what to delete", "say: delete all, or delete ad|advertiser|category ID")
        kind, what = words
        if kind == "ad":
            gone = personal_data.delete_ad(device.store, what, now)
        elif kind == "advertiser":
            gone = personal_data.delete_advertiser(device.store, what, device.catalogue, now)
        else:
            gone = personal_data.delete_category(device.store, what, cattax, device.catalogue, now)
        return Answer(f"{gone} events and pages deleted; mute it as well, or it may be shown again", {"deleted": gone})

    def _set_clock(self, words: list[str]) -> Answer:
        said = one_word(words, "clock +3d")
        try:
            if said[:1] in "+-" and said[-1] in _UNITS:
                ahead = self._ahead + timedelta(**{_UNITS[said[-1]]: float(said[:-1])})
            else:
                moment = datetime.fromisoformat(said)
                ahead = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - self._clock()
            moved = self._clock() + ahead
        except (ValueError, OverflowError):
            raise DeviceError(f"{said!r} is no time", "say: clock +3d, or clock 2026-11-25T12:00:00Z") from None
        self._ahead = ahead
        return Answer(f"it is {moved:%Y-%m-%d %H:%M}", {"now": moved})
