"""The Flower ClientApp of a node: enrol its devices, train or measure those that are asked.

One ClientApp runs unchanged in the process, on Flower's simulation runtime and on its deployment runtime. What differs
is where the node's devices come from, which is the caller's function.
"""

from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from sottovoce.client.device_ledger import DeviceLedger
from sottovoce.client.examples import Examples
from sottovoce.client.fleet import FleetUpdate
from sottovoce.client.measurement import bounded_sum
from sottovoce.client.message import (
    Enrolment,
    Instruction,
    Reply,
    enrolment_record,
    read_instruction,
    reply_record,
)
from sottovoce.client.participation import Participation
from sottovoce.client.question import Answer, Question, answer_record, read_question
from sottovoce.client.record_fleet import record_fleet_update
from sottovoce.client.record_level import record_level_update
from sottovoce.client.secure_messages import KEYS, MASKED, SHARES, UNMASK
from sottovoce.client.secure_node import (
    Member,
    answer_adverts,
    answer_masking,
    answer_session,
    answer_unmask,
    read_masking,
)
from sottovoce.client.training import summed_update
from sottovoce.client.wire import FloatArrays
from sottovoce.models.model import Model
from sottovoce.models.ranker import RankerConfig
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.entropy import Entropy, OsEntropy
from sottovoce.privacy.errors import DataError, UpdateError


@dataclass(frozen=True, slots=True)
class Node:
    """The devices a node hosts.

    Attributes:
        examples: their rows; a phone hosts one device.
        schema: of the ids in `examples`.
        model: sizes of the ranker, or a module of one's own.
        order: position of this node among all nodes.
        participation: how often each of its devices took part, by its own count.
        max_participations: most rounds of one run that any of them joins, whatever it is asked; None for no limit.
        ledger: of the one device of a phone, for record-level training; None keeps no books, as in a simulation, where
            only `max_participations` bounds what a record reveals.
        entropy: of record-level batches and noise.
        held_out: later rows of the same devices, never trained on; None where the node keeps none.
        accelerator: torch's name of where the ranker trains with device-level privacy or none, such as `cuda`.
        member: for secure sums, and then nothing is sent in clear; None takes no part in any.
        ads: how many ads of the catalogue everybody has; the others are of this phone's past, and are left out of
            measurements, whose length would tell of them. None for all.
        joins: whether the devices asked take part, as a phone decides for itself; where not, the answer is zeros. It
            may raise an UpdateError, and there is no answer. None for always.

    Raises:
        DataError: an id, label or ad that the schema and catalogue do not have. One such row would spill into another
            device's update, and the bound on each would no longer hold. Or held-out rows of other devices.
    """

    examples: Examples
    schema: FeatureSchema
    model: Model
    order: int
    participation: Participation = field(init=False)
    max_participations: InitVar[int | None] = None
    ledger: DeviceLedger | None = None
    entropy: Entropy = OsEntropy()  # noqa: RUF009 - it has no state
    held_out: Examples | None = None
    accelerator: str = "cpu"
    member: Member | None = None
    ads: int | None = None
    joins: Callable[[Instruction | Question], bool] | None = None

    @property
    def measured(self) -> Examples:
        """The rows that measurements look at."""
        rows = self.examples
        if self.ads is None or self.ads == len(rows.catalogue):
            return rows
        kept = rows.ad < self.ads
        counts = np.bincount(rows.owners[kept], minlength=rows.devices)
        return Examples(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            rows.device,
            rows.context[kept],
            rows.ad[kept],
            rows.labels[kept],
            rows.catalogue[: self.ads],
            rows.match[kept] if rows.match.shape[1] else rows.match,
        )

    def joining(self, asked: Instruction | Question) -> npt.NDArray[np.int64]:
        """Those of the devices asked that take part, caps aside."""
        return asked.devices if self.joins is None or self.joins(asked) else asked.devices[:0]

    def __post_init__(self, max_participations: int | None) -> None:
        """Check every row once, before any round."""
        if self.ledger is not None and self.examples.devices != 1:
            raise ValueError(f"one ledger for {self.examples.devices} devices: each keeps its own")
        object.__setattr__(self, "participation", Participation(self.examples.devices, max_participations))
        self._check(self.examples)
        if self.held_out is not None:
            self._check(self.held_out)
            if self.held_out.devices != self.examples.devices:
                raise DataError("held-out rows are of other devices", "build both from the same devices, in order")

    def _check(self, rows: Examples) -> None:
        ids = self.schema.rows
        for name, column, end in (
            ("device", rows.device, ids),
            ("context", rows.context, ids),
            ("catalogue", rows.catalogue, ids),
            ("match", rows.match, ids),
            ("ad", rows.ad, len(rows.catalogue)),
            ("labels", rows.labels, 2),
        ):
            if column.size and not 0 <= column.min() <= column.max() < end:
                raise DataError(
                    f"{name} holds {column.min()} ... {column.max()}, not 0 ... {end - 1}",
                    "encode the rows with the schema of the model",
                )
        if np.any(np.diff(rows.offsets) < 0):
            raise DataError("offsets of the devices fall", "sort the rows by device")


