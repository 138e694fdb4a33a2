"""Whether a coordinator is fit to go on: its ledger holds, enough nodes are there, and no round is overdue."""

from sottovoce.server.ledger_look import LedgerLook


def obstacles(look: LedgerLook, nodes: int, least_nodes: int, since_last_s: float, overdue_s: float) -> list[str]:
    """What stands in the way, one line each, without a figure about any round; empty when ready.

    Args:
        look: at the ledger.
        nodes: enrolled.
        least_nodes: that must be.
        since_last_s: seconds since a round was last released, or since the start.
        overdue_s: after so many a round is overdue.
    """
    found = []
    if look.problem:
        # The problem names files and rows, which are not for whoever can reach the port.
        found.append("ledger: cannot be read, or does not hold; run `sottovoce ledger verify`")
    if nodes < least_nodes:
        found.append(f"nodes: {nodes} enrolled, {least_nodes} needed")
    if since_last_s > overdue_s:
        found.append(f"round: overdue, none for more than {overdue_s:g} s")
    return found
