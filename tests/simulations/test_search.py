"""What may vary between the runs of a selection: how a model learns, and never what is charged."""

import pytest

from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations.search import read_search

GRID = """
rounds = 7
[privacy]
delta = 1e-6
[grid]
"server.learning_rate" = [0.02, 0.05]
local.steps = [1, 2, 4]
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        file = tmp_path / "grid.toml"
        file.write_text(text)
        return file

    return write


def test_a_grid_is_an_experiment_and_lists_whether_keys_are_quoted_or_not(written):
    search = read_search(written(GRID), [("privacy.delta", 1e-5)])
    assert search.grid == {"server.learning_rate": [0.02, 0.05], "local.steps": [1, 2, 4]}
    assert (search.base.rounds, search.base.privacy.delta) == (7, 1e-5)
    assert len(list(search.choices())) == 6
    chosen = search.experiment({"server.learning_rate": 0.05, "local.steps": 4})
    assert (chosen.server.learning_rate, chosen.local.steps, chosen.rounds) == (0.05, 4, 7)


def test_runs_draw_every_combination_equally_often_and_independently(written):
    search = read_search(written(GRID), ())
    source = SeededEntropy(1).generator("settings", 0)
    drawn = [tuple(search.draw(source).values()) for _ in range(6000)]
    counts = {choice: drawn.count(choice) for choice in set(drawn)}
    assert len(counts) == 6
    # Each count is 1000 with a standard deviation of 29: a value drawn a fifth more often would be seen.
    assert all(850 < count < 1150 for count in counts.values())


@pytest.mark.parametrize(
    "key",
    [
        "privacy.epsilon",
        "privacy.delta",
        "privacy.sampling_rate",
        "privacy.sampling",
        "privacy.cap",
        "privacy.max_participations",
        "privacy.noise",
        "privacy.mechanism",
        "privacy.cohorts",
        "privacy.ledger",
        "local.record.epsilon",
        "measure.quality",
        "rounds",
        "seed",
        "data.devices",
        "serverside",
    ],
)
def test_what_is_charged_or_who_is_charged_may_not_vary(written, key):
    with pytest.raises(ConfigError, match="may not vary") as refused:
        read_search(written(f'[grid]\n"{key}" = [1, 2]'), ())
    assert key in refused.value.what


def test_the_clip_norm_may_vary(written):
    search = read_search(written('[grid]\n"privacy.clip_norm" = [2.0, 0.5]'), ())
    assert search.clip_norms() == [0.5, 2.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rounds = 3", "no .grid."),
        ("grid = 3", "no .grid."),
        ("[grid]", "no .grid."),
        ("[grid]\nlocal.steps = 3", "not a list"),
        ("[grid]\nlocal.steps = []", "not a list"),
        ("[grid]\nlocal.steps = [1, 0]", "local steps"),
        ("[grid]\nlocal.stepz = [1, 2]", "stepz"),
        ('[grid]\nserver.kind = ["fedavg", "adam"]', "adam"),
        (f"[grid]\nlocal.steps = {[1] * 101}\nlocal.max_rows = {[1] * 100}", "10,100 combinations"),
        ("roundz = 3\n[grid]\nlocal.steps = [1]", "roundz"),
    ],
)
def test_a_search_that_cannot_be_run_is_refused_before_anything_is_paid(written, text, words):
    with pytest.raises(ConfigError, match=words):
        read_search(written(text), ())


def test_a_setting_is_given_once(written):
    with pytest.raises(ConfigError, match="given as well"):
        read_search(written(GRID), [("local.steps", 3)])
