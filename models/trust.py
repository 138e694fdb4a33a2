"""What a device believes about bundles: a pure step from bytes to belief.

The rules, in this order; each bundle meets all of them or is refused by name, and the belief stays as it was:

1. the container is in its one valid form and within its size caps;
2. the trusted keys have not expired, and enough different ones signed every byte of every file: as many as the device
   asks for, and no fewer than the manifest says had to;
3. the manifest's own list of digests and lengths agrees with the files;
4. its version is above the one already trusted (no rollback, no replay);
5. it was not made in the future and has not expired (no freeze);
6. its feature schema is one this code encodes to the same digest, and one the app was built for;
7. the runtimes that will load it are new enough.

Nothing parses the model here. Nothing of the manifest is read before rule 2 holds. Last, on the device and before the
bundle is put to use, `check_golden` scores known requests.

Source: rules 4 and 5, and the expiry of keys, are those of The Update Framework 1.0, sections 5.3 to 5.6.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sottovoce.models.bundle import Bundle, unpack
from sottovoce.models.calibration import load_calibration
from sottovoce.models.golden import check_scores, load_golden
from sottovoce.models.manifest import Manifest, load_manifest, newer_or_same
from sottovoce.models.passport import load_passport
from sottovoce.models.request import Scorer
from sottovoce.models.schema import FeatureSchema, load_schema
from sottovoce.models.signing import SIGNATURE_NAME, PublicKey, verify
from sottovoce.privacy.errors import (
    BundleError,
    DigestError,
    ExpiredError,
    RollbackError,
    SchemaError,
    SignatureError,
)

CLOCK_SKEW = timedelta(hours=24)
"""How far a device's clock may run behind the signer's."""

KEEP = "keep the bundle in use"


@dataclass(frozen=True, slots=True)
class Trust:
    """Belief of one device about one line of models.

    Attributes:
        keys: whose signatures count; one listed twice counts once.
        threshold: how many different keys must have signed.
        version: the highest version accepted so far; only a rotation of keys that says so takes it down. The caller
            keeps all of this on disk.
        model_id: the line; None until the first bundle or key set is accepted, which fixes it.
        key_version: of the set of keys; `sottovoce.models.key_rotation.rotate` moves it up by one.
        keys_expire: when these keys stop counting; None for keys that came with the app.
    """

    keys: tuple[PublicKey, ...]
    threshold: int = 1
    version: int = 0
    model_id: str | None = None
    key_version: int = 1
    keys_expire: datetime | None = None

    def __post_init__(self) -> None:
        """Refuse a belief that could never accept, or would accept anything."""
        if self.threshold < 1 or not self.keys or self.version < 0 or self.key_version < 1:
            raise ValueError("needs at least one key, threshold and key version of at least 1, version of at least 0")
        if self.keys_expire is not None and self.keys_expire.tzinfo is None:
            raise ValueError("keys_expire needs a time zone")

    def accept(
        self,
        data: bytes,
        *,
        now: datetime,
        runtimes: Mapping[str, str],
        schemas: Collection[str] | None = None,
    ) -> tuple["Trust", Bundle]:
        """The new belief and the bundle's contents, when every rule holds.

        Args:
            data: the bytes of an `.svb` file.
            now: the device's time, with time zone; the caller passes the latest it has ever seen.
            runtimes: name (`litert`, `onnxruntime`) and version of each runtime that will load the model.
            schemas: digests of the feature schemas the app can fill; None for any that this code can encode.

        Raises:
            SignatureError, DigestError, RollbackError, ExpiredError, SchemaError: see the rules above.
            BundleError: the container, manifest, passport, golden requests or calibration are malformed, made in the
                future, for another line or for other heads, or a runtime is too old.
            ValueError: `now` has no time zone, or `runtimes` is empty or names an unknown runtime.
        """
        if now.tzinfo is None:
            raise ValueError("now needs a time zone")
        files = dict(unpack(data))
        if self.keys_expire is not None and now >= self.keys_expire:
            raise ExpiredError(f"the trusted keys expired {self.keys_expire.isoformat()}", "fetch the next key set")
        signers = verify(files.pop(SIGNATURE_NAME), files, self.keys, self.threshold)
        raw = files.pop("manifest.json")
        manifest = load_manifest(raw)
        if signers < manifest.key_threshold:
            raise SignatureError(f"{signers} of {manifest.key_threshold} keys that had to sign are trusted here", KEEP)
        _check_digests(manifest, files)
        self._check_version(manifest)
        _check_times(manifest, now)
        schema = _check_schema(manifest, files["schema.json"], schemas)
        _check_runtimes(manifest, runtimes)
        passport = load_passport(files["passport.json"])
        try:
            notice = files["LICENSE.txt"].decode()
        except UnicodeDecodeError as error:
            raise BundleError("LICENSE.txt is not UTF-8", KEEP) from error
        golden = load_golden(files["golden.json"], schema)
        calibration = load_calibration(files["calibration.json"], schema.heads)
        models = files["model.onnx"], files["model.tflite"]
        bundle = Bundle(manifest, schema, passport, golden, calibration, *models, notice)
        return replace(self, version=manifest.version, model_id=manifest.model_id), bundle

    def _check_version(self, manifest: Manifest) -> None:
        if self.model_id is not None and manifest.model_id != self.model_id:
            raise BundleError(f"bundle is of line {manifest.model_id!r}, this device follows {self.model_id!r}", KEEP)
        if manifest.version <= self.version:
            raise RollbackError(f"version {manifest.version} is not above {self.version}, already trusted", KEEP)


def check_golden(bundle: Bundle, scorer: Scorer) -> None:
    """Let a bundle pass that scores on this device as it did where it was evaluated.

    Args:
        bundle: from `Trust.accept`.
        scorer: its model, loaded by this device's runtime.

    Raises:
        GoldenError: a score is off or another candidate wins; do not put the bundle to use.
    """
    check_scores(bundle.golden, scorer)


def _check_digests(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    if manifest.files.keys() != files.keys():
        raise DigestError(f"manifest and files differ: {sorted(manifest.files.keys() ^ files.keys())}", KEEP)
    for name, claim in manifest.files.items():
        if len(files[name]) != claim.length or hashlib.sha256(files[name]).hexdigest() != claim.sha256:
            raise DigestError(f"{name} is not the file that the manifest lists", KEEP)
    if manifest.passport_digest != manifest.files["passport.json"].sha256:
        raise DigestError("manifest names another passport than passport.json", KEEP)


def _check_times(manifest: Manifest, now: datetime) -> None:
    if manifest.created > now + CLOCK_SKEW:
        raise BundleError(f"bundle was made in the future, {manifest.created.isoformat()}", "check the device's clock")
    if now >= manifest.expires:
        raise ExpiredError(f"bundle expired {manifest.expires.isoformat()}", "fetch a newer one")


def _check_schema(manifest: Manifest, data: bytes, schemas: Collection[str] | None) -> FeatureSchema:
    schema = load_schema(data)
    if schema.digest() != manifest.schema_digest or schema.canonical() != data:
        raise SchemaError("schema.json is not the schema that the manifest names", KEEP)
    if schemas is not None and manifest.schema_digest not in schemas:
        raise SchemaError(f"this app cannot fill schema {manifest.schema_digest[:12]}", "update the app")
    if manifest.heads != schema.heads:
        raise SchemaError(f"manifest has heads {manifest.heads}, schema {schema.heads}", KEEP)
    return schema


def _check_runtimes(manifest: Manifest, runtimes: Mapping[str, str]) -> None:
    if not runtimes or not runtimes.keys() <= {"litert", "onnxruntime"}:
        raise ValueError(f"runtimes must name litert or onnxruntime, got {sorted(runtimes)}")
    for name, have in runtimes.items():
        least = getattr(manifest.min_runtime, name)
        if not newer_or_same(have, least):
            raise BundleError(f"{name} {have} is older than {least}", "update the app")
