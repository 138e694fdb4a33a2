"""How devices train, by kind of model: the ranker has a fleet that knows its layers, any other module takes vmap."""

import numpy as np
import numpy.typing as npt

from sottovoce.client.examples import Examples
from sottovoce.client.fleet import FleetUpdate, LocalTraining, fleet_update, update_norms
from sottovoce.client.own_model import OwnModel
from sottovoce.models.model import Model
from sottovoce.models.ranker import Parameters, RankerConfig
from sottovoce.models.schema import FeatureSchema


def summed_update(
    parameters: Parameters,
    examples: Examples,
    schema: FeatureSchema,
    model: Model,
    training: LocalTraining,
    clip_norm: float,
    devices: npt.NDArray[np.integer],
    *,
    accelerator: str = "cpu",
) -> FleetUpdate:
    """The sum of the clipped updates of `devices`; see `fleet.fleet_update`.

    `accelerator` is where the ranker's arithmetic happens; a module of one's own trains on the processor.
    """
    match model:
        case RankerConfig():
            return fleet_update(parameters, examples, schema, model, training, clip_norm, devices, device=accelerator)
        case OwnModel():
            return model.update(parameters, examples, training, clip_norm, devices)
    raise TypeError(f"nobody knows how to train a {type(model).__name__}")


def norms(
    parameters: Parameters,
    examples: Examples,
    schema: FeatureSchema,
    model: Model,
    training: LocalTraining,
    devices: npt.NDArray[np.integer],
) -> npt.NDArray[np.float64]:
    """L2 norm of each update before clipping; see `fleet.update_norms`."""
    match model:
        case RankerConfig():
            return update_norms(parameters, examples, schema, model, training, devices)
        case OwnModel():
            return model.norms(parameters, examples, training, devices)
    raise TypeError(f"nobody knows how to train a {type(model).__name__}")
