"""What a ledger proves, in the form that travels with the model. Needs neither the model nor torch."""

from collections.abc import Sequence

from sottovoce.models.passport import CHECKS, SIMULATION, PrivacyPassport
from sottovoce.privacy.audit import AuditReport
from sottovoce.privacy.errors import GateError
from sottovoce.privacy.findings import disagreements
from sottovoce.privacy.plan import MechanismPlan


def passport(audit: AuditReport, plan: MechanismPlan, assumes: Sequence[str] = ()) -> PrivacyPassport:
    """What the ledger proves, in the form that travels with the model.

    Args:
        audit: of the run's ledger.
        plan: of the run whose model travels.
        assumes: what else the claims rest on, in words.

    Raises:
        GateError: the ledger does not hold, so that nothing can be said, or it is a device's own.
    """
    if audit.unit != "device":
        raise GateError(f"the ledger protects a single {audit.unit}", "name the ledger of the campaign over devices")
    if not audit.ledger_ok or audit.delta is None or audit.population is None:
        raise GateError("the run's ledger does not hold", "look at `sottovoce audit`; such a run cannot be released")
    # A run that was never charged by itself is the best of a selection, which was charged as a whole.
    own = plan.digest() in {spend.plan_hash for spend in audit.releases}
    selections = "; ".join(spend.mechanism for spend in audit.releases if spend.purpose == "tuning")
    return PrivacyPassport(
        sampling=plan.sampling if plan.cohorts == "secret" else f"{plan.sampling}, not counted: cohorts are visible",
        sampling_rate=plan.sampling_rate,
        population=audit.population,
        mechanism=plan.noise if own else f"{plan.noise}, {selections}",
        noise_multiplier=plan.noise_multiplier,
        clip_norm=plan.clip_norm,
        rounds=audit.purposes.get("train", 0) if own else plan.rounds,
        releases=audit.purposes,
        accountant=audit.accountant,
        observer=audit.observer,
        max_participations=plan.max_participations,
        epsilon=audit.epsilon,
        epsilon_known_cohort=audit.epsilon_known_cohort,
        delta=audit.delta,
        ledger_head=audit.head.hash,
        ledger_length=audit.head.length,
        noise_source=audit.noise,
        label="; ".join((*audit.claims, *assumes)) if audit.guarantee else SIMULATION,
        audit=passed_checks(audit),
        plan_hash=plan.digest(),
    )


def passed_checks(audit: AuditReport) -> tuple[str, ...]:
    """Which of `CHECKS` an audit passed, in their order."""
    spent, budget = audit.epsilon_outsider, audit.budget_epsilon
    passed = {
        "ledger_whole": audit.ledger_ok,
        "noise_secure": audit.noise == "secure",
        "within_budget": spent is not None and budget is not None and spent <= budget,
        "choices_guarded": not audit.adaptive or audit.guarantee,
        "sampling_counted": not audit.fallback,
        "cohorts_as_planned": not any(one.alarms for one in audit.realised),
        "accountants_agree": not disagreements(audit.cross_check),
        "all_settled": not audit.entries["RESERVED"] and not audit.entries["SPENT_ON_CRASH"],
    }
    return tuple(name for name in CHECKS if passed[name])
