"""What passes the gate, and that it passes once."""

import base64

import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata
from flwr.proto.node_pb2 import Node

from sottovoce.server.gate import Gate

PUSH = "/v1/fleet/push-messages"
PULL = "/v1/fleet/pull-messages"


def headers(key=b"key", at="2026-01-01T00:00:00.000001+00:00"):
    return {"flwr-public-key": base64.b64encode(key).decode(), "flwr-timestamp": at, "flwr-signature": "c2ln"}


def reply(node=7, **changes):
    fields = {"src_node_id": 7, "dst_node_id": 1, "reply_to_message_id": "asked"} | changes
    told = PushMessagesRequest(node=Node(node_id=node), messages_list=[Message(metadata=Metadata(**fields))])
    return told.SerializeToString()


def test_a_signed_request_passes_once_and_a_newly_signed_one_again():
    gate = Gate()
    assert gate.judge("POST", PULL, headers(), b"", 0.0) is None
    assert gate.judge("POST", PULL, headers(), b"", 1.0).status == 409
    assert gate.judge("POST", PULL, headers(at="2026-01-01T00:00:00.000002+00:00"), b"", 1.0) is None
    assert gate.judge("POST", PULL, headers(key=b"other"), b"", 1.0) is None


def test_a_captured_header_opens_no_other_path_and_carries_no_other_body():
    gate = Gate()
    assert gate.judge("POST", PUSH, headers(), reply(), 0.0) is None
    for path, body in ((PULL, b""), (PUSH, reply(reply_to_message_id="later"))):
        assert gate.judge("POST", path, headers(), body, 2.0).status == 409


def test_base64_that_decodes_to_the_same_key_is_the_same_key():
    gate = Gate()
    assert gate.judge("POST", PULL, headers(key=b"k"), b"", 0.0) is None
    twisted = headers(key=b"k") | {"flwr-public-key": "az=="}
    assert base64.b64decode("az==") == base64.b64decode("aw==") == b"k"
    assert gate.judge("POST", PULL, twisted, b"", 0.0).status == 409


def test_a_timestamp_is_remembered_for_as_long_as_it_is_valid_and_not_for_ever():
    gate = Gate()
    gate.judge("POST", PULL, headers(), b"", 0.0)
    assert gate.judge("POST", PULL, headers(), b"", 309.0).status == 409
    gate.judge("POST", PULL, headers(at="later"), b"", 311.0)
    assert len(gate.seen) == 1


def test_what_the_superlink_refused_is_forgotten():
    gate = Gate()
    gate.judge("POST", PULL, headers(), b"", 0.0)
    gate.forget(headers())
    assert not gate.seen


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/docs",
        "/",
        "//v1/fleet/pull-messages",
        "/V1/fleet/pull-messages",
    ],
)
def test_operators_and_flowers_own_paths_are_closed(path):
    assert Gate().judge("POST", path, headers(), b"", 0.0).status == 404


def test_only_the_health_of_the_superlink_is_told_without_a_key():
    assert Gate().judge("GET", "/health", {}, b"", 0.0) is None
    assert Gate().judge("POST", "/health", {}, b"", 0.0).status == 404
    assert Gate().judge("GET", PULL, headers(), b"", 0.0).status == 404
    assert Gate().judge("POST", PULL, {}, b"", 0.0).status == 401
    assert Gate().judge("POST", PULL, headers() | {"flwr-public-key": "%"}, b"", 0.0).status == 401


@pytest.mark.parametrize(
    "body",
    [
        reply(node=8),
        reply(src_node_id=8),
        reply(dst_node_id=9),
        reply(reply_to_message_id=""),
        b"\xff\xff\xff",
    ],
)
def test_a_node_speaks_in_its_own_name_to_the_coordinator_and_only_when_asked(body):
    assert Gate().judge("POST", PUSH, headers(), reply(), 0.0) is None
    assert Gate().judge("POST", PUSH, headers(), body, 0.0).status == 400
