"""The shipped code keeps the rules of privacy, and every rule fires on the mistake it is there for."""

from pathlib import Path

import pytest
from privacy_lint import ALLOWED, ROOMS, RULES, Allowance, Violation, check, without

ROOT = Path(__file__).parents[1]

TAKES = "from sottovoce.privacy.ledger import Reservation\nfrom sottovoce.privacy.noise import release_sum\n"

PLANTED = [
    # Noise that is not the plan's.
    ("noise", "server/round.py", "import numpy as np\nnoisy = total + np.random.default_rng(0).normal(0, std, 9)"),
    ("noise", "server/round.py", "def noisy(total, rng):\n    return total + rng.normal(0, 1, 9)"),
    ("noise", "privacy/noise.py", "from numpy.random import default_rng as fresh\nrng = fresh()"),
    ("noise", "privacy/noise.py", "import numpy.random as r\nrng = r.Generator(r.PCG64())"),
    ("noise", "privacy/noise.py", "def noisy(rng):\n    return rng.laplace(size=3)"),
    ("noise", "server/optimizer.py", "import torch\nnoise = torch.randn(3)"),
    ("noise", "server/optimizer.py", "from torch import randn_like as like\nnoise = like(total)"),
    ("noise", "server/optimizer.py", "import torch\nnoise = torch.empty(3).normal_()"),
    ("noise", "client/fleet.py", "import torch\ndraw = torch.normal"),
    ("noise", "client/fleet.py", "import random\nnoise = random.gauss(0, 1)"),
    ("noise", "client/fleet.py", "from random import gauss\nnoise = gauss(0, 1)"),
    ("noise", "server/round.py", "from torch.distributions import Laplace\nnoise = Laplace(0, 1).sample()"),
    (
        "noise",
        "server/round.py",
        "import scipy.stats\nnoise = scipy.stats.norm.rvs(3)\nimport numpy as np\nnp.random.seed(1)",
    ),
    # Records mixed within a batch.
    ("batch norm", "models/ranker.py", "from torch import nn\nlayer = nn.BatchNorm1d(8)"),
    ("batch norm", "models/ranker.py", "from torch.nn import SyncBatchNorm as Norm\nlayer = Norm(8)"),
    ("batch norm", "simulations/factorization.py", "import torch.nn.functional as F\nout = F.batch_norm(x, mean, var)"),
    ("batch norm", "client/fleet.py", "import torch\nout = torch.batch_norm(x)"),
    # Permission that nobody paid for.
    ("reservation", "server/round.py", TAKES + "paid = Reservation(1, 'a', 'run', 1)"),
    (
        "reservation",
        "server/round.py",
        "from sottovoce.privacy.ledger import Reservation as R\npaid = R(1, 'a', 'run', 1)",
    ),
    (
        "reservation",
        "server/round.py",
        "from sottovoce.privacy import ledger\npaid = ledger.Reservation(1, 'a', 'run', 1)",
    ),
    ("reservation", "server/round.py", TAKES + "paid = Reservation.__new__(Reservation)"),
    ("reservation", "server/round.py", TAKES + "make = Reservation"),
    # Sums that leave without a reservation.
    (
        "release",
        "server/round.py",
        "from sottovoce.privacy.noise import release_sum\nout = release_sum(total, 1.0, source)",
    ),
    (
        "release",
        "server/round.py",
        "from sottovoce.privacy.noise import release_sum as out\ndef f(t):\n    return out(t, 1, s)",
    ),
    (
        "release",
        "server/round.py",
        "from sottovoce.privacy import noise\ndef f(t):\n    return noise.release_sum(t, 1, s)",
    ),
    ("release", "privacy/plan.py", TAKES + "def f(total, round: int):\n    return release_sum(total, 1, s)"),
    (
        "release",
        "privacy/plan.py",
        TAKES + "def f(total, paid: Reservation | None):\n    return release_sum(total, 1, s)",
    ),
    ("release", "client/app.py", TAKES.replace("_sum", "_sum_discrete") + "send = release_sum_discrete"),
    (
        "release",
        "server/optimizer.py",
        TAKES + "class Step:\n"
        "    def step(self, paid: Reservation): ...\n"
        "    def peek(self, total):\n"
        "        return release_sum(total, 1, s)",
    ),
    ("private", "server/round.py", "from sottovoce.server.optimizer import _SumOptimizer"),
    ("private", "server/round.py", "from sottovoce.server import optimizer\nsteps = optimizer._SumOptimizer([])"),
    # Code chosen by data.
    ("pickle", "privacy/store.py", "import pickle\nrow = pickle.loads(blob)"),
    ("pickle", "privacy/store.py", "from pickle import loads as read\nrow = read(blob)"),
    ("pickle", "server/checkpoint.py", "import joblib"),
    (
        "loading",
        "privacy/chain.py",
        "from dp_accounting import dp_event\nevent = dp_event.DpEvent.from_named_tuple(row)",
    ),
    ("loading", "privacy/chain.py", "import importlib\nmodule = importlib.import_module(row.name)"),
    ("loading", "privacy/chain.py", "from importlib import import_module as load\nmodule = load(row.name)"),
    ("loading", "privacy/chain.py", "event = eval(row)"),
    ("loading", "privacy/chain.py", "module = __import__(row.name)"),
]

