"""How long one decision takes: a real event log that grows, a real model, one thread, only `Picker.pick` timed."""

import gc
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from statistics import median

import msgspec
import numpy as np
import torch

from sottovoce.client.catalogue import Catalogue, decode_catalogue
from sottovoce.client.events import Event, decode_log
from sottovoce.client.picker import Picker
from sottovoce.client.request import decode_request
from sottovoce.client.scorer import LiteRTScorer, Scorer
from sottovoce.models import ranker
from sottovoce.models.quantize import quantize
from sottovoce.models.schema import FeatureSchema
from sottovoce.models.tflite_export import to_tflite
from sottovoce.simulations import phone
from sottovoce.simulations.market import SIZES, Market
from sottovoce.simulations.picker_value import PERSONALISED

TURNS = 5
"""Parts of the measurement, for the spread of its medians: how far the machine's noise moves them."""

_STEP = timedelta(minutes=7)
_CLICKED = 20


class PickLatency(msgspec.Struct, frozen=True, kw_only=True):
    """Time of one decision.

    Attributes:
        ads: in the catalogue.
        eligible: of them, those that fit the place before caps are looked at.
        decisions: timed ones.
        events: in the log at the end.
        p50_ms: median.
        p50_range_ms: least and largest median of a fifth of them.
        p99_ms: 99th percentile.
    """

    ads: int
    eligible: int
    decisions: int
    events: int
    p50_ms: float
    p50_range_ms: tuple[float, float]
    p99_ms: float


def random_ranker(schema: FeatureSchema) -> Scorer:
    """The default ranker with random weights, which cost as much time as trained ones, on LiteRT."""
    config, generator = ranker.RankerConfig(), torch.Generator().manual_seed(0)
    parameters = {
        name: value + 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in ranker.initial(schema, config, 0).items()
    }
    parameters["table"][0] = 0.0
    return LiteRTScorer(to_tflite(quantize(parameters, schema, config), schema))


def crowded(market: Market, ads: int, eligible: int, now: datetime) -> Catalogue:
    """The first ads of a market, so many of which fit a place of one size; the flights of the others are over.

    Args:
        market: whose catalogue; each of its campaigns has one ad of each size.
        ads: how many to keep.
        eligible: how many fit.
        now: when.
    """
    whole = decode_catalogue(phone.catalogue_json(market))
    kept = whole.ads[:ads]
    listed = {ad.cid for ad in kept}
    campaigns = tuple(
        campaign if place < eligible else msgspec.structs.replace(campaign, end=now - _STEP)
        for place, campaign in enumerate(whole.campaigns)
        if campaign.cid in listed
    )
    return msgspec.structs.replace(whole, campaigns=campaigns, ads=kept)


def measure(
    ads: int, eligible: int, decisions: int, scorer: Callable[[FeatureSchema], Scorer] = random_ranker
) -> PickLatency:
    """Time decisions of one person whose log grows by what they lead to.

    Args:
        ads: in the catalogue.
        eligible: of them fit the place.
        decisions: at least `TURNS`.
        scorer: makes the model.

    Raises:
        ValueError: fewer ads of one size than must fit.
    """
    per_campaign = len(SIZES)
    if eligible * per_campaign > ads:
        raise ValueError(f"{eligible} ads of one size need {eligible * per_campaign} ads in all, not {ads}")
    market = Market(advertisers=-(-ads // (2 * per_campaign)))
    person = int(np.flatnonzero(market.block_people(0).serve)[0])
    now = phone.visit(market, person).time
    catalogue = crowded(market, ads, eligible, now)
    picker = Picker(market.schema, scorer(market.schema), catalogue)
    request, log = decode_request(phone.request_json(market, person)), decode_log(phone.events_jsonl(market, person))
    features = request.ext.features
    took: list[float] = []
    gc.collect()
    for number in range(-decisions // 10, decisions):  # the first ones warm up and are not counted
        began = time.perf_counter_ns()
        decision = picker.pick(request, log, PERSONALISED, now)
        if number >= 0:
            took.append((time.perf_counter_ns() - began) / 1e6)
        if decision.winner is not None:
            ad = catalogue.ads[catalogue.place[decision.winner.crid]]
            log = log.appended(Event(now, "impression", ad.crid, ad.cid, ad.features, features))
            if number % _CLICKED == 0:
                log = log.appended(Event(now, "click", ad.crid, ad.cid, ad.features))
        now += _STEP
    medians = [median(part) for part in np.array_split(np.array(took), TURNS)]
    return PickLatency(
        ads=len(catalogue.ads),
        eligible=eligible,
        decisions=decisions,
        events=len(log.events),
        p50_ms=round(median(took), 3),
        p50_range_ms=(round(min(medians), 3), round(max(medians), 3)),
        p99_ms=round(float(np.quantile(took, 0.99)), 3),
    )
