"""Creatives with exchangeable parts in a device's folder: what of them may be shown, by approvals that were signed.

=====================================  ===========================================================================
in the folder                          what it is
=====================================  ===========================================================================
`creatives/CRID.json`                  a creative, see `creative`; the ad's id with `%` escapes as in a URL
`guardrails/CRID.json`                 its brand's rules, see `guardrails`; without them the strict defaults hold
`approvals.signed`                     what was approved, signed by every key that the app trusts for it
`parts.json`                           beliefs about parts that were shipped, see `combination_posterior`; optional
=====================================  ===========================================================================

An ad with a file here is shown with approved parts or not at all. A creative that cannot be read counts as one that
nobody approved, and so does every creative where the approvals cannot be believed. Nothing raises; notes say what is
wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, unquote

from sottovoce.client.approval import ALWAYS, NEVER, Approvals
from sottovoce.client.combination import Showable, showable
from sottovoce.client.combination_posterior import Posterior, decode_posterior
from sottovoce.client.creative import MAX_BYTES, Creative, Slot, Template, decode_creative
from sottovoce.client.guardrails import Guardrails, decode_guardrails
from sottovoce.client.signed_approvals import open_approvals
from sottovoce.models.signing import PublicKey
from sottovoce.privacy.errors import DeviceError, SottovoceError

CREATIVES, GUARDRAILS, APPROVALS, PARTS = "creatives", "guardrails", "approvals.signed", "parts.json"
MOST_CREATIVES = 1_000
"""That are read; more are not shown."""

_MOST_FILE = 8 * MAX_BYTES
_NOBODY = Approvals(1)
_STRICT = Guardrails(version=1)
_NOTHING = Template("none", (Slot("none", "title"),))


@dataclass(frozen=True, slots=True)
class DeviceCreatives:
    """What may be shown of the creatives on one device.

    Attributes:
        ready: by `crid`; ads without an entry are shown as the catalogue has them.
        shipped: beliefs about parts.
        version: of the approvals that hold; the next ones may not be older.
        notes: what is wrong, by file.
        since: from when on the approvals say the same.
        until: from when on they say something else.
    """

    ready: Mapping[str, Showable] = field(default_factory=dict)
    shipped: Posterior = field(default_factory=Posterior)
    version: int = 1
    notes: Mapping[str, str] = field(default_factory=dict)
    since: datetime = NEVER
    until: datetime = ALWAYS


def read_creatives(folder: Path, approvers: Sequence[PublicKey], least_version: int, now: datetime) -> DeviceCreatives:
    """What lies in the folder, as it may be shown from now on.

    Args:
        folder: of the device.
        approvers: whose keys must all have signed the approvals; without any, nothing is approved.
        least_version: of approvals that held before.
        now: with time zone.
    """
    notes: dict[str, str] = {}
    paths = _listed(folder / CREATIVES, notes)
    if not paths:
        return DeviceCreatives(version=least_version, notes=notes)
    approvals, ends, version, turns = _NOBODY, ALWAYS, least_version, list[datetime]()
    try:
        if not approvers:
            raise DeviceError("nobody is trusted to approve creatives", "name the key of whoever approves")
        statement = open_approvals(_content(folder / APPROVALS), approvers, len(approvers), now, least_version)
        approvals, ends, version = statement.approvals, statement.expires, statement.version
    except (SottovoceError, OSError) as error:
        notes[APPROVALS] = f"creatives with parts are not shown: {_why(error)}"
        turns.append(now)  # when the clock goes back, a list that has expired may hold again
    ready = {}
    for number, path in enumerate(paths):
        crid = unquote(path.stem)
        creative, brand = Creative(1, crid, _NOTHING, {}), _STRICT
        try:
            if number >= MOST_CREATIVES:
                raise DeviceError(f"only {MOST_CREATIVES} are read", "remove those whose ads are gone")
            brand = _brand(folder / GUARDRAILS / path.name)
            creative = _creative(path, crid)
        except (SottovoceError, OSError) as error:
            notes[path.name] = f"the creative of {crid!r} is not shown: {_why(error)}"
        one = showable(creative, approvals, brand, now)
        ready[crid] = replace(one, until=min(one.until, ends))
        if one.reason is not None:
            notes.setdefault(path.name, f"the creative of {crid!r} is not shown: {one.reason}")
    shipped = Posterior()
    try:
        shipped = decode_posterior(_content(folder / PARTS), PARTS)
    except FileNotFoundError:
        pass
    except (SottovoceError, OSError) as error:
        notes[PARTS] = f"beliefs about parts start from nothing: {_why(error)}"
    turns += [ends, *(moment for one in approvals.records for moment in (one.at, one.until))]
    since = max((moment for moment in turns if moment <= now), default=NEVER)
    until = min((moment for moment in turns if moment > now), default=ALWAYS)
    return DeviceCreatives(ready, shipped, version, notes, since, until)


def creative_file(crid: str) -> str:
    """The name of an ad's creative in the folder."""
    return quote(crid, safe="") + ".json"


def _listed(folder: Path, notes: dict[str, str]) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except FileNotFoundError:
        return []
    except OSError:
        notes[CREATIVES] = f"{CREATIVES} cannot be read: ads are shown without other parts than their own"
        return []


def _creative(path: Path, crid: str) -> Creative:
    creative = decode_creative(_content(path), path.name)
    if creative.crid != crid:
        raise DeviceError(f"it is of {creative.crid!r}", f"name the file {creative_file(creative.crid)}")
    return creative


def _brand(path: Path) -> Guardrails:
    try:
        return decode_guardrails(_content(path), f"{GUARDRAILS}/{path.name}")
    except FileNotFoundError:
        return _STRICT


def _content(path: Path) -> bytes:
    """The file, and one byte too many of one that is too large for every reader."""
    with path.open("rb") as file:
        return file.read(_MOST_FILE + 1)


def _why(error: Exception) -> str:
    return f"there is no {Path(str(error.filename)).name}" if isinstance(error, FileNotFoundError) else str(error)
