"""A measurement of the devices: pay, draw, ask, add up, release, keep.

Whatever is asked, it is one mechanism: a vector from every device of a cohort, bounded on the device, summed, and
hidden by Gaussian noise. Silence and unusable answers count as zero; noise and denominator stay as planned.
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from sottovoce.client.fleet import LocalTraining
from sottovoce.client.question import Answer, Floats, Query, Question, question_record, read_answer
from sottovoce.client.wire import FloatArrays
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.entropy import Entropy
from sottovoce.privacy.errors import ConfigError, UpdateError
from sottovoce.privacy.ledger import Realised, Reservation
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.cohort import Population, enrol, replies


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What is measured, of everybody alike.

    Attributes:
        query: which question.
        plan: what each answer to it costs; its clip norm bounds each device.
        marks: see `Question.marks`.
        training: see `Question.training`.
        parameters: of the model in question; none for `popularity`.
        ads: in the catalogue.
    """

    query: Query
    plan: MechanismPlan
    marks: Floats
    training: LocalTraining
    parameters: FloatArrays
    ads: int

    def question(self, run_id: str, number: int, devices: npt.NDArray[np.int64]) -> Question:
        """As it is put to one node."""
        return Question(
            run_id,
            number,
            self.plan.digest(),
            self.query,
            self.plan.clip_norm,
            self.marks,
            self.training,
            self.parameters,
            devices,
        )


@dataclass(frozen=True, slots=True)
class Release:
    """A measurement that was paid for.

    Attributes:
        total: noisy sum, shape (`Question.size`,).
        paid: the row of the ledger.
        dropped: one line for each unusable answer.
    """

    total: Floats
    paid: Reservation
    dropped: tuple[str, ...]


class Keep(Protocol):
    """Keeps a noisy sum on disk."""

    def __call__(self, total: Floats, paid: Reservation, /) -> bytes:
        """What was written."""
        ...


def measure(
    inquiry: Inquiry,
    number: int,
    run_id: str,
    grid: Grid,
    budget: Budget,
    entropy: Entropy,
    keep: Keep,
    deadline_s: float = 600.0,
) -> Release:
    """Ask once, release once.

    Args:
        inquiry: what to ask.
        number: of the measurement in the run, from 1; never used twice, or seeded noise would repeat.
        run_id: of the run whose plans pay.
        grid: where the nodes are.
        budget: of the campaign.
        entropy: where the cohort and the noise come from.
        keep: called with the release before it is committed.
        deadline_s: longest wait for answers.

    Raises:
        BudgetError: it cannot be paid for; no device was asked.
        ConfigError: the plan was made for another population than the one enrolled.
    """
    plan = inquiry.plan
    population = enrol(grid, deadline_s)
    if population.devices != plan.population:
        raise ConfigError(
            f"{population.devices} devices enrolled, the plan is for {plan.population}",
            "start the nodes that are missing; epsilon depends on the whole population",
        )
    paid = budget.reserve(plan, run_id, number, entropy.kind if plan.noise_multiplier else "none")
    cohort = plan.sampler().draw(entropy.generator(f"cohort of {inquiry.query}", number))
    total, answered, dropped = _collect(inquiry, number, run_id, grid, population, cohort, deadline_s)
    noisy = plan.summed_noise().release(total, paid, entropy.generator(f"noise of {inquiry.query}", number))
    data = keep(noisy, paid)
    realised = Realised(
        population=population.devices,
        cohort=len(cohort),
        answered=answered,
        busiest=number,
        salt=secrets.token_hex(16),
    )
    budget.commit(paid, hashlib.sha256(data).hexdigest(), realised)
    return Release(noisy, paid, tuple(dropped))


def _collect(
    inquiry: Inquiry,
    number: int,
    run_id: str,
    grid: Grid,
    population: Population,
    cohort: npt.NDArray[np.int64],
    deadline_s: float,
) -> tuple[Floats, int, list[str]]:
    """Ask the cohort and add up what is usable, in the order of the nodes: their speed must not change the sum."""
    asked = {node: inquiry.question(run_id, number, devices) for node, devices in population.split(cohort)}
    messages = [
        Message(question_record(question), node, MessageType.EVALUATE, group_id=f"{inquiry.query} {number}")
        for node, question in asked.items()
    ]
    total = np.zeros(inquiry.question(run_id, number, cohort).size(inquiry.ads))
    usable: dict[int, Answer] = {}
    dropped = []
    for message in replies(grid, messages, deadline_s) if messages else ():
        node = message.metadata.src_node_id
        if node not in asked or node in usable:
            dropped.append(f"node {node}: not asked, or answered twice")
            continue
        try:
            usable[node] = read_answer(message.content, asked[node], len(total))
        except UpdateError as error:
            dropped.append(f"node {node}: {error.what}")
    for node in population.nodes:
        if node in usable:
            total += usable[node].total
    return total, sum(answer.devices for answer in usable.values()), dropped
