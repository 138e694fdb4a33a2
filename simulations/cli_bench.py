"""`bench`: speed, measured side by side in one run. Absolute figures belong to a machine; ratios travel better."""

import os
from pathlib import Path

import click

from sottovoce.privacy.errors import ConfigError, DeviceError
from sottovoce.simulations.accelerator import require_accelerator
from sottovoce.simulations.cli_bench_coordinator import faults, messages, robust
from sottovoce.simulations.cli_options import PATH, as_json, data_dir, device_option, print_json
from sottovoce.simulations.dataset import locate
from sottovoce.simulations.fleet_bench import bench as bench_fleet
from sottovoce.simulations.fleet_bench import parse_peers
from sottovoce.simulations.latency import SIZES
from sottovoce.simulations.ledger_bench import Effort
from sottovoce.simulations.ledger_bench import bench as bench_ledger
from sottovoce.simulations.threads import torch_threads


@click.group()
def bench() -> None:
    """Measure speed, side by side."""


@bench.command()
@click.option("--devices", type=click.IntRange(min=8), default=400, show_default=True, help="Devices a round.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Timed rounds of each.")
@click.option("--against", default="loop", show_default=True, help="Comma list of flower, pfl and loop.")
@click.option("--scale", help="Populations to compare instead, such as 1000,10000,100000,1000000.")
@click.option("--profile", "profiled", is_flag=True, help="Where the time of a round goes, instead.")
@device_option
@data_dir
@as_json
def fleet(
    devices: int,
    repeats: int,
    against: str,
    scale: str | None,
    profiled: bool,
    accelerator: str,
    data_dir: Path | None,
    json_output: bool,
) -> None:
    """Milliseconds per device and round: the fleet against others, side by side on the same work."""
    if scale is not None:
        _fleet_scale(scale, json_output)
        return
    if profiled:
        _fleet_profile(data_dir, json_output)
        return
    peers = parse_peers(against)
    require_accelerator(accelerator)
    with torch_threads(1):
        result = bench_fleet(devices, repeats, peers, lambda what: click.echo(f"... {what}", err=True), accelerator)
    if json_output:
        print_json(result)
        return
    click.echo(
        f"{result.parameters:,} parameters; {devices:,} devices, {result.examples_per_device} examples each, "
        f"{result.local_steps} local steps; {repeats} timed rounds of each"
    )
    click.echo(
        f"{'ms per device and round':24}{'median':>9}{'least ... most':>20}{'cores':>7}{'/ fleet':>9}{'per core':>10}"
    )
    for name, median in result.ms_per_device_round.items():
        spread = "{:.3f} ... {:.3f}".format(*result.ms_range[name])
        ratios = f"{result.ratio[name]:9.1f}{result.ratio_per_core[name]:10.1f}" if name in result.ratio else ""
        click.echo(f"  {name:22}{median:9.3f}{spread:>20}{result.cores[name]:7}{ratios}")
    for name, value in result.start_up_s.items():
        click.echo(f"  not counted: {value:.1f} s until the first timed round of {name}")
    click.echo(
        f"largest difference between two sums of clipped updates: {result.max_abs_diff:.1e}, "
        f"entries up to {result.largest_entry:.3g}"
    )


