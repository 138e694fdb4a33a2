"""The ranker: one forward pass for one phone, for a thousand phones at once, and for export.

Every parameter may carry a leading device axis, because each operation broadcasts over leading dimensions: with plain
parameters this is an ordinary network, with stacked parameters it is a fleet of devices trained together, each with
weights of its own. Nothing is written twice, so the fleet cannot drift from the device or from the exported file.

Shapes use `...` for the (possibly absent) device axis, R for requests, N for candidates, E for past events, d for the
embedding width. In training each row is its own request with one candidate, N = R; in serving R = 1 and N is free.

Architecture: embeddings with a first-order weight per row (Rendle 2010, factorization machines); target attention over
past events (Zhou et al. 2018, DIN); exact-match interest counts; DCN-v2 cross layers (Wang et al. 2021, section 3.1);
a small MLP; heads click and conversion-given-click, trained as pCTCVR (Ma et al. 2018, ESMM). First-order weights speak
for the click head only. No batch norm: it would mix records and break the privacy argument.
"""

import math
from collections.abc import Callable, Mapping

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from sottovoce.models.batch import Batch, Interest, interest
from sottovoce.models.calibration import Calibration
from sottovoce.models.schema import FeatureSchema
from sottovoce.models.units import units

Parameters = Mapping[str, Tensor]
LookUp = Callable[[Tensor, Tensor], Tensor]
Layer = Callable[[Tensor, Parameters, str], Tensor]

SLOPE, INTERCEPT = "calibration.slope", "calibration.intercept"
"""Parameters of a model that is calibrated, each (1, heads); no device trains them. See `calibrated`."""


class RankerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes of the ranker.

    Attributes:
        embedding_width: d, without the first-order weight. With 0 nothing is left but first-order weights, interest
            counts and biases: a generalised linear model, far smaller, which a few thousand devices can train under a
            small epsilon.
        tower_width: outputs of the user-and-context tower.
        cross_layers: DCN-v2 layers on the concatenated inputs.
        hidden_width: units of the MLP's one hidden layer.
        click_rate: public guess of the share of impressions that are clicked, where training starts.
        conversion_rate: public guess of the share of clicks that convert, likewise.
        personal_variance: variance among people of the offset that each device adds to the click logit and keeps to
            itself, see `client.personal`; 0 for no such layer.
        interest_counts: whether a linear model weighs the interest counts; one with embeddings always does.
    """

    embedding_width: int = 8
    tower_width: int = 16
    cross_layers: int = 1
    hidden_width: int = 32
    click_rate: float = 0.5
    conversion_rate: float = 0.5
    personal_variance: float = 0.0
    interest_counts: bool = True

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        if min(self.tower_width, self.hidden_width) < 1 or min(self.embedding_width, self.cross_layers) < 0:
            raise ValueError("ranker widths must be at least 1, embedding_width and cross_layers at least 0")
        if not 0 <= self.personal_variance <= 100:
            raise ValueError("personal_variance must lie between 0 and 100")
        if self.embedding_width and not self.interest_counts:
            raise ValueError("only a linear model, of embedding_width 0, can do without interest_counts")
        if not (0 < self.click_rate < 1 and 0 < self.conversion_rate < 1):
            raise ValueError("click_rate and conversion_rate must lie between 0 and 1")

    @property
    def padding(self) -> tuple[str, ...]:
        """See `model.Model`."""
        return ("table",)

    def shapes(self, schema: FeatureSchema) -> dict[str, tuple[int, ...]]:
        """See `model.Model`."""
        return shapes(schema, self)

    def initial(self, schema: FeatureSchema, seed: int) -> dict[str, Tensor]:
        """See `model.Model`."""
        return initial(schema, self, seed)

    def scales(self, schema: FeatureSchema) -> dict[str, Tensor]:
        """See `model.Model`."""
        return {} if self.embedding_width else units(schema, self.shapes(schema))

    def chances(self, parameters: Parameters, batch: Batch, schema: FeatureSchema) -> Tensor:
        """See `model.Model`."""
        seen = interest(batch, schema.outcome_row("click"))
        return probabilities(logits(parameters, batch, seen, self))


def input_width(schema: FeatureSchema, config: RankerConfig) -> int:
    """Width of the vector that the cross layers see."""
    return config.tower_width + (len(schema.ad) + 1) * config.embedding_width + 2 * len(schema.history) + 2


def shapes(schema: FeatureSchema, config: RankerConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every trainable parameter, in canonical order."""
    x, d, heads = input_width(schema, config), config.embedding_width, len(schema.heads)
    if not d:
        interest = {"interest.weight": (2 * len(schema.history) + 2, heads)} if config.interest_counts else {}
        return {"table": (schema.rows, heads), **interest, "head.bias": (1, heads)}
    out: dict[str, tuple[int, ...]] = {
        "table": (schema.rows, 1 + d),
        "tower.weight": (len(schema.context) * d, config.tower_width),
        "tower.bias": (1, config.tower_width),
    }
    for layer in range(config.cross_layers):
        out[f"cross.{layer}.weight"] = (x, x)
        out[f"cross.{layer}.bias"] = (1, x)
    return out | {
        "interest.weight": (2 * len(schema.history) + 2, heads),
        "hidden.weight": (x, config.hidden_width),
        "hidden.bias": (1, config.hidden_width),
        "head.weight": (x + config.hidden_width, heads),
        "head.bias": (1, heads),
    }


