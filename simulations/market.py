"""A synthetic ad market whose true probabilities can be asked for.

People have interests over twelve product categories, a leaning towards some advertisers, a device and a consent state.
They visit pages close to their interests. Ads are logged by a policy that ignores the person, so exposure is random
given the ad's share. A click depends on the person's taste, the ad's appeal, the fit of page and product, hour and
device; a conversion after a click on taste, advertiser, connection and device. All of it is known, so any estimator
can be scored against `Market.true_probabilities`.

The world (advertisers, campaigns, creatives, effects) depends on the seed alone. Device i is the same person with the
same log whatever the number of devices: people are drawn in blocks, each with a random stream of its own.

Product categories are Ad Product Taxonomy 2.0 (`cattax` 8), page categories Content Taxonomy 3.1 (`cattax` 9).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sottovoce.client.examples import Examples
from sottovoce.models.schema import Feature, FeatureSchema, Topic
from sottovoce.models.topics import Topics
from sottovoce.simulations.dataset import Dataset

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

CATEGORIES = (
    ("1551", "1", "vehicles"),
    ("1335", "391", "finance"),
    ("1355", "210", "food"),
    ("1524", "483", "sports"),
    ("1097", "596", "electronics"),
    ("1529", "653", "travel"),
    ("1419", "JLBCU7", "media"),
    ("1082", "52", "software"),
    ("1396", "274", "home"),
    ("1460", "422", "pets"),
    ("1295", "132", "education"),
    ("1482", "441", "housing"),
)
"""Product category, page category, plain name."""

LIFTS = (-0.9, -0.6, -0.3, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Between the buckets of `often_read`, see `models.topics`."""

DEVICE_CLASSES = ("phone-low", "phone-mid", "phone-high", "tablet")
CONNECTIONS = ("wifi", "cellular-4g", "cellular-5g")
SIZES = ((320, 50), (300, 250), (320, 100))
PRICINGS: tuple[Literal["cpm", "cpc", "cpa"], ...] = ("cpm", "cpc", "cpa")
HOUR_PARTS = 8
DAY_SHAPE = (0.04, 0.02, 0.10, 0.13, 0.14, 0.15, 0.22, 0.20)
"""Share of visits per hour part, from midnight."""

DAYS, TRAIN_DAYS = 28, 23
DAY_S = 86400
BLOCK = 4096
"""Devices drawn together; part of what a seed means."""

