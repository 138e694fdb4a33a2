"""KuaiRand-Pure: real feed impressions, one device per user.

Training rows are the ordered history of each user (no times, so the order is all there is); held-out rows are the
later impressions. Both carry the long-view label, which is the `click` head here. Point in time: a held-out row is
scored with the device's training rows as its history, never with what became of other held-out rows; play time, watch
ratio and the other feedback columns of the held-out file are known only after the impression and are not read.

Source: Gao et al., KuaiRand, CIKM 2022, doi:10.1145/3511808.3557624.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from sottovoce.client.examples import Examples
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.simulations.columns import Columns, read
from sottovoce.simulations.data_sources import SOURCES
from sottovoce.simulations.dataset import Dataset, by_device, require_both_classes

LABEL = "long_view"
VIDEOS = 7583

DURATION_MS = (7e3, 15e3, 30e3, 45e3, 60e3, 90e3, 120e3, 180e3, 300e3)
"""Borders of the duration buckets in milliseconds: round numbers chosen without looking at anybody's behaviour."""

# Seeds are chosen so that no two of the published values share a bucket, except among the thousands of authors.
SCHEMA = FeatureSchema(
    features=(
        Feature(name="activity", source="device", buckets=16, seed=34),
        Feature(name="followers", source="device", buckets=16, seed=11),
        Feature(name="register", source="device", buckets=16, seed=10),
        Feature(name="is_author", source="device", buckets=8),
        Feature(name="video", source="ad", kind="integer", buckets=VIDEOS, in_history=True, privacy="public"),
        Feature(name="author", source="ad", buckets=8192, in_history=True, privacy="public"),
        Feature(name="tag", source="ad", buckets=128, seed=647, in_history=True, privacy="public"),
        Feature(
            name="duration",
            source="ad",
            kind="bucket",
            buckets=len(DURATION_MS) + 1,
            boundaries=DURATION_MS,
            privacy="public",
        ),
        Feature(name="upload_type", source="ad", buckets=32, seed=18, privacy="public"),
        Feature(name="video_type", source="ad", buckets=8, seed=1, privacy="public"),
    ),
)

_COLUMNS = {
    "activity": "user_active_degree",
    "followers": "fans_user_num_range",
    "register": "register_days_range",
    "is_author": "is_video_author",
    "video": "video_id",
    "author": "author_id",
    "tag": "tag",
    "duration": "video_duration",
    "upload_type": "upload_type",
    "video_type": "video_type",
}
_TODO = "give the prepared KuaiRand-Pure files as described in the documentation"


def load(root: Path) -> Dataset:
    """Everybody in the user table (27,285 devices, with or without rows), the whole video table as catalogue.

    The catalogue's last entry is padding throughout: videos outside the video table.

    Args:
        root: the folder that holds `kuairand_pure/`.

    Raises:
        DataError: a file is missing, or a column or row of it is wrong.
    """
    folder = root / SOURCES["kuairand"].folder
    users = read(folder / "user_features_pure.csv", ["user_id", *_of("device")], text=_of("device"))
    ids, first = np.unique(users.integers("user_id"), return_index=True)
    if len(ids) < users.rows:
        raise users.fault("user_id", None, f"{users.rows - len(ids)} users appear twice", _TODO)
    device = _encoded(users, "device")[first]
    videos = read(folder / "video_features_basic_pure.csv", _of("ad"), text=["tag", "upload_type", "video_type"])
    catalogue = _catalogue(videos)

    history = read(folder / "train.parquet", ["user_id", "pos", "video_id", LABEL])
    owner = _known(history, ids)
    order, offsets = by_device(owner, len(ids), history.integers("pos"))
    train = _examples(history, order, offsets, device, catalogue)
    require_both_classes(train.labels, (LABEL,), "train.parquet")
    source = SOURCES["kuairand"]
    empty = Examples(
        np.zeros(len(ids) + 1, np.int64), device, train.context[:0], train.ad[:0], train.labels[:0], catalogue
    )
    known = Dataset(source.name, SCHEMA, train, empty, ids, source.licence, source.citation)
    valid, _ = impressions(folder / "valid.parquet", known)
    return Dataset(source.name, SCHEMA, train, valid, ids, source.licence, source.citation)


