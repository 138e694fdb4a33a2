"""Complete Journey: coupons sent to grocery households, and whether they were redeemed; a household is a device.

Every household of a campaign of type B or C was sent every coupon of it, so the coupons not redeemed are known
negatives. Campaigns that start on or after 27 November 2017 are held out. Two of the columns describe the household
just before a campaign starts (`buys`, `reds`), so they are context; `catbuys` depends on household and coupon at once,
which a phone that computes its context once per request cannot know, and is not read.

Point in time: coupons of one campaign are sent together, and some campaigns still run when the next begins. Rows are
ordered by campaign start, ties as in the file; a trainer that lets a row see the outcomes of the rows before it lets it
see outcomes of its own campaign. Held-out rows should be scored with training rows as history only; a redemption may
still come later than a held-out campaign's start, as in the published protocol of this split.

Small: 76 redemptions are held out. Fit for demonstrations and fairness cohorts, not for ranking algorithms.

Source: 84.51 degrees, The Complete Journey, as shipped by the R package completejourney.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sottovoce.client.examples import Examples
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.simulations.columns import Columns, read
from sottovoce.simulations.data_sources import SOURCES
from sottovoce.simulations.dataset import Dataset, by_device, require_both_classes

CUT = np.datetime64("2017-11-27")
FILE = "derived_coupon_impressions_typeBC.csv.gz"

BUYS = (5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 120.0)
REDEMPTIONS = (1.0, 2.0, 4.0, 8.0, 16.0)
PRODUCTS = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)

SCHEMA = FeatureSchema(
    features=(
        Feature(name="age", source="device", buckets=16),
        Feature(name="income", source="device", buckets=32, seed=8),
        Feature(name="household_size", source="device", buckets=16, seed=2),
        Feature(name="kids_count", source="device", buckets=8, seed=7),
        Feature(name="buys", source="context", kind="bucket", buckets=len(BUYS) + 1, boundaries=BUYS),
        Feature(name="reds", source="context", kind="bucket", buckets=len(REDEMPTIONS) + 1, boundaries=REDEMPTIONS),
        Feature(name="coupon", source="ad", buckets=1024, in_history=True, privacy="public"),
        Feature(name="category", source="ad", buckets=256, in_history=True, privacy="public"),
        Feature(name="department", source="ad", buckets=32, seed=4, in_history=True, privacy="public"),
        Feature(name="brand", source="ad", buckets=8, privacy="public"),
        Feature(name="campaign_type", source="ad", buckets=8, privacy="public"),
        Feature(
            name="products",
            source="ad",
            kind="bucket",
            buckets=len(PRODUCTS) + 1,
            boundaries=PRODUCTS,
            privacy="public",
        ),
    ),
)

_COLUMNS = {
    "age": "age",
    "income": "income",
    "household_size": "household_size",
    "kids_count": "kids_count",
    "buys": "buys",
    "reds": "reds",
    "coupon": "coupon_upc",
    "category": "cat",
    "department": "dep",
    "brand": "brand",
    "campaign_type": "campaign_type",
    "products": "nprod",
}


def load(root: Path) -> Dataset:
    """All 1,051 households; a coupon in a campaign is one catalogue entry.

    Args:
        root: the folder that holds `completejourney/`.

    Raises:
        DataError: the file is missing, or a column or row of it is wrong.
    """
    source = SOURCES["completejourney"]
    written = [_COLUMNS[feature.name] for feature in SCHEMA.features if feature.kind == "hash"]
    file = read(
        root / source.folder / FILE,
        ["household_id", "campaign_id", "start_date", "y", *_COLUMNS.values()],
        text=written,
    )
    start = file.times("start_date")
    ids, first, owner = np.unique(file.integers("household_id"), return_index=True, return_inverse=True)
    device = _stacked(file, "device")[first]
    context, labels = _stacked(file, "context"), file.labels("y")[:, None]
    offers, place = np.unique(
        np.concatenate([file.integers("campaign_id")[:, None], _stacked(file, "ad")], 1), axis=0, return_inverse=True
    )
    catalogue, ad = offers[:, 1:].astype(np.int32), place.reshape(-1).astype(np.int32)
    later = start >= (CUT - np.datetime64("1970-01-01")) / np.timedelta64(1, "s")

    def part(chosen: npt.NDArray[np.bool_], name: str) -> Examples:
        rows = np.flatnonzero(chosen)
        order, offsets = by_device(owner[rows], len(ids), start[rows])
        rows = rows[order]
        require_both_classes(labels[rows], ("y",), f"{FILE}, {name} campaigns")
        return Examples(offsets, device, context[rows], ad[rows], labels[rows], catalogue)

    train, valid = part(~later, "earlier"), part(later, "later")
    return Dataset(source.name, SCHEMA, train, valid, ids, source.licence, source.citation)


def _stacked(file: Columns, source: str) -> npt.NDArray[np.int32]:
    features = [feature for feature in (*SCHEMA.context, *SCHEMA.ad) if feature.source == source]
    return np.stack([file.encoded(_COLUMNS[feature.name], SCHEMA, feature) for feature in features], 1)
