"""Options of whoever operates a coordinator: log and metrics."""

from collections.abc import Callable
from typing import Any

import click

from sottovoce.simulations.cli_options import PATH
from sottovoce.simulations.operating import Operations

_OPTIONS = (
    click.option("--log-json", is_flag=True, help="JSON lines on standard error, in place of the progress there."),
    click.option("--log-file", type=PATH, metavar="FILE", help="Append JSON lines to a file."),
    click.option(
        "--metrics-port",
        type=click.IntRange(0, 65535),
        metavar="PORT",
        help="Serve /metrics, /healthz and /readyz for Prometheus; 0 takes a free port.",
    ),
    click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Address to serve them on."),
    click.option("--metrics-anywhere", is_flag=True, help="Allow an address that other machines can reach."),
    click.option(
        "--restricted",
        is_flag=True,
        help="Also log, and serve on /metrics/restricted, what tells cohort sizes: replies, bytes, waiting time.",
    ),
    click.option(
        "--overdue",
        "overdue_s",
        type=click.FloatRange(min=0, min_open=True),
        default=1800.0,
        show_default=True,
        metavar="SECONDS",
        help="After so long without a round, /readyz says no.",
    ),
    click.option(
        "--least-nodes", type=click.IntRange(1), default=1, show_default=True, help="With fewer, /readyz says no."
    ),
    click.option(
        "--watch-certificate",
        "certificates",
        type=PATH,
        multiple=True,
        metavar="PEM",
        help="Certificate whose expiry the metrics tell; repeatable.",
    ),
)


def operations_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds them; the command gets them as one `operations`."""

    @click.pass_context
    def gathered(context: click.Context, /, **given: Any) -> Any:
        asked = {name: given.pop(name) for name in Operations.__dataclass_fields__}
        return context.invoke(command, operations=Operations(**asked), **given)

    gathered.__doc__, gathered.__name__ = command.__doc__, command.__name__
    gathered.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    found: Callable[..., Any] = gathered
    for option in reversed(_OPTIONS):
        found = option(found)
    return found
