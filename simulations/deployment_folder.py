"""The folder that `deploy init` writes: the text files of a deployment, and the secrets made for it."""

import secrets
from pathlib import Path

from sottovoce.models.atomic import write_atomically
from sottovoce.server.certificates import Certified, node_key
from sottovoce.server.deployment import Deployment

SECRET = 0o600
"""Mode of a private key."""

SECRET_BYTES = 32
"""Length of what a SuperNode and its worker share."""


def write_folder(folder: Path, plan: Deployment, experiment: str, signer: Certified, server: Certified) -> None:
    """Write the whole folder; private keys first get their mode and then their bytes.

    Args:
        folder: made here.
        plan: what its text files say.
        experiment: the experiment's TOML.
        signer: the authority.
        server: signed by it.

    Raises:
        OSError: the folder is there already or cannot be written.
    """
    folder.mkdir(parents=True, mode=0o755)
    for name in ("ca", "coordinator", *(f"node-{number}" for number in range(plan.nodes))):
        (folder / name).mkdir(mode=0o700)
        write_atomically(folder / name / "ca.crt", signer.certificate)
    write_atomically(folder / "ca" / "ca.key", signer.key, SECRET)
    write_atomically(folder / "coordinator" / "server.key", server.key, SECRET)
    write_atomically(folder / "coordinator" / "server.crt", server.certificate)
    (folder / "coordinator" / "runs").mkdir()
    (folder / "coordinator" / "nodes").mkdir()
    for number in range(plan.nodes):
        made = node_key()
        (folder / f"node-{number}" / "flower").mkdir()
        write_atomically(folder / f"node-{number}" / "node.key", made.private, SECRET)
        write_atomically(folder / f"node-{number}" / "worker.secret", secrets.token_bytes(SECRET_BYTES), SECRET)
        write_atomically(folder / "coordinator" / "nodes" / f"node-{number}.pub", made.public)
    for name, text in plan.files(experiment):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, text.encode())
