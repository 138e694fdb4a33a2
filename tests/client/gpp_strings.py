"""Builds GPP strings bit by bit."""

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def text(bits: str) -> str:
    """Bits as base64url, padded with zeros."""
    bits += "0" * (-len(bits) % 6)
    return "".join(ALPHABET[int(bits[at : at + 6], 2)] for at in range(0, len(bits), 6))


def us_national(
    sale: int, sharing: int, targeted: int, child: int = 0, gpc: int | None = None, version: int = 1
) -> str:
    """A GPP string with only section 7."""
    core = f"{version:06b}" + "01" * 6 + f"{sale:02b}{sharing:02b}{targeted:02b}"
    core += "00" * (12 if version == 1 else 16) + f"{child:02b}" + "00" * (1 if version == 1 else 2) + "00" * 4
    segment = "" if gpc is None else "." + text(f"01{gpc}")
    return "DBABLA~" + text(core) + segment
