"""The server step: Opacus' DPOptimizer with a device as its sample.

The fleet hands over the sum of updates that are clipped already, so the optimizer skips its own clipping and keeps the
rest of Opacus' sequence: noise on the sum, division by the expected cohort, then the ordinary torch optimizer. Noise
comes from the operating system's CSPRNG and the noisy sum lies on a public grid (`privacy.noise`), which Opacus'
generator cannot promise.
"""

import math
from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor

from sottovoce.privacy.entropy import Source
from sottovoce.privacy.errors import CheckpointError
from sottovoce.privacy.ledger import Reservation
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.privacy.release import SumNoise


class ServerOptimizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which server optimizer, after Reddi et al. 2021 (arXiv:2003.00295, algorithm 2).

    Attributes:
        kind: `fedavg`, `momentum` (FedAvgM) or `fedadam`. FedAdam makes all weights move alike, and so undoes the units
            of a linear model (`models.units`): train one with `momentum` or `fedavg`.
        learning_rate: server step.
        momentum: first-moment decay, for momentum and FedAdam.
        second_moment: second-moment decay, for FedAdam.
        averaging: decay of the running average of the weights, which is the model that ships; 0 ships the last
            weights. Averaging noisy iterates is post-processing and costs no privacy.
        schedule: `constant`; or `linear`: the rates fall from round to round in equal steps and add up to
            `learning_rate` over the whole run. Large steps while there is much to learn, small ones against the noise;
            more rounds take smaller steps, so that their number can be changed alone.
        shrinkage: c; over the whole run the weights of the table are made smaller by the share c * v, in equal parts,
            where v is the variance of the noise of all rounds together in the units of one device: (z / q)^2 / rounds,
            about 1.2 at epsilon 4 and 14 at epsilon 1 with everybody in every round. A ridge that grows with the noise,
            as the prior of a regression would; without noise there is none. Post-processing, like the average.
    """

    kind: Literal["fedavg", "momentum", "fedadam"] = "fedadam"
    learning_rate: float = 0.02
    momentum: float = 0.9
    second_moment: float = 0.99
    averaging: float = 0.9
    schedule: Literal["constant", "linear"] = "constant"
    shrinkage: float = 0.0

    def __post_init__(self) -> None:
        """Refuse rates that cannot train."""
        decays = (self.momentum, self.second_moment, self.averaging)
        if not 0 < self.learning_rate < math.inf or not all(0 <= decay < 1 for decay in decays):
            raise ValueError("server learning_rate must be positive, its decays at least 0 and below 1")
        if not 0 <= self.shrinkage <= 1:
            raise ValueError("server shrinkage must lie between 0 and 1")

    def build(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The torch optimizer over `parameters`."""
        if self.kind == "fedadam":
            betas = (self.momentum, self.second_moment)
            return torch.optim.Adam(parameters, self.learning_rate, betas, eps=1e-6)
        momentum = self.momentum if self.kind == "momentum" else 0.0
        return torch.optim.SGD(parameters, self.learning_rate, momentum)


class _SumOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' sequence over sums that arrive clipped."""

    noise: SumNoise
    scales: list[Tensor | None]
    paid: Reservation
    source: Source | None

    def clip_and_accumulate(self) -> None:
        for parameter in self.params:
            parameter.summed_grad = parameter.grad_sample[0]

    def add_noise(self) -> None:
        flat = torch.cat([parameter.summed_grad.reshape(-1) for parameter in self.params])
        if self.source is None:
            noisy = flat
        else:
            noisy = torch.from_numpy(self.noise.release(flat.numpy(), self.paid, self.source))
        sizes = [parameter.numel() for parameter in self.params]
        for parameter, part, scale in zip(self.params, torch.split(noisy, sizes), self.scales, strict=True):
            arrived = part.view_as(parameter).to(parameter.dtype)
            parameter.grad = arrived if scale is None else arrived * scale


