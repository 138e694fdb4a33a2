"""A simulated federation from experiment to trained model: the same coordinator and nodes as in the field."""

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from torch import Tensor

from sottovoce.client.app import Node, client_app
from sottovoce.client.scoring import score
from sottovoce.models.ranker import initial
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.calibration import calibrated
from sottovoce.privacy.entropy import OsEntropy, SeededEntropy
from sottovoce.privacy.errors import CheckpointError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server import checkpoint
from sottovoce.server.optimizer import PrivateStep
from sottovoce.server.round import Coordinator, RoundRecord
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.experiment import Experiment
from sottovoce.simulations.folder import Point, RunFolder
from sottovoce.simulations.loading import partition
from sottovoce.simulations.metrics import Metrics, evaluate
from sottovoce.simulations.queries import measurement_charge, measurement_plans


@dataclass(frozen=True, slots=True)
class Trained:
    """What training ended with.

    Attributes:
        parameters: averaged weights, the model that ships.
        rounds: rounds in it.
        sha256: of the checkpoint they were read from.
        notes: what the user must know: checkpoints passed over, rounds the budget refused.
    """

    parameters: dict[str, Tensor]
    rounds: int
    sha256: str
    notes: tuple[str, ...]


def plan_for(experiment: Experiment, population: int) -> MechanismPlan:
    """The mechanism of an experiment: finds the noise for its epsilon.

    Raises:
        ConfigError: the target cannot be met or means nothing, such as delta at or above 1 / population.
    """
    target = experiment.privacy
    plan = MechanismPlan(population, target.sampling_rate, target.clip_norm, 0.0, experiment.rounds, target.delta)
    besides = measurement_charge(experiment, population)
    return plan if target.noise == "none" else calibrated(plan, target.epsilon, besides)


def nodes(experiment: Experiment, dataset: Dataset) -> ClientApp:
    """The ClientApp of simulated nodes, each hosting its share of the devices."""
    hosted: dict[tuple[int, int], Node] = {}

    def open_node(context: Context) -> Node:
        number, of = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
        if (number, of) not in hosted:
            share, later = partition(dataset.train, number, of), partition(dataset.valid, number, of)
            hosted[number, of] = Node(share, dataset.schema, experiment.model, number, held_out=later)
        return hosted[number, of]

    return client_app(open_node)


def measure(experiment: Experiment, dataset: Dataset, parameters: dict[str, Tensor]) -> Metrics:
    """Ranking quality of the click head on the held-out rows."""
    chances = score(parameters, dataset.schema, experiment.model, dataset.train, dataset.valid)
    owners = dataset.valid.owners
    return evaluate(chances[:, 0], dataset.valid.labels[:, 0], owners)


def train(
    grid: Grid,
    experiment: Experiment,
    dataset: Dataset,
    folder: RunFolder,
    on_point: Callable[[Point], None],
) -> Trained:
    """Run or continue the experiment in `folder`.

    A round whose checkpoint is whole was released and stays: if the crash came before its row was committed, that is
    done now. Any other round that was cut off counts as spent and is run again while the budget lasts.

    Args:
        grid: where the nodes are.
        experiment: all settings.
        dataset: the nodes train on it; here its held-out rows, with the training rows as history, draw the learning
            curve.
        folder: made by `RunFolder.create`; checkpoints found there are continued from.
        on_point: called after each round.

    Raises:
        BudgetError: not even the first round can be paid for.
        CheckpointError: checkpoints are there, but none can be read or fits.
        ConfigError: another process trains in this folder.
        LedgerError: the ledger was changed, is older than the checkpoint, or is gone while checkpoints are there.
    """
    plan = plan_for(experiment, dataset.train.devices)
    target = experiment.privacy
    entropy = SeededEntropy(experiment.seed) if target.noise == "seeded" else OsEntropy()
    with folder.locked():
        start = checkpoint.newest(folder.checkpoints) if checkpoint.present(folder.checkpoints) else None
        with Ledger.open(folder.ledger_file, create=start is None) as ledger:
            budget = Budget(target.epsilon, target.delta, ledger)
            budget.register(plan, *measurement_plans(experiment, plan.population).values())
            run_id = start.facts.run_id if start else secrets.token_hex(8)
            step = _step(experiment, dataset, plan, run_id)
            notes = _continue(start, step, plan, dataset, ledger) if start else []
            lost = ledger.recover()
            notes += [
                f"round {one.round} was cut off earlier; what it may have released counts as spent" for one in lost
            ]
            done = start.facts.round if start else 0
            folder.rewind(done)

            def keep(record: RoundRecord) -> None:
                judged = record.round == experiment.rounds or record.round % experiment.evaluate_every == 0
                epsilon = budget.running().epsilon
                point = Point(
                    record=record,
                    epsilon=epsilon if math.isfinite(epsilon) else None,
                    metrics=measure(experiment, dataset, step.averaged) if judged else None,
                )
                folder.append(point)
                on_point(point)

            coordinator = Coordinator(
                grid=grid,
                plan=plan,
                budget=budget,
                ledger=ledger,
                step=step,
                training=experiment.local,
                entropy=entropy,
                run_id=run_id,
                schema_digest=dataset.schema.digest(),
                folder=folder.checkpoints,
            )
            early = coordinator.run(done, keep)
            if early:
                notes.append(early)
            # Weights and digest from one file: what is reported and released is what lies there.
            kept = checkpoint.newest(folder.checkpoints)
            step.restore(kept.state)
    return Trained(step.averaged, kept.facts.round, kept.sha256, (*notes, *kept.problems))


def _continue(
    start: checkpoint.Kept, step: PrivateStep, plan: MechanismPlan, dataset: Dataset, ledger: Ledger
) -> list[str]:
    """Take up a checkpoint where it was left, once the ledger holds the row that paid for it; returns its problems."""
    facts = start.facts
    ledger.verify(facts.ledger_head)
    _require_same(facts, plan, dataset)
    step.restore(start.state)
    paid = ledger.reservation(facts.ledger_length, facts.ledger_hash)
    if paid is not None:
        ledger.commit(paid, start.sha256)
    return list(start.problems)


def _require_same(facts: checkpoint.Facts, plan: MechanismPlan, dataset: Dataset) -> None:
    """Refuse a checkpoint of other data or other settings, whose epsilon would be another."""
    if facts.plan_hash != plan.digest() or facts.schema_digest != dataset.schema.digest():
        raise CheckpointError(
            f"the checkpoint of round {facts.round} belongs to another experiment",
            "use the experiment.toml and the data it was made with",
        )


def trained(experiment: Experiment, dataset: Dataset, folder: RunFolder) -> Trained:
    """The model of a run that has at least one checkpoint.

    Raises:
        CheckpointError: there is none that can be read, or it belongs to another experiment.
        ConfigError: the experiment was changed into one that cannot be run.
    """
    kept = checkpoint.newest(folder.checkpoints)
    plan = plan_for(experiment, dataset.train.devices)
    _require_same(kept.facts, plan, dataset)
    step = _step(experiment, dataset, plan, kept.facts.run_id)
    step.restore(kept.state)
    return Trained(step.averaged, kept.facts.round, kept.sha256, kept.problems)


def _step(experiment: Experiment, dataset: Dataset, plan: MechanismPlan, run_id: str) -> PrivateStep:
    fresh = initial(dataset.schema, experiment.model, experiment.seed)
    return PrivateStep(fresh, experiment.server, plan, run_id)
