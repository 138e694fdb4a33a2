"""The training rows of many devices, as columns with one offset per device.

A million devices with thirty rows each take about half a gigabyte: an ad is a number into the public catalogue that
every device holds whole, so a row stores its index and not its features, and there is no Python object per row.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sottovoce.privacy.errors import DataError


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows of D devices over a catalogue of A ads; all ids are rows of the schema's embedding table.

    Attributes:
        offsets: (D + 1,) int64; device i owns rows offsets[i] ... offsets[i + 1] - 1, oldest first. A device may own
            none.
        device: (D, device features) int32.
        context: (rows, context features that change from row to row) int32.
        ad: (rows,) int32, index into `catalogue`.
        labels: (rows, heads) int8, 0 or 1.
        catalogue: (A, ad features) int32, in the order of `FeatureSchema.ad`; padding in the columns of its `matches`.
        match: (rows, match features) int32: those columns, which belong to ad and request; without any, no rows either.

    The schema's context features are `device` columns first, then `context` columns; loaders declare device features
    before context features so that this is also the order of `FeatureSchema.context`.
    """

    offsets: npt.NDArray[np.int64]
    device: npt.NDArray[np.int32]
    context: npt.NDArray[np.int32]
    ad: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int8]
    catalogue: npt.NDArray[np.int32]
    match: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), np.int32))

    def __post_init__(self) -> None:
        """Refuse columns of unlike length."""
        rows = len(self.ad)
        sizes = {len(self.context), len(self.labels), int(self.offsets[-1])}
        if self.match.shape[1]:
            sizes.add(len(self.match))
        if sizes != {rows} or self.offsets[0] != 0 or len(self.device) != self.devices:
            raise DataError(
                f"columns do not belong together: {rows} ads, {sizes} other rows, {len(self.device)} device rows",
                "build every column from the same rows, sorted by device",
            )

    @property
    def devices(self) -> int:
        """Number of devices, with or without rows."""
        return len(self.offsets) - 1

    @property
    def rows(self) -> int:
        """Number of rows over all devices."""
        return len(self.ad)

    @property
    def owners(self) -> npt.NDArray[np.int64]:
        """(rows,) device of each row."""
        return np.repeat(np.arange(self.devices), np.diff(self.offsets))

    def ads(self, rows: npt.NDArray[np.integer] | slice) -> npt.NDArray[np.int32]:
        """What the model reads of the ads of these rows: (..., ad features), a copy."""
        found = self.catalogue[self.ad[rows]]
        if self.match.shape[1]:
            found[..., -self.match.shape[1] :] = self.match[rows]
        return found

    def _matching(self, rows: npt.NDArray[np.integer] | slice) -> npt.NDArray[np.int32]:
        return self.match[rows] if self.match.shape[1] else self.match

    def take(self, devices: npt.NDArray[np.integer], newest: int | None = None) -> "Examples":
        """The rows of the given devices, in the order given; the catalogue is shared, not copied.

        Args:
            devices: indices; one may be given more than once.
            newest: how many of each device's rows to keep, the newest ones; None for all.
        """
        stops = self.offsets[np.asarray(devices) + 1]
        starts = self.offsets[devices]
        if newest is not None:
            starts = np.maximum(starts, stops - newest)
        lengths = stops - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        picked = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Examples(
            offsets,
            self.device[devices],
            self.context[picked],
            self.ad[picked],
            self.labels[picked],
            self.catalogue,
            self._matching(picked),
        )

    def span(self, begin: int, end: int) -> "Examples":
        """The rows of devices `begin` ... `end` - 1, as views: nothing is copied, and what is mapped stays on disk."""
        rows = slice(int(self.offsets[begin]), int(self.offsets[end]))
        return Examples(
            self.offsets[begin : end + 1] - self.offsets[begin],
            self.device[begin:end],
            self.context[rows],
            self.ad[rows],
            self.labels[rows],
            self.catalogue,
            self._matching(rows),
        )
