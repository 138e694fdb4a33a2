"""Every key set that a device walked, from the keys of its app to the newest, verified again each time it is read.

The file holds one signed key set a line. It is worth nothing without the app's own keys: the first line must be signed
by them, each further one by the line before. Whoever can write the file can cut its end off, and with stolen keys of
the past grow another branch. The caller finds out both, by the set that it remembers: see `KeyChain.passes`.

Source: The Update Framework 1.0, section 5.3, and the history of roots that python-tuf's client keeps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256

from sottovoce.models.bundle import unpack
from sottovoce.models.key_rotation import follow, rotate_along
from sottovoce.models.key_set import MOST_BYTES, claimed
from sottovoce.models.manifest import Manifest, load_manifest
from sottovoce.models.signing import SIGNATURE_NAME, verify
from sottovoce.models.trust import Trust
from sottovoce.privacy.errors import BundleError, RollbackError, SignatureError

MOST_LINKS = 256
"""Key sets after those of the app, one a month for 21 years: bounds what a device stores, verifies and downloads."""

MOST_CHAIN = MOST_LINKS * (MOST_BYTES + 1)

KEEP = "keep the bundle in use"


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a chain.

    Attributes:
        data: the signed key set.
        sha256: of what was signed, so that one more signature makes no other set of it.
        trust: whose signatures count from here on.
        last_version: what the key set says was the last honest bundle before it, if it does.
    """

    data: bytes
    sha256: str
    trust: Trust
    last_version: int | None


@dataclass(frozen=True, slots=True)
class KeyChain:
    """Verified key sets in a row.

    Attributes:
        root: the keys that the app came with.
        links: the sets after them, in the order of their versions.
    """

    root: Trust
    links: tuple[Link, ...] = ()

    @property
    def newest(self) -> Trust:
        """Whose signatures count for new bundles; its bundle version means nothing."""
        return self.links[-1].trust if self.links else self.root

    def extended(self, key_sets: Sequence[bytes], now: datetime) -> "KeyChain":
        """The chain with more sets at its end; one that is refused refuses all.

        Args:
            key_sets: signed files in the order of their versions, at least one.
            now: the device's time, with time zone.

        Raises:
            SignatureError, RollbackError, ExpiredError, BundleError: as for `sottovoce.models.key_rotation.rotate`.
            ValueError: no key set, or a time without a zone.
        """
        rotate_along(self.newest, key_sets, now)
        return self._followed(key_sets)

    def file(self) -> bytes:
        """What goes to the disk: a key set is JSON without line breaks, so one a line."""
        return b"".join(link.data + b"\n" for link in self.links)

    def passes(self, key_version: int, digest: str | None) -> bool:
        """Whether this chain goes through a key set that was trusted before, or starts from newer keys of the app.

        Args:
            key_version: of that set.
            digest: its `Link.sha256`; None for the app's own keys.
        """
        return self.root.key_version >= key_version or any(
            (link.trust.key_version, link.sha256) == (key_version, digest) for link in self.links
        )

    def version_after(self, version: int, key_version: int) -> int:
        """What a device that trusts a version of bundles under an older key set trusts now.

        Only sets after `key_version` count: those up to it took the version down already, and honest releases have
        taken it up since.

        Args:
            version: the highest that was accepted.
            key_version: of the newest key set at that time.
        """
        told = (link.last_version for link in self.links if link.trust.key_version > key_version)
        return min([version, *(last for last in told if last is not None)])

    def vouching(self, data: bytes) -> tuple[Trust, Manifest]:
        """The newest keys of this chain that signed a bundle, for one that was accepted under the rules of its time.

        Keys that were rotated out since, or expired, still count: they do not unsay what they signed. What the owners
        said they never signed does not count: a version above the `last_version` of a set after those keys.

        Args:
            data: the bytes of an `.svb` file. Times, schema and golden requests are not looked at.

        Returns:
            The keys without their expiry, and the manifest that they signed.

        Raises:
            BundleError: or one below it; nobody of this chain vouches for it.
        """
        files = dict(unpack(data))
        signature = files.pop(SIGNATURE_NAME)
        for trust, last in self._newest_first():
            try:
                signed = verify(signature, files, trust.keys, trust.threshold)
            except SignatureError:
                continue
            manifest = load_manifest(files["manifest.json"])
            if signed < manifest.key_threshold:
                continue
            if last is not None and manifest.version > last:
                raise RollbackError(f"version {manifest.version} is above {last}, the last that its keys signed", KEEP)
            return replace(trust, keys_expire=None), manifest
        raise SignatureError("no key set of this device vouches for the bundle", "fetch the key sets again")

    def _newest_first(self) -> Iterator[tuple[Trust, int | None]]:
        """Each set of keys, and the highest version that it may have signed."""
        last: int | None = None
        for link in reversed(self.links):
            yield link.trust, last
            if link.last_version is not None:
                last = link.last_version if last is None else min(last, link.last_version)
        yield self.root, last

    def _followed(self, key_sets: Sequence[bytes]) -> "KeyChain":
        if len(self.links) + len(key_sets) > MOST_LINKS:
            raise BundleError(f"more than {MOST_LINKS} key sets after those of the app", "update the app")
        links, trust = list(self.links), self.newest
        for data in key_sets:
            trust, key_set = follow(trust, data)
            links.append(Link(data, sha256(key_set.canonical()).hexdigest(), trust, key_set.last_version))
        return KeyChain(self.root, tuple(links))


def read_chain(root: Trust, data: bytes) -> KeyChain:
    """The chain that a file from `KeyChain.file` holds. Expiry is not judged: it counts when a bundle is accepted.

    Args:
        root: the keys of the app as it is now. Sets up to their version are passed over: an update of the app that
            came with newer keys stands above whatever was walked before.
        data: the file.

    Raises:
        BundleError: or one below it; damaged, with a hole, of another line, or not from this root.
    """
    if len(data) > MOST_CHAIN or not data.endswith(b"\n"):
        raise BundleError(f"the file of key sets is cut, or longer than {MOST_CHAIN} bytes", "fetch the key sets again")
    lines = data.removesuffix(b"\n").split(b"\n")
    return KeyChain(root)._followed([line for line in lines if claimed(line).version > root.key_version])
