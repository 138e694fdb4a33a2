"""The sum comes out exactly for whoever stays, and not at all when too few do."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from secure_sessions import POOL, Nodes, session, vectors

from sottovoce.client.secure_messages import KEYS, MASKED, SHARES, UNMASK, Advert, Boxes, Masked, Shares, read, record
from sottovoce.models.dsse import signature_of
from sottovoce.privacy.errors import AggregationError, ConfigError
from sottovoce.server.secure_session import SPARSE

STEPS = (KEYS, SHARES, MASKED, UNMASK)


def clear(nodes, places):
    return sum(nodes.vectors[place] for place in places)


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(3, 12), st.integers(1, 40))
def test_the_sum_is_exactly_that_of_the_vectors_in_clear_whoever_drops_out_and_when(data, nodes, size):
    opened = session(nodes, size, dropout=0.49)
    lost = data.draw(
        st.dictionaries(st.integers(0, nodes - 1), st.sampled_from(STEPS), max_size=nodes - opened.survivors)
    )
    run = Nodes(opened, vectors(nodes, size, seed=nodes * size), lost)
    found = run.sum()
    stayed = [place for place in range(nodes) if lost.get(place, UNMASK) == UNMASK]
    assert found.places == tuple(stayed)
    assert np.array_equal(found.total, clear(run, stayed))


def test_numbers_up_to_the_edge_of_the_modulus_do_not_wrap():
    opened = session(5, 3)
    edge = (2 ** (opened.encoding().bits - 1) - 1) // 5
    run = Nodes(opened, {place: np.array([edge, -edge, 0]) for place in range(5)})
    assert run.sum().total.tolist() == [5 * edge, -5 * edge, 0]


@pytest.mark.parametrize("step", STEPS)
def test_one_dropout_more_than_tolerated_ends_the_sum_with_nothing(step):
    opened = session(10, 6, dropout=0.3)
    assert opened.survivors == 7
    kept = Nodes(opened, vectors(10, 6), dict.fromkeys((0, 4, 9), step))
    found = kept.sum()
    assert np.array_equal(found.total, clear(kept, found.places))
    run = Nodes(opened, vectors(10, 6), dict.fromkeys((0, 4, 9, 5), step))
    with pytest.raises(AggregationError, match="6 of 10 nodes are left"):
        run.sum()
    # Of what came, nothing opens a vector: no share was asked for before enough vectors were there.
    assert (UNMASK in run.asked) == (step == UNMASK)


def changed(kind, **fields):
    return lambda answer: record(
        msgspec.structs.replace(
            read(answer, kind), **{k: v(read(answer, kind)) if callable(v) else v for k, v in fields.items()}
        )
    )


def low_order(answer):
    bad = msgspec.structs.replace(read(answer, Advert), mask_key=bytes(32))
    opened = BENT_SESSION.digest()
    return record(msgspec.structs.replace(bad, signature=signature_of(POOL[2], bad.signed(opened))))


BENT_SESSION = session(5, 7)
BENT = {
    "keys under another's place": (KEYS, changed(Advert, place=4), "did not sign"),
    "keys changed on the way": (KEYS, changed(Advert, mask_key=bytes(32)), "did not sign"),
    "a signature of another kind": (KEYS, changed(Advert, signature=bytes(70)), "did not sign"),
    "boxes for all but one": (SHARES, changed(Boxes, boxes=lambda b: b.boxes[1:]), "others than its neighbours"),
    "a box twice": (SHARES, changed(Boxes, boxes=lambda b: (*b.boxes[1:], b.boxes[1])), "of one node twice"),
    "boxes of another session": (SHARES, changed(Boxes, session=bytes(32)), "others than its neighbours"),
    "a vector too short": (MASKED, changed(Masked, vector=lambda m: m.vector[:-1]), "another session or size"),
    "a vector of another session": (MASKED, changed(Masked, session=bytes(32)), "another session or size"),
    "keys of low order, duly signed": (KEYS, low_order, "agrees on nothing"),
    "shares of fewer nodes": (UNMASK, changed(Shares, seeds=lambda s: s.seeds[1:]), "not asked for"),
    "shares of another session": (UNMASK, changed(Shares, session=bytes(32)), "not asked for"),
    "keys where shares are due": (UNMASK, lambda answer: record(Boxes(bytes(32), ())), "not a shares"),
}


@pytest.mark.parametrize("name", BENT)
def test_an_answer_that_cannot_be_used_is_named_and_left_out(name):
    step, bend, said = BENT[name]
    run = Nodes(BENT_SESSION, vectors(5, 7), bend={(step, 2): bend})
    found = run.sum()
    assert run.dropped[0].startswith("node at place 2: ")
    assert said in run.dropped[0]
    stayed = [0, 1, 2, 3, 4] if step == UNMASK else [0, 1, 3, 4]
    assert np.array_equal(found.total, clear(run, stayed))


@pytest.mark.parametrize("which", ["seeds", "keys"])
def test_a_false_share_is_found_out_instead_of_giving_a_false_sum(which):
    def false(shares):
        return tuple((place, bytes(33)) for place, _ in getattr(shares, which))

    run = Nodes(session(5, 7), vectors(5, 7), {4: MASKED}, {(UNMASK, 0): changed(Shares, **{which: false})})
    with pytest.raises(AggregationError, match="do not give back what it committed to"):
        run.sum()


@pytest.mark.parametrize(("dropout", "collusion"), [(0.3, 0.4), (0.0, 1.0), (0.45, 0.3), (0.2, -0.1)])
def test_so_many_colluding_nodes_that_a_lying_coordinator_could_open_a_vector_are_refused(dropout, collusion):
    with pytest.raises(ConfigError, match="collusion"):
        session(10, dropout=dropout, collusion=collusion)


@pytest.mark.parametrize(("collusion", "parts"), [(0.0, 6), (0.1, 6), (0.2, 5)])
def test_the_noise_suffices_without_that_of_colluding_nodes_and_of_one_at_any_rate(collusion, parts):
    opened = session(10, dropout=0.3, collusion=collusion)
    assert opened.survivors == 7
    assert opened.encoding().parts == parts


@pytest.mark.parametrize("dropout", [0.5, 1.0, -0.1])
def test_half_of_the_nodes_may_not_be_lost(dropout):
    with pytest.raises(ConfigError, match="dropout"):
        session(10, dropout=dropout)


def test_a_sparse_graph_is_not_asked_to_bear_more_than_it_can():
    for asked in ({"dropout": 0.4}, {"collusion": 0.3}):
        with pytest.raises(ConfigError, match="300 nodes"):
            session(300, **asked)


def test_two_nodes_cannot_hide_anything_from_each_other():
    with pytest.raises(ConfigError, match="2 nodes"):
        session(2)


def test_large_sums_go_by_a_sparse_graph_in_which_everybody_sees_the_same_neighbours():
    opened = session(300, 2)
    circles = {place: set(opened.circle(place)) for place in opened.ring}
    assert {len(circle) for circle in circles.values()} == {SPARSE + 1}
    assert all(place in circles[other] for place in circles for other in circles[place])
    assert opened.ring != tuple(sorted(opened.ring))


def test_a_sparse_sum_is_exact_too():
    opened = session(104, 30, dropout=0.3, neighbours=SPARSE, threshold=SPARSE // 2 + 1)
    run = Nodes(opened, vectors(104, 30), {3: MASKED, 7: SHARES})
    found = run.sum()
    assert np.array_equal(found.total, clear(run, found.places))
    assert len(found.places) == 102


def test_a_sparse_graph_fails_less_than_once_in_a_hundred_sums_and_hides_from_a_fifth_of_the_nodes():
    for nodes in (200, 1000):
        # Of a circle too few stay, at the worst tolerated dropout; or more than half of it collude.
        stay = stats.hypergeom(nodes - 1, round(0.7 * nodes) - 1, SPARSE)
        assert nodes * stay.cdf(SPARSE // 2 - 1) < 0.01
        collude = stats.hypergeom(nodes - 1, round(0.2 * nodes), SPARSE)
        assert nodes * collude.sf(SPARSE // 2) < 1e-8
