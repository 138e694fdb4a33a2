"""What is on the wire is what `docs/egress.md` says, to the bit, whoever's phone it is."""

import re
from datetime import timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, Context, Message, MessageType, RecordDict
from flwr.common.serde import message_to_proto, recorddict_to_proto
from small_store import quick_folder

from sottovoce.client.consent import Consent
from sottovoce.client.controls import Controls
from sottovoce.client.events import Event
from sottovoce.client.fleet import LocalTraining
from sottovoce.client.message import Instruction, instruction_record
from sottovoce.client.phone_node import phone_app
from sottovoce.client.question import Question, question_record
from sottovoce.models.ranker import RankerConfig, initial
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.market import Market
from sottovoce.simulations.simulated_phone import simulated_phone

DOCUMENT = Path(__file__).parents[2] / "docs" / "egress.md"
WORLD = Market(0)
START = {name: value.numpy() for name, value in initial(WORLD.schema, RankerConfig(), 0).items()}
RUN, PLAN, PHONE = "r" * 16, "p" * 64, np.array([0])
ASKED = Instruction(RUN, 1, PLAN, 0.5, LocalTraining(), START, PHONE, WORLD.schema.digest())
MARKS = {"calibration": np.linspace(-4.0, 1.0, 21), "clip": np.geomspace(0.1, 10.0, 16), "popularity": np.zeros(0)}

ASKS = {
    "enrolment": (MessageType.QUERY, RecordDict()),
    "update": (MessageType.TRAIN, instruction_record(ASKED)),
    **{
        query: (
            MessageType.EVALUATE,
            question_record(Question(RUN, 1, PLAN, query, 1.0, marks, LocalTraining(), START, PHONE)),
        )
        for query, marks in MARKS.items()
    },
    "error": (MessageType.TRAIN, RecordDict()),
}


def busy(hosted, around):
    """Hundreds of impressions, all clicked, of ads that left the catalogue, with names as long as they may be."""
    for number in range(300):
        when = around.now - timedelta(days=3) + timedelta(minutes=number)
        features = {"ad_id": number, "advertiser": number % 48, "category": number % 12, "format": "x" * 200}
        for what in ("impression", "click"):
            event = Event(when, what, f"{number}-{'y' * 40}", "c1", features, {"page_category": "z" * 200})
            hosted.store.append(event, around.now, wait=False)
    hosted.store.flush()


def usual(hosted, around):
    pass


def empty(hosted, around):
    hosted.store.delete(lambda event: True, lambda page: True, around.now)


def wiped(hosted, around):
    hosted.store.delete_all(around.now)


def revoked(hosted, around):
    around.consent = Consent()


def paused(hosted, around):
    around.controls = Controls(paused=True)


PEOPLE = (usual, busy, empty, wiped, revoked, paused)


