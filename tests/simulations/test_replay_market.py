"""Decisions of simulated market persons, written down and picked again from the bytes by another picker."""

from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import pytest

from sottovoce.client.catalogue import decode_catalogue
from sottovoce.client.consent import decode_consent
from sottovoce.client.controls import Controls
from sottovoce.client.events import Event, decode_log, encode_log
from sottovoce.client.occasion import Occasion
from sottovoce.client.offers import Drawn
from sottovoce.client.picker import Picker
from sottovoce.client.replay import replay
from sottovoce.client.request import decode_request
from sottovoce.client.trace import decode_traces, encode_trace, traced
from sottovoce.models.signing import load_public_key
from sottovoce.models.trust import Trust
from sottovoce.simulations.bundle_picker import believed
from sottovoce.simulations.cli import run
from sottovoce.simulations.market import Market
from sottovoce.simulations.phone import catalogue_json, consent_json, events_jsonl, request_json, visit

SECRET = b"a secret of this device"
VISITS = 5


class KnownMarket(Market):
    """A market that draws the people and the logs of a block once."""

    def __init__(self):
        super().__init__(rows_per_device=12)
        self.block_people, self.block_log = cache(super().block_people), cache(super().block_log)


class Linear:
    """A linear model of every id it is given, the history too; its weights follow from the ids alone."""

    def scores(self, context, events, outcomes, ad):
        person = np.sin(context * 12.9898).sum() + np.sin(events * outcomes[:, None] * 78.233).sum() / 4
        alike = np.isin(ad, events[outcomes > 1]).sum(1)
        logits = -2 + np.sin(ad * 37.719).sum(1) / 2 + person / 3 + alike
        click = 1 / (1 + np.exp(-logits))
        return np.stack([click, np.full(len(ad), 0.1)], 1).astype(np.float32)


def epsilon(offers, draw):
    """The best, or one in ten times any of the best."""
    chances = np.full(len(offers.ads), 0.1 / len(offers.ads))
    chances[0] += 0.9
    return Drawn(min(int(np.searchsorted(np.cumsum(chances), draw, side="right")), len(chances) - 1), chances)


def lives(market, build, persons):
    """Traces of each person's visits, one after the other, and the log that the person has at the end."""
    ads = decode_catalogue(catalogue_json(market))
    picker = build(ads)
    rng = np.random.default_rng(7)
    for device in range(persons):
        log = decode_log(events_jsonl(market, device))
        consent = decode_consent(consent_json(market, device))
        controls = Controls(
            muted_seats=(f"advertiser-{device % 48}",) if device % 3 == 0 else (), paused=device % 11 == 0
        )
        lines = b""
        for number in range(VISITS):
            now = visit(market, device, number).time + timedelta(minutes=number, microseconds=int(rng.integers(10**6)))
            asked = decode_request(request_json(market, device, number))
            at = Occasion(build, picker, ads, asked, log, consent, now, controls, float(rng.random()))
            decision = at.pick()
            lines += encode_trace(traced(at, decision, SECRET))
            if decision.winner:
                shown = decision.winner
                features = ads.ads[ads.place[shown.crid]].features
                log = log.appended(Event(now.astimezone(UTC), "impression", shown.crid, shown.cid, features))
                if rng.random() < 0.2:
                    log = log.appended(Event(now.astimezone(UTC), "click", shown.crid, shown.cid, features))
        yield lines, encode_log(log.events)


def replayed(market, build, written):
    """What replaying all of it comes to, from bytes and with a picker of its own."""
    ads = decode_catalogue(catalogue_json(market))
    picker = build(ads)
    for lines, log in written:
        events = decode_log(log)
        for trace in decode_traces(lines):
            yield trace, replay(trace, ads, build, events, SECRET, picker=picker)


def held(market, build, again, persons):
    """How many decisions there were, how many had an ad, and how many were drawn; all replay identically."""
    found = list(replayed(market, again, lives(market, build, persons)))
    wrong = [(trace.request.id, one.sentence) for trace, one in found if not one.identical or one.changed]
    assert wrong == []
    shown = sum(trace.outcome.winner is not None for trace, _ in found)
    return len(found), shown, sum(trace.outcome.propensity < 0.5 for trace, _ in found)


def test_every_decision_of_some_lives_replays_identically():
    market = KnownMarket()

    def build(ads):
        return Picker(market.schema, Linear(), ads, 1.0, model="linear", explorer=epsilon)

    decisions, shown, drawn = held(market, build, build, 60)
    assert decisions == 60 * VISITS
    assert shown > 250
    assert drawn > 5


@pytest.mark.soak
@pytest.mark.parametrize("runtime", ["litert", "onnxruntime"])
def test_ten_thousand_decisions_of_a_released_bundle_replay_identically(tmp_path, runtime):
    small = [
        "--devices",
        "200",
        "--rounds",
        "2",
        "--delta",
        "1e-3",
        "--no-baselines",
        "--set",
        "data.rows_per_device=8",
    ]
    assert run(["simulate", *small, "--set", "privacy.sampling_rate=0.3", "--out", str(tmp_path / "run")]) == 0
    assert run(["release", str(tmp_path / "run")]) == 0
    market = KnownMarket()

    def loaded():
        trust = Trust((load_public_key(tmp_path / "run" / "signing.pub.pem"),))
        model = believed((tmp_path / "run" / "bundle.svb").read_bytes(), trust, datetime.now(UTC), runtime)
        return lambda ads: Picker(model.bundle.schema, model.scorer, ads, 1.0, model=model.digest, explorer=epsilon)

    decisions, shown, drawn = held(market, loaded(), loaded(), 2_000)
    assert decisions == 10_000
    assert shown > 9_000
    assert drawn > 100
