"""What a torch.nn.Module must keep to in order to be trained by a fleet; looked for before any device is asked.

Devices are padded to the same number of rows and trained together through `torch.func.vmap`. That equals training each
alone only if a row's score depends on nothing but the row and the events that it may see. Some layers are known to
break this and are refused by name. For all else there is a probe: a few random rows are scored and differentiated with
and without company, and must not notice.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sottovoce.models.batch import Batch
from sottovoce.models.ranker import Parameters
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.privacy.errors import ConfigError

Losses = Callable[[Tensor, Tensor], Tensor]

ROWS = 6
"""Rows of the probe."""


def scores(module: nn.Module, parameters: Parameters, batch: Batch) -> Tensor:
    """(N, heads) logits of one device's rows, with these parameters in place of the module's own."""
    return functional_call(module, dict(parameters), (batch,))  # type: ignore[no-any-return]


def weighted_loss(
    module: nn.Module, losses: Losses, parameters: Parameters, batch: Batch, labels: Tensor, weight: Tensor
) -> Tensor:
    """Sum of one device's losses, each times the weight of its row, which is 0 for padding."""
    return (losses(scores(module, parameters, batch), labels) * weight).sum()


def require_trainable(module: nn.Module, schema: FeatureSchema, losses: Losses, padding: tuple[str, ...]) -> None:
    """Refuse a module that a fleet would train otherwise than a device would alone.

    Args:
        module: to look at; left as it is.
        schema: of the ids that it will read.
        losses: of rows, from logits and labels.
        padding: parameters whose row 0 stays zero.

    Raises:
        ConfigError: what is wrong, and why it cannot be had.
    """
    _require_plain_layers(module)
    _require_plain_parameters(module)
    # The head of many a model starts at zero, which would hide what is behind it.
    generator = torch.Generator().manual_seed(0)
    moved = {
        name: (value + 0.3 * (torch.rand(value.shape, generator=generator) - 0.5)).detach()
        for name, value in module.named_parameters()
    }
    for name in padding:
        moved[name][0] = 0.0
    batch, labels = _probe(schema)
    try:
        _require_scores(module, moved, batch, len(schema.heads))
        _require_own_rows(module, moved, batch)
        _require_gradients(module, losses, moved, batch, labels)
    except ConfigError:
        raise
    except Exception as error:  # whatever somebody else's code raises
        raise ConfigError(
            f"{type(module).__name__} cannot be tried on {ROWS} rows: {type(error).__name__}: {_first_line(error)}",
            "correct its forward; under torch.func.vmap it may not draw random numbers, write in place or read .item()",
        ) from error


def _require_plain_layers(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        told = f"{type(module).__name__}: layer {name!r} is {type(layer).__name__}"
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"{told}: it mixes the rows of a batch, padding included, and keeps running statistics of them",
                "use torch.nn.LayerNorm or GroupNorm, which look at one row at a time",
            )
        if getattr(layer, "track_running_stats", False):
            raise ConfigError(
                f"{told} with running statistics: they would not be part of the clipped update",
                "set track_running_stats=False",
            )
        # Recurrent layers and attention keep their rate in an attribute of the same name.
        rate = getattr(layer, "p", 0.0) if isinstance(layer, nn.modules.dropout._DropoutNd) else 0.0
        if rate or (isinstance(layer, nn.RNNBase | nn.MultiheadAttention) and layer.dropout):
            raise ConfigError(
                f"{told} with dropout: its random numbers would make a device's update another one in each fleet",
                "remove it, or set its rate to 0; clipping and noise regularise already",
            )


def _require_plain_parameters(module: nn.Module) -> None:
    named = dict(module.named_parameters())
    if not named:
        raise ConfigError(f"{type(module).__name__} has no parameters", "give a module that can learn")
    for name, value in named.items():
        told = f"{type(module).__name__}: parameter {name!r}"
        if nn.parameter.is_lazy(value):
            raise ConfigError(f"{told} has no shape yet", "use layers with fixed sizes, not the lazy ones")
        if value.dtype != torch.float32 or value.device.type != "cpu":
            raise ConfigError(f"{told} is {value.dtype} on {value.device}", "make it float32 on the CPU")
        if not value.requires_grad:
            raise ConfigError(f"{told} is frozen, so no checkpoint would hold it", "make it a buffer")
        if not torch.isfinite(value).all():
            raise ConfigError(f"{told} holds NaN or infinity", "initialise it")
        if "/" in name:
            raise ConfigError(f"{told}: checkpoints separate names by '/'", "rename it")


