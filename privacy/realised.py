"""What really happened against what the plan assumed: population, sampling rate, participation.

An epsilon is only as good as the rate at which devices were really drawn. A plan that assumes three million devices and
draws a fixed number from fifty thousand draws each of them sixty times as often as it says. The records compared here
are restricted: they tell cohort sizes, which are secret while an epsilon rests on secret cohorts.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from sottovoce.privacy.book import Book
from sottovoce.privacy.chain import Planned
from sottovoce.privacy.ledger import Realised

FALSE_ALARM = 1e-6
"""Probability with which a test of the sampling rate may raise an alarm over an honest run."""


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """Rounds of one plan as they really were.

    Attributes:
        plan_hash: which plan.
        rounds: how many were recorded.
        population_planned: devices the plan assumed.
        population_least: fewest enrolled in any round.
        population_most: most.
        sampling_rate_planned: chance of a device to be drawn, by plan.
        sampling_rate_observed: devices drawn / devices enrolled, over all rounds.
        sampling_rate_upper: upper confidence bound of it.
        busiest_device: most rounds of one run that any device was asked for.
        alarms: where plan and reality differ; empty is good.
    """

    plan_hash: str
    rounds: int
    population_planned: int
    population_least: int
    population_most: int
    sampling_rate_planned: float
    sampling_rate_observed: float
    sampling_rate_upper: float
    busiest_device: int
    alarms: list[str]


def observe(book: Book, records: Mapping[int, Realised]) -> list[Observed]:
    """Every plan of which rounds were recorded, held against those records.

    Args:
        book: of the ledger.
        records: restricted records by the row that committed them, as `Ledger.realised` returns them.
    """
    by_plan: defaultdict[str, list[Realised]] = defaultdict(list)
    for seq, record in records.items():
        by_plan[book.realised[seq][0].plan_hash].append(record)
    return [_compare(book.plans[key], rounds) for key, rounds in sorted(by_plan.items()) if key in book.plans]


def counted(book: Book, records: Mapping[int, Realised]) -> dict[str, int]:
    """Most rounds that any device was asked for, by run; a release without a record may have asked the busiest one."""
    busiest: defaultdict[str, int] = defaultdict(int)
    recorded: defaultdict[str, int] = defaultdict(int)
    for seq, record in records.items():
        run = book.realised[seq][0].run_id
        busiest[run] = max(busiest[run], record.busiest)
        recorded[run] += 1
    released: defaultdict[str, int] = defaultdict(int)
    for (run, _, _, _), count in book.uses.items():
        released[run] += count
    return {run: most + released[run] - recorded[run] for run, most in busiest.items()}


def sampling_rate(drawn: int, enrolled: int) -> tuple[float, float]:
    """Observed rate and its upper confidence bound (Clopper and Pearson 1934), at 1 - `FALSE_ALARM`."""
    from scipy.stats import beta

    if not enrolled or drawn >= enrolled:
        return (drawn / enrolled if enrolled else 0.0), 1.0
    return drawn / enrolled, float(beta.ppf(1 - FALSE_ALARM, drawn + 1, enrolled - drawn))


def _compare(plan: Planned, rounds: Sequence[Realised]) -> Observed:
    from scipy.stats import binom

    drawn, enrolled = sum(one.cohort for one in rounds), sum(one.population for one in rounds)
    planned = float(plan.plan.get("sampling_rate") or 1.0)
    assumed = int(plan.plan.get("population") or 0)
    rate, upper = sampling_rate(drawn, enrolled)
    least, most = min(one.population for one in rounds), max(one.population for one in rounds)
    busiest = max(one.busiest for one in rounds)
    alarms = []
    if not least == most == assumed:
        alarms.append(
            f"the plan assumes {assumed:,} devices, {least:,} to {most:,} were enrolled: delta and every figure that "
            "rests on the population are off"
        )
    if float(binom.sf(drawn - 1, enrolled, planned)) < FALSE_ALARM / 2:
        alarms.append(
            f"{drawn:,} of {enrolled:,} were drawn, a rate of {rate:.4g} where the plan says {planned:.4g}: epsilon is "
            "understated"
        )
    if plan.plan.get("sampling") == "poisson" and float(binom.cdf(drawn, enrolled, planned)) < FALSE_ALARM / 2:
        alarms.append(f"{drawn:,} of {enrolled:,} were drawn, fewer than the planned rate of {planned:.4g} explains")
    if plan.max_participations is not None and busiest > plan.max_participations:
        alarms.append(f"a device was asked for {busiest} rounds, the cap is {plan.max_participations}")
    return Observed(
        plan_hash=plan.plan_hash,
        rounds=len(rounds),
        population_planned=assumed,
        population_least=least,
        population_most=most,
        sampling_rate_planned=planned,
        sampling_rate_observed=rate,
        sampling_rate_upper=upper,
        busiest_device=busiest,
        alarms=alarms,
    )
