"""The device's place for bundles: what is on disk is always one that works, or nothing.

A bundle's file is named by its SHA-256. One small file, `belief.json`, says which bundle is in use, which one before
it, and what the device believes: the line, the highest version and the latest time. That file is replaced in one
step, after the new bundle is safely on the disk, and it is the only step that counts: a crash before it leaves the old
belief and the old bundle, a crash after it the new ones.

Key sets that were accepted lie in `keys.jsonl`, and that one file is replaced in one step, too. It is verified from the
app's own keys each time it is read. `belief.json` remembers the newest key set: when the file is damaged or an old one
was put back, no bundle is accepted until the chain was walked again.

When `belief.json` itself is lost, the signed bundles beside it still tell the highest version.

One process at a time may write a folder; any number may read it.
"""

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from sottovoce.client.belief import BELIEF, KEYS, Belief, read_belief, read_keys, recovered, settled
from sottovoce.client.scorer import LiteRTScorer, OnnxScorer, Scorer, request_scorer
from sottovoce.models.atomic import write_atomically
from sottovoce.models.bundle import MOST_BYTES, Bundle
from sottovoce.models.key_chain import KeyChain
from sottovoce.models.trust import Trust, check_golden
from sottovoce.privacy.errors import BundleError, DeviceError, GoldenError, RollbackError

SECRET = "secret"  # noqa: S105 - the name of a file
SECRET_BYTES = 16
TIME_STEP = timedelta(hours=1)
"""A later time is written down once it is this much later: a flash cell lasts for some ten thousand writes."""


def litert(bundle: Bundle) -> Scorer:
    """The bundle's model in LiteRT."""
    return LiteRTScorer(bundle.tflite)


def onnxruntime(bundle: Bundle) -> Scorer:
    """The bundle's model in ONNX Runtime."""
    return OnnxScorer(bundle.onnx)


