"""The units in which a linear model is trained: what makes one clip norm and one size of noise fair to all its weights.

A field of few values shows each of them often, so that its weights need small steps and little of the noise. Its unit
is the root of its number of rows, over the root of `FREQUENT`, at most 1; what every impression shows counts as a field
of ten. All of it is read off the schema, which is public.

A weight is its number of units times the unit. Devices move and clip the numbers, and the coordinator adds noise to
their sum; only then is it multiplied by the unit. So the sensitivity is the clip norm, whatever the units are.

Source: preconditioning by public side information before clipping, Li et al. 2022, arXiv:2202.05963, section 3.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sottovoce.models.schema import FeatureSchema

FREQUENT = 1024
"""Rows of a field from which on each row counts as rare."""

EVERYWHERE = 10
"""Rows of a field whose unit biases and interest counts have, which speak for every impression."""


def units(schema: FeatureSchema, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The unit of every weight of a linear model, by name and in its shape.

    Args:
        schema: whose fields lie in `table`.
        shapes: of the weights by name, `table` among them.
    """
    made = {name: torch.full(shape, math.sqrt(EVERYWHERE / FREQUENT)) for name, shape in shapes.items()}
    made["table"] = torch.ones(shapes["table"])
    for feature in schema.features:
        start = schema.offsets[feature.name]
        made["table"][start : start + feature.buckets] = min(1.0, math.sqrt(feature.buckets / FREQUENT))
    return made
