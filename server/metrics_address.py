"""Where metrics may be served: on loopback, unless the operator says otherwise; restricted ones never elsewhere."""

import ipaddress

from sottovoce.privacy.errors import ConfigError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def require_safe(host: str, elsewhere: bool, restricted: bool) -> None:
    """Refuse an address that more people can reach than was meant.

    Args:
        host: address to listen on.
        elsewhere: whether an address that is not loopback was meant.
        restricted: whether the restricted page is served as well.

    Raises:
        ConfigError: an address outside loopback that was not meant, or together with the restricted page.
    """
    if is_loopback(host):
        return
    if restricted:
        raise ConfigError(
            f"restricted metrics on {host}: whoever reads them learns cohort sizes, which epsilon needs secret",
            "serve them on 127.0.0.1 only, to a Prometheus on this machine",
        )
    if not elsewhere:
        raise ConfigError(
            f"metrics on {host} could be read from other machines, without a login",
            "use 127.0.0.1 behind a proxy that asks for a login, or add --metrics-anywhere if you mean it",
        )
