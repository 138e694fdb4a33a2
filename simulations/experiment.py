"""One experiment: every setting of a run, in one TOML file.

A run is fully described by this file and the data it names. Settings not given take the defaults of the data set, which
were chosen on its training and validation rows. Unknown keys are refused: a typing mistake cannot pass silently.
"""

import copy
import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import tomli_w

from sottovoce.client.fleet import LocalTraining
from sottovoce.client.secure_messages import LEAST_NODES
from sottovoce.models.ranker import RankerConfig
from sottovoce.privacy.errors import ConfigError
from sottovoce.privacy.record import RecordTarget
from sottovoce.privacy.store import tells_password
from sottovoce.server.collecting import Collecting
from sottovoce.server.optimizer import ServerOptimizer
from sottovoce.server.robust import Robust

Count = Annotated[int, msgspec.Meta(ge=1)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Planned = Annotated[int, msgspec.Meta(ge=0, le=10_000)]

LEAST_DELTA = 1e-12
"""Below it accountants drown in rounding errors."""


class DataSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which data.

    Attributes:
        name: a built-in data set, or `table` for a file of one's own.
        file: of a `table`: Parquet or CSV.
        schema: of a `table`: TOML that describes its columns.
        devices: of the `market`: how many.
        rows_per_device: of the `market`: mean number of impressions.
        seed: of the `market`.
    """

    name: Literal["market", "kuairand", "movietweetings", "completejourney", "table"] = "market"
    file: str = ""
    schema: str = ""
    devices: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 20_000
    rows_per_device: Annotated[int, msgspec.Meta(ge=2, le=10_000)] = 30
    seed: Seed = 0


class PrivacyTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the run may reveal about one device.

    Attributes:
        epsilon: budget for an outsider; the noise is found for it. `inf` trains without noise.
        delta: chance with which the guarantee may fail; below 1 / devices, at least 1e-12.
        clip_norm: C, largest L2 norm of one device's update.
        sampling_rate: q, chance of a device to be drawn in a round.
        noise: `secure` from the operating system; `seeded` repeats the run exactly and guarantees nothing; `none`.
        sampling: `poisson`; `truncated_poisson`, which cuts cohorts at `cap` and is accounted as such; `none`:
            everybody joins every round.
        cap: largest cohort of truncated sampling; 0 for the mean plus five standard deviations.
        max_participations: most rounds a device takes part in, kept by the device and by the coordinator; 0 for a cap
            that fewer than one device in 10,000 reaches.
        cohorts: `visible` when somebody outside may learn who takes part: then sampling is not counted, and the noise
            is found for a device that takes part `max_participations` times.
        mechanism: `gaussian`, or the exact `discrete_gaussian`, on integers.
        ledger: of a campaign that several runs share, a path or a postgresql:// address; empty for one of its own.
        secure_aggregation: nodes add the noise and mask their sums, so that the coordinator sees the total alone; needs
            `discrete_gaussian` and at least three nodes, and no measurements.
        dropout: with secure aggregation, share of the nodes that may be lost in a round; what they would have added
            is made up for by more noise from the others.
        collusion: with secure aggregation, share of the nodes that may tell the coordinator all they know; below
            1 - 2 `dropout`. What they would have added is made up for too.
    """

    epsilon: float = 4.0
    delta: float = 1e-5
    clip_norm: Annotated[float, msgspec.Meta(ge=1e-6, le=1e6)] = 1.0
    sampling_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    noise: Literal["secure", "seeded", "none"] = "secure"
    sampling: Literal["poisson", "truncated_poisson", "none"] = "poisson"
    cap: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_participations: Annotated[int, msgspec.Meta(ge=0)] = 0
    cohorts: Literal["secret", "visible"] = "secret"
    mechanism: Literal["gaussian", "discrete_gaussian"] = "gaussian"
    ledger: str = ""
    secure_aggregation: bool = False
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=0.5)] = 0.3
    collusion: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        """Refuse budgets that mean nothing."""
        if not self.epsilon > 0:
            raise ValueError(f"epsilon = {self.epsilon} is not above 0")
        if not LEAST_DELTA <= self.delta < 1:
            raise ValueError(f"delta = {self.delta} is not between {LEAST_DELTA:g} and 1")
        if math.isinf(self.epsilon) != (self.noise == "none"):
            raise ValueError("epsilon = inf and noise = 'none' go together: both or neither")
        if tells_password(self.ledger):
            raise ValueError("ledger holds a password, which the run folder would tell: use ~/.pgpass or PGPASSWORD")
        if self.secure_aggregation and self.mechanism != "discrete_gaussian":
            raise ValueError("secure_aggregation adds up whole numbers: set mechanism = 'discrete_gaussian'")
        if self.secure_aggregation and not self.collusion < 1 - 2 * self.dropout:
            raise ValueError(f"collusion = {self.collusion} is not below 1 - 2 dropout = {1 - 2 * self.dropout:.3g}")
        sampled = self.sampling != "none" and self.cohorts == "secret" and self.noise != "none"
        if self.secure_aggregation and sampled:
            raise ValueError(
                "secure_aggregation guards against the coordinator, which draws the cohorts: set cohorts = 'visible', "
                "or sampling = 'none'"
            )
        if self.cap and self.sampling != "truncated_poisson":
            raise ValueError(f"cap = {self.cap} needs sampling = 'truncated_poisson'")


