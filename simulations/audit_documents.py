"""The files an audit leaves behind in the folder of its run."""

from pathlib import Path

import msgspec

from sottovoce.models.atomic import write_atomically
from sottovoce.privacy.audit import AuditReport
from sottovoce.privacy.errors import SottovoceError
from sottovoce.simulations.audit_facts import About, audit_json
from sottovoce.simulations.audit_page import audit_page
from sottovoce.simulations.deployment_record import deployment_record, unregistrable
from sottovoce.simulations.publisher import Publisher
from sottovoce.simulations.registry import to_yaml


class Documents(msgspec.Struct, frozen=True):
    """What was written.

    Attributes:
        page: for reading, `audit.html`.
        json: for programs, `audit.json`.
        record: for the registry, `deployment.yaml`; None where there is nothing to register.
        unregistered: why there is none; empty where there is one.
        unstated: what has to be filled in before the record is submitted.
    """

    page: Path
    json: Path
    record: Path | None
    unregistered: str
    unstated: list[str]


def write_documents(
    folder: Path,
    report: AuditReport,
    empirical: object,
    self_test: object,
    about: About,
    publisher: Publisher | None = None,
) -> Documents:
    """Write the three documents, each whole or not at all; a record of an earlier audit never outlives this one.

    Args:
        folder: of the run, which exists.
        report: what the ledger proves.
        empirical: see `audit_facts.Empirical`; None where it was not run.
        self_test: see `audit_facts.SelfTest`; None where it was not run.
        about: the run and its data.
        publisher: None where nothing is known about the deployer.

    Raises:
        ConfigError: something of `publisher` is not what the registry asks for; nothing was written.
        SottovoceError: the folder cannot be written, or the empirical part cannot be read.
    """
    known = publisher or Publisher()
    page = audit_page(report, empirical, self_test, about)
    why = unregistrable(report)
    record = None if why else to_yaml(deployment_record(report, about, known), known.unstated())
    file = folder / "deployment.yaml"
    try:
        write_atomically(folder / "audit.html", page.encode())
        write_atomically(folder / "audit.json", audit_json(report, empirical, self_test, about))
        if record is None:
            file.unlink(missing_ok=True)
        else:
            write_atomically(file, record.encode())
    except OSError as error:
        raise SottovoceError(f"{folder}: {error.strerror}", "choose a folder you may write to") from error
    return Documents(
        folder / "audit.html",
        folder / "audit.json",
        None if record is None else file,
        why,
        [] if record is None else known.unstated(),
    )
