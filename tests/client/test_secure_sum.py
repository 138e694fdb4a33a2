"""A node gives away one masked vector and one kind of share, whatever it is asked; every attack by its name."""

import msgspec
import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from scipy import stats
from secure_sessions import POOL, Nodes, session, up_to

from sottovoce.client.secure_messages import (
    KEYS,
    MASKED,
    SHARES,
    UNMASK,
    Advert,
    Adverts,
    Boxes,
    Masked,
    Session,
    Shares,
    Unmask,
    read,
    record,
)
from sottovoce.client.secure_node import Member
from sottovoce.client.secure_sum import masked, share
from sottovoce.models.dsse import signature_of
from sottovoce.privacy.errors import ConfigError, UpdateError
from sottovoce.privacy.masks import mask, pack, unpack
from sottovoce.server.secure_collect import SecureAggregation


def changed(content, kind, **fields):
    return record(msgspec.structs.replace(read(content, kind), **fields))


def adverts(content, change):
    told = read(content, Adverts)
    return record(Adverts(told.session, tuple(change(list(told.adverts)))))


def boxes(content, change):
    told = read(content, Boxes)
    return record(Boxes(told.session, tuple(change(list(told.boxes)))))


def unmask(survivors, dropped=()):
    return lambda nodes, content: changed(content, Unmask, survivors=tuple(survivors), dropped=tuple(dropped))


def foreign(nodes, content, kind):
    return changed(content, kind, session=bytes(32))


def middle(nodes, content):
    """The coordinator puts keys of its own in place of a node's, signed by whom it has: another enrolled node."""

    def change(listed):
        mine = msgspec.structs.replace(listed[0], cipher_key=bytes(31) + b"\x09", signature=bytes(8))
        signature = signature_of(POOL[4], mine.signed(nodes.session.digest()))
        return [msgspec.structs.replace(mine, signature=signature), *listed[1:]]

    return adverts(content, change)


def replayed(nodes, content):
    """Keys that the node really signed, in the round before."""
    earlier = up_to(SHARES)
    old = read(earlier.asked[SHARES][1], Adverts).adverts[0]
    return adverts(content, lambda listed: [old, *listed[1:]])


def flipped(box):
    return bytes([box[0] ^ 1]) + box[1:]


