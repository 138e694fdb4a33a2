"""What an audit remarks on: conditions that fell, accountants that disagree, and what no ledger can enforce."""

import math

from sottovoce.privacy.book import Book
from sottovoce.privacy.claim import WARNING
from sottovoce.privacy.events import NoiseKind, RepeatAndSelect
from sottovoce.privacy.filter import fixed_beforehand
from sottovoce.privacy.realised import Observed

SECRECY = "cohorts stay secret from an outsider: logs, traffic and bills show nobody who took part"
"""The same, where a plan counts on it."""

ASSUMPTIONS = (
    "the coordinator is honest: it clips, samples and adds noise as the ledger says",
    "no other ledger covers the same devices: two campaigns on the same people add up",
    "one person has one device, and the number of enrolled devices is public",
    "whether a device can be reached does not depend on its data",
    "a run that stopped early did not stop because of what it had released",
)
"""What no ledger can enforce, but every figure rests on."""

SELECTION = (
    "the best of several runs was chosen by public rows or a private score, and nobody learnt how many runs there "
    "were, nor saw their cohorts"
)
"""The same, where random stopping was used."""


def assumptions(book: Book) -> list[str]:
    """Those of this ledger."""
    selected = any(isinstance(event, RepeatAndSelect) for event in +book.spent)
    plans = book.plans.values()
    # A ledger without plans tells of nobody's cohorts; the assumption is then made, rather than dropped.
    secret = not plans or any(plan.cohorts == "secret" for plan in plans)
    return [*([SECRECY] if secret else []), *ASSUMPTIONS, *([SELECTION] if selected else [])]


def fallen_conditions(book: Book, noise: NoiseKind, observed: list[Observed]) -> list[str]:
    """Every condition of amplification by sampling that does not hold."""
    reasons = []
    if noise == "seeded":
        reasons.append("cohorts were drawn from a seed: whoever has it knows who took part")
    used = {plan_hash for (_, plan_hash, _, _), count in book.uses.items() if count}
    if any(book.plans[plan_hash].cohorts == "visible" for plan_hash in used & book.plans.keys()):
        reasons.append("the cohorts of a plan are visible to others")
    if any("epsilon is understated" in alarm for one in observed for alarm in one.alarms):
        reasons.append("devices were drawn more often than planned")
    return reasons


def disagreements(checks: dict[str, float | None]) -> list[str]:
    """Where independent accountants contradict the published figure."""
    pld, rdp, prv = checks.get("pld"), checks.get("rdp"), checks.get("opacus_prv")
    found = []
    if pld is not None and rdp is not None and pld > rdp + 1e-3:
        found.append(f"accountants disagree: PLD {pld:.4f} is above RDP {rdp:.4f}")
    if pld is not None and prv is not None and not pld - 1e-3 <= prv <= pld + 0.02:
        found.append(f"accountants disagree: Opacus PRV {prv:.4f} is not within [PLD, PLD + 0.02], PLD {pld:.4f}")
    return found


def remarks(book: Book, noise: NoiseKind, outside: float, fallback: list[str]) -> list[str]:
    """What a privacy team must know about a ledger that reads well."""
    found = []
    rounds = book.releases
    if rounds and noise == "none":
        found.append(f"{WARNING}: {book.noise['none']} of {rounds} releases had no noise")
    if rounds and noise == "seeded":
        found.append(f"{WARNING}: {book.noise['seeded']} of {rounds} releases used reproducible noise and cohorts")
    found += [f"sampling is not counted: {reason}" for reason in fallback]
    campaign = book.campaign
    if campaign and campaign.epsilon is not None and campaign.epsilon < outside < math.inf:
        found.append(f"overspent: epsilon {outside:.4f} is above the budget {campaign.epsilon:g}")
    if campaign and not campaign.delta < 1 / campaign.population:
        found.append(f"delta {campaign.delta:g} is not below 1/population")
    if campaign and campaign.delta < 1 / campaign.population <= campaign.delta ** (1 / 1.1):
        found.append(f"delta {campaign.delta:g} is above 1/population**1.1, which is large for this population")
    if book.states["RESERVED"]:
        found.append(f"{book.states['RESERVED']} reservations were never settled; they count as spent")
    if book.states["SPENT_ON_CRASH"]:
        found.append(f"{book.states['SPENT_ON_CRASH']} releases may have been lost in a crash; they count as spent")
    if not fixed_beforehand(book):
        found.append("something was released that was not planned before the first release: " + _adaptive(book))
    return found


def _adaptive(book: Book) -> str:
    campaign = book.campaign
    if campaign is None or campaign.filter_order is None:
        return "the figure holds only if it was not chosen after seeing one"
    return (
        f"the guarantee is the budget, kept by a Renyi filter of order {campaign.filter_order:g}; the figure for known "
        "cohorts holds only if it was not chosen after seeing one"
    )
