"""The empirical part of an audit: does the code do what the ledger says, and what could an attacker show?

Conformance checks on an audit block come first: they measure the mechanism directly and see small faults. A game with
canaries comes second: it bounds epsilon from below for three observers, and would miss most faults that the checks see.
Both run on the block of `audit_block`, with the real mechanism; the same attack on the direction that nobody touches is
the null test of the game. What was decided beforehand is in `audit_block`, `canary_scores` and here: the canaries, the
observers, the significance and the false alarms.
"""

import math
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from sottovoce.privacy import canary, conformance, conformance_cohorts, conformance_noise, noise
from sottovoce.privacy.canary_scores import SEES, Observer, scores
from sottovoce.privacy.conformance import Check
from sottovoce.privacy.entropy import Entropy
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.simulations.audit_block import Block, Parts, run_block

CANARIES = 1000
SIGNIFICANCE = 0.05
FALSE_ALARM = 1e-6

CHECKS = 15
"""Checks that leave something to chance; each takes an equal share of the false alarms, the null test one more."""

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of unguessable name is made there
"""Where a block's files lie when the system has it: they are thrown away, and need not survive a power cut."""


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """What the game showed for one observer.

    Attributes:
        observer: what the attacker sees.
        lower_bound: epsilon is at least this; above `claimed` it is a violation. For whoever knows the cohorts the
            claimed curve is Gaussian and the bound may use all of it; for others it is `one_run`.
        claimed: upper bound by accounting for the same observer and as many rounds.
        null_bound: the same attack on a direction that holds only noise; about 0.
        method: of the attack.
        power: in words.
        one_run: bound for any mechanism.
        one_run_gaussian: bound for a mechanism with a Gaussian curve.
        counted: bound from rates of right and wrong alarms, if canaries are independent of each other.
        estimate: from Gaussians fitted to what a canary moves in one round it is known to be in, or in the last model;
            no bound, and null where nothing is near Gaussian.
        null_refuted: whether the null test found something at the false-alarm level: the auditor is then at fault.
        guesses: made and right, for each share of the canaries.
    """

    observer: str
    lower_bound: float
    claimed: float | None
    null_bound: float
    method: str
    power: str
    one_run: float
    one_run_gaussian: float
    counted: float
    estimate: float | None
    null_refuted: bool
    guesses: list[tuple[int, int]]


class EmpiricalReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, at which power, and what was found.

    Attributes:
        verdict: in words; it says what was or was not detected, and never more.
        violations: what was detected; empty when nothing was.
        checks: of conformance.
        bounds: one for each observer.
        m: canaries.
        rounds: audited.
        alpha: chance that any of the lower bounds is above the truth.
        false_alarm: chance that a faultless run fails any check.
        delta: at which epsilon is read.
        population: of the block.
        sampling_rate: of the block.
        noise_multiplier: of the block.
        noise: where it came from, `secure` or `seeded`.
        notes: what differs from the audited run.
    """

    verdict: str
    violations: list[str]
    checks: list[Check]
    bounds: list[Bound]
    m: int
    rounds: int
    alpha: float
    false_alarm: float
    delta: float
    population: int
    sampling_rate: float
    noise_multiplier: float
    noise: str
    notes: list[str]


def empirical_audit(
    plan: MechanismPlan,
    entropy: Entropy,
    claimed: Mapping[Observer, float] | None = None,
    canaries: int = CANARIES,
    significance: float = SIGNIFICANCE,
    false_alarm: float = FALSE_ALARM,
    parts: Parts = Parts(),  # noqa: B008 - frozen
) -> EmpiricalReport:
    """Run an audit block of `plan` and judge it; a second or two.

    Args:
        plan: of the run that is audited.
        entropy: of the kind that the run used.
        claimed: epsilon by observer for as many rounds as the block has; None for what the plan claims for them.
        canaries: how many, 20 or more.
        significance: chance that any of the lower bounds is above the truth.
        false_alarm: chance that a faultless run fails any check.
        parts: of the mechanism, broken ones to test the audit itself.

    Raises:
        ConfigError: the plan has no noise.
        ValueError: too few canaries, or a chance outside (0, 1).
    """
    if canaries < 20 or not 0 < significance < 1 or not 0 < false_alarm < 1:
        raise ValueError("needs 20 canaries or more, and chances between 0 and 1")
    folder = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="sottovoce-audit-", dir=folder) as scratch:
        block = run_block(plan, entropy, canaries, Path(scratch), parts)
    share = false_alarm / (CHECKS + 1)
    checks = conform(block, share)
    promised = claims(block) if claimed is None else claimed
    bounds = [
        play(observer, block, promised[observer], plan.delta, significance / len(SEES), share / len(SEES))
        for observer in SEES
    ]
    violations = [f"{check.name}: {check.measured}; expected {check.expected}" for check in checks if not check.passed]
    for bound in bounds:
        if bound.claimed is not None and bound.lower_bound > bound.claimed:
            violations.append(
                f"epsilon is at least {bound.lower_bound:.2f} for whoever sees {bound.observer}, claimed was "
                f"{bound.claimed:.2f}"
            )
        if bound.null_refuted:
            violations.append(f"null test: the attack on {bound.observer} finds canaries where there are none")
    return EmpiricalReport(
        verdict=f"violation detected: {'; '.join(violations)}" if violations else "no violation detected at this power",
        violations=violations,
        checks=checks,
        bounds=bounds,
        m=canaries,
        rounds=block.plan.rounds,
        alpha=significance,
        false_alarm=false_alarm,
        delta=plan.delta,
        population=block.plan.population,
        sampling_rate=block.plan.sampling_rate,
        noise_multiplier=block.plan.noise_multiplier,
        noise=entropy.kind,
        notes=_notes(plan, block),
    )


def conform(block: Block, alarm: float) -> list[Check]:
    """All conformance checks of a block, each at false-alarm probability `alarm`."""
    plan, std, asked = block.plan, block.std, block.asked
    clip = plan.clip_norm / std
    law = conformance_cohorts.Law(plan.population, plan.sampling_rate, plan.cap)
    seen = block.took_part & block.included
    lengths, owner = block.along[seen], np.nonzero(seen)[1]
    width = noise.grid(std) if plan.noise == "gaussian" else std * 2.0**-30
    pure = block.untouched
    members = np.delete(asked, block.canary, axis=1).sum(1)
    cohorts = (
        conformance_cohorts.cohort_rate,
        conformance_cohorts.device_rates,
        conformance_cohorts.cohort_spread,
        conformance_cohorts.device_spread,
        conformance_cohorts.shared_members,
    )
    return [
        conformance_noise.noise_size(pure, alarm),
        conformance_noise.noise_size_by_round(pure, alarm),
        conformance_noise.normal_shape(pure, _lattice(width / std), alarm),
        conformance_noise.normal_tails(pure, alarm),
        conformance_noise.public_grid(block.released, width / std, block.error),
        conformance_noise.repeated_noise(pure, alarm),
        conformance_noise.lagged_noise(pure, "rounds", alarm),
        conformance_noise.lagged_noise(pure, "places", alarm),
        conformance.clip_norm(lengths, clip, 1.0, alarm),
        conformance.largest_canary(lengths, owner, clip, 1.0, alarm),
        *(partial(check, asked)(law, alarm) for check in cohorts),
        conformance.denominator(
            block.crowd / plan.clip_norm, members, asked.sum(1), plan.expected_cohort, std / plan.clip_norm, alarm
        ),
        conformance.replies(block.dropped),
        conformance.debit(block.debited_before, block.debited_after, block.strangers),
    ]


def _lattice(width: float) -> float:
    """The grid of the direction across: sums and differences of two places, divided by the root of two."""
    return width / math.sqrt(2.0)


def claims(block: Block) -> dict[Observer, float]:
    """What the plan claims for the block's rounds, and for the busiest canary."""
    busiest = int(block.took_part.sum(0).max())
    outside, inside = block.plan.claims(max_participations=busiest)
    return {"final_model": outside.epsilon, "every_round": outside.epsilon, "knows_cohorts": inside.epsilon}


