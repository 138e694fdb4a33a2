"""Certificates that TLS takes, and those it must not."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.cli.supernode.register import try_load_public_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from sottovoce.privacy.errors import ConfigError
from sottovoce.server.certificates import authority, node_key, server_certificate, valid_until

NOW = datetime.now(UTC)


def shaken(tmp_path, server, trusted, name):
    """A TLS handshake over loopback in which the client expects `name`, as strict as OpenSSL can be."""
    (tmp_path / "server.pem").write_bytes(server.certificate + server.key)
    inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inside.load_cert_chain(tmp_path / "server.pem")
    outside = ssl.create_default_context(cadata=trusted.certificate.decode())
    outside.verify_flags |= ssl.VERIFY_X509_STRICT
    here, there = socket.socketpair()

    def serve():
        try:
            inside.wrap_socket(there, server_side=True).close()
        except OSError:
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with outside.wrap_socket(here, server_hostname=name):
            return True
    finally:
        here.close()
        thread.join()


@pytest.mark.parametrize("name", ["fl.example.org", "localhost", "10.0.0.7", "::1"])
def test_every_name_of_the_certificate_is_taken(tmp_path, name):
    signer = authority(NOW)
    server = server_certificate(signer, ["fl.example.org", "localhost", "10.0.0.7", "::1"], NOW, 30)
    assert shaken(tmp_path, server, signer, name)


def test_another_name_another_authority_and_an_ended_certificate_are_refused(tmp_path):
    signer = authority(NOW)
    server = server_certificate(signer, ["fl.example.org"], NOW, 30)
    ended = server_certificate(signer, ["fl.example.org"], NOW - timedelta(days=31), 30)
    early = server_certificate(signer, ["fl.example.org"], NOW + timedelta(days=1), 30)
    for shown, trusted, name in (
        (server, signer, "evil.example.org"),
        (server, authority(NOW), "fl.example.org"),
        (ended, signer, "fl.example.org"),
        (early, signer, "fl.example.org"),
    ):
        with pytest.raises(ssl.SSLCertVerificationError):
            shaken(tmp_path, shown, trusted, name)


def test_validity_is_what_was_asked_and_never_longer_than_the_authoritys():
    signer = authority(NOW)
    server = server_certificate(signer, ["a"], NOW, 30)
    assert abs(valid_until(server.certificate) - NOW - timedelta(days=30)) < timedelta(seconds=1)
    with pytest.raises(ConfigError, match="authority is valid until"):
        server_certificate(signer, ["a"], NOW + timedelta(days=3640), 30)


@pytest.mark.parametrize("name", ["", "a b", "-a.org", "a_b", "300.1.2.3", "https://a.org", "a:1", "*.a.org", "ä.org"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ConfigError, match="neither a host name nor an IP address"):
        server_certificate(authority(NOW), [name], NOW, 30)


def test_a_key_of_another_authority_signs_nothing():
    one, other = authority(NOW), authority(NOW)
    mixed = type(one)(one.key, other.certificate)
    with pytest.raises(ConfigError, match="do not belong together"):
        server_certificate(mixed, ["a"], NOW, 30)
    with pytest.raises(ConfigError, match="cannot be read"):
        server_certificate(type(one)(b"", one.certificate), ["a"], NOW, 30)


def test_node_keys_are_what_flower_reads(tmp_path):
    made = node_key()
    (tmp_path / "node.pub").write_bytes(made.public)
    private = load_ssh_private_key(made.private, None)
    assert try_load_public_key(tmp_path / "node.pub") == public_key_to_bytes(private.public_key())
