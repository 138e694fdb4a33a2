"""The frame of every page: one HTML file that loads nothing and sends nothing, whatever its text holds.

No script, no address, no font of its own, and a content policy that forbids the browser to fetch anything even if
foreign text slipped in a tag. A warning stands in the window's title, at the top while scrolling, and on every printed
page.
"""

from sottovoce.simulations.markup import text
from sottovoce.simulations.stylesheet import PRINTED_ALARM, STYLE

ALARM = "SIMULATION: NO GUARANTEE"

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(title: str, body: str, alarm: bool) -> str:
    """The page, complete, as text to be written in UTF-8.

    Args:
        title: plain text.
        body: markup.
        alarm: whether the page carries the warning.
    """
    banner = f'<div class="alarm" role="alert">{ALARM}</div>' if alarm else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer"><meta name="robots" content="noindex">'
        f"<title>{text(f'{ALARM} - {title}' if alarm else title)}</title>"
        f"<style>{STYLE}{PRINTED_ALARM if alarm else ''}</style></head>\n<body>{banner}\n{body}</body></html>\n"
    )
