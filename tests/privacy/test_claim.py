"""An epsilon cannot be printed without what gives it a meaning."""

import math
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sottovoce.privacy.claim import DeviceClaim, RecordClaim


@pytest.mark.parametrize("claim", [DeviceClaim(1.85273, 1e-5, guarantee=True), RecordClaim(8.08, 1e-5, guarantee=True)])
def test_a_printed_claim_names_delta_unit_adjacency_and_accountant(claim):
    for text in (str(claim), f"{claim}"):
        assert "1e-05" in text
        assert f"per {claim.unit}" in text
        assert claim.adjacency in text
        assert claim.accountant in text
        assert "NO GUARANTEE" not in text
    with pytest.raises(TypeError):
        format(claim, ".2f")


def test_the_two_observers_read_differently():
    outside, inside = DeviceClaim(1, 1e-5), DeviceClaim(1, 1e-5, observer="knows_cohorts")
    assert "outsider" in str(outside)
    assert "outsider" not in str(inside)
    assert "knows in which rounds" in str(inside)


@pytest.mark.parametrize("kind", [DeviceClaim, RecordClaim])
def test_without_a_guarantee_the_claim_starts_by_saying_so(kind):
    assert str(kind(1.0, 1e-5)).startswith("SIMULATION: NO GUARANTEE")
    assert str(kind(math.inf, 1e-5)).startswith("SIMULATION: NO GUARANTEE: epsilon infinite")
    with pytest.raises(ValueError, match="infinite"):
        kind(math.inf, 1e-5, guarantee=True)


@given(st.floats(0, 1e6))
def test_printing_never_rounds_an_epsilon_down(epsilon):
    printed = float(str(DeviceClaim(epsilon, 1e-5, guarantee=True)).split()[1])
    assert epsilon - 1e-9 * max(1, epsilon) <= printed <= epsilon + 1.001e-4


def test_a_record_claim_is_not_a_device_claim():
    device, record = DeviceClaim(1.0, 1e-5), RecordClaim(1.0, 1e-5)
    assert device != record
    assert not isinstance(record, DeviceClaim)
    with pytest.raises(FrozenInstanceError):
        device.epsilon = 0.1


@pytest.mark.parametrize("bad", [(-1.0, 1e-5), (math.nan, 1e-5), (1.0, -1e-9), (1.0, 1.5), (1.0, math.nan)])
def test_impossible_figures_are_refused(bad):
    for kind in (DeviceClaim, RecordClaim):
        with pytest.raises(ValueError, match="claim needs"):
            kind(*bad)