ATTACKS = {
    # name: (step at which node 1 is asked, the question, what it says)
    "keys: another session's": (SHARES, lambda n, c: foreign(n, c, Adverts), "another session"),
    "keys: the coordinator's own": (SHARES, middle, "not signed by its registered key"),
    "keys: of an earlier session": (SHARES, replayed, "not signed by its registered key"),
    "keys: under another's place": (
        SHARES,
        lambda n, c: adverts(c, lambda a: [msgspec.structs.replace(a[0], place=2), *a[2:]]),
        "not signed by its registered key",
    ),
    "keys: another commitment": (
        SHARES,
        lambda n, c: adverts(c, lambda a: [msgspec.structs.replace(a[0], commitment=bytes(32)), *a[1:]]),
        "not signed by its registered key",
    ),
    "keys: one node twice": (SHARES, lambda n, c: adverts(c, lambda a: [*a, a[0]]), "of one node twice"),
    "keys: the node's own": (
        SHARES,
        lambda n, c: adverts(c, lambda a: [*a, read(n.asked[SHARES][2], Adverts).adverts[1]]),
        "no neighbour",
    ),
    "keys: too few": (SHARES, lambda n, c: adverts(c, lambda a: a[:2]), "3 nodes share keys, 4"),
    "boxes: another session's": (MASKED, lambda n, c: foreign(n, c, Boxes), "another session"),
    "boxes: one bit flipped": (
        MASKED,
        lambda n, c: boxes(c, lambda b: [(b[0][0], flipped(b[0][1])), *b[1:]]),
        "box of node 0 does not open",
    ),
    "boxes: two senders swapped": (
        MASKED,
        lambda n, c: boxes(c, lambda b: [(b[0][0], b[1][1]), (b[1][0], b[0][1]), *b[2:]]),
        "box of node 0 does not open",
    ),
    "boxes: meant for another": (
        MASKED,
        lambda n, c: boxes(c, lambda b: [(0, dict(read(n.asked[MASKED][2], Boxes).boxes)[0]), *b[1:]]),
        "box of node 0 does not open",
    ),
    "boxes: one sender twice": (MASKED, lambda n, c: boxes(c, lambda b: [*b, b[0]]), "of one node twice"),
    "boxes: of a stranger": (MASKED, lambda n, c: boxes(c, lambda b: [*b, (77, b[0][1])]), "keys are not known"),
    "boxes: too few": (MASKED, lambda n, c: boxes(c, lambda b: b[:2]), "3 nodes gave shares, 4"),
    "shares: another session's": (UNMASK, lambda n, c: foreign(n, c, Unmask), "another session"),
    "shares: both kinds of one node": (UNMASK, unmask((0, 1, 2, 3), (3, 4)), "both kinds of shares of node 3"),
    "shares: one node twice": (UNMASK, unmask((0, 1, 2, 3, 3)), "of one node twice"),
    "shares: of the asked node's own key": (UNMASK, unmask((0, 2, 3, 4), (1,)), "not in the sum"),
    "shares: of a stranger": (UNMASK, unmask((0, 1, 2, 3, 77)), "takes no part"),
    "shares: a sum over too few": (UNMASK, unmask((0, 1, 2), (3, 4)), "a sum over 3 nodes, 4 are promised"),
    "shares: a sum over one": (UNMASK, unmask((1,), (0, 2, 3, 4)), "a sum over 1 nodes"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_question_that_would_open_a_vector_is_refused_by_name_and_says_nothing(name):
    step, question, said = ATTACKS[name]
    nodes = up_to(step)
    before = nodes.states[1]
    with pytest.raises(UpdateError, match=said):
        nodes.answer(step, 1, question(nodes, nodes.asked[step][1]))
    assert nodes.states[1] == before
    nodes.answer(step, 1, nodes.asked[step][1])  # the honest question is answered


@pytest.mark.parametrize("step", [SHARES, MASKED, UNMASK])
def test_a_question_is_answered_once(step):
    nodes = up_to(step)
    nodes.answer(step, 1, nodes.asked[step][1])
    with pytest.raises(UpdateError, match="out of turn"):
        nodes.answer(step, 1, nodes.asked[step][1])


def test_steps_cannot_be_skipped_and_secrets_are_gone_in_the_end():
    nodes = up_to(MASKED)
    with pytest.raises(UpdateError, match="out of turn"):
        nodes.answer(UNMASK, 1, record(Unmask(nodes.session.digest(), (0, 1, 2, 3, 4), ())))
    done = up_to(UNMASK)
    done.answer(UNMASK, 1, done.asked[UNMASK][1])
    state = done.states[1]
    assert (state.seed, state.held, state.cipher_key, state.mask_key) == (b"", {}, bytes(32), bytes(32))


def test_a_node_that_does_not_know_anothers_key_shares_nothing_with_it():
    nodes = up_to(SHARES)
    with pytest.raises(UpdateError, match="keys of node 3 are not signed"):
        share(
            nodes.states[1],
            read(nodes.asked[SHARES][1], Adverts),
            {0: POOL[0].public_key(), 2: POOL[2].public_key()} | {4: POOL[4].public_key()},
        )


def test_a_key_that_is_registered_for_two_places_signs_for_each_alone():
    nodes = up_to(SHARES)
    twice = nodes.registry | {2: nodes.registry[0]}
    moved = adverts(nodes.asked[SHARES][1], lambda a: [msgspec.structs.replace(a[0], place=2), *a[2:]])
    with pytest.raises(UpdateError, match="keys of node 2 are not signed"):
        share(nodes.states[1], read(moved, Adverts), twice)


LOW_ORDER = (
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
)
"""Points of order 4, 1 and 8: whatever the other key is, the secret is zero."""


@pytest.mark.parametrize("point", LOW_ORDER, ids=["zero", "one", "order 8"])
@pytest.mark.parametrize("field", ["cipher_key", "mask_key"])
def test_a_key_with_which_everybody_agrees_on_zero_is_refused_though_its_node_signed_it(field, point):
    nodes = up_to(SHARES)

    def change(listed):
        bad = msgspec.structs.replace(listed[0], **{field: point})
        signature = signature_of(POOL[0], bad.signed(nodes.session.digest()))
        return [msgspec.structs.replace(bad, signature=signature), *listed[1:]]

    with pytest.raises(UpdateError, match="agrees on nothing"):
        nodes.answer(SHARES, 1, adverts(nodes.asked[SHARES][1], change))


def test_keys_of_the_same_session_asked_for_once_more_open_nothing():
    """The coordinator begins one session twice: signatures of the first hold in the second, secrets do not."""
    first = up_to(SHARES)
    again = Nodes(first.session, first.vectors)
    again.ask(KEYS, dict.fromkeys(range(5), record(first.session)))
    fresh = {place: read(content, Advert) for place, content in again.sent[KEYS].items()}
    old = read(first.asked[SHARES][1], Adverts).adverts[0]
    for place in range(5):
        near = tuple(old if (place, one) == (1, 0) else fresh[one] for one in range(5) if one != place)
        again.sent[place] = read(again.answer(SHARES, place, record(Adverts(first.session.digest(), near))), Boxes)
    handed = tuple((one, dict(again.sent[one].boxes)[1]) for one in range(5) if one != 1)
    with pytest.raises(UpdateError, match="box of node 0 does not open"):
        again.answer(MASKED, 1, record(Boxes(first.session.digest(), handed)))


@pytest.mark.parametrize(("nodes", "dropout", "collusion"), [(5, 0.3, 0.0), (6, 0.3, 0.0), (10, 0.2, 0.3)])
def test_a_coordinator_that_tells_each_node_another_story_of_who_dropped_out_opens_nobody(nodes, dropout, collusion):
    run = up_to(UNMASK, nodes, dropout=dropout, collusion=collusion)
    opened, victim = run.session, nodes - 1
    everybody = range(nodes)
    stories = (everybody, ()), (everybody[:-1], (victim,))
    spies, most = range(opened.colluders), (0, 0)
    for told in range(nodes):
        # Nodes before `told` hear that the victim stayed, the others that it is lost; spies tell all they hold.
        states = dict(run.states)
        shares = {"seeds": set(spies), "keys": set(spies)}
        for place in everybody[opened.colluders :]:
            survivors, dropped = stories[place >= told and place != victim]
            answer = run.answer(UNMASK, place, record(Unmask(opened.digest(), tuple(survivors), tuple(dropped))))
            for kind, found in shares.items():
                if any(owner == victim for owner, _ in getattr(read(answer, Shares), kind)):
                    found.add(place)
        run.states = states
        most = max(most, (min(map(len, shares.values())), told))
        assert min(map(len, shares.values())) < opened.threshold
    # It comes near: with half of the shares as the threshold it would have both.
    assert most[0] >= (nodes + opened.colluders) // 2


def test_a_node_that_is_registered_twice_is_refused_by_nodes_and_coordinator():
    twice = {0: POOL[0].public_key(), 1: POOL[1].public_key(), 2: POOL[0].public_key()}
    for refuse in (lambda: Member(POOL[1], twice), lambda: SecureAggregation(twice, 0.3)):
        with pytest.raises(ConfigError, match="places 0 and 2 have one key"):
            refuse()


def test_nodes_that_are_told_different_sessions_get_no_keys_that_fit():
    nodes = up_to(SHARES)
    less_noise = msgspec.structs.replace(nodes.session, noise_multiplier=0.1)
    nodes.answer(KEYS, 1, record(less_noise))
    with pytest.raises(UpdateError, match="not signed"):
        nodes.answer(SHARES, 1, changed(nodes.asked[SHARES][1], Adverts, session=less_noise.digest()))


BAD_SESSIONS = {
    "half of the nodes are enough": {"survivors": 2},
    "half of the shares are enough": {"threshold": 2},
    "more shares than holders": {"threshold": 6},
    "colluders who could give both kinds of shares": {"colluders": 3},
    "everybody may collude": {"survivors": 5, "threshold": 5, "colluders": 5},
    "half of the neighbours are enough": {
        "ring": tuple(range(104)),
        "survivors": 104,
        "neighbours": 100,
        "threshold": 50,
    },
    "a sum of which the colluders know all the noise": {
        "ring": tuple(range(104)),
        "survivors": 60,
        "neighbours": 100,
        "threshold": 51,
        "colluders": 60,
    },
    "a ring of three neighbours each": {"neighbours": 2, "threshold": 2},
    "a node twice": {"ring": (0, 1, 2, 3, 3)},
    "two nodes": {"ring": (0, 1), "survivors": 2, "threshold": 2, "neighbours": 1},
    "an odd number of neighbours": {"neighbours": 3},
    "no room for the noise": {"noise_multiplier": 1e9},
    "a bound that is none": {"sensitivity": float("nan")},
    "nothing to add up": {"size": 0},
    "a negative number of devices": {"devices": -1},
}


@pytest.mark.parametrize("change", BAD_SESSIONS.values(), ids=BAD_SESSIONS.keys())
def test_a_session_that_protects_nobody_is_refused(change):
    class Loose(msgspec.Struct, array_like=True):
        run_id: str
        round: int
        plan_hash: str
        told: bytes
        nonce: bytes
        ring: tuple[int, ...]
        neighbours: int
        survivors: int
        colluders: int
        threshold: int
        size: int
        sensitivity: float
        noise_multiplier: float
        devices: int
        phones: bool

    told = {name: getattr(session(), name) for name in Loose.__struct_fields__} | change
    with pytest.raises(UpdateError, match="not a session"):
        read(record(Loose(**told)), Session)


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"secure_sum": ConfigRecord({"body": "text"})}),
        RecordDict({"secure_sum": ConfigRecord({"body": b"\xc1"})}),
        RecordDict({"secure_sum": ConfigRecord({"body": b"", "more": 1})}),
        RecordDict({"secure_sum": ConfigRecord({"body": b"\x90"})}),
        RecordDict({"secure_sum": ConfigRecord({"body": b"\x90"}), "extra": ConfigRecord({})}),
    ],
)
def test_malformed_messages_are_refused(content):
    for kind in (Session, Adverts, Boxes, Unmask):
        with pytest.raises(UpdateError):
            read(content, kind)


