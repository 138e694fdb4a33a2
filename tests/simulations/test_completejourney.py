import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sottovoce.privacy.errors import DataError
from sottovoce.simulations import completejourney

HEADER = (
    "household_id,campaign_id,coupon_upc,campaign_type,start_date,end_date,dep,cat,brand,nprod,"
    "age,income,household_size,kids_count,catbuys,buys,reds,y\n"
)
ROWS = [
    "2,20,500,Type B,2017-11-27,2018-02-05,GROCERY,SOUP,National,12,25-34,250K+,2,0,0.0,7.0,0.0,0",
    "2,20,501,Type B,2017-11-27,2018-02-05,GROCERY,SOUP,Private,12,25-34,250K+,2,0,3.0,7.0,0.0,1",
    "1,19,500,Type B,2017-11-26,2017-12-17,GROCERY,SOUP,National,12,,,,,0.0,50.0,1.0,1",
    "2,18,500,Type C,2017-05-01,2017-06-01,GROCERY,SOUP,National,12,25-34,250K+,2,0,0.0,1.0,0.0,0",
]


def write(root: Path, rows: list[str]) -> Path:
    folder = root / "completejourney"
    folder.mkdir(exist_ok=True)
    (folder / completejourney.FILE).write_bytes(gzip.compress((HEADER + "\n".join(rows) + "\n").encode()))
    return root


def test_campaigns_that_start_on_the_day_of_the_cut_are_held_out(tmp_path: Path) -> None:
    data = completejourney.load(write(tmp_path, ROWS))
    assert data.device_ids.tolist() == [1, 2]
    assert data.train.offsets.tolist() == [0, 1, 2]
    assert data.valid.offsets.tolist() == [0, 0, 2]
    assert data.train.labels[:, 0].tolist() == [1, 0]
    assert data.valid.labels[:, 0].tolist() == [0, 1]


def test_rows_are_encoded_as_the_phone_encodes_them(tmp_path: Path) -> None:
    data = completejourney.load(write(tmp_path, ROWS))
    schema = data.schema
    person = {"age": "25-34", "income": "250K+", "household_size": "2", "kids_count": "0", "buys": 7.0, "reds": 0.0}
    expected = schema.encode_one(schema.context, person)
    assert [*data.valid.device[1], *data.valid.context[0]] == expected.tolist()
    assert not data.train.device[0].any()
    coupon = {
        "coupon": "501",
        "category": "SOUP",
        "department": "GROCERY",
        "brand": "Private",
        "campaign_type": "Type B",
        "products": 12,
    }
    assert data.valid.catalogue[data.valid.ad[1]].tolist() == schema.encode_one(schema.ad, coupon).tolist()


def test_the_same_coupon_in_another_campaign_is_another_ad(tmp_path: Path) -> None:
    data = completejourney.load(write(tmp_path, ROWS))
    assert len({*data.train.ad.tolist(), *data.valid.ad.tolist()}) == 4


def test_a_wrong_label_is_named_with_its_row(tmp_path: Path) -> None:
    write(tmp_path, [*ROWS, ROWS[0][:-1] + "3"])
    with pytest.raises(DataError, match="column 'y', row 5: label 3 is not 0 or 1"):
        completejourney.load(tmp_path)


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS) / "completejourney" / completejourney.FILE
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match="cannot be read"):
        completejourney.load(tmp_path)


def test_the_real_set_has_its_published_counts(real_set: Callable[[str], Path]) -> None:
    root = real_set("completejourney")
    data = completejourney.load(root)
    assert data.train.devices == 1_051
    assert data.train.rows + data.valid.rows == 50_238
    assert int(data.train.labels.sum() + data.valid.labels.sum()) == 377
    assert int(data.valid.labels.sum()) == 76
    assert (data.train.context > 0).all()
    assert np.diff(data.train.offsets).max() == 158
