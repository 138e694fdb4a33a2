"""The app that Flower's own runtimes start: `flwr run . --run-config 'experiment="exp.toml" out="runs/x"'`.

Same coordinator, same nodes, same numbers as on the in-process grid. Every node needs this package installed: Flower's
app bundle only names the two objects below. Flower's own programs read FLWR_TELEMETRY_ENABLED when they start, before
this module: export it as 0.
"""

import os
from functools import cache
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from sottovoce.client import app as node
from sottovoce.privacy.errors import ConfigError, SottovoceError
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.experiment import Experiment, compose
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.loading import load, partition
from sottovoce.simulations.node_keys import simulated_member
from sottovoce.simulations.operating import Operations, operated
from sottovoce.simulations.results import finish
from sottovoce.simulations.run import train


@cache
def _opened(experiment: str) -> tuple[Experiment, Dataset]:
    """The experiment and its data, once per process: every node of a worker shares them."""
    settings = compose(Path(experiment), ())
    return settings, load(settings.data, None, os.environ.get("SOTTOVOCE_DATA"))


@cache
def _hosted(experiment: str, number: int, of: int) -> node.Node:
    settings, dataset = _opened(experiment)
    share, later = partition(dataset.train, number, of), partition(dataset.valid, number, of)
    member = simulated_member(settings.seed, number, of) if settings.privacy.secure_aggregation else None
    return node.Node(share, dataset.schema, settings.model, number, held_out=later, member=member)


def _setting(context: Context, key: str) -> str:
    """A path that a node's own configuration names, or else the run's: nodes decide themselves what they read."""
    value = context.node_config.get(key, context.run_config.get(key))
    if not isinstance(value, str) or not value:
        raise ConfigError(f"run config has no {key!r}", f'add {key}="..." to --run-config, as an absolute path')
    return value


def _operations(context: Context) -> Operations:
    """Log and metrics, from the run config; off unless named there."""
    told = context.run_config
    try:
        return Operations(
            log_json=bool(told.get("log-json", False)),
            log_file=Path(str(told["log-file"])) if told.get("log-file") else None,
            restricted=bool(told.get("restricted", False)),
            metrics_port=int(told["metrics-port"]) if told.get("metrics-port") else None,
            overdue_s=float(told.get("overdue", Operations.overdue_s) or Operations.overdue_s),
            least_nodes=int(told.get("least-nodes", 1) or 1),
            certificates=tuple(Path(one) for one in str(told.get("watch-certificates", "")).split(",") if one),
        )
    except ValueError as error:
        raise ConfigError(f"run config: {error}", "correct the value in --run-config") from None


def _open_node(context: Context) -> node.Node:
    number, of = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    return _hosted(_setting(context, "experiment"), number, of)


client_app = node.client_app(_open_node)
"""What every node runs."""

server_app = ServerApp()
"""What the coordinator runs."""


@server_app.main()
def coordinate(grid: Grid, context: Context) -> None:
    """Train the experiment named in the run config into the folder named there; an existing run is continued."""
    experiment, dataset = _opened(_setting(context, "experiment"))
    folder = RunFolder(Path(_setting(context, "out")))
    if not folder.experiment_file.exists():
        folder.create(experiment)
    elif folder.experiment() != experiment:
        raise ConfigError(f"{folder.path} holds a run of another experiment", "choose another folder for `out`")
    with operated(_operations(context), folder, experiment.rounds) as watched:
        model = train(grid, experiment, dataset, folder, on_point=lambda _: None, observer=watched.observer)
        for note in model.notes:
            watched.log.tell("note", text=note)
    finish(experiment, dataset, folder, model, folder.audit()[0], with_baselines=False)
    if model.rounds < experiment.rounds:
        # Ends Flower's task as failed: whoever looks at its list must not take the run for one that was finished.
        raise SottovoceError("; ".join(model.notes), "the model of the last round is whole; release it, or start anew")