def initial(schema: FeatureSchema, config: RankerConfig, seed: int) -> dict[str, Tensor]:
    """Fresh parameters: small embeddings, unit dense layers, a head that says the guessed rates and nothing else.

    The head starts at zero, so that the first rounds move the biases and first-order weights, which carry most of the
    signal, before noise has anything to amplify.
    """
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes(schema, config).items():
        if name == "table":
            weight = torch.randn(shape, generator=generator) * 0.05
            weight[:, : 1 if config.embedding_width else len(schema.heads)] = 0.0
            weight[0] = 0.0
        elif name == "head.bias":
            rates = torch.tensor([[config.click_rate, config.conversion_rate]])
            weight = torch.logit(rates[:, : shape[1]])
        elif name.endswith("bias") or name in ("head.weight", "interest.weight"):
            weight = torch.zeros(shape)
        else:
            weight = torch.randn(shape, generator=generator)
        made[name] = weight
    return made


def look_up(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of the (fused) table, shape ids.shape + (1 + d,)."""
    return functional.embedding(ids, table)


def dense(x: Tensor, parameters: Parameters, layer: str) -> Tensor:
    """A dense layer in the scaling of neural tangent kernels: unit weights, divided by sqrt(inputs) when used.

    Noise of one size per coordinate then disturbs every layer's outputs alike, whatever its width; with ordinary
    scaling the widest layer would drown first (Jacot et al. 2018, arXiv:1806.07572, section 2).
    """
    weight = parameters[f"{layer}.weight"]
    return x @ weight / math.sqrt(weight.shape[-2]) + parameters[f"{layer}.bias"]


def logits(
    parameters: Parameters,
    batch: Batch,
    seen: Interest,
    config: RankerConfig,
    lookup: LookUp = look_up,
    dense: Layer = dense,
) -> Tensor:
    """Scores before the sigmoid, shape (..., N, heads); calibrated where the parameters say so.

    Args:
        parameters: by name, each with or without the leading device axis; `table` is always two-dimensional, with the
            ids already pointing into it.
        batch: ids.
        seen: from `interest` on the same batch.
        config: sizes.
        lookup: how table rows are read; the quantized model brings its own.
        dense: how a dense layer is computed; whoever wants to see what goes into it and comes out brings another.
    """
    scores = _as_trained(parameters, batch, seen, config, lookup, dense)
    if SLOPE not in parameters:
        return scores
    return parameters[SLOPE] * scores + parameters[INTERCEPT]


def _as_trained(
    parameters: Parameters, batch: Batch, seen: Interest, config: RankerConfig, lookup: LookUp, dense: Layer
) -> Tensor:
    """Logits before any calibration."""
    table = parameters["table"]
    context, ad = lookup(table, batch.context), lookup(table, batch.ad)
    liking = _liking(parameters, seen)
    if not config.embedding_width:
        return liking + parameters["head.bias"] + ad.sum(-2) + context.sum(-2)
    first_order = ad[..., 0].sum(-1, keepdim=True) + context[..., 0].sum(-1, keepdim=True)
    events, outcomes = lookup(table, batch.events), lookup(table, batch.outcomes)

    user = torch.relu(dense(context[..., 1:].flatten(-2), parameters, "tower"))

    query = ad[..., : batch.events.shape[-1], 1:].sum(-2)
    keys = events[..., 1:].sum(-2)
    weight = query @ keys.transpose(-1, -2) / math.sqrt(config.embedding_width)
    weight = torch.softmax(weight + (batch.visible - 1.0) * 1e4, -1) * batch.visible
    attended = weight @ (keys * (1.0 + outcomes[..., :1]) + outcomes[..., 1:])

    anchor = torch.zeros_like(ad[..., 0, :1])
    x0 = torch.cat([user + anchor, ad[..., 1:].flatten(-2), attended, seen.counts], -1)
    x = x0
    layer = 0
    while f"cross.{layer}.weight" in parameters:
        x = x0 * dense(x, parameters, f"cross.{layer}") + x
        layer += 1
    hidden = torch.relu(dense(x, parameters, "hidden"))
    head = dense(torch.cat([x, hidden], -1), parameters, "head") + liking
    return _with_first_order(head, first_order)


def calibrated(parameters: Parameters, calibration: Calibration) -> dict[str, Tensor]:
    """The model with a calibration in it, as two parameters more; one that changes nothing adds nothing.

    Args:
        parameters: as trained, by name, without a device axis.
        calibration: of the same heads.

    Raises:
        ValueError: they are calibrated already, or have another number of heads.
    """
    if SLOPE in parameters or INTERCEPT in parameters:
        raise ValueError("these parameters are calibrated already")
    if parameters["head.bias"].shape[-1] != len(calibration.heads):
        raise ValueError(f"a calibration of {len(calibration.heads)} heads does not fit these parameters")
    if calibration.identity:
        return dict(parameters)
    slope = torch.tensor([[one.slope for one in calibration.heads]])
    intercept = torch.tensor([[one.intercept for one in calibration.heads]])
    return {**parameters, SLOPE: slope, INTERCEPT: intercept}


def _liking(parameters: Parameters, seen: Interest) -> Tensor:
    """What the interest counts say, (..., N, heads), or nothing, (..., N, 1), where the model does not weigh them."""
    if "interest.weight" in parameters:
        return seen.counts @ parameters["interest.weight"]
    return torch.zeros_like(seen.counts[..., :1])


def _with_first_order(head: Tensor, first_order: Tensor) -> Tensor:
    """First-order weights speak for the click head only."""
    if head.shape[-1] == 1:
        return head + first_order
    return torch.cat([head[..., :1] + first_order, head[..., 1:]], -1)


def probabilities(scores: Tensor) -> Tensor:
    """From logits to (..., N, heads) probabilities: click, and conversion given a click."""
    return torch.sigmoid(scores)


def losses(scores: Tensor, labels: Tensor) -> Tensor:
    """Per-row negative log likelihood, shape (..., N).

    The click head is judged on every row; the conversion head through pCTCVR = pCTR * pCVR, on every row too, so that
    it is not fitted on clicked rows alone (Ma et al. 2018).

    Args:
        scores: (..., N, heads) logits.
        labels: (..., N, heads) float, 0 or 1; a conversion implies a click.
    """
    click = functional.binary_cross_entropy_with_logits(scores[..., 0], labels[..., 0], reduction="none")
    if scores.shape[-1] == 1:
        return click
    log_ctcvr = functional.logsigmoid(scores[..., 0]) + functional.logsigmoid(scores[..., 1])
    log_not = torch.log(-torch.expm1(log_ctcvr.clamp(max=-1e-6)))
    converted = labels[..., 1]
    return click - converted * log_ctcvr - (1.0 - converted) * log_not
