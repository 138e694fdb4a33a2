"""A whole device in a folder that can be opened again and again, with six ads and every consent."""

from datetime import timedelta

import msgspec
from bundle_line import KEY, NOW, RUNTIMES, scorer_of, version

from sottovoce.client.bundle_store import BundleStore
from sottovoce.client.catalogue import Ad, Campaign, Cap, Catalogue
from sottovoce.client.device import BUNDLES, Device
from sottovoce.client.keystore import FileKeystore
from sottovoce.client.request import Banner, Imp, Publisher, Request, RequestExt
from sottovoce.models.trust import Trust

DAY = timedelta(days=1)
ALL = msgspec.json.encode(
    {"IABTCF_gdprApplies": 1, "IABTCF_PurposeConsents": "11111111111", "IABTCF_PolicyVersion": 5, "gpc": False}
)
NONE = ALL.replace(b"11111111111", b"01000000000")
CATEGORIES = ("1058", "1097", "1529")


def catalogue(ads=6, most=2, window_s=86_400, house=False):
    caps = (Cap(level="creative", event="impression", max=most, window_s=window_s),) if most else ()
    campaigns = [
        Campaign(
            cid=f"c{n}",
            seat=f"s{n}",
            adomain=(f"s{n}.example",),
            cat=(CATEGORIES[n % 3],),
            price=1.0,
            pricing="cpc",
            start=NOW - 400 * DAY,
            end=NOW + 4000 * DAY,
            caps=caps,
        )
        for n in range(ads)
    ]
    made = [Ad(crid=f"a{n}", cid=f"c{n}", mtype=1, w=320, h=50, audit=3, features={"ad": n}) for n in range(ads)]
    if house:
        campaigns.append(msgspec.structs.replace(campaigns[0], cid="own", seat="own", price=0.0, caps=()))
        made.append(msgspec.structs.replace(made[0], crid="house", cid="own"))
    return Catalogue(version=1, cur="USD", cattax=8, campaigns=tuple(campaigns), ads=tuple(made))


def page(number=0, category="483", hour=1):
    return Request(
        id=f"r{number}",
        imp=(Imp(id="1", banner=Banner(w=320, h=50)),),
        cur=("USD",),
        app=Publisher(bundle="news.example", cat=(category,), cattax=9),
        ext=RequestExt({"hour": hour, "device_class": "tablet", "secret": "x"}),
    )


class Phone:
    """A folder that can be opened again and again."""

    def __init__(self, folder, scorer=scorer_of):
        self.folder, self.scorer = folder, scorer

    def open(self, now=NOW, **changes):
        bundles = BundleStore(self.folder / BUNDLES, Trust((KEY.public_key(),)), RUNTIMES, self.scorer)
        key = FileKeystore(self.folder / "key")
        return Device(self.folder, bundles, key, now, lambda: 0.5, scorer=self.scorer, **changes)


def filled(folder, **changes):
    """A phone with model, catalogue and every consent; `changes` are those of the catalogue."""
    made = Phone(folder)
    device = made.open()
    device.take_bundle(version(1), NOW)
    device.take_catalogue(msgspec.json.encode(catalogue(**changes)), NOW)
    device.allow(ALL)
    device.close()
    return made


def live(device, now, number=0, click=False, **changes):
    """Open a page, see its ad, and click it a minute later or not; the decision."""
    decision = device.pick(page(number, **changes), now)
    device.happened("impression", decision, now)
    if click:
        device.happened("click", decision, now + timedelta(minutes=1))
    return decision
