"""What a node checks of an instruction that comes with its neighbours' boxes, and what it remembers."""

import re
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from secure_sessions import POOL, Nodes, session
from small_store import quick_folder

from sottovoce.client.app import Node, client_app
from sottovoce.client.consent import Consent
from sottovoce.client.fleet import LocalTraining
from sottovoce.client.message import Instruction, instruction_record
from sottovoce.client.phone_node import phone_app
from sottovoce.client.secure_messages import KEYS, MASKED, RECORD, SHARES, UNMASK, Boxes, Masked, read, record
from sottovoce.client.secure_node import Member, told_to_all
from sottovoce.models.ranker import RankerConfig, initial
from sottovoce.privacy.errors import UpdateError
from sottovoce.privacy.masks import packed_bytes
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.market import Market, load
from sottovoce.simulations.simulated_phone import simulated_phone

CONFIG = RankerConfig(embedding_width=4, tower_width=4, hidden_width=4)


class Real(Nodes):
    """Node 1 is the real one, behind its ClientApp; the others are by hand."""

    def __init__(self, member=True, nodes=4, config=CONFIG, **changes):
        data = load(1, seed=0)
        weights = {name: value.numpy() for name, value in initial(data.schema, config, 0).items()}
        size = sum(value.size for value in weights.values())
        opened = session(nodes, size, **changes)
        super().__init__(opened, {place: np.zeros(size, np.int64) for place in range(nodes)})
        node = Node(data.train, data.schema, config, 1, member=Member(POOL[1], self.registry) if member else None)
        self.app = client_app(lambda context: node)
        self.context = Context(1, 2, {}, RecordDict(), {})
        InProcessGrid(self.app, 1)
        self.instruction = Instruction(
            "run", 1, opened.plan_hash, 1.0, LocalTraining(), weights, np.array([0], np.int64), data.schema.digest()
        )
        self.session = msgspec.structs.replace(opened, told=told_to_all(self.instruction))

    def answer(self, kind, place, content):
        if place != 1:
            return super().answer(kind, place, content)
        if kind == MASKED:
            content = RecordDict({**instruction_record(self.instruction), **content})
        return self.tell(kind, content)

    def tell(self, kind, content):
        return self.app(Message(content, 2, kind, group_id="1"), self.context).content


def told_otherwise(**changes):
    run = Real()
    run.instruction = Instruction(
        **{name: changes.get(name, getattr(run.instruction, name)) for name in Instruction.__slots__}
    )
    return run