def play(
    observer: Observer, block: Block, claimed: float, delta: float, significance: float, null_alarm: float
) -> Bound:
    """The game of one observer on a block, and its null test.

    Args:
        observer: which.
        block: recorded.
        claimed: epsilon for this observer.
        delta: at which epsilon is read.
        significance: of this observer's bound.
        null_alarm: chance that a faultless null test is called at fault.
    """
    clip = block.plan.clip_norm / block.std
    rate = block.plan.sampling_rate
    telling = scores(observer, block.along, block.took_part, rate, clip)
    blind = scores(observer, block.across, block.took_part, rate, clip)
    level = significance / len(canary.SHARES)
    outcomes = [canary.guess(telling, block.included, share) for share in canary.SHARES]
    nulls = [canary.guess(blind, block.included, share) for share in canary.SHARES]
    whole_curve = observer == "knows_cohorts"
    method = canary.one_run_gaussian if whole_curve else canary.one_run
    one_run = max(canary.one_run(outcome, delta, level) for outcome in outcomes)
    gaussian = max(canary.one_run_gaussian(outcome, delta, level) for outcome in outcomes)
    perfect = [canary.Guesses(outcome.canaries, outcome.made, outcome.made) for outcome in outcomes]
    ceiling = max(method(outcome, delta, level) for outcome in perfect)
    return Bound(
        observer=SEES[observer],
        lower_bound=gaussian if whole_curve else one_run,
        claimed=claimed if math.isfinite(claimed) else None,
        null_bound=max(method(outcome, delta, level) for outcome in nulls),
        method="one run, Gaussian curve (arXiv:2410.22235)" if whole_curve else "one run (arXiv:2305.08846)",
        power=f"at most {ceiling:.2f}, for a guesser who is never wrong; what leaks less than that may go unseen",
        one_run=one_run,
        one_run_gaussian=gaussian,
        counted=canary.counted(telling, block.included, delta, significance),
        estimate=_estimate(observer, block, delta),
        null_refuted=any(canary.one_run(outcome, 0.0, null_alarm / len(canary.SHARES)) > 0 for outcome in nulls),
        guesses=[(outcome.made, outcome.right) for outcome in outcomes],
    )


def _estimate(observer: Observer, block: Block, delta: float) -> float | None:
    """Epsilon between fitted Gaussians, where what an observer sees is near Gaussian."""
    if observer == "every_round":
        return None
    if observer == "final_model":
        seen, sides = block.along.sum(0), block.included
    else:
        seen = block.along[block.took_part]
        sides = np.broadcast_to(block.included, block.took_part.shape)[block.took_part]
    found = canary.fitted(seen, sides, delta)
    return found if math.isfinite(found) else None


def _notes(plan: MechanismPlan, block: Block) -> list[str]:
    """What of the block is not as in the run."""
    found = [
        f"the block has {block.plan.population} devices of its own, {len(block.included)} of them canaries; its "
        "releases are on its own ledger and cost the audited population nothing"
    ]
    if block.plan.rounds < plan.rounds:
        found.append(f"{block.plan.rounds} of {plan.rounds} rounds; claims are for these rounds")
    if plan.max_participations is not None:
        found.append("without the participation cap, so that the law of cohorts can be seen")
    if block.plan.cap != plan.cap:
        found.append(f"the cohort cap is {block.plan.cap}, as many standard deviations above the mean as in the run")
    return found
