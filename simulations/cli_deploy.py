"""`deploy`: a federation on Flower's deployment runtime, with TLS, a key for every node, and a gate in front."""

import ipaddress
import sys
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import click

from sottovoce.models.atomic import write_atomically
from sottovoce.privacy.errors import ConfigError
from sottovoce.server.certificates import Certified, authority, is_loopback, server_certificate, valid_until
from sottovoce.server.deployment import Deployment, shell
from sottovoce.simulations.cli_options import PATH, as_json, print_json
from sottovoce.simulations.deployment_folder import SECRET, SECRET_BYTES, write_folder
from sottovoce.simulations.experiment import compose
from sottovoce.simulations.threads import torch_threads

PORT = click.IntRange(1, 65535)


@click.group()
def deploy() -> None:
    """Write what a federation of real machines needs, and run the gate in front of its SuperLink."""


@deploy.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--experiment", type=PATH, required=True, help="Experiment TOML; every machine gets a copy.")
@click.option("--nodes", type=click.IntRange(min=1), required=True, help="SuperNodes, each hosting a share.")
@click.option("--address", default="127.0.0.1", show_default=True, help="Host name or IP of the coordinator.")
@click.option("--name", "names", multiple=True, help="One more name for the server certificate; repeatable.")
@click.option("--port", type=PORT, default=9092, show_default=True, help="Where nodes reach the coordinator.")
@click.option("--superlink-port", type=PORT, default=8000, show_default=True, help="Of the SuperLink, loopback only.")
@click.option("--node-port", type=PORT, default=9100, show_default=True, help="First of the nodes', loopback only.")
@click.option("--days", type=click.IntRange(1, 825), default=365, show_default=True, help="Of the server certificate.")
@click.option("--at", type=PATH, help="Where DIR will lie on every machine. [default: where it is]")
@click.option("--programs", type=PATH, help="Folder with flower-superlink and sottovoce. [default: this Python's]")
@click.option("--user", default="sottovoce", show_default=True, help="Whom the systemd units run as.")
@click.option("--data-dir", type=PATH, help="Folder of the public data sets on every machine.")
@as_json
def init(
    folder: Path,
    experiment: Path,
    nodes: int,
    address: str,
    names: tuple[str, ...],
    port: int,
    superlink_port: int,
    node_port: int,
    days: int,
    at: Path | None,
    programs: Path | None,
    user: str,
    data_dir: Path | None,
    json_output: bool,
) -> None:
    """Write keys, certificates, systemd units, Flower's configuration and all commands into DIR, which must be new.

    Private keys get mode 0600 and are not encrypted.
    """
    settings = compose(experiment, ())
    if not settings.data.name:
        raise ConfigError(f"{experiment} names no data", "set data.name")
    plan = Deployment(
        address=address,
        port=port,
        superlink_port=superlink_port,
        node_port=node_port,
        nodes=nodes,
        folder=PurePosixPath((at or folder).absolute()),
        programs=PurePosixPath((programs or Path(sys.executable).parent).absolute()),
        user=user,
        data=str(data_dir.absolute()) if data_dir else None,
    )
    now = datetime.now(UTC)
    signer = authority(now)
    # The coordinator's own programs reach the SuperLink on loopback.
    told = tuple(dict.fromkeys((address, *names, "localhost", "127.0.0.1", "::1")))
    server = server_certificate(signer, told, now, days)
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder} is there already", "name a new folder; nothing is overwritten")
    try:
        write_folder(folder, plan, experiment.read_text(), signer, server)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}", "name a folder that you may write") from error
    ends = {"ca.crt": valid_until(signer.certificate), "server.crt": valid_until(server.certificate)}
    if json_output:
        programs_told = [plan.superlink(), plan.gate()]
        programs_told += [one for number in range(nodes) for one in (plan.supernode(number), plan.worker(number))]
        print_json(
            {
                "folder": str(folder),
                "server_names": told,
                "valid_until": ends,
                "programs": [
                    {"name": one.name, "command": one.command, "environment": one.environment} for one in programs_told
                ],
                "register": [plan.register(number) for number in range(nodes)],
                "run": plan.run("first"),
                "operator_environment": plan.operator(),
            }
        )
        return
    click.echo(f"{folder}: a coordinator for {address}:{port} and {nodes} nodes")
    for name, end in ends.items():
        click.echo(f"  {name:11} valid until {end:%Y-%m-%d %H:%M} UTC")
    click.echo(f"  keep {folder}/ca away from the coordinator; give each machine its own folder and no other")
    click.echo(f"  all commands in their order: {folder}/coordinator/commands.sh")
    click.echo(f"train, once all nodes are registered and online:\n  {shell(plan.run('first'), plan.operator())}")


