"""Each device alone decides whether it is among the first: the same way every time, and fairly."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sottovoce.models.rollout import Rollout, takes_part

SECRETS = st.binary(min_size=16, max_size=64)
SALTS = st.text(min_size=1, max_size=40)
PERCENTS = st.floats(0, 100)
DEVICES = [hashlib.sha256(b"device %d" % number).digest() for number in range(20_000)]


@given(SALTS, SECRETS, PERCENTS, PERCENTS)
def test_a_device_inside_a_share_is_inside_every_larger_share_of_the_same_salt(salt, secret, one, other):
    small, large = sorted((one, other))
    inside = takes_part(Rollout(percent=small, salt=salt), secret)
    assert takes_part(Rollout(percent=large, salt=salt), secret) or not inside


@given(SALTS, SECRETS)
def test_nobody_is_in_at_zero_and_everybody_at_a_hundred(salt, secret):
    assert not takes_part(Rollout(percent=0.0, salt=salt), secret)
    assert takes_part(Rollout(percent=100.0, salt=salt), secret)


@pytest.mark.parametrize("percent", [0.1, 1.0, 10.0, 25.0, 50.0, 90.0, 99.9])
def test_the_share_is_the_one_asked_for(percent):
    inside = sum(takes_part(Rollout(percent=percent, salt="line 7"), secret) for secret in DEVICES)
    share = percent / 100
    assert abs(inside - share * len(DEVICES)) < 4.5 * math.sqrt(share * (1 - share) * len(DEVICES))


def test_devices_are_spread_evenly_over_all_percents():
    """Chi squared with 19 degrees of freedom stays below 60 but once in 250,000 fair draws."""
    edges = [Rollout(percent=float(percent), salt="s") for percent in range(0, 101, 5)]
    counts = np.diff([sum(takes_part(edge, device) for device in DEVICES[:5_000]) for edge in edges])
    assert counts.sum() == 5_000
    assert ((counts - 250.0) ** 2 / 250.0).sum() < 60


def test_another_salt_draws_anew():
    """A tenth of a tenth is in both: nobody is the first to get every release."""
    both = sum(all(takes_part(Rollout(percent=10.0, salt=f"line {v}"), d) for v in (7, 8)) for d in DEVICES)
    assert 140 < both < 260


def test_a_salt_does_not_run_into_the_secret():
    """Plain concatenation would hash these pairs alike."""
    secret = bytes(range(65, 97))
    alike = sum(
        takes_part(Rollout(percent=50.0, salt=f"{n}A"), secret)
        == takes_part(Rollout(percent=50.0, salt=f"{n}"), b"A" + secret)
        for n in range(400)
    )
    assert 150 < alike < 250


def test_the_choice_is_the_same_in_every_implementation():
    """Other languages must agree: SHA-256 of tag, length, salt and secret; the first eight bytes as a number."""
    digest = hashlib.sha256(b"sottovoce rollout" + bytes([0, 0, 0, 6]) + b"line 7" + bytes(16)).digest()
    edge = int.from_bytes(digest[:8], "big") / 2**64 * 100
    assert takes_part(Rollout(percent=edge + 1e-9, salt="line 7"), bytes(16))
    assert not takes_part(Rollout(percent=edge - 1e-9, salt="line 7"), bytes(16))


def test_a_wrong_call_is_the_programmers_mistake():
    with pytest.raises(ValueError, match="16"):
        takes_part(Rollout(percent=10.0, salt="s"), b"device-7")
    for percent, salt in ((-0.1, "s"), (100.1, "s"), (math.nan, "s"), (10.0, ""), (10.0, "s" * 257)):
        with pytest.raises(ValueError, match="percent"):
            Rollout(percent=percent, salt=salt)
