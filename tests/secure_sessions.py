"""Nodes of a secure sum without a wire: each a state and a vector."""

import os

import msgspec
import numpy as np
from flwr.app import RecordDict

from sottovoce.client.secure_messages import KEYS, MASKED, SHARES, Adverts, Boxes, Session, Unmask, read, record
from sottovoce.client.secure_sum import begin, masked, open_boxes, reveal, share
from sottovoce.models.signing import generate_key
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.secure_session import open_session
from sottovoce.server.secure_sum import secure_sum

POOL = [generate_key() for _ in range(104)]
"""Long-term keys by place."""


def session(nodes=5, size=4, dropout=0.3, collusion=0.0, **changes):
    plan = MechanismPlan(nodes, 1.0, 1.0, 1.0, 1, 1e-3, sampling="none", noise="discrete_gaussian")
    opened = open_session(
        plan,
        "run",
        1,
        range(nodes),
        size,
        bytes(32),
        dropout=dropout,
        collusion=collusion,
        phones=True,
        random=os.urandom,
    )
    return msgspec.structs.replace(opened, **changes) if changes else opened


class Nodes:
    """All nodes of a session; `lost` says who is silent from which question on, `bend` changes answers on the way."""

    def __init__(self, session, vectors, lost=None, bend=None):
        self.session, self.vectors = session, vectors
        self.lost, self.bend = lost or {}, bend or {}
        self.registry = {place: POOL[place].public_key() for place in session.ring}
        self.states, self.sent, self.asked = {}, {}, {}
        self._silent = set()
        self.dropped = []

    def ask(self, kind, told):
        self._silent |= {place for place, when in self.lost.items() if when == kind}
        self.asked[kind] = told
        answers = {}
        for place, content in told.items():
            if place not in self._silent:
                answers[place] = self.bend.get((kind, place), lambda answer: answer)(self.answer(kind, place, content))
        self.sent[kind] = answers
        return answers

    def answer(self, kind, place, content):
        if kind == KEYS:
            self.states[place], answer = begin(read(content, Session), place, POOL[place], os.urandom)
        elif kind == SHARES:
            self.states[place], answer = share(self.states[place], read(content, Adverts), self.registry)
        elif kind == MASKED:
            self.states[place] = open_boxes(self.states[place], read(content, Boxes))
            answer = masked(self.states[place], self.vectors[place])
        else:
            self.states[place], answer = reveal(self.states[place], read(content, Unmask))
        return record(answer)

    def sum(self):
        told = {place: RecordDict() for place in self.session.ring}
        return secure_sum(self.session, self.registry, self.ask, told, self.judge)

    def judge(self, place, error):
        if error:
            self.dropped.append(f"node at place {place}: {error.what}")


def vectors(nodes, size, seed=0):
    rng = np.random.default_rng(seed)
    return {place: rng.integers(-30_000, 30_000, size) for place in range(nodes)}


def up_to(step, nodes=5, size=4, **changes):
    """Nodes that have answered every question before `step`, and what each would be asked then."""
    nodes = Nodes(session(nodes, size, **changes), vectors(nodes, size))

    whole = nodes.ask

    def ask(kind, told):
        if kind == step:
            nodes.asked[kind] = told
            raise KeyboardInterrupt
        return whole(kind, told)

    nodes.ask = ask
    try:
        nodes.sum()
    except KeyboardInterrupt:
        nodes.ask = whole
        return nodes
    raise AssertionError(step)
