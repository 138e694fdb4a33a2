"""Which mechanism an experiment has: found for its epsilon, or read from the ledger of a run that has begun."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec

from sottovoce.client.fleet import LocalTraining
from sottovoce.privacy.book import Book
from sottovoce.privacy.calibration import calibrated, rare_cap
from sottovoce.privacy.entropy import Entropy, OsEntropy, SeededEntropy
from sottovoce.privacy.errors import CheckpointError
from sottovoce.privacy.events import Event
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.privacy.record import RecordPlan
from sottovoce.server import checkpoint
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.experiment import Experiment
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.queries import measurement_charge


def plan_for(
    experiment: Experiment,
    population: int,
    charged: Callable[[MechanismPlan], Mapping[Event, int]] = MechanismPlan.charged,
) -> MechanismPlan:
    """The mechanism of an experiment: finds the noise for its epsilon.

    Args:
        experiment: all settings.
        population: enrolled devices.
        charged: what the plan costs with a given noise; by default all its rounds, once.

    Raises:
        ConfigError: the target cannot be met or means nothing, such as delta at or above 1 / population.
    """
    target = experiment.privacy
    shape = _shape(experiment, population)
    if target.noise == "none":
        return shape
    return calibrated(shape, target.epsilon, measurement_charge(experiment, population), charged)


def _shape(experiment: Experiment, population: int) -> MechanismPlan:
    """The mechanism without its noise."""
    target = experiment.privacy
    rate = 1.0 if target.sampling == "none" else target.sampling_rate
    cap = None
    if target.sampling == "truncated_poisson":
        mean = rate * population
        cap = target.cap or min(population, math.ceil(mean + 5 * math.sqrt(mean * (1 - rate))))
    return MechanismPlan(
        population=population,
        sampling_rate=rate,
        clip_norm=target.clip_norm,
        noise_multiplier=0.0,
        rounds=experiment.rounds,
        delta=target.delta,
        sampling=target.sampling,
        cap=cap,
        max_participations=target.max_participations or rare_cap(rate, experiment.rounds),
        cohorts=target.cohorts,
        noise=target.mechanism,
    )


def recorded_plan(book: Book, facts: checkpoint.Facts, experiment: Experiment, dataset: Dataset) -> MechanismPlan:
    """The plan that a run was begun with: found anew, its noise could differ by another version of an accountant.

    Raises:
        CheckpointError: the checkpoint is of other data or other settings, whose epsilon would be another.
    """
    planned = book.plans.get(facts.plan_hash)
    plan = MechanismPlan.read(planned.plan) if planned else None
    same = plan is not None and replace(plan, noise_multiplier=0.0) == _shape(experiment, dataset.train.devices)
    if plan is None or not same or facts.schema_digest != dataset.schema.digest():
        raise CheckpointError(
            f"the checkpoint of round {facts.round} belongs to another experiment",
            "use the experiment.toml and the data it was made with",
        )
    return plan


def plan_of(folder: RunFolder, experiment: Experiment, dataset: Dataset) -> MechanismPlan:
    """The plan that a run has, or will have when nothing of it exists yet.

    Raises:
        CheckpointError: its checkpoints cannot be read, or belong to another experiment.
        LedgerError: it has checkpoints and no ledger that holds.
    """
    if not checkpoint.present(folder.checkpoints):
        return plan_for(experiment, dataset.train.devices)
    kept = checkpoint.newest(folder.checkpoints)
    with Ledger.open(folder.ledger, readonly=True) as ledger:
        return recorded_plan(ledger.book(), kept.facts, experiment, dataset)


def record_plan(experiment: Experiment, plan: MechanismPlan) -> RecordPlan | None:
    """How each device trains with record-level privacy, or None where it does not.

    Raises:
        ConfigError: the target cannot be met or means nothing.
    """
    local = experiment.local
    if local.record is None:
        return None
    return local.record.plan(local.max_rows, local.steps, plan.max_participations or plan.rounds)


def told_training(experiment: Experiment, plan: MechanismPlan) -> LocalTraining:
    """What devices are told to do: the experiment's local training, with the noise of the record-level guarantee."""
    found, local = record_plan(experiment, plan), experiment.local
    if found is None or local.record is None:
        return local
    target = msgspec.structs.replace(local.record, noise_multiplier=found.noise_multiplier)
    return msgspec.structs.replace(local, record=target)


def entropy_of(experiment: Experiment) -> Entropy:
    """Where cohorts and noise come from: record-level noise is repeated only where all of it is."""
    return SeededEntropy(experiment.seed) if experiment.privacy.noise == "seeded" else OsEntropy()
