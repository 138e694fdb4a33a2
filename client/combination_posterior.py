"""What a device has learned about components: a Gaussian belief for each weight, updated at each showing.

The chance of a click is Phi(sum of weights): one base weight, and for each shown component one weight of its own and
one for the component in each feature of the moment. Only those are touched, each by one closed formula, so that
learning takes microseconds and its memory is bounded.

Weights are kept under the digest of the approved component: a changed component starts afresh. What one device can
learn is little: some hundred showings say hardly more than the prior. The prior that ships with the catalogue may come
from a measurement of many devices, in this same form.

Source: Graepel, Candela, Borchert, Herbrich (2010), "Web-Scale Bayesian Click-Through Rate Prediction", section 3.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sottovoce.privacy.errors import DeviceError

MAX_BYTES = 512 * 1024
MOST_WEIGHTS = 4096
"""Weights that are kept; the ones not touched for longest go first."""

BASE = (-2.0, 0.5)
"""Mean and variance of the base weight before anything is known: clicks are rare."""

OWN = (0.0, 0.04)
"""Of a component's own weight: at 1 % clicks, one standard deviation is about half as many or twice as many."""

MOMENT = (0.0, 0.01)
"""Of a component in one feature of the moment."""

LEAST_VARIANCE = 1e-4
"""Beliefs never become certain: tastes and fashions change."""

LARGEST = 8.0
"""No mean goes beyond this."""

Gaussian = tuple[Annotated[float, Meta(ge=-LARGEST, le=LARGEST)], Annotated[float, Meta(gt=0, le=1)]]


class Posterior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Beliefs by key, least recently touched first. Personal data once a device has learned: the store encrypts it."""

    version: Literal[1] = 1
    weights: Annotated[dict[Annotated[str, Meta(max_length=96)], Gaussian], Meta(max_length=MOST_WEIGHTS)] = {}

    def belief(self, key: str) -> tuple[float, float]:
        """Mean and variance of a weight."""
        return self.weights.get(key) or _prior(key)

    def score(self, digest: str, features: Iterable[str]) -> tuple[float, float]:
        """Mean and variance of a component's part of the sum, in a moment with these features."""
        beliefs = [self.belief(key) for key in keys(digest, features)]
        return sum(mean for mean, _ in beliefs), sum(variance for _, variance in beliefs)


def keys(digest: str, features: Iterable[str]) -> list[str]:
    """Names of the weights of one component.

    Args:
        digest: SHA-256 of the component's subject, hexadecimal.
        features: of the moment.
    """
    return [digest[:32], *(f"{digest[:32]}|{feature}" for feature in features)]


def learned(posterior: Posterior, digests: Iterable[str], features: Iterable[str], clicked: bool) -> Posterior:
    """The belief after one showing.

    Args:
        posterior: before.
        digests: of the components that were shown.
        features: of the moment then.
        clicked: what came of it.
    """
    features = tuple(features)
    touched = ["base", *(key for digest in digests for key in keys(digest, features))]
    before = {key: posterior.belief(key) for key in touched}
    sign = 1.0 if clicked else -1.0
    total = math.sqrt(1.0 + sum(variance for _, variance in before.values()))
    v, w = _corrections(sign * sum(mean for mean, _ in before.values()) / total)
    after = {
        key: (
            min(max(mean + sign * variance / total * v, -LARGEST), LARGEST),
            max(variance * (1 - variance / (total * total) * w), LEAST_VARIANCE),
        )
        for key, (mean, variance) in before.items()
    }
    kept = {key: value for key, value in posterior.weights.items() if key not in after} | after
    while len(kept) > MOST_WEIGHTS:
        del kept[next(iter(kept))]
    return Posterior(1, kept)


def _prior(key: str) -> tuple[float, float]:
    return BASE if key == "base" else MOMENT if "|" in key else OWN


def _corrections(t: float) -> tuple[float, float]:
    """phi(t) / Phi(t) and its share of the variance that is gone."""
    below = 0.5 * math.erfc(-t / math.sqrt(2))
    # Far in the tail the quotient of two tiny numbers tends to -t.
    v = math.exp(-0.5 * t * t) / math.sqrt(2 * math.pi) / below if t > -30 else -t
    return v, min(max(v * (v + t), 0.0), 1.0)


_decoder = msgspec.json.Decoder(Posterior)


def decode_posterior(data: bytes, name: str = "posterior.json") -> Posterior:
    """The posterior in `data`.

    Args:
        data: JSON.
        name: of the file, for messages.

    Raises:
        DeviceError: too large, not JSON, too many weights, or a value out of range.
    """
    if len(data) > MAX_BYTES:
        raise DeviceError(f"{name}: {len(data)} bytes, at most {MAX_BYTES} are read", "start from the shipped one")
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DeviceError(f"{name}: {error}", "start from the shipped one") from error


def encode_posterior(posterior: Posterior) -> bytes:
    """What `decode_posterior` reads."""
    return msgspec.json.encode(posterior)
