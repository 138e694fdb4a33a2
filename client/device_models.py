"""From the models that a device holds to its picker, and what of the catalogue it may show when events were lost."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from sottovoce.client.bundle_store import BundleStore
from sottovoce.client.catalogue import Catalogue
from sottovoce.client.device_creatives import DeviceCreatives
from sottovoce.client.features import Encoder
from sottovoce.client.ladder import Clock, Ranker
from sottovoce.client.page_scorer import page_scorer
from sottovoce.client.picker import Picker
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.scorer import Scorer
from sottovoce.models.bundle import Bundle
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.privacy.errors import DeviceError, SottovoceError

_NO_MODEL = FeatureSchema(
    features=(Feature(name="none", source="context", buckets=1), Feature(name="no_ad", source="ad", buckets=1))
)
NO_CREATIVES = DeviceCreatives()


def rankers_of(
    bundles: BundleStore, scorer: Callable[[Bundle], Scorer], now: datetime
) -> tuple[list[Ranker], Bundle | None, str]:
    """The models that may serve now, newest first, the bundle of the newest, and what is wrong; raises nothing.

    Args:
        bundles: of the device.
        scorer: loads a bundle's model.
        now: the device's time, with time zone.
    """
    found: list[Ranker] = []
    newest: Bundle | None = None
    note = ""
    try:
        for bundle in bundles.usable(now):
            manifest = bundle.manifest
            name = f"{manifest.model_id} {manifest.version}"
            found.append(Ranker(bundle.schema, scorer(bundle), manifest.personal_variance, name))
            newest = newest or bundle
    except (SottovoceError, OSError) as error:
        note = f"a model cannot be used: {error}"
    if not found:
        note = note or "there is no bundle that can be trusted and used now: ads take turns"
    return found, newest, note


def picker_of(
    models: Sequence[Ranker],
    catalogue: Catalogue,
    policy: PickerPolicy,
    clock: Clock | None = None,
    creatives: DeviceCreatives = NO_CREATIVES,
) -> Picker:
    """The picker over models and catalogue; without a model ads take turns.

    Args:
        models: the newest first, then the last good one.
        catalogue: all ads.
        policy: of the app.
        clock: None times nothing.
        creatives: what may be shown of those with exchangeable parts.
    """
    newest, previous = ([*models, None, None])[:2]
    newest = newest or Ranker(_NO_MODEL, None)
    return Picker(
        newest.schema,
        newest.scorer,
        catalogue,
        newest.personal_variance,
        policy,
        newest.name,
        previous=previous,
        page=_by_page(newest, catalogue),
        creatives=creatives.ready,
        shipped=creatives.shipped,
        clock=clock,
    )


def _by_page(model: Ranker, catalogue: Catalogue) -> Scorer | None:
    """The table of pages that this model makes, asked while it works; None where it does not."""
    if model.scorer is None:
        return None
    try:
        return page_scorer(Encoder(model.schema, catalogue), model.scorer, catalogue)
    except DeviceError:
        return None


def countable(catalogue: Catalogue, since: timedelta) -> Catalogue:
    """The campaigns whose caps look back no further than that, and their ads."""
    campaigns = tuple(
        campaign
        for campaign in catalogue.campaigns
        if all(timedelta(seconds=cap.window_s) <= since for cap in campaign.caps)
    )
    kept = {campaign.cid for campaign in campaigns}
    ads = tuple(ad for ad in catalogue.ads if ad.cid in kept)
    return msgspec.structs.replace(catalogue, campaigns=campaigns, ads=ads)
