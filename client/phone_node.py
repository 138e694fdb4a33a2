"""A phone in a federation: a node that hosts one device, whose rows come from the device's own store.

It runs the same ClientApp as every other node and sends the same messages. What it adds: the device's own gate
(`training_offer`) before every answer, its own count of rounds on its disk, one error for everything that can fail,
because an error's text would be a message nobody declared, and answers that leave on a beat, because a device that
holds back has nothing to compute.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from sottovoce.client.app import Node, client_app
from sottovoce.client.catalogue import Catalogue, FeatureValue
from sottovoce.client.consent import Consent
from sottovoce.client.controls import Controls
from sottovoce.client.device_ledger import DeviceLedger
from sottovoce.client.event_store import EventStore
from sottovoce.client.events import EventLog
from sottovoce.client.examples import Examples
from sottovoce.client.message import Instruction
from sottovoce.client.own_examples import OutcomeWindow, own_examples
from sottovoce.client.question import Question
from sottovoce.client.secure_node import Member
from sottovoce.client.training_offer import Condition, DeviceState, Invitation, Offer, OfferRules, offer
from sottovoce.client.training_past import TrainingPast, write_past
from sottovoce.client.training_state import settled_past, training_state
from sottovoce.models.model import Model
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.errors import UpdateError

NO_ANSWER = "no answer"
"""All that an error of a phone says."""

ERROR_CODE = 2
"""Flower's own code for an app that raised."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When answers leave.

    Attributes:
        beat_s: seconds after the question, or a whole multiple where the work took longer. It should be several times
            what training takes on the slowest phone.
        clock: seconds, monotonic.
        wait: sleeps so many seconds.
    """

    beat_s: float = 5.0
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        """Refuse what is no beat."""
        if not 0 < self.beat_s < math.inf:
            raise ValueError(f"answers cannot leave every {self.beat_s} seconds")

    def hold(self, since: float) -> None:
        """Wait for the next beat after that moment of the clock."""
        gone = self.clock() - since
        self.wait(self.beat_s * max(1, math.ceil(gone / self.beat_s)) - gone)


@dataclass(frozen=True, slots=True)
class Phone:
    """One device of a federation. It looks anew for each message: what its owner decides counts from the next one.

    Attributes:
        store: of its events.
        schema: of its bundle.
        model: that the run trains.
        order: its place in the population, given when its owner agreed to train.
        past: file with its own count of rounds; not in the store's folder.
        device: what the device is, by feature.
        catalogue: in use now.
        consent: the person's gates as they stand.
        controls: of the person as they stand.
        condition: of the phone as it is.
        now: the device's time, with time zone.
        rules: when it offers itself.
        window: how long an outcome may take.
        ledger: its budget for record-level training.
        pace: when its answers leave.
        member: for secure sums; then it sends nothing in clear.
    """

    store: EventStore
    schema: FeatureSchema
    model: Model
    order: int
    past: Path
    device: Mapping[str, FeatureValue]
    catalogue: Callable[[], Catalogue]
    consent: Callable[[], Consent]
    controls: Callable[[], Controls]
    condition: Callable[[], Condition]
    now: Callable[[], datetime]
    rules: OfferRules = OfferRules()  # noqa: RUF009 - it never changes
    window: OutcomeWindow = OutcomeWindow()  # noqa: RUF009 - it never changes
    ledger: DeviceLedger | None = None
    pace: Pace = Pace()
    member: Member | None = None

    def examples(self) -> Examples:
        """The rows on this device; none without a consent that some of them could serve."""
        consent = self.consent()
        log = self.store.log if consent.learn or consent.report else EventLog()
        return own_examples(
            log, self.catalogue(), self.schema, self.device, self.controls(), self.now(), window=self.window
        )

    def offer(self, to: Invitation, run_id: str = "") -> Offer:
        """Whether it would take part in this now, and every reason why not: for a scheduler, and the owner's screen."""
        now = self.now()
        return offer(self._state(run_id, settled_past(self.past, now), self.examples().rows, now), to, self.rules)

    def node(self) -> Node:
        """The device as a node of one."""
        examples, catalogue = self.examples(), self.catalogue()
        return Node(
            examples,
            self.schema,
            self.model,
            self.order,
            ledger=self.ledger,
            member=self.member,
            ads=len(catalogue.ads),
            joins=lambda asked: self._joins(asked, examples.rows),
        )

    def _joins(self, asked: Instruction | Question, rows: int) -> bool:
        """Whether anything of the person goes into the answer; with an instruction, the round is written down.

        Raises:
            UpdateError: a reason of the phone itself.
        """
        now = self.now()
        past = settled_past(self.past, now)
        learning = isinstance(asked, Instruction)
        to = (
            Invitation("learn", asked.schema_digest, asked.round, asked.max_participations)
            if isinstance(asked, Instruction)
            else Invitation("report", self.schema.digest())
        )
        answer = offer(self._state(asked.run_id, past, rows, now), to, self.rules)
        if not answer.comes:
            raise UpdateError("the device does not take part now", "ask it again another time")
        if not learning or not answer.joins or past is None:
            return answer.joins
        return write_past(self.past, past.joined(asked.run_id, to.round, now))

    def _state(self, run_id: str, past: TrainingPast | None, rows: int, now: datetime) -> DeviceState:
        return training_state(
            self.store,
            self.schema.digest(),
            rows,
            past,
            run_id,
            self.condition(),
            self.consent(),
            self.controls().paused,
            now,
        )


def phone_app(phone: Phone) -> ClientApp:
    """The ClientApp of that phone: whatever fails inside, it answers with the one error and no more.

    Messages that come at once are answered one after the other, so that no two count as the same round.
    """
    turn = threading.Lock()

    def on_the_beat(message: Message, context: Context, answer: ClientAppCallable) -> Message:
        asked = phone.pace.clock()
        try:
            with turn:
                said: RecordDict | Error = answer(message, context).content
        except Exception:  # a programmer's mistake carries rows in its text as well as an expected error does
            said = Error(ERROR_CODE, NO_ANSWER)
        phone.pace.hold(asked)
        return Message(said, reply_to=message)  # made now: a message says when it was made

    return client_app(lambda _: phone.node(), mods=[on_the_beat])