def uniform(words, bits):
    low = words.astype(np.uint64) & np.uint64((1 << bits) - 1)
    return stats.chisquare(np.bincount((low >> np.uint64(bits - 8)).astype(int), minlength=256)).pvalue


def test_what_a_node_sends_looks_uniform_and_without_either_mask_it_would_not_be_the_same():
    size = 20_000
    nodes = Nodes(session(5, size), {place: np.full(size, 1000) for place in range(5)})
    nodes.sum()
    bits = nodes.session.encoding().bits
    sent = {place: unpack(read_masked(nodes, place), size, bits) for place in range(5)}
    for vector in sent.values():
        assert uniform(vector, bits) > 1e-4
    # The test has power: a vector in clear fails it, and so does one of which half the numbers were left unmasked.
    assert uniform(np.full(size, 1000, np.uint32), bits) < 1e-9
    half = sent[0].copy()
    half[::2] = 1000
    assert uniform(half, bits) < 1e-9
    # Two nodes' vectors say no more together: their difference is uniform too, though their vectors are equal.
    assert uniform(sent[0] - sent[1], bits) > 1e-4


def read_masked(nodes, place):
    return read(nodes.sent[MASKED][place], Masked).vector


def test_both_masks_are_there_the_nodes_own_and_one_with_every_neighbour():
    nodes = up_to(UNMASK, size=64)
    state, bits = nodes.states[1], nodes.session.encoding().bits
    whole = nodes.vectors[1]
    # A node alone with its own mask, without neighbours: the rest of what it sends is pair masks.
    alone = msgspec.structs.replace(state, held={1: state.held[1]})
    own = unpack(masked(alone, whole).vector, 64, bits)
    assert pack(own - mask(state.seed, 64, bits), bits) == pack(whole, bits)
    for gone in (0, 2, 3, 4):
        fewer = msgspec.structs.replace(state, held={p: h for p, h in state.held.items() if p != gone})
        assert masked(fewer, whole).vector != masked(state, whole).vector
