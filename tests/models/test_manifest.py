"""The manifest reads back, and only in its one spelling."""

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.models.manifest import load_manifest, newer_or_same
from sottovoce.privacy.errors import BundleError


def test_a_manifest_survives_the_file(publisher):
    manifest = publisher.manifest()
    assert load_manifest(manifest.canonical()) == manifest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"version":7', b'"version":0'),
        (b'"version":7', b'"version":7.5'),
        (b'"version":7', b'"version":9007199254740992'),
        (b'"version":7', b'"version":7,"version":8'),
        (b'"version":7', b'"version": 7'),
        (b'"version":7', b'"version":7,"extra":1'),
        (b'"parent_version":null', b'"parent_version":7'),
        (b"2026-11-23T12:00:00Z", b"2026-11-23T12:00:00"),
        (b"2026-11-23T12:00:00Z", b"2026-11-23T13:00:00+01:00"),
        (b"2026-11-23T12:00:00Z", b"2999-11-23T12:00:00Z"),
        (b'"litert":"1.2.0"', b'"litert":"new"'),
        (b'"litert":"1.2.0"', b'"litert":"1.2.0.0.0"'),
        (b'"sha256":"', b'"sha256":"X'),
        (b'"heads":["click"', b'"heads":[1'),
        (b'"personal_variance":0.0', b'"personal_variance":-0.5'),
        (b'"personal_variance":0.0', b'"personal_variance":100.5'),
        (b'"personal_variance":0.0', b'"personal_variance":null'),
        (b'"personal_variance":0.0', b'"personal_variance":NaN'),
        (b'"personal_variance":0.0', b'"personal_variance":1e999'),
        (b'"personal_variance":0.0', b'"personal_variance":0'),
        (b'"personal_variance":0.0,', b""),
        (b'"checkpoint_digest":"' + b"cd" * 32 + b'",', b""),
        (b'"checkpoint_digest":"cd', b'"checkpoint_digest":"CD'),
        (b'"checkpoint_digest":"cd', b'"checkpoint_digest":"'),
        (b"cd" * 32, b"cd" * 32 + b"\\n"),
        (b'"key_threshold":1', b'"key_threshold":0'),
        (b'"key_threshold":1', b'"key_threshold":9'),
        (b'"key_threshold":1', b'"key_threshold":null'),
        (b'"percent":100.0', b'"percent":100'),
        (b'"percent":100.0', b'"percent":100.1'),
        (b'"percent":100.0', b'"percent":-0.1'),
        (b'"salt":"line 7"', b'"salt":""'),
        (b'"rollout":{', b'"rollout":{"device":1,'),
    ],
)
def test_impossible_or_irregular_manifests_are_refused(publisher, old, new):
    data = publisher.manifest().canonical()
    assert old in data
    with pytest.raises(BundleError, match="manifest"):
        load_manifest(data.replace(old, new, 1))


def test_times_and_versions_in_the_wrong_order_cannot_be_written(publisher):
    publisher.expires = publisher.created
    with pytest.raises(ValueError, match="expires"):
        publisher.manifest()
    publisher.expires, publisher.parent_version = publisher.created + timedelta(1), 7
    with pytest.raises(ValueError, match="parent"):
        publisher.manifest()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.recursive(st.none() | st.text(), st.lists).map(msgspec.json.encode))
def test_random_bytes_only_cause_bundle_errors(data):
    with pytest.raises(BundleError):
        load_manifest(data)


def test_a_hostile_depth_or_size_of_json_is_reported():
    for data in (b"[" * 60_000, b'{"files":' * 6_000, b'{"version":' + b"9" * 50_000 + b"}"):
        with pytest.raises(BundleError):
            load_manifest(data)


@pytest.mark.parametrize(
    ("have", "least", "enough"),
    [
        ("1.2.0", "1.2.0", True),
        ("1.2", "1.2.0", True),
        ("1.10", "1.9", True),
        ("1.9", "1.10", False),
        ("2.0.0rc1", "2.0", True),
        ("2.1rc1", "2.1", False),
        ("10", "9.9.9.9", True),
    ],
)
def test_versions_compare_by_number(have, least, enough):
    assert newer_or_same(have, least) is enough


def test_a_version_without_a_number_is_the_callers_mistake():
    with pytest.raises(ValueError, match="number"):
        newer_or_same("nightly", "1.0")
