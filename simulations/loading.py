"""From an experiment's data section to the data, on the coordinator and on every node alike."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sottovoce.client.examples import Examples
from sottovoce.privacy.errors import ConfigError, DataError
from sottovoce.simulations import completejourney, kuairand, market, movietweetings, table
from sottovoce.simulations.dataset import Dataset, locate
from sottovoce.simulations.experiment import DataSource


def load(source: DataSource, data_dir: Path | None, environment: str | None) -> Dataset:
    """The data set an experiment names.

    Args:
        source: the experiment's data section.
        data_dir: folder of the public sets, as given on the command line.
        environment: value of SOTTOVOCE_DATA, if set.

    Raises:
        ConfigError: a `table` without its file or schema.
        DataError: the data is not there or not as promised.
    """
    match source.name:
        case "market":
            return market.load(source.devices, source.seed, source.rows_per_device)
        case "table":
            if not source.file or not source.schema:
                raise ConfigError(
                    "data.name = 'table' needs data.file and data.schema",
                    "set both, for example --set data.file=log.parquet --set data.schema=log.toml",
                )
            return table.load(Path(source.file), table.read_layout(Path(source.schema)))
        case "kuairand":
            return kuairand.load(locate(data_dir, environment))
        case "movietweetings":
            return movietweetings.load(locate(data_dir, environment))
        case "completejourney":
            return completejourney.load(locate(data_dir, environment))


def impressions(path: Path, dataset: Dataset, source: DataSource) -> tuple[Examples, npt.NDArray[np.int64]]:
    """Rows of another file of the same kind, over the devices of `dataset`, and the order they had in the file.

    Raises:
        ConfigError: this data set has no files of impressions.
        DataError: a column, type, label or device is not as it must be; the message names file, column and row.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", "name an existing file of impressions")
    match source.name:
        case "kuairand":
            return kuairand.impressions(path, dataset)
        case "table":
            return table.impressions(path, dataset, table.read_layout(Path(source.schema)))
    raise ConfigError(
        f"data set {source.name!r} has no impressions files",
        "leave --impressions away to score its held-out rows",
    )


def partition(examples: Examples, number: int, of: int) -> Examples:
    """The devices of one of `of` nodes: consecutive, so that node order is population order; views, not copies."""
    bounds = np.linspace(0, examples.devices, of + 1).astype(np.int64)
    return examples.span(int(bounds[number]), int(bounds[number + 1]))
