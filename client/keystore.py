"""Where the store's key lies: one key of 32 bytes, which can be read and replaced.

On a phone the key belongs to the hardware: wrap it with a key of the Android Keystore (`setUnlockedDeviceRequired`),
keep it in the iOS Keychain (`kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly`, so that no backup holds it), or seal it
to a TPM; such a keystore is a class with the two methods of `Keystore`. `FileKeystore` is for Linux boxes and tests:
whoever reads its file reads the store.
"""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from sottovoce.models.atomic import write_atomically
from sottovoce.privacy.errors import DeviceError

KEY_BYTES = 32


class Keystore(Protocol):
    """Holds the key of one store."""

    def load(self) -> bytes | None:
        """The key, or None when there is none any more: what it sealed is lost then.

        Raises:
            DeviceError: it cannot be asked now, as before the first unlock. The store's file is then left alone.
        """

    def create(self) -> bytes:
        """Destroy the key, if there is one, and make a new one.

        Raises:
            DeviceError: that did not happen; the old key may still be there.
        """


class FileKeystore:
    """A key in a file that only its owner may read (mode 0600).

    Args:
        path: of the file; its folder is made when missing. Keep it out of backups that hold the store.
        entropy: makes that many random bytes.
    """

    def __init__(self, path: Path, entropy: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._path = path
        self._entropy = entropy

    def load(self) -> bytes | None:
        """See `Keystore`; a file of another length holds no key."""
        try:
            with self._path.open("rb") as file:
                key = file.read(KEY_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DeviceError(f"{self._path} cannot be read: {error.strerror or error}", "permit reading") from error
        return key if len(key) == KEY_BYTES else None

    def create(self) -> bytes:
        """See `Keystore`. The old bytes are overwritten where they lie; a flash cell may keep them all the same."""
        key = self._entropy(KEY_BYTES)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError), self._path.open("r+b") as file:
                file.write(bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            write_atomically(self._path, key, mode=0o600)
        except OSError as error:
            raise DeviceError(
                f"{self._path} cannot be written: {error.strerror or error}", "free space or permit writing"
            ) from error
        return key
