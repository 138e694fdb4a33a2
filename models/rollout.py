"""Staged rollout: which share of devices takes a release first, decided by each device alone.

The device hashes the rollout's salt with a random secret that never leaves it, and compares with the share. Nobody
keeps a list of devices, and nobody can tell from outside which devices are in. A device inside 10 % stays inside at
20 % as long as the salt is the same; another salt draws anew.

The share is part of the signed manifest: to widen it, release again, one version up, with the same salt.
"""

import hashlib
from typing import Annotated

import msgspec

LEAST_SECRET = 16
"""Bytes of a device's secret, at least: 128 bits cannot be guessed."""

_DRAWS = 2**64


class Rollout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many devices take a release.

    Attributes:
        percent: of all devices, 0 to 100.
        salt: releases with the same salt are offered to the same devices first.
    """

    percent: Annotated[float, msgspec.Meta(ge=0, le=100)]
    salt: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]

    def __post_init__(self) -> None:
        """Refuse what a manifest could not hold."""
        if not (0 <= self.percent <= 100 and 1 <= len(self.salt) <= 256):
            raise ValueError("percent must be from 0 to 100 and salt have 1 to 256 characters")


def takes_part(rollout: Rollout, device_salt: bytes) -> bool:
    """Whether this device takes the release.

    A device that does not keeps its bundle and its belief as they were, so that the next, wider release finds it there.

    Args:
        rollout: from the manifest of a bundle that passed `sottovoce.models.trust.Trust.accept`.
        device_salt: drawn once from the system's random numbers and kept on the device, at least `LEAST_SECRET` bytes.

    Raises:
        ValueError: `device_salt` is too short to be a secret.
    """
    if len(device_salt) < LEAST_SECRET:
        raise ValueError(f"device_salt needs at least {LEAST_SECRET} random bytes, got {len(device_salt)}")
    salt = rollout.salt.encode()
    # The length in front keeps a salt's end and a secret's start apart.
    digest = hashlib.sha256(b"sottovoce rollout" + len(salt).to_bytes(4, "big") + salt + device_salt).digest()
    return int.from_bytes(digest[:8], "big") < rollout.percent / 100 * _DRAWS
