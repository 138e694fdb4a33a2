"""Decisions of simulated market persons, written down and picked again from the bytes by another picker."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import pytest

from sottovoce.client.catalogue import decode_catalogue
from sottovoce.client.consent import decode_consent
from sottovoce.client.controls import Controls
from sottovoce.client.events import Event, decode_log, encode_log
from sottovoce.client.exploration import Exploration
from sottovoce.client.features import Encoder
from sottovoce.client.ladder import Ranker
from sottovoce.client.occasion import Occasion
from sottovoce.client.page_scorer import page_scorer
from sottovoce.client.picker import Picker
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.posterior import Arm, Posterior
from sottovoce.client.replay import replay
from sottovoce.client.request import decode_request
from sottovoce.client.trace import decode_traces, encode_trace, traced
from sottovoce.client.value import QualityRule
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


class Hurried:
    """A clock, and models that are late or fail at some decisions: what nobody can have again."""

    def __init__(self):
        self.rng, self.ns, self.mood = np.random.default_rng(11), 0, "well"

    def turn(self):
        """The next decision, some time later; troubles come in rows."""
        self.ns += 30 * 10**9
        if self.rng.random() < 0.3:
            self.mood = str(self.rng.choice(["well", "slow", "late", "fails"], p=[0.7, 0.1, 0.1, 0.1]))

    def clock(self):
        return self.ns

    def over(self, scorer):
        return _Hurried(self, scorer)


class _Hurried:
    def __init__(self, world, scorer):
        self.world, self.scorer = world, scorer

    def scores(self, *given):
        world = self.world
        # Some fit into the deadline, some do not, and some fail so late that no time is left for the next one.
        world.ns += int(10**6 * {"well": 0.1, "slow": world.rng.random() * 45, "late": 60, "fails": 10}[world.mood])
        if world.mood == "fails" and world.rng.random() < 0.7:
            raise MemoryError("of then")
        return self.scorer.scores(*given)


POLICY = PickerPolicy(
    exploration=Exploration(method="thompson"), quality=QualityRule(conversion_worth=0.01, dismissal_cost=0.1)
)


def ladder(schema, scorer, ads, name, world=None):
    """Two models and the table of the newest, as a device has them; with a world they are hurried."""
    made = world.over(scorer) if world else scorer
    page, clock = page_scorer(Encoder(schema, ads), scorer, ads), world and world.clock
    page = world.over(page) if world else page
    return Picker(
        schema, made, ads, 1.0, POLICY, name, previous=Ranker(schema, made, 1.0, "before"), page=page, clock=clock
    )


def taste(device):
    """What the person came to like, by the number of the device."""
    rng = np.random.default_rng(device)
    arms = tuple(Arm(f"cat:{1000 + n}", float(rng.normal()), 0.2, 1) for n in range(1, 600, 3))
    return Posterior(updates=1, arms=arms)


def lives(market, build, persons, world):
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
            at = Occasion(
                build, picker, ads, asked, log, consent, now, controls, float(rng.random()), POLICY, taste(device)
            )
            world.turn()
            decision = at.pick()
            lines += encode_trace(traced(at, decision, SECRET))
            if decision.winner:
                shown = decision.winner
                features = ads.ads[ads.place[shown.crid]].features
                log = log.appended(Event(now.astimezone(UTC), "impression", shown.crid, shown.cid, features))
                if rng.random() < 0.2:
                    log = log.appended(Event(now.astimezone(UTC), "click", shown.crid, shown.cid, features))
        yield device, lines, encode_log(log.events)


def replayed(market, build, written):
    """What replaying all of it comes to, from bytes and with a picker of its own."""
    ads = decode_catalogue(catalogue_json(market))
    picker = build(ads)
    for device, lines, log in written:
        events = decode_log(log)
        for trace in decode_traces(lines):
            yield trace, replay(trace, ads, build, events, SECRET, POLICY, picker, taste(device))


def held(market, build, again, persons, world):
    """How many decisions there were, of which fallback, and how many were drawn; all replay identically."""
    found = list(replayed(market, again, lives(market, build, persons, world)))
    wrong = [(trace.request.id, one.sentence) for trace, one in found if not one.identical or one.changed]
    assert wrong == []
    drawn = sum(trace.outcome.propensity < 0.5 for trace, _ in found)
    return len(found), Counter(trace.outcome.fallback for trace, _ in found), drawn


def test_every_decision_of_some_lives_replays_identically():
    market, world = KnownMarket(), Hurried()
    decisions, steps, drawn = held(
        market,
        lambda ads: ladder(market.schema, Linear(), ads, "linear", world),
        lambda ads: ladder(market.schema, Linear(), ads, "linear"),
        60,
        world,
    )
    assert decisions == 60 * VISITS
    assert steps["model"] > 150
    assert steps.keys() >= {"previous", "contextual", "rotation"}
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

    def loaded(world=None):
        trust = Trust((load_public_key(tmp_path / "run" / "signing.pub.pem"),))
        model = believed((tmp_path / "run" / "bundle.svb").read_bytes(), trust, datetime.now(UTC), runtime)
        return lambda ads: ladder(model.bundle.schema, model.scorer, ads, model.digest, world)

    world = Hurried()
    decisions, steps, drawn = held(market, loaded(world), loaded(), 2_000, world)
    print(f"{decisions} decisions, {dict(steps)}, {drawn} drawn with less than one half")
    assert decisions == 10_000
    assert steps["model"] > 5_000
    assert min(steps["previous"], steps["contextual"], steps["rotation"]) > 50
    assert drawn > 100