def varint(value):
    """Bits of a protobuf sint64."""
    return 8 * max(1, -(-(2 * value).bit_length() // 7))


def fields(message):
    """Of a message on the wire: name -> (type, bits), the framing as one of them, and all of it."""
    proto = message_to_proto(message)
    assert {field.name for field, _ in proto.ListFields()} == {
        "metadata",
        "error" if message.has_error() else "content",
    }
    if message.has_error():
        found = {"error.code": ("integer", 8)}
        found["error.reason"] = ("text", 8 * len(message.error.reason.encode()))
        size = 8 * proto.error.ByteSize()
        assert {field.name for field, _ in proto.error.ListFields()} == {"code", "reason"}
    else:
        found, size = {}, 8 * recorddict_to_proto(message.content).ByteSize()
        for record, values in message.content.items():
            for name, value in values.items():
                if isinstance(value, Array):
                    assert value.stype == "numpy.ndarray"
                    kind = f"{value.dtype}[{', '.join(map(str, value.shape))}]", 8 * len(value.data)
                elif isinstance(value, str):
                    kind = "text", 8 * len(value.encode())
                else:
                    assert type(value) is int
                    kind = "integer", varint(value)
                found[f"{record}.{name}"] = kind
    found["framing"] = ("names, types, shapes", size - sum(bits for _, bits in found.values()))
    return found | {"in all": ("", size)}


def values(message):
    """Of each field, the bytes of its value."""
    if message.has_error():
        return {"error.code": message.error.code, "error.reason": message.error.reason}
    return {
        f"{record}.{name}": value.data if isinstance(value, Array) else value
        for record, found in message.content.items()
        for name, value in found.items()
    }


@pytest.fixture(scope="module")
def sent():
    """(person, message) -> what that person's phone answers."""
    answers = {}
    with pytest.MonkeyPatch.context() as patched:
        for name in ("block_people", "block_log"):
            patched.setattr(Market, name, cache(getattr(Market, name)))
        for change in PEOPLE:
            with quick_folder() as folder:
                hosted, around = simulated_phone(WORLD, 3, Path(folder), RankerConfig(), 1)
                change(hosted, around)
                app = phone_app(hosted)
                InProcessGrid(app, 1)  # gives this process the identity that messages need
                context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
                for name, (kind, record) in ASKS.items():
                    answers[change.__name__, name] = app(Message(record, 1, kind), context)
                hosted.store.close()
    return answers


def declared():
    """Message -> field -> (type, bits, bits of the person), from the tables of the document."""
    text = DOCUMENT.read_text()
    section = text[text.index("## Every bit") : text.index("## What an update tells")]
    found = {}
    for part in section.split("\n### ")[1:]:
        rows = re.findall(r"^\| `?([^`|]+?)`? \| ([^|]*) \| ([\d,]+) \| ([\d,]+) \|$", part, re.M)
        number = [(name, kind.strip(), int(b.replace(",", "")), int(p.replace(",", ""))) for name, kind, b, p in rows]
        if number:
            found[part.split("\n")[0].split(":")[0].lower()] = {name: tuple(rest) for name, *rest in number}
    return found


def test_every_message_has_its_table_and_every_table_its_message():
    assert declared().keys() == ASKS.keys()


@pytest.mark.parametrize("message", ASKS)
@pytest.mark.parametrize("person", [person.__name__ for person in PEOPLE])
def test_fields_types_and_bits_are_those_declared_whoever_it_is(sent, person, message):
    table = declared()[message]
    assert fields(sent[person, message]) == {name: (kind, bits) for name, (kind, bits, _) in table.items()}


def test_the_sums_of_the_tables_are_right():
    for table in declared().values():
        *parts, whole = table.values()
        assert list(table)[-1] == "in all"
        assert sum(bits for _, bits, _ in parts) == whole[1]
        assert sum(of for _, _, of in parts) == whole[2]


@pytest.mark.parametrize("message", ASKS)
def test_only_what_is_declared_so_depends_on_the_person(sent, message):
    table = declared()[message]
    said = {person.__name__: values(sent[person.__name__, message]) for person in PEOPLE}
    for name in said["usual"]:
        differs = len({said[person][name] for person in said}) > 1
        _, bits, of = table[name]
        assert differs == (of > 0), name
        assert of <= bits


def test_whoever_holds_back_sends_the_same_bytes_as_anybody_else_who_does(sent):
    for message in ASKS:
        said = [values(sent[person, message]) for person in ("empty", "wiped", "revoked", "paused")]
        assert all(one == said[0] for one in said), message
    zeros = values(sent["revoked", "update"])
    assert not any(any(data[-4 * START[name[6:]].size :]) for name, data in zeros.items() if name.startswith("total."))


def test_flower_adds_the_declared_fields_to_each_message(sent):
    text = DOCUMENT.read_text()
    listed = re.findall(r"^\| `metadata\.(\w+)` \|", text, re.M)
    descriptor = message_to_proto(sent["usual", "update"]).metadata.DESCRIPTOR
    assert listed == [field.name for field in descriptor.fields]


def test_one_field_more_is_noticed(sent):
    """The control: a count of rows beside the update, and an array as long as the log."""
    table = {name: (kind, bits) for name, (kind, bits, _) in declared()["update"].items()}
    message = sent["usual", "update"]
    message.content["reply"]["rows"] = 12
    assert fields(message) != table
    del message.content["reply"]["rows"]
    assert fields(message) == table
    longer = Array(np.zeros(13, np.float32))
    message.content["total"]["table"] = longer
    assert fields(message) != table
