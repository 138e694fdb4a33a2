"""Which combination is shown this time: Thompson sampling whose probabilities are known exactly.

Thompson sampling draws one set of weights from the posterior and shows what is best under it. Here it draws from
`DRAWS` sets of standard normals, which the request's id picks from a fixed table, so that no combination is favoured by
the table in the long run. The chance of a combination is then a count, and with the uniform share,

    propensity = epsilon / C + (1 - epsilon) * (sets under which it is best) / DRAWS,

is what the device really does and not an estimate of it. One uniform number picks. Scores are only added and
multiplied, in one order, so any machine counts alike.

Source: Thompson (1933); Chapelle and Li (2011), "An Empirical Evaluation of Thompson Sampling".
"""

import hashlib
from collections.abc import Collection
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from sottovoce.client.combination import Showable
from sottovoce.client.combination_posterior import Posterior, learned
from sottovoce.client.creative import MAX_COMPONENTS, MAX_SLOTS, Parts
from sottovoce.client.scorer import said

DRAWS = 256
TABLE_ROWS = MAX_SLOTS * MAX_COMPONENTS
CATEGORY_BUCKETS = 32


class Moment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the choice may look at besides what was learned. It says where and when, never who.

    Attributes:
        category: of the screen, a first-level content category; empty when not known, and on sensitive pages.
        hour: of the device's local day.
        weekend: Saturday or Sunday.
        connection: AdCOM connection type; 0 when not known.
    """

    category: Annotated[str, Meta(max_length=128)] = ""
    hour: Annotated[int, Meta(ge=0, le=23)] = 0
    weekend: bool = False
    connection: Annotated[int, Meta(ge=0, le=7)] = 0

    @property
    def features(self) -> tuple[str, ...]:
        """Few and coarse: the screen in 32 buckets, eight times of the week, three kinds of connection."""
        part = "w" if self.weekend else "d"
        line = "unknown" if self.connection == 0 else "fixed" if self.connection <= 2 else "mobile"
        bucket = hashlib.sha256(self.category.encode()).digest()[0] % CATEGORY_BUCKETS
        screen = (f"c{bucket}",) if self.category else ()
        return (*screen, f"t{part}{self.hour // 6}", f"n{line}")


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is shown, and enough to weigh it later.

    Attributes:
        crid: the creative.
        parts: "slot/component" in the order of the template; empty shows the ad as the catalogue has it.
        level: "bandit"; "first", the first combination that may be shown; or "plain", none may.
        fault: why it is not "bandit"; empty when it is.
        propensity: probability with which this was shown, given everything but the draw.
        among: how many combinations there were.
        draw: the uniform number that picked.
    """

    crid: str
    parts: Parts
    level: Literal["bandit", "first", "plain"]
    fault: str
    propensity: float
    among: int
    draw: float


def warm() -> None:
    """Make the table of normals, some 20 ms, when the app starts and not at the first ad."""
    _normals()


def choose(
    ready: Showable,
    posterior: Posterior,
    moment: Moment,
    now: datetime,
    draw: float,
    languages: Collection[str] = (),
    salt: str = "",
) -> Choice:
    """The combination to show; deterministic, and never raises.

    Args:
        ready: what may be shown.
        posterior: this device's, or the shipped one when nothing personal may be used.
        moment: where and when.
        now: with time zone; outside the time for which `ready` holds nothing of it is shown.
        draw: uniform in [0, 1).
        languages: that the page takes, BCP 47; empty takes all.
        salt: the request's id; it says which normals are used, so it must not depend on the person.
    """
    crid = ready.creative.crid
    try:
        if ready.reason is not None:
            return Choice(crid, (), "plain", ready.reason, 1.0, 0, draw)
        if not ready.since <= now < ready.until:
            return Choice(crid, (), "plain", "an approval does not hold at this time", 1.0, 0, draw)
        fit = _fitting(ready, languages)
    except Exception as error:  # an ad is always answered; whatever is wrong is named
        return Choice(crid, (), "plain", said(error), 1.0, 0, draw)
    if not fit:
        return Choice(crid, (), "plain", "no combination is in a language of the page", 1.0, 0, draw)
    first = ready.combinations[fit[0]]
    try:
        chances = propensities(ready, posterior, moment.features, fit, salt)
        if not 0 <= draw < 1:
            return Choice(crid, first, "first", f"draw {draw} is not in [0, 1)", 1.0, len(fit), draw)
        place = min(int(np.searchsorted(np.cumsum(chances), draw, side="right")), len(fit) - 1)
    except Exception as error:
        return Choice(crid, first, "first", said(error), 1.0, len(fit), draw)
    return Choice(crid, ready.combinations[fit[place]], "bandit", "", float(chances[place]), len(fit), draw)


def propensities(
    ready: Showable, posterior: Posterior, features: tuple[str, ...], fit: list[int], salt: str = ""
) -> npt.NDArray[np.float64]:
    """(fit,) probability of each combination; they sum to 1.

    Args:
        ready: what may be shown.
        posterior: beliefs.
        features: of the moment.
        fit: places in `ready.combinations`.
        salt: the request's id.

    Raises:
        ValueError: the posterior gives no finite scores.
    """
    used, places = ready.rows
    start = int.from_bytes(hashlib.sha256(salt.encode()).digest()[:4], "big")
    rows = (start + np.arange(len(used))) % TABLE_ROWS
    beliefs = np.array([posterior.score(ready.digests[part], features) for part in used])
    if not np.isfinite(beliefs).all() or (beliefs[:, 1] < 0).any():
        raise ValueError("the posterior holds no finite beliefs")
    sampled = beliefs[:, :1] + np.sqrt(beliefs[:, 1:]) * _normals()[rows]
    chosen = places[fit]
    scores = sampled[chosen[:, 0]]
    for column in range(1, chosen.shape[1]):
        scores += sampled[chosen[:, column]]
    wins = np.bincount(np.argmax(scores, axis=0), minlength=len(fit))
    return ready.epsilon / len(fit) + (1 - ready.epsilon) * wins / DRAWS


def learn(posterior: Posterior, ready: Showable, choice: Choice, moment: Moment, clicked: bool) -> Posterior:
    """The belief after what was chosen was shown; a plain creative teaches nothing.

    Args:
        posterior: before.
        ready: from which the choice was made.
        choice: what was shown.
        moment: where and when.
        clicked: what came of it.
    """
    digests = [ready.digests[part] for part in choice.parts if part in ready.digests]
    return learned(posterior, digests, moment.features, clicked) if digests else posterior


def _fitting(ready: Showable, languages: Collection[str]) -> list[int]:
    wanted = {tag.lower().split("-")[0] for tag in languages}
    return [place for place, tag in enumerate(ready.languages) if not wanted or not tag or tag in wanted]


@lru_cache(maxsize=1)
def _normals() -> npt.NDArray[np.float64]:
    """(TABLE_ROWS, DRAWS) standard normals from a hash, rounded so that every machine has the same.

    Source: Box and Muller (1958).
    """
    stream = hashlib.shake_256(b"sottovoce combination choice").digest(TABLE_ROWS * DRAWS * 16)
    uniform = (np.frombuffer(stream, "<u8").reshape(TABLE_ROWS, DRAWS, 2) >> np.uint64(11)) * 2.0**-53
    radius = np.sqrt(-2 * np.log1p(-uniform[..., 0]))
    normals: npt.NDArray[np.float64] = np.round(radius * np.cos(2 * np.pi * uniform[..., 1]), 6)
    normals.setflags(write=False)
    return normals
