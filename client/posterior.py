"""What a device knows about its owner's taste for each kind of ad: one normal belief for each arm.

An arm is a campaign's first category, or the campaign where it has none. A person sees a few dozen ads a month: spread
over creatives that is one or two each, from which nothing can be learnt, and creatives come and go. A category is seen
often enough, and a new creative profits at once from what its category taught. The belief is about the offset of the
click logit to what the model says; the model itself knows how creatives differ.

An update takes the impressions since the last one. It finds, for each arm, the offset at the peak of belief times
likelihood by Newton's method, and the curvature there becomes the new precision (Laplace's approximation). The order
of impressions within one update does not matter. Splitting them over several updates does, slightly: each starts from
a belief that is normal again. One update of an empty posterior with all impressions of the log depends on nothing but
the log, and forgets with it what the person deletes.

Never leaves the device. Reset and export belong to the store, which keeps `encode`d bytes.

Source: Chapelle and Li 2011, "An Empirical Evaluation of Thompson Sampling", NeurIPS, algorithm 3.
"""

from collections.abc import Collection, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from sottovoce.client.catalogue import Campaign
from sottovoce.client.personal import LARGEST_STEP, NEWTON_STEPS, Floats, logit, sigmoid
from sottovoce.privacy.errors import DeviceError

MAX_ARMS = 256
"""Most arms that are kept; those seen longest ago go first, equal ones by their name."""

PRIOR_VARIANCE = 0.25
"""Of the offsets before anything is seen, where neither bundle nor policy says: one person's odds of clicking a kind of
ad lie between 0.37 and 2.7 times what the model says, nineteen times in twenty."""


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A belief about one arm.

    Attributes:
        name: category or campaign.
        mean: expected offset of the click logit.
        variance: of it.
        last: number of the update that saw it last.
    """

    name: Annotated[str, Meta(min_length=1, max_length=136)]
    mean: Annotated[float, Meta(ge=-50, le=50)]
    variance: Annotated[float, Meta(gt=0, le=100)]
    last: Annotated[int, Meta(ge=0, le=2**53)]


class Posterior(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All beliefs of one device.

    Attributes:
        version: of this format.
        updates: how often it was updated.
        arms: by name, each once; the others are as unknown as the prior says.
    """

    version: Literal[1] = 1
    updates: Annotated[int, Meta(ge=0, le=2**53)] = 0
    arms: Annotated[tuple[Arm, ...], Meta(max_length=MAX_ARMS)] = ()

    def beliefs(
        self, names: Sequence[str], prior_variance: float = PRIOR_VARIANCE
    ) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
        """Number, mean and variance for each name; equal names have equal numbers.

        Args:
            names: (n,) arms of the candidates.
            prior_variance: of an arm that was never seen.
        """
        known = {arm.name: (arm.mean, arm.variance) for arm in self.arms}
        number: dict[str, int] = {}
        arm = np.array([number.setdefault(name, len(number)) for name in names], np.int64)
        found = np.array([known.get(name, (0.0, prior_variance)) for name in names], np.float64).reshape(-1, 2)
        return arm, found[:, 0], found[:, 1]

    def kept(self, names: Collection[str]) -> "Posterior":
        """Without the arms that no campaign of the catalogue has any more."""
        return msgspec.structs.replace(self, arms=tuple(arm for arm in self.arms if arm.name in names))


class Shown(NamedTuple):
    """One impression whose outcome is known.

    Attributes:
        arm: of the ad.
        chance: P(click) by the model when it was shown, without this posterior's offset.
        clicked: whether it was.
    """

    arm: str
    chance: float
    clicked: bool


def arm_of(campaign: Campaign) -> str:
    """The arm of a campaign's ads."""
    return f"cat:{campaign.cat[0]}" if campaign.cat else f"cid:{campaign.cid}"


def updated(posterior: Posterior, shown: Sequence[Shown], prior_variance: float = PRIOR_VARIANCE) -> Posterior:
    """The posterior after these impressions; those whose chance is no probability are passed over.

    Args:
        posterior: before.
        shown: each impression in one update only, in any order.
        prior_variance: of an arm that is new, above 0 and at most 100.

    Raises:
        ValueError: `prior_variance` is out of range.
    """
    if not 0 < prior_variance <= 100:
        raise ValueError(f"a prior variance lies above 0 and at most at 100, got {prior_variance}")
    # Sorted, since floating-point sums depend on their order.
    rows = sorted(one for one in shown if 0.0 <= one.chance <= 1.0)
    if not rows:
        return posterior
    known = {arm.name: arm for arm in posterior.arms}
    names = sorted({one.arm for one in rows})
    number = {name: place for place, name in enumerate(names)}
    before = [known.get(name, Arm(name, 0.0, prior_variance, 0)) for name in names]
    owner = np.array([number[one.arm] for one in rows])
    odds = logit(np.array([one.chance for one in rows]))
    clicked = np.array([one.clicked for one in rows], np.float64)
    mean, variance = _peak(
        np.array([arm.mean for arm in before]), np.array([arm.variance for arm in before]), odds, clicked, owner
    )
    update = posterior.updates + 1
    fresh = map(Arm, names, mean.tolist(), variance.tolist(), [update] * len(names))
    arms = sorted([*(arm for arm in posterior.arms if arm.name not in number), *fresh], key=_newest)[:MAX_ARMS]
    return Posterior(updates=update, arms=tuple(sorted(arms, key=lambda arm: arm.name)))


def _newest(arm: Arm) -> tuple[int, str]:
    return -arm.last, arm.name


def _peak(
    mean: Floats, variance: Floats, odds: Floats, clicked: Floats, owner: npt.NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Peak and inverse curvature of each arm's belief times its likelihood."""
    found = mean.copy()
    for _ in range(NEWTON_STEPS):
        slope, curvature = _slope(found, mean, variance, odds, clicked, owner)
        found += np.clip(slope / curvature, -LARGEST_STEP, LARGEST_STEP)
    np.clip(found, -50.0, 50.0, out=found)
    return found, 1.0 / _slope(found, mean, variance, odds, clicked, owner)[1]


def _slope(
    at: Floats, mean: Floats, variance: Floats, odds: Floats, clicked: Floats, owner: npt.NDArray[np.int64]
) -> tuple[Floats, Floats]:
    likely = sigmoid(odds + at[owner])
    slope = np.bincount(owner, clicked - likely, len(at)) - (at - mean) / variance
    return slope, np.bincount(owner, likely * (1.0 - likely), len(at)) + 1.0 / variance


_decoder = msgspec.msgpack.Decoder(Posterior)


def encode(posterior: Posterior) -> bytes:
    """The posterior as bytes: what `decode` reads."""
    return msgspec.msgpack.encode(posterior)


def decode(data: bytes) -> Posterior:
    """The posterior in `data`.

    Raises:
        DeviceError: not a posterior, or a number out of range.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DeviceError(f"the posterior cannot be read: {error}", "start with an empty one") from error
