"""What each rule of `server.robust` saves when some devices attack: the market, without privacy.

Every device is a node. The attackers are the same devices under every rule, and harm as much as is not dropped: they
know the clip norm. Quality is measured on other people, of whom nobody trained. Next to the rules stands the plain sum
with a clip norm that bites, which a private run has anyway.
"""

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import msgspec
import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from sottovoce.client.message import read_instruction
from sottovoce.client.scoring import score
from sottovoce.server.robust import Rule
from sottovoce.simulations import market
from sottovoce.simulations.bent_replies import poisoned
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.experiment import Experiment, compose
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.metrics import evaluate
from sottovoce.simulations.run import nodes, train

Attack = Literal["none", "sign flipped, ten times", "ten times", "labels flipped"]
"""`bent_replies` knows what the second and third do; the fourth trains honestly on clicks that are turned round."""

Defence = Literal["sum", "clipped sum", "norm_filter", "median", "trimmed_mean", "multi_krum"]

SHARES = (0.1, 0.2)
"""Of the devices that attack."""

JUDGES = 3000
"""Devices that the model is judged on."""

_ROWS = 100

_UNBOUNDED, _BITES = 1e6, 0.5
"""Clip norms: one that nobody reaches, and about half the length of a usual update."""

_RULES: Mapping[Defence, Rule] = {"clipped sum": "sum"}
"""Where the defence is not itself the name of a rule."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Attributes:
        defence: how updates were added up.
        attack: what the attackers did.
        attackers: share of the devices.
        auc: of the click head on people of whom nobody trained; 0.5 is worthless.
        lost: AUC of the plain sum without attackers, less this.
    """

    defence: Defence
    attack: Attack
    attackers: float
    auc: float
    lost: float


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Every run.

    Attributes:
        devices: that trained.
        rounds: of everybody.
        judges: devices that the model was judged on.
        defences: in the order of the results.
        attacks: likewise.
        results: by attack, share of attackers and defence.
    """

    devices: int
    rounds: int
    judges: int
    defences: tuple[Defence, ...]
    attacks: tuple[Attack, ...]
    results: list[Result]


def settings(devices: int, rounds: int, defence: Defence) -> Experiment:
    """A linear ranker on the market, everybody in every round, without noise.

    Without interest counts: after so few rounds their weight is too small, and liars who click on everything raise it.
    """
    return compose(
        None,
        [
            ("data.devices", devices),
            ("data.rows_per_device", _ROWS),
            ("rounds", rounds),
            ("nodes", devices),
            ("evaluate_every", 100_000),
            ("model.embedding_width", 0),
            ("model.interest_counts", False),
            ("local.steps", 1),
            ("local.learning_rate", 1.0),
            ("server.kind", "momentum"),
            ("server.learning_rate", 8.0),
            ("privacy.noise", "none"),
            ("privacy.epsilon", math.inf),
            ("privacy.sampling", "none"),
            ("privacy.delta", 1e-4),
            ("privacy.clip_norm", _BITES if defence == "clipped sum" else _UNBOUNDED),
            ("robust.rule", _RULES.get(defence, defence)),
        ],
    )


def attacked(honest: ClientApp, liars: ClientApp, attack: Attack, attackers: frozenset[int]) -> ClientApp:
    """Nodes of which some attack.

    Args:
        honest: of everybody.
        liars: the same over flipped labels.
        attack: what attackers do.
        attackers: their partitions.
    """
    app = ClientApp()

    @app.query()
    def enrol(message: Message, context: Context) -> Message:
        return honest(message, context)

    @app.train()
    def answer(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        if attack == "none" or number not in attackers:
            return honest(message, context)
        if attack == "labels flipped":
            return liars(message, context)
        reply, asked = honest(message, context), read_instruction(message.content)
        reply.content = poisoned(reply.content, asked, attack, np.random.default_rng(number), accepted=True)
        return reply

    return app


def flipped(dataset: Dataset) -> Dataset:
    """Every click a miss, and every miss a click."""
    rows = dataset.train
    labels = rows.labels.copy()
    labels[:, 0] = 1 - labels[:, 0]
    labels[:, 1:] = 0
    return replace(dataset, train=replace(rows, labels=labels))


def trial(devices: int, rounds: int, seed: int = 0, say: Callable[[str], None] = lambda _: None) -> Found:
    """Every defence against every attack by none, a tenth and a fifth of the devices.

    Args:
        devices: that train, at least ten.
        rounds: of everybody.
        seed: of who attacks.
        say: told how it goes.
    """
    everybody = market.load(devices + JUDGES, rows_per_device=_ROWS)
    history, asked = (part.span(devices, devices + JUDGES) for part in (everybody.train, everybody.valid))
    dataset = market.load(devices, rows_per_device=_ROWS)
    lies = flipped(dataset)
    order = np.random.default_rng(seed).permutation(devices)
    found: list[Result] = []
    for attack in get_args(Attack):
        for share in SHARES if attack != "none" else (0.0,):
            bad = frozenset(int(one) for one in order[: round(share * devices)])
            for defence in get_args(Defence):
                chosen = settings(devices, rounds, defence)
                app = attacked(nodes(chosen, dataset), nodes(chosen, lies), attack, bad)
                with tempfile.TemporaryDirectory() as name:
                    folder = RunFolder(Path(name) / "run")
                    folder.create(chosen)
                    model = train(InProcessGrid(app, devices), chosen, dataset, folder, lambda _: None)
                chances = score(model.parameters, dataset.schema, chosen.model, history, asked)
                auc = evaluate(chances[:, 0], asked.labels[:, 0], asked.owners).auc
                lost = found[0].auc - auc if found else 0.0
                found.append(Result(defence=defence, attack=attack, attackers=share, auc=auc, lost=lost))
            say(f"{attack}, {share:.0%} of the devices")
    return Found(
        devices=devices,
        rounds=rounds,
        judges=JUDGES,
        defences=get_args(Defence),
        attacks=get_args(Attack),
        results=found,
    )
