"""The work of `fleet_work` done by one device after the other, each with ordinary autograd: see `alone`."""

import numpy as np

from sottovoce.privacy.clip import clip_factors
from sottovoce.simulations.alone import train_alone
from sottovoce.simulations.fleet_work import Total, Work


class Loop:
    """A cohort that is trained in a plain loop.

    Args:
        work: what to do.
    """

    def __init__(self, work: Work) -> None:
        self._work, self._rng = work, np.random.default_rng(0)

    def total(self) -> Total:
        """The sum of the clipped updates, without noise."""
        work = self._work
        total = {name: np.zeros(value.shape) for name, value in work.parameters.items()}
        for device in range(work.devices):
            update = train_alone(work.parameters, work.examples, device, work.schema, work.config, work.training)
            norm = np.sqrt(sum(float(np.square(value).sum()) for value in update.values()))
            factor = clip_factors(np.array([norm]), work.clip_norm)[0]
            for name, value in update.items():
                total[name] += factor * value
        return total

    def round(self) -> None:
        """The noisy mean."""
        self._work.noisy_mean(self.total(), self._rng)
