import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.privacy.errors import DataError
from sottovoce.simulations import market
from sottovoce.simulations.dataset import (
    Dataset,
    by_device,
    locate,
    open_memory_mapped,
    require_both_classes,
    save,
)


@pytest.fixture(scope="module")
def small() -> Dataset:
    return market.load(40, seed=7, rows_per_device=8)


@pytest.fixture
def folder(small: Dataset, tmp_path: Path) -> Path:
    save(small, tmp_path / "set")
    return tmp_path / "set"


def arrays(dataset: Dataset) -> dict[str, np.ndarray]:
    return {
        "ids": dataset.device_ids,
        "truth": dataset.truth,
        "group": dataset.group,
        **{
            f"{part}.{name}": getattr(getattr(dataset, part), name)
            for part in ("train", "valid")
            for name in ("offsets", "device", "context", "ad", "labels", "catalogue")
        },
    }


def test_what_is_opened_is_what_was_saved(small: Dataset, folder: Path) -> None:
    opened = open_memory_mapped(folder)
    assert (opened.name, opened.schema, opened.licence, opened.citation) == (
        small.name,
        small.schema,
        small.licence,
        small.citation,
    )
    for name, column in arrays(small).items():
        again = arrays(opened)[name]
        assert again.dtype == column.dtype, name
        assert np.array_equal(again, column), name


def test_columns_are_mapped_and_not_read(folder: Path) -> None:
    opened = open_memory_mapped(folder)
    assert isinstance(opened.train.ad, np.memmap)
    assert not opened.train.ad.flags.writeable
    assert opened.train.device is opened.valid.device


def test_a_set_without_context_columns_truth_or_group_survives_too(small: Dataset, tmp_path: Path) -> None:
    schema = type(small.schema)(
        features=tuple(f for f in small.schema.features if f.source in ("device", "ad")), heads=small.schema.heads
    )
    catalogue, nothing = small.train.catalogue[:, : len(schema.ad)], np.zeros((0, 0), np.int32)
    parts = [
        dataclasses.replace(part, context=np.zeros((part.rows, 0), np.int32), catalogue=catalogue, match=nothing)
        for part in (small.train, small.valid)
    ]
    plain = dataclasses.replace(
        small,
        schema=schema,
        train=parts[0],
        valid=parts[1],
        truth=None,
        group=None,
        device_ids=np.array([f"device-{i}" for i in range(40)]),
    )
    save(plain, tmp_path)
    opened = open_memory_mapped(tmp_path)
    assert opened.truth is None
    assert opened.group is None
    assert opened.valid.context.shape == (small.valid.rows, 0)
    assert opened.device_ids.tolist() == plain.device_ids.tolist()


@pytest.mark.parametrize(
    "name", ["train.ad", "valid.offsets", "truth", "device_ids", "catalogue", "train.labels", "valid.match"]
)
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "garbage", "pickle", "dtype", "shape"])
def test_a_damaged_column_is_named(folder: Path, name: str, damage: str) -> None:
    path = folder / f"{name}.npy"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "pickle":
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif damage in ("dtype", "shape"):
        column = np.load(path)
        np.save(path, column.astype(np.float32) if damage == "dtype" else column[None])
    else:
        path.write_bytes({"cut": content[:-3], "empty": b"", "garbage": b"PK\x03\x04" + content}[damage])
    with pytest.raises(DataError, match=path.name):
        open_memory_mapped(folder)


def test_a_column_of_another_length_is_refused(folder: Path) -> None:
    path = folder / "train.ad.npy"
    np.save(path, np.load(path)[:-1])
    with pytest.raises(DataError, match="do not belong together"):
        open_memory_mapped(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff\xfe", b'{"format": 1}', b"[" * 5000])
def test_a_damaged_card_is_refused(folder: Path, content: bytes) -> None:
    (folder / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match=r"dataset\.json"):
        open_memory_mapped(folder)


def test_a_layout_of_the_future_is_refused(folder: Path) -> None:
    card = folder / "dataset.json"
    card.write_bytes(card.read_bytes().replace(b'"format":1', b'"format":2'))
    with pytest.raises(DataError, match="layout 2"):
        open_memory_mapped(folder)


def test_a_save_that_broke_off_cannot_be_opened(small: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(*_args: object, **_keywords: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", disk_full)
    with pytest.raises(DataError, match="No space left"):
        save(small, folder)
    with pytest.raises(DataError, match=r"dataset\.json"):
        open_memory_mapped(folder)


def test_parts_that_do_not_belong_together_are_refused(small: Dataset) -> None:
    for change, word in (
        ({"device_ids": small.device_ids[:-1]}, "device ids"),
        ({"truth": small.truth[:-1]}, "truth"),
        ({"group": small.group[:-1]}, "group"),
        ({"valid": small.valid.take(np.arange(39))}, "other devices"),
        ({"valid": dataclasses.replace(small.valid, catalogue=small.valid.catalogue[:-1])}, "catalogue"),
        ({"train": dataclasses.replace(small.train, labels=small.train.labels[:, :1])}, "heads"),
    ):
        with pytest.raises(DataError, match=word):
            dataclasses.replace(small, **change)


def test_the_named_folder_wins_then_the_environment_then_the_neighbour(tmp_path: Path) -> None:
    for name in ("named", "environment", "shared/data", "repository"):
        (tmp_path / name).mkdir(parents=True)
    named, environment, here = tmp_path / "named", str(tmp_path / "environment"), tmp_path / "repository"
    assert locate(named, environment, here) == named
    assert locate(None, environment, here) == Path(environment)
    assert locate(None, None, here) == tmp_path / "shared" / "data"
    assert locate(None, "", here) == tmp_path / "shared" / "data"
    shutil.rmtree(tmp_path / "shared")
    with pytest.raises(DataError, match="no data folder named") as caught:
        locate(None, None, here)
    assert "--data-dir" in caught.value.todo


def test_a_named_folder_that_is_not_there_is_never_replaced_by_another(tmp_path: Path) -> None:
    (tmp_path / "shared" / "data").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    with pytest.raises(DataError, match="gone: no such folder"):
        locate(tmp_path / "gone", None, tmp_path / "here")
    with pytest.raises(DataError, match="gone: no such folder"):
        locate(None, str(tmp_path / "gone"), tmp_path / "here")


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=40))
@settings(deadline=None)
def test_rows_are_sorted_by_device_then_time_and_ties_keep_their_order(rows: list[tuple[int, int]]) -> None:
    device = np.array([row[0] for row in rows], np.int64)
    time = np.array([row[1] for row in rows], np.int64)
    order, offsets = by_device(device, 7, time)
    assert order.tolist() == sorted(range(len(rows)), key=lambda i: (*rows[i], i))
    for i in range(7):
        assert set(device[order[offsets[i] : offsets[i + 1]]]) <= {i}
    assert offsets[-1] == len(rows)


def test_labels_of_one_class_are_refused_and_both_classes_are_not() -> None:
    for value in (0, 1):
        labels = np.array([[0, value], [1, value]], np.int8)
        with pytest.raises(DataError, match=rf"file\.csv: column 'bought': all 2 labels are {value}"):
            require_both_classes(labels, ("clicked", "bought"), "file.csv")
    require_both_classes(np.array([[0, 1], [1, 0]], np.int8), ("clicked", "bought"), "file.csv")
