"""Attackers harm as much as is counted, honest devices are left alone, and a flipped click is a flipped click."""

import msgspec
import numpy as np
import pytest

from sottovoce.simulations import market
from sottovoce.simulations.folder import RunFolder
from sottovoce.simulations.grid import InProcessGrid
from sottovoce.simulations.robust_trial import Attack, attacked, flipped, settings, trial
from sottovoce.simulations.run import nodes, train

DEVICES, BAD = 12, frozenset({2, 7})


def moved(folder, defence, attack, bad):
    """How far one round moves the weights, and its record."""
    chosen = msgspec.structs.replace(settings(DEVICES, 1, defence), evaluate_every=1)
    dataset = market.load(DEVICES, rows_per_device=100)
    app = attacked(nodes(chosen, dataset), nodes(chosen, flipped(dataset)), attack, bad)
    run = RunFolder(folder)
    run.create(chosen)
    points = []
    model = train(InProcessGrid(app, DEVICES), chosen, dataset, run, points.append)
    return np.concatenate([value.numpy().ravel() for value in model.parameters.values()]), points[0].record


@pytest.mark.parametrize("attack", ["sign flipped, ten times", "ten times", "labels flipped"])
def test_attackers_are_counted_and_nobody_else_changes(attack: Attack, tmp_path):
    quiet, before = moved(tmp_path / "honest", "clipped sum", attack, frozenset())
    loud, after = moved(tmp_path / "attacked", "clipped sum", attack, BAD)
    assert (before.answered, after.answered, after.dropped) == (DEVICES, DEVICES, ())
    rule = settings(DEVICES, 1, "clipped sum")
    bound = rule.server.learning_rate * 2 * len(BAD) * rule.privacy.clip_norm / DEVICES
    assert 0 < np.linalg.norm(loud - quiet) <= bound * (1 + 1e-4)


def test_every_click_is_flipped_and_nobody_buys_without_one():
    dataset = market.load(DEVICES, rows_per_device=100)
    lies = flipped(dataset).train.labels
    assert (lies[:, 0] + dataset.train.labels[:, 0] == 1).all()
    assert not lies[:, 1:].any()


@pytest.mark.soak
def test_the_whole_trial_shows_what_attackers_do_to_a_plain_sum():
    found = trial(150, 6)
    assert len(found.results) == len(found.defences) * 7
    lost = {(one.defence, one.attack, one.attackers): one.lost for one in found.results}
    assert lost["sum", "none", 0.0] == 0.0
    assert lost["sum", "sign flipped, ten times", 0.2] > 0.02
