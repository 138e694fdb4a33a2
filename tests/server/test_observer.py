import io
import json
import sys
from pathlib import Path

import pytest
from flwr.app import Error, Message, RecordDict

from sottovoce.privacy.errors import BudgetError
from sottovoce.server.observer import DRAWN, OUTCOMES, PHASES, Stopwatch, Together, Traffic, Unobserved
from sottovoce.server.run_log import logging_to

sys.path.insert(0, str(Path(__file__).parent))
from test_round import Nodes, Run, bent, plan

sys.path.pop(0)


class Witness:
    """Writes down what it is told."""

    def __init__(self):
        self.told = []

    def enrolled(self, nodes, devices, left_out):
        self.told.append(("enrolled", nodes, devices, left_out))

    def opened(self, round):
        self.told.append(("opened", round))

    def answered(self, round, traffic):
        self.told.append(("answered", round, {name: count for name, count in traffic.replies.items() if count}))
        self.traffic = traffic

    def released(self, round, seconds, ledger_rows):
        self.told.append(("released", round, set(seconds)))
        self.rows = ledger_rows

    def skipped(self, round, why):
        self.told.append(("skipped", round))


def watched(folder, nodes, mechanism, **more):
    run, witness = Run(folder, nodes, mechanism, **more), Witness()
    object.__setattr__(run.coordinator, "observer", witness)
    return run, witness


def test_an_observer_is_told_every_step_of_a_round_in_order(tmp_path):
    run, witness = watched(tmp_path, Nodes(), plan(rounds=2))
    with run:
        run.go()
    assert witness.told == [
        ("enrolled", 3, 8, 0),
        *(
            step
            for number in (1, 2)
            for step in (
                ("opened", number),
                ("answered", number, {"used": 2}),
                ("released", number, set(PHASES)),
            )
        ),
    ]
    # Two nodes: each is sent the table and the numbers of its devices, 8 bytes each, and sends a table back.
    header, table, numbers = 128, 9 * 2 * 4, 8 * 8
    assert witness.traffic.received == 2 * (header + table)
    assert witness.traffic.sent == witness.traffic.received + 2 * header + numbers


@pytest.mark.parametrize(
    ("fault", "outcome"), [("error", "error"), (bent(round=99), "malformed"), (lambda reply: RecordDict(), "malformed")]
)
def test_a_reply_counts_under_what_became_of_it(tmp_path, fault, outcome):
    run, witness = watched(tmp_path, Nodes({1: fault}), plan(rounds=1))
    with run:
        run.go()
    assert witness.told[2] == ("answered", 1, {"used": 1, outcome: 1})


def test_an_expired_reply_is_late_and_a_missing_one_silent():
    traffic = Traffic()
    asked = Message(RecordDict(), 1, "train")
    asked.metadata.__dict__["_message_id"] = "x"
    for code in (3, 4, 2):
        traffic.failed(Message(Error(code, "why"), reply_to=asked))
    traffic.replies["used"] += 1
    traffic.replies["duplicate"] += 5
    traffic.settle(6)
    assert traffic.replies == {"late": 2, "error": 1, "used": 1, "duplicate": 5, "silent": 2}
    assert set(traffic.replies) <= set(OUTCOMES)


def test_a_round_the_budget_refuses_is_told_as_skipped(tmp_path):
    run, witness = watched(tmp_path, Nodes(), plan(noise=4.0, rounds=3, rate=0.5))
    pay = run.coordinator.budget

    class Purse:
        commit = pay.commit

        def reserve(self, plan, run_id, round, noise_kind):
            if round == 2:
                raise BudgetError("round 2 would exceed epsilon")
            return pay.reserve(plan, run_id, round, noise_kind)

    object.__setattr__(run.coordinator, "budget", Purse())
    with run:
        run.go()
    assert [step[:2] for step in witness.told[-3:]] == [("released", 1), ("opened", 2), ("skipped", 2)]


def test_a_stopwatch_adds_up_visits_to_a_phase():
    ticks = iter([0.0, 1.0, 5.0, 7.5])
    watch = Stopwatch(lambda: next(ticks))
    for _ in range(2):
        with watch.phase("keep"):
            pass
    assert watch.seconds == {"keep": 3.5}
    assert set(PHASES) > DRAWN


def test_an_observer_that_fails_is_left_out_and_the_round_goes_on(tmp_path):
    class Broken(Unobserved):
        def answered(self, round, traffic):
            raise OSError("disk full")

    said = []
    run, witness = watched(tmp_path, Nodes(), plan(rounds=2))
    object.__setattr__(run.coordinator, "observer", Together(Broken(), witness, failed=said.append))
    with run:
        assert run.go() is None
    assert [type(error) for error in said] == [OSError]
    assert [step[0] for step in witness.told].count("released") == 2


def test_nodes_that_enrol_nobody_are_told(tmp_path):
    class Silent(Nodes):
        def __call__(self, message, context):
            if message.metadata.message_type == "query" and context.node_id == 2:
                return Message(Error(2, "refused"), reply_to=message)
            return super().__call__(message, context)

    run, witness = watched(tmp_path, Silent(), plan(rounds=1))
    with run:
        run.go()
    assert witness.told[0] == ("enrolled", 2, 8, 1)


def test_the_log_of_a_real_coordinator_does_not_depend_on_who_was_drawn(tmp_path):
    def logged(seed):
        stream, folder = io.StringIO(), tmp_path / str(seed)
        folder.mkdir()
        run = Run(folder, Nodes(), plan(noise=2.0, rounds=4, rate=0.5), seed)
        with run, logging_to("shop", stream, None) as log:
            object.__setattr__(run.coordinator, "observer", log)
            run.go()
        cohorts = [record.cohort for record in run.records]
        told = [json.loads(line) for line in stream.getvalue().splitlines()]
        return cohorts, [{k: v for k, v in line.items() if k != "time" and not k.endswith("_s")} for line in told]

    (one, first), (other, second) = logged(1), logged(2)
    assert one != other
    assert first == second
    assert len(first) == 2 + 2 * 4