FINE = [
    ("models/ranker.py", "import torch\nweight = torch.randn(3)"),
    ("simulations/market.py", "import numpy as np\ntaste = np.random.default_rng(1).normal(size=3)"),
    ("server/round.py", '"""No batch_norm, no torch.randn: see the README."""\nnormalized = total / expected'),
    ("client/fleet.py", "import torch\nmodel.eval()\nnorms = torch.linalg.vector_norm(updates)"),
    ("models/ranker.py", "from torch import nn\nlayer = nn.LayerNorm(8)"),
    (
        "server/round.py",
        TAKES + "def f(total, paid: Reservation) -> Reservation:\n    release_sum(total, 1, s)\n    return paid",
    ),
    (
        "server/round.py",
        TAKES + "def f(total, *, paid: 'Reservation'):\n    return [release_sum(t, 1, s) for t in total]",
    ),
    (
        "privacy/clip.py",
        TAKES + "class Paid:\n    paid: Reservation\n    def f(self):\n        release_sum(self.t, 1, s)",
    ),
    ("privacy/reading.py", "class Reservation: ...\npaid = Reservation()"),
    ("simulations/cli.py", "import importlib\ncommand = importlib.import_module(NAMES[name])"),
]


def shipped():
    files = {path.relative_to(ROOT).as_posix(): path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))}
    return [violation for name, path in files.items() for violation in check(name, path.read_text(encoding="utf-8"))]


def test_the_shipped_code_breaks_no_rule_and_no_exception_is_out_of_date():
    forbidden, unused = without(shipped(), ALLOWED)
    assert not forbidden, "\n".join(map(str, forbidden))
    assert not unused, f"no longer needed, remove from ALLOWED: {unused}"


def test_every_room_is_read():
    for room in ROOMS:
        assert len(list((ROOT / room).rglob("*.py"))) > 5
    # Without its exceptions the code is not clean: the rules do reach it.
    assert {violation.path for violation in shipped()} == {allowance.path for allowance in ALLOWED}


@pytest.mark.parametrize(("rule", "path", "source"), PLANTED)
def test_a_planted_mistake_is_found_on_its_line_and_by_its_rule(rule, path, source):
    found = check(path, source)
    assert {violation.rule for violation in found} == {rule}
    assert all(violation.path == path and violation.line <= len(source.splitlines()) for violation in found)


def test_every_rule_has_a_planted_mistake():
    assert {rule for rule, _, _ in PLANTED} == set(RULES)


@pytest.mark.parametrize(("path", "source"), FINE)
def test_right_code_is_left_alone(path, source):
    assert check(path, source) == []


def test_the_one_release_of_the_package_is_seen_and_would_be_refused_without_a_reservation():
    source = (ROOT / "privacy" / "release.py").read_text(encoding="utf-8")
    assert check("privacy/release.py", source) == []
    bent = source.replace("paid: Reservation, source", "source")
    assert bent != source
    assert {violation.rule for violation in check("privacy/release.py", bent)} == {"release"}


def test_an_exception_holds_for_one_name_in_one_file():
    allowed = (Allowance("server/a.py", "noise", "numpy.random.default_rng", "why"),)
    here = Violation("server/a.py", 3, "noise", "numpy.random.default_rng")
    others = [
        Violation("server/b.py", 3, "noise", "numpy.random.default_rng"),
        Violation("server/a.py", 3, "noise", "numpy.random.normal"),
    ]
    assert without([here, *others], allowed) == (others, [])
    assert without([], allowed) == ([], list(allowed))
    assert all(allowance.reason for allowance in ALLOWED)


def test_a_violation_says_where_what_and_why():
    text = str(check("server/round.py", "import torch\n\nnoise = torch.randn(3)")[0])
    assert text.startswith("server/round.py:3: torch.randn: ")
    assert text.endswith(RULES["noise"])