def test_the_real_node_takes_part_and_adds_noise_and_its_update():
    run = Real()
    found = run.sum()
    assert found.places == (0, 1, 2, 3)
    # Its own share of the noise alone: the others sent zeros.
    assert abs(found.total.std() / 2.0 ** run.session.encoding().scale_bits - 1) < 0.1


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "other"},
        {"round": 2},
        {"plan_hash": "other"},
        {"clip_norm": 10.0},
        {"parameters": {"table": np.zeros((3, 2), np.float32)}},
        {"training": LocalTraining(steps=3)},
        {"max_participations": 1},
        {"schema_digest": "other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_instruction_that_is_not_the_sessions_is_refused_and_the_vector_stays_unsent(change):
    with pytest.raises(UpdateError, match="does not belong to the session"):
        told_otherwise(**change).sum()


def test_weights_made_for_one_node_alone_are_refused():
    weights = dict(Real().instruction.parameters)
    weights["table"] = weights["table"] + np.float32(1e-3)
    with pytest.raises(UpdateError, match="does not belong to the session"):
        told_otherwise(parameters=weights).sum()


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_member_of_secure_sums_sends_nothing_in_clear(kind):
    run = Real()
    with pytest.raises(UpdateError, match="nothing but sums under masks"):
        run.tell(kind, instruction_record(run.instruction))


def test_an_instruction_without_boxes_is_refused():
    run = Real()
    with pytest.raises(UpdateError, match="without boxes"):
        run.tell(MASKED, instruction_record(run.instruction))


def test_a_vector_is_masked_once_even_when_computing_it_failed():
    run = told_otherwise(devices=np.array([5], np.int64))
    with pytest.raises(UpdateError, match="does not host"):
        run.sum()
    run.instruction = Real().instruction
    with pytest.raises(UpdateError, match="out of turn"):
        run.answer(MASKED, 1, run.asked[MASKED][1])


def test_a_node_without_a_key_and_one_that_hosts_several_take_no_part():
    run = Real(member=False)
    with pytest.raises(UpdateError, match="no key for secure sums"):
        run.sum()
    several = load(3, seed=0)
    node = Node(several.train, several.schema, CONFIG, 1, member=Member(POOL[1], {}))
    with pytest.raises(UpdateError, match="hosts 3 devices"):
        client_app(lambda context: node)(Message(record(session(4, 3)), 2, KEYS, group_id="1"), run.context)
    with pytest.raises(UpdateError, match="not in this session"):
        Real().tell(KEYS, record(session(4, 3, ring=(0, 2, 3, 4))))


@pytest.mark.parametrize("kind", [SHARES, MASKED, UNMASK])
def test_nothing_is_answered_before_a_session_has_begun(kind):
    run = Real()
    contents = {
        SHARES: record(Boxes(bytes(32), ())),
        MASKED: RecordDict({**instruction_record(run.instruction), **record(Boxes(bytes(32), ()))}),
        UNMASK: RecordDict({RECORD: ConfigRecord({"body": b"\x93\xc4\x20" + bytes(32) + b"\x90\x90"})}),
    }
    with pytest.raises(UpdateError, match="no session has begun"):
        run.tell(kind, contents[kind])


def test_a_new_session_forgets_the_one_before():
    run = Real()
    run.sum()
    again = Real()
    again.context = run.context
    assert again.sum().places == (0, 1, 2, 3)
    with pytest.raises(UpdateError, match="another session"):
        run.tell(UNMASK, run.asked[UNMASK][1])


def test_boxes_are_read_back_as_they_were_sent():
    told = Boxes(bytes(32), ((3, bytes(82)),))
    assert read(record(told), Boxes) == told


@pytest.mark.parametrize("agrees", [True, False])
def test_a_phone_that_holds_back_takes_part_with_noise_alone_and_sends_as_many_bytes(agrees):
    # Without noise what is left of a phone that holds back is nothing.
    run = Real(noise_multiplier=0.0)
    with quick_folder() as folder:
        hosted, around = simulated_phone(Market(0), 3, Path(folder), CONFIG, 1)
        if not agrees:
            around.consent = Consent()
        run.app = phone_app(replace(hosted, member=Member(POOL[1], run.registry)))
        found = run.sum()
        in_clear = run.app(Message(instruction_record(run.instruction), 2, "train"), run.context)
        hosted.store.close()
    assert found.places == (0, 1, 2, 3)
    encoding = run.session.encoding()
    assert (0 < np.linalg.norm(found.total) <= encoding.moved) if agrees else not found.total.any()
    assert len(read(run.sent[MASKED][1], Masked).vector) == packed_bytes(run.session.size, encoding.bits)
    assert in_clear.has_error()


DOCUMENT = Path(__file__).parents[2] / "docs" / "egress.md"


def test_what_a_node_answers_in_a_secure_sum_has_the_bits_that_the_document_declares():
    text = DOCUMENT.read_text()
    section = text[text.index("## With secure aggregation") : text.index("## Added by Flower")]
    rows = re.findall(r"^\| `(train\.secure_\w+)` \| [^|]+ \| ([\d,]+) \|", section, re.M)
    declared = {kind: int(bits.replace(",", "")) for kind, bits in rows}
    # Ten phones, two of which are lost before they send a vector.
    run = Real(nodes=10, config=RankerConfig())
    run.lost = {8: MASKED, 9: MASKED}
    run.sum()
    sent = {kind: recorddict_to_proto(answers[1]) for kind, answers in run.sent.items()}
    assert declared.keys() == sent.keys()
    for kind, answer in sent.items():
        # A signature has up to 72 bytes, of random length.
        assert 0 <= declared[kind] - 8 * answer.ByteSize() <= (32 if kind == KEYS else 0), (kind, 8 * answer.ByteSize())
