"""Known ways to get differential privacy wrong, and what stands in the way of each here.

A checklist for reviewers, each line with the file to read. It follows mistakes that were found in public code and
papers. It is not the list of NIST SP 800-226 and claims no conformity with it; that publication frames the review.
"""

from typing import Literal, NamedTuple

Standing = Literal["built in", "checked", "open"]
"""`built in`: the code cannot do otherwise; `checked`: found when it happens; `open`: nothing in the code stops it."""


class Hazard(NamedTuple):
    """One mistake.

    Attributes:
        mistake: what goes wrong.
        standing: what stands in the way.
        how: of that, in a sentence.
        file: where to read it, from the root of the source.
    """

    mistake: str
    standing: Standing
    how: str
    file: str


HAZARDS = (
    Hazard(
        "cohorts are drawn one way and accounted another",
        "built in",
        "the sampler that draws the cohort also makes the privacy event; nobody types a rate into an accountant",
        "privacy/sampling.py",
    ),
    Hazard(
        "sensitivity of one adjacency used with another",
        "built in",
        "an event carries its adjacency, zero-out of a device or one record more or less; a ledger takes one of them",
        "privacy/events.py",
    ),
    Hazard(
        "an epsilon without delta, unit, adjacency or observer",
        "built in",
        "a claim is one value and prints all of them",
        "privacy/claim.py",
    ),
    Hazard(
        "division by the number of devices that happened to answer",
        "built in",
        "the sum is divided by the expected cohort, a public constant of the plan",
        "server/optimizer.py",
    ),
    Hazard(
        "devices weighted by a count that is itself private",
        "built in",
        "every device weighs one; a reply has no field for a weight",
        "client/message.py",
    ),
    Hazard(
        "updates that are not finite, zero updates, empty cohorts",
        "built in",
        "such an update counts as zero, and noise is added to whatever sum remains",
        "privacy/noise.py",
    ),
    Hazard(
        "statistics of the batch shipped with the model",
        "built in",
        "the model has no batch norm; a reply of another name, shape or type is dropped",
        "models/ranker.py",
    ),
    Hazard(
        "noise or cohorts from a generator that can be predicted",
        "checked",
        "bits come from the operating system; a seeded run is stamped and cannot be signed",
        "privacy/entropy.py",
    ),
    Hazard(
        "the same noise twice, after a resume for instance",
        "built in",
        "secure noise has no seed to repeat; every release takes fresh bits",
        "privacy/entropy.py",
    ),
    Hazard(
        "low-order bits of floating-point noise give the sum away",
        "built in",
        "sum and noise are rounded together to a public grid, or exact whole numbers are drawn (discrete_gaussian)",
        "privacy/noise.py",
    ),
    Hazard(
        "rounding after clipping makes an update larger than the bound",
        "checked",
        "the coordinator drops a sum above its bound, with a slack of 1e-5 for float32 that the noise is scaled for",
        "privacy/clip.py",
    ),
    Hazard(
        "quantization calibrated on people's data after training",
        "built in",
        "scales come from the weights alone",
        "models/quantize.py",
    ),
    Hazard(
        "metrics, evaluation and early stopping that nobody counted",
        "open",
        "`sottovoce measure` releases them through the budget; held-out figures of a simulation stay exact and outside",
        "docs/threat-model.md",
    ),
    Hazard(
        "tuning runs forgotten",
        "open",
        "a fourth tuning run is refused and `sottovoce tune` pays for all at once; runs made elsewhere cannot be seen",
        "privacy/ledger.py",
    ),
    Hazard(
        "a restart that forgets what was spent",
        "built in",
        "the ledger is written and synced before a cohort is drawn; a crash counts as spent",
        "privacy/ledger.py",
    ),
    Hazard(
        "an estimate or a limit theorem published as a bound",
        "built in",
        "the figure is an upper bound by PLD; other accountants only cross-check it; GDP is not offered",
        "privacy/accountant.py",
    ),
    Hazard(
        "privacy of one record advertised as privacy of a person",
        "built in",
        "claims of a record and of a device are different types",
        "privacy/claim.py",
    ),
    Hazard(
        "settings chosen from earlier releases, accounted as if fixed",
        "checked",
        "what was not planned before the first release is judged by a Renyi filter, and the audit says so",
        "privacy/filter.py",
    ),
    Hazard(
        "an adaptive clip norm with the wrong sign or without its cost",
        "built in",
        "the clip norm is fixed by the plan",
        "privacy/plan.py",
    ),
    Hazard(
        "local noise scaled by a formula that holds for small epsilon only",
        "built in",
        "a device that adds noise is accounted by PLD, for one record, under a label of its own",
        "privacy/record.py",
    ),
    Hazard(
        "something called a privacy filter that is none",
        "built in",
        "the filter is the published theorem at an order fixed beforehand, and nothing else is called one",
        "privacy/filter.py",
    ),
    Hazard(
        "one device answers twice or late",
        "built in",
        "a second reply, or one for another round or plan, is dropped",
        "server/round.py",
    ),
    Hazard(
        "one person with several devices",
        "open",
        "the unit is a device; a person with several is protected less than the figure says",
        "docs/threat-model.md",
    ),
    Hazard(
        "vocabularies and normalisers made from private data",
        "open",
        "categories are hashed by a public rule, but the boundaries of buckets are taken from the schema as written",
        "models/schema.py",
    ),
    Hazard(
        "secure aggregation presented as differential privacy",
        "open",
        "no ledger shows whether sums were secure: every figure trusts the coordinator to see to the noise, and where "
        "sums are not secure it sees clipped updates",
        "docs/threat-model.md",
    ),
    Hazard(
        "an auditor whose own bug gives comfort",
        "checked",
        "the empirical audit is tried on planted bugs and on clean runs, with the result in the same report",
        "simulations/audit_evidence.py",
    ),
)
