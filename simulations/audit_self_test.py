"""The audit, audited: runs with a planted bug must raise an alarm, clean runs must not.

An auditor that is wrong is worse than none: a published one reported epsilon of about 5 to 8 on scores that held
nothing (google-deepmind/jax_privacy, pull request 270).
"""

from collections.abc import Callable, Mapping

import msgspec

from sottovoce.privacy.entropy import Entropy, OsEntropy
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.simulations.audit_block import Parts
from sottovoce.simulations.empirical_audit import EmpiricalReport, empirical_audit
from sottovoce.simulations.planted_bugs import OTHERS, REQUIRED

PLAN = MechanismPlan(6040, 0.02, 1.0, 1.0, 100, 1e-5)
"""What is audited when there is no run: cohorts of 2 % and noise as large as the bound, over 100 rounds."""

CANARIES = 500
CLEAN_RUNS = 20


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """How the audit did where the truth is known.

    Attributes:
        planted_bugs: runs with a planted bug.
        caught: of them, those that raised an alarm.
        clean_runs: runs without one.
        false_alarms: of them, those that raised an alarm.
        details: by planted bug, which checks caught it; by clean run with an alarm, what it said.
    """

    planted_bugs: int
    caught: int
    clean_runs: int
    false_alarms: int
    details: dict[str, list[str]]

    @property
    def passed(self) -> bool:
        """Whether every bug was caught and no clean run raised an alarm."""
        return self.caught == self.planted_bugs and self.false_alarms == 0


def self_test(
    clean_runs: int = CLEAN_RUNS,
    plan: MechanismPlan = PLAN,
    canaries: int = CANARIES,
    entropy: Callable[[int], Entropy] = lambda number: OsEntropy(),  # noqa: ARG005 - secure randomness has no number
    bugs: Mapping[str, Parts] = {**REQUIRED, **OTHERS},
) -> SelfTest:
    """Audit broken mechanisms and sound ones; about a second for each run.

    Args:
        clean_runs: sound ones.
        plan: of all runs.
        canaries: in each.
        entropy: of run 0, 1, 2 ...
        bugs: what to plant, by name.
    """
    details: dict[str, list[str]] = {}
    for number, (name, parts) in enumerate(bugs.items()):
        details[name] = alarms(empirical_audit(plan, entropy(number), canaries=canaries, parts=parts))
    caught = sum(bool(found) for found in details.values())
    false_alarms = 0
    for number in range(clean_runs):
        found = alarms(empirical_audit(plan, entropy(len(bugs) + number), canaries=canaries))
        if found:
            false_alarms += 1
            details[f"clean run {number + 1}"] = found
    return SelfTest(
        planted_bugs=len(bugs), caught=caught, clean_runs=clean_runs, false_alarms=false_alarms, details=details
    )


def alarms(report: EmpiricalReport) -> list[str]:
    """Names of the checks that failed, and of the observers whose bound or null test did."""
    failed = [check.name for check in report.checks if not check.passed]
    failed += [
        f"bound: {bound.observer}"
        for bound in report.bounds
        if bound.claimed is not None and bound.lower_bound > bound.claimed
    ]
    return failed + [f"null test: {bound.observer}" for bound in report.bounds if bound.null_refuted]
