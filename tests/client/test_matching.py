"""A phone's match features are those that the fleet trained on: the market's own rows, built twice."""

from datetime import timedelta

import numpy as np
import pytest

from sottovoce.client.catalogue import decode_catalogue
from sottovoce.client.controls import Controls
from sottovoce.client.events import decode_log
from sottovoce.client.explanation import why
from sottovoce.client.features import Encoder
from sottovoce.client.own_examples import own_examples
from sottovoce.client.picker import Picker
from sottovoce.client.request import decode_request
from sottovoce.models.topics import Topics
from sottovoce.simulations import phone
from sottovoce.simulations.market import DEVICE_CLASSES, Market, load
from sottovoce.simulations.picker_value import CONTEXTUAL, PERSONALISED

MARKET = Market(3)
CATALOGUE = decode_catalogue(phone.catalogue_json(MARKET))
DATA = load(30, 3)
LEARNS = np.flatnonzero(np.diff(DATA.train.offsets) > 5)[:8].tolist()


def of(person):
    """Log, request and training rows of a person."""
    rows = slice(int(DATA.train.offsets[person]), int(DATA.train.offsets[person + 1]))
    return decode_log(phone.events_jsonl(MARKET, person)), decode_request(phone.request_json(MARKET, person)), rows


@pytest.mark.parametrize("person", LEARNS)
def test_what_a_phone_trains_on_is_what_the_fleet_trains_on(person):
    log, _, rows = of(person)
    device = {"device_class": DEVICE_CLASSES[MARKET.people(np.array([person])).device_class[0]]}
    own = own_examples(log, CATALOGUE, MARKET.schema, device, Controls(), request_time())
    assert (own.ads(slice(None)) == DATA.train.ads(rows)).all()
    assert (own.context == DATA.train.context[rows]).all()
    assert own.match.any()


@pytest.mark.parametrize("person", LEARNS)
def test_what_a_phone_asks_of_its_past_is_what_the_fleet_trained_on(person):
    log, request, rows = of(person)
    asked, _ = Encoder(MARKET.schema, CATALOGUE).past(request, log, 64)
    newest = DATA.train.ads(rows)[-len(asked) :]
    assert (np.concatenate([one.ad for one in asked]) == newest).all()


@pytest.mark.parametrize("person", LEARNS)
def test_a_request_matches_every_page_read_before_it(person):
    log, request, rows = of(person)
    encoder, topics = Encoder(MARKET.schema, CATALOGUE), Topics(MARKET.schema)
    pages = topics.of_rows(DATA.train.context[rows][:, 0])
    read = np.bincount(pages, minlength=topics.count)[None]
    context = encoder.context(request, True)
    found = encoder.matched(encoder.ads(np.arange(50)), context, encoder.read(log))
    own = topics.of_ads(found)
    assert (found[:, -2:] == topics.match(topics.of_pages(context), read, own)).all()
    assert read.sum() == len(pages)


def request_time():
    return phone.OPENED.replace(year=phone.OPENED.year + 1)


class Reader:
    """Likes ads that are about what its person reads."""

    def scores(self, context, events, outcomes, ad):
        often = np.maximum(ad[:, -1] - MARKET.schema.offsets["often_read"], 0)
        return np.stack([0.05 + 0.05 * often, np.full(len(ad), 0.1)], 1).astype(np.float32)


@pytest.mark.parametrize("person", LEARNS[:3])
def test_the_explanation_counts_the_pages_that_were_read(person):
    log, request, rows = of(person)
    now = request_time() - timedelta(days=350)
    decision = Picker(MARKET.schema, Reader(), CATALOGUE).pick(request, log, PERSONALISED, now)
    topics = Topics(MARKET.schema)
    pages = topics.of_rows(DATA.train.context[rows][:, 0])
    winner = CATALOGUE.place[decision.winner.crid]
    about = int((pages == MARKET.category[winner]).sum())
    assert (decision.evidence.read, decision.evidence.about) == (len(pages), about)
    said = f"Of the last {len(pages)} pages remembered here, {about} were about what it offers."
    priced = decision.winner.pricing != "cpm"
    assert (said in why(decision).sentence) == priced
    contextual = Picker(MARKET.schema, Reader(), CATALOGUE).pick(request, log, CONTEXTUAL, now)
    assert (contextual.evidence.read, contextual.evidence.about) == (0, 0)
    assert "pages remembered" not in why(contextual).sentence
