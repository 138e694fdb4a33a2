"""What the runs of a sweep come to: each by itself, and each setting over its seeds."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from sottovoce.simulations.metrics import Metrics
from sottovoce.simulations.sweep import Setting

CONFIDENCE = 0.95


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one finished run came to.

    Attributes:
        run: name of its folder.
        setting: number of its setting.
        seed: of the run.
        metrics: on the held-out rows.
        rounds: in the model.
        seconds: of training, all sittings together.
        noise_multiplier: of its mechanism; 0 without noise.
        experiment_sha256: of its `experiment.toml`.
        notes: what the run says about itself: rounds that were refused, checkpoints that were passed over.
    """

    run: str
    setting: int
    seed: int
    metrics: Metrics
    rounds: int
    seconds: float
    noise_multiplier: float
    experiment_sha256: str
    notes: tuple[str, ...] = ()


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A setting over its seeds: means, and how far `primary` spreads.

    Attributes:
        setting: its number.
        label: in words.
        epsilon: None without noise.
        choice: what else it sets.
        seeds: finished runs.
        primary: mean.
        low: lower end of the 95 % confidence interval of that mean; None for fewer than two runs.
        high: its upper end.
        least: smallest `primary` of one run.
        most: largest.
        auc: mean, like the others below.
        gauc: mean.
        ndcg_at_5: mean. JSON key `ndcg@5`.
        log_loss: mean, in nats.
        seconds: mean, of training.
    """

    setting: int
    label: str
    epsilon: float | None
    choice: dict[str, Any]
    seeds: int
    primary: float
    low: float | None
    high: float | None
    least: float
    most: float
    auc: float
    gauc: float
    ndcg_at_5: float = msgspec.field(name="ndcg@5")
    log_loss: float
    seconds: float


def summary(settings: Iterable[Setting], outcomes: Sequence[Outcome]) -> list[Line]:
    """One line for every setting with a finished run, in the order of `settings`."""
    lines = []
    for setting in settings:
        own = [outcome for outcome in outcomes if outcome.setting == setting.number]
        if not own:
            continue
        primary = [outcome.metrics.primary for outcome in own]
        low, high = confidence(primary)
        lines.append(
            Line(
                setting=setting.number,
                label=setting.label,
                epsilon=setting.epsilon if math.isfinite(setting.epsilon) else None,
                choice=dict(setting.choice),
                seeds=len(own),
                primary=statistics.fmean(primary),
                low=low,
                high=high,
                least=min(primary),
                most=max(primary),
                auc=statistics.fmean(outcome.metrics.auc for outcome in own),
                gauc=statistics.fmean(outcome.metrics.gauc for outcome in own),
                ndcg_at_5=statistics.fmean(outcome.metrics.ndcg_at_5 for outcome in own),
                log_loss=statistics.fmean(outcome.metrics.log_loss for outcome in own),
                seconds=statistics.fmean(outcome.seconds for outcome in own),
            )
        )
    return lines


def confidence(values: Sequence[float], level: float = CONFIDENCE) -> tuple[float | None, float | None]:
    """The confidence interval of a mean by Student t; None twice for fewer than two values.

    It says how far training runs differ on these held-out rows, by initial weights, cohorts and noise; not how far
    other devices would move the figure: see `bootstrap`.
    """
    if len(values) < 2:
        return None, None
    from scipy.stats import t

    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half
