"""`off-policy` on the command line: a log of decisions, the public log's layout, and refusals in two lines."""

import json

import numpy as np
import pytest

HEADER = ",timestamp,item_id,position,click,propensity_score\n"


@pytest.fixture
def shop(tmp_path):
    """A folder laid out as the Open Bandit Dataset, of a shop with five items whose click rates are known."""
    rng = np.random.default_rng(0)
    rates, bts = np.array([0.02, 0.05, 0.1, 0.2, 0.3]), np.array([0.05, 0.05, 0.1, 0.3, 0.5])
    for policy, shows in (("random", np.full(5, 0.2)), ("bts", bts)):
        folder = tmp_path / "open_bandit_small" / policy / "men"
        folder.mkdir(parents=True)
        item = rng.choice(5, 3000, p=shows)
        click = (rng.random(3000) < rates[item]).astype(int)
        rows = (f"{n},2019-11-24,{i},{n % 3 + 1},{c},{shows[i]}\n" for n, (i, c) in enumerate(zip(item, click)))  # noqa: B905
        (folder / "men.csv").write_text(HEADER + "".join(rows))
    return tmp_path


def lines(path, n=1000, scale=1.0):
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(n):
        arm = int(rng.random() < 0.3)
        row = {"chosen": "ab"[arm], "reward": int(rng.random() < (0.1, 0.4)[arm])}
        rows.append(json.dumps(row | {"propensity": (0.7, 0.3)[arm] * scale, "new": (0.2, 0.8)[arm]}))
    path.write_text("\n".join(rows))
    return path


def test_a_public_log_is_judged_both_ways_and_held_against_what_really_happened(call, shop):
    for extra, value in (([], 0.2215), (["--reverse"], 0.134)):
        told = call("off-policy", "--data", "open-bandit", "--data-dir", str(shop), "--json", *extra)
        found = json.loads(told[1])
        assert told[0] == 0
        for name in ("ips", "snips", "dr"):
            assert found["evaluation"][name]["value"] == pytest.approx(value, abs=0.035)
        assert found["truth"] == pytest.approx(value, abs=0.03)
        assert "Apache-2.0" in told[2]


@pytest.mark.parametrize(
    ("part", "ips", "size", "truth"), [("men", 0.00551, 4120, 0.0069), ("women", 0.00592, 3946, 0.0046)]
)
def test_figures_of_the_open_bandit_dataset_come_out_again(call, real_set, part, ips, size, truth):
    folder = ["--data", "open-bandit", "--data-dir", str(real_set("open_bandit_small")), "--part", part]
    told = json.loads(call("off-policy", *folder, "--json")[1])
    found = told["evaluation"]
    assert found["ips"]["value"] == pytest.approx(ips, abs=5e-6)
    assert found["effective_size"] == pytest.approx(size, abs=0.5)
    assert told["truth"] == pytest.approx(truth, abs=5e-5)
    assert found["ips"]["low"] < truth < found["ips"]["high"]


def test_random_cannot_be_judged_from_thompson_sampling_that_hardly_explores(call, real_set):
    folder = ["--data", "open-bandit", "--data-dir", str(real_set("open_bandit_small")), "--part", "women"]
    code, out, err = call("off-policy", *folder, "--reverse")
    assert (code, out) == (1, "")
    assert "count like 2.1" in err
    assert "21,739" in err


def test_a_log_of_decisions_is_judged(call, tmp_path):
    code, out, _ = call("off-policy", "--log", str(lines(tmp_path / "log.jsonl")))
    assert code == 0
    assert "IPS             0.3" in out
    assert "on-policy" not in out


@pytest.mark.parametrize(
    ("scale", "n", "word"), [(0.5, 1000, "mean weight"), (1.0, 100, "count like"), (2.0, 1000, "above 1")]
)
def test_a_log_that_cannot_carry_an_estimate_is_refused_in_two_lines(call, tmp_path, scale, n, word):
    code, out, err = call("off-policy", "--log", str(lines(tmp_path / "log.jsonl", n, scale)))
    assert (code, out) == (1, "")
    first, second = err.splitlines()
    assert first.startswith("error: ")
    assert word in first
    assert second.startswith("  -> ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--log", "a", "--data", "open-bandit"],
        ["--log", "a", "--reverse"],
        ["--data", "nothing"],
        ["--log", "a", "--clip", "0"],
        ["--log", "a", "--least-size", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(call, arguments):
    assert call("off-policy", *arguments)[0] == 2


def test_files_that_are_not_there_or_not_whole_are_named(call, shop, tmp_path):
    assert "missing.jsonl" in call("off-policy", "--log", str(tmp_path / "missing.jsonl"))[2]
    folder = ["--data", "open-bandit", "--data-dir", str(shop)]
    assert "women" in call("off-policy", *folder, "--part", "women")[2]
    path = shop / "open_bandit_small" / "bts" / "men" / "men.csv"
    path.write_text(HEADER + "0,2019-11-24,1,1,7,0.5\n")
    assert call("off-policy", *folder)[0] == 1
    path.write_text(HEADER + "0,2019-11-24,1,1,1,often\n")
    code, _, err = call("off-policy", *folder)
    assert code == 1
    assert "propensity_score" in err
