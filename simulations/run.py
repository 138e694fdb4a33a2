"""A simulated federation from experiment to trained model: the same coordinator and nodes as in the field."""

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from torch import Tensor

from sottovoce.client.app import Node, client_app
from sottovoce.client.own_model import OwnModel
from sottovoce.client.scoring import score
from sottovoce.models.model import Model
from sottovoce.models.plain_operators import require_plain
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.entropy import Entropy
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server import checkpoint
from sottovoce.server.observer import RoundObserver, Together, Unobserved
from sottovoce.server.optimizer import PrivateStep
from sottovoce.server.participation import Participation
from sottovoce.server.round import Coordinator, Purse, RoundRecord
from sottovoce.server.round_diary import RoundDiary
from sottovoce.server.secure_collect import SecureAggregation
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.experiment import Experiment
from sottovoce.simulations.folder import ModuleFacts, Point, RunFolder
from sottovoce.simulations.loading import partition
from sottovoce.simulations.metrics import Metrics, evaluate
from sottovoce.simulations.node_keys import simulated_member, simulated_registry
from sottovoce.simulations.planning import entropy_of, plan_for, plan_of, recorded_plan, told_training
from sottovoce.simulations.queries import measurement_plans


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


def model_of(experiment: Experiment, own: OwnModel | None) -> Model:
    """What is trained: a module of one's own, or the ranker in the sizes of the experiment."""
    return experiment.model if own is None else own


def module_facts(own: OwnModel | None, dataset: Dataset) -> ModuleFacts | None:
    """What the run folder keeps about a module of one's own."""
    if own is None:
        return None
    values = sum(math.prod(shape) for shape in own.shapes(dataset.schema).values())
    return ModuleFacts(name=own.name, values=values, sha256=own.digest())


def nodes(experiment: Experiment, dataset: Dataset, own: OwnModel | None = None, accelerator: str = "cpu") -> ClientApp:
    """The ClientApp of simulated nodes, each hosting its share of the devices.

    Args:
        experiment: what they are told.
        dataset: whose devices they host.
        own: what they train in place of the ranker, where it is given.
        accelerator: where, see `client.app.Node`.
    """
    model = model_of(experiment, own)
    hosted: dict[tuple[int, int], Node] = {}

    def open_node(context: Context) -> Node:
        number, of = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
        if (number, of) not in hosted:
            share, later = partition(dataset.train, number, of), partition(dataset.valid, number, of)
            entropy = entropy_of(experiment)
            hosted[number, of] = Node(
                share,
                dataset.schema,
                model,
                number,
                entropy=entropy,
                held_out=later,
                accelerator=accelerator,
                member=simulated_member(experiment.seed, number, of) if experiment.privacy.secure_aggregation else None,
            )
        return hosted[number, of]

    return client_app(open_node)


def measure(
    experiment: Experiment, dataset: Dataset, parameters: dict[str, Tensor], own: OwnModel | None = None
) -> Metrics:
    """Ranking quality of the click head on the held-out rows."""
    chances = score(parameters, dataset.schema, model_of(experiment, own), dataset.train, dataset.valid)
    owners = dataset.valid.owners
    return evaluate(chances[:, 0], dataset.valid.labels[:, 0], owners)