_PEOPLE, _LOG, _WORLD, VISITS, DELAYS = range(5)
# Purposes of the random streams; appending one changes no other.


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """Latent facts about devices, one row each.

    Attributes:
        taste: (n, categories) how much each product category appeals, in logits.
        lean: (n, 2) leaning, to be multiplied with the advertisers' own.
        activity: (n,) readiness to click anything, in logits.
        group: (n,) protected attribute, 0 or 1. It shifts tastes and consent, and is never a feature.
        device_class: (n,) index into `DEVICE_CLASSES`.
        serve: (n,) consents to personalised ads; without it there is no log.
        learn: (n,) consents to train the model; implies `serve`.
        report: (n,) consents to measurement; implies `serve`.
    """

    taste: Floats
    lean: Floats
    activity: Floats
    group: npt.NDArray[np.int8]
    device_class: npt.NDArray[np.int8]
    serve: npt.NDArray[np.bool_]
    learn: npt.NDArray[np.bool_]
    report: npt.NDArray[np.bool_]

    def take(self, rows: npt.NDArray[np.integer]) -> "People":
        """The people at these rows."""
        return People(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """What happened on the devices of one block, sorted by device, then by time.

    Attributes:
        device: (rows,) row within the block's people.
        time: (rows,) seconds since the market opened.
        context: (rows, 3) indices of page category, hour part and connection.
        ad: (rows,) index into the catalogue.
        click: (rows,) bool.
        conversion: (rows,) bool, only where clicked.
        truth: (rows, 2) probability of a click, and of a conversion given a click.
    """

    device: npt.NDArray[np.int64]
    time: npt.NDArray[np.int64]
    context: Ints
    ad: Ints
    click: npt.NDArray[np.bool_]
    conversion: npt.NDArray[np.bool_]
    truth: Floats


class Market:
    """One seeded world.

    Args:
        seed: of everything.
        advertisers: each sells in one category, has two campaigns, each campaign a creative in every size.
        rows_per_device: mean number of impressions per device over four weeks; the real number varies widely.

    Attributes:
        schema: features of the data set; the conversion head is given a click.
        advertiser: (ads,) index of each ad's advertiser.
        campaign: (ads,) index of its campaign.
        category: (ads,) index into `CATEGORIES`.
        size: (ads,) index into `SIZES`.
        share: (ads,) probability that the logging policy shows the ad: the propensity, the same for everybody.
        pricing: (campaigns,) index into `PRICINGS`.
        price: (campaigns,) in USD: per thousand impressions, per click or per conversion.
        budget: (campaigns,) in USD a day.

    Raises:
        ValueError: fewer than one advertiser, or fewer than two rows per device.
    """

    def __init__(self, seed: int = 0, *, advertisers: int = 48, rows_per_device: float = 30.0) -> None:
        if advertisers < 1 or rows_per_device < 2:
            raise ValueError("a market needs at least one advertiser and two rows per device")
        self.seed, self.rows_per_device = seed, rows_per_device
        rng = self.stream(_WORLD, 0)
        kinds, campaigns = len(CATEGORIES), 2 * advertisers
        ads = campaigns * len(SIZES)
        self.campaign = np.repeat(np.arange(campaigns, dtype=np.int32), len(SIZES))
        self.advertiser = self.campaign // 2
        self.category = self.advertiser % kinds
        self.size = np.tile(np.arange(len(SIZES), dtype=np.int32), campaigns)
        self.pricing = rng.integers(0, 3, campaigns)
        self.price = np.round(rng.lognormal(0.0, 0.4, campaigns) * np.array([3.0, 0.05, 0.45])[self.pricing], 3)
        self.budget = np.round(rng.lognormal(4.0, 0.7, campaigns), 2)
        weight = self.budget[self.campaign] * rng.lognormal(0.0, 0.3, ads)
        self.share = weight / weight.sum()
        self._appeal = centred(rng.normal(0.0, 0.45, ads) + np.array([-0.15, 0.25, 0.0])[self.size], self.share)
        self._brand = rng.normal(0.0, 0.6, (advertisers, 2)).astype(np.float32)
        self._closing = centred(rng.normal(0.0, 0.4, advertisers)[self.advertiser], self.share)
        self._hour = rng.normal(0.0, 0.25, (HOUR_PARTS, kinds)).astype(np.float32)
        self._fit = rng.normal(0.0, 0.2, (kinds, kinds)).astype(np.float32)
        self._fit[np.arange(kinds), np.arange(kinds)] += 0.9
        self._loved = np.clip(rng.normal(0.22, 0.10, (2, kinds)), 0.05, 0.6)
        self.schema = schema(ads, advertisers)
        encode = self.schema.encode
        device_class, page, hour, connection = self.schema.context
        self.device_rows = encode(device_class, DEVICE_CLASSES)
        self._context_rows = (
            encode(page, (content for _, content, _ in CATEGORIES)),
            encode(hour, range(HOUR_PARTS)),
            encode(connection, CONNECTIONS),
        )
        number, advertiser, category, size, *matches = self.schema.ad
        self.catalogue = np.stack(
            [
                encode(number, range(ads)),
                encode(advertiser, self.advertiser.tolist()),
                encode(category, self.category.tolist()),
                encode(size, (size_name(index) for index in self.size)),
                *(np.zeros(ads, np.int32) for _ in matches),
            ],
            1,
        )

    def stream(self, purpose: int, number: int) -> np.random.Generator:
        """The random numbers of one purpose and block (or device)."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(purpose, number))))

    def block_people(self, block: int) -> People:
        """Devices block * BLOCK ... (block + 1) * BLOCK - 1."""
        rng = self.stream(_PEOPLE, block)
        group = (rng.random(BLOCK) < 0.4).astype(np.int8)
        loves = rng.random((BLOCK, len(CATEGORIES))) < self._loved[group]
        taste = np.where(loves, 1.7, -0.8) + rng.normal(0.0, 0.3, loves.shape)
        serve = rng.random(BLOCK) < np.where(group == 1, 0.88, 0.94)
        return People(
            taste.astype(np.float32),
            rng.normal(0.0, 0.6, (BLOCK, 2)).astype(np.float32),
            rng.normal(0.0, 0.4, BLOCK).astype(np.float32),
            group,
            np.searchsorted([0.3, 0.7, 0.9], rng.random(BLOCK), side="right").astype(np.int8),
            serve,
            serve & (rng.random(BLOCK) < np.where(group == 1, 0.78, 0.88)),
            serve & (rng.random(BLOCK) < 0.92),
        )

    def people(self, devices: npt.NDArray[np.integer]) -> People:
        """Latent facts about any devices, one row each, in the order given."""
        devices = np.asarray(devices, np.int64)
        blocks, where = np.unique(devices // BLOCK, return_inverse=True)
        drawn = [self.block_people(int(block)) for block in blocks]
        joined = People(*(np.concatenate([getattr(part, f.name) for part in drawn]) for f in fields(People)))
        return joined.take(where * BLOCK + devices % BLOCK)

    def true_probabilities(
        self, devices: npt.NDArray[np.integer], context: npt.NDArray[np.integer], ads: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float64]:
        """What the market does, shape (n, 2): probability of a click, and of a conversion given a click.

        Args:
            devices: (n,) device numbers.
            context: (n, 3) table rows of page category, hour part and connection, as in `Examples.context`.
            ads: (n,) indices into the catalogue.

        Raises:
            ValueError: a context row that this market never writes.
        """
        indices = np.empty(np.shape(context), np.int32)
        for column, rows in enumerate(self._context_rows):
            order = np.argsort(rows)
            place = np.minimum(np.searchsorted(rows[order], context[:, column]), len(rows) - 1)
            indices[:, column] = order[place]
            if (rows[indices[:, column]] != context[:, column]).any():
                raise ValueError(f"context column {column} holds rows that are not this market's")
        people = self.people(devices)
        return self.probabilities(people, np.arange(len(ads)), indices, np.asarray(ads)).astype(np.float64)

    def probabilities(
        self, people: People, device: npt.NDArray[np.integer], context: Ints, ad: npt.NDArray[np.integer]
    ) -> Floats:
        """As `true_probabilities`, for rows `device` of `people` and indices instead of table rows."""
        page, hour, connection = context.T
        category, advertiser, kind = self.category[ad], self.advertiser[ad], people.device_class[device]
        taste = people.taste[device, category]
        click = (
            np.float32(-3.45)
            + people.activity[device]
            + taste
            + (people.lean[device] * self._brand[advertiser]).sum(1)
            + self._appeal[ad]
            + self._fit[page, category]
            + self._hour[hour, category]
            + np.where((kind == 3) & (self.size[ad] == 1), np.float32(0.3), np.float32(0.0))
        )
        buy = (
            np.float32(-2.45)
            + np.float32(0.35) * taste
            + self._closing[ad]
            + np.array([0.25, -0.2, 0.0], np.float32)[connection]
            + np.array([-0.3, 0.0, 0.2, 0.1], np.float32)[kind]
        )
        return np.stack([1.0 / (1.0 + np.exp(-click)), 1.0 / (1.0 + np.exp(-buy))], 1)

    def contexts(
        self, rng: np.random.Generator, people: People, device: npt.NDArray[np.integer], hour: npt.NDArray[np.integer]
    ) -> Ints:
        """Page, hour part and connection of visits, shape (n, 3): people read about what they like."""
        liking = np.exp(np.float32(0.6) * people.taste)
        reach = np.cumsum(liking / liking.sum(1, keepdims=True), 1)[:, :-1]
        page = (rng.random(len(device), np.float32)[:, None] > reach[device]).sum(1)
        at_home = np.where((hour <= 2) | (hour >= 6), np.float32(0.75), np.float32(0.45))
        draw = rng.random(len(device), np.float32)
        connection = np.where(draw < at_home, 0, np.where(draw < at_home + 0.6 * (1 - at_home), 1, 2))
        return np.stack([page, hour, connection], 1).astype(np.int32)

    def block_log(self, block: int, people: People) -> Log:
        """Four weeks of every device of the block, consent aside."""
        rng = self.stream(_LOG, block)
        mean = self.rows_per_device
        rows = np.clip(rng.poisson(rng.gamma(3.0, mean / 3.0, BLOCK)), 1, int(4 * mean)).astype(np.int64)
        device = np.repeat(np.arange(BLOCK), rows)
        n = len(device)
        day = rng.integers(0, DAYS, n)
        busy = np.cumsum(DAY_SHAPE)[:-1]
        hour = np.searchsorted(busy, rng.random(n), side="right")
        time = day * DAY_S + hour * (DAY_S // HOUR_PARTS) + rng.integers(0, DAY_S // HOUR_PARTS, n)
        time = np.sort(device * (DAYS * DAY_S) + time) % (DAYS * DAY_S)
        context = self.contexts(rng, people, device, time % DAY_S // (DAY_S // HOUR_PARTS))
        ad = np.minimum(np.searchsorted(np.cumsum(self.share), rng.random(n)), len(self.share) - 1).astype(np.int32)
        truth = self.probabilities(people, device, context, ad)
        chance = rng.random((n, 2), np.float32)
        click = chance[:, 0] < truth[:, 0]
        return Log(device, time, context, ad, click, click & (chance[:, 1] < truth[:, 1]), truth)

    def logs(self, devices: int) -> Iterator[tuple[int, People, Log]]:
        """Block by block: how many of its devices belong to the first `devices`, its people, and those devices' log."""
        for block in range(-(-devices // BLOCK)):
            count = min(BLOCK, devices - block * BLOCK)
            people = self.block_people(block)
            log = self.block_log(block, people)
            end = int(np.searchsorted(log.device, count))
            yield count, people, Log(*(getattr(log, field.name)[:end] for field in fields(log)))

    def context_rows(self, context: Ints) -> Ints:
        """Table rows of context indices, shape (n, 3)."""
        return np.stack([rows[context[:, column]] for column, rows in enumerate(self._context_rows)], 1)


def schema(ads: int, advertisers: int) -> FeatureSchema:
    """Features of a market of that size; seeds are chosen so that no two values share a bucket."""
    return FeatureSchema(
        features=(
            Feature(name="device_class", source="device", buckets=8),
            Feature(name="page_category", source="context", buckets=64, seed=4),
            Feature(name="hour_part", source="context", kind="integer", buckets=HOUR_PARTS),
            Feature(name="connection", source="context", buckets=8, seed=1),
            Feature(name="ad_id", source="ad", kind="integer", buckets=ads, in_history=True, privacy="public"),
            Feature(
                name="advertiser", source="ad", kind="integer", buckets=advertisers, in_history=True, privacy="public"
            ),
            Feature(
                name="category", source="ad", kind="integer", buckets=len(CATEGORIES), in_history=True, privacy="public"
            ),
            Feature(name="format", source="ad", buckets=16, privacy="public"),
            Feature(name="about_page", source="page_match", kind="integer", buckets=2),
            Feature(name="often_read", source="read_match", kind="bucket", buckets=len(LIFTS) + 1, boundaries=LIFTS),
        ),
        heads=("click", "conversion"),
        topic=Topic("page_category", "category", tuple((page, n) for n, (_, page, _) in enumerate(CATEGORIES))),
    )


def size_name(size: int) -> str:
    """Value of the `format` feature, as "320x50"."""
    return "{}x{}".format(*SIZES[size])


def centred(effect: npt.NDArray[np.float64], share: npt.NDArray[np.float64]) -> Floats:
    """The effect minus its mean over impressions, so that worlds differ in detail and not in overall rate."""
    return np.asarray(effect - (effect * share).sum(), np.float32)


def load(devices: int = 2000, seed: int = 0, rows_per_device: float = 30.0, *, advertisers: int = 48) -> Dataset:
    """The first `devices` people of the market: 23 days to learn from, the 5 days after them held out.

    A device without consent to learning owns no training rows, one without consent to measurement no held-out rows;
    both stay listed. Generation is block by block: memory grows with the rows kept, about 30 bytes each.

    Args:
        devices: at least 1.
        seed: same seed, same bytes.
        rows_per_device: mean over both parts together.
        advertisers: size of the world.

    Raises:
        ValueError: fewer than one device, or sizes that `Market` refuses.
    """
    if devices < 1:
        raise ValueError("a market needs at least one device")
    market = Market(seed, advertisers=advertisers, rows_per_device=rows_per_device)
    topics = Topics(market.schema)
    kept: dict[str, list[npt.NDArray[Any]]] = {}

    def keep(name: str, column: npt.NDArray[Any]) -> None:
        kept.setdefault(name, []).append(column)

    for count, people, log in market.logs(devices):
        keep("device", market.device_rows[people.device_class[:count]][:, None])
        keep("group", people.group[:count])
        early = log.time < TRAIN_DAYS * DAY_S
        parts = {"train": early & people.learn[log.device], "valid": ~early & people.report[log.device]}
        known = np.flatnonzero(parts["train"] | parts["valid"])
        offsets = np.concatenate([[0], np.cumsum(np.bincount(log.device[known], minlength=count))])
        pages = market.context_rows(log.context[known])[:, 0]
        match = np.zeros((len(log.ad), topics.columns), np.int32)
        match[known] = topics.match_rows(pages, offsets, market.catalogue[log.ad[known]])
        for part, rows in parts.items():
            keep(f"{part}.match", match[rows])
            keep(f"{part}.counts", np.bincount(log.device[rows], minlength=count))
            keep(f"{part}.context", market.context_rows(log.context[rows]))
            keep(f"{part}.ad", log.ad[rows])
            keep(f"{part}.labels", np.stack([log.click[rows], log.conversion[rows]], 1).astype(np.int8))
            if part == "valid":
                keep("truth", log.truth[rows].astype(np.float64))

    def joined(name: str) -> npt.NDArray[Any]:
        return np.concatenate(kept.pop(name))

    device = joined("device")
    train, valid = (
        Examples(
            np.concatenate([[0], np.cumsum(joined(f"{part}.counts"))]).astype(np.int64),
            device,
            joined(f"{part}.context"),
            joined(f"{part}.ad"),
            joined(f"{part}.labels"),
            market.catalogue,
            joined(f"{part}.match"),
        )
        for part in ("train", "valid")
    )
    return Dataset(
        "market",
        market.schema,
        train,
        valid,
        np.arange(devices, dtype=np.int64),
        "Apache-2.0 (synthetic, generated by sottovoce)",
        f"sottovoce synthetic market, seed {seed}, {devices} devices",
        joined("truth"),
        joined("group"),
    )