class Measurements(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `sottovoce measure` may release about the devices, besides the model and within the same epsilon.

    It has to be known before training: what is planned later counts as chosen after seeing results.

    Attributes:
        quality: how many times the model's quality may be measured on held-out rows.
        calibration: how many times its calibration may be fitted on training rows.
        clip: how many times the norms of updates may be counted.
        popularity: how many times impressions and clicks by ad may be counted.
        noise_multiplier: z of each; unused where `privacy.noise` is `none`.
        sampling_rate: chance of a device to be asked; 1 asks all.
        clip_norm: largest L2 norm of one device's histogram, in rows. `clip` has a bound of its own.
    """

    quality: Planned = 0
    calibration: Planned = 0
    clip: Planned = 0
    popularity: Planned = 0
    noise_multiplier: Annotated[float, msgspec.Meta(ge=0.1, le=1e6)] = 5.0
    sampling_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    clip_norm: Annotated[float, msgspec.Meta(ge=1e-6, le=1e6)] = 4.0


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every setting of a run.

    Attributes:
        rounds: training rounds.
        seed: of the initial weights; with seeded noise, of cohorts and noise too.
        nodes: nodes of the in-process grid, which train side by side.
        evaluate_every: rounds between two points of the learning curve.
        data: which data.
        model: sizes of the ranker.
        local: what devices do in a round.
        server: how the model moves.
        collect: when a round closes.
        robust: how single updates are added up.
        privacy: what may be revealed.
        measure: what of it measurements may reveal.
    """

    rounds: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 60
    seed: Seed = 0
    nodes: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 2
    evaluate_every: Count = 10
    data: DataSource = DataSource()
    model: RankerConfig = RankerConfig()
    local: LocalTraining = LocalTraining()
    server: ServerOptimizer = ServerOptimizer()
    collect: Collecting = Collecting()
    robust: Robust = Robust()
    privacy: PrivacyTarget = PrivacyTarget()
    measure: Measurements = Measurements()

    def __post_init__(self) -> None:
        """Refuse settings that are good only each by itself."""
        if self.privacy.secure_aggregation and self.nodes < LEAST_NODES:
            raise ValueError(
                f"secure_aggregation needs nodes = {LEAST_NODES} or more: of two, each knows the other's part"
            )
        if self.privacy.secure_aggregation and any(
            (self.measure.quality, self.measure.calibration, self.measure.clip, self.measure.popularity)
        ):
            raise ValueError("secure_aggregation covers training alone: plan no measurements, which are sums in clear")
        if self.local.record is not None and not self.model.embedding_width:
            raise ValueError("local.record needs a model.embedding_width above 0: it cannot train a linear model")
        if self.robust.rule != "sum" and self.privacy.noise != "none":
            raise ValueError(
                f"robust.rule = {self.robust.rule!r} looks at single updates, and the noise of a private run is made "
                "for their sum: use it with privacy.noise = 'none' only, or set robust.rule = 'sum'"
            )

    def to_toml(self) -> str:
        """The experiment with every default filled in."""
        told = msgspec.to_builtins(self)
        if told["local"]["record"] is not None:
            return tomli_w.dumps(told)
        # TOML has no word for nothing: an absent section is off, and shown as a comment.
        del told["local"]["record"]
        off = tomli_w.dumps({"local": {"record": msgspec.to_builtins(RecordTarget())}})
        hidden = "".join(f"# {line}\n" for line in off.splitlines())
        return f"{tomli_w.dumps(told)}\n# Record-level privacy on the device, off without this section:\n{hidden}"


_LINEAR: Mapping[str, Any] = {
    "rounds": 60,
    "model": {"embedding_width": 0, "interest_counts": False, "personal_variance": 1.0},
    "local": {"steps": 1, "learning_rate": 1.0},
    "server": {"kind": "momentum", "schedule": "linear", "shrinkage": 0.12},
    "privacy": {"sampling": "none", "clip_norm": 2.0},
}
"""Where a few thousand devices are all there are: see decision 0018."""


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "market": {"model": {"click_rate": 0.05, "conversion_rate": 0.1}, "server": {"learning_rate": 0.05}},
    "kuairand": _merge(_LINEAR, {"model": {"click_rate": 0.35}, "server": {"learning_rate": 305.0}}),
    "movietweetings": _merge(_LINEAR, {"server": {"learning_rate": 100.0}, "privacy": {"delta": 1e-4}}),
    "completejourney": _merge(
        _LINEAR,
        {
            "model": {"interest_counts": True, "click_rate": 0.01},
            "server": {"learning_rate": 30.0},
            "privacy": {"delta": 1e-4},
        },
    ),
    "table": {},
}
"""Settings of each data set that differ from the general ones."""