def train(
    grid: Grid,
    experiment: Experiment,
    dataset: Dataset,
    folder: RunFolder,
    on_point: Callable[[Point], None],
    own: OwnModel | None = None,
    observer: RoundObserver | None = None,
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
        own: a module to train in place of the ranker; the nodes of `grid` need the same.
        observer: is told what happens, where somebody watches.

    Raises:
        BudgetError: not even the first round can be paid for.
        CheckpointError: checkpoints are there, but none can be read or fits.
        ConfigError: another process trains in this folder; or it is of another module; or the experiment asks for what
            a module of one's own cannot have, or for a ranker that could not be exported.
        LedgerError: the ledger was changed, is older than the checkpoint, or is gone while checkpoints are there.
    """
    target = experiment.privacy
    entropy = entropy_of(experiment)
    folder.require_module(module_facts(own, dataset))
    if own is not None:
        own.require(experiment.local)
    else:
        require_plain(dataset.schema, experiment.model)
    with folder.locked():
        start = checkpoint.newest(folder.checkpoints) if checkpoint.present(folder.checkpoints) else None
        with Ledger.open(folder.ledger, create=start is None) as ledger:
            if start:
                ledger.verify(start.facts.ledger_head)
                plan = recorded_plan(ledger.book(), start.facts, experiment, dataset)
                seen = Participation.resume(folder.participation_file, plan.population, plan.max_participations)
            else:
                plan = plan_for(experiment, dataset.train.devices)
                seen = Participation.begin(folder.participation_file, plan.population, plan.max_participations)
            budget = budget_of(experiment, ledger)
            budget.register(plan, *measurement_plans(experiment, plan.population).values())
            run_id = start.facts.run_id if start else secrets.token_hex(8)
            step = _step(experiment, dataset, plan, run_id, own)
            notes = _continue(start, step, ledger) if start else []
            # On a shared ledger other runs may be at work: only what this one left open is settled.
            lost = ledger.recover(run_id if target.ledger else None)
            notes += [
                f"round {one.round} was cut off earlier; what it may have released counts as spent" for one in lost
            ]
            done = start.facts.round if start else 0
            folder.rewind(done)

            begun = Underway(
                plan=plan,
                purse=budget,
                epsilon=lambda: budget.running().epsilon,
                entropy=entropy,
                run_id=run_id,
                step=step,
                participation=seen,
                done=done,
                own=own,
            )
            model = go_on(grid, experiment, dataset, folder, begun, on_point, observer)
    return replace(model, notes=(*notes, *model.notes))


@dataclass(frozen=True, slots=True)
class Underway:
    """A run that is paid for and may train.

    Attributes:
        plan: its mechanism.
        purse: what pays for its rounds.
        epsilon: what was spent so far, for its learning curve.
        entropy: where cohorts and noise come from.
        run_id: of this run.
        step: the model and its private step.
        participation: how often each device was asked.
        done: rounds that are in the model.
        own: module that is trained in place of the ranker.
    """

    plan: MechanismPlan
    purse: Purse
    epsilon: Callable[[], float]
    entropy: Entropy
    run_id: str
    step: PrivateStep
    participation: Participation
    done: int
    own: OwnModel | None = None


def begin(
    experiment: Experiment,
    dataset: Dataset,
    folder: RunFolder,
    plan: MechanismPlan,
    purse: Purse,
    epsilon: Callable[[], float],
    entropy: Entropy,
) -> Underway:
    """A new run in `folder`, its weights as they are at first.

    Raises:
        ConfigError: the experiment asks for a ranker that could not be exported.
    """
    require_plain(dataset.schema, experiment.model)
    run_id = secrets.token_hex(8)
    return Underway(
        plan=plan,
        purse=purse,
        epsilon=epsilon,
        entropy=entropy,
        run_id=run_id,
        step=_step(experiment, dataset, plan, run_id),
        participation=Participation.begin(folder.participation_file, plan.population, plan.max_participations),
        done=0,
    )


def go_on(
    grid: Grid,
    experiment: Experiment,
    dataset: Dataset,
    folder: RunFolder,
    run: Underway,
    on_point: Callable[[Point], None],
    observer: RoundObserver | None = None,
) -> Trained:
    """All rounds that a run has left; see `train`. No ledger is opened here: `run.purse` pays.

    Raises:
        BudgetError: not even the first round can be paid for.
        CheckpointError: a checkpoint cannot be written.
    """

    def keep(record: RoundRecord) -> None:
        judged = record.round == experiment.rounds or record.round % experiment.evaluate_every == 0
        epsilon = run.epsilon()
        point = Point(
            record=record,
            epsilon=epsilon if math.isfinite(epsilon) else None,
            metrics=measure(experiment, dataset, run.step.averaged, run.own) if judged else None,
        )
        folder.append(point)
        on_point(point)

    coordinator = Coordinator(
        grid=grid,
        plan=run.plan,
        budget=run.purse,
        step=run.step,
        training=told_training(experiment, run.plan),
        entropy=run.entropy,
        run_id=run.run_id,
        schema_digest=dataset.schema.digest(),
        folder=folder.checkpoints,
        participation=run.participation,
        collecting=experiment.collect,
        robust=experiment.robust,
        observer=Together(observer or Unobserved(), RoundDiary(folder.diary_file)),
        secure=_secure(experiment, grid),
    )
    early = coordinator.run(run.done, keep)
    # Weights and digest from one file: what is reported and released is what lies there.
    kept = checkpoint.newest(folder.checkpoints)
    run.step.restore(kept.state)
    notes = (early, *kept.problems) if early else kept.problems
    return Trained(run.step.averaged, kept.facts.round, kept.sha256, notes)


def _secure(experiment: Experiment, grid: Grid) -> SecureAggregation | None:
    """How sums are taken, with the keys of simulated nodes; None for sums in clear."""
    target = experiment.privacy
    if not target.secure_aggregation:
        return None
    return SecureAggregation(
        simulated_registry(experiment.seed, len(list(grid.get_node_ids()))), target.dropout, target.collusion
    )


def budget_of(experiment: Experiment, ledger: Ledger) -> Budget:
    """The campaign's budget; a run's own epsilon is the campaign's where it has the ledger to itself."""
    target = experiment.privacy
    if target.ledger and ledger.book().campaign is not None:
        return Budget.of(ledger)
    return Budget(target.epsilon, target.delta, ledger)


def _continue(start: checkpoint.Kept, step: PrivateStep, ledger: Ledger) -> list[str]:
    """Take up a checkpoint where it was left; returns its problems."""
    facts = start.facts
    step.restore(start.state)
    paid = ledger.reservation(facts.ledger_length, facts.ledger_hash)
    if paid is not None:
        ledger.commit(paid, start.sha256)
    return list(start.problems)


def trained(experiment: Experiment, dataset: Dataset, folder: RunFolder, own: OwnModel | None = None) -> Trained:
    """The model of a run that has at least one checkpoint.

    Raises:
        CheckpointError: there is none that can be read, or it belongs to another experiment.
        ConfigError: the experiment was changed into one that cannot be run, or `own` is not what the run trains.
        LedgerError: there is no ledger that holds.
    """
    folder.require_module(module_facts(own, dataset))
    kept = checkpoint.newest(folder.checkpoints)
    step = _step(experiment, dataset, plan_of(folder, experiment, dataset), kept.facts.run_id, own)
    step.restore(kept.state)
    return Trained(step.averaged, kept.facts.round, kept.sha256, kept.problems)


def _step(
    experiment: Experiment, dataset: Dataset, plan: MechanismPlan, run_id: str, own: OwnModel | None = None
) -> PrivateStep:
    model = model_of(experiment, own)
    fresh = model.initial(dataset.schema, experiment.seed)
    scales = model.scales(dataset.schema)
    return PrivateStep(fresh, experiment.server, plan, run_id, model.padding, scales)
