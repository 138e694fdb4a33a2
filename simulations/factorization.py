"""A centralised, non-private factorization machine: what the same rows give when nobody keeps them apart.

Every row is a handful of embedding-table rows (the device itself, its features, the moment, the ad), and its score is
a sum of their first-order weights and of all products between two of them. It sees every device's rows at once and
without noise, so the distance to it is the price of keeping them private.

Source: Rendle 2010, "Factorization Machines", ICDM, equations 1 and 5.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from sottovoce.client.examples import Examples
from sottovoce.privacy.errors import DataError
from sottovoce.simulations.metrics import evaluate
from sottovoce.simulations.threads import torch_threads

CHUNK = 262_144
"""Rows scored at once; bounds memory, changes nothing."""


@dataclass(frozen=True, slots=True)
class FitPlan:
    """How the machine is trained.

    Attributes:
        width: k, latent factors of every table row.
        learning_rate: of Adam.
        batch: rows per step.
        epochs: passes over the training rows at most.
        patience: stop after this many passes without a better `primary` on the validation rows.
        seed: of the start and of the order of the rows.
    """

    width: int = 16
    learning_rate: float = 1e-3
    batch: int = 8192
    epochs: int = 30
    patience: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse plans that cannot run."""
        if min(self.width, self.batch, self.epochs, self.patience) < 1 or not self.learning_rate > 0:
            raise ValueError("width, batch, epochs and patience must be at least 1, learning_rate above 0")


@dataclass(frozen=True, slots=True)
class FactorizationMachine:
    """A fitted machine.

    Attributes:
        table: (table rows, 1 + k) float32: first-order weight, then factors. The rows of the feature schema come
            first, row 0 is padding and zero; then one row per device, zero for a device without training rows.
        bias: added to every score.
        devices: D; the last D rows of the table are theirs.
        epochs: passes that gave this table, chosen on the validation rows.
        primary: of the validation rows after those passes. Chosen as the best of several, so slightly flattering.
    """

    table: Tensor
    bias: float
    devices: int
    epochs: int
    primary: float

    def score(self, examples: Examples) -> npt.NDArray[np.float64]:
        """Probability of the first head for every row, shape (rows,).

        Args:
            examples: device i must be device i of the training examples; further devices are not allowed.

        Raises:
            ValueError: another number of devices, or ids beyond the schema's rows.
        """
        if examples.devices != self.devices:
            raise ValueError(f"fitted on {self.devices} devices, asked about {examples.devices}")
        rows_of = fields(examples, len(self.table) - self.devices)
        scores = np.empty(examples.rows)
        with torch.no_grad():
            for start in range(0, examples.rows, CHUNK):
                picked = np.arange(start, min(start + CHUNK, examples.rows))
                logit = logits(self.table, torch.tensor(self.bias), rows_of(picked))
                scores[picked] = torch.sigmoid(logit.double()).numpy()
        return scores


def fit(train: Examples, valid: Examples, schema_rows: int, plan: FitPlan = FitPlan()) -> FactorizationMachine:
    """Train with Adam on log loss, and keep the pass that ranks the validation rows best.

    The number of passes is chosen on `valid`: a figure quoted for the same file favours this baseline a little.

    Args:
        train: rows of D devices.
        valid: rows of the same D devices in the same order; a device may own none in either.
        schema_rows: rows of the feature schema's embedding table, `FeatureSchema.rows`.
        plan: sizes and rates.

    Raises:
        DataError: no training rows, or validation rows that `evaluate` refuses.
        ValueError: the two files differ in devices or catalogue, or ids lie beyond the schema's rows.
    """
    if train.rows == 0:
        raise DataError("there are no training rows to fit the baseline on", "give a training file with rows")
    if train.devices != valid.devices or not np.array_equal(train.catalogue, valid.catalogue):
        raise ValueError("train and valid must list the same devices and the same catalogue")
    generator = torch.Generator().manual_seed(plan.seed)
    table = torch.randn(schema_rows + train.devices, 1 + plan.width, generator=generator) * 0.01
    table[:, 0] = 0.0
    table *= met(train, len(table))
    table.requires_grad_()
    bias = torch.logit(torch.tensor(float(train.labels[:, 0].mean())), eps=1e-6).requires_grad_()
    optimizer = torch.optim.Adam([table, bias], lr=plan.learning_rate, fused=True)
    rows_of, labels = fields(train, schema_rows), torch.from_numpy(train.labels[:, 0].astype(np.float32))
    owner = valid.owners

    def one_pass() -> None:
        order = torch.randperm(train.rows, generator=generator).numpy()
        for start in range(0, train.rows, plan.batch):
            picked = order[start : start + plan.batch]
            optimizer.zero_grad()
            loss = functional.binary_cross_entropy_with_logits(logits(table, bias, rows_of(picked)), labels[picked])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def judged(epoch: int) -> FactorizationMachine:
        now = FactorizationMachine(table.detach().clone(), float(bias.detach()), train.devices, epoch, 0.0)
        return replace(now, primary=evaluate(now.score(valid), valid.labels[:, 0], owner).primary)

    with torch_threads(1):
        one_pass()
        best = judged(1)
        for epoch in range(2, plan.epochs + 1):
            one_pass()
            now = judged(epoch)
            if now.primary > best.primary:
                best = now
            elif epoch - best.epochs >= plan.patience:
                break
    return best


def fields(examples: Examples, schema_rows: int) -> Callable[[npt.NDArray[np.int64]], Tensor]:
    """A reader of rows: given row numbers (n,), the table rows (n, fields) that describe them."""
    top = max(
        int(ids.max(initial=0)) for ids in (examples.device, examples.context, examples.catalogue, examples.match)
    )
    if top >= schema_rows:
        raise ValueError(f"examples use table row {top}, the schema has {schema_rows}")
    owner = examples.owners

    def read(picked: npt.NDArray[np.int64]) -> Tensor:
        device = owner[picked]
        columns: list[npt.NDArray[np.int64] | npt.NDArray[np.int32]] = [
            (schema_rows + device)[:, None],
            examples.device[device],
            examples.context[picked],
            examples.ads(picked),
        ]
        return torch.from_numpy(np.concatenate(columns, axis=1))

    return read


def met(train: Examples, rows: int) -> Tensor:
    """1 for table rows that some training row uses, else 0, shape (rows, 1); padding counts as unused."""
    used = torch.zeros(rows, 1)
    rows_of = fields(train, rows - train.devices)
    for start in range(0, train.rows, CHUNK):
        used[rows_of(np.arange(start, min(start + CHUNK, train.rows)))] = 1.0
    used[0] = 0.0
    return used


def logits(table: Tensor, bias: Tensor, ids: Tensor) -> Tensor:
    """Scores before the sigmoid, shape (n,), of rows described by ids (n, fields).

    With every row's own weight lowered by half its squared length, the sum over pairs is half the squared length of
    the summed factors: one summed lookup per example, linear in the number of fields (Rendle 2010, lemma 3.1).
    """
    factors = table[:, 1:]
    single = table[:, :1] - 0.5 * factors.square().sum(1, keepdim=True)
    total = functional.embedding_bag(ids, torch.cat([single, factors], 1), mode="sum", padding_idx=0)
    return bias + total[:, 0] + 0.5 * total[:, 1:].square().sum(1)
