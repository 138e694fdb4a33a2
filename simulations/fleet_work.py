"""What the fleet and its peers are timed on: a ranker of 140,000 parameters and a cohort of devices with 64 rows each.

Everything follows from the number of devices, so that a peer's worker processes can make the same work again. Ads are
drawn evenly from a large catalogue: a device then meets as many table rows as it can, which is the fleet's worst case.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sottovoce.client.examples import Examples
from sottovoce.client.fleet import LocalTraining
from sottovoce.models.ranker import RankerConfig, initial, shapes
from sottovoce.models.schema import Feature, FeatureSchema

ROWS = 64
"""Examples of every device, all of them trained on."""

ADS = 8192

SCHEMA = FeatureSchema(
    features=(
        Feature(name="device_class", source="device", kind="integer", buckets=8),
        Feature(name="region", source="device", kind="integer", buckets=128),
        Feature(name="page", source="context", kind="integer", buckets=512),
        Feature(name="hour_part", source="context", kind="integer", buckets=8),
        Feature(name="connection", source="context", kind="integer", buckets=4),
        Feature(name="ad_id", source="ad", kind="integer", buckets=ADS, in_history=True),
        Feature(name="advertiser", source="ad", kind="integer", buckets=2048, in_history=True),
        Feature(name="category", source="ad", kind="integer", buckets=512, in_history=True),
        Feature(name="campaign", source="ad", kind="integer", buckets=3182),
        Feature(name="format", source="ad", kind="integer", buckets=16),
    ),
    heads=("click", "conversion"),
)

PARAMETERS = sum(math.prod(shape) for shape in shapes(SCHEMA, RankerConfig()).values())
"""Of the ranker, the embedding table included."""

Total = Mapping[str, npt.NDArray[np.floating]]
"""By parameter: the sum of the clipped updates of a cohort."""


@dataclass(frozen=True, slots=True)
class Work:
    """One round.

    Attributes:
        parameters: where every device starts.
        examples: of the cohort, and of no other device.
        schema: of the ids in `examples`.
        config: sizes of the ranker.
        training: local steps, each on all rows of the device.
        clip_norm: C; about half of the updates are longer.
        noise_multiplier: z; the noise on the sum has a standard deviation of z * C.
    """

    parameters: dict[str, Tensor]
    examples: Examples
    schema: FeatureSchema
    config: RankerConfig
    training: LocalTraining
    clip_norm: float
    noise_multiplier: float

    @property
    def devices(self) -> int:
        """The fixed cohort, which the noisy sum is divided by."""
        return self.examples.devices

    def noisy_mean(self, total: Total, rng: np.random.Generator) -> dict[str, npt.NDArray[np.float64]]:
        """What a round ends with: Gaussian noise on the sum, divided by the cohort.

        As quick and as plain as the noise of the peers; the noise of a real run is harder to predict and slower, see
        `privacy.noise`.
        """
        std = self.clip_norm * self.noise_multiplier
        return {name: (value + rng.normal(0.0, std, value.shape)) / self.devices for name, value in total.items()}


def fleet_work(devices: int) -> Work:
    """The work of a cohort of that size, always the same."""
    rng = np.random.default_rng(0)
    config = RankerConfig()

    def ids(source: tuple[Feature, ...], count: int) -> npt.NDArray[np.int32]:
        columns = [SCHEMA.offsets[feature.name] + rng.integers(0, feature.buckets, count) for feature in source]
        return np.stack(columns, 1).astype(np.int32)

    catalogue = ids(SCHEMA.ad, ADS)
    catalogue[:, 0] = SCHEMA.offsets["ad_id"] + np.arange(ADS)
    on_device = tuple(feature for feature in SCHEMA.context if feature.source == "device")
    in_moment = tuple(feature for feature in SCHEMA.context if feature.source == "context")
    click = rng.random(devices * ROWS) < 0.3
    examples = Examples(
        offsets=np.arange(devices + 1, dtype=np.int64) * ROWS,
        device=ids(on_device, devices),
        context=ids(in_moment, devices * ROWS),
        ad=rng.integers(0, ADS, devices * ROWS).astype(np.int32),
        labels=np.stack([click, click & (rng.random(devices * ROWS) < 0.3)], 1).astype(np.int8),
        catalogue=catalogue,
    )
    # The initial head is zero and would keep the layers below it still for a step.
    generator = torch.Generator().manual_seed(1)
    parameters = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in initial(SCHEMA, config, seed=0).items()
    }
    parameters["table"][0] = 0.0
    return Work(
        parameters,
        examples,
        SCHEMA,
        config,
        LocalTraining(steps=8, max_rows=ROWS),
        clip_norm=8.7,
        noise_multiplier=1.0,
    )
