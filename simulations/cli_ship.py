"""`release` and `pick`: from a run to a signed file, from that file to an ad. `pick` needs the device runtime only."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from sottovoce.client.catalogue import decode_catalogue
from sottovoce.client.consent import Consent, decode_consent
from sottovoce.client.controls import Controls
from sottovoce.client.counterfactual import Counterfactual
from sottovoce.client.decision import Decision
from sottovoce.client.events import EventLog, decode_log
from sottovoce.client.explanation import Explanation, why
from sottovoce.client.occasion import Occasion
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.request import decode_request
from sottovoce.client.runtimes import required
from sottovoce.client.trace import traced
from sottovoce.client.what_if import to_lose, to_win
from sottovoce.client.why_not import WhyNot, why_not
from sottovoce.models.bundle import Bundle
from sottovoce.models.signing import (
    MOST_SIGNATURES,
    PublicKey,
    generate_key,
    key_id,
    load_private_key,
    load_public_key,
    save_private_key,
    save_public_key,
)
from sottovoce.models.trust import Trust
from sottovoce.privacy.errors import ConfigError, DeviceError
from sottovoce.simulations.bundle_picker import believed
from sottovoce.simulations.cli_options import PATH, as_json, data_dir, model_line, print_json
from sottovoce.simulations.settings_file import read_settings
from sottovoce.simulations.threads import torch_threads
from sottovoce.simulations.trace_file import append_trace, made_secret, secret_of

SHOWN_LOSERS = 6


@click.command()
@click.argument("run", type=PATH)
@click.option(
    "--key",
    "keys",
    type=PATH,
    multiple=True,
    help="Private signing key, PEM; repeatable. [default: RUN/signing.pem, made when missing]",
)
@click.option(
    "--key-threshold",
    type=click.IntRange(1, MOST_SIGNATURES),
    help="How many of these keys a device must trust; fewer while devices go from old keys to new ones. [default: all]",
)
@click.option("--gates", type=PATH, help="release.toml with the limits. [default: the built-in ones]")
@click.option("--out", type=PATH, help="Where the bundle goes. [default: RUN/bundle.svb]")
@click.option("--model-id", callback=model_line, help="The line of models. [default: the data set's name]")
@click.option(
    "--version",
    type=click.IntRange(1, 2**53),
    help="Above every earlier one of the line. [default: seconds since 1970]",
)
@click.option("--expires-days", type=click.IntRange(1, 3650), default=90, show_default=True)
@click.option(
    "--parent",
    type=PATH,
    help="Bundle of an earlier version, by one of these keys: rows keep its scales, so that the update is small.",
)
@click.option(
    "--one-byte-scales",
    is_flag=True,
    help="Round the scale of each embedding row up to one byte: 3 bytes a row less, a slightly larger rounding error.",
)
@click.option(
    "--rollout-percent",
    type=click.FloatRange(0, 100),
    default=100.0,
    show_default=True,
    help="Share of devices that take it; each decides by a secret of its own.",
)
@click.option(
    "--rollout-salt",
    callback=model_line,
    help="The salt of an earlier release of this rollout, to widen it. [default: line and version]",
)
@click.option(
    "--calibration",
    type=click.Choice(["newest", "none"]),
    default="newest",
    show_default=True,
    help="The newest calibration that was measured of the weights that ship, if there is one; or none.",
)
@data_dir
@as_json
def release(
    run: Path,
    keys: tuple[Path, ...],
    key_threshold: int | None,
    gates: Path | None,
    out: Path | None,
    model_id: str | None,
    version: int | None,
    expires_days: int,
    parent: Path | None,
    one_byte_scales: bool,
    rollout_percent: float,
    rollout_salt: str | None,
    calibration: str,
    data_dir: Path | None,
    json_output: bool,
) -> None:
    """Calibrate, quantize, export, check and sign a run's model.

    A run without noise, with seeded noise or with a broken ledger cannot be released. A failed gate writes nothing.
    With SOURCE_DATE_EPOCH set, the same run and key give the same bytes anywhere.
    """
    from sottovoce.server.gates import Gates, load_gates
    from sottovoce.simulations.results import release_run

    limits = Gates() if gates is None else load_gates(_read(gates))
    private, public = run / "signing.pem", run / "signing.pub.pem"
    signers = [load_private_key(key) for key in keys]
    if not signers:
        signers = [load_private_key(private) if private.exists() else generate_key()]
    different = len({key_id(signer.public_key()) for signer in signers})
    if different < len(signers) or different > MOST_SIGNATURES or (key_threshold or 1) > different:
        raise ConfigError(
            f"{len(signers)} keys are named, {different} different ones",
            f"name each --key once, at most {MOST_SIGNATURES}, and no higher --key-threshold",
        )

    def keep() -> None:
        """Only a release that passed leaves keys behind."""
        if not keys:
            save_private_key(signers[0], private)
            save_public_key(signers[0].public_key(), public)

    now = _release_time()
    earlier = None if parent is None else _parent(parent, [signer.public_key() for signer in signers], now)
    with torch_threads(1):
        made = release_run(
            run,
            data_dir,
            signers,
            keep,
            limits,
            key_threshold=key_threshold,
            model_id=model_id,
            version=version or int(now.timestamp()),
            expires_days=expires_days,
            now=now,
            out=out,
            one_byte_scales=one_byte_scales,
            parent=earlier,
            rollout_percent=rollout_percent,
            rollout_salt=rollout_salt,
            calibrate=calibration == "newest",
        )
    if json_output:
        print_json(made.report)
        return
    report = made.report
    click.echo(f"{report.model_id} version {report.version}: {report.parameters:,} parameters")
    click.echo(f"  {made.calibration}")
    for head in report.calibration:
        click.echo(f"  {head}")
    for gate in report.gates:
        click.echo(f"  gate {gate}")
    if report.parity.slices:
        worst = report.parity.slices[0]
        click.echo(
            f"  {report.parity.requests:,} requests in {len(report.parity.slices)} slices; the worst is {worst.name}:"
            f" {worst.decision_change:.2%} of {worst.requests:,} decisions change, runtimes disagree on"
            f" {worst.runtime_decision_change:.2%}; ads of the same worth swap in {report.parity.swaps:.2%} of all"
        )
    click.echo(f"bundle: {made.path}  {report.bundle_bytes:,} bytes  sha256 {report.bundle_sha256}")
    for place in [f"the one of {key}" for key in keys] or [str(public)]:
        click.echo(f"public key: {place}")


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--key", type=PATH, required=True, help="Public key of the signer, PEM.")
@click.option("--catalogue", type=PATH, required=True, help="catalogue.json")
@click.option("--request", type=PATH, required=True, help="request.json: what the page asks (OpenRTB 2.6 names).")
@click.option("--log", type=PATH, help="events.jsonl: what happened on this device. [default: nothing yet]")
@click.option("--consent", type=PATH, help="consent.json: TCF, GPP and GPC keys. [default: none given]")
@click.option("--controls", type=PATH, help="What the person decided, JSON or TOML. [default: nothing]")
@click.option("--policy", type=PATH, help="Settings of the app, JSON or TOML. [default: the built-in ones]")
@click.option(
    "--draw",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="The random number that exploration reads.",
)
@click.option("--runtime", type=click.Choice(["litert", "onnxruntime"]), default="litert", show_default=True)
@click.option(
    "--trusted-version",
    type=click.IntRange(min=0),
    default=0,
    help="Highest bundle version this device accepted before.",
)
@click.option("--now", type=click.DateTime(["%Y-%m-%dT%H:%M:%SZ"]), help="Time of the request, UTC. [default: now]")
@click.option("--about", help="An ad (crid): why it was not shown, and what would have changed that.")
@click.option("--trace", type=PATH, help="File that gets a line from which `replay` can pick again.")
@click.option("--secret", type=PATH, help="Secret of the device for the trace. [default: beside it, made when missing]")
@as_json
def pick(
    bundle: Path,
    key: Path,
    catalogue: Path,
    request: Path,
    log: Path | None,
    consent: Path | None,
    controls: Path | None,
    policy: Path | None,
    draw: float,
    runtime: str,
    trusted_version: int,
    now: datetime | None,
    about: str | None,
    trace: Path | None,
    secret: Path | None,
    json_output: bool,
) -> None:
    """Choose an ad on the device, and say why.

    The bundle is believed only when its signature, digests, version, expiry, schema and golden requests hold. A page, a
    log and a bundle are all it takes: nothing is sent anywhere.
    """
    moment = datetime.now(UTC)
    trust = Trust((load_public_key(key),), version=trusted_version)
    settings = read_settings(policy, PickerPolicy) if policy else PickerPolicy()
    model = believed(_read(bundle), trust, moment, runtime, settings)
    ads = decode_catalogue(_read(catalogue), str(catalogue))
    occasion = Occasion(
        build=model.over,
        picker=model.over(ads),
        catalogue=ads,
        request=decode_request(_read(request), str(request)),
        log=decode_log(_read(log), str(log)) if log else EventLog(),
        consent=decode_consent(_read(consent), str(consent)) if consent else Consent(),
        now=now.replace(tzinfo=UTC) if now else moment,
        controls=read_settings(controls, Controls) if controls else Controls(),
        draw=draw,
        policy=settings,
    )
    decision = occasion.pick()
    asked = None if about is None else _about(occasion, decision, about)
    if trace:
        append_trace(trace, traced(occasion, decision, made_secret(secret_of(trace, secret))))
    explanation = why(decision)
    if json_output:
        more = {} if asked is None else {"about": asked}
        print_json({"decision": decision.in_full(), "explanation": explanation, **more})
        return
    _show(decision, explanation)
    if asked is not None:
        click.echo(f"  {asked.why_not.sentence}")
        for one in asked.would_change:
            click.echo(f"    {one.sentence}")


class About(msgspec.Struct, frozen=True):
    """What was asked about one ad: why not, and what would have changed that (or, of the winner, this)."""

    why_not: WhyNot
    would_change: tuple[Counterfactual, ...]


def _about(occasion: Occasion, decision: Decision, crid: str) -> About:
    told = why_not(decision, crid)
    return About(told, to_lose(occasion) if told.shown else to_win(occasion, crid))


def _show(decision: Decision, explanation: Explanation) -> None:
    winner = decision.winner
    if winner is None:
        click.echo(f"request {decision.request}: no ad ({decision.nbr_words})")
    else:
        chances = ", ".join(f"{chance:.2%}" for chance in winner.scores)
        click.echo(f"request {decision.request}: {winner.crid} by {winner.sponsored} ({winner.category})")
        click.echo(
            f"  chosen by {decision.fallback}, {decision.mode}; chances {chances or 'not scored'}; "
            f"pays {winner.charge:g} {decision.cur} ({winner.pricing})"
        )
    if decision.fault:
        click.echo(f"  model not used: {decision.fault}")
    click.echo(f"  why: {explanation.sentence}")
    for line in explanation.losers[:SHOWN_LOSERS]:
        click.echo(f"  not {line}")
    if len(explanation.losers) > SHOWN_LOSERS:
        click.echo(f"  ... and {len(explanation.losers) - SHOWN_LOSERS} more; all with --json")


def _release_time() -> datetime:
    """Now; or the second since 1970 that SOURCE_DATE_EPOCH names, so that the same release can be built again."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    if told is None:
        return datetime.now(UTC)
    try:
        return datetime.fromtimestamp(int(told), UTC)
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"SOURCE_DATE_EPOCH={told!r} is no number of seconds since 1970", "correct it, or unset it"
        ) from None


def _parent(path: Path, keys: Sequence[PublicKey], now: datetime) -> Bundle:
    """An earlier release, believed as a device would: damaged, expired or signed by someone else it is none."""
    _, believed = Trust(tuple(keys)).accept(_read(path), now=now, runtimes=required("litert", "onnxruntime"))
    return believed


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}", "name an existing file you may read") from error
