"""A run on a terminal: what `watch` draws, as plain lines that fit. No colours, no clock, no terminal in here."""

from collections.abc import Iterable, Sequence

from sottovoce.simulations.run_standing import Standing

_BARS = " .:-=+*#%@"
"""From low to high; ASCII, so that it shows everywhere."""


def screen(told: Standing, width: int, height: int) -> list[str]:
    """The lines to show, the most important first.

    Args:
        told: where the run is.
        width: columns; no line is longer.
        height: lines; no more are given.
    """
    lines = [
        f"{told.run}: {told.data}, {_state(told)}",
        _progress(told, width),
        _budget(told, width),
    ]
    if told.problem:
        lines.insert(1, f"PROBLEM: {told.problem}")
    if told.ledger_problem:
        lines.insert(1, f"LEDGER: {told.ledger_problem}")
    lines.append(_quality(told, width))
    if told.replies:
        lines.append("replies   " + _pairs(told.replies.items()) + f"  ({told.dropped} unusable in the last round)")
        lines.append(f"bytes     sent {_bytes(told.sent)}  received {_bytes(told.received)}")
    if told.phases:
        spent = {name: f"{seconds:.2f} s" for name, seconds in told.phases.items()}
        lines.append("phases    " + _pairs(spent.items()) + "  (medians)")
    lines.append(f"ledger    {told.ledger_rows} rows" + ("" if told.ledger_problem else ", chain holds"))
    return [_printable(line)[:width] for line in lines[: max(0, height)]]


def line(told: Standing) -> str:
    """The same in one line, for pipes and logs."""
    spent = "-" if told.epsilon is None else f"{told.epsilon:.4f}"
    quality = f"  AUC {list(told.auc.values())[-1]:.4f}" if told.auc else ""
    problem = "  LEDGER DOES NOT HOLD" if told.ledger_problem else ""
    return _printable(f"round {told.rounds}/{told.rounds_planned}  {told.state}  epsilon {spent}{quality}{problem}")


def duration(seconds: float) -> str:
    """Seconds in the two largest units that matter."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    hours = whole // 3600
    return f"{hours} h {whole % 3600 // 60:02} min" if hours < 48 else f"{hours // 24} d {hours % 24:02} h"


def _state(told: Standing) -> str:
    ago = duration(told.since_s)
    return {
        "starting": f"no round yet, {ago} since the start",
        "running": f"running, last round {ago} ago",
        "quiet": f"QUIET: {ago} without a round; it ended early, waits, or hangs",
        "finished": f"finished {ago} ago",
    }[told.state]


def _progress(told: Standing, width: int) -> str:
    text = f"  {told.rounds}/{told.rounds_planned}"
    if told.round_s is not None:
        text += f"  {told.round_s:.2f} s a round"
    if told.left_s is not None:
        text += f"  about {duration(told.left_s)} left"
    return _bar("rounds", told.rounds / told.rounds_planned, text, width)


def _budget(told: Standing, width: int) -> str:
    if told.epsilon is None:
        return (
            "epsilon   no finite figure" if not told.ledger_problem else "epsilon   unknown: the ledger does not hold"
        )
    known = "" if told.epsilon_known_cohort is None else f"  (who knows cohorts: {told.epsilon_known_cohort:.2f})"
    if told.budget is None:
        return f"epsilon   {told.epsilon:.3f}, no limit{known}"
    text = f"  {told.epsilon:.3f} of {told.budget:g}{known}"
    return _bar("epsilon", told.epsilon / told.budget, text, width)


def _quality(told: Standing, width: int) -> str:
    if not told.auc:
        return "AUC       not judged yet"
    values = list(told.auc.values())
    text = f"AUC       {values[-1]:.4f} in round {list(told.auc)[-1]}, best {max(values):.4f}  "
    return text + _curve(values, max(0, min(40, width - len(text) - 2)))


def _curve(values: Sequence[float], places: int) -> str:
    """The last values as heights, in brackets."""
    shown = values[-places:] if places else ()
    if len(shown) < 2:
        return ""
    low, high = min(shown), max(shown)
    steps = len(_BARS) - 1
    return "[" + "".join(_BARS[round(steps * (one - low) / ((high - low) or 1))] for one in shown) + "]"


def _bar(name: str, share: float, text: str, width: int) -> str:
    """A name, a bar of what is left of the width, and a text."""
    room = min(40, width - 12 - len(text))
    if room < 8:
        return f"{name:9}{text}"
    full = round(room * min(1.0, max(0.0, share)))
    return f"{name:9} [{'#' * full}{'-' * (room - full)}]{text}"


def _pairs(told: Iterable[tuple[str, object]]) -> str:
    return "  ".join(f"{name} {value}" for name, value in told)


def _bytes(count: int) -> str:
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.3g} {unit}" if unit != "B" else f"{count} B"


def _printable(text: str) -> str:
    """Without what would move the cursor or colour the screen: names and messages come from files."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
