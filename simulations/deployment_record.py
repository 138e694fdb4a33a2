"""The record of a run for the OpenDP Deployments Registry, tier 3, as YAML.

Everything in it comes from the audit of the ledger and from the name and licence of the data. What no ledger knows (who
deploys the model, where, and who files the record) is an argument; what is not given is named as not stated, in the
record and at the top of the file.
"""

import re
from datetime import UTC, date, datetime
from typing import Any

import msgspec

from sottovoce.privacy.audit import AuditReport
from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations.audit_facts import About
from sottovoce.simulations.markup import REPLACEMENT, at_most, visible
from sottovoce.simulations.publisher import NOT_STATED, Publisher
from sottovoce.simulations.registry import (
    Administrative,
    Basic,
    Curator,
    Deployment,
    DeploymentModel,
    DpVariant,
    Implementation,
    PrivacyLoss,
    PrivacyParameters,
    Record,
    validate,
)


def unregistrable(report: AuditReport) -> str:
    """Why there is nothing to register; empty where there is."""
    if not report.ledger_ok:
        return "the ledger does not hold"
    if not report.rounds or not report.period or report.delta is None or report.population is None:
        return "nothing has been released"
    if report.unit != "device":
        return "the figure protects single records, not devices"
    return "" if report.guarantee and report.epsilon else "the run has no guarantee"


def deployment_record(report: AuditReport, about: About, publisher: Publisher | None = None) -> dict[str, Any]:
    """The record, valid by `registry.validate`; its fields stand in the registry's order.

    Args:
        report: what the ledger proves; its headline is the epsilon of the record.
        about: the run and its data.
        publisher: None where nothing is known about the deployer.

    Raises:
        ConfigError: `unregistrable`, or something of `publisher` is not what the registry asks for.
    """
    if why := unregistrable(report):
        raise ConfigError(f"nothing to register: {why}", "see audit.html")
    epsilon, delta, population = report.epsilon or 0.0, report.delta or 0.0, report.population or 0
    known = publisher or Publisher()
    day = known.published or datetime.fromisoformat(report.period[0]).astimezone(UTC).date().isoformat()
    try:
        date.fromisoformat(day)
    except ValueError as error:
        raise ConfigError(f"publication date: {error}", "give it as YYYY-MM-DD") from error
    name = f"Ranking model {_line(about.run_name)}"
    record = Record(
        url_slug=re.sub(r"[^a-z0-9]+", "-", f"{name} {known.name} {day[:4]}".lower()).strip("-"),
        deployment=Deployment(
            basic=Basic(
                name=name,
                data_curators=[
                    Curator(data_curator_name=_clean(known.name), data_curator_type=known.kind or "Industry")
                ],
                description=(
                    "A model that ranks ads and recommendations on the device. It was trained across "
                    f"{population:,} devices on {_line(about.data_name)} (licence: {_line(about.licence)})."
                ),
                intended_use="Choosing ads and recommendations on the device that shows them.",
                data_product_type="Machine learning model" if "train" in report.purposes else "Summary statistics",
                data_product_region=_clean(known.region),
                publication_date=day,
            ),
            dp_variant=_variant(about, population),
            privacy_loss=_loss(report, epsilon, delta, population),
            deployment_model=_model(report, about),
            implementation=_implementation(report, about, known),
            administrative=Administrative(
                status="Draft", registry_authors=[_clean(author) for author in known.authors], tier=3
            ),
        ),
    )
    made: dict[str, Any] = msgspec.to_builtins(record)
    validate(made)
    return made


def _variant(about: About, population: int) -> DpVariant:
    return DpVariant(
        variant_name="Approximate DP",
        data_domain=(
            f"All data sets that {population:,} enrolled devices can hold, in the form of {_line(about.data_name)}; a "
            f"data set enters through the clipped updates that its devices send."
        ),
        unprotected_quantities=(
            f"The number of enrolled devices ({population:,}), the settings of the plan and the number of releases are "
            "public. Figures of quality measured on held-out rows are exact and not covered by the guarantee."
        ),
    )


def _loss(report: AuditReport, epsilon: float, delta: float, population: int) -> PrivacyLoss:
    neighbours = {
        "zero_out": "everything that one unit contributed is replaced by zero (zero-out). The number of units is equal "
        "in both, and each pair of neighbours differs in exactly one unit",
        "add_remove": "one unit is present in one and absent from the other (add or remove)",
    }
    return PrivacyLoss(
        privacy_unit="Device-level",
        privacy_unit_details=(
            "The unit is one device with everything it ever contributed. Two data sets are adjacent when "
            f"{neighbours[report.adjacency]}. A person with several devices is several units."
        ),
        number_of_privacy_units=population,
        privacy_parameters=PrivacyParameters(epsilon=epsilon, delta=delta),
        privacy_parameters_details=_bullets(
            *report.claims,
            *(f"The figure does not count sampling, because {reason}." for reason in report.fallback),
            f"A device that takes part in at most {report.max_participations:,} releases is the worst case where the "
            "observer knows who took part.",
            ""
            if report.rho is None
            else f"Zero-concentrated DP of the same releases, cohorts known: rho {at_most(report.rho)}.",
            *(
                f"At delta {point.delta:g}: epsilon {at_most(point.epsilon_outsider)} for an outsider."
                for point in report.by_delta
                if point.epsilon_outsider is not None
            ),
            *(
                f"Sensitivity, {case.assumption}: epsilon {at_most(case.epsilon)}."
                for case in report.sensitivity
                if case.epsilon is not None
            ),
        ),
    )


