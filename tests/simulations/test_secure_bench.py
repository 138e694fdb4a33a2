"""`bench secagg` sums with real nodes, counts every byte, and runs Flower's own protocol beside it."""

import json

import pytest

from sottovoce.simulations.secure_bench import Cost


def test_a_small_bench_is_exact_and_its_bytes_add_up(call):
    code, out, err = call("bench", "secagg", "--nodes", "4,5", "--size", 400, "--lost", 0.25, "--json")
    assert code == 0, err
    four, five = json.loads(out)
    for told, nodes in ((four, 4), (five, 5)):
        assert (told["nodes"], told["lost"], told["neighbours"], told["exact"]) == (nodes, 1, nodes - 1, True)
        assert told["vector_bytes"] == 400 * told["bits"] / 8
        assert told["up_bytes"] == pytest.approx(sum(told["up_by_question"].values()), abs=4)
        assert told["vector_bytes"] < told["up_by_question"]["masked"] < told["vector_bytes"] + 200
        assert min(told["node_ms"], told["encode_ms"], told["server_s"] + 0.01, told["down_bytes"]) > 0
        assert told["flower"] is None
    assert set(four) == set(Cost.__struct_fields__)


def test_flowers_own_protocol_runs_beside_it_in_as_many_trips_and_twice_the_bytes(call):
    code, out, err = call(
        "bench", "secagg", "--nodes", 5, "--size", 4000, "--lost", 0.2, "--against", "flower", "--json"
    )
    assert code == 0, err
    (told,) = json.loads(out)
    peer = told["flower"]
    assert (peer["nodes"], peer["lost"], peer["trips"]) == (5, 1, 4)
    assert peer["up_bytes"] > 8 * 4000 > 2 * told["up_bytes"]


def test_what_is_no_list_of_numbers_is_refused(call):
    code, out, err = call("bench", "secagg", "--nodes", "many")
    assert (code, out) == (1, "")
    assert "not a list of numbers" in err
