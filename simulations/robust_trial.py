"""How much each rule of `server.robust` saves when some devices attack: the market, without privacy.

Every device is a node. The attackers are the same devices under every rule. Quality is measured on other people, whom
nobody trained on.
"""

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import msgspec
import numpy as np
from flwr.app import ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from sottovoce.client.examples import Examples
from sottovoce.client.scoring import score
from sottovoce.client.wire import arrays as arrays_record
from sottovoce.server.robust import Robust
from sottovoce.simulations.bent_replies import arrays
from sottovoce.simulations.dataset import Dataset
from sottovoce.simulations.experiment import Experiment, compose
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.loading import load
from sottovoce.simulations.metrics import evaluate
from sottovoce.simulations.run import nodes, train

Attack = Literal["none", "sign flipped, ten times", "ten times", "labels flipped"]
Rule = Literal["sum", "norm_filter", "median", "trimmed_mean", "multi_krum"]

_FACTORS: Mapping[str, float] = {"sign flipped, ten times": -10.0, "ten times": 10.0}

_JUDGES = 3000
"""Devices that the model is judged on."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Attributes:
        rule: how updates were added up.
        attack: what the attackers did.
        attackers: share of the devices.
        auc: of the click head on people nobody trained on; 0.5 is worthless.
    """

    rule: Rule
    attack: Attack
    attackers: float
    auc: float


def settings(devices: int, rounds: int, rule: Rule, clip_norm: float) -> Experiment:
    """A linear ranker on the market, everybody in every round, without noise."""
    return compose(
        None,
        [
            ("data.devices", devices),
            ("data.rows_per_device", 100),
            ("rounds", rounds),
            ("nodes", devices),
            ("evaluate_every", 100_000),
            ("model.embedding_width", 0),
            ("model.interest_counts", False),
            ("local.steps", 1),
            ("local.learning_rate", 1.0),
            ("server.kind", "momentum"),
            ("server.learning_rate", 2.0),
            ("privacy.noise", "none"),
            ("privacy.epsilon", math.inf),
            ("privacy.sampling", "none"),
            ("privacy.delta", 1e-4),
            ("privacy.clip_norm", clip_norm),
            ("robust.rule", rule),
        ],
    )


def attacked(honest: ClientApp, liars: ClientApp, attack: Attack, attackers: frozenset[int]) -> Callable[..., Message]:
    """Nodes of which some attack.

    Args:
        honest: of everybody.
        liars: the same over flipped labels.
        attack: what attackers do.
        attackers: their partitions.
    """

    def app(message: Message, context: Context) -> Message:
        bad = int(context.node_config["partition-id"]) in attackers
        if not bad or message.metadata.message_type != MessageType.TRAIN:
            return honest(message, context)
        if attack == "labels flipped":
            return liars(message, context)
        answer = honest(message, context)
        bent: ArrayRecord = arrays_record(
            {name: _FACTORS.get(attack, 1.0) * value for name, value in arrays(answer.content).items()}
        )
        answer.content = RecordDict({"total": bent, "reply": answer.content.config_records["reply"]})
        return answer

    return app


def flipped(dataset: Dataset) -> Dataset:
    """Every click a miss, and every miss a click."""
    rows = dataset.train
    labels = rows.labels.copy()
    labels[:, 0] = 1 - labels[:, 0]
    labels[:, 1:] = 0
    lies = Examples(rows.offsets, rows.device, rows.context, rows.ad, labels, rows.catalogue)
    return replace(dataset, train=lies)


def trial(
    devices: int, rounds: int, clip_norm: float, seed: int = 0, say: Callable[[str], None] = lambda _: None
) -> list[Result]:
    """Every rule against every attack by none, a tenth and a fifth of the devices."""
    data = settings(devices, rounds, "sum", clip_norm).data
    judged = load(msgspec.structs.replace(data, devices=_JUDGES), None, None)
    found = []
    order = np.random.default_rng(seed).permutation(devices)
    for attack in get_args(Attack):
        for share in (0.0,) if attack == "none" else (0.1, 0.2):
            bad = frozenset(int(one) for one in order[: round(share * devices)])
            for rule in get_args(Rule):
                chosen = settings(devices, rounds, rule, clip_norm)
                dataset = load(chosen.data, None, None)
                app = attacked(nodes(chosen, dataset), nodes(chosen, flipped(dataset)), attack, bad)
                with tempfile.TemporaryDirectory() as name:
                    folder = RunFolder(Path(name) / "run")
                    folder.create(chosen)
                    model = train(InProcessGrid(app, devices), chosen, dataset, folder, lambda _: None)  # type: ignore[arg-type]
                chances = score(model.parameters, dataset.schema, chosen.model, judged.train, judged.valid)
                auc = evaluate(chances[:, 0], judged.valid.labels[:, 0], judged.valid.owners).auc
                found.append(Result(rule=rule, attack=attack, attackers=share, auc=auc))
                say(f"{attack}, {share:.0%}, {rule}: AUC {auc:.4f}")
    return found
