"""What a federation authenticates with: an authority of its own, a server certificate, a key for every node.

The authority signs one kind of certificate, the server's. Nodes have no certificates: Flower knows them by their public
keys, on NIST curve P-384, in OpenSSH's format.

Source: RFC 5280 for the extensions; Flower 1.41 for the format of node keys.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sottovoce.privacy.errors import ConfigError

AUTHORITY_DAYS = 3650
"""How long an authority is valid: it must outlive every certificate that it signs."""

_EARLIER = timedelta(minutes=10)
"""How far back validity begins, so that a node whose clock is a little behind takes the certificate."""


@dataclass(frozen=True, slots=True)
class Certified:
    """A private key and its certificate, both PEM; the key is not encrypted."""

    key: bytes
    certificate: bytes


@dataclass(frozen=True, slots=True)
class NodeKey:
    """A node's key pair in OpenSSH's format, as `flower-supernode` and `flwr supernode register` read it."""

    private: bytes
    public: bytes


def authority(now: datetime) -> Certified:
    """A new authority, valid for `AUTHORITY_DAYS` from `now`, that may sign certificates and nothing below it."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sottovoce federation authority")])
    usage = _usage(sign=False, certificates=True)
    certificate = (
        _begun(name, name, key.public_key(), now, timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return Certified(_pem(key), certificate.public_bytes(Encoding.PEM))


def server_certificate(signer: Certified, names: Sequence[str], now: datetime, days: int) -> Certified:
    """A new key with a certificate for a server that is reached under any of `names`.

    Args:
        signer: the authority.
        names: host names and IP addresses, at least one.
        now: time of signing, with time zone.
        days: of validity.

    Raises:
        ConfigError: a name is neither a host name nor an address; the authority cannot be read, or ends before the
            certificate would.
    """
    try:
        above = x509.load_pem_x509_certificate(signer.certificate)
        signing = load_pem_private_key(signer.key, None)
    except (ValueError, TypeError) as error:
        raise ConfigError("the authority's key or certificate cannot be read", "restore ca.key and ca.crt") from error
    if not isinstance(signing, ec.EllipticCurvePrivateKey) or signing.public_key() != above.public_key():
        raise ConfigError("the authority's key and certificate do not belong together", "restore ca.key and ca.crt")
    if now + timedelta(days=days) > above.not_valid_after_utc:
        raise ConfigError(
            f"the authority is valid until {above.not_valid_after_utc:%Y-%m-%d}, the certificate would be longer",
            "take fewer --days, or make a new authority and give its ca.crt to every node first",
        )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sottovoce coordinator")])
    certificate = (
        _begun(subject, above.subject, key.public_key(), now, timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=True, certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
        .sign(signing, hashes.SHA384())
    )
    return Certified(_pem(key), certificate.public_bytes(Encoding.PEM))


def node_key() -> NodeKey:
    """A new key pair for one node."""
    key = ec.generate_private_key(ec.SECP384R1())
    return NodeKey(
        key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n",
    )


def valid_until(certificate: bytes) -> datetime:
    """End of a PEM certificate's validity, UTC; raises ConfigError when it cannot be read."""
    try:
        return x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    except ValueError as error:
        raise ConfigError("the certificate cannot be read", "restore server.crt") from error


def is_loopback(host: str) -> bool:
    """Whether `host` is an address of this machine that no other machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    labels = name.split(".")
    plain = all(label.replace("-", "a").isalnum() and label.isascii() and len(label) < 64 for label in labels)
    if not plain or any(label[0] == "-" or label[-1] == "-" for label in labels) or labels[-1].isdigit():
        raise ConfigError(f"{name!r} is neither a host name nor an IP address", "write for example fl.example.org")
    return x509.DNSName(name)


def _usage(*, sign: bool, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(sign, False, False, False, False, certificates, certificates, False, False)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lasts: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + lasts)
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
