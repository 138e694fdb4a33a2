"""Bring your own torch.nn.Module: trained on thousands of devices together through `torch.func.vmap`.

Slower than the ranker, whose fleet knows its layers: here every device holds the whole of every weight, embedding
tables included, and a gradient as large. That costs 4 bytes a weight, device and copy, with about four copies at a
time; `MOST_VALUES` bounds how many devices are held at once. The update of each is what it would be alone.

Everything else is the same: messages, clipping, noise, ledger, checkpoints, learning curve.
"""

import copy
import hashlib
import threading
from collections.abc import Iterator
from functools import partial

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from sottovoce.client.cohort_batches import chunks
from sottovoce.client.examples import Examples
from sottovoce.client.fleet import FleetUpdate, LocalTraining
from sottovoce.client.module_rules import Losses, require_trainable, scores, weighted_loss
from sottovoce.client.scoring import pad
from sottovoce.models.batch import Batch
from sottovoce.models.ranker import Parameters
from sottovoce.models.ranker import losses as ranker_losses
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.clip import clip_factors
from sottovoce.privacy.errors import ConfigError

MOST_VALUES = 2**22
"""Weights of the devices of a chunk held at once, in one of about four copies of 16 MB."""


class OwnModel:
    """A module as the federation sees it.

    `module(batch)` gets one device's rows as a `models.batch.Batch` without a device axis and returns (N, heads)
    logits. Row i is one impression; all ids are rows of one numbering, 0 ... schema.rows - 1, in which 0 is "missing":

    ========================  =====================================================================
    context (N, features)     device features, then page features of row i
    ad (N, features)          the ad of row i, history features first
    events (E, features)      history features of past impressions, newest last
    outcomes (E,)             what came of each: `schema.outcome_row("seen")` or "click", "conversion"; 0 is padding
    visible (N, E)            1 where row i may see event e; in training the events are the rows themselves
    ========================  =====================================================================

    Where training starts is the module as given. An `nn.Embedding` with a row for every id is read as a table: its rows
    move by their mean gradient over the impressions that show them, as the ranker's do (`LocalTraining.learning_rate`).
    With `padding_idx=0` its row 0 stays zero; another `padding_idx` is refused.

    Args:
        module: copied; what happens to it later makes no difference.
        schema: of the ids.
        losses: (N, heads) logits and labels, to (N,); by default the ranker's. Under any loss the sigmoid of the logits
            is read as the chance of a click, and of a conversion given a click.

    Raises:
        ConfigError: the module cannot be trained by a fleet, and why; see `module_rules`.
    """

    def __init__(self, module: nn.Module, schema: FeatureSchema, losses: Losses = ranker_losses) -> None:
        self.name = type(module).__name__
        self._module, self._schema, self._losses = copy.deepcopy(module), schema, losses
        self._threads = threading.local()
        embeddings = {
            f"{name}.weight" if name else "weight": layer
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Embedding)
        }
        for name, layer in embeddings.items():
            if layer.padding_idx:
                raise ConfigError(f"{self.name}: {name} has padding_idx={layer.padding_idx}", "missing is id 0: use 0")
            if layer.max_norm is not None or layer.sparse:
                raise ConfigError(
                    f"{self.name}: {name} uses max_norm or sparse gradients, which write in place", "leave both out"
                )
        self._padding = tuple(name for name, layer in embeddings.items() if layer.padding_idx == 0)
        self._tables = frozenset(name for name, layer in embeddings.items() if layer.num_embeddings == schema.rows)
        require_trainable(self._own, schema, losses, self._padding)

    @property
    def personal_variance(self) -> float:
        """None: a module of one's own has no personal layer."""
        return 0.0

    @property
    def padding(self) -> tuple[str, ...]:
        """See `models.model.Model`."""
        return self._padding

    def shapes(self, schema: FeatureSchema) -> dict[str, tuple[int, ...]]:
        """See `models.model.Model`."""
        if schema != self._schema:
            raise ConfigError(f"{self.name} was made for another schema", "make it for the schema of this data")
        return {name: tuple(value.shape) for name, value in self._module.named_parameters()}

    def initial(self, schema: FeatureSchema, seed: int) -> dict[str, Tensor]:  # noqa: ARG002 - whoever made the module drew
        """The module's own parameters; see `models.model.Model`."""
        fresh = {name: value.detach().clone() for name, value in self._module.named_parameters()}
        for name in self._padding:
            fresh[name][0] = 0.0
        return fresh

    def scales(self, schema: FeatureSchema) -> dict[str, Tensor]:  # noqa: ARG002 - the protocol's
        """None: updates are in the units of the parameters."""
        return {}

    def chances(self, parameters: Parameters, batch: Batch, schema: FeatureSchema) -> Tensor:  # noqa: ARG002 - its own
        """See `models.model.Model`."""
        every = vmap(partial(scores, self._own), in_dims=(None, 0))
        return torch.sigmoid(every(dict(parameters), _by_row(batch)))

    def digest(self) -> str:
        """SHA-256 of the names and shapes of all parameters, and of the buffers, in hexadecimal."""
        found = hashlib.sha256(msgspec.json.encode(sorted(self.shapes(self._schema).items())))
        for name, value in sorted(self._module.named_buffers()):
            found.update(f"|{name}|{value.dtype}|{tuple(value.shape)}|".encode())
            found.update(value.detach().contiguous().numpy().tobytes())
        return found.hexdigest()

    def require(self, training: LocalTraining) -> None:
        """Refuse local training that only the ranker knows.

        Raises:
            ConfigError: which setting.
        """
        plain = LocalTraining(steps=training.steps, learning_rate=training.learning_rate, max_rows=training.max_rows)
        for field in LocalTraining.__struct_fields__:
            if getattr(training, field) != getattr(plain, field):
                raise ConfigError(
                    f"local.{field} is not available to a module of your own, here {self.name}",
                    f"leave local.{field} out, or train the built-in ranker",
                )

    def update(
        self,
        parameters: Parameters,
        examples: Examples,
        training: LocalTraining,
        clip_norm: float,
        devices: npt.NDArray[np.integer],
        chunk_rows: int = 4096,
    ) -> FleetUpdate:
        """Train `devices` from the same parameters and add up their clipped updates; guarantees as `fleet_update`'s.

        Args:
            parameters: by name, float32.
            examples: rows of at least these devices.
            training: local steps.
            clip_norm: C, largest L2 norm of one device's whole update.
            devices: indices into `examples`; a repeated index trains twice.
            chunk_rows: padded rows held at once.
        """
        total = {name: np.zeros(value.shape) for name, value in parameters.items()}
        clipped = 0
        for _, deltas in self._trained(parameters, examples, training, np.asarray(devices, np.int64), chunk_rows):
            factors = clip_factors(_norms(deltas), clip_norm)
            clipped += int((factors < 1).sum())
            live = np.flatnonzero(factors)
            scale = torch.from_numpy(factors[live])
            for name, value in deltas.items():
                total[name] += (
                    (scale @ value[live].reshape(len(live), total[name].size)).view(total[name].shape).numpy()
                )
        return FleetUpdate(total, len(devices), clipped)

    def norms(
        self, parameters: Parameters, examples: Examples, training: LocalTraining, devices: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float64]:
        """L2 norm of the update of each of `devices`, which rise, before clipping; see `fleet.update_norms`."""
        asked = np.asarray(devices, np.int64)
        norms = np.zeros(len(asked))
        for some, deltas in self._trained(parameters, examples, training, asked, 4096):
            norms[np.searchsorted(asked, some)] = _norms(deltas)
        return norms

    @property
    def _own(self) -> nn.Module:
        """This thread's copy: while torch calls a module with other parameters, they stand in it for all to see."""
        if not hasattr(self._threads, "module"):
            self._threads.module = copy.deepcopy(self._module)
        module: nn.Module = self._threads.module
        return module

    def _trained(
        self,
        parameters: Parameters,
        examples: Examples,
        training: LocalTraining,
        devices: npt.NDArray[np.int64],
        chunk_rows: int,
    ) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, Tensor]]]:
        """Some devices with rows at a time, and per parameter new minus old, (devices, ...) float64."""
        self.require(training)
        seen = training.max_rows + self._schema.history_length
        count = max(1, MOST_VALUES // sum(value.numel() for value in parameters.values()))
        for like in chunks(examples, devices, seen, chunk_rows):
            for first in range(0, len(like), count):
                some = like[first : first + count]
                yield some, self._train(parameters, examples.take(some, newest=seen), training)

    def _train(self, parameters: Parameters, examples: Examples, training: LocalTraining) -> dict[str, Tensor]:
        batch, labels, weight = pad(examples, self._schema, training.max_rows)
        batch = _by_row(batch)
        share = _shares(batch, weight, self._schema)
        start = {name: value.detach().clone() for name, value in parameters.items()}
        for name in self._padding:
            start[name][0] = 0.0
        gradients = vmap(grad(partial(weighted_loss, self._own, self._losses)))
        local = {name: value.expand(examples.devices, *value.shape) for name, value in start.items()}
        for _ in range(training.steps):
            found = gradients(local, batch, labels, weight)
            for name, gradient in found.items():
                local[name] = local[name] - training.learning_rate * (
                    gradient / share[..., None] if name in self._tables else gradient
                )
            for name in self._padding:
                local[name][:, 0] = 0.0
        return {name: (value - start[name]).double() for name, value in local.items()}


def _by_row(batch: Batch) -> Batch:
    """What is the same for all rows of a device, written once, spread over its rows."""
    rows = batch.ad.shape[-2]
    context, visible = (part.expand(*part.shape[:-2], rows, part.shape[-1]) for part in (batch.context, batch.visible))
    return batch._replace(context=context, visible=visible)


def _shares(batch: Batch, weight: Tensor, schema: FeatureSchema) -> Tensor:
    """(devices, ids) share of a device's trained impressions that show each id, as the fleet of the ranker has it.

    Outcomes count as shown by all; an id met only in the history as shown by one.
    """
    count = len(weight)
    share = torch.zeros(count, schema.rows)
    for column in (*batch.context.unbind(-1), *batch.ad.unbind(-1)):
        share.scatter_add_(1, column, weight)
    share[:, schema.outcome_row("seen") :] = 1.0
    return torch.maximum(share, weight.amax(-1, keepdim=True)).clamp(max=1.0)


def _norms(deltas: dict[str, Tensor]) -> npt.NDArray[np.float64]:
    """(devices,) L2 norm of each device's whole update."""
    squares = [value.square().reshape(len(value), -1).sum(1) for value in deltas.values()]
    norms: npt.NDArray[np.float64] = torch.stack(squares).sum(0).sqrt().numpy()
    return norms
