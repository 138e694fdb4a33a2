"""A coordinator's metrics for Prometheus, on two pages: one that tells nothing about cohorts, and a restricted one.

Against an outsider, epsilon counts on secret cohorts. Where a node is a phone, the number of replies in a round is the
size of its cohort, and bytes and waiting time follow it; two scrapes around a round tell it exactly. So whatever
depends on who was drawn is named `sottovoce_restricted_...` and is on a page of its own, which is off unless asked for.
Rounding would not help: who knows everybody else's part learns the last device's from the step of a rounded figure.
"""

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cryptography import x509
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sottovoce.privacy.conformance_noise import noise_size
from sottovoce.privacy.entropy import OsSource
from sottovoce.privacy.noise import gaussian
from sottovoce.server.ledger_look import LedgerLook
from sottovoce.server.observer import DRAWN, OUTCOMES, PHASES, Phase, Traffic, Unobserved

NOISE_ALARM = 1e-9
"""Chance with which the noise self-check fails over sound noise; at one check a round, once in a billion rounds."""

_DRAWS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What is looked at besides the rounds.

    Attributes:
        ledger: looks at the ledger.
        folder: of the run, for free space and checkpoints.
        rounds: planned.
        overdue_s: longest time between two rounds before the next one is overdue, in seconds.
        certificates: PEM files whose expiry is told.
        wall: seconds since 1970.
    """

    ledger: Callable[[], LedgerLook]
    folder: Path
    rounds: int
    overdue_s: float
    certificates: Sequence[Path] = ()
    wall: Callable[[], float] = time.time


class RunMetrics(Unobserved):
    """A `RoundObserver` that counts.

    Attributes:
        open: registry of the page that tells nothing about cohorts.
        restricted: registry of the page that does.
        nodes: enrolled; 0 before.
        last_s: when the last round was released, or when this was made; seconds since 1970.
    """

    def __init__(self, watched: Watched) -> None:
        self.open = CollectorRegistry(auto_describe=False)
        self.restricted = CollectorRegistry(auto_describe=False)
        self.watched = watched
        self.nodes = 0
        self.last_s = watched.wall()
        self._rounds = Counter(
            "sottovoce_rounds", "Rounds since the start, by outcome.", ["outcome"], registry=self.open
        )
        self._phases = Counter(
            "sottovoce_phase_seconds",
            "Seconds by phase; those that depend on public sizes only.",
            ["phase"],
            registry=self.open,
        )
        self._round = Gauge("sottovoce_round", "Last round that is in the model.", registry=self.open)
        self._last = Gauge(
            "sottovoce_last_round_timestamp_seconds", "When a round was last released.", registry=self.open
        )
        self._devices = Gauge("sottovoce_devices_enrolled", "Devices enrolled; a public number.", registry=self.open)
        self._nodes = Gauge("sottovoce_nodes_enrolled", "Nodes that told whom they host.", registry=self.open)
        self._left_out = Gauge("sottovoce_nodes_left_out", "Nodes connected that enrolled nobody.", registry=self.open)
        self._noise = Gauge(
            "sottovoce_noise_self_check_ok", "1 while fresh noise has the promised size.", registry=self.open
        )
        self._replies = Counter(
            "sottovoce_restricted_replies", "Replies by outcome.", ["outcome"], registry=self.restricted
        )
        self._bytes = Counter(
            "sottovoce_restricted_bytes", "Bytes of arrays by direction.", ["direction"], registry=self.restricted
        )
        self._drawn = Counter(
            "sottovoce_restricted_phase_seconds",
            "Seconds of the phases that depend on the cohort.",
            ["phase"],
            registry=self.restricted,
        )
        for outcome in ("released", "skipped"):
            self._rounds.labels(outcome)
        for reply in OUTCOMES:
            self._replies.labels(reply)
        for direction in ("sent", "received"):
            self._bytes.labels(direction)
        for phase in PHASES:
            (self._drawn if phase in DRAWN else self._phases).labels(phase)
        self._last.set(math.nan)
        self._noise.set(noise_holds())
        self.open.register(_Surroundings(watched, lambda: bool(self.nodes)))

    def enrolled(self, nodes: int, devices: int, left_out: int) -> None:
        """Note the population."""
        self.nodes = nodes
        self._nodes.set(nodes)
        self._devices.set(devices)
        self._left_out.set(left_out)

    def answered(self, round: int, traffic: Traffic) -> None:  # noqa: ARG002 - the protocol's signature
        """Count on the restricted page."""
        for outcome, count in traffic.replies.items():
            self._replies.labels(outcome).inc(count)
        self._bytes.labels("sent").inc(traffic.sent)
        self._bytes.labels("received").inc(traffic.received)

    def released(
        self,
        round: int,
        seconds: Mapping[Phase, float],
        ledger_rows: int,  # noqa: ARG002 - the protocol's signature
    ) -> None:
        """Count, and check the noise."""
        self.last_s = self.watched.wall()
        self._rounds.labels("released").inc()
        self._round.set(round)
        self._last.set(self.last_s)
        for phase, spent in seconds.items():
            (self._drawn if phase in DRAWN else self._phases).labels(phase).inc(spent)
        self._noise.set(noise_holds())

    def skipped(self, round: int, why: str) -> None:  # noqa: ARG002 - the protocol's signature
        """Count."""
        self._rounds.labels("skipped").inc()


def noise_holds(draw: Callable[[int], Sequence[float]] | None = None) -> bool:
    """Whether fresh noise of the operating system's generator has the standard deviation asked for; some milliseconds.

    Args:
        draw: gives so many draws of standard normal noise.
    """
    import numpy as np

    noise = gaussian(OsSource(), _DRAWS, 1.0) if draw is None else np.asarray(draw(_DRAWS))
    return noise_size(noise[None, :], NOISE_ALARM).passed


class _Surroundings(Collector):
    """What is looked up when somebody asks: ledger, disk, clock, certificates."""

    def __init__(self, watched: Watched, begun: Callable[[], bool]) -> None:
        self._watched, self._begun = watched, begun

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures of this moment; those that cannot be had are left out, so that an alarm on absence sees it."""
        watched = self._watched
        seen = watched.ledger()
        # A new run makes its ledger before it asks who is there; until then its absence is no alarm.
        if self._begun() or not seen.problem:
            yield _gauge("sottovoce_ledger_ok", "1 while every row of the ledger is as written.", not seen.problem)
        if not seen.problem:
            yield _gauge("sottovoce_ledger_rows", "Length of the ledger's chain.", seen.rows)
            yield _gauge("sottovoce_ledger_last_row_timestamp_seconds", "Time in the last debit.", seen.last_row_s)
            yield _gauge("sottovoce_epsilon_budget", "Epsilon that the campaign may spend.", seen.budget)
            yield _gauge("sottovoce_epsilon_cross_check_ok", "1 while independent accountants agree.", seen.agree)
            spent = GaugeMetricFamily("sottovoce_epsilon_spent", "Epsilon spent, by observer.", labels=["observer"])
            spent.add_metric(["outsider"], seen.outsider)
            spent.add_metric(["knows_cohorts"], seen.knows_cohorts)
            yield spent
        yield _gauge("sottovoce_rounds_planned", "Rounds of the plan.", watched.rounds)
        yield _gauge("sottovoce_round_overdue_seconds", "After so long a round is overdue.", watched.overdue_s)
        yield _gauge("sottovoce_clock_timestamp_seconds", "Clock of the coordinator.", watched.wall())
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(watched.folder).free
            yield _gauge("sottovoce_folder_free_bytes", "Free space for the run.", free)
        newest = max((path.name for path in watched.folder.glob("checkpoints/round-*.safetensors")), default=None)
        if newest is not None:
            number = newest.removeprefix("round-").removesuffix(".safetensors")
            if number.isdigit():
                yield _gauge("sottovoce_checkpoint_round", "Round of the newest checkpoint on disk.", int(number))
        expiry = GaugeMetricFamily(
            "sottovoce_certificate_expires_timestamp_seconds", "End of a certificate.", labels=["certificate"]
        )
        for file in watched.certificates:
            end = expires(file)
            if end is not None:
                expiry.add_metric([file.name], end)
        yield expiry
        about = GaugeMetricFamily("sottovoce_info", "Always 1; which software runs.", labels=["version"])
        about.add_metric([version("sottovoce")], 1)
        yield about


def expires(file: Path) -> float | None:
    """When the first certificate in a PEM file of a chain ends, seconds since 1970; None where none can be read."""
    try:
        chain = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError):
        return None
    return min(one.not_valid_after_utc.timestamp() for one in chain)


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, value=float(value))
