"""The work of `fleet_work` on pfl-research: its SimulatedBackend, federated averaging and central Gaussian mechanism.

One process, as pfl-research runs unless it is started under horovod or torch.distributed. The rows of every device lie
ready as tensors before the clock starts, which neither the fleet nor the loop gets.

Source: Granqvist et al. 2024, arXiv:2404.06430.
"""

import asyncio
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# Read when pfl first asks for its device, which would else be a GPU where there is one.
os.environ["PFL_PYTORCH_DEVICE"] = "cpu"

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.algorithm_utils import run_train_eval
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from pfl.privacy.gaussian_mechanism import GaussianMechanism
from pfl.privacy.privacy_mechanism import CentrallyAppliedPrivacyMechanism
from torch import Tensor

from sottovoce.models.ranker import RankerConfig
from sottovoce.simulations.alone import LoneDevice, loss_of, open_device
from sottovoce.simulations.fleet_work import Total, Work


class _PerRow(torch.autograd.Function):
    """The table as it is, with the gradient of each row divided by its share, as `alone.descend` does in its step."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, share: Tensor) -> Tensor:
        ctx.share = share
        return table.view_as(table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] / ctx.share, None


class _Ranker(torch.nn.Module):
    """The ranker as pfl wants it; parameter names may hold no dots."""

    def __init__(self, parameters: Mapping[str, Tensor], config: RankerConfig) -> None:
        super().__init__()
        self._config = config
        self.weights = torch.nn.ParameterDict({_flat(name): value.clone() for name, value in parameters.items()})
        self._names = {name: _flat(name) for name in parameters}

    def loss(self, *tensors: Tensor, device: LoneDevice) -> Tensor:  # noqa: ARG002 - pfl hands over the raw rows too
        local = {name: self.weights[flat] for name, flat in self._names.items()}
        table: Tensor = _PerRow.apply(local["table"], device.share)  # type: ignore[no-untyped-call]
        return loss_of(local | {"table": table}, device, self._config)

    @torch.no_grad()
    def metrics(self, *tensors: Tensor, device: LoneDevice) -> dict[str, Weighted]:
        """The mean loss; pfl asks for it in iteration 0, which is not timed."""
        return {"loss": Weighted(float(self.loss(*tensors, device=device)) * len(device.labels), len(device.labels))}


class Pfl:
    """A cohort that pfl-research trains, every device once a round. Close it after use.

    Args:
        work: what to do.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        datasets = {}
        for user in range(work.devices):
            device = open_device(work.examples, user, work.schema, work.training)
            kwargs = {"device": device}
            datasets[user] = Dataset([device.labels], str(user), train_kwargs=kwargs, eval_kwargs=kwargs)
        self._users = FederatedDataset(datasets.__getitem__, get_user_sampler("minimize_reuse", list(datasets)))
        ranker = _Ranker(work.parameters, work.config)
        self._model = PyTorchModel(ranker, torch.optim.SGD, torch.optim.SGD(ranker.parameters(), lr=1.0))
        self._algorithm = FederatedAveraging()
        self._backend = self._with_noise(work.noise_multiplier)
        self._train = NNTrainHyperParams(
            local_batch_size=None,
            local_num_epochs=work.training.steps,
            local_learning_rate=work.training.learning_rate,
        )
        self._rounds = 0
        # pfl runs its rounds on the thread's event loop, which nobody makes for it.
        self._events = asyncio.new_event_loop()
        asyncio.set_event_loop(self._events)

    def close(self) -> None:
        """Give back what was opened."""
        asyncio.set_event_loop(None)
        self._events.close()

    def total(self) -> Total:
        """The sum of the clipped updates from the first parameters, without noise. Ask for it before any round."""
        contexts, *_ = self._algorithm.get_next_central_contexts(self._model, 0, self._params(1), self._train)
        with _hushed():
            results = run_train_eval(self._algorithm, self._with_noise(0.0), self._model, contexts)
        total, _ = results[0]
        return {name: total[f"weights.{_flat(name)}"].double().numpy() for name in self._work.parameters}

    def round(self) -> None:
        """One round with noise, applied to the model."""
        self._rounds += 1
        evaluation = NNEvalHyperParams(local_batch_size=None)
        with _hushed():
            self._algorithm.run(
                self._params(self._rounds),
                self._backend,
                self._model,
                self._train,
                evaluation,
                send_metrics_to_platform=False,
            )

    def parameters(self) -> Total:
        """The model as it is now."""
        now = self._model.get_parameters()
        return {name: now[f"weights.{_flat(name)}"].numpy() for name in self._work.parameters}

    def _with_noise(self, multiplier: float) -> SimulatedBackend:
        mechanism = CentrallyAppliedPrivacyMechanism(GaussianMechanism(self._work.clip_norm, multiplier))
        return SimulatedBackend(training_data=self._users, val_data=None, postprocessors=[mechanism])

    def _params(self, rounds: int) -> NNAlgorithmParams:
        return NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=2**40,
            train_cohort_size=self._work.devices,
            val_cohort_size=None,
        )


@contextmanager
def _hushed() -> Iterator[None]:
    """Without torch's remark that pfl copies tensors in a roundabout way when it adds noise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "To copy construct from a tensor", UserWarning)
        yield


def _flat(name: str) -> str:
    return name.replace(".", "_")