class PrivateStep:
    """The global model and the private step that moves it.

    Args:
        parameters: initial values by name, float32.
        optimizer: which server optimizer.
        plan: fixes clip norm, noise and the public denominator.
        run_id: of the run whose reservations it accepts.
        padding: parameters whose row 0 stays zero, whatever the noise.
        scales: units in which updates arrive, by name, see `models.units`; where missing, those of the parameter.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        optimizer: ServerOptimizer,
        plan: MechanismPlan,
        run_id: str,
        padding: tuple[str, ...] = ("table",),
        scales: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._parameters = {name: torch.nn.Parameter(value.clone()) for name, value in parameters.items()}
        self._average = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self._averaging = optimizer.averaging
        self._kind = f"kind/{optimizer.kind}"
        self._steps = 0
        self._run_id = run_id
        self._padding = padding
        self._optimizer, self._rounds = optimizer, plan.rounds
        noise = plan.noise_multiplier * plan.population / plan.expected_cohort
        self._kept = 1.0 - min(1.0, optimizer.shrinkage * noise**2 / plan.rounds**2)
        self._paid = (0, 0)
        self._torch = optimizer.build(list(self._parameters.values()))
        self._private = _SumOptimizer(
            self._torch,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clip_norm,
            expected_batch_size=plan.expected_cohort,
            loss_reduction="mean",
        )
        self._private.noise = plan.summed_noise()
        self._private.scales = [(scales or {}).get(name) for name in self._parameters]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Current values by name: where devices start the next round."""
        return {name: value.detach() for name, value in self._parameters.items()}

    @property
    def averaged(self) -> dict[str, Tensor]:
        """Running average of the values by name: the model that ships."""
        return averaged(self.state())

    def step(
        self, total: Mapping[str, npt.NDArray[np.float64]], reservation: Reservation, source: Source | None
    ) -> None:
        """Add noise to the sum of updates and move the model; the one place where a round's data is released.

        Args:
            total: sum of clipped updates by name; zeros when nobody answered, which still costs and still gets noise.
            reservation: proof that the ledger was debited first; each is good for one step.
            source: fresh randomness of this round; None for a sum that brings the plan's noise with it, see
                `server.secure_collect`.
        """
        if reservation.run_id != self._run_id or (reservation.seq, reservation.round) <= self._paid:
            raise ValueError("the reservation belongs to another run or was used before")
        self._paid = (reservation.seq, reservation.round)
        self._private.paid, self._private.source = reservation, source
        self._private.zero_grad()
        if self._optimizer.schedule == "linear":
            left = max(self._rounds - self._steps, 1)
            for group in self._torch.param_groups:
                group["lr"] = self._optimizer.learning_rate * 2 * left / (self._rounds * (self._rounds + 1))
        for name, parameter in self._parameters.items():
            # torch minimizes: an update is a negative gradient.
            parameter.grad_sample = -torch.from_numpy(np.asarray(total[name], np.float64)).unsqueeze(0)  # type: ignore[attr-defined]
        self._private.step()
        self._steps += 1
        with torch.no_grad():
            for name in self._padding:
                self._parameters[name].mul_(self._kept)
                self._parameters[name][0] = 0.0
            for name, parameter in self._parameters.items():
                self._average[name].lerp_(parameter, 1.0 - self._averaging)

    def state(self) -> dict[str, Tensor]:
        """All a checkpoint needs, and "bias" to read the model that ships from it: see `averaged`.

        "parameters/NAME", "average/NAME", "moments/NAME/MOMENT", "steps", "kind/KIND".
        """
        # What a running average that started from zero still lacks (Kingma and Ba 2015, section 3).
        bias = torch.tensor(self._averaging**self._steps, dtype=torch.float64)
        flat = {"steps": torch.tensor(self._steps), self._kind: torch.tensor(1), "bias": bias}
        for name, parameter in self._parameters.items():
            flat[f"parameters/{name}"] = parameter.detach()
            flat[f"average/{name}"] = self._average[name]
            for key, value in self._torch.state.get(parameter, {}).items():
                if value is not None:
                    flat[f"moments/{name}/{key}"] = torch.as_tensor(value)
        return flat

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint's `state`.

        Raises:
            CheckpointError: a tensor is missing or has another shape.
        """
        try:
            _ = state[self._kind]  # the moments of another optimizer mean something else
            self._steps = int(state["steps"])
            for name, parameter in self._parameters.items():
                self._average[name].copy_(_same_shape(state[f"average/{name}"], parameter))
                with torch.no_grad():
                    parameter.copy_(_same_shape(state[f"parameters/{name}"], parameter))
                start = f"moments/{name}/"
                moments = {key[len(start) :]: state[key].clone() for key in state if key.startswith(start)}
                if moments:
                    self._torch.state[parameter] = moments
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint does not fit this model: {error}", "resume the run it belongs to"
            ) from None


def averaged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model that ships, from a `PrivateStep.state`: the running average without its bias to zero.

    Args:
        state: as it was kept; before the first step, the parameters are the model.

    Raises:
        KeyError: it holds no such model.
    """
    weight = 1.0 - float(state["bias"])
    kind = "average/" if weight else "parameters/"
    found = {name.removeprefix(kind): value for name, value in state.items() if name.startswith(kind)}
    return {name: value / weight for name, value in found.items()} if weight else found


def _same_shape(value: Tensor, like: Tensor) -> Tensor:
    if value.shape != like.shape:
        raise ValueError(f"{list(value.shape)} is not {list(like.shape)}")
    return value
