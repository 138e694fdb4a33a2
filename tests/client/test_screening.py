"""The rules for a whole catalogue say what the rules for one ad say, whatever the catalogue and the request."""

from datetime import timedelta
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from small_market import NOW, ad, campaign, catalogue, request

from sottovoce.client.catalogue import Competitors, DayPart
from sottovoce.client.columns import columns, suffixes
from sottovoce.client.controls import Controls, Interest
from sottovoce.client.eligibility import below, refusal
from sottovoce.client.reasons import Loss
from sottovoce.client.request import Banner, Content, Imp, ImpExt, Neighbour, Other, Publisher, Size
from sottovoce.client.screening import screened
from sottovoce.client.situation import Situation

DOMAINS = ("a.example", "A.example", "shop.a.example", "b.example", "example", "..", "a")
CATEGORIES = ("1058", "1097", "1391", "1008")


class Draws:
    """Catalogues and requests that differ from the plain ones in a few fields, so that late rules have their turn."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311
        self.one = self.random.choice

    def some(self, names, most=2):
        return tuple(self.random.sample(names, self.random.randint(0, most)))

    def few(self, options, most):
        """At most so many of these fields."""
        return {name: options[name]() for name in self.some(sorted(options), most)}

    def part(self):
        start = self.one([0, 719, 720, 1439])
        return DayPart(self.some(range(7), 3), start, self.random.randint(start + 1, 1440))

    def campaign(self, cid):
        start = NOW + timedelta(hours=self.random.randint(-3, 1))
        options = {
            "seat": lambda: self.one(["s1", "s2"]),
            "adomain": lambda: self.some(DOMAINS),
            "cat": lambda: self.some(CATEGORIES),
            "price": lambda: self.one([0.0, 0.0005, 0.5, 1.0, 1.5]),
            "pricing": lambda: self.one(["cpm", "cpa"]),
            "start": lambda: start,
            "end": lambda: NOW + timedelta(hours=2) if start > NOW else NOW + timedelta(microseconds=self.one([0, 1])),
            "dayparts": lambda: tuple(self.part() for _ in range(2)),
            "throttle": lambda: self.one([0.0, 0.5, 1.0]),
            "competitors": lambda: Competitors(self.some(DOMAINS), self.some(CATEGORIES), 60),
        }
        changes = self.few(options, 3) | self.one([{}, {"competitors": options["competitors"]()}])
        if "end" in changes and changes.get("start") == NOW:
            del changes["end"]
        return campaign(cid, **changes)

    def ad(self, crid, cid):
        options = {
            "audit": lambda: self.random.randint(1, 6),
            "mtype": lambda: self.random.randint(1, 4),
            "w": lambda: 300,
            "language": lambda: self.one(["en", "fr-CA", "EN-gb", ""]),
            "attr": lambda: self.some((1, 2, 3)),
            "secure": lambda: 1,
            "mrating": lambda: self.random.randint(1, 3),
        }
        return ad(crid, cid, **self.few(options, 2))

    def place(self):
        options = {
            "banner": lambda: self.one([None, Banner(), Banner(320, 50, (Size(300, 50),), self.some((1, 2, 3)))]),
            "video": lambda: Other(self.some((1, 2, 3))),
            "native": lambda: Other(self.some((1, 2, 3))),
            "bidfloor": lambda: self.one([0.5, 1.0]),
            "bidfloorcur": lambda: "EUR",
            "secure": lambda: 1,
            "ext": lambda: ImpExt(beside=(Neighbour(self.some(DOMAINS), self.some(CATEGORIES)),) * self.one([1, 2])),
        }
        beside = self.one([{}, {"ext": options["ext"]()}])
        return (Imp(**({"id": "1", "banner": Banner(320, 50)} | self.few(options, 2) | beside)),)

    def request(self):
        options = {
            "imp": self.place,
            "id": lambda: self.one(["r2", "r3"]),
            "cur": lambda: self.one([(), ("EUR",)]),
            "app": lambda: Publisher(content=Content(qagmediarating=self.random.randint(0, 3))),
            "bcat": lambda: self.some(CATEGORIES),
            "cattax": lambda: 8,
            "badv": lambda: self.some(DOMAINS),
            "wlang": lambda: self.one([("EN",), ("fr-FR", "de")]),
        }
        return request(**self.few(options, 4))

    def controls(self):
        return Controls(
            tuple(self.some(("a0", "a3", "a5", "gone"))),
            tuple(self.some(("s1", "gone"))),
            tuple(self.some((("1058", 8), ("1097", 9), ("1097", 8)), 1)),
            interests=(Interest(("1008", 8), self.one(["more", "less", "never"])),),
        )


LATER = {
    *(Loss.OUTBID, Loss.UNPRICED, Loss.NOT_ITS_TURN, Loss.UNPAID, Loss.COMPETITOR_BEFORE),
    *(Loss.LOW_QUALITY, Loss.NOT_WORTH_SHOWING, Loss.NO_COMBINATION),
    *(Loss.CAPPED_CREATIVE, Loss.CAPPED_CAMPAIGN, Loss.CAPPED_ADVERTISER, Loss.CAPPED_CATEGORY, Loss.COOLING_DOWN),
}
"""Reasons that come after these rules."""


def test_the_whole_catalogue_is_told_what_each_ad_is_told_and_every_rule_has_its_turn():
    met = set()

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(st.integers(0, 2**32))
    def agree(seed):
        draws = Draws(seed)
        shop = catalogue(
            tuple(draws.campaign(f"c{n}") for n in range(8)),
            tuple(draws.ad(f"a{n}", f"c{n % 8}") for n in range(16)),
            draws.one([8, 8, 8, 3]),
        )
        controls = draws.one([Controls(), draws.controls()])
        rating = draws.one([3, 3, 1, 2])
        at = Situation(draws.request(), NOW, draws.one([True, False]), "USD", shop.cattax, controls, rating)
        told = [refusal(one, shop.campaign[one.cid], at) for one in shop.ads]
        assert screened(shop, columns(shop), at).tolist() == [no.reason if no else 0 for no in told]
        met.update(no.reason for no in told if no)

    agree()
    assert set(Loss) - met == LATER


@given(
    st.sampled_from(["a.b.c", "a..c", ".a", "a.", "É.example", "a"]),
    st.sampled_from(["c", "b.c", ".c", "a", ".", "é.example", "example"]),
)
def test_a_domain_is_below_its_suffixes_and_nothing_else(domain, other):
    assert below(domain, other) == (other.lower() in suffixes(domain))
