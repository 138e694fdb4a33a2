"""How well a text stands out from what is behind it.

Source: Web Content Accessibility Guidelines 2.2, "contrast ratio" and "relative luminance", success criterion 1.4.3.
"""

NORMAL, LARGE = 4.5, 3.0
"""Least contrast ratio of ordinary and of large text."""


def contrast(color: str, background: str) -> float:
    """Contrast ratio, 1 ... 21, of two opaque colours.

    Args:
        color: "#rrggbb".
        background: "#rrggbb".

    Raises:
        ValueError: not of that form.
    """
    light, dark = sorted((_luminance(color), _luminance(background)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    if len(color) != 7 or color[0] != "#":
        raise ValueError(f"{color!r} is not of the form #rrggbb")
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
