"""Pay, draw, ask, add up, release: with nodes made by hand, so that every fault can be planted."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from sottovoce.client.fleet import LocalTraining
from sottovoce.client.message import Enrolment, enrolment_record
from sottovoce.client.question import Answer, answer_record, read_question
from sottovoce.privacy.audit import audit
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.entropy import SeededEntropy
from sottovoce.privacy.errors import BudgetError, ConfigError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.estimates import norms
from sottovoce.server.measurement import Inquiry, measure
from sottovoce.simulations.grid import InProcessGrid

SIZES = (3, 0, 5)
"""Devices of each node."""
MARKS = np.array([0.5, 1.0, 2.0, 4.0])
"""Four half bits have a norm of exactly 1."""


class Nodes:
    """ClientApps by hand: every device votes "at most" for the last two marks; a fault bends a node's answer."""

    def __init__(self, faults=None):
        self.faults = faults or {}
        self.kinds = []
        self.asked = []

    def __call__(self, message, context):
        node = context.node_id
        self.kinds.append(message.metadata.message_type)
        if message.metadata.message_type == "query":
            return Message(enrolment_record(Enrolment(SIZES[node - 1], node - 1)), reply_to=message)
        asked = read_question(message.content)
        self.asked += (asked.devices + sum(SIZES[: node - 1])).tolist()
        votes = np.array([-0.5, -0.5, 0.5, 0.5]) * len(asked.devices)
        answer = Answer(asked.run_id, asked.number, asked.plan_hash, asked.query, len(asked.devices), votes)
        fault = self.faults.get(node)
        if fault == "error":
            return Message(Error(2, "broken"), reply_to=message)
        return Message(fault(answer) if fault else answer_record(answer), reply_to=message)


def plan(noise=0.0, rounds=5, rate=1.0, **changes):
    return MechanismPlan(
        population=8,
        sampling_rate=rate,
        clip_norm=1.0,
        noise_multiplier=noise,
        rounds=rounds,
        delta=1e-2,
        purpose="clip_count",
        sampling="none" if rate == 1 else "poisson",
        **changes,
    )


class Campaign:
    """A ledger with a budget, and nodes to ask."""

    def __init__(self, folder, nodes, plan, epsilon=float("inf")):
        self.ledger = Ledger.open(folder / "ledger.db", create=True)
        self.path = folder / "ledger.db"
        self.budget = Budget(epsilon, plan.delta, self.ledger)
        self.grid = InProcessGrid(nodes, len(SIZES))
        self.plan = plan
        self.kept = []

    def ask(self, number=1, keep=None, seed=0):
        inquiry = Inquiry(query="clip", plan=self.plan, marks=MARKS, training=LocalTraining(), parameters={}, ads=0)
        return measure(
            inquiry, number, "run", self.grid, self.budget, SeededEntropy(seed), keep or self.keep, deadline_s=1.0
        )

    def keep(self, total, paid):
        self.kept.append((total, paid))
        return b"kept"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.ledger.close()


def test_every_device_is_counted_once_and_the_denominator_is_the_public_one(tmp_path):
    with Campaign(tmp_path, Nodes(), plan()) as campaign:
        released = campaign.ask()
        np.testing.assert_array_equal(released.total, [-4, -4, 4, 4])
        shares = norms(released.total, MARKS, 0.0, campaign.plan.expected_cohort).shares
        assert [share.share.value for share in shares] == [0, 0, 1, 1]


