"""What every plan of a release tells its budget."""

from collections.abc import Mapping
from typing import Literal, Protocol

from sottovoce.privacy.events import Event, Purpose

Settings = dict[str, str | int | float | None]
"""Every setting of a plan, as the ledger keeps it; its canonical JSON is what the plan's digest is of."""

Cohorts = Literal["secret", "visible"]


class Plan(Protocol):
    """A mechanism and how often it will release: `MechanismPlan`, `SelectionPlan` and others."""

    @property
    def population(self) -> int:
        """Enrolled devices."""
        ...

    @property
    def delta(self) -> float:
        """Probability with which the guarantee may fail."""
        ...

    @property
    def rounds(self) -> int:
        """Releases planned."""
        ...

    @property
    def purpose(self) -> Purpose:
        """Why it is released."""
        ...

    @property
    def cohorts(self) -> Cohorts:
        """Whether an outsider can learn who takes part."""
        ...

    @property
    def max_participations(self) -> int | None:
        """Most rounds of one run that a device takes part in."""
        ...

    def event(self) -> Event:
        """What one release costs."""
        ...

    def charged(self, rounds: int | None = None) -> Mapping[Event, int]:
        """What `rounds` releases of one run are charged; None for all that are planned."""
        ...

    def settings(self) -> Settings:
        """Every setting."""
        ...

    def digest(self) -> str:
        """SHA-256 of the settings as canonical JSON, in hexadecimal."""
        ...
