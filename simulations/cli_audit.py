"""`sottovoce audit --self-test`: whether the audit itself can be believed."""

import sys

import click

from sottovoce.privacy.errors import SottovoceError
from sottovoce.simulations.audit_self_test import self_test
from sottovoce.simulations.cli_options import print_json, torch_threads


def audit_self_test(json_output: bool) -> None:
    """Run the self-test and print it.

    Raises:
        SottovoceError: a planted bug was missed, or a clean run raised an alarm.
    """
    with torch_threads(1):
        found = self_test()
    if json_output:
        print_json(found)
    else:
        click.echo(f"planted bugs: {found.caught} of {found.planted_bugs} caught")
        click.echo(f"clean runs: {found.false_alarms} false alarms in {found.clean_runs}")
        for name, checks in found.details.items():
            click.echo(f"  {name}: {', '.join(checks) or 'NOT CAUGHT'}")
    if not found.passed:
        sys.stdout.flush()
        raise SottovoceError(
            "the audit failed its own test: its verdicts mean nothing here", "report it with this output"
        )