FAULTS = {
    "error": "error",
    "empty message": lambda answer: RecordDict(),
    "another run": lambda answer: answer_record(replace(answer, run_id="other")),
    "another number": lambda answer: answer_record(replace(answer, number=9)),
    "NaN": lambda answer: answer_record(replace(answer, total=answer.total * np.nan)),
    "a sum longer than its devices can make": lambda answer: answer_record(replace(answer, total=answer.total * 3)),
    "another length": lambda answer: answer_record(replace(answer, total=answer.total[:1])),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_an_unusable_answer_counts_as_zero_and_never_changes_the_denominator(tmp_path, fault):
    """Dividing by the three who answered would say 0 and 1, and would tell how many there were."""
    with Campaign(tmp_path, Nodes({3: fault}), plan()) as campaign:
        released = campaign.ask()
        np.testing.assert_array_equal(released.total, [-1.5, -1.5, 1.5, 1.5])
        shares = norms(released.total, MARKS, 0.0, campaign.plan.expected_cohort).shares
        np.testing.assert_allclose([share.share.value for share in shares], 0.5 + np.array([-1.5, -1.5, 1.5, 1.5]) / 8)
        assert len(released.dropped) == (0 if fault == "error" else 1)


def test_a_measurement_that_cannot_be_paid_for_asks_nobody_to_measure(tmp_path):
    nodes = Nodes()
    with Campaign(tmp_path, nodes, plan(noise=1.0, rounds=1), epsilon=2.5) as campaign:
        campaign.budget.register(campaign.plan)
        campaign.ask()
        before = list(nodes.kinds)
        with pytest.raises(BudgetError):
            campaign.ask(number=2)
        assert nodes.kinds[len(before) :] == ["query"] * len(SIZES)  # who is enrolled, which is public
        assert len(campaign.kept) == 1


def test_the_ledger_is_debited_before_anybody_is_asked_and_a_crash_stays_spent(tmp_path):
    def crash(total, paid):
        assert campaign.ledger.book().states["RESERVED"] == 1
        raise KeyboardInterrupt

    with Campaign(tmp_path, Nodes(), plan(noise=2.0)) as campaign:
        with pytest.raises(KeyboardInterrupt):
            campaign.ask(keep=crash)
        campaign.ask(number=2)
    report = audit(tmp_path / "ledger.db")
    assert (report.entries["RESERVED"], report.entries["COMMITTED"]) == (1, 1)
    assert report.purposes == {"clip_count": 2}


def test_the_noise_has_the_promised_size_even_when_nobody_answers(tmp_path):
    with Campaign(tmp_path, Nodes(dict.fromkeys((1, 3), "error")), plan(noise=3.0, rounds=600)) as campaign:
        totals = np.concatenate([campaign.ask(number).total for number in range(1, 601)])
    # 2,400 draws: the standard error of the deviation is 1.4 %, half the noise would be 35 of them away.
    assert abs(totals.std() / 3.0 - 1) < 0.06
    assert abs(totals.mean()) < 0.25


def test_two_numbers_never_share_noise_and_the_same_seed_and_number_do(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with (
        Campaign(tmp_path / "a", Nodes(), plan(noise=3.0)) as one,
        Campaign(tmp_path / "b", Nodes(), plan(noise=3.0)) as two,
    ):
        first, second, again = one.ask(1).total, one.ask(2).total, two.ask(1).total
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)


def test_only_those_who_were_drawn_are_asked(tmp_path):
    nodes = Nodes()
    with Campaign(tmp_path, nodes, plan(rate=0.4)) as campaign:
        cohort = campaign.plan.sampler().draw(SeededEntropy(0).generator("cohort of clip", 1))
        campaign.ask()
    # Nodes run side by side, so that which of them is first is chance; that each is asked once is not.
    assert sorted(nodes.asked) == cohort.tolist()
    assert 0 < len(cohort) < 8


def test_another_population_than_planned_is_refused_before_anything_is_paid(tmp_path):
    with Campaign(tmp_path, Nodes(), replace(plan(), population=9)) as campaign:
        with pytest.raises(ConfigError, match="8 devices enrolled"):
            campaign.ask()
        assert campaign.ledger.book().releases == 0


def test_what_was_realised_is_kept_beside_the_chain(tmp_path):
    with Campaign(tmp_path, Nodes({3: "error"}), plan(noise=2.0)) as campaign:
        campaign.ask()
        (record,) = campaign.ledger.realised(campaign.ledger.book()).values()
        assert (record.population, record.cohort, record.answered, record.busiest) == (8, 8, 3, 1)
