"""Text, figures and tables for a page of HTML; the only place where foreign text becomes markup."""

import html
import math
import unicodedata
from collections.abc import Collection, Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def text(value: str) -> str:
    """`value` as HTML text, safe between tags and inside a quoted attribute.

    ======================================  ===================================
    input                                   result
    ======================================  ===================================
    the characters < > & " '                entities
    new line, tab                           kept
    other control and direction characters  U+FFFD: they could hide or reorder
    half of a surrogate pair                U+FFFD: it could not be written
    ======================================  ===================================
    """
    return html.escape("".join(c if visible(c) else REPLACEMENT for c in value))


def visible(character: str) -> bool:
    """Whether a character shows as itself, and leaves its neighbours where they are."""
    return character in "\n\t" or unicodedata.category(character) not in {"Cc", "Cf", "Cs"}


def number(value: float | None, decimals: int = 3) -> str:
    """A figure for reading: fixed decimals, thousands apart; a dash where there is none."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:,.{decimals}f}"


def at_most(value: float | None, decimals: int = 4) -> str:
    """An upper bound for reading: rounded up, so that it never says less than is true; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return number(value, decimals)
    steps = 10.0**decimals
    return number(math.ceil(value * steps - 1e-9) / steps, decimals)


def significant(value: float) -> str:
    """A figure of unknown size for reading: whole numbers in full, others to three digits."""
    if not math.isfinite(value):
        return number(value)
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def size(count: int) -> str:
    """Bytes as people read them, in powers of ten."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:,.1f} kB" if count < 1_000_000 else f"{count / 1e6:,.2f} MB"


def table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    strong: int | None = None,
    prose: Collection[int] = (),
) -> str:
    """A table whose first column names the row and whose other columns are figures.

    Args:
        caption: what the table shows; plain text.
        header: plain text per column.
        rows: plain text per cell, as many as `header`.
        strong: index of a row to stress.
        prose: indices of columns that hold words, which may take several lines.
    """
    worded = [' class="prose"' if index in prose else "" for index in range(len(header))]
    head = "".join(f'<th scope="col"{kind}>{text(cell)}</th>' for kind, cell in zip(worded, header, strict=True))
    body = []
    for index, (first, *rest) in enumerate(rows):
        mark = ' class="strong"' if index == strong else ""
        cells = "".join(f"<td{kind}>{text(cell)}</td>" for kind, cell in zip(worded[1:], rest, strict=True))
        body.append(f'<tr{mark}><th scope="row">{text(first)}</th>{cells}</tr>')
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )
