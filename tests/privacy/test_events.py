"""The closed list of events: nothing else can be read, nothing impossible can be made."""

import math

import msgspec
import pytest

from sottovoce.privacy.events import Event, Gaussian, NonPrivate, PoissonGaussian, TruncatedPoissonGaussian


@pytest.mark.parametrize(
    "event",
    [
        PoissonGaussian(sampling_rate=0.02, noise_multiplier=1.0),
        TruncatedPoissonGaussian(population=6040, sampling_rate=0.02, cap=160, noise_multiplier=1.0),
        Gaussian(noise_multiplier=2.0),
        NonPrivate(sampling_rate=0.5),
    ],
)
def test_events_survive_json(event):
    assert msgspec.json.decode(msgspec.json.encode(event), type=Event) == event
    assert hash(event) == hash(msgspec.json.decode(msgspec.json.encode(event), type=Event))


@pytest.mark.parametrize(
    ("rate", "noise"), [(0, 1), (1.1, 1), (-0.1, 1), (math.nan, 1), (0.5, 0), (0.5, -1), (0.5, math.inf)]
)
def test_impossible_parameters_are_refused(rate, noise):
    with pytest.raises(ValueError, match="needs 0 < sampling_rate"):
        PoissonGaussian(sampling_rate=rate, noise_multiplier=noise)
    with pytest.raises(ValueError, match="needs 0 < sampling_rate"):
        TruncatedPoissonGaussian(population=9, sampling_rate=rate, cap=5, noise_multiplier=noise)


@pytest.mark.parametrize("noise", [0, -1, math.inf, math.nan])
def test_an_unsampled_sum_needs_noise_too(noise):
    with pytest.raises(ValueError, match="0 < noise_multiplier"):
        Gaussian(noise_multiplier=noise)


@pytest.mark.parametrize(("population", "cap"), [(9, 0), (9, -1), (9, 10), (0, 0)])
def test_a_cap_lies_between_one_and_everybody(population, cap):
    with pytest.raises(ValueError, match="cap <= population"):
        TruncatedPoissonGaussian(population=population, sampling_rate=0.5, cap=cap, noise_multiplier=1)


def test_the_text_of_every_event_stays_what_ledgers_hold():
    # A ledger is replayed for years: tags, names and their order may never change.
    events = [
        PoissonGaussian(sampling_rate=0.5, noise_multiplier=1.0),
        TruncatedPoissonGaussian(population=9, sampling_rate=0.5, cap=5, noise_multiplier=1.0),
        Gaussian(noise_multiplier=1.0),
        NonPrivate(sampling_rate=0.5),
    ]
    assert [msgspec.json.encode(event) for event in events] == [
        b'{"type":"poisson_gaussian","sampling_rate":0.5,"noise_multiplier":1.0,'
        b'"scheme":"poisson","adjacency":"zero_out"}',
        b'{"type":"truncated_poisson_gaussian","population":9,"sampling_rate":0.5,"cap":5,'
        b'"noise_multiplier":1.0,"adjacency":"zero_out"}',
        b'{"type":"gaussian","noise_multiplier":1.0,"adjacency":"zero_out"}',
        b'{"type":"non_private","sampling_rate":0.5}',
    ]


@pytest.mark.parametrize(
    "text",
    [
        b'{"type":"os.system","args":["true"]}',
        b'{"module_name":"dp_accounting","class_name":"NoOpDpEvent"}',
        b'{"type":"poisson_gaussian","sampling_rate":0.1,"noise_multiplier":1,"scheme":"fixed_size"}',
        b'{"type":"poisson_gaussian","sampling_rate":0.1,"noise_multiplier":1,"adjacency":"replace_one"}',
        b'{"type":"poisson_gaussian","sampling_rate":0.1,"noise_multiplier":-1}',
        b'{"type":"poisson_gaussian","sampling_rate":0.1,"noise_multiplier":1,"free":0}',
        b'{"type":"truncated_poisson_gaussian","population":9,"sampling_rate":0.1,"cap":10,"noise_multiplier":1}',
        b'{"type":"truncated_poisson_gaussian","sampling_rate":0.1,"cap":5,"noise_multiplier":1}',
        b'{"type":"gaussian","noise_multiplier":1,"adjacency":"replace_one"}',
        b'{"type":"gaussian","noise_multiplier":1,"sampling_rate":0.1}',
        b'{"type":"non_private"}',
    ],
)
def test_an_unknown_event_is_refused_and_nothing_is_imported_for_it(text):
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(text, type=Event)
