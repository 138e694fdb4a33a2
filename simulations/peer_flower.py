"""The work of `fleet_work` on Flower's own simulation runtime: one device per node, Ray underneath, Flower's own DP.

Flower starts and stops in a process of its own, because Ray belongs to the process that starts it. There are as many
actors as cores. Timed is what a round takes once everything runs: Flower's strategy sends the parameters to every node,
the actors train, the strategy clips, averages and adds noise. Every actor keeps the rows of the devices it has met.

Source: Beutel et al. 2020, arXiv:2007.14390.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from flwr.simulation import run_simulation

from sottovoce.privacy.errors import SottovoceError
from sottovoce.server.deployment import QUIET
from sottovoce.simulations.alone import LoneDevice, descend, open_device
from sottovoce.simulations.fleet_work import ROWS, Total, Work, fleet_work
from sottovoce.simulations.grid import CORES

client_app = ClientApp()
"""What every node runs."""


class FlowerRounds(NamedTuple):
    """What a run of Flower gave.

    Attributes:
        total: sum of the clipped updates of a first round, without noise.
        seconds: wall time of each timed round.
        start_up_s: wall time until the first timed round began: Ray, the actors and the round without noise.
    """

    total: Total
    seconds: list[float]
    start_up_s: float


def flower_rounds(devices: int, rounds: int) -> FlowerRounds:
    """Start Flower, let it do the work and stop it.

    Args:
        devices: the cohort, and the number of nodes.
        rounds: how many to time.

    Raises:
        SottovoceError: Flower or Ray failed.
    """
    with tempfile.TemporaryDirectory(prefix="sottovoce-flower-") as folder:
        out, log = Path(folder, "rounds.npz"), Path(folder, "log")
        program = f"from {__name__} import simulate; simulate({devices}, {rounds}, {str(out)!r}, {time.monotonic()})"
        environment = os.environ | QUIET | {"RAY_USAGE_STATS_ENABLED": "0"}
        code = _alone([sys.executable, "-c", program], environment, log)
        if code or not out.exists():
            last = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise SottovoceError(
                f"Flower's simulation ended with code {code}: {last}",
                "see whether Ray starts on this machine, or leave flower out of --against",
            )
        with np.load(out) as found:
            total = {name: found[name] for name in found.files if name not in ("seconds", "start_up_s")}
            return FlowerRounds(total, found["seconds"].tolist(), float(found["start_up_s"]))


def _alone(command: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    """Run a program with all that it starts in a process group of its own, which ends with it; its exit code."""
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=stream, stderr=stream, start_new_session=True
        ) as child,
    ):
        try:
            return child.wait()
        finally:
            # Ray's helpers outlive a driver that was killed.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def _end_with_the_caller() -> None:
    """The caller holds the other end of standard input: when it is gone, nobody wants these figures."""
    # Not through sys.stdin, whose lock this thread would still hold when the interpreter shuts down.
    while os.read(0, 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def simulate(devices: int, rounds: int, out: str, began: float) -> None:
    """Run Flower's simulation in this process and write `FlowerRounds` to `out`; called in a process of its own.

    Args:
        devices: the cohort.
        rounds: how many to time.
        out: an .npz file.
        began: when the caller began, by `time.monotonic`.
    """
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    # Flower logs a line per device and round, which would be timed.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    work = fleet_work(devices)
    server_app = ServerApp()

    @server_app.main()
    def coordinate(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's signature
        arrays = ArrayRecord(work.parameters)
        summing = _Summing(work)
        _private(summing, work, 0.0).start(grid, arrays, num_rounds=1)
        ends: list[float] = []
        _private(_WholeCohort(devices), work, work.noise_multiplier).start(
            grid, arrays, num_rounds=rounds, evaluate_fn=lambda *_: ends.append(time.monotonic())
        )
        facts = {"seconds": np.diff(ends), "start_up_s": np.array(ends[0] - began)}
        np.savez(out, **facts, **summing.total)  # type: ignore[arg-type]  # numpy's stub takes the names for its own

    run_simulation(
        server_app,
        client_app,
        num_supernodes=devices,
        backend_config={
            "init_args": {"num_cpus": CORES, "num_gpus": 0, "logging_level": logging.ERROR, "log_to_driver": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Local training of one device."""
    number, devices = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    work, device = _opened(devices, number)
    local = descend(message.content.array_records["arrays"].to_torch_state_dict(), device, work.config, work.training)
    content = RecordDict({"arrays": ArrayRecord(local), "metrics": MetricRecord({"num-examples": ROWS})})
    return Message(content, reply_to=message)


class _WholeCohort(FedAvg):
    """FedAvg that asks every node in every round and evaluates on none."""

    def __init__(self, devices: int) -> None:
        super().__init__(
            fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=devices, min_available_nodes=devices
        )


class _Summing(_WholeCohort):
    """It also keeps the sum of the updates that the privacy wrapper has clipped.

    The averaged weights times the cohort would show the same sum, with their float32 rounding multiplied.
    """

    def __init__(self, work: Work) -> None:
        super().__init__(work.devices)
        self._start = {name: value.double().numpy() for name, value in work.parameters.items()}
        self.total = {name: np.zeros(value.shape) for name, value in self._start.items()}

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean, as ever."""
        kept = list(replies)
        for reply in kept:
            for name, array in reply.content.array_records["arrays"].items():
                self.total[name] += array.numpy() - self._start[name]
        return super().aggregate_train(server_round, kept)


def _private(strategy: FedAvg, work: Work, noise_multiplier: float) -> DifferentialPrivacyServerSideFixedClipping:
    return DifferentialPrivacyServerSideFixedClipping(
        strategy, noise_multiplier=noise_multiplier, clipping_norm=work.clip_norm, num_sampled_clients=work.devices
    )


@cache
def _work(devices: int) -> Work:
    torch.set_num_threads(1)
    return fleet_work(devices)


@cache
def _opened(devices: int, number: int) -> tuple[Work, LoneDevice]:
    work = _work(devices)
    return work, open_device(work.examples, number, work.schema, work.training)
