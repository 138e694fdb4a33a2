"""What a device contributes to a measurement: a vector over its own rows, bounded as a whole.

A pure function of the rows, the parameters and the question. Only the sum over the devices asked leaves this module.
"""

import numpy as np
import numpy.typing as npt
import torch

from sottovoce.client.examples import Examples
from sottovoce.client.question import Floats, Question
from sottovoce.client.scoring import score, score_past
from sottovoce.client.training import norms
from sottovoce.models.model import Model
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.clip import Clipper

Ints = npt.NDArray[np.int64]


def bounded_sum(asked: Question, past: Examples, later: Examples | None, schema: FeatureSchema, model: Model) -> Floats:
    """The sum over `asked.devices` of their vectors, each clipped to `asked.clip_norm` as a whole.

    `quality` scores held-out rows with each device's personal layer in place, as they are served. `calibration` scores
    without it: those rows are what the layer is fitted on, and would flatter it.

    =======================================  ==================================================
    device                                   contributes
    =======================================  ==================================================
    owns no rows of the kind asked           zeros; to `clip`, what an update of norm 0 does
    a score of its is NaN                    zeros
    its update is NaN or infinite (`clip`)   "above" for every mark
    =======================================  ==================================================

    Args:
        asked: which devices, and what.
        past: training rows of all devices of the node.
        later: their held-out rows, same devices in the same order; None where none are kept.
        schema: of the ids.
        model: that the parameters belong to.

    Returns:
        Shape (`asked.size`,).

    Raises:
        ValueError: `quality` where no held-out rows are kept.
    """
    parameters = {name: torch.from_numpy(value) for name, value in asked.parameters.items()}
    size = asked.size(len(past.catalogue))
    match asked.query:
        case "clip":
            found = norms(parameters, past, schema, model, asked.training, asked.devices)
            return _signed(found, asked.marks, asked.clip_norm)
        case "popularity":
            rows = past.take(asked.devices)
            clicked = rows.labels[:, 0] == 1
            owner = np.concatenate([rows.owners, rows.owners[clicked]])
            cell = np.concatenate([2 * rows.ad.astype(np.int64), 2 * rows.ad[clicked].astype(np.int64) + 1])
            return tally(owner, cell, len(asked.devices), size, asked.clip_norm)
        case "quality":
            if later is None:
                raise ValueError("no held-out rows are kept here")
            rows = later.take(asked.devices)
            chances = score(parameters, schema, model, past.take(asked.devices), rows)[:, 0]
            place = np.arange(rows.rows)
        case "calibration":
            rows = past.take(asked.devices)
            place, every = score_past(parameters, schema, model, rows, asked.training.max_rows)
            chances = every[:, 0]
    owner, label = rows.owners[place], rows.labels[place, 0].astype(np.int64)
    spoilt = np.zeros(len(asked.devices), bool)
    spoilt[owner[np.isnan(chances)]] = True
    kept = ~spoilt[owner]
    cell = 2 * score_bin(chances[kept], asked.marks) + label[kept]
    return tally(owner[kept], cell, len(asked.devices), size, asked.clip_norm)


def score_bin(chances: Floats, edges: Floats) -> Ints:
    """Bin of each probability, 0 ... len(edges): bin k holds logits from edges[k - 1] up to below edges[k]."""
    with np.errstate(divide="ignore"):
        return np.searchsorted(edges, np.log(chances) - np.log1p(-chances), side="right").astype(np.int64)


def tally(owner: Ints, cell: Ints, devices: int, size: int, bound: float) -> Floats:
    """Sum over devices of their histograms, each scaled down until its L2 norm is at most `bound`.

    Args:
        owner: (marks,) device of each mark, 0 ... devices - 1.
        cell: (marks,) cell of each mark, 0 ... size - 1.
        devices: how many there are.
        size: cells of a histogram.
        bound: largest L2 norm of one device's histogram.
    """
    keys, counts = np.unique(owner * size + cell, return_counts=True)
    whose, where = keys // size, keys % size
    squares = np.bincount(whose, counts.astype(np.float64) ** 2, devices)
    factors = Clipper(bound).factors(np.sqrt(squares))
    total: Floats = np.bincount(where, counts * factors[whose], size).astype(np.float64)
    return total


def _signed(norms: Floats, marks: Floats, bound: float) -> Floats:
    """Sum of +1/2 where a norm is at most the mark and -1/2 where it is not.

    Half bits of either sign rather than 0 and 1: replacing a device by zeros then moves each number by half only.

    Source: Andrew et al. 2021, arXiv:1905.03871, which counts the same bits for one mark.
    """
    votes = np.where(norms[:, None] <= marks, 0.5, -0.5)
    return Clipper(bound).factors(np.linalg.norm(votes, axis=1)) @ votes
