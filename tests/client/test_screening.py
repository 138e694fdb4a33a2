"""The rules for a whole catalogue say what the rules for one ad say, whatever the catalogue and the request."""

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from small_market import NOW, ad, campaign, catalogue, request

from sottovoce.client.catalogue import Competitors, DayPart
from sottovoce.client.columns import columns, suffixes
from sottovoce.client.controls import Controls
from sottovoce.client.eligibility import below, refusal
from sottovoce.client.reasons import Loss
from sottovoce.client.request import Banner, Content, Imp, ImpExt, Neighbour, Other, Publisher, Size
from sottovoce.client.screening import screened
from sottovoce.client.situation import Situation

some = st.sampled_from
domains = st.lists(some(["a.example", "A.example", "shop.a.example", "b.example", "example", "..", "a"]), max_size=2)
categories = st.lists(some(["1058", "1097", "1391", "1008"]), max_size=2, unique=True)
attributes = st.lists(st.integers(1, 3), max_size=2).map(tuple)
names = domains.map(tuple)
groups = categories.map(tuple)


@st.composite
def dayparts(draw):
    start = draw(some([0, 719, 720, 1439]))
    days = draw(st.lists(st.integers(0, 6), min_size=1, max_size=3))
    return DayPart(tuple(days), start, draw(st.integers(start + 1, 1440)))


hours = st.integers(-3, 3).map(lambda hour: timedelta(hours=hour))
usual = st.just({})
campaigns = st.one_of(
    usual,
    st.fixed_dictionaries(
        {},
        optional={
            "seat": some(["s1", "s2"]),
            "adomain": names,
            "cat": groups,
            "price": some([0.0, 0.0005, 0.5, 1.0, 1.5]),
            "pricing": some(["cpm", "cpc", "cpa"]),
            "start": hours.map(lambda by: NOW + by - timedelta(hours=4)),
            "end": hours.map(lambda by: NOW + by + timedelta(microseconds=1) if by else NOW),
            "dayparts": st.lists(dayparts(), max_size=2).map(tuple),
            "throttle": some([0.0, 0.5, 1.0]),
            "competitors": st.builds(Competitors, names, groups, some([0, 60])),
        },
    ).filter(lambda drawn: drawn.get("end", NOW + timedelta(days=1)) > drawn.get("start", NOW - timedelta(days=1))),
)
ads = st.fixed_dictionaries(
    {},
    optional={
        "audit": st.integers(1, 6),
        "mtype": st.integers(1, 4),
        "w": some([300, 320]),
        "language": some(["en", "fr-CA", "EN-gb", ""]),
        "attr": attributes,
        "secure": st.integers(0, 1),
        "mrating": st.integers(0, 3),
    },
)
slots = st.none() | st.builds(Other, attributes)
banners = st.none() | st.builds(
    Banner, some([0, 320]), some([0, 50]), some([(), (Size(300, 50),), (Size(300, 50), Size(9, 9))]), attributes
)
imps = st.builds(
    Imp,
    st.just("1"),
    st.just(Banner(320, 50)) | banners,
    slots,
    slots,
    slots,
    some([0.0, 0.5, 1.0]),
    some(["USD", "USD", "EUR"]),
    some([0, 0, 1]),
    st.builds(ImpExt, st.just("page"), st.lists(st.builds(Neighbour, names, groups), max_size=2).map(tuple)),
)
requests = st.fixed_dictionaries(
    {"imp": imps.map(lambda imp: (imp,))},
    optional={
        "id": some(["r1", "r2"]),
        "cur": some([(), ("EUR",), ("USD",)]),
        "app": st.integers(0, 3).map(lambda rating: Publisher(content=Content(qagmediarating=rating))),
        "bcat": groups,
        "cattax": some([8, 8, 9]),
        "badv": names,
        "wlang": some([(), ("EN",), ("fr-FR", "de")]),
    },
)
people = st.builds(
    Controls,
    st.frozensets(some(["a0", "a3", "gone"])),
    st.frozensets(some(["s1", "gone"])),
    st.frozensets(st.tuples(some(["1058", "1097"]), some([8, 9])), max_size=2),
    interests=st.dictionaries(some(["1008"]), some(["more", "less", "never"])),
)


SEEN: set[Loss] = set()
LATER = {
    *(Loss.OUTBID, Loss.UNPRICED, Loss.NOT_ITS_TURN, Loss.UNPAID, Loss.COMPETITOR_BEFORE),
    *(Loss.CAPPED_CREATIVE, Loss.CAPPED_CAMPAIGN, Loss.CAPPED_ADVERTISER, Loss.CAPPED_CATEGORY, Loss.COOLING_DOWN),
}
"""Reasons that come after these rules."""


@settings(max_examples=300, deadline=None)
@given(
    st.lists(campaigns, min_size=1, max_size=4),
    st.lists(st.tuples(ads, st.integers(0, 3)), max_size=8),
    requests,
    st.none() | people,
    st.booleans(),
    st.integers(1, 3),
    some([8, 8, 3]),
)
def test_the_whole_catalogue_is_told_what_each_ad_is_told(plans, drawn, asked, controls, personalised, rating, cattax):
    shop = catalogue(
        tuple(campaign(f"c{n}", **changes) for n, changes in enumerate(plans)),
        tuple(ad(f"a{n}", f"c{of % len(plans)}", **changes) for n, (changes, of) in enumerate(drawn)),
        cattax,
    )
    at = Situation(request(**asked), NOW, personalised, "USD", cattax, controls or Controls(), rating)
    told = [refusal(one, shop.campaign[one.cid], at) for one in shop.ads]
    assert screened(shop, columns(shop), at).tolist() == [no.reason if no else 0 for no in told]
    SEEN.update(no.reason for no in told if no)


def test_the_drawn_catalogues_met_every_rule():
    if SEEN:  # filled by the test above, which another process may have run
        assert set(Loss) - SEEN <= LATER


@given(some(["a.b.c", "a..c", ".a", "a.", "É.example", "a"]), some(["c", "b.c", ".c", "", "a", ".", "é.example"]))
def test_a_domain_is_below_its_suffixes_and_nothing_else(domain, other):
    if other:
        assert below(domain, other) == (other.lower() in suffixes(domain))
