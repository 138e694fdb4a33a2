"""The table of key rotations: which next set of keys a device takes, and by which name it refuses the others."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sottovoce.models import key_rotation, key_set
from sottovoce.models.dsse import signature_of, signed_message
from sottovoce.models.key_rotation import rotate, rotate_along
from sottovoce.models.key_set import KEY_SET_TYPE, MOST_BYTES, KeySet, add_signatures, claimed, sign_key_set, signers
from sottovoce.models.signing import PAYLOAD_TYPE, generate_key, key_id, private_pem, public_pem, sign
from sottovoce.models.trust import Trust
from sottovoce.privacy.errors import BundleError, ExpiredError, RollbackError, SignatureError

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEYS = {name: generate_key() for name in "abcdefghijxy"}  # x and y are strangers
RUNTIMES = {"litert": "2.3.0"}


def pem(name):
    return public_pem(KEYS[name].public_key()).decode()


def compressed(name):
    """The same key in another spelling that PEM readers take."""
    point = (
        KEYS[name].public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    )
    head = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
    body = base64.b64encode(head + point).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{body[:64]}\n{body[64:]}\n-----END PUBLIC KEY-----\n"


class NextKeys:
    """Makes the file of a next key set; every field may be bent before `data` is called.

    The keys in use are a and b with a threshold of two; the next are b and c with a threshold of two.
    """

    def __init__(self, **bends):
        self.set = {
            "model_id": "line",
            "version": 2,
            "threshold": 2,
            "keys": [pem("b"), pem("c")],
            "expires": "2027-11-23T12:00:00Z",
            "last_version": None,
        }
        self.signers, self.payload, self.payload_type, self.signed_type = "abc", None, KEY_SET_TYPE, None
        self.repeat, self.envelope = 1, lambda text: text
        if isinstance(bends.get("keys"), str):
            bends["keys"] = [pem(name) for name in bends["keys"]]
        for name, value in bends.items():
            if name in self.set:
                self.set[name] = value
            else:
                setattr(self, name, value)

    def data(self):
        """Written without the code under test, so that impossible sets can be made too."""
        payload = json.dumps(self.set, sort_keys=True, separators=(",", ":")).encode()
        if self.payload is not None:
            payload = self.payload(payload)
        message = signed_message(payload, self.signed_type or self.payload_type)
        signatures = [signature_of(KEYS[name], message) for name in self.signers] * self.repeat
        outer = {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": self.payload_type,
            "signatures": [{"sig": base64.b64encode(raw).decode()} for raw in signatures],
        }
        return self.envelope(json.dumps(outer, sort_keys=True, separators=(",", ":")).encode())


@pytest.fixture
def trust():
    return Trust((KEYS["a"].public_key(), KEYS["b"].public_key()), threshold=2, version=7, model_id="line")


TAKEN = {
    "one of two keys is exchanged": {},
    "all keys are exchanged": {"keys": "cd", "signers": "abcd"},
    "the keys stay and only the expiry moves": {"keys": "ab", "signers": "ab"},
    "the order of the signatures does not matter": {"signers": "cba"},
    "a stranger's signature beside enough others is ignored": {"signers": "xabc"},
    "a key that signs twice counts once, beside enough others": {"signers": "aabbcc"},
    "every signature is listed twice beside enough others": {"repeat": 2},
    "the threshold goes up": {"keys": "abc", "threshold": 3},
    "the threshold goes down": {"threshold": 1, "signers": "ab"},
    "the set grows to eight keys": {"keys": "abcdefgh", "threshold": 8, "signers": "abcdefgh"},
    "the set shrinks to one key": {"keys": "c", "threshold": 1},
    "only a threshold of the new keys signs": {"keys": "bcdef", "threshold": 2},
    "sixteen signatures are the most": {"keys": "cdefghij", "threshold": 8, "signers": "xxxxxxabcdefghij"},
    "it expires in a moment": {"expires": "2026-11-23T12:00:00.000001Z"},
}

REFUSED = {
    "only the old keys sign": ({"keys": "cd", "signers": "ab"}, SignatureError),
    "only the new keys sign": ({"keys": "cd", "signers": "cd"}, SignatureError),
    "one old key too few signs": ({"signers": "bc"}, SignatureError),
    "one new key too few signs": ({"signers": "ab"}, SignatureError),
    "nobody that is known signs": ({"keys": "xy", "signers": "xy"}, SignatureError),
    "one old key signs twice": ({"keys": "cd", "signers": "aacd"}, SignatureError),
    "one new key signs twice": ({"keys": "cd", "signers": "abcc"}, SignatureError),
    "each signature is listed twice to look like enough": ({"signers": "bc", "repeat": 2}, SignatureError),
    "a stranger stands in for an old key": ({"signers": "xbc"}, SignatureError),
    "a stranger stands in for a new key": ({"keys": "cd", "signers": "abcx"}, SignatureError),
    "an old threshold of keys cannot raise the new threshold alone": (
        {"keys": "abc", "threshold": 3, "signers": "ab"},
        SignatureError,
    ),
    "the version stays the same": ({"version": 1}, RollbackError),
    "a version is left out": ({"version": 3}, BundleError),
    "the version is the largest there is": ({"version": 2**53 - 1}, BundleError),
    "the version is zero": ({"version": 0}, BundleError),
    "the version is text": ({"version": "2"}, BundleError),
    "it expired a year ago": ({"expires": "2025-11-23T12:00:00Z"}, ExpiredError),
    "it expires at this moment": ({"expires": "2026-11-23T12:00:00Z"}, ExpiredError),
    "its expiry is in local time": ({"expires": "2027-11-23T12:00:00+01:00"}, BundleError),
    "its expiry has no time zone": ({"expires": "2027-11-23T12:00:00"}, BundleError),
    "it is of another line": ({"model_id": "other"}, BundleError),
    "it is of a line without a name": ({"model_id": ""}, BundleError),
    "a key is listed twice": ({"keys": "bcc"}, BundleError),
    "a key is listed twice to reach the threshold": ({"keys": "bb", "signers": "ab"}, BundleError),
    "a key is listed twice in two spellings": ({"keys": [pem("b"), pem("c"), compressed("c")]}, BundleError),
    "a key has another spelling": ({"keys": [pem("b"), pem("c").replace("\n", "\r\n")]}, BundleError),
    "a key is followed by a comment": ({"keys": [pem("b"), pem("c") + "second"]}, BundleError),
    "the threshold is above the number of keys": ({"threshold": 3}, BundleError),
    "the threshold is zero": ({"threshold": 0}, BundleError),
    "there is no key": ({"keys": "", "threshold": 1}, BundleError),
    "there are nine keys": ({"keys": "abcdefghi"}, BundleError),
    "a key is of another curve": (
        {"keys": [pem("b"), public_pem(ec.generate_private_key(ec.SECP384R1()).public_key()).decode()]},
        BundleError,
    ),
    "a key is a private one": ({"keys": [pem("b"), private_pem(KEYS["c"]).decode()]}, BundleError),
    "a key is no key": ({"keys": [pem("b"), "key"]}, BundleError),
    "a key holds half a character": ({"keys": [pem("b"), "\ud800"]}, BundleError),
    "a key is missing its quotes": ({"keys": [pem("b"), 7]}, BundleError),
    "the last version is zero": ({"last_version": 0}, BundleError),
    "an unknown field is added": ({"payload": lambda p: p[:-1] + b',"zone":1}'}, BundleError),
    "a field is left out": ({"payload": lambda p: p.replace(b',"version":2', b"")}, BundleError),
    "a field is there twice": ({"payload": lambda p: p[:-1] + b',"version":2}'}, BundleError),
    "the signed set has spaces": ({"payload": lambda p: p.replace(b":2", b": 2")}, BundleError),
    "the signed set is nested deeply": ({"payload": lambda _: b"[" * 5_000}, BundleError),
    "the signed set is empty": ({"payload": lambda _: b""}, BundleError),
    "the signed set is not UTF-8": ({"payload": lambda p: p.replace(b"line", b"l\xffne")}, BundleError),
    "it is signed as a bundle": ({"signed_type": PAYLOAD_TYPE}, SignatureError),
    "it claims to be a bundle's statement": ({"payload_type": PAYLOAD_TYPE}, BundleError),
    "there is no signature": ({"signers": ""}, BundleError),
    "there are seventeen signatures": ({"signers": "abc" + "x" * 14}, BundleError),
    "a byte is added": ({"envelope": lambda t: t + b"\n"}, BundleError),
    "a byte is put in front": ({"envelope": lambda t: b"\xef\xbb\xbf" + t}, BundleError),
    "the envelope has spaces": ({"envelope": lambda t: t.replace(b'","', b'", "')}, BundleError),
    "the envelope has an unknown field": ({"envelope": lambda t: t[:-1] + b',"zone":1}'}, BundleError),
    "the envelope names its payload twice": ({"envelope": lambda t: b'{"payload":"",' + t[1:]}, BundleError),
    "the envelope is nested deeply": ({"envelope": lambda _: b'{"payload":' * 1_000}, BundleError),
    "the base64 of a signature is broken": ({"envelope": lambda t: t.replace(b'"sig":"', b'"sig":"*')}, SignatureError),
    "the base64 of a signature has a line break": (
        {"envelope": lambda t: t.replace(b'"sig":"', b'"sig":"\\n')},
        SignatureError,
    ),
    "it is one byte too long": ({"envelope": lambda t: t + b" " * (MOST_BYTES + 1 - len(t))}, BundleError),
    "it is empty": ({"envelope": lambda _: b""}, BundleError),
}


def test_the_table_is_as_long_as_it_should_be():
    assert len(TAKEN) + len(REFUSED) >= 70


@pytest.mark.parametrize("bends", TAKEN.values(), ids=TAKEN)
def test_taken_when(trust, bends):
    made = NextKeys(**bends)
    after = rotate(trust, made.data(), NOW)
    assert [public_pem(key).decode() for key in after.keys] == made.set["keys"]
    assert (after.threshold, after.key_version) == (made.set["threshold"], 2)
    assert (after.version, after.model_id) == (7, "line")


@pytest.mark.parametrize(("bends", "error"), REFUSED.values(), ids=REFUSED)
def test_refused_when(trust, bends, error):
    before = replace(trust)
    with pytest.raises(BundleError) as caught:
        rotate(trust, NextKeys(**bends).data(), NOW)
    assert type(caught.value) is error
    assert trust == before


def test_the_file_that_is_written_is_the_one_in_the_table(trust):
    key_set = KeySet(
        model_id="line", version=2, threshold=2, keys=(pem("b"), pem("c")), expires=NOW + timedelta(days=365)
    )
    data = sign_key_set(key_set, [KEYS[name] for name in "abc"])
    after, by_hand = rotate(trust, data, NOW), rotate(trust, NextKeys().data(), NOW)
    names = [[key_id(key) for key in belief.keys] for belief in (after, by_hand)]
    assert names[0] == names[1]
    assert after.keys_expire == by_hand.keys_expire == key_set.expires
    inner = [base64.b64decode(json.loads(file)["payload"]) for file in (data, NextKeys().data())]
    assert inner[0] == inner[1] == key_set.canonical()


def test_every_bit_and_every_truncation_of_the_file_is_guarded(trust):
    alone = replace(trust, keys=trust.keys[:1], threshold=1)
    data = NextKeys(keys="a", threshold=1, signers="a").data()
    rotate(alone, data, NOW)
    for length in range(len(data)):
        with pytest.raises(BundleError):
            rotate(alone, data[:length], NOW)
    for bit in range(8 * len(data)):
        bent = bytearray(data)
        bent[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BundleError):
            rotate(alone, bytes(bent), NOW)


def test_a_bundles_signature_rotates_no_keys(trust):
    payload = sign({"keys": b"{}"}, [KEYS["a"], KEYS["b"]], "line")
    with pytest.raises(BundleError):
        rotate(trust, payload, NOW)


def test_a_file_is_measured_before_it_is_parsed_and_signed_before_it_is_read(trust, monkeypatch):
    monkeypatch.setattr(
        key_rotation, "read_key_set", lambda *_: pytest.fail("read before the old keys' signatures held")
    )
    with pytest.raises(SignatureError):
        rotate(trust, NextKeys(signers="bc").data(), NOW)
    monkeypatch.setattr(key_set, "_open", lambda *_: pytest.fail("parsed before it was measured"))
    with pytest.raises(BundleError, match="more than"):
        rotate(trust, b"[" * (MOST_BYTES + 1), NOW)


CHAIN = [
    {},
    {"version": 3, "keys": "cd", "signers": "bcd", "expires": "2026-01-01T00:00:00Z"},
    {"version": 4, "keys": "de", "signers": "cde"},
]


def test_a_device_that_was_off_walks_the_chain_past_sets_that_expired_meanwhile(trust):
    chain = [NextKeys(**bends).data() for bends in CHAIN]
    after = rotate_along(trust, chain, NOW)
    assert (after.key_version, [key_id(key) for key in after.keys]) == (
        4,
        [key_id(KEYS[name].public_key()) for name in "de"],
    )
    with pytest.raises(ExpiredError):
        rotate_along(trust, chain[:2], NOW)


@pytest.mark.parametrize(
    ("order", "error"),
    [
        ((0, 2), SignatureError),
        ((1, 2), SignatureError),
        ((0, 0, 1, 2), RollbackError),
        ((0, 1, 2, 2), RollbackError),
    ],
    ids=["a link is missing", "the first link is missing", "a link is there twice", "the last link is there twice"],
)
def test_a_chain_with_one_bad_link_is_refused_whole(trust, order, error):
    with pytest.raises(error):
        rotate_along(trust, [NextKeys(**CHAIN[place]).data() for place in order], NOW)


def test_an_old_key_set_comes_back_as_a_rollback_even_with_every_key(trust):
    after = rotate(trust, NextKeys(keys="ab", signers="ab").data(), NOW)
    with pytest.raises(RollbackError):
        rotate(after, NextKeys(keys="ab", signers="ab").data(), NOW)


def test_a_device_without_a_line_takes_that_of_the_key_set(trust):
    assert rotate(replace(trust, model_id=None), NextKeys().data(), NOW).model_id == "line"


def test_after_a_rotation_bundles_by_the_old_keys_are_refused_and_by_the_new_ones_taken(publisher, trust, now):
    after = rotate(trust, NextKeys(keys="cd", signers="abcd").data(), NOW)
    publisher.version = 8
    publisher.keys = [KEYS["a"], KEYS["b"]]
    trust.accept(publisher.bundle(), now=now, runtimes=RUNTIMES)
    with pytest.raises(SignatureError):
        after.accept(publisher.bundle(), now=now, runtimes=RUNTIMES)
    publisher.keys = [KEYS["c"], KEYS["d"]]
    accepted, _ = after.accept(publisher.bundle(), now=now, runtimes=RUNTIMES)
    assert (accepted.version, accepted.key_version, accepted.keys_expire) == (8, 2, after.keys_expire)


def test_expired_keys_accept_no_bundle_until_the_next_set_comes(publisher, trust, now):
    publisher.version, publisher.keys = 8, [KEYS["b"], KEYS["c"]]
    after = rotate(trust, NextKeys(expires="2026-11-24T12:00:00Z").data(), NOW)
    after.accept(publisher.bundle(), now=now + timedelta(hours=23), runtimes=RUNTIMES)
    with pytest.raises(ExpiredError, match="keys"):
        after.accept(publisher.bundle(), now=now + timedelta(hours=24), runtimes=RUNTIMES)
    renewed = rotate(after, NextKeys(version=3, keys="bc", signers="bc").data(), now + timedelta(days=2))
    renewed.accept(publisher.bundle(), now=now + timedelta(days=2), runtimes=RUNTIMES)


def test_a_version_driven_to_the_top_with_stolen_keys_comes_back_to_the_last_honest_one(publisher, trust, now):
    stuck = replace(trust, version=2**53 - 1)
    cured = rotate(stuck, NextKeys(last_version=7).data(), NOW)
    assert cured.version == 7
    publisher.version, publisher.keys = 8, [KEYS["b"], KEYS["c"]]
    cured.accept(publisher.bundle(), now=now, runtimes=RUNTIMES)
    publisher.version = 7
    with pytest.raises(RollbackError):
        cured.accept(publisher.bundle(), now=now, runtimes=RUNTIMES)
    assert rotate(replace(trust, version=5), NextKeys(last_version=7).data(), NOW).version == 5  # never up


def test_a_wrong_call_is_the_programmers_mistake(trust):
    good = KeySet(model_id="line", version=2, threshold=1, keys=(pem("b"),), expires=NOW)
    for chain, now in (([NextKeys().data()], NOW.replace(tzinfo=None)), ([], NOW)):
        with pytest.raises(ValueError, match="needs"):
            rotate_along(trust, chain, now)
    for few_or_many in ([], [KEYS["a"]] * 17):
        with pytest.raises(ValueError, match="keys"):
            sign_key_set(good, few_or_many)
    with pytest.raises(BundleError, match="twice"):
        sign_key_set(msgspec.structs.replace(good, keys=(pem("b"), pem("b"))), [KEYS["a"]])
    for bends in ({"threshold": 2}, {"expires": NOW.astimezone(timezone(timedelta(hours=1)))}):
        with pytest.raises(ValueError, match=r"threshold|UTC"):
            msgspec.structs.replace(good, **bends)
    for bends in ({"key_version": 0}, {"keys_expire": NOW.replace(tzinfo=None)}):
        with pytest.raises(ValueError, match="needs"):
            replace(trust, **bends)


def test_owners_sign_one_after_the_other_on_machines_of_their_own(trust):
    key_set = claimed(NextKeys().data())
    data = sign_key_set(key_set, [KEYS["a"]])
    for name in "bc":
        with pytest.raises(SignatureError):
            rotate(trust, data, NOW)
        data = add_signatures(data, [KEYS[name]])
    assert rotate(trust, data, NOW).key_version == 2
    assert data == sign_key_set(key_set, [KEYS[name] for name in "abc"])
    assert add_signatures(data, [KEYS["a"], KEYS["c"]]) == data  # a second signature by one key counts for nothing
    assert add_signatures(data, [KEYS["d"], KEYS["d"]]) == add_signatures(data, [KEYS["d"]])
    found = signers(data, [KEYS[name].public_key() for name in "bcd"])
    assert found == {key_id(KEYS[name].public_key()) for name in "bc"}


def test_nobody_signs_what_is_no_key_set_or_more_than_a_file_holds():
    for bad in (b"", NextKeys(payload=lambda _: b"{}").data(), NextKeys(threshold=0).data()):
        with pytest.raises(BundleError):
            add_signatures(bad, [KEYS["a"]])
    full = NextKeys(signers="abc" + "x" * 13).data()
    with pytest.raises(ValueError, match="16"):
        add_signatures(full, [KEYS["d"]])
