"""`bench messages`, `faults` and `robust`: what a coordinator bears of traffic, faults and devices that attack."""

import click

from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations.cli_options import as_json, print_json
from sottovoce.simulations.threads import torch_threads


@click.command()
@click.option("--nodes", type=click.IntRange(1, 2000), default=20, show_default=True, help="One message each way each.")
@click.option("--values", type=click.IntRange(min=1), default=20_000, show_default=True, help="float32 in a message.")
@click.option("--arrays", type=click.IntRange(1, 1000), default=12, show_default=True, help="That the values are in.")
@as_json
def messages(nodes: int, values: int, arrays: int, json_output: bool) -> None:
    """Time, bytes and memory of a message through Flower's SuperLink and the gate, with TLS and signatures."""
    # Needs all of [train], which an environment of the peers does not have.
    from sottovoce.simulations.message_bench import bench as bench_messages

    if arrays > values:
        raise ConfigError(f"{values} values in {arrays} arrays", "take at least as many values as arrays")
    result = bench_messages(nodes, values, arrays, lambda what: click.echo(f"... {what}", err=True))
    if json_output:
        print_json(result)
        return
    click.echo(f"{nodes} nodes, {values:,} float32 in {arrays} arrays, one client at a time")
    click.echo(f"  to a node {result.bytes_down:,} bytes, back {result.bytes_up:,} bytes")
    click.echo(f"  ms a node: registering {result.register_ms:.1f}, sending {result.push_ms:.1f},")
    click.echo(f"    fetching and answering {result.node_ms:.1f}, collecting {result.pull_ms:.1f}")
    click.echo(f"  ms for asking in vain: {result.idle_poll_ms:.1f}")
    click.echo(
        f"  SuperLink {result.superlink_mib_before:.0f} MiB, with all replies {result.superlink_mib_after:.0f} MiB"
    )
    click.echo(
        f"  a reply takes {result.serverapp_kib_per_reply:.0f} KiB in the ServerApp and"
        f" {result.database_kib_per_reply:.0f} KiB in the SuperLink's file"
    )


@click.command()
@click.option("--rounds", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="With every fault.")
@click.option("--devices", type=click.IntRange(20, 100_000), default=1000, show_default=True, help="In each round.")
@click.option("--rate", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="Of every fault.")
@click.option("--kills", type=click.IntRange(10, 400), default=200, show_default=True, help="Of a coordinator.")
@click.option("--dropout-rounds", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Of each share.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of faults and kills.")
@as_json
def faults(
    rounds: int, devices: int, rate: float, kills: int, dropout_rounds: int, seed: int, json_output: bool
) -> None:
    """Whether rounds, noise and ledger hold when everything goes wrong, and a coordinator is killed."""
    # Needs all of [train], which an environment of the peers does not have.
    from sottovoce.simulations.fault_bench import Effort
    from sottovoce.simulations.fault_bench import bench as bench_faults

    effort = Effort(rounds=rounds, devices=devices, rate=rate, kills=kills, dropout_rounds=dropout_rounds, seed=seed)
    with torch_threads(1):
        found = bench_faults(effort, lambda what: click.echo(f"... {what}", err=True))
    if json_output:
        print_json(found)
        return
    soak, killed = found.soak, found.killed
    click.echo(
        f"{soak.closed:,} of {soak.rounds:,} rounds of {devices:,} devices closed with every fault at {rate:.0%}: "
        f"{sum(soak.faults.values()):,} faults, {len(soak.violations)} violations"
    )
    for name, slope in (("memory, KiB", soak.rss_kib), ("open files", soak.open_files)):
        if slope is not None:
            click.echo(
                f"  {name}: {slope.per_1000_rounds:+.1f} +- {slope.error:.1f} per 1,000 rounds"
                f" ({slope.least:,.0f} ... {slope.most:,.0f})"
            )
    click.echo("  dropout  rounds closed  answered  noise / promised")
    for one in found.dropouts:
        click.echo(
            f"  {one.dropout:7.0%}{one.closed:8} of {one.rounds}{one.answered:10.1%}"
            f"{one.noise_ratio:10.4f} +- {one.error:.4f}"
        )
    click.echo(
        f"{killed.kills} kills, {killed.at_lines} at {killed.lines} lines of the code that writes: {killed.resumes} "
        f"resumes, {killed.double_counts} double counts, {killed.wrong_rounds} in a wrong round, epsilon fell "
        f"{killed.epsilon_fell} times"
    )
    click.echo(
        f"  back at work after {killed.recovery_p50_s:.2f} s, p95 {killed.recovery_p95_s:.2f} s, imports not counted; "
        f"{killed.seconds_per_kill:.1f} s per kill"
    )
    for line in (*soak.violations, *killed.problems):
        click.echo(f"  {line}")


@click.command()
@click.option("--devices", type=click.IntRange(20, 1000), default=150, show_default=True, help="That train.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=6, show_default=True, help="Of everybody.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of who attacks.")
@as_json
def robust(devices: int, rounds: int, seed: int, json_output: bool) -> None:
    """What a tenth and a fifth of attackers cost, by the rule that adds up updates; without privacy."""
    # Needs all of [train], which an environment of the peers does not have.
    from sottovoce.simulations.robust_trial import SHARES, trial

    with torch_threads(1):
        found = trial(devices, rounds, seed, lambda what: click.echo(f"... {what}", err=True))
    if json_output:
        print_json(found)
        return
    click.echo(
        f"{devices} devices, {rounds} rounds, no noise; AUC of clicks on {found.judges:,} people who did not train"
    )
    click.echo(f"{'attack':26}{'attackers':>10}" + "".join(f"{one:>14}" for one in found.defences))
    for attack in found.attacks:
        for share in SHARES if attack != "none" else (0.0,):
            row = [one.auc for one in found.results if (one.attack, one.attackers) == (attack, share)]
            click.echo(f"{attack:26}{share:10.0%}" + "".join(f"{auc:14.4f}" for auc in row))
