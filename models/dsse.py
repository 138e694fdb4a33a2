"""What a DSSE signature covers, and base64 in one spelling only.

The signed message names the type of its payload, so a signature over one kind of statement is worth nothing over
another: that of a bundle does not rotate keys.

Source: https://github.com/secure-systems-lab/dsse, protocol.md.
"""

import base64
import binascii

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from sottovoce.privacy.errors import SignatureError

_SIGN = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
_VERIFY = ec.ECDSA(hashes.SHA256())


def signed_message(payload: bytes, payload_type: str) -> bytes:
    """The pre-authentication encoding: what is really signed.

    Args:
        payload: the statement.
        payload_type: its media type, ASCII.
    """
    return b"DSSEv1 %d %s %d %s" % (len(payload_type), payload_type.encode(), len(payload), payload)


def signature_of(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """The signature (DER) of `key` over `message`: the same bytes each time, so that whole releases can be rebuilt.

    Source: RFC 6979.
    """
    return key.sign(message, _SIGN)


def holds(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> bool:
    """Whether `key` made `signature` (DER) over `message`."""
    try:
        key.verify(signature, message, _VERIFY)
    except InvalidSignature:
        return False
    return True


def write_base64(data: bytes) -> str:
    """Base64 with padding, without line breaks."""
    return base64.b64encode(data).decode()


def read_base64(text: str, name: str) -> bytes:
    """Base64, only in the one form that `write_base64` writes: other spellings of the same bytes are refused.

    Args:
        text: what should be base64.
        name: of the file it stands in, for the message.

    Raises:
        SignatureError: broken, or another spelling.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureError(f"{name} holds broken base64", "download it again") from error
    if write_base64(data) != text:
        raise SignatureError(f"{name} holds irregular base64", "download it again")
    return data
