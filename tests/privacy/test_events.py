"""The closed list of events: nothing else can be read, nothing impossible can be made."""

import math

import msgspec
import pytest

from sottovoce.privacy.events import Event, NonPrivate, PoissonGaussian


@pytest.mark.parametrize(
    "event", [PoissonGaussian(sampling_rate=0.02, noise_multiplier=1.0), NonPrivate(sampling_rate=0.5)]
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


@pytest.mark.parametrize(
    "text",
    [
        b'{"type":"os.system","args":["true"]}',
        b'{"module_name":"dp_accounting","class_name":"NoOpDpEvent"}',
        b'{"type":"poisson_gaussian","sampling_rate":0.1,"noise_multiplier":1,"scheme":"fixed_size"}',
        b'{"type":"poisson_gaussian","sampling_rate":0.1,"noise_multiplier":1,"adjacency":"replace_one"}',
        b'{"type":"poisson_gaussian","sampling_rate":0.1,"noise_multiplier":-1}',
        b'{"type":"poisson_gaussian","sampling_rate":0.1,"noise_multiplier":1,"free":0}',
        b'{"type":"non_private"}',
    ],
)
def test_an_unknown_event_is_refused_and_nothing_is_imported_for_it(text):
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(text, type=Event)
