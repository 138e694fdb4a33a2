"""One description of the features, used to train, to export and to serve.

Every categorical value becomes a row of one embedding table. Row 0 is padding: missing or unknown values land there and
read as zero. Each feature owns a contiguous block of rows after it, in declaration order; the last block holds the
outcomes of past events. Because training and serving call the same encoder, and a bundle carries the schema's digest,
a phone cannot encode differently from the fleet that trained the model without noticing.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from sottovoce.privacy.errors import SchemaError

Ids = npt.NDArray[np.int32]
Value = str | int | float | None

OUTCOMES = ("seen", "click", "conversion")
"""What became of a past impression, in the order of the outcome rows."""


NUMERALS: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "integer": re.compile(r"-?[0-9]+(\.0+)?"),
        "bucket": re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?"),
    }
)
"""Texts that a kind reads as a number; the whole text must match, and nothing but ASCII does.

What a language's own parser takes beyond that differs from one to the next: white space, a plus sign, underscores,
digits of other scripts, `.5`, `0x1`, `inf`. The zeros after a whole number are what tables write in columns with gaps.
"""


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One categorical feature.

    Attributes:
        name: as it is called in data files, page contexts and catalogues.
        source: who knows it. `device`: the phone about itself; `context`: the page or moment; `ad`: the catalogue.
        kind: how a value finds its row.
            `hash`: any string or number, SHA-256 of "seed|name|value";
            `integer`: whole numbers 0 ... buckets - 1, others count as missing;
            `bucket`: real numbers, by `boundaries`; value < boundaries[0] is bucket 0.
            Text counts as the number that it spells by `NUMERALS`, and otherwise as missing.
        buckets: rows of its own. For `bucket` it must be len(boundaries) + 1.
        seed: of the hash.
        boundaries: strictly increasing, for `bucket` only.
        in_history: the device remembers this ad feature of past impressions (source `ad` only).
        privacy: `public` for catalogue facts, `local` for what never leaves the device.
        retention_days: how long the device may keep it.
    """

    name: str
    source: Literal["device", "context", "ad", "page_match", "read_match"]
    kind: Literal["hash", "integer", "bucket"] = "hash"
    buckets: int
    seed: int = 0
    boundaries: tuple[float, ...] = ()
    in_history: bool = False
    privacy: Literal["public", "local"] = "local"
    retention_days: int = 60

    def __post_init__(self) -> None:
        """Refuse a feature that could not be encoded."""
        if not self.name or self.buckets < 1 or self.retention_days < 0:
            raise SchemaError(
                f"feature {self.name!r}: needs a name, buckets >= 1, retention_days >= 0", "correct the schema"
            )
        if self.kind == "bucket":
            rising = all(low < high for low, high in zip(self.boundaries, self.boundaries[1:], strict=False))
            if len(self.boundaries) + 1 != self.buckets or not rising or not all(map(math.isfinite, self.boundaries)):
                raise SchemaError(
                    f"feature {self.name!r}: bucket boundaries must be increasing and one fewer than buckets",
                    "list the boundaries in increasing order and set buckets to their number plus one",
                )
        elif self.boundaries:
            raise SchemaError(f"feature {self.name!r}: only kind 'bucket' takes boundaries", "remove the boundaries")
        if self.source == "page_match" and (self.kind, self.buckets) != ("integer", 2):
            raise SchemaError(f"feature {self.name!r}: a page matches or not", "use kind = 'integer' and buckets = 2")
        if self.source == "read_match" and self.kind != "bucket":
            raise SchemaError(f"feature {self.name!r}: a lift is a number", "use kind = 'bucket' with boundaries")
        if self.in_history and self.source != "ad":
            raise SchemaError(f"feature {self.name!r}: only ad features are kept in the history", "unset in_history")

    def reads(self, text: str) -> bool:
        """Whether the text says something to this feature, even if it then counts as missing for its size."""
        return self.kind == "hash" or NUMERALS[self.kind].fullmatch(text) is not None

    def bucket(self, value: Value) -> int:
        """Row of `value` within this feature's block, or -1 when it is missing or unknown."""
        if value is None or (isinstance(value, float) and math.isnan(value)) or value == "":
            return -1
        if self.kind == "hash":
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            digest = hashlib.sha256(f"{self.seed}|{self.name}|{value}".encode()).digest()
            return int.from_bytes(digest[:8], "big") % self.buckets
        if isinstance(value, str) and not self.reads(value):
            return -1
        number = float(value)
        if self.kind == "bucket":
            return int(np.searchsorted(np.asarray(self.boundaries), number, side="right"))
        return int(number) if number.is_integer() and 0 <= number < self.buckets else -1