@deploy.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--name", "names", multiple=True, required=True, help="Host name or IP of the server; repeatable.")
@click.option("--days", type=click.IntRange(1, 825), default=365, show_default=True, help="Of validity.")
@as_json
def renew(folder: Path, names: tuple[str, ...], days: int, json_output: bool) -> None:
    """Sign a new server certificate with the authority in DIR/ca, into a new folder DIR/renewed-DATE.

    Put both files in the coordinator's folder and restart the SuperLink and the gate. Nodes need nothing new.
    """
    now = datetime.now(UTC)
    try:
        signer = Certified((folder / "ca" / "ca.key").read_bytes(), (folder / "ca" / "ca.crt").read_bytes())
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}", "name what `deploy init` made, with its ca") from error
    told = tuple(dict.fromkeys((*names, "localhost", "127.0.0.1", "::1")))
    made = server_certificate(signer, told, now, days)
    out = folder / f"renewed-{now:%Y-%m-%d}"
    try:
        out.mkdir(mode=0o700)
        write_atomically(out / "server.key", made.key, SECRET)
        write_atomically(out / "server.crt", made.certificate)
    except OSError as error:
        raise ConfigError(f"{error.filename or out}: {error.strerror}", "remove it, or renew tomorrow") from error
    if json_output:
        print_json({"folder": str(out), "server_names": told, "valid_until": valid_until(made.certificate)})
        return
    click.echo(f"{out}: server.crt and server.key, valid until {valid_until(made.certificate):%Y-%m-%d %H:%M} UTC")


@deploy.command()
@click.option("--listen", required=True, help="ADDRESS:PORT for the nodes.")
@click.option("--superlink", required=True, help="ADDRESS:PORT of the SuperLink, on loopback.")
@click.option("--certificate", type=PATH, required=True, help="Server certificate, PEM.")
@click.option("--key", type=PATH, required=True, help="Its private key, PEM.")
@click.option("--authority", "signer", type=PATH, required=True, help="Certificate of the authority, PEM.")
def gate(listen: str, superlink: str, certificate: Path, key: Path, signer: Path) -> None:
    """Serve nodes: pass their requests on to the SuperLink, each once, and nothing else. TLS only."""
    # uvicorn and httpx come with Flower, and only this command needs them.
    from sottovoce.simulations.gate_server import serve

    serve(_place(listen), _place(superlink), certificate, key, signer)


@deploy.command()
@click.option("--supernode", required=True, help="ADDRESS:PORT of the SuperNode's Runtime API, on loopback.")
@click.option("--secret", type=PATH, required=True, help="File that the SuperNode was started with, too.")
def worker(supernode: str, secret: Path) -> None:
    """Train for the SuperNode of this machine, in one process that remembers who took part."""
    # Loads torch, which the other commands do not need.
    from sottovoce.simulations.flower import client_app
    from sottovoce.simulations.node_worker import Worker

    host, port = _place(supernode)
    if not is_loopback(host):
        raise ConfigError(f"the SuperNode is at {host}", "start the worker on its machine: the way to it is plain text")
    try:
        shared = secret.read_bytes()
    except OSError as error:
        raise ConfigError(f"{secret}: {error.strerror}", "name the worker.secret of the node's folder") from error
    if len(shared) < SECRET_BYTES:
        raise ConfigError(f"{secret} holds {len(shared)} bytes", f"take {SECRET_BYTES} random ones or more")
    with torch_threads(1):
        Worker(f"{host}:{port}", shared, client_app).work()


def _place(value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        number = int(port)
        ipaddress.ip_address(host)
    except ValueError:
        number = 0
    if not 1 <= number < 2**16:
        raise ConfigError(f"{value!r} is no address and port", "write for example 127.0.0.1:9092")
    return host, number
