"""Figures from a noisy sum. All of it is post-processing: it costs no privacy, however often it is done.

Each figure comes with its error: the standard deviation that the noise alone gives it, to first order. It does not say
how another population would answer, and clipping, which shrinks the rows of busy devices, is not in it either. A figure
that the noise has drowned is None.
"""

import math
from statistics import NormalDist

import msgspec
import numpy as np
import numpy.typing as npt

from sottovoce.client.question import Floats

DROWNED = 3.0
"""A denominator below so many of its own standard deviations divides nothing."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One number and the standard deviation of the noise in it."""

    value: float
    error: float


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How a model ranks and predicts clicks, from a histogram of its scores.

    Attributes:
        auc: chance that a clicked row scores above one that was not; rows of one bin tie.
        log_loss: mean negative log likelihood in nats, each score taken as the middle of its bin: scores beyond the
            outer edges are clipped there.
        click_rate: share of rows with a click.
        rows: rows in the sum; what clipping took is missing.
    """

    auc: Figure | None
    log_loss: Figure | None
    click_rate: Figure | None
    rows: Figure


class Platt(msgspec.Struct, frozen=True, kw_only=True):
    """A calibration: the calibrated logit is slope * logit + intercept. 1 and 0 change nothing.

    Source: Platt 1999, "Probabilistic outputs for support vector machines", without the prior of its section 2.2.
    """

    slope: Figure
    intercept: Figure


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """Share of devices whose update has a norm of at most `norm`; `share` may lie a little outside 0 ... 1."""

    norm: float
    share: Figure


class Norms(msgspec.Struct, frozen=True, kw_only=True):
    """How long updates are, by rising norm."""

    shares: list[Share]


class Popular(msgspec.Struct, frozen=True, kw_only=True):
    """One ad that was seen often enough to stand out from the noise.

    Attributes:
        ad: its place in the catalogue.
        impressions: in the sum, which clipping makes smaller than the truth; good for comparing ads.
        clicks: likewise.
        click_rate: their ratio.
    """

    ad: int
    impressions: Figure
    clicks: Figure
    click_rate: Figure


class Popularity(msgspec.Struct, frozen=True, kw_only=True):
    """Ads that stand out from the noise, most seen first.

    Attributes:
        ads: those ads.
        least: impressions that an ad needs to stand out.
        catalogue: ads in all.
    """

    ads: list[Popular]
    least: float
    catalogue: int


def middles(edges: Floats) -> Floats:
    """The logit that stands for each of len(edges) + 1 bins; the outer two are as wide as their neighbours."""
    first, last = (edges[1] - edges[0], edges[-1] - edges[-2]) if len(edges) > 1 else (1.0, 1.0)
    ends = np.concatenate([[edges[0] - first], edges, [edges[-1] + last]])
    return np.asarray((ends[1:] + ends[:-1]) / 2)


def quality(total: Floats, edges: Floats, std: float) -> Quality:
    """Quality of a model from the noisy histogram of its scores.

    Args:
        total: as `Question.size` describes, from a `quality` or `calibration` question.
        edges: of the bins, in logits, at least one.
        std: standard deviation of the noise in each cell.
    """
    negative, positive = total[0::2], total[1::2]
    passed, clicked = float(negative.sum()), float(positive.sum())
    rows, spread = passed + clicked, std * math.sqrt(len(negative))
    everything = Figure(value=rows, error=spread * math.sqrt(2))
    auc = log_loss = click_rate = None
    if rows > DROWNED * spread * math.sqrt(2):
        logit = middles(edges)
        losses = np.stack([np.logaddexp(0, logit), np.logaddexp(0, -logit)], 1).ravel()
        log_loss = _ratio(total, losses, std)
        click_rate = _ratio(total, np.tile([0.0, 1.0], len(negative)), std)
    if min(passed, clicked) > DROWNED * spread:
        below = np.cumsum(negative) - negative / 2
        above = clicked - np.cumsum(positive) + positive / 2
        area = float(positive @ below) / (passed * clicked)
        slopes = np.concatenate(
            [(above - area * clicked) / (passed * clicked), (below - area * passed) / (passed * clicked)]
        )
        auc = Figure(value=min(1.0, max(0.0, area)), error=std * float(np.linalg.norm(slopes)))
    return Quality(auc=auc, log_loss=log_loss, click_rate=click_rate, rows=everything)


def _ratio(total: Floats, worth: Floats, std: float) -> Figure:
    """Mean of `worth` over the rows of a histogram."""
    rows = float(total.sum())
    value = float(total @ worth) / rows
    return Figure(value=value, error=std * float(np.linalg.norm((worth - value) / rows)))


def platt(total: Floats, edges: Floats, std: float, steps: int = 50) -> Platt | None:
    """The calibration that fits a noisy histogram best, or None where the noise has drowned all but one bin.

    Bins whose rows do not stand out from the noise are left out, and shares outside 0 ... 1 are moved to its ends: what
    is left is a convex problem with a finite solution.

    Args:
        total: as `Question.size` describes, from a `calibration` question.
        edges: of the bins, in logits.
        std: standard deviation of the noise in each cell.
        steps: of Newton's method, at most.
    """
    negative, positive = total[0::2], total[1::2]
    rows = negative + positive
    seen = rows > max(DROWNED * std * math.sqrt(2), 0.0)
    if seen.sum() < 2:
        return None
    rows, x = rows[seen], np.stack([middles(edges)[seen], np.ones(int(seen.sum()))], 1)
    clicked = np.clip(positive[seen], 0.0, rows)
    if not 0 < clicked.sum() < rows.sum():
        return None
    found, curvature = np.array([1.0, 0.0]), np.eye(2)
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-np.clip(x @ found, -50, 50)))
        curvature = (x * (rows * chance * (1 - chance))[:, None]).T @ x
        if not np.isfinite(curvature).all() or np.linalg.cond(curvature) > 1e12:
            return None
        move = np.linalg.solve(curvature, x.T @ (clicked - rows * chance))
        found = found + np.clip(move, -1.0, 1.0)
        if np.abs(move).max() < 1e-10:
            break
    else:
        return None
    chance = 1 / (1 + np.exp(-np.clip(x @ found, -50, 50)))
    # A click more in a bin pulls by 1 - chance, a row without one by -chance.
    pull = np.concatenate([x * (1 - chance)[:, None], x * -chance[:, None]])
    errors = std * np.linalg.norm(np.linalg.solve(curvature, pull.T), axis=1)
    slope, intercept = (Figure(value=float(v), error=float(e)) for v, e in zip(found, errors, strict=True))
    return Platt(slope=slope, intercept=intercept)


def norms(total: Floats, marks: Floats, std: float, expected: float) -> Norms:
    """Share of devices whose update has a norm of at most each mark.

    A device that did not answer counts as half below and half above: its zero is what the noise hides it among.

    Args:
        total: from a `clip` question.
        marks: norms.
        std: standard deviation of the noise in each number.
        expected: devices of an average cohort, a public number; never how many answered.
    """
    return Norms(
        shares=[
            Share(norm=float(mark), share=Figure(value=0.5 + float(votes) / expected, error=std / expected))
            for mark, votes in zip(marks, total, strict=True)
        ]
    )


def popularity(total: Floats, std: float, false_alarms: float = 0.05) -> Popularity:
    """Impressions and click rates of the ads that stand out from the noise.

    Args:
        total: from a `popularity` question.
        std: standard deviation of the noise in each number.
        false_alarms: chance that the list holds any ad that nobody saw.
    """
    seen, clicks = total[0::2], total[1::2]
    least = max(0.0, std * NormalDist().inv_cdf(1 - false_alarms / max(1, len(seen))))
    shown: npt.NDArray[np.int64] = np.flatnonzero(seen > least)
    found = []
    for ad in shown[np.argsort(-seen[shown], kind="stable")]:
        rate = float(clicks[ad] / seen[ad])
        error = std * math.hypot(1.0, rate) / float(seen[ad])
        found.append(
            Popular(
                ad=int(ad),
                impressions=Figure(value=float(seen[ad]), error=std),
                clicks=Figure(value=float(clicks[ad]), error=std),
                click_rate=Figure(value=min(1.0, max(0.0, rate)), error=error),
            )
        )
    return Popularity(ads=found, least=least, catalogue=len(seen))
