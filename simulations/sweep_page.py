"""A sweep on one page: the frontier, or the table of settings; every run; and what all of them cost together."""

from collections.abc import Mapping, Sequence

import msgspec

from sottovoce.simulations.frontier import frontier
from sottovoce.simulations.markup import number, table, text
from sottovoce.simulations.metrics import Metrics
from sottovoce.simulations.page import page
from sottovoce.simulations.report import DatasetFacts
from sottovoce.simulations.sweep_price import Price
from sottovoce.simulations.sweep_summary import Line, Outcome


class SweepFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All that the page shows.

    Attributes:
        data: what was trained on.
        created: date and time, as text.
        record: what was asked for, as text.
        curve: whether epsilon is all that varies.
        planned: runs that were asked for.
        lines: one for each setting with a finished run.
        outcomes: finished runs.
        missing: runs that are not finished, and why as far as it is known.
        baselines: by name.
        price: what all runs cost together.
    """

    data: DatasetFacts
    created: str
    record: str
    curve: bool
    planned: int
    lines: list[Line]
    outcomes: list[Outcome]
    missing: list[str]
    baselines: dict[str, Metrics]
    price: Price

    @property
    def title(self) -> str:
        """Of the page and of the drawing."""
        what = "Privacy and utility" if self.curve else "Settings compared"
        return f"{what}: {self.data.name}, {self.data.devices:,} devices"

    def drawing(self) -> str:
        """The frontier; empty text where settings are compared instead."""
        if not self.curve:
            return ""
        return frontier(self.title, self.lines, self.outcomes, self.baselines, self.price)


def sweep_page(facts: SweepFacts) -> str:
    """The page, complete, as text to be written in UTF-8."""
    price = facts.price
    drawing = facts.drawing()
    figure = f'<figure class="frontier scroll">{drawing}</figure>' if drawing else ""
    said = "".join(f"<li>{text(f'{line[0].upper()}{line[1:]}')}.</li>" for line in price.lines()[1:])
    missing = "".join(f"<li>{text(line)}</li>" for line in facts.missing)
    unfinished = (
        f'<p class="why"><strong>{len(facts.missing)} of {facts.planned} runs are not finished.</strong> The figures '
        f"below are of the others.</p><ul>{missing}</ul>"
        if facts.missing
        else ""
    )
    mark = "claim" if price.covered and price.guarantee else "why"
    body = (
        f'<header><h1>{text(facts.title)}</h1><p class="quiet">{facts.data.rows:,} training rows, '
        f'{len(facts.outcomes)} of {facts.planned} runs finished</p><p class="quiet">{text(facts.created)}</p>'
        f'<p class="{mark}"><strong>{text(f"{price.headline[0].upper()}{price.headline[1:]}")}.</strong></p></header>\n'
        f"<main>{unfinished}<section><h2>Result</h2>{figure}{_summary(facts)}"
        '<p class="note">Primary is the mean of GAUC and nDCG@5. Its confidence interval is that of the mean, by '
        "Student t over seeds: it says how far training runs differ by initial weights, cohorts and noise on these "
        "held-out rows, not how far other devices would move the figure. Log loss is in nats. Seconds are those of "
        "training.</p>"
        f"</section>\n<section><h2>Privacy</h2><ul>{said}</ul></section>\n"
        f"<section><h2>Every run</h2>{_runs(facts)}</section>\n"
        f'<section><h2>What was asked for</h2><pre tabindex="0">{text(facts.record)}</pre></section></main>\n'
        f'<footer class="note"><p>Data: {text(facts.data.name)}, {text(facts.data.licence)}</p>'
        "<p>Written by sottovoce. This page "
        "loads nothing and sends nothing. It shows figures of the devices' own rows: treat it as their data.</p>"
        "</footer>"
    )
    return page(facts.title, body, alarm=not price.guarantee)


def _summary(facts: SweepFacts) -> str:
    """Settings and baselines, as numbers."""
    if not facts.lines:
        return "<p>No run is finished.</p>"
    best = max(range(len(facts.lines)), key=lambda index: facts.lines[index].primary)
    cells = [
        [
            line.label,
            str(line.seeds),
            number(line.primary, 4),
            "-" if line.low is None else f"{number(line.low, 4)} to {number(line.high, 4)}",
            number(line.least, 4),
            number(line.most, 4),
            *(number(value, 4) for value in (line.auc, line.gauc, line.ndcg_at_5, line.log_loss)),
            number(line.seconds, 1),
        ]
        for line in facts.lines
    ]
    cells += [_baseline(name, found) for name, found in facts.baselines.items()]
    header = ["setting", "seeds", "primary", "95 % confidence", "least", "most"]
    header += ["AUC", "GAUC", "nDCG@5", "log loss", "seconds"]
    return table("Means over seeds, and the baselines", header, cells, None if facts.curve else best)


def _baseline(name: str, found: Metrics) -> list[str]:
    """Random scores are no probabilities: their log loss says nothing."""
    loss = "-" if name == "random" else number(found.log_loss, 4)
    ranking = [number(value, 4) for value in (found.auc, found.gauc, found.ndcg_at_5)]
    return [name, "-", number(found.primary, 4), "-", "-", "-", *ranking, loss, "-"]


def _runs(facts: SweepFacts) -> str:
    labels: Mapping[int, str] = {line.setting: line.label for line in facts.lines}
    header = ["run", "seed", "primary", "AUC", "GAUC", "nDCG@5", "log loss", "rounds", "seconds", "noise", "experiment"]
    cells: Sequence[Sequence[str]] = [
        [
            labels[one.setting],
            str(one.seed),
            *(number(value, 4) for value in _figures(one.metrics)),
            f"{one.rounds:,}",
            number(one.seconds, 1),
            number(one.noise_multiplier, 3),
            one.experiment_sha256[:12],
        ]
        for one in facts.outcomes
    ]
    return table("Finished runs; noise is its multiplier, experiment the SHA-256 of its file", header, cells)


def _figures(found: Metrics) -> tuple[float, ...]:
    return found.primary, found.auc, found.gauc, found.ndcg_at_5, found.log_loss