def impressions(path: Path, dataset: Dataset) -> tuple[Examples, npt.NDArray[np.int64]]:
    """The rows of a file with the columns of `valid.parquet`, over the devices and catalogue of `dataset`.

    Rows are sorted by device, then by time; duplicates are kept. Read are `user_id`, `video_id`, `time_ms` and
    `long_view`, nothing else.

    ==========================  ==========================================
    input                       result
    ==========================  ==========================================
    user in the user table      his device, even without training rows
    user not in the table       DataError naming the row
    id that is no whole number  DataError naming the row
    video not in the table      catalogue entry of padding (the last one)
    ==========================  ==========================================

    Args:
        path: Parquet or CSV file.
        dataset: from `load`.

    Returns:
        The rows, and their order: row k of the result is row order[k] of the file, counted from 0.

    Raises:
        DataError: the file cannot be used; the message names column and row.
    """
    file = read(path, ["user_id", "video_id", "time_ms", LABEL])
    ids = np.asarray(dataset.device_ids, np.int64)
    order, offsets = by_device(_known(file, ids), len(ids), file.integers("time_ms"))
    made = _examples(file, order, offsets, dataset.train.device, dataset.train.catalogue)
    require_both_classes(made.labels, (LABEL,), path.name)
    return made, order


def _of(source: str) -> list[str]:
    return [_COLUMNS[feature.name] for feature in SCHEMA.features if feature.source == source]


def _encoded(file: Columns, source: str) -> npt.NDArray[np.int32]:
    features = [feature for feature in (*SCHEMA.context, *SCHEMA.ad) if feature.source == source]
    return np.stack([file.encoded(_COLUMNS[feature.name], SCHEMA, feature) for feature in features], 1)


def _catalogue(videos: Columns) -> npt.NDArray[np.int32]:
    """Table rows of every video, at the index of its id; padding where there is none and in the last entry."""
    number = videos.integers("video_id")
    outside = (number < 0) | (number >= VIDEOS)
    if outside.any():
        row = int(np.argmax(outside)) + 1
        raise videos.fault("video_id", row, f"{number[row - 1]} is outside 0 ... {VIDEOS - 1}", _TODO)
    first_tag = pc.list_element(pc.split_pattern(pc.fill_null(videos.values("tag"), ""), ","), 0)
    at = videos.table.schema.get_field_index("tag")
    tagged = Columns(videos.path, videos.table.set_column(at, "tag", first_tag))
    catalogue = np.zeros((VIDEOS + 1, len(SCHEMA.ad)), np.int32)
    catalogue[number] = _encoded(tagged, "ad")
    return catalogue


def _known(file: Columns, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Index of each row's user among the sorted `ids`."""
    users = file.integers("user_id")
    index = np.minimum(np.searchsorted(ids, users), len(ids) - 1)
    strange = ids[index] != users
    if strange.any():
        row = int(np.argmax(strange)) + 1
        raise file.fault(
            "user_id",
            row,
            f"user {users[row - 1]} is not in user_features_pure.csv",
            "leave out users without a device",
        )
    return index.astype(np.int64)


def _examples(
    file: Columns,
    order: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    device: npt.NDArray[np.int32],
    catalogue: npt.NDArray[np.int32],
) -> Examples:
    video = file.integers("video_id")[order]
    ad = np.where((video >= 0) & (video < len(catalogue) - 1), video, len(catalogue) - 1).astype(np.int32)
    return Examples(
        offsets, device, np.zeros((len(order), 0), np.int32), ad, file.labels(LABEL)[order][:, None], catalogue
    )
