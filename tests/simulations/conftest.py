import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sottovoce.privacy.audit import AuditReport
from sottovoce.privacy.chain import Head
from sottovoce.privacy.errors import DataError
from sottovoce.privacy.realised import Observed
from sottovoce.privacy.spending import CurvePoint, DeltaPoint, Sensitivity, Spend
from sottovoce.simulations.audit_facts import About
from sottovoce.simulations.cli import run
from sottovoce.simulations.dataset import locate


@pytest.fixture
def call(capfd):
    """Run a command: (exit code, standard output, standard error)."""

    def called(*arguments):
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        told = capfd.readouterr()
        return code, told.out, told.err

    return called


@pytest.fixture(scope="session")
def real_set() -> Callable[[str], Path]:
    """Data folder that holds the named set; the test is skipped where it is missing."""

    def find(folder: str) -> Path:
        try:
            root = locate(None, os.environ.get("SOTTOVOCE_DATA"), Path(__file__).resolve().parents[2])
        except DataError as error:
            pytest.skip(f"{error.what}: {error.todo}")
        if not (root / folder).is_dir():
            pytest.skip(f"{folder}/ is not in the data folder")
        return root

    return find


@pytest.fixture(scope="session")
def audited() -> AuditReport:
    """What an audit of ten rounds on 2,000 devices finds; every figure is another number, so that each can be found."""
    curve = [
        CurvePoint(releases=n, epsilon_outsider=1.1001 * n**0.5, epsilon_known_cohort=7.3003 * n**0.5)
        for n in range(1, 11)
    ]
    return AuditReport(
        epsilon=3.99736486,
        delta=1e-4,
        observer="outsider",
        accountant="PLD",
        private=True,
        guarantee=True,
        rounds=10,
        ledger_ok=True,
        fallback=[],
        epsilon_outsider=3.99736486,
        epsilon_known_cohort=23.41966905,
        max_participations=7,
        rho=8.65651,
        noise="secure",
        population=2000,
        purposes={"train": 9, "clip_count": 1},
        entries={"COMMITTED": 8, "RESERVED": 1, "SPENT_ON_CRASH": 1, "VOID": 3},
        cross_check={"pld": 3.99736486, "rdp": 4.96889366, "opacus_prv": 4.00783714, "opacus_rdp": None},
        head=Head(21, "be111ba2da58a0f8f3120acba663b719d25f1107f738480c825c4e54624b7986"),
        budget_epsilon=4.5,
        adaptive=False,
        plans=2,
        releases=[
            Spend(
                purpose="train",
                querier="",
                mechanism="Gaussian z=0.76 on a Poisson cohort q=0.1, clip 1.0",
                plan_hash="7f3c9a1e55d0" + "0" * 52,
                count=9,
                epsilon_alone=3.71119,
                max_participations=6,
            ),
            Spend(
                purpose="clip_count",
                querier="quality team",
                mechanism="Gaussian z=6.04",
                plan_hash="0a1b2c3d4e5f" + "0" * 52,
                count=1,
                epsilon_alone=0.51234,
                max_participations=None,
            ),
        ],
        curve=curve,
        by_delta=[
            DeltaPoint(delta=1e-4, epsilon_outsider=3.99736486, epsilon_known_cohort=23.41966905),
            DeltaPoint(delta=1e-6, epsilon_outsider=6.09061, epsilon_known_cohort=27.77777),
        ],
        sensitivity=[
            Sensitivity(assumption="as recorded", epsilon=3.99736486),
            Sensitivity(assumption="the noise is 5 % weaker than recorded", epsilon=4.46731),
            Sensitivity(assumption="one round had no noise", epsilon=None),
        ],
        realised=[
            Observed(
                plan_hash="7f3c9a1e55d0" + "0" * 52,
                rounds=9,
                population_planned=2000,
                population_least=1988,
                population_most=2003,
                sampling_rate_planned=0.1,
                sampling_rate_observed=0.0987,
                sampling_rate_upper=0.1091,
                busiest_device=5,
                alarms=[],
            )
        ],
        period=["2026-11-24T21:05:59.003+00:00", "2026-11-25T06:06:01.479+00:00"],
        claims=["epsilon 3.9974 at delta 0.0001 per device (zero_out adjacency), against an outsider, by PLD"],
        findings=[],
        assumptions=["cohorts stay secret from an outsider", "one person has one device"],
    )


@pytest.fixture(scope="session")
def about() -> About:
    """What the ledger of `audited` does not say."""
    return About(
        run_name="market-10",
        data_name="market",
        licence="synthetic, nobody's data",
        software_versions={"dp-accounting": "0.6.0", "opacus": "1.6.0"},
        commands={
            "replay": "sottovoce audit market-10",
            "empirical": "sottovoce audit market-10 --canaries 1000",
            "self_test": "sottovoce audit --self-test",
        },
    )
