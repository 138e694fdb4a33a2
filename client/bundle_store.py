"""The device's place for bundles: what is on disk is always one that works, or nothing.

A bundle's file is named by its SHA-256. One small file, `belief.json`, says which bundle is in use, which one before
it, and what the device believes: the line, the highest version and the latest time. That file is replaced in one
step, after the new bundle is safely on the disk, and it is the only step that counts: a crash before it leaves the old
belief and the old bundle, a crash after it the new ones.

When `belief.json` itself is lost, the signed bundles beside it still tell the highest version.

One process at a time may write a folder; any number may read it.
"""

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec

from sottovoce.client.scorer import LiteRTScorer, OnnxScorer, Scorer, request_scorer
from sottovoce.models.atomic import write_atomically
from sottovoce.models.bundle import MOST_BYTES, Bundle, unpack
from sottovoce.models.manifest import Digest, Manifest, Moment, Name, load_manifest
from sottovoce.models.signing import SIGNATURE_NAME, verify
from sottovoce.models.trust import Trust, check_golden
from sottovoce.privacy.errors import BundleError, DeviceError, GoldenError

BELIEF = "belief.json"
SECRET = "secret"  # noqa: S105 - the name of a file
SECRET_BYTES = 16
MOST_BELIEF = 4096
TIME_STEP = timedelta(hours=1)
"""A later time is written down once it is this much later: a flash cell lasts for some ten thousand writes."""

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)


class Belief(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a device believes, as it lies on disk.

    Attributes:
        version: the highest accepted so far.
        model_id: the line; None before the first bundle.
        seen: the latest time at which a bundle was found valid. It never passes the expiry of a genuine bundle, so a
            clock that was once years ahead locks nobody out.
        active: SHA-256 of the bundle in use.
        previous: SHA-256 of the last good one before it.
    """

    version: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)] = 0
    model_id: Name | None = None
    seen: Moment = _FIRST
    active: Digest | None = None
    previous: Digest | None = None


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
        trust: whose signatures count, and how many. Its version and line are a floor: what an app was shipped with.
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
        return self._accept(data, now, self.belief())[1]

    def offer(self, data: bytes, now: datetime) -> Bundle:
        """Put a bundle to use, if it meets every rule and scores its golden requests on this device.

        Args:
            data: the bytes of an `.svb` file.
            now: the device's time, with time zone; a clock that was set back does not count.

        Raises:
            BundleError: or one below it; the bundle in use stays in use.
            DeviceError: the disk is full, read-only or broken; the bundle in use stays in use.
        """
        belief = self.belief()
        trust, bundle = self._accept(data, now, belief)
        self._check_golden(bundle)
        digest = hashlib.sha256(data).hexdigest()
        good = next(
            (one for one in (belief.active, belief.previous) if one not in (None, digest) and self._read(one)), None
        )
        after = Belief(
            version=trust.version,
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

    def load(self, now: datetime) -> Bundle | None:
        """The bundle to serve with, verified again: the one in use, else the last good one, else None.

        The version does not go down when the older one serves. An expired bundle does not serve.

        Args:
            now: the device's time, with time zone.
        """
        belief = self.belief()
        for digest in (belief.active, belief.previous):
            data = self._read(digest)
            if data is None:
                continue
            try:
                _, bundle = self._verify(data, now, belief, version=0)
                self._check_golden(bundle)
            except BundleError:
                continue
            if now - belief.seen >= TIME_STEP:
                with contextlib.suppress(OSError):  # a full disk is no reason to serve nothing
                    seen = msgspec.structs.replace(belief, seen=now.astimezone(UTC))
                    write_atomically(self.folder / BELIEF, msgspec.json.encode(seen))
            return bundle
        return None

    def belief(self) -> Belief:
        """What the device believes: as written down, or else as the signed bundles on disk tell."""
        try:
            with (self.folder / BELIEF).open("rb") as file:
                found = msgspec.json.decode(file.read(MOST_BELIEF), type=Belief)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            found = self._recovered()
        version = max(found.version, self._trust.version)
        return msgspec.structs.replace(found, version=version, model_id=found.model_id or self._trust.model_id)

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

    def _accept(self, data: bytes, now: datetime, belief: Belief) -> tuple[Trust, Bundle]:
        digest = hashlib.sha256(data).hexdigest()
        repairs = digest == belief.active and self._read(digest) is None
        return self._verify(data, now, belief, belief.version - 1 if repairs else belief.version)

    def _verify(self, data: bytes, now: datetime, belief: Belief, version: int) -> tuple[Trust, Bundle]:
        trust = replace(self._trust, version=version, model_id=belief.model_id)
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

    def _recovered(self) -> Belief:
        """Belief from the signed bundles that lie here; the two newest come first."""
        found: list[tuple[Manifest, str]] = []
        with contextlib.suppress(OSError):
            for path in sorted(self.folder.glob("*.svb")):
                data = self._read(path.stem)
                if data is None:
                    continue
                with contextlib.suppress(BundleError):
                    files = dict(unpack(data))
                    verify(files.pop(SIGNATURE_NAME), files, self._trust.keys, self._trust.threshold)
                    found.append((load_manifest(files["manifest.json"]), path.stem))
        if not found:
            return Belief()
        found.sort(key=lambda one: one[0].version, reverse=True)
        newest, active = found[0]
        return Belief(
            version=newest.version,
            model_id=newest.model_id,
            # Signed, so at least this much time has passed.
            seen=newest.created,
            active=active,
            previous=found[1][1] if len(found) > 1 else None,
        )

    def _tidy(self, belief: Belief) -> None:
        """Remove what neither bundle in use needs; what cannot be removed waits for the next time."""
        kept = {f"{belief.active}.svb", f"{belief.previous}.svb", BELIEF, SECRET}
        with contextlib.suppress(OSError):
            for path in list(self.folder.iterdir()):
                if path.name not in kept and path.is_file():
                    path.unlink()


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """The disk's own failures in our words."""
    try:
        yield
    except OSError as error:
        raise DeviceError(
            f"{folder} cannot be written: {error.strerror or error}", "free space or permit writing; nothing changed"
        ) from error
