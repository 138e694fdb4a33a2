"""The measurements that an experiment plans: what each costs, and what it asks.

Marks are fixed by public settings, never by data: looking for good ones would be a measurement itself.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import get_args

import numpy as np

from sottovoce.client.question import Floats, Query
from sottovoce.client.wire import FloatArrays
from sottovoce.privacy.events import Event, Purpose
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.measurement import Inquiry
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.experiment import Experiment

QUERIES: tuple[Query, ...] = get_args(Query)

PURPOSES: Mapping[Query, Purpose] = {
    "quality": "metric",
    "calibration": "calibration",
    "clip": "clip_count",
    "popularity": "preprocess",
}
"""What each is in the ledger."""

REACH, STRETCH, SIDE = 3.0, 2.5, 10
"""Score bins reach so far to both sides of the guessed click rate, in logits; their edges follow a hyperbolic sine over
so much of its argument, in so many steps to a side. Narrow in the middle, where a young model puts nearly every score,
they cost a third less in AUC than equal ones, and less noise lands on what they tell apart."""

NORMS = 16
"""Marks for norms: half-octaves around the clip norm of training. Their half bits have an L2 norm of exactly 2."""


def marks(query: Query, experiment: Experiment) -> Floats:
    """The marks of a question, see `Question.marks`."""
    match query:
        case "quality" | "calibration":
            rate = experiment.model.click_rate
            step = np.arange(-SIDE, SIDE + 1, dtype=np.float64) / SIDE
            return np.asarray(math.log(rate / (1 - rate)) + REACH * np.sinh(STRETCH * step) / math.sinh(STRETCH))
        case "clip":
            return experiment.privacy.clip_norm * np.exp2(np.arange(NORMS, dtype=np.float64) / 2 - NORMS / 4)
        case "popularity":
            return np.zeros(0)


def measurement_plans(experiment: Experiment, population: int) -> dict[Query, MechanismPlan]:
    """The plan of every query that is planned at least once.

    Raises:
        ConfigError: see `MechanismPlan`.
    """
    asked, target = experiment.measure, experiment.privacy
    return {
        query: MechanismPlan(
            population=population,
            sampling_rate=asked.sampling_rate,
            clip_norm=math.sqrt(NORMS) / 2 if query == "clip" else asked.clip_norm,
            noise_multiplier=0.0 if target.noise == "none" else asked.noise_multiplier,
            rounds=getattr(asked, query),
            delta=target.delta,
            purpose=PURPOSES[query],
            sampling="none" if asked.sampling_rate == 1 else "poisson",
            cohorts=target.cohorts,
            noise=target.mechanism,
        )
        for query in QUERIES
        if getattr(asked, query)
    }


def measurement_charge(experiment: Experiment, population: int) -> Counter[Event]:
    """What all planned measurements are charged together."""
    return sum((Counter(plan.charged()) for plan in measurement_plans(experiment, population).values()), Counter())


def inquiry(
    query: Query, plan: MechanismPlan, experiment: Experiment, dataset: Dataset, parameters: FloatArrays
) -> Inquiry:
    """What a measurement asks."""
    return Inquiry(
        query=query,
        plan=plan,
        marks=marks(query, experiment),
        training=experiment.local,
        parameters={} if query == "popularity" else parameters,
        ads=len(dataset.train.catalogue),
    )