def client_app(open_node: Callable[[Context], Node], mods: Sequence[Mod] = ()) -> ClientApp:
    """A ClientApp over the devices that `open_node` finds for the node's context.

    Messages: `query` answers with an enrolment, `train` with the sum of clipped updates, `evaluate` with the sum of
    clipped measurements; the four `train.secure_...` are the steps of a secure sum of updates.

    Args:
        open_node: finds the devices.
        mods: Flower's wrappers around every answer.
    """
    app = ClientApp()
    around = list(mods)

    @app.query(mods=around)
    def enrol(message: Message, context: Context) -> Message:
        node = open_node(context)
        return Message(enrolment_record(Enrolment(node.examples.devices, node.order)), reply_to=message)

    @app.train(mods=around)
    def train(message: Message, context: Context) -> Message:
        node = open_node(context)
        _require_clear(node)
        asked = read_instruction(message.content)
        _require_answerable(asked, node)
        # On the wire the sum is rounded to float32, which can part two neighbouring sums by half a unit in the last
        # place of each device's share on both sides: this much is taken off the bound.
        slack = 1.0 + len(asked.devices) * float(np.finfo(np.float32).eps)
        update = _update(
            node,
            asked,
            asked.clip_norm / slack,
            node.participation.admit(asked.run_id, node.joining(asked), asked.max_participations),
        )
        total = {name: value.astype(np.float32) for name, value in update.total.items()}
        reply = Reply(asked.run_id, asked.round, asked.plan_hash, total, len(asked.devices))
        return Message(reply_record(reply), reply_to=message)

    @app.train(_action(KEYS), mods=around)
    def keys(message: Message, context: Context) -> Message:
        node = open_node(context)
        answer = answer_session(message.content, context, node.order, node.examples.devices, _member(node))
        return Message(answer, reply_to=message)

    @app.train(_action(SHARES), mods=around)
    def shares(message: Message, context: Context) -> Message:
        return Message(answer_adverts(message.content, context, _member(open_node(context))), reply_to=message)

    @app.train(_action(MASKED), mods=around)
    def train_masked(message: Message, context: Context) -> Message:
        node = open_node(context)
        state, asked = read_masking(message.content, context)
        _require_answerable(asked, node)
        joining = node.participation.admit(asked.run_id, node.joining(asked), asked.max_participations)
        update = _update(node, asked, asked.clip_norm, joining)
        return Message(answer_masking(state, asked, update.total, node.entropy), reply_to=message)

    @app.train(_action(UNMASK), mods=around)
    def unmask(message: Message, context: Context) -> Message:
        return Message(answer_unmask(message.content, context), reply_to=message)

    @app.evaluate(mods=around)
    def measure(message: Message, context: Context) -> Message:
        node = open_node(context)
        _require_clear(node)
        asked = read_question(message.content)
        _require_hosted(asked.devices, node)
        if asked.query != "popularity":
            _require_model(asked.parameters, node)
        if asked.query == "quality" and node.held_out is None:
            raise UpdateError("this node keeps no held-out rows", "ask it for calibration instead")
        joining = node.participation.admit(f"{asked.run_id} {asked.query}", node.joining(asked), None)
        total = bounded_sum(replace(asked, devices=joining), node.measured, node.held_out, node.schema, node.model)
        answer = Answer(asked.run_id, asked.number, asked.plan_hash, asked.query, len(asked.devices), total)
        return Message(answer_record(answer), reply_to=message)

    return app


def _update(node: Node, asked: Instruction, clip_norm: float, devices: npt.NDArray[np.int64]) -> FleetUpdate:
    """The sum of clipped updates, with record-level privacy where the instruction asks for it."""
    parameters = {name: torch.from_numpy(value) for name, value in asked.parameters.items()}
    training, target = asked.training, asked.training.record
    if target is None or not isinstance(node.model, RankerConfig):
        return summed_update(
            parameters,
            node.examples,
            node.schema,
            node.model,
            training,
            clip_norm,
            devices,
            accelerator=node.accelerator,
        )
    if node.model.scales(node.schema):
        raise UpdateError(
            "a linear model cannot be trained with record-level privacy",
            "train without local.record, or a ranker with embeddings",
        )
    plan = target.plan(training.max_rows, training.steps, asked.max_participations or 1)
    paid = None
    if node.ledger is not None and len(devices):
        paid = node.ledger.reserve(plan, asked.run_id, asked.round, node.entropy.kind)
        if paid is None:
            devices = devices[:0]
    # A phone trains with Opacus itself; thousands of simulated ones together, with the same result.
    train = record_level_update if node.examples.devices == 1 else record_fleet_update
    update = train(
        parameters,
        node.examples,
        node.schema,
        node.model,
        plan,
        training.learning_rate,
        clip_norm,
        devices,
        node.entropy,
        str(node.order),
        asked.round,
    )
    if node.ledger is not None and paid is not None:
        node.ledger.commit(paid, update.total)
    return update


def _action(kind: str) -> str:
    """Flower's name of a message type within its category."""
    return kind.removeprefix("train.")


def _member(node: Node) -> Member:
    if node.member is None:
        raise UpdateError("this node has no key for secure sums", "register one, or train with sums in clear")
    return node.member


def _require_clear(node: Node) -> None:
    if node.member is not None:
        raise UpdateError("this node sends nothing but sums under masks", "ask it for a secure sum")


def _require_answerable(asked: Instruction, node: Node) -> None:
    _require_hosted(asked.devices, node)
    _require_model(asked.parameters, node)
    _require_schema(asked.schema_digest, node)


def _require_hosted(devices: npt.NDArray[np.int64], node: Node) -> None:
    if len(devices) and not 0 <= devices.min() <= devices.max() < node.examples.devices:
        raise UpdateError("asked for a device this node does not host", "enrol again")


def _require_schema(digest: str, node: Node) -> None:
    """Two schemas of one shape, in which a row of the table means something else, would train without any error."""
    if digest != node.schema.digest():
        raise UpdateError("parameters are of another schema", "start the run and the node with one schema")


def _require_model(parameters: FloatArrays, node: Node) -> None:
    if {name: value.shape for name, value in parameters.items()} != node.model.shapes(node.schema):
        raise UpdateError("parameters are of another model", "start the run and the node with one experiment")
