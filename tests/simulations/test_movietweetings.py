from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sottovoce.privacy.errors import DataError
from sottovoce.simulations import movietweetings
from sottovoce.simulations.dataset import Dataset

MOVIES = """0000007::First (1915)::Crime|Drama
0000008::Second (2013)::
0000009::Third, no year::Comedy
"""
# User 5 rates five films, the latest first; user 6 rates two.
RATINGS = """5::7::8::1362441600
5::8::7::1362355200
5::9::9::1362268800
5::7::3::1362182400
5::99::10::1362096000
6::7::9::1362096000
6::8::1::1362096001
"""


def write(root: Path, ratings: str = RATINGS, movies: str = MOVIES) -> Path:
    folder = root / "movietweetings_100k"
    folder.mkdir(exist_ok=True)
    (folder / "ratings.dat").write_text(ratings, encoding="utf-8")
    (folder / "movies.dat").write_text(movies, encoding="utf-8")
    return root


def small(root: Path, **options: float) -> Dataset:
    return movietweetings.load(root, **{"min_ratings": 2, "held_out": 0.5, **options})


def test_the_latest_ratings_of_each_device_are_held_out_in_time_order(tmp_path: Path) -> None:
    data = small(write(tmp_path))
    assert data.device_ids.tolist() == [5, 6]
    assert data.train.offsets.tolist() == [0, 3, 4]
    assert data.valid.offsets.tolist() == [0, 2, 3]
    assert data.train.ad.tolist() == [3, 0, 2, 0]
    assert data.train.labels[:, 0].tolist() == [1, 0, 1, 1]
    assert data.valid.ad.tolist() == [1, 0, 1]
    assert data.valid.labels[:, 0].tolist() == [0, 1, 0]


def test_devices_with_too_few_ratings_are_left_out(tmp_path: Path) -> None:
    assert small(write(tmp_path), min_ratings=3).device_ids.tolist() == [5]
    with pytest.raises(DataError, match="no user has 6 ratings"):
        small(tmp_path, min_ratings=6)


def test_films_and_moments_are_encoded_as_the_phone_encodes_them(tmp_path: Path) -> None:
    data = small(write(tmp_path))
    schema = data.schema
    facts = [
        {"movie": 7, "genre": "Crime", "decade": 1915.0},
        {"movie": 8, "decade": 2013.0},
        {"movie": 9, "genre": "Comedy"},
        {},
    ]
    assert data.train.catalogue.tolist() == [schema.encode_one(schema.ad, fact).tolist() for fact in facts]
    # 1 March 2013, 00:00 UTC, was a Friday.
    assert data.train.context[0].tolist() == schema.encode_one(schema.context, {"weekday": 4, "day_part": 0}).tolist()


@pytest.mark.parametrize("line", ["5::7::8", "5::7::8::now", "5,7,8,9", "5::-7::8::1", "", "5::7::8.5::1"])
def test_a_wrong_line_is_named_by_its_row(tmp_path: Path, line: str) -> None:
    write(tmp_path, ratings=f"1::7::8::1362096000\n{line}\n")
    with pytest.raises(DataError, match=r"ratings\.dat: row 2: "):
        small(tmp_path)


def test_a_wrong_film_is_named_by_its_row(tmp_path: Path) -> None:
    write(tmp_path, movies=MOVIES + "tt10::Fourth (1999)::Drama\n")
    with pytest.raises(DataError, match=r"movies\.dat: row 4: "):
        small(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "movietweetings_100k" / "movies.dat").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"movies\.dat: cannot be read"):
        small(tmp_path)


def test_missing_and_empty_files_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read") as caught:
        small(tmp_path)
    assert "data fetch movietweetings" in caught.value.todo
    write(tmp_path, ratings="")
    with pytest.raises(DataError, match="the file is empty"):
        small(tmp_path)


def test_a_rating_threshold_that_leaves_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="earlier part: column 'rating': all 4 labels are 1"):
        small(write(tmp_path), like=0)


@pytest.mark.parametrize("wrong", [{"held_out": 0.0}, {"held_out": 1.0}, {"min_ratings": 0}])
def test_impossible_options_are_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="held_out"):
        movietweetings.load(tmp_path, **wrong)


def test_the_real_set_has_its_published_counts(real_set: Callable[[str], Path]) -> None:
    root = real_set("movietweetings_100k")
    data = movietweetings.load(root)
    assert data.train.devices == 2_583
    assert (np.diff(data.valid.offsets) > 0).all()
    assert (np.diff(data.train.offsets) >= 8).all()
    everybody = movietweetings.load(root, min_ratings=5)
    assert everybody.train.devices == 4_692
    assert everybody.train.rows + everybody.valid.rows == 62_860 + 17_994
