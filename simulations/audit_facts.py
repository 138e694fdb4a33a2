"""What the documents of an audit are made from, and `audit.json`, which holds all of it as one JSON object.

The audit of the ledger is a value of a known shape. The empirical part is taken as it comes: whatever has the names
below is shown, anything else is kept in `audit.json` and passed over elsewhere.
"""

from typing import TypeVar

import msgspec

from sottovoce.privacy.audit import AuditReport
from sottovoce.privacy.errors import SottovoceError


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit is about, which no ledger says.

    Attributes:
        run_name: of the run.
        data_name: of the data set.
        licence: of the data set.
        software_versions: version by package.
        commands: what to type, by purpose: `replay`, `export`, `empirical`, `self_test`; others are shown as they are.
    """

    run_name: str
    data_name: str
    licence: str
    software_versions: dict[str, str] = {}
    commands: dict[str, str] = {}


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One conformance check: what was expected of the mechanism and what was measured."""

    name: str = "unnamed check"
    passed: bool = False
    statistic: float | str | None = None
    expected: float | str | None = None
    measured: float | str | None = None
    p_value: float | None = None
    detail: str = ""
    power: float | str | None = None


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """What an attack on canaries showed for one observer: epsilon is at least `lower_bound`.

    Attributes:
        observer: what the attacker sees.
        lower_bound: from the audited run; above `claimed` it is a violation.
        claimed: upper bound by accounting, for the same observer.
        null_bound: the same attack where nothing can be found; should be about 0.
        method: of the attack.
        power: what the attack would have found, in words or as a number.
    """

    observer: str = ""
    lower_bound: float | None = None
    claimed: float | None = None
    null_bound: float | None = None
    method: str = ""
    power: float | str | None = None


class Empirical(msgspec.Struct, frozen=True, kw_only=True):
    """The empirical part of an audit.

    Attributes:
        checks: in the order they ran.
        bounds: one for each observer.
        verdict: in words.
        m: canaries.
        rounds: audited.
        alpha: error rate of the whole.
    """

    checks: list[Check] = []
    bounds: dict[str, Bound] | list[Bound] = []
    verdict: str = ""
    m: int | None = None
    rounds: int | None = None
    alpha: float | None = None

    def by_observer(self) -> list[Bound]:
        """The bounds, each with the name of its observer."""
        if isinstance(self.bounds, list):
            return self.bounds
        return [msgspec.structs.replace(bound, observer=bound.observer or name) for name, bound in self.bounds.items()]


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """How the audit did on runs whose faults are known, because they were planted.

    Attributes:
        planted_bugs: runs with a planted bug.
        caught: of them, those that raised an alarm.
        clean_runs: runs without a bug.
        false_alarms: of them, those that raised an alarm.
        details: anything about the single runs.
    """

    planted_bugs: int = 0
    caught: int = 0
    clean_runs: int = 0
    false_alarms: int = 0
    details: object = None


def empirical_part(value: object) -> Empirical | None:
    """`value` (a struct, a dataclass or a mapping) by the names known here; None for None.

    Raises:
        SottovoceError: a known name holds something of another kind.
    """
    return None if value is None else _read(value, Empirical)


def self_test_part(value: object) -> SelfTest | None:
    """Likewise, of the self-test."""
    return None if value is None else _read(value, SelfTest)


_Part = TypeVar("_Part", Empirical, SelfTest)


def _read(value: object, kind: type[_Part]) -> _Part:
    try:
        return msgspec.convert(msgspec.to_builtins(value), kind)
    except (msgspec.ValidationError, TypeError) as error:
        raise SottovoceError(
            f"the empirical part of the audit cannot be read: {error}", "make it with this version of sottovoce"
        ) from error


def audit_json(report: AuditReport, empirical: object, self_test: object, about: About) -> bytes:
    """`audit.json`: the fields of the report, then `empirical`, `self_test` (null where they did not run) and `about`.

    Infinity and NaN, which JSON cannot hold, become null.
    """
    whole = {
        **msgspec.to_builtins(report),
        "empirical": msgspec.to_builtins(empirical),
        "self_test": msgspec.to_builtins(self_test),
        "about": msgspec.to_builtins(about),
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"
