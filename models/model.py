"""What a federation has to know of a model: what its weights are, where they start, what they say."""

from typing import Protocol

from torch import Tensor

from sottovoce.models.batch import Batch
from sottovoce.models.ranker import Parameters
from sottovoce.models.schema import FeatureSchema


class Model(Protocol):
    """The ranker (`ranker.RankerConfig`) or a module of one's own (`client.own_model.OwnModel`).

    Nodes, coordinator, checkpoints and evaluation ask for no more than this. How devices train is `client.training`'s
    to know.
    """

    @property
    def personal_variance(self) -> float:
        """Of the offset that each device adds to its click logits; 0 for none. See `client.personal`."""
        ...

    @property
    def padding(self) -> tuple[str, ...]:
        """Weights whose row 0 stands for "nothing there" and stays zero."""
        ...

    def shapes(self, schema: FeatureSchema) -> dict[str, tuple[int, ...]]:
        """Name and shape of every trainable weight, in canonical order."""
        ...

    def initial(self, schema: FeatureSchema, seed: int) -> dict[str, Tensor]:
        """Fresh weights, float32."""
        ...

    def scales(self, schema: FeatureSchema) -> dict[str, Tensor]:
        """Units in which updates are clipped, summed and noised, by name; where missing, those of the weight."""
        ...

    def chances(self, parameters: Parameters, batch: Batch, schema: FeatureSchema) -> Tensor:
        """(devices, N, heads) probabilities.

        Args:
            parameters: by name, the same for all devices.
            batch: ids, with a leading device axis.
            schema: of the ids.
        """
        ...
