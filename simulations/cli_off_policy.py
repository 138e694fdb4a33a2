"""`off-policy`: what another ranker would have earned, from the log of the one that ran."""

from math import inf
from pathlib import Path
from typing import get_args

import click

from sottovoce.privacy.errors import ConfigError, DataError
from sottovoce.simulations import decision_log, open_bandit
from sottovoce.simulations.cli_options import PATH, as_json, data_dir, print_json
from sottovoce.simulations.dataset import locate
from sottovoce.simulations.off_policy import LEAST_SIZE, Evaluation, Value, evaluate


@click.command("off-policy")
@click.option("--log", type=PATH, help="JSON lines of decisions, their propensities and outcomes.")
@click.option("--data", type=click.Choice(["open-bandit"]), help="A public log instead, where the answer is known.")
@click.option("--part", type=click.Choice(get_args(open_bandit.Part)), default="men", show_default=True)
@click.option(
    "--reverse", is_flag=True, help="Of the public log: judge the random policy from Thompson sampling's log."
)
@click.option("--clip", type=click.FloatRange(min=0, min_open=True), help="Weights above it count as it.")
@click.option(
    "--least-size",
    type=click.FloatRange(min=1),
    default=LEAST_SIZE,
    show_default=True,
    help="Refuse when the rows count like fewer.",
)
@click.option(
    "--largest-weight",
    type=click.FloatRange(min=1),
    help="Greatest weight the logging rule can give, for example K / epsilon; else the largest one seen.",
)
@data_dir
@as_json
def off_policy(
    log: Path | None,
    data: str | None,
    part: open_bandit.Part,
    reverse: bool,
    clip: float | None,
    least_size: float,
    largest_weight: float | None,
    data_dir: Path | None,
    json_output: bool,
) -> None:
    """Judge a ranker that never ran, from the log of one that did.

    Every row of the log needs the probability that its ad was shown with. A log that cannot carry an estimate is
    refused: probabilities that are missing or not those in use, or too few rows that count.
    """
    if (log is None) == (data is None):
        raise click.UsageError("give either --log FILE or --data open-bandit")
    truth = None
    if log is not None:
        if reverse:
            raise click.UsageError("--reverse belongs to --data open-bandit")
        logged = decision_log.decode(_read(log), log.name)
    else:
        policies: tuple[open_bandit.Policy, open_bandit.Policy] = ("bts", "random") if reverse else ("random", "bts")
        folder = locate(data_dir)
        behaviour, target = (open_bandit.load(folder, policy, part) for policy in policies)
        logged, truth = open_bandit.logged(behaviour, target, policies[1]), float(target.click.mean())
        click.echo(f"note: {open_bandit.THANKS}", err=True)
    cut = inf if clip is None else clip
    found = evaluate(logged, clip=cut, least_size=least_size, largest_weight=largest_weight)
    if json_output:
        print_json({"evaluation": found, "truth": truth})
        return
    _show(found, truth)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > decision_log.MAX_BYTES:
            raise DataError(f"{path}: more than {decision_log.MAX_BYTES} bytes", "evaluate a part of the log")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "name an existing log") from error


def _show(found: Evaluation, truth: float | None) -> None:
    lines = [
        ("rows", f"{found.rows:,}, that count like {found.effective_size:,.0f}"),
        ("mean weight", f"{found.mean_weight:.4f} ({found.weight_error:+.1f} standard errors from 1)"),
        ("largest weight", f"{found.largest_weight:,.4g}, {found.clipped:.2%} of the rows clipped"),
        ("as it ran", f"{found.logged:.6g}"),
    ]
    lines += [(name, _told(one)) for name, one in (("IPS", found.ips), ("SNIPS", found.snips), ("DR", found.dr)) if one]
    if truth is not None:
        lines.append(("on-policy", f"{truth:.6g}"))
    for name, told in lines:
        click.echo(f"{name:16}{told}")


def _told(one: Value) -> str:
    told = f"{one.value:.6g}  95 %: {one.low:.6g} ... {one.high:.6g}"
    if one.bernstein_low is None or one.bernstein_high is None:
        return told
    return f"{told}  (Bernstein: {one.bernstein_low:.3g} ... {one.bernstein_high:.3g})"
