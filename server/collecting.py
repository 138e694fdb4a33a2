"""How long a round waits and for how many, and when it is not released at all.

Whoever has not answered when a round closes counts as zero; what arrives later is counted and thrown away. Where the
epsilon relies on secret cohorts, a round closes by its deadline only, and is always released. How many answered tells
how many were drawn: a round that closes early, or not at all, because of their number tells something of who was
drawn, and one device's answer pushes another's out. Amplification by sampling is not proven for that.
"""

from typing import Annotated

import msgspec

from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.events import Gaussian
from sottovoce.privacy.plan import MechanismPlan

Devices = Annotated[int, msgspec.Meta(ge=0)]


class Collecting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a round closes.

    Attributes:
        deadline_s: longest wait for replies, in seconds.
        goal: devices whose replies are enough: the round closes as soon as they are there. To select more devices than
            are needed, set it below the expected cohort; the sum is divided by the expected cohort all the same. 0
            waits for everybody, or for the deadline.
        minimum: a round that fewer devices answered is skipped: it stays paid for, its sum is thrown away and the model
            stays as it was. 0 skips none; the noise of an empty round is released like any other.
    """

    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=7 * 86_400)] = 600.0
    goal: Devices = 0
    minimum: Devices = 0

    def __post_init__(self) -> None:
        """Refuse rounds that could never be released."""
        if self.goal and self.minimum > self.goal:
            raise ValueError(f"minimum = {self.minimum} is above goal = {self.goal}: every round would be skipped")

    def require(self, plan: MechanismPlan) -> None:
        """Refuse a goal or a minimum that the accounting of `plan` does not cover.

        Raises:
            ConfigError: the plan's epsilon counts on secret cohorts; or fewer devices are enrolled than are wanted.
        """
        wanted = max(self.goal, self.minimum)
        if wanted > plan.population:
            raise ConfigError(
                f"collect asks for {wanted} devices, {plan.population} are enrolled", "lower collect.goal and minimum"
            )
        if wanted and plan.noise_multiplier and not isinstance(plan.event(), Gaussian):
            raise ConfigError(
                "collect.goal and collect.minimum let the number of answers decide what is released; epsilon with "
                "secret cohorts does not cover that",
                "set both to 0, or privacy.cohorts to visible, or privacy.sampling to none",
            )


WAIT_FOR_ALL = Collecting()
"""Until everybody answered, or the deadline; every round is released."""