def _fleet_scale(scale: str, json_output: bool) -> None:
    """The same round in ever larger populations."""
    # Needs all of [train], which an environment of the peers does not have.
    from sottovoce.simulations.fleet_scale import measure_scale

    try:
        sizes = [int(size) for size in scale.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise ConfigError(f"--scale {scale}: not a list of populations", "write for example --scale 1000,1000000")
    points = measure_scale(sizes)
    if json_output:
        print_json(points)
        return
    click.echo("  population  cohort  ms/device/round        s/round  by population  peak RSS")
    for one in points:
        click.echo(
            f"{one.devices:12,}{one.cohort:8,}{one.ms_per_device_round:9.3f} ({one.ms_range[0]:.3f} ..."
            f" {one.ms_range[1]:.3f}){one.round_s:9.2f}{one.population_ms:12.1f} ms{one.peak_rss_mib:6,} MiB"
        )


def _fleet_profile(folder: Path | None, json_output: bool) -> None:
    """One round of KuaiRand and one of a larger model, part by part."""
    # Likewise.
    from sottovoce.simulations.fleet_profile import kuairand_case, large_case, profile

    with torch_threads(1):
        found = [profile(kuairand_case(locate(folder, os.environ.get("SOTTOVOCE_DATA")))), profile(large_case())]
    if json_output:
        print_json(found)
        return
    for one in found:
        click.echo(
            f"{one.case}: {one.devices:,} devices, {one.rows:.0f} rows, {one.steps} local steps,"
            f" {one.parameters:,} parameters: {one.ms_per_device_round:.3f} ms per device and round, one thread;"
            f" matrix products alone {one.floor_ms:.3f} ms"
        )
        for part, share in one.percent.items():
            click.echo(f"  {part:22}{share:5.1f} %")


@bench.command()
@click.argument("bundle", type=PATH, required=False)
@click.option(
    "--model",
    type=click.Choice(["ranker", "linear"]),
    default="ranker",
    show_default=True,
    help="Without BUNDLE: what to build with random weights.",
)
@click.option("--rounds", type=click.IntRange(min=10), default=1000, show_default=True, help="Timed calls of each.")
@click.option("--starts", type=click.IntRange(min=1), default=5, show_default=True, help="Fresh processes of each.")
@as_json
def runtime(bundle: Path | None, model: str, rounds: int, starts: int, json_output: bool) -> None:
    """Time per decision's scores, cold start and memory: LiteRT, ONNX Runtime and torch on one core.

    The engines take turns in random order, one thread each; calls that the kernel preempted are left out.
    """
    # Needs all of [train], which an environment of the peers does not have.
    from sottovoce.simulations import runtime_bench

    def say(what: str) -> None:
        click.echo(f"... {what}", err=True)

    with torch_threads(1):
        if bundle is None:
            say("exporting a model with random weights")
            subject = runtime_bench.untrained("linear" if model == "linear" else "ranker")
        else:
            try:
                subject = runtime_bench.from_bundle(bundle.read_bytes(), bundle.name)
            except OSError as error:
                raise DeviceError(f"{bundle}: {error.strerror}", "name one that `sottovoce release` made") from error
        result = runtime_bench.bench(subject, rounds, starts, say)
    if json_output:
        print_json(result)
        return
    where = "" if result.core is None else f" on core {result.core}"
    click.echo(f"{result.model}; {result.parameters:,} values, {result.bundle_bytes:,} bytes")
    click.echo(f"{rounds} calls of each{where}, {result.preempted:.1%} left out as preempted")
    for when, p50, p99, ratio in (
        ("after one like it", result.p50_us, result.p99_us, result.litert_to_onnxruntime),
        ("after others", result.p50_cold_us, result.p99_cold_us, result.litert_to_onnxruntime_cold),
    ):
        click.echo(f"a call {when}, p50 / p99 in microseconds")
        click.echo("  candidates  " + "".join(f"{size:>15}" for size in SIZES))
        for engine, figures in p50.items():
            cells = (f"{figures[str(size)]:.0f} / {p99[engine][str(size)]:.0f}" for size in SIZES)
            click.echo(f"  {engine:12}" + "".join(f"{cell:>15}" for cell in cells))
        click.echo("  LiteRT / ORT" + "".join(f"{ratio[str(size)]:15.2f}" for size in SIZES))
    click.echo(
        f"cold start, median of {result.starts} (least ... most); peak memory, {result.before_engine_mib:.0f} MiB"
    )
    click.echo("of which are there before the engine; imports of Python, numpy and this package are not counted:")
    for engine, ms in result.cold_start_ms.items():
        least, most = result.cold_start_range_ms[engine]
        click.echo(f"  {engine:12}{ms:8.1f} ms ({least:.1f} ... {most:.1f}){result.peak_rss_mib[engine]:8.1f} MiB")


@bench.command()
@click.option("--kills", type=click.IntRange(min=1), default=100, show_default=True, help="Writers to kill.")
@click.option("--writers", type=click.IntRange(1, 32), default=8, show_default=True, help="At work at a time.")
@click.option("--rounds", type=click.IntRange(1, 10_000), default=10_000, show_default=True, help="In the ledger.")
@click.option("--folder", type=PATH, default=Path(), help="On the disk to measure. [default: this folder]")
@as_json
def ledger(kills: int, writers: int, rounds: int, folder: Path, json_output: bool) -> None:
    """Speed of the ledger, and whether it survives kills and finds tampering."""

    def say(what: str) -> None:
        click.echo(f"... {what}", err=True)

    result = bench_ledger(folder, Effort(kills=kills, writers=writers, rounds=rounds), say)
    if json_output:
        print_json(result)
        return
    click.echo(f"the disk: {result.fsyncs_per_s:,} fsyncs/s")
    for name, speed in (("SQLite", result), ("PostgreSQL", result.postgres)):
        if speed is None:
            click.echo(f"{name}: no server can be started here")
            continue
        click.echo(f"{name}: {speed.appends_per_s:,} durable appends/s, {speed.appends_per_s_batched:,} in batches")
        whole, alone = speed.reserve_ms_at_10000, speed.check_ms_at_10000
        click.echo(f"  reserving at round {rounds:,}: {whole:.2f} ms; {alone:.2f} ms without the disk")
        click.echo(f"  opening {speed.rows:,} rows: {speed.open_ms:.0f} ms")
        lost = f"{speed.acknowledged_lost} of {speed.acknowledged:,} acknowledged rows lost"
        made = f"{speed.releases_made:,} of {speed.releases_allowed:,} allowed releases made"
        click.echo(f"  {speed.kills} kills, {speed.writers} writers at a time: {lost}, {made}")
        click.echo(f"  tampering: {speed.tampers_found} of {speed.tampers_tried} found and the row named")


@bench.command()
@click.option("--nodes", default="10,100", show_default=True, help="Comma list of how many nodes take part.")
@click.option("--size", type=click.IntRange(1, 10_000_000), default=100_000, show_default=True, help="Parameters.")
@click.option("--lost", type=click.FloatRange(0, 0.3), default=0.1, show_default=True, help="Share that drops out.")
@click.option("--against", type=click.Choice(["flower"]), help="Run Flower's SecAgg+ too, in this process.")
@as_json
def secagg(nodes: str, size: int, lost: float, against: str | None, json_output: bool) -> None:
    """Time and bytes of a secure sum, for a node and for the coordinator.

    All nodes are computed here, one after the other: 1,000 of them take two to three minutes.
    """
    # Needs all of [train], which an environment of the peers does not have.
    from sottovoce.simulations import secure_bench

    try:
        counts = [int(count) for count in nodes.split(",")]
    except ValueError:
        raise ConfigError(f"--nodes {nodes}: not a list of numbers", "write for example --nodes 10,100") from None
    with torch_threads(1):
        found = [secure_bench.bench(count, size, lost, against == "flower") for count in counts]
    if json_output:
        print_json(found)
        return
    click.echo(f"{size:,} parameters, noise multiplier 1, {lost:.0%} of the nodes lost; one node and round, medians")
    click.echo("  nodes  neighbours  bits        up   / int64      down    masks    noise  coordinator  exact")
    for one in found:
        click.echo(
            f"{one.nodes:7,}{one.neighbours:12,}{one.bits:6}{one.up_bytes / 1024:8.0f} KiB{one.to_int64:8.0%}"
            f"{one.down_bytes / 1024:8.0f} KiB{one.node_ms:6.0f} ms{one.encode_ms:6.0f} ms{one.server_s:11.2f} s"
            f"  {'yes' if one.exact else 'NO'}"
        )
    for peer in (one.flower for one in found if one.flower):
        click.echo(
            f"SecAgg+ of {peer.nodes:,}: {peer.up_bytes / 1024:.0f} KiB up, {peer.down_bytes / 1024:.0f} KiB down, "
            f"{peer.trips} trips, {peer.node_ms:.0f} ms a node, {peer.server_s:.2f} s its coordinator; no noise"
        )


@bench.command()
@click.option("--bundle", type=PATH, help="RUN/bundle.svb of a run on the market. [default: one is trained first]")
@click.option("--key", type=PATH, help="Public key of its signer. [default: signing.pub.pem beside the bundle]")
@click.option("--decisions", type=click.IntRange(min=50), default=2_000, show_default=True, help="Timed ones.")
@click.option("--people", type=click.IntRange(10, 3_000), default=500, show_default=True, help="Whose ads are counted.")
@as_json
def picker(bundle: Path | None, key: Path | None, decisions: int, people: int, json_output: bool) -> None:
    """The picker: time of a decision, what it earns against an oracle, caps across restarts, answers under faults.

    Without --bundle a linear ranker is trained first, across 100,000 devices, which takes a minute or two.
    """
    # Needs all of [train], which an environment of the peers does not have.
    from sottovoce.simulations import picker_bench

    with torch_threads(1):
        effort = picker_bench.Effort(decisions=decisions, people=people)
        result = picker_bench.bench(bundle, key, effort, lambda what: click.echo(f"... {what}", err=True))
    if json_output:
        print_json(result)
        return
    for speed in result.latency:
        click.echo(
            f"{speed.ads:,} ads, {speed.eligible:,} fit: p50 {speed.p50_ms:.2f} ms (fifths {speed.p50_range_ms[0]:.2f}"
            f" ... {speed.p50_range_ms[1]:.2f}), p99 {speed.p99_ms:.2f} ms; {speed.decisions:,} decisions, one thread"
        )
    value = result.value
    epsilon = "no finite epsilon" if result.epsilon is None else f"epsilon {result.epsilon:.2f}"
    click.echo(f"{result.model}, {epsilon}; {value.people:,} people who did not train it")
    click.echo(f"true expected USD per thousand requests, {value.requests:,} of them after the training days:")
    for name, earned, ratio, (low, high) in (
        ("personalised", value.personalised, 1.0, (1.0, 1.0)),
        ("contextual", value.contextual, value.vs_contextual, value.vs_contextual_range),
        ("informed", value.informed, value.vs_informed, value.vs_informed_range),
        ("oracle", value.oracle, value.vs_oracle, value.vs_oracle_range),
    ):
        against = "" if name == "personalised" else f"   personalised is {ratio:.2f} of it ({low:.2f} ... {high:.2f})"
        click.echo(f"  {name:14}{earned:8.2f}{against}")
    caps = result.caps
    click.echo(
        f"caps: {caps.violated} violated in {caps.shown:,} impressions and {caps.restarts} restarts; they kept ads back"
        f" in {caps.reached:,} of {caps.decisions:,} decisions"
    )
    click.echo(f"answered: {result.answers.answered:.2%} of {result.answers.asked:,} requests")
    for fault, levels in result.answers.levels.items():
        click.echo(f"  {fault:20}{', '.join(levels)}")


for command in (messages, faults, robust):
    bench.add_command(command)
