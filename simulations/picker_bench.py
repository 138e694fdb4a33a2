"""The picker as a whole, measured: how quick, how much it earns, whether caps hold and whether it always answers."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from sottovoce.client.picker import Picker
from sottovoce.client.runtimes import required
from sottovoce.client.scorer import LiteRTScorer
from sottovoce.models.bundle import Bundle
from sottovoce.models.quiet import quiet_stderr
from sottovoce.models.signing import PublicKey, generate_key, load_public_key
from sottovoce.models.trust import Trust
from sottovoce.privacy.errors import ConfigError, DeviceError
from sottovoce.server.gates import Gates
from sottovoce.simulations import market
from sottovoce.simulations.device_trial import Answers, Caps, ready, try_caps, try_faults
from sottovoce.simulations.experiment import Experiment
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.picker_latency import PickLatency, measure
from sottovoce.simulations.picker_value import OneBlock, Value, compare, held_out
from sottovoce.simulations.results import finish, release_run
from sottovoce.simulations.run import nodes, train

UNSEEN = 100
"""Block of people who are asked: far beyond those who train, so that nobody is judged on what they taught."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        decisions: timed ones over 1,000 ads; a fifth of them over 10,000.
        people: whose held-out requests are answered, three of each.
        capped: decisions in the trial of caps.
        restarts: in it.
        each: requests for each fault and each jump of the clock.
    """

    decisions: int = 2_000
    people: int = 500
    capped: int = 3_000
    restarts: int = 30
    each: int = 3


class PickerBench(msgspec.Struct, frozen=True, kw_only=True):
    """What the picker does.

    Attributes:
        p50_ms: median time of a decision, by ads in the catalogue.
        p99_ms: 99th percentile.
        value_vs_contextual: see `Value`.
        value_vs_oracle: likewise.
        caps_violated: see `Caps`.
        answered: see `Answers`.
        model: whose value was measured.
        epsilon: of its training, device level, against an outsider; None where there is no finite one.
        latency: details.
        value: details.
        caps: details.
        answers: details.
    """

    p50_ms: dict[str, float]
    p99_ms: dict[str, float]
    value_vs_contextual: float
    value_vs_oracle: float
    caps_violated: int
    answered: float
    model: str
    epsilon: float | None
    latency: tuple[PickLatency, ...]
    value: Value
    caps: Caps
    answers: Answers


def bench(bundle: Path | None, key: Path | None, effort: Effort, say: Callable[[str], None]) -> PickerBench:
    """Measure everything.

    Args:
        bundle: of a run on the market with seed 0; None trains one first, as `sottovoce simulate` does by default.
        key: of its signer; None for `signing.pub.pem` beside it.
        effort: how much.
        say: progress.

    Raises:
        BundleError: the bundle is not to be trusted.
        ConfigError: it is of another data set.
        DeviceError: it cannot be read.
    """
    now = datetime.now(UTC)
    with TemporaryDirectory() as place, quiet_stderr():
        if bundle is None:
            say("training the default ranker across 20,000 simulated devices")
            data, signer = trained(Path(place) / "run", Experiment(), now)
        else:
            data, signer = _read(bundle), load_public_key(key or bundle.parent / "signing.pub.pem")
        _, believed = Trust((signer,)).accept(data, now=now, runtimes=required("litert"))
        world = OneBlock()
        if believed.schema.digest() != world.schema.digest():
            raise ConfigError("this bundle is of another data set", "take one that was trained on the market")
        say("timing decisions")
        speed = (measure(1_000, 200, effort.decisions), measure(10_000, 2_000, max(50, effort.decisions // 5)))
        say(f"counting what {effort.people} people's ads earn")
        earned = compare(
            lambda catalogue: Picker(
                believed.schema, LiteRTScorer(believed.tflite), catalogue, believed.manifest.personal_variance
            ),
            world,
            held_out(world, UNSEEN, effort.people, 3),
        )
        say("restarting a device, and breaking it")
        phone, requests = ready(Path(place) / "phone", world, data, signer, now)
        caps = try_caps(phone, requests, now, effort.capped, effort.restarts)
        answers = try_faults(phone, requests, now, effort.each)
    return PickerBench(
        p50_ms={str(one.ads): one.p50_ms for one in speed},
        p99_ms={str(one.ads): one.p99_ms for one in speed},
        value_vs_contextual=earned.vs_contextual,
        value_vs_oracle=earned.vs_oracle,
        caps_violated=caps.violated,
        answered=answers.answered,
        model=_name(believed, data),
        epsilon=believed.passport.epsilon,
        latency=speed,
        value=earned,
        caps=caps,
        answers=answers,
    )


def trained(run: Path, experiment: Experiment, now: datetime) -> tuple[bytes, PublicKey]:
    """Train and release on the market, as `sottovoce simulate` and `sottovoce release` do; the bundle and its key."""
    folder = RunFolder(run)
    folder.create(experiment)
    dataset = market.load(experiment.data.devices, experiment.data.seed, experiment.data.rows_per_device)
    model = train(
        InProcessGrid(nodes(experiment, dataset), experiment.nodes), experiment, dataset, folder, lambda _: None
    )
    finish(experiment, dataset, folder, model, folder.audit()[0], with_baselines=False)
    key = generate_key()
    release_run(
        run,
        None,
        [key],
        lambda: None,
        Gates(),
        model_id=None,
        version=int(now.timestamp()),
        expires_days=90,
        now=now,
        out=None,
    )
    return _read(folder.bundle_file), key.public_key()


def _name(bundle: Bundle, data: bytes) -> str:
    kind = bundle.manifest
    return f"{kind.model_id} version {kind.version}, bundle {hashlib.sha256(data).hexdigest()[:12]}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}", "name a bundle that `sottovoce release` made") from error
