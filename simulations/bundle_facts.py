"""What a bundle says of itself, in plain words. Needs the device runtime only, and verifies nothing but signatures."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from sottovoce.models.bundle import unpack
from sottovoce.models.calibration import Calibration, load_calibration
from sottovoce.models.manifest import Manifest, load_manifest
from sottovoce.models.passport import CHECKS, PrivacyPassport, load_passport
from sottovoce.models.schema import load_schema
from sottovoce.models.signing import SIGNATURE_NAME, PublicKey, claimed, key_id, verify


class BundleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a bundle, for people.

    Attributes:
        verified: whether the signatures of all given keys hold over every byte; False when no key was given.
        signed_by: ids of the keys that were given and signed; empty when none was given.
        claimed_signer: id of the key that the signature file names first, as it says.
        signatures: how many it holds.
        expired: at the time given.
        manifest: as it stands in the bundle.
        passport: likewise.
        calibration: likewise.
        features: of the schema, by name, with who knows each.
        file_bytes: length of every file.
        bundle_bytes: length of all.
    """

    verified: bool
    signed_by: tuple[str, ...]
    claimed_signer: str
    signatures: int
    expired: bool
    manifest: Manifest
    passport: PrivacyPassport
    calibration: Calibration
    features: dict[str, str]
    file_bytes: dict[str, int]
    bundle_bytes: int


def bundle_facts(data: bytes, keys: Sequence[PublicKey], now: datetime) -> BundleFacts:
    """What is in a bundle; with keys, only if each of them signed it.

    Args:
        data: the bytes of an `.svb` file.
        keys: public keys; none to look at what cannot be believed yet.
        now: with time zone, for the expiry.

    Raises:
        SignatureError, DigestError: a key was given that did not sign these bytes.
        BundleError: not a bundle, or a part of it cannot be read.
    """
    files = unpack(data)
    signature = files[SIGNATURE_NAME]
    names = tuple(sorted({key_id(key) for key in keys}))
    if keys:
        verify(signature, {name: body for name, body in files.items() if name != SIGNATURE_NAME}, keys, len(names))
    hint, count = claimed(signature)
    manifest = load_manifest(files["manifest.json"])
    schema = load_schema(files["schema.json"])
    return BundleFacts(
        verified=bool(keys),
        signed_by=names,
        claimed_signer=hint,
        signatures=count,
        expired=now >= manifest.expires,
        manifest=manifest,
        passport=load_passport(files["passport.json"]),
        calibration=load_calibration(files["calibration.json"], schema.heads),
        features={feature.name: feature.source for feature in schema.features},
        file_bytes={name: len(body) for name, body in files.items()},
        bundle_bytes=len(data),
    )


def lines(facts: BundleFacts) -> list[str]:
    """The facts, a line each, whether they are verified first; characters that could steer a terminal become `?`."""
    manifest = facts.manifest
    if facts.verified:
        told = [f"verified: signed by key {name}" for name in facts.signed_by]
    else:
        told = ["not verified: no key given"]
    told += [
        f"model: {manifest.model_id} version {manifest.version}, predicts {', '.join(manifest.heads)}",
        f"created: {manifest.created.isoformat()}",
        f"expires: {manifest.expires.isoformat()}{' (EXPIRED)' if facts.expired else ''}",
        f"signatures: {facts.signatures}, the first says it is by key {facts.claimed_signer}",
        f"keys that had to sign: {manifest.key_threshold}",
        f"rollout: {manifest.rollout.percent:g} % of devices, salt {manifest.rollout.salt!r}",
        f"weights: {manifest.quantization}",
        f"made from checkpoint: {manifest.checkpoint_digest}",
        *calibration_lines(facts.calibration),
        f"features: {', '.join(f'{name} ({source})' for name, source in facts.features.items())}",
        f"runtimes: litert {manifest.min_runtime.litert} or newer, onnxruntime {manifest.min_runtime.onnxruntime} "
        "or newer",
        f"files: {facts.bundle_bytes:,} bytes in all",
        *(f"  {name}: {length:,} bytes" for name, length in facts.file_bytes.items()),
        "privacy passport:",
        *(f"  {line}" for line in passport_lines(facts.passport)),
    ]
    return [printable(line) for line in told]


def calibration_lines(calibration: Calibration) -> list[str]:
    """What the graph does to each head's logit, and who paid for it, a line each."""
    return [f"calibration: {head}" for head in calibration.heads]


def passport_lines(passport: PrivacyPassport) -> list[str]:
    """A passport in plain words, a line each."""
    releases = ", ".join(f"{name} {count:,}" for name, count in sorted(passport.releases.items()))
    cap = passport.max_participations
    checks = [CHECKS.get(name, f"{name} (not known to this version)") for name in passport.audit]
    return [
        f"claim: {passport.label or 'none in words'}",
        f"protects: everything one {passport.unit} ever contributed; neighbours differ by one {passport.unit} set to "
        f"zero ({passport.adjacency})",
        f"cohorts: {passport.sampling}, each of {passport.population:,} devices with chance "
        f"{passport.sampling_rate:g} a round",
        f"mechanism: {passport.mechanism}, noise {passport.noise_multiplier:g} times the clip norm "
        f"{passport.clip_norm:g}, from the source '{passport.noise_source}'",
        f"epsilon: {_figure(passport.epsilon)} at delta {passport.delta:g} against "
        f"{_OBSERVERS[passport.observer]}, by {passport.accountant}",
        f"epsilon: {_figure(passport.epsilon_known_cohort)} at the same delta against {_OBSERVERS['knows_cohorts']}",
        f"releases: {releases or 'none'}; training rounds {passport.rounds:,}",
        "participation: " + ("no cap" if cap is None else f"a device takes part in at most {cap:,} rounds of a run"),
        f"ledger: {passport.ledger_length:,} rows, head {passport.ledger_head or 'none'}",
        f"plan: {passport.plan_hash or 'not stated'}",
        "audit passed: " + ("; ".join(checks) or "not stated"),
        *(f"audit did not pass: {words}" for name, words in CHECKS.items() if checks and name not in passport.audit),
    ]


_OBSERVERS = {
    "outsider": "an outsider who does not know who took part",
    "knows_cohorts": "an observer who knows who took part",
}


def printable(text: str) -> str:
    """`text` without characters that could steer a terminal or forge a line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _figure(epsilon: float | None) -> str:
    return "no finite figure" if epsilon is None else f"{epsilon:.4f}"