def compose(file: Path | None, overrides: Iterable[tuple[str, Any]]) -> Experiment:
    """The experiment of a file, changed by overrides, over the defaults of its data set.

    Args:
        file: TOML; None for the defaults alone.
        overrides: pairs of dotted key and value, the last one wins.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not allowed; the message names it.
    """
    return composed({} if file is None else read(file), overrides)


def read(file: Path) -> dict[str, Any]:
    """What a TOML file says, unchecked.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}", "name an existing experiment file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: {error}", "correct the TOML") from error


def composed(told: Mapping[str, Any], overrides: Iterable[tuple[str, Any]]) -> Experiment:
    """The experiment that `told` describes, changed by overrides, over the defaults of its data set.

    Raises:
        ConfigError: a key or value is not allowed; the message names it.
    """
    given = copy.deepcopy(dict(told))
    for key, value in overrides:
        _set(given, key.split("."), value, key)
    data = given.get("data", {})
    name = data.get("name", "market") if isinstance(data, dict) else "market"
    merged = _merge(DEFAULTS.get(name, {}) if isinstance(name, str) else {}, given)
    try:
        return msgspec.convert(merged, Experiment)
    except msgspec.ValidationError as error:
        raise ConfigError(f"experiment: {error}", "see `sottovoce simulate --show-config` for all keys") from None


def parse_override(text: str) -> tuple[str, Any]:
    """`key=value` as typed on the command line; the value is TOML, or else plain text.

    Raises:
        ConfigError: there is no `=`.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {text}: not KEY=VALUE", "write for example --set server.learning_rate=0.02")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return key.strip(), value
    return key.strip(), parsed["value"] if len(parsed) == 1 else value


def _set(table: dict[str, Any], path: list[str], value: Any, key: str) -> None:
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{key}: {part} is a value, not a section", "see `--show-config` for all keys")
    table[path[-1]] = value
