"""The ranker's weights as the fleet keeps them: inputs in another order, padded, with a leading device axis.

In the fleet a row of the ranker's input begins with the ad's embeddings and is cut into places of one embedding width:
the gradient of the input is then, place by place, the gradient of each embedding, and nothing is copied. The last place
is filled up with columns that are zero and stay zero.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from sottovoce.models.ranker import RankerConfig, input_width
from sottovoce.models.schema import FeatureSchema

Weights = dict[str, Tensor]
"""Dense weights by the fleet's names."""


class InputLayout:
    """Columns of the ranker's input in the fleet: ad embeddings, attention, tower, interest counts, zeros.

    Args:
        schema: of the ids.
        config: sizes of the ranker.

    Attributes:
        inputs: columns without the zeros.
        places: embedding widths in a row.
        width: columns in a row.
        ad: columns of the ad's embeddings.
        attended: columns of the attention's output.
        user: columns of the tower's output.
        counts: columns of the interest counts.
    """

    def __init__(self, schema: FeatureSchema, config: RankerConfig) -> None:
        d, tower = config.embedding_width, config.tower_width
        self.inputs = input_width(schema, config)
        self.places = -(-self.inputs // d) if d else len(schema.ad)
        self.width = self.places * d
        embedded = len(schema.ad) * d
        self.ad = slice(0, embedded)
        self.attended = slice(embedded, embedded + d)
        self.user = slice(embedded + d, embedded + d + tower)
        self.counts = slice(embedded + d + tower, self.inputs)
        # The ranker's own order is tower, embeddings, attention, counts.
        self._order = torch.cat(
            [
                torch.arange(tower, self.user.stop),
                torch.arange(tower),
                torch.arange(self.user.stop, self.inputs),
            ]
        )

    def stacked(self, parameters: Mapping[str, Tensor], device: torch.device) -> Weights:
        """The dense weights with a leading axis of 1: columns in the order of the fleet, heads transposed.

        The weight of the head comes apart into `head.input` and `head.hidden`, because its inputs do.
        """
        order, width = self._order, self.width
        made: Weights = {}
        for name, value in parameters.items():
            if name == "table":
                continue
            if name.startswith("cross."):
                rows = value[order] if name.endswith("weight") else value
                made[name] = rows.new_zeros(width if name.endswith("weight") else 1, width)
                made[name][: len(rows), : self.inputs] = rows[:, order]
            elif name == "hidden.weight":
                made[name] = value.new_zeros(width, value.shape[1])
                made[name][: self.inputs] = value[order]
            elif name == "head.weight":
                made["head.input"] = value.new_zeros(value.shape[1], width)
                made["head.input"][:, : self.inputs] = value[: self.inputs][order].T
                made["head.hidden"] = value[self.inputs :].T.contiguous()
            else:
                made[name] = value.T.contiguous() if name in ("head.bias", "interest.weight") else value
        return {name: value[None].to(device) for name, value in made.items()}

    def unstacked(self, weights: Weights) -> dict[str, Tensor]:
        """Back to the ranker's names and shapes, from weights without the leading axis."""
        back = torch.argsort(self._order)
        made: dict[str, Tensor] = {}
        for name, value in weights.items():
            if name.startswith("cross."):
                made[name] = value[back][:, back] if name.endswith("weight") else value[:, back]
            elif name == "hidden.weight":
                made[name] = value[back]
            elif name == "head.input":
                made["head.weight"] = torch.cat([value[:, back], weights["head.hidden"]], 1).T
            elif name != "head.hidden":
                made[name] = value.T if name in ("head.bias", "interest.weight") else value
        return made


class Table:
    """The embedding table, with first-order weights and embeddings apart.

    Args:
        whole: (rows, 1 + d); its padding row counts as zero, whatever it holds.
        device: where to keep it.
    """

    def __init__(self, whole: Tensor, device: torch.device) -> None:
        self.shape = whole.shape
        self._first = whole[:, 0].to(device).contiguous()
        self._embedding = whole[:, 1:].to(device).contiguous()

    def rows(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of first-order weights and embeddings at these rows, of which the first is the padding row."""
        first, embedding = torch.index_select(self._first, 0, row), torch.index_select(self._embedding, 0, row)
        first[0], embedding[0] = 0.0, 0.0
        return first, embedding