def _model(report: AuditReport, about: About) -> DeploymentModel:
    budget = "no limit" if report.budget_epsilon is None else f"epsilon {report.budget_epsilon:g}"
    return DeploymentModel(
        model_name="Central",
        model_name_details=(
            "Federated training with central noise: raw data stays on the devices, each sends one clipped update, and "
            "noise is added to their sum: by the coordinator, or, where sums are secure, by the devices' nodes. Which "
            "of the two it was the ledger does not show; the record assumes the first."
        ),
        trust_assumptions=_bullets(*report.assumptions),
        actors=_bullets(
            "Devices hold the raw data. They trust the coordinator with their clipped update.",
            "The coordinator draws the cohorts, sees each clipped update unless sums are secure, sees to the noise and "
            "keeps the ledger. It is trusted to do so; nothing is claimed against it.",
            "Whoever receives the model sees what was released. No trust is needed; the headline is against this actor "
            + ("as long as it does not know who took part." if report.observer == "outsider" else "in any case."),
            "Auditors read the ledger and compute the figures anew.",
        ),
        release_type="Many releases" if report.rounds > 1 else "One release",
        release_type_details=(
            f"{report.rounds:,} releases from {report.period[0]} to {report.period[-1]}, all covered by the epsilon of "
            f"this record. Budget of the campaign: {budget}; it is never renewed, and the release that would exceed it "
            "is refused before anybody is contacted."
        ),
        data_source_type="Static",
        data_source_type_details=f"The run read {_line(about.data_name)} as it was when the run began.",
        access_type="Non-interactive",
        access_type_details="Recipients get the model. Nobody can query the data.",
    )


def _implementation(report: AuditReport, about: About, known: Publisher) -> Implementation:
    chosen = {name: report.purposes.get(name, 0) for name in ("preprocess", "tuning", "clip_count", "calibration")}
    entered = ", ".join(f"{name} {count:,}" for name, count in chosen.items() if count)
    checks = ", ".join(f"{name} {at_most(value)}" for name, value in report.cross_check.items() if value is not None)
    return Implementation(
        preprocessing_and_hyperparameter_tuning=(
            f"Releases entered in the ledger for these purposes and covered by the epsilon: {entered or 'none'}. "
            f"Settings were {'partly chosen after the first release' if report.adaptive else 'fixed beforehand'}. Use "
            "of the data that was not entered in the ledger is not covered, and cannot be seen by the audit."
        ),
        mechanisms=_bullets(
            *(f"{spend.purpose}, {spend.count:,} times: {spend.mechanism}" for spend in report.releases),
            "" if report.releases else f"Sum of clipped updates with noise, {report.rounds:,} times.",
            f"Noise: {report.noise}, from the operating system's random number generator. Sum and noise are rounded "
            "together to a public grid against leaks through floating-point bits.",
            "Updates that are not finite count as zero. The sum is divided by a public constant, never by the number "
            "of replies.",
            "Software: "
            + (", ".join(f"{key} {value}" for key, value in about.software_versions.items()) or NOT_STATED),
        ),
        composition=(
            f"Sequential composition of all {report.rounds:,} releases, computed by {report.accountant} from the "
            f"mechanism events in the ledger. A crash counts as spent. Other accountants: {checks or 'none'}."
        ),
        post_processing=(
            "Server optimizer, running average of the weights, quantization and packaging work on released sums only."
        ),
        justification=(
            "The budget was fixed before the first release, and a release that would exceed it is refused. Zero-out "
            "adjacency, because the number of enrolled devices is public. The whole device is the unit, because one "
            f"device holds many records. {_why(report)}"
        ),
        utility="Not part of the audit.",
        additional_information=_bullets(
            f"Ledger: {report.head.length:,} rows, hash of the last one {report.head.hash}.",
            *(f"{key.replace('_', ' ')}: `{command}`" for key, command in about.commands.items()),
            *(f"Finding of the audit: {finding}" for finding in report.findings),
            *(f"Not stated by the deployer. {told}." for told in known.unstated()),
        ),
    )


def _why(report: AuditReport) -> str:
    """Why this accountant."""
    if report.accountant == "PLD":
        return "PLD, because it is an upper bound and the tightest of those compared."
    return f"The accountant is {report.accountant}: PLD does not cover what was released."


def _clean(words: str) -> str:
    """Foreign text on one line; what could hide or reorder its neighbours is made visible."""
    return "".join(c if visible(c) else REPLACEMENT for c in " ".join(words.split()))


def _line(words: str) -> str:
    return _clean(words) or NOT_STATED


def _bullets(*lines: str) -> str:
    """A list in Markdown without its empty lines."""
    return "".join(f"- {_line(line)}\n" for line in lines if line) or NOT_STATED
