import hashlib

import msgspec
import pytest
import torch
from safetensors.torch import save

from sottovoce.privacy.errors import CheckpointError
from sottovoce.server import checkpoint
from sottovoce.server.checkpoint import KEPT, Facts, decode, encode, newest, present, write

STATE = {"steps": torch.tensor(3), "parameters/table": torch.arange(6.0).reshape(3, 2), "empty": torch.zeros(0, 2)}


def facts(round=3):
    return Facts(
        run_id="run", round=round, plan_hash="p" * 8, schema_digest="s" * 8, ledger_length=7, ledger_hash="0" * 64
    )


def same(state, other):
    return state.keys() == other.keys() and all(
        state[name].dtype == other[name].dtype and torch.equal(state[name], other[name]) for name in state
    )


def test_what_was_written_is_read_back():
    state, read = decode(encode(STATE, facts()), "file")
    assert same(state, STATE)
    assert read == facts()
    assert (read.ledger_head.length, read.ledger_head.hash) == (7, "0" * 64)


def test_a_tensor_that_is_not_contiguous_is_kept_too():
    state, _ = decode(encode({"turned": torch.arange(6.0).reshape(3, 2).T}, facts()), "file")
    torch.testing.assert_close(state["turned"], torch.arange(6.0).reshape(3, 2).T)


def test_every_truncation_is_refused():
    data = encode(STATE, facts())
    for length in range(len(data)):
        with pytest.raises(CheckpointError, match="file: not a readable checkpoint"):
            decode(data[:length], "file")


def test_no_flipped_bit_changes_what_is_read():
    data = bytearray(encode(STATE, facts()))
    refused = 0
    for bit in range(len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        try:
            state, read = decode(bytes(data), "file")
        except CheckpointError:
            refused += 1
        else:
            assert same(state, STATE), bit
            assert read == facts(), bit
        data[bit // 8] ^= 1 << bit % 8
    assert refused > 0.95 * len(data) * 8


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 100,
        (2**62).to_bytes(8, "little") + b"{}",
        save(STATE),
        save(STATE, {"sottovoce": "{}", "sha256": ""}),
        save(STATE, {"sottovoce": msgspec.json.encode(facts()).decode()}),
        save({"x": torch.zeros(2, dtype=torch.bfloat16)}, {"sottovoce": "{}", "sha256": ""}),
    ],
    ids=["empty", "noise", "huge header", "no facts", "facts without fields", "no digest", "a type numpy lacks"],
)
def test_a_file_that_is_not_ours_is_refused(data):
    with pytest.raises(CheckpointError):
        decode(data, "file")


def test_the_digest_handed_out_is_that_of_the_file(tmp_path):
    data = write(tmp_path / "made", STATE, facts())
    kept = newest(tmp_path / "made")
    assert kept.sha256 == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "made" / "round-000003.safetensors").read_bytes() == data


def test_only_the_newest_few_stay(tmp_path):
    for round in range(1, 8):
        write(tmp_path, STATE, facts(round))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"round-{round:06d}.safetensors" for round in range(8 - KEPT, 8)
    ]


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:-1] + b"~"]
)
def test_a_damaged_newest_one_is_passed_over_and_named(tmp_path, damage):
    for round in (1, 2, 3):
        write(tmp_path, STATE, facts(round))
    last = tmp_path / "round-000003.safetensors"
    last.write_bytes(damage(last.read_bytes()))
    kept = newest(tmp_path)
    assert kept.facts.round == 2
    (problem,) = kept.problems
    assert str(last) in problem


def test_a_folder_in_the_place_of_a_checkpoint_is_passed_over(tmp_path):
    write(tmp_path, STATE, facts(1))
    (tmp_path / "round-000002.safetensors").mkdir()
    assert newest(tmp_path).facts.round == 1


def test_when_none_can_be_read_each_is_named(tmp_path):
    for round in (1, 2):
        write(tmp_path, STATE, facts(round))
        (tmp_path / f"round-{round:06d}.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"round-000002.*round-000001"):
        newest(tmp_path)


def test_other_files_are_no_checkpoints(tmp_path):
    for name in (
        "round-1.safetensors",
        "round-0000001.safetensors",
        ".round-000001.safetensors.abc",
        "round-000001.st",
    ):
        (tmp_path / name).write_bytes(b"x")
    assert not present(tmp_path)
    assert not present(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        newest(tmp_path)


def test_a_write_that_fails_leaves_the_older_ones_and_says_so(tmp_path, monkeypatch):
    write(tmp_path, STATE, facts(1))

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    with pytest.raises(CheckpointError, match="No space left"):
        write(tmp_path, STATE, facts(2))
    assert newest(tmp_path).facts.round == 1
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="file"):
        write(tmp_path / "file" / "below", STATE, facts(2))
