"""A data set in figures: how many devices, how much each knows, what the features look like.

These are statistics of raw data for whoever already holds the data. They carry no noise: never publish them about
people who have not agreed.
"""

import msgspec
import numpy as np
import numpy.typing as npt

from sottovoce.client.examples import Examples
from sottovoce.simulations.dataset import Dataset


class Spread(msgspec.Struct, frozen=True):
    """Rows per device, over devices with at least one row; zeros where there is none."""

    median: float
    p90: float
    max: int


class PartSummary(msgspec.Struct, frozen=True):
    """One part of a data set.

    Attributes:
        rows: impressions.
        devices_with_rows: devices that own at least one.
        positive_rate: per head, share of rows labelled 1; 0 without rows.
        rows_per_device: spread.
    """

    rows: int
    devices_with_rows: int
    positive_rate: dict[str, float]
    rows_per_device: Spread


class FeatureSummary(msgspec.Struct, frozen=True):
    """One feature.

    Attributes:
        name: of the feature.
        source: device, context or ad.
        kind: hash, integer or bucket.
        buckets: rows of the table that it owns.
        used: how many of them occur.
        missing: share of devices, training rows or catalogue entries (as the source says) that are padding.
    """

    name: str
    source: str
    kind: str
    buckets: int
    used: int
    missing: float


class DatasetSummary(msgspec.Struct, frozen=True):
    """Everything `describe` tells.

    Attributes:
        name: of the set.
        devices: with or without rows.
        cold_devices: devices with held-out rows and without training rows.
        ads: entries of the catalogue.
        table_rows: rows of the embedding table.
        train: what devices learn from.
        valid: what is held out.
        features: in schema order.
        licence: of the data.
        citation: whom to thank.
    """

    name: str
    devices: int
    cold_devices: int
    ads: int
    table_rows: int
    train: PartSummary
    valid: PartSummary
    features: tuple[FeatureSummary, ...]
    licence: str
    citation: str


def describe(dataset: Dataset) -> DatasetSummary:
    """The figures of a data set."""
    train, valid, schema = dataset.train, dataset.valid, dataset.schema
    columns = {
        **dict(zip([f.name for f in schema.context], [*train.device.T, *train.context.T], strict=True)),
        **dict(zip([f.name for f in schema.ad], train.catalogue.T, strict=True)),
        **dict(zip([f.name for f in schema.matches], train.match.T, strict=True)),
    }
    return DatasetSummary(
        name=dataset.name,
        devices=train.devices,
        cold_devices=int(((np.diff(train.offsets) == 0) & (np.diff(valid.offsets) > 0)).sum()),
        ads=len(train.catalogue),
        table_rows=schema.rows,
        train=_part(train, schema.heads),
        valid=_part(valid, schema.heads),
        features=tuple(
            FeatureSummary(f.name, f.source, f.kind, f.buckets, *_used(columns[f.name])) for f in schema.features
        ),
        licence=dataset.licence,
        citation=dataset.citation,
    )


def _part(examples: Examples, heads: tuple[str, ...]) -> PartSummary:
    counts = np.diff(examples.offsets)
    owned = counts[counts > 0]
    rates = examples.labels.mean(0, dtype=np.float64) if examples.rows else np.zeros(len(heads))
    spread = Spread(float(np.median(owned)), float(np.quantile(owned, 0.9)), int(owned.max())) if len(owned) else None
    return PartSummary(
        examples.rows, len(owned), dict(zip(heads, map(float, rates), strict=True)), spread or Spread(0.0, 0.0, 0)
    )


def _used(rows: npt.NDArray[np.int32]) -> tuple[int, float]:
    """Distinct rows other than padding, and the share of padding."""
    distinct = np.unique(rows)
    return int((distinct > 0).sum()), float((rows == 0).mean()) if len(rows) else 0.0
