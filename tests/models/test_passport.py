"""Only a passport with a real guarantee lets a model out."""

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.models.passport import SIMULATION, load_passport, releasable
from sottovoce.privacy.errors import BundleError, GateError

change = msgspec.structs.replace


def test_a_private_run_may_be_released(passport):
    assert releasable(passport) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise_source": "seeded", "label": SIMULATION},
        {"noise_source": "none", "label": SIMULATION},
        {"label": SIMULATION},
        {"ledger_head": ""},
        {"ledger_length": 0},
        {"epsilon": None},
        {"epsilon": math.inf},
        {"epsilon": math.nan},
        {"epsilon_known_cohort": None},
        {"epsilon_known_cohort": math.inf},
        {"epsilon_known_cohort": 1.0},
        {"noise_multiplier": 0.0},
        {"clip_norm": 0.0},
    ],
    ids=str,
)
def test_a_passport_without_a_guarantee_is_refused_by_name(passport, wrong):
    with pytest.raises(GateError, match=r"^SIMULATION: NO GUARANTEE"):
        releasable(change(passport, **wrong))


@pytest.mark.parametrize("source", ["seeded", "none"])
def test_simulated_noise_cannot_be_labelled_as_anything_else(passport, source):
    with pytest.raises(ValueError, match="SIMULATION"):
        change(passport, noise_source=source, label="private")
    told = change(passport, noise_source="secure").canonical().replace(b'"secure"', f'"{source}"'.encode())
    with pytest.raises(BundleError, match="SIMULATION"):
        load_passport(told)


def test_a_passport_survives_the_file_and_an_infinite_epsilon_stays_unbounded(passport):
    assert load_passport(passport.canonical()) == passport
    assert load_passport(change(passport, epsilon=math.inf).canonical()).epsilon is None


def test_the_digest_moves_with_every_field(passport):
    assert change(passport, ledger_length=402).digest() != passport.digest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"delta":0.00001', b'"delta":1.5'),
        (b'"rounds":200', b'"rounds":-1'),
        (b'"unit":"device"', b'"unit":"event"'),
        (b'"adjacency":"zero_out"', b'"adjacency":"none"'),
        (b"abab", b"ABAB"),
        (b'"unit"', b'"more":1,"unit"'),
        (b'"sampling":"poisson",', b""),
    ],
)
def test_impossible_values_are_refused(passport, old, new):
    data = passport.canonical()
    assert old in data or b"1e-5" in data
    with pytest.raises(BundleError, match="passport"):
        load_passport(data.replace(old, new).replace(b'"delta":1e-5', b'"delta":1.5'))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_only_cause_bundle_errors(data):
    with pytest.raises(BundleError):
        load_passport(data)
