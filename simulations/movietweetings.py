"""MovieTweetings: film ratings taken from public tweets, one device per user.

A film is the ad, a rating of 8 or more is the click. The last fifth of each device's ratings, by time, is held out.
There are no user attributes, so the context is the moment of the rating: weekday and part of the day (UTC).

Source: Dooms, De Pessemier, Martens, MovieTweetings, CrowdRec at RecSys 2013.
"""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sottovoce.client.examples import Examples
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.privacy.errors import DataError
from sottovoce.simulations.data_sources import SOURCES
from sottovoce.simulations.dataset import Dataset, by_device, require_both_classes

DECADES = (1930.0, 1940.0, 1950.0, 1960.0, 1970.0, 1980.0, 1990.0, 2000.0, 2010.0)

SCHEMA = FeatureSchema(
    features=(
        Feature(name="weekday", source="context", kind="integer", buckets=7),
        Feature(name="day_part", source="context", kind="integer", buckets=8),
        Feature(name="movie", source="ad", buckets=16384, in_history=True, privacy="public"),
        Feature(name="genre", source="ad", buckets=64, seed=125, in_history=True, privacy="public"),
        Feature(
            name="decade",
            source="ad",
            kind="bucket",
            buckets=len(DECADES) + 1,
            boundaries=DECADES,
            in_history=True,
            privacy="public",
        ),
    ),
)

_YEAR = re.compile(r"\((\d{4})\)\s*$")


def load(root: Path, *, min_ratings: int = 10, like: int = 8, held_out: float = 0.2) -> Dataset:
    """Devices with enough ratings, each split by its own time.

    Args:
        root: the folder that holds `movietweetings_100k/`.
        min_ratings: smallest number of ratings of a device; 10 leaves 2,583 devices.
        like: smallest rating, out of 10, that counts as a click.
        held_out: share of each device's ratings, the latest ones, that goes to `valid`, rounded down.

    Raises:
        DataError: a file is missing or a line of it is wrong.
        ValueError: `held_out` is not within 0 ... 1, or `min_ratings` is below 1.
    """
    if not 0.0 < held_out < 1.0 or min_ratings < 1:
        raise ValueError("held_out must be between 0 and 1, min_ratings at least 1")
    source = SOURCES["movietweetings"]
    folder = root / source.folder
    movies, catalogue = _movies(folder / "movies.dat")
    user, movie, rating, time = _ratings(folder / "ratings.dat").T

    ids, owner, count = np.unique(user, return_inverse=True, return_counts=True)
    kept = count >= min_ratings
    if not kept.any():
        raise DataError(f"ratings.dat: no user has {min_ratings} ratings", "ask for fewer")
    rows = np.flatnonzero(kept[owner])
    device = (np.cumsum(kept) - 1)[owner[rows]]
    order, offsets = by_device(device, int(kept.sum()), time[rows])
    rows, device = rows[order], device[order]

    place = np.arange(len(rows)) - offsets[:-1][device]
    later = place >= (count[kept] - np.floor(count[kept] * held_out).astype(np.int64))[device]
    index = np.minimum(np.searchsorted(movies, movie[rows]), len(movies) - 1)
    ad = np.where(movies[index] == movie[rows], index, len(movies)).astype(np.int32)
    context = _context(time[rows])
    labels = (rating[rows] >= like).astype(np.int8)[:, None]
    nothing = np.zeros((int(kept.sum()), 0), np.int32)

    def part(chosen: npt.NDArray[np.bool_], name: str) -> Examples:
        counts = np.bincount(device[chosen], minlength=len(nothing))
        require_both_classes(labels[chosen], ("rating",), f"ratings.dat, {name} part")
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Examples(starts, nothing, context[chosen], ad[chosen], labels[chosen], catalogue)

    train, valid = part(~later, "earlier"), part(later, "later")
    return Dataset(source.name, SCHEMA, train, valid, ids[kept], source.licence, source.citation)


def _ratings(path: Path) -> npt.NDArray[np.int64]:
    """Columns user, movie, rating, seconds since 1970."""
    rows = []
    for number, line in enumerate(_lines(path), 1):
        cells = line.split("::")
        if len(cells) != 4 or not all(cell.isdecimal() for cell in cells):
            raise DataError(
                f"{path.name}: row {number}: {line[:60]!r} is not user::movie::rating::time",
                "download the file again with `sottovoce data fetch movietweetings`",
            )
        rows.append([int(cell) for cell in cells])
    return np.asarray(rows, np.int64)


def _movies(path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Sorted ids, and the table rows of each; one entry of padding more, for films outside the list."""
    found: dict[int, list[str | float | None]] = {}
    for number, line in enumerate(_lines(path), 1):
        cells = line.split("::")
        if len(cells) != 3 or not cells[0].isdecimal():
            raise DataError(
                f"{path.name}: row {number}: {line[:60]!r} is not movie::title (year)::genres",
                "download the file again with `sottovoce data fetch movietweetings`",
            )
        year = _YEAR.search(cells[1])
        found[int(cells[0])] = [int(cells[0]), cells[2].split("|")[0] or None, float(year[1]) if year else None]
    ids = np.asarray(sorted(found), np.int64)
    columns = zip(*(found[int(number)] for number in ids), strict=True)
    encoded = [SCHEMA.encode(feature, column) for feature, column in zip(SCHEMA.ad, columns, strict=True)]
    return ids, np.concatenate([np.stack(encoded, 1), np.zeros((1, len(SCHEMA.ad)), np.int32)])


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read: {error}", "download it with `sottovoce data fetch movietweetings`"
        ) from error
    if not lines:
        raise DataError(f"{path}: the file is empty", "download it with `sottovoce data fetch movietweetings`")
    return lines


def _context(time: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Table rows of weekday (0 is Monday; 1 January 1970 was a Thursday) and three-hour part of the day."""
    weekday, day_part = SCHEMA.context
    days = SCHEMA.encode(weekday, range(7))[(time // 86400 + 3) % 7]
    return np.stack([days, SCHEMA.encode(day_part, range(8))[time // 10800 % 8]], 1)
