"""What stands between nodes and Flower's SuperLink: which requests pass, and that each passes once.

Flower 1.41 serves nodes, operators and its own programs on one port. Only nodes are asked for a key: without a gate,
whoever reaches the port may register a node or start a run. A node's signature covers a timestamp and nothing else, so
whoever saw one request could send others in its name for five minutes. And a reply names its sender itself, which the
SuperLink does not hold against the key. The rules here close these three holes.

Source: flwr 1.41, `superlink/routers/fleet/node_auth.py`, `superlink/config_loader.py`, `linkstate.store_message_res`.
"""

import base64
import binascii
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from flwr.common.constant import SUPERLINK_NODE_ID, SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

PREFIX = "/v1/fleet/"
"""Where the SuperLink serves nodes."""

CLOSED = frozenset({f"{PREFIX}register-node", f"{PREFIX}unregister-node"})
"""What only an operator does."""

HEALTH = "/health"
"""Answers 200 while the SuperLink is up; passes without a key."""

MOST_BODY = 8 * 2**20
"""Bytes of one request. Flower cuts arrays into pieces of 5 MiB, each sent on its own."""

_REMEMBERED_S = TIMESTAMP_TOLERANCE + 2 * SYSTEM_TIME_TOLERANCE
"""Longest that the SuperLink could take a signed timestamp for fresh, with its own tolerance on both sides."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request does not pass: an HTTP status and one line for the log."""

    status: int
    why: str


@dataclass(slots=True)
class Gate:
    """The rules, and the memory of what has passed. Not for several threads at once.

    Attributes:
        seen: signed timestamps by key that passed, with the time at which each may be forgotten, oldest first.
    """

    seen: OrderedDict[bytes, float] = field(default_factory=OrderedDict)

    def judge(self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> Refusal | None:
        """Whether a request passes.

        Args:
            method: of HTTP.
            path: without the query.
            headers: names in lower case.
            body: whole.
            now: seconds, monotonic.

        Returns:
            None when it passes, and from then on no other request with the same signed timestamp does.
        """
        if path == HEALTH and method in ("GET", "HEAD"):
            return None
        if method != "POST" or not path.startswith(PREFIX) or path in CLOSED:
            return Refusal(404, f"{method} {path} is not for nodes")
        try:
            key = base64.b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
            signed = headers[TIMESTAMP_HEADER].strip()
        except (KeyError, ValueError, binascii.Error):
            return Refusal(401, f"{path} without a node's signature")
        if path == f"{PREFIX}push-messages" and (refusal := _misaddressed(body)):
            return refusal
        while self.seen and next(iter(self.seen.values())) <= now:
            self.seen.popitem(last=False)
        once = _once(key, signed)
        if once in self.seen:
            return Refusal(409, f"{path} with a signature that was used before")
        self.seen[once] = now + _REMEMBERED_S
        return None

    def forget(self, headers: Mapping[str, str]) -> None:
        """Give a signed timestamp back that the SuperLink refused: what nobody signed must not fill the memory."""
        key = base64.b64decode(headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER, ""))
        self.seen.pop(_once(key, headers.get(TIMESTAMP_HEADER, "").strip()), None)


def _once(key: bytes, signed: str) -> bytes:
    return sha256(len(key).to_bytes(4) + key + signed.encode()).digest()


def _misaddressed(body: bytes) -> Refusal | None:
    """A node sends replies to the SuperLink, in its own name, and nothing else."""
    try:
        request = PushMessagesRequest.FromString(body)
    except DecodeError:
        return Refusal(400, "push-messages cannot be read")
    for message in request.messages_list:
        told = message.metadata
        if told.src_node_id != request.node.node_id:
            return Refusal(400, f"node {request.node.node_id} sends in the name of node {told.src_node_id}")
        if told.dst_node_id != SUPERLINK_NODE_ID or not told.reply_to_message_id:
            return Refusal(400, f"node {request.node.node_id} sends what is no reply")
    return None