class BundleStore:
    """One line of models on one device.

    Args:
        folder: made when missing; nothing else may write there.
        trust: what the app was shipped with: whose signatures count, and how many. Later key sets are followed from
            there. Its version and line are a floor. An update of the app that comes with other keys says as
            `key_version` which set they are; they win over older sets on disk and over any that they do not lead to.
        runtimes: name and version of the runtime that will load the model, as for `Trust.accept`.
        scorer: loads the model into that runtime.
    """

    def __init__(
        self,
        folder: Path,
        trust: Trust,
        runtimes: Mapping[str, str],
        scorer: Callable[[Bundle], Scorer] = litert,
    ) -> None:
        self.folder = folder
        self._trust = trust
        self._runtimes = dict(runtimes)
        self._scorer = scorer

    def inspect(self, data: bytes, now: datetime) -> Bundle:
        """The contents of a bundle that this device would accept now; nothing runs and nothing is written.

        The very bundle in use may come again when its file was lost or damaged: that repairs it.

        Raises:
            BundleError: or one below it; see `Trust.accept`.
        """
        return self._accept(data, now, *self._state())[1]

    def offer(self, data: bytes, now: datetime) -> Bundle:
        """Put a bundle to use, if it meets every rule and scores its golden requests on this device.

        Args:
            data: the bytes of an `.svb` file.
            now: the device's time, with time zone; a clock that was set back does not count.

        Raises:
            BundleError: or one below it; the bundle in use stays in use.
            DeviceError: the disk is full, read-only or broken; the bundle in use stays in use.
        """
        belief, chain = self._state()
        trust, bundle = self._accept(data, now, belief, chain)
        self._check_golden(bundle)
        digest = hashlib.sha256(data).hexdigest()
        good = next(
            (one for one in (belief.active, belief.previous) if one not in (None, digest) and self._read(one)), None
        )
        after = msgspec.structs.replace(
            belief,
            version=max(belief.version, trust.version),
            model_id=trust.model_id,
            seen=max(belief.seen, now.astimezone(UTC)),
            active=digest,
            previous=good,
        )
        with _disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(digest), data)
            write_atomically(self.folder / BELIEF, msgspec.json.encode(after))
        self._tidy(after)
        return bundle

    def rotate(self, key_sets: Sequence[bytes], now: datetime) -> Trust:
        """Follow the next key sets; all of them or none.

        The bundle in use goes on serving, unless a set says by its `last_version` that the owners never signed it.

        Args:
            key_sets: signed files in the order of their versions, at least one; the first follows the newest known.
            now: the device's time, with time zone; a clock that was set back does not count.

        Returns:
            What bundles are judged by from now on.

        Raises:
            SignatureError, RollbackError, ExpiredError, BundleError: see `sottovoce.models.key_rotation.rotate`; the
                keys in use stay.
            DeviceError: the disk is full, read-only or broken; the keys in use stay.
            ValueError: no key set, or a time without a zone.
        """
        belief, chain = self._state()
        longer = chain.extended(key_sets, max(now, belief.seen))
        if not longer.passes(belief.key_version, belief.key_set):
            raise RollbackError(
                f"these key sets do not lead through set {belief.key_version}, which was trusted before",
                "fetch the key sets again; the bundle in use stays",
            )
        after = settled(belief, longer, self._read)
        with _disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / KEYS, longer.file())
        with contextlib.suppress(OSError):  # the chain alone tells it, too
            write_atomically(self.folder / BELIEF, msgspec.json.encode(after))
            self._tidy(after)
        return _trust(after, longer)

    def trust(self) -> Trust:
        """What the next bundle and the next key set are judged by."""
        return _trust(*self._state())

    def load(self, now: datetime) -> Bundle | None:
        """The bundle to serve with, verified again: the one in use, else the last good one, else None.

        The version does not go down when the older one serves. An expired bundle does not serve. One whose keys were
        rotated out or expired does: see `sottovoce.models.key_chain.KeyChain.vouching`.

        Args:
            now: the device's time, with time zone.
        """
        return next(self.usable(now), None)

    def usable(self, now: datetime) -> Iterator[Bundle]:
        """The bundles that may serve, the one in use first, then the one before it; see `load`.

        Args:
            now: the device's time, with time zone.
        """
        belief, chain = self._state()
        seen = False
        for digest in (belief.active, belief.previous):
            data = self._read(digest)
            if data is None:
                continue
            try:
                _, bundle = self._verify_held(data, now, belief, chain)
                self._check_golden(bundle)
            except BundleError:
                continue
            if not seen and now - belief.seen >= TIME_STEP:
                with contextlib.suppress(OSError):  # a full disk is no reason to serve nothing
                    later = msgspec.structs.replace(belief, seen=now.astimezone(UTC))
                    write_atomically(self.folder / BELIEF, msgspec.json.encode(later))
            seen = True
            yield bundle

    def belief(self) -> Belief:
        """What the device believes: as written down, or else as the signed bundles on disk tell."""
        return self._state()[0]

    def active(self) -> tuple[str, bytes] | None:
        """SHA-256 and bytes of the newest bundle whose file is whole: what a patch can start from."""
        belief = self.belief()
        for digest in (belief.active, belief.previous):
            data = self._read(digest)
            if digest is not None and data is not None:
                return digest, data
        return None

    def secret(self, entropy: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
        """16 random bytes that stay on this device: they decide its place in a staged rollout and are never sent.

        Args:
            entropy: makes that many random bytes, the first time.

        Raises:
            DeviceError: they cannot be written.
        """
        path = self.folder / SECRET
        with contextlib.suppress(OSError), path.open("rb") as file:
            kept = file.read(SECRET_BYTES + 1)
            if len(kept) == SECRET_BYTES:
                return kept
        made = entropy(SECRET_BYTES)
        with _disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, made, mode=0o600)
        return made

    def _state(self) -> tuple[Belief, KeyChain]:
        found = read_belief(self.folder)
        line = self._trust.model_id if found is None else found.model_id or self._trust.model_id
        chain = read_keys(self.folder, replace(self._trust, model_id=line), found)
        found = recovered(self._whole(), chain) if found is None else found
        return settled(found, chain, self._read), chain

    def _accept(self, data: bytes, now: datetime, belief: Belief, chain: KeyChain) -> tuple[Trust, Bundle]:
        digest = hashlib.sha256(data).hexdigest()
        if digest == belief.active and self._read(digest) is None:
            return self._verify_held(data, now, belief, chain)
        if chain.newest.key_version < belief.key_version:
            raise RollbackError(
                f"key sets end at {chain.newest.key_version} here, {belief.key_version} was trusted before",
                "fetch the key sets again; the bundle in use stays",
            )
        return self._verify(data, now, belief, _trust(belief, chain))

    def _verify_held(self, data: bytes, now: datetime, belief: Belief, chain: KeyChain) -> tuple[Trust, Bundle]:
        """A bundle that was accepted before, under the keys of that time."""
        trust, _ = chain.vouching(data)
        return self._verify(data, now, belief, replace(trust, version=0, model_id=belief.model_id))

    def _verify(self, data: bytes, now: datetime, belief: Belief, trust: Trust) -> tuple[Trust, Bundle]:
        return trust.accept(data, now=max(now, belief.seen), runtimes=self._runtimes)

    def _check_golden(self, bundle: Bundle) -> None:
        try:
            check_golden(bundle, request_scorer(self._scorer(bundle)))
        except DeviceError as error:
            raise GoldenError(f"this device cannot run the model: {error.what}", "keep the bundle in use") from error

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.svb"

    def _read(self, digest: str | None) -> bytes | None:
        """The bytes under that name, if they are still those that were put there."""
        if digest is None:
            return None
        try:
            with self._path(digest).open("rb") as file:
                data = file.read(MOST_BYTES + 1)
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == digest else None

    def _whole(self) -> Iterator[tuple[str, bytes]]:
        """SHA-256 and bytes of every bundle whose file is whole."""
        with contextlib.suppress(OSError):
            for path in sorted(self.folder.glob("*.svb")):
                data = self._read(path.stem)
                if data is not None:
                    yield path.stem, data

    def _tidy(self, belief: Belief) -> None:
        """Remove what neither bundle in use needs; what cannot be removed waits for the next time."""
        kept = {f"{belief.active}.svb", f"{belief.previous}.svb", BELIEF, KEYS, SECRET}
        with contextlib.suppress(OSError):
            for path in list(self.folder.iterdir()):
                if path.name not in kept and path.is_file():
                    path.unlink()


def _trust(belief: Belief, chain: KeyChain) -> Trust:
    return replace(chain.newest, version=belief.version, model_id=belief.model_id)


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """The disk's own failures in our words."""
    try:
        yield
    except OSError as error:
        raise DeviceError(
            f"{folder} cannot be written: {error.strerror or error}", "free space or permit writing; nothing changed"
        ) from error