def _probe(schema: FeatureSchema) -> tuple[Batch, Tensor]:
    """Random rows of one device, each with the rows before it as events, and random labels."""
    generator = torch.Generator().manual_seed(0)

    def ids(features: tuple[Feature, ...]) -> Tensor:
        columns = [
            schema.offsets[feature.name] + torch.randint(feature.buckets, (ROWS,), generator=generator)
            for feature in features
        ]
        return torch.stack(columns, 1) if columns else torch.zeros(ROWS, 0, dtype=torch.int64)

    ad, place = ids(schema.ad), torch.arange(ROWS)
    age = place[:, None] - place
    labels = torch.randint(2, (ROWS, len(schema.heads)), generator=generator).cumprod(1)
    visible = ((age > 0) & (age <= schema.history_length)).float()
    outcomes = schema.outcome_row("seen") + labels.sum(1)
    return Batch(ids(schema.context), ad, ad[:, : len(schema.history)], outcomes, visible), labels.float()


def _require_scores(module: nn.Module, parameters: Parameters, batch: Batch, heads: int) -> None:
    told = type(module).__name__
    before = {name: value.clone() for name, value in module.named_buffers()}
    first, second = scores(module, parameters, batch), scores(module, parameters, batch)
    for name, value in module.named_buffers():
        if not torch.equal(value, before[name]):
            raise ConfigError(
                f"{told} changes its buffer {name!r}: devices would see each other in it",
                "keep no state from one call to the next",
            )
    if not isinstance(first, Tensor) or first.shape != (ROWS, heads) or first.dtype != torch.float32:
        found = f"{first.dtype} {list(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
        raise ConfigError(
            f"{told} returns {found} for {ROWS} rows, not float32 {[ROWS, heads]}",
            "return logits, one row for each row of batch.ad and one column for each head",
        )
    if not torch.isfinite(first).all():
        raise ConfigError(f"{told} returns NaN or infinity for ordinary rows", "correct its forward")
    if not torch.equal(first, second):
        raise ConfigError(
            f"{told} scores the same rows differently when asked twice: it draws random numbers or remembers",
            "make its forward a function of the batch and the parameters alone",
        )


def _require_own_rows(module: nn.Module, parameters: Parameters, batch: Batch) -> None:
    """A row's logits are those that it has alone, with the events before it and no other."""
    together = scores(module, parameters, batch)
    for row in range(ROWS):
        only = torch.arange(ROWS) == row
        past = torch.arange(ROWS) < row
        padded = _padded(batch, only, past)
        events = max(row, 1)
        cut = Batch(
            batch.context[row : row + 1],
            batch.ad[row : row + 1],
            padded.events[:events],
            padded.outcomes[:events],
            padded.visible[row : row + 1, :events],
        )
        for alone in (scores(module, parameters, padded)[row], scores(module, parameters, cut)[0]):
            if not torch.allclose(alone, together[row], rtol=1e-4, atol=1e-5):
                raise ConfigError(
                    f"{type(module).__name__}: the score of a row changes with other rows, or with events that it may "
                    "not see, its own outcome among them",
                    "read row i from context[i], ad[i] and the events e where visible[i, e] is 1; mix no rows",
                )


def _require_gradients(module: nn.Module, losses: Losses, parameters: Parameters, batch: Batch, labels: Tensor) -> None:
    """Two devices at once, the second padded from three rows to six, learn what each learns alone."""
    few = ROWS // 2
    short = Batch(
        batch.context[:few], batch.ad[:few], batch.events[:few], batch.outcomes[:few], batch.visible[:few, :few]
    )
    found = losses(scores(module, parameters, batch), labels)
    if found.shape != (ROWS,):
        raise ConfigError(f"the loss has shape {list(found.shape)} for {ROWS} rows", "return one loss for each row")

    def loss(values: Parameters, rows: Batch, truth: Tensor, weight: Tensor) -> Tensor:
        return weighted_loss(module, losses, values, rows, truth, weight)

    real = torch.arange(ROWS) < few
    padded = _padded(batch, real, real)
    both = Batch(*(torch.stack(pair) for pair in zip(batch, padded, strict=True)))
    weights = torch.stack([torch.full((ROWS,), 1 / ROWS), real / few])
    together = vmap(grad(loss), in_dims=(None, 0, 0, 0))(parameters, both, torch.stack([labels, labels]), weights)
    alone = (
        grad(loss)(parameters, batch, labels, weights[0]),
        grad(loss)(parameters, short, labels[:few], weights[1][:few]),
    )
    for name, value in together.items():
        for device, expected in enumerate(alone):
            if not torch.allclose(value[device], expected[name], rtol=1e-3, atol=1e-5):
                raise ConfigError(
                    f"{type(module).__name__}: the gradient of {name!r} is another one when rows of padding are added, "
                    "or holds NaN",
                    "let rows and events of id 0 pass through forward as finite numbers",
                )


def _padded(batch: Batch, rows: Tensor, events: Tensor) -> Batch:
    """The batch with all but these rows and events turned into padding; (R,) and (E,) bool."""
    return Batch(
        torch.where(rows[:, None], batch.context, 0),
        torch.where(rows[:, None], batch.ad, 0),
        torch.where(events[:, None], batch.events, 0),
        torch.where(events, batch.outcomes, 0),
        torch.where(events, batch.visible, 0.0),
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