class Topic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which pages are about which ads: what match features compare, see `models.topics`. Public.

    Attributes:
        page: name of a context feature.
        ad: name of an ad feature.
        pairs: value of the page feature, and the value of the ad feature that it is about.
    """

    page: str
    ad: str
    pairs: tuple[tuple[str | int, str | int], ...]


class FeatureSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """The features of a model, in the order of its inputs.

    Attributes:
        features: order matters: it fixes the table rows and the input columns.
        history_length: how many of the last events the device shows to the model.
        heads: what is predicted; `conversion` is given a click.
        topic: what match features compare; unset where there are none.
    """

    features: tuple[Feature, ...]
    history_length: int = 20
    heads: tuple[Literal["click", "conversion"], ...] = ("click",)
    # Absent from the canonical bytes where there is none, which keeps the digests of schemas without one.
    topic: Topic | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        """Refuse ambiguous names and schemas without ads."""
        names = [feature.name for feature in self.features]
        if len(set(names)) != len(names):
            raise SchemaError(f"feature named twice in {names}", "give each feature its own name")
        if not any(feature.source == "ad" for feature in self.features):
            raise SchemaError("schema has no ad feature", "add at least one feature with source = 'ad'")
        if not self.context:
            # Runtimes divide by the width of an input, some of them without looking.
            raise SchemaError(
                "schema has no device or context feature", "add one, such as the kind of device or the hour of the day"
            )
        if self.heads not in {("click",), ("click", "conversion")}:
            raise SchemaError(f"heads {self.heads} unknown", "use ('click',) or ('click', 'conversion')")
        self._check_topic()
        if not 1 <= self.history_length <= 256:
            raise SchemaError(f"history_length {self.history_length} out of 1 ... 256", "choose a length in range")

    def _check_topic(self) -> None:
        """Refuse match features without anything to compare, and the other way round."""
        topic = self.topic or None
        if (topic is None) != (not self.matches):
            raise SchemaError("match features and a topic go together", "give both or neither")
        if topic is None:
            return
        pages = {feature.name for feature in self.features if feature.source == "context"}
        ads = {feature.name for feature in self.features if feature.source == "ad"}
        if topic.page not in pages or topic.ad not in ads or not topic.pairs:
            raise SchemaError(
                f"topic compares {topic.page!r} and {topic.ad!r}",
                "name a context feature and an ad feature of this schema, and at least one pair of their values",
            )

    @cached_property
    def rows(self) -> int:
        """Rows of the embedding table: padding, every feature's block, the outcomes."""
        return 1 + sum(feature.buckets for feature in self.features) + len(OUTCOMES)

    @cached_property
    def offsets(self) -> Mapping[str, int]:
        """First row of each feature's block."""
        starts = np.cumsum([1, *(feature.buckets for feature in self.features)])
        return dict(zip((feature.name for feature in self.features), (int(s) for s in starts), strict=False))

    @cached_property
    def context(self) -> tuple[Feature, ...]:
        """Features known once per request: of the device, then of the moment, in declaration order."""
        known_once = (feature for feature in self.features if feature.source in ("device", "context"))
        return tuple(sorted(known_once, key=lambda feature: feature.source == "context"))

    @cached_property
    def ad(self) -> tuple[Feature, ...]:
        """Features known per candidate: history features first, `matches` last."""
        own = sorted((f for f in self.features if f.source == "ad"), key=lambda feature: not feature.in_history)
        return (*own, *self.matches)

    @cached_property
    def matches(self) -> tuple[Feature, ...]:
        """Features of the pair of candidate and request; always the last columns of `ad`, and in no catalogue."""
        return tuple(f for f in self.features if f.source in ("page_match", "read_match"))

    @cached_property
    def history(self) -> tuple[Feature, ...]:
        """Ad features remembered per past event; always the first columns of `ad`."""
        return tuple(f for f in self.ad if f.in_history)

    def outcome_row(self, outcome: str) -> int:
        """Table row of a past event's outcome, one of `OUTCOMES`."""
        return self.rows - len(OUTCOMES) + OUTCOMES.index(outcome)

    def row(self, feature: Feature, value: Value) -> int:
        """Table row of one value; 0 when it is missing or unknown."""
        bucket = feature.bucket(value)
        return 0 if bucket < 0 else self.offsets[feature.name] + bucket

    def encode(self, feature: Feature, values: Iterable[Value]) -> Ids:
        """Table rows of many values, shape (len(values),), each distinct value encoded once."""
        known: dict[Value, int] = {}
        rows = []
        for value in values:
            row = known.get(value)
            if row is None:
                row = known[value] = self.row(feature, value)
            rows.append(row)
        return np.asarray(rows, np.int32)

    def encode_one(self, features: Sequence[Feature], values: Mapping[str, Value]) -> Ids:
        """Table rows of one context or one ad, shape (len(features),); absent names count as missing."""
        return np.asarray([self.row(feature, values.get(feature.name)) for feature in features], np.int32)

    def encode_ad(self, values: Mapping[str, Value]) -> Ids:
        """Table rows of one ad of a catalogue, shape (ad features,); the columns of `matches` stay padding."""
        own = self.encode_one(self.ad[: len(self.ad) - len(self.matches)], values)
        return np.concatenate([own, np.zeros(len(self.matches), np.int32)])

    def canonical(self) -> bytes:
        """The schema as JSON with sorted keys and no spaces: what is digested and what a bundle carries."""
        return msgspec.json.encode(self, order="sorted")

    def digest(self) -> str:
        """SHA-256 of `canonical`, in hexadecimal."""
        return hashlib.sha256(self.canonical()).hexdigest()


def load_schema(data: bytes) -> FeatureSchema:
    """The schema written by `FeatureSchema.canonical`.

    Raises:
        SchemaError: not JSON, unknown or missing keys, or a feature that cannot be encoded.
    """
    try:
        return msgspec.json.decode(data, type=FeatureSchema)
    except SchemaError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SchemaError(f"feature schema cannot be read: {error}", "export the bundle again") from error
