"""Recompute epsilon from an exported ledger with stock dp-accounting: `python replay_ledger.py LEDGER.jsonl`.

For people who do not trust the library that wrote it: nothing of it is imported, only the file is read. The figure is
against an outsider, `epsilon_outsider` in `sottovoce audit --json`; docs/formats.md says what the rows mean.
"""

import hashlib
import json
import math
import sys
from collections import Counter

import dp_accounting as dp
from dp_accounting.dp_event import RepeatAndSelectDpEvent
from dp_accounting.pld import common
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant

FINE, COARSE = 1e-4, 1e-3  # grids of the privacy loss; any gives an upper bound
Z, Q, ZERO_OUT = "noise_multiplier", "sampling_rate", dp.NeighboringRelation.REPLACE_SPECIAL
LOSS = {  # a closed table: any other event ends the script, but for "non_private" and "repeat_and_select" below
    "poisson_gaussian": lambda e, grid: pld.from_gaussian_mechanism(
        e[Z], sampling_prob=e[Q], value_discretization_interval=grid, neighboring_relation=ZERO_OUT
    ),
    "truncated_poisson_gaussian": lambda e, grid: pld.from_truncated_subsampled_gaussian_mechanism(
        e["population"], e[Q], e["cap"], e[Z], value_discretization_interval=grid, neighboring_relation=ZERO_OUT
    ),
    "gaussian": lambda e, grid: pld.from_gaussian_mechanism(
        e[Z], value_discretization_interval=grid, neighboring_relation=ZERO_OUT
    ),
    "pure": lambda e, grid: pld.from_privacy_parameters(
        common.DifferentialPrivacyParameters(e["micro_epsilon"] / 1e6, 0), value_discretization_interval=grid
    ),
}


def renyi(e):  # random stopping and filters are accounted by Renyi DP, where a truncated cohort counts as everybody
    if e["type"] == "repeat_and_select":
        run = dp.SelfComposedDpEvent(renyi(e["event"]), e["rounds"])
        return RepeatAndSelectDpEvent(run, e["mean"], e["shape"])
    return dp.PoissonSampledDpEvent(e[Q] if e["type"] == "poisson_gaussian" else 1, dp.GaussianDpEvent(e[Z]))


def epsilon(charged, delta, orders=None):
    events = [(json.loads(event), count) for event, count in sorted(charged.items()) if count]
    kinds = {event["type"] for event, _ in events}
    if "non_private" in kinds or not events:
        return math.inf if events else 0.0
    if orders or "repeat_and_select" in kinds:
        accountant = RdpAccountant(orders, ZERO_OUT)
        for event, count in events:
            accountant.compose(renyi(event), count)
        return accountant.get_epsilon(delta)
    grid = COARSE if "truncated_poisson_gaussian" in kinds else FINE
    loss, *others = [LOSS[event["type"]](event, grid).self_compose(count) for event, count in events]
    for other in others:
        loss = loss.compose(other)
    # A device that is in every release bounds any other; for it Gaussians add up exactly.
    mu = math.sqrt(sum(count / event[Z] ** 2 for event, count in events if Z in event))
    pure = sum(count * event.get("micro_epsilon", 0) for event, count in events) / 1e6
    return min(loss.get_epsilon_for_delta(delta), (dp.get_epsilon_gaussian(1 / mu, delta) if mu else 0.0) + pure)


def at_most(plan, rounds):  # of so many rounds of one run, those that a device is charged for
    cap = plan["max_participations"] if plan["cohorts"] == "visible" else None
    return rounds if cap is None else min(rounds, cap)


previous, campaign, plans, fixed, reserved = "0" * 64, {}, {}, Counter(), {}
for number, line in enumerate(open(sys.argv[1], encoding="utf-8"), 1):
    row = json.loads(line)
    entry, found = json.loads(row["body"]), hashlib.sha256((previous + row["body"]).encode()).hexdigest()
    if (row["prev_hash"], row["hash"], entry["seq"]) != (previous, found, number):
        sys.exit(f"row {number} does not hold")
    previous = found
    if entry["state"] == "CAMPAIGN":
        campaign = entry
    elif entry["state"] == "PLANNED":
        plans[entry["plan_hash"]] = entry
        fixed[json.dumps(entry["event"])] += 0 if reserved else at_most(entry, entry["rounds"])
    elif entry["state"] == "RESERVED":
        reserved[number] = (entry["run_id"], entry["plan_hash"], json.dumps(entry["event"]))
    elif entry["state"] == "VOID":  # every other reservation counts, whatever became of it
        reserved[entry["reservation"]] = None
charged = Counter()
for (_, plan, event), count in Counter(filter(None, reserved.values())).items():
    charged[event] += at_most(plans[plan], count) if plan in plans else count
spent, limit = epsilon(charged, campaign["delta"]), campaign["epsilon"]
mixed = limit is not None and len(charged) > 1 and epsilon(fixed, campaign["delta"]) > limit
if charged - fixed or mixed:  # not all was planned before the first release: a filter of one order kept the budget
    order = campaign["filter_order"] or sys.exit("not planned, and no filter: no figure holds")
    spent = max(limit, epsilon(charged, campaign["delta"], [order]))
print(f"epsilon {spent:.9f} at delta {campaign['delta']:g}, row {number} has hash {previous}")
