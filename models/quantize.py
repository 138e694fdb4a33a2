"""Quantize once, in torch, as an ordinary module that every export format then shares.

Embedding vectors become int8 codes with one float32 scale per row; first-order weights and dense layers stay float32.
Only weights are rounded: that needs no calibration data, so it is post-processing of the released model and costs no
privacy. Static activation quantization would read real activations and tie scores, so it is not offered.

A first-order weight goes straight into the logit, so it is kept exact: coded with its row's scale, at 13 bytes a row
instead of 16, the mean score error is 2 to 4 times as large. A scale of its own would cost more bytes than the float.
Where rounding would still change which ad is picked, a second plane of codes holds what the first one rounded off.
The scale of a row takes one byte instead of four where that is asked for; see `row_scales`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from sottovoce.models import ranker
from sottovoce.models.batch import Batch, interest
from sottovoce.models.ranker import INTERCEPT, SLOPE, Parameters, RankerConfig
from sottovoce.models.row_scales import CODES, LEVELS, RowScales, row_scales
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.errors import GateError

PLANES = (1, 2)
"""Int8 planes to choose from: 8 bits a value, or 16 in two parts; smallest file first."""


class QuantizedRanker(nn.Module):
    """The ranker with an int8 table; made by `quantize`.

    Attributes:
        codes: (rows, planes * d) int8; the first d are the vector in units of its scale, the next d the remainder in
            units of 1/254 of it. With scales of one byte a last column holds the scale's place in `levels` less 128.
        exact: (rows, 2) float32: first-order weight and scale; (rows, 1) where scales take one byte, and in a linear
            model, which has no codes.
        levels: (256, 1) float32, the scales that one byte tells apart; None where scales are in `exact`.
        planes: how many codes each value has.
    """

    codes: Tensor
    exact: Tensor
    levels: Tensor | None

    def __init__(
        self,
        codes: Tensor,
        exact: Tensor,
        dense: Parameters,
        schema: FeatureSchema,
        config: RankerConfig,
        levels: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("exact", exact)
        self.register_buffer("levels", levels)
        columns = codes.shape[1] - (levels is not None)
        self.planes = columns // config.embedding_width if config.embedding_width else 0
        self._dense = {name: name.replace(".", "_") for name in dense}  # buffer names must not hold dots
        for name, value in dense.items():
            self.register_buffer(self._dense[name], value)
        self._click_row = schema.outcome_row("click")
        self._config = config

    @property
    def storage(self) -> str:
        """How the weights are stored, in words."""
        if not self.planes:
            return "first-order weights: float32; no embeddings; activations: float32"
        scale = "float32 scale" if self.levels is None else "scale of one byte, rounded up to one of 256 levels,"
        return (
            f"embedding vectors: {self.planes} int8 code(s) per value, one {scale} per row;"
            " first-order weights and dense layers: float32; activations: float32"
        )

    def look_up(self, codes: Tensor, ids: Tensor) -> Tensor:
        """Rows of the table as float32, shape ids.shape + (1 + d,).

        Gather, cast, multiply: plain operators that every runtime has. A dequantize operator in front of the gather
        would unpack the whole table on each call.
        """
        width = self._config.embedding_width
        if not width:
            return functional.embedding(ids, self.exact)
        exact, stored = functional.embedding(ids, self.exact), functional.embedding(ids, codes)
        coded = stored.to(torch.float32)
        vector = coded[..., :width]
        if self.planes == 2:
            vector = vector + coded[..., width : 2 * width] * (1.0 / (2 * CODES))
        if self.levels is None:
            scale = exact[..., 1:]
        else:
            scale = functional.embedding(stored[..., -1].to(torch.int32) + LEVELS // 2, self.levels)
        return torch.cat([exact[..., :1], vector * scale], -1)

    def forward(self, context: Tensor, events: Tensor, outcomes: Tensor, ad: Tensor) -> Tensor:
        """Probabilities of one request's candidates, shape (N, heads).

        Args:
            context: (1, context features) int32.
            events: (E, history features) int32, newest last.
            outcomes: (E,) int32, 0 marks an empty place.
            ad: (N, ad features) int32, N at least 1.
        """
        return ranker.probabilities(self._logits(self._weights(), context, events, outcomes, ad))

    def as_trained(self, context: Tensor, events: Tensor, outcomes: Tensor, ad: Tensor) -> Tensor:
        """Logits of the same model before its calibration, shapes as in `forward`."""
        parameters = {name: value for name, value in self._weights().items() if name not in (SLOPE, INTERCEPT)}
        return self._logits(parameters, context, events, outcomes, ad)

    def _weights(self) -> dict[str, Tensor]:
        table = self.codes if self.planes else self.exact
        return {name: getattr(self, buffer) for name, buffer in self._dense.items()} | {"table": table}

    def _logits(self, parameters: Parameters, context: Tensor, events: Tensor, outcomes: Tensor, ad: Tensor) -> Tensor:
        visible = (outcomes != 0).to(torch.float32).unsqueeze(0)
        batch = Batch(context, ad, events, outcomes, visible)
        return ranker.logits(parameters, batch, interest(batch, self._click_row), self._config, self.look_up)


def quantize(
    parameters: Parameters,
    schema: FeatureSchema,
    config: RankerConfig,
    planes: int = 1,
    *,
    one_byte_scales: bool = False,
    previous: RowScales | None = None,
) -> QuantizedRanker:
    """The ranker that ships, from the one that was trained.

    Guarantees: each value of an embedding vector moves by at most 1/254 of its row's largest magnitude with one plane,
    and 1/64,516 with two (to float32 rounding); with scales of one byte by as much more as `row_scales` rounds up, and
    with `previous` by at most twice as much, with or without; nothing clips; a row of zeros, and so padding, stays
    exactly zero; all else is unchanged.

    Args:
        parameters: float32, by name, without a device axis; shapes as in `ranker.shapes`, and two more where the model
            is calibrated, see `ranker.calibrated`.
        schema: the features the table was laid out for.
        config: the sizes the parameters were made with.
        planes: one of `PLANES`.
        one_byte_scales: whether a row's scale takes one byte instead of four.
        previous: scales of the version before, to keep where they fit: rows that did not change are then the same bytes
            in both versions, and rows that changed a little nearly so. A linear model has no scales and ignores it.

    Raises:
        GateError: a parameter holds NaN or infinity.
        ValueError: names or shapes are not those of this schema and config, the padding row is not zero, `planes` is
            not offered, or `previous` is of another table.
    """
    if planes not in PLANES:
        raise ValueError(f"planes must be one of {PLANES}, got {planes}")
    expected = ranker.shapes(schema, config)
    if SLOPE in parameters or INTERCEPT in parameters:
        expected |= dict.fromkeys((SLOPE, INTERCEPT), (1, len(schema.heads)))
    if {name: tuple(value.shape) for name, value in parameters.items()} != expected:
        raise ValueError("parameters do not have the names and shapes of this schema and config")
    for name, value in parameters.items():
        if not bool(torch.isfinite(value).all()):
            raise GateError(f"parameter {name!r} holds NaN or infinity", "take an earlier checkpoint")
    table = parameters["table"].detach().to(torch.float32)
    if bool(table[0].any()):
        raise ValueError("row 0 of the table is padding and must be zero")
    first, vector = table[:, :1], table[:, 1:]
    dense = {name: value.detach().to(torch.float32).clone() for name, value in parameters.items() if name != "table"}
    if not config.embedding_width:
        # Zeros where the model has no such weights: a file that does not read all of its inputs loses them.
        dense.setdefault("interest.weight", torch.zeros(2 * len(schema.history) + 2, len(schema.heads)))
        return QuantizedRanker(table[:, :0].to(torch.int8), table.clone(), dense, schema, config).eval()
    scales = row_scales(vector, one_byte_scales, previous)
    ratio = vector / scales.values
    code = ratio.round().clamp(-CODES, CODES)
    rest = ((ratio - code) * (2 * CODES)).round().clamp(-CODES, CODES)
    codes = torch.cat([code, rest][:planes], 1).to(torch.int8)
    if scales.levels is None:
        return QuantizedRanker(codes, torch.cat([first, scales.values], 1), dense, schema, config).eval()
    codes = torch.cat([codes, scales.codes], 1)
    return QuantizedRanker(codes, first.clone(), dense, schema, config, scales.levels).eval()
