"""Train a module of one's own from Python: the whole run in one call."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from sottovoce.client.own_model import OwnModel
from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.experiment import Experiment
from sottovoce.simulations.folder import Point, RunFolder
from sottovoce.simulations.grid import CORES, InProcessGrid
from sottovoce.simulations.results import Results, finish
from sottovoce.simulations.run import Trained, module_facts, nodes, train
from sottovoce.simulations.threads import torch_threads


@dataclass(frozen=True, slots=True)
class OwnRun:
    """What became of it.

    Attributes:
        trained: averaged weights by the names of the module's parameters: `module.load_state_dict(trained.parameters,
            strict=False)` takes them.
        results: final figures, as in the run folder.
    """

    trained: Trained
    results: Results


def own_run(
    module: nn.Module | OwnModel,
    dataset: Dataset,
    experiment: Experiment,
    out: Path,
    *,
    baselines: bool = False,
    on_point: Callable[[Point], None] = lambda _: None,
) -> OwnRun:
    """Train `module` across the devices of `dataset` under the experiment's budget; a run found in `out` is continued.

    What is trained is a copy; `module` is where it starts and stays as it is.

    Args:
        module: with the ranker's losses, or an `OwnModel` with losses of its own.
        dataset: devices, their past and their held-out future.
        experiment: all settings; those of the ranker (`model`) are not used.
        out: folder of the run.
        baselines: also fit popularity and a factorization machine, for comparison.
        on_point: called after each round.

    Raises:
        ConfigError: the module cannot be trained by a fleet; the folder holds a run of another experiment or module.
        SottovoceError: what `run.train` raises.
    """
    own = module if isinstance(module, OwnModel) else OwnModel(module, dataset.schema)
    own.require(experiment.local)
    folder = RunFolder(out)
    if not folder.experiment_file.exists():
        folder.create(experiment, module_facts(own, dataset))
    elif folder.experiment() != experiment:
        raise ConfigError(f"{out} holds a run of another experiment", "choose another folder")
    with torch_threads(CORES // experiment.nodes):
        grid = InProcessGrid(nodes(experiment, dataset, own), experiment.nodes)
        model = train(grid, experiment, dataset, folder, on_point, own)
    found, _ = folder.audit()
    return OwnRun(model, finish(experiment, dataset, folder, model, found, baselines, own=own))
