"""
What a user sets of the tunnel, as plain frozen values, and the one table of these settings.

Options, TOML keys and the reference in the documentation are made from `SETTINGS`; what a client
sets as well (servers, TLS, credentials) is in `txtlsmc.sources`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from math import inf
from typing import Final, NamedTuple

from txtlsmc.checks import (
    is_whole,
    require_bool,
    require_choice,
    require_seconds,
    require_whole,
)
from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import ClientSettings
from txtlsmc.sources import SETTINGS as CLIENT
from txtlsmc.tunnel.addresses import ListenAddress, one_for_each

MODES: Final = ("gateway", "relay")
LOCAL_AUTH: Final = ("none", "required")
LOG_FORMATS: Final = ("text", "json")
DEFAULT_LISTEN: Final = "127.0.0.1:11211"


def _require_seconds_or_0(name: str, value: object) -> None:
    if value != 0 or isinstance(value, bool):
        require_seconds(name, value)


@dataclass(frozen=True, slots=True)
class TunnelLimits:
    """
    The bounds of what local connections can ask of the tunnel.

    Attributes:
        max_connections: local connections, those of all listeners together.
        max_request: the largest body of a local request, in bytes.
        window: requests of one local connection that are upstream without an answer.
        max_pending: requests without an answer, for each upstream connection.
        max_pending_bytes: the size of these.
        max_unread: bytes of answers that one local client has not taken: it is closed above it.
        max_unread_in_all: the same of all local clients together: who has most of it is closed.
        request_seconds: until a request that began has come whole.
        stall_seconds: for which a client may take nothing of its answers.
        idle_seconds: for which a local connection may be silent; 0 is for ever.
        relay_idle_seconds: for which both sides of a relay may be silent; 0 is for ever.
        reserved_descriptors: file descriptors kept for upstream connections.
    """

    max_connections: int = 1024
    max_request: int = 32 * 2**20
    window: int = 128
    max_pending: int = 65_536
    max_pending_bytes: int = 64 * 2**20
    max_unread: int = 64 * 2**20
    max_unread_in_all: int = 256 * 2**20
    request_seconds: float = 30.0
    stall_seconds: float = 30.0
    idle_seconds: float = 0.0
    relay_idle_seconds: float = 0.0
    reserved_descriptors: int = 32

    def __post_init__(self) -> None:
        for name in (
            *("max_connections", "max_request", "window", "max_pending", "max_pending_bytes"),
            *("max_unread", "max_unread_in_all"),
        ):
            require_whole(name, getattr(self, name))
        for name in ("request_seconds", "stall_seconds"):
            require_seconds(name, getattr(self, name))
        for name in ("idle_seconds", "relay_idle_seconds"):
            _require_seconds_or_0(name, getattr(self, name))
        if not is_whole(self.reserved_descriptors, 0, inf):
            raise InvalidSetting(
                "reserved_descriptors must be a whole number, 0 or more,"
                f" not {self.reserved_descriptors!r}"
            )


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """
    All that makes a tunnel, wherever it was read from.

    Attributes:
        client: the servers, how to know them, and who we are to them.
        listen: the text of one listener for each server, in their order; one base address is
            made into these.
        mode: ``"gateway"``, which understands the binary protocol and shares upstream connections,
            or ``"relay"``, which carries bytes one to one.
        upstream_connections: of the gateway, to each server.
        drain_seconds: what requests in flight get to be answered in when the tunnel ends.
        local_auth: ``"required"``: local clients must log in with the configured credentials.
        listen_anywhere: allow listeners that other machines can reach.
        listen_certificate: path of the certificate (PEM, its chain behind it) that listeners show;
            they then speak TLS.
        listen_key: path of its private key (PEM).
        listen_client_ca: path of the authorities (PEM) one of which must have signed the
            certificate of a local client.
        log_format: ``"text"`` or ``"json"``.
        limits: the bounds of local connections.
    """

    client: ClientSettings
    listen: tuple[str, ...] = (DEFAULT_LISTEN,)
    mode: str = "gateway"
    upstream_connections: int = 1
    drain_seconds: float = 5.0
    local_auth: str = "none"
    listen_anywhere: bool = False
    listen_certificate: str | None = None
    listen_key: str | None = None
    listen_client_ca: str | None = None
    log_format: str = "text"
    limits: TunnelLimits = field(default_factory=TunnelLimits)

    def __post_init__(self) -> None:
        for name, kind in (("client", ClientSettings), ("limits", TunnelLimits)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise InvalidSetting(f"{name} is a {kind.__name__}, not {type(value).__name__}")
        for name in _CHECKS:
            check(name, getattr(self, name))
        object.__setattr__(self, "listen", one_for_each(self.listen, len(self.client.servers)))
        self._check_exposure()
        self._check_tls()
        self._check_auth()

    def _check_exposure(self) -> None:
        for text in self.listen:
            if not self.listen_anywhere and not ListenAddress.parse(text).is_local:
                raise InvalidSetting(
                    f"listen: {text} can be reached from other machines, and whoever reaches it has"
                    " the rights of our credentials: listen on 127.0.0.1, or set listen_anywhere if"
                    " that is what you want"
                )

    def _check_tls(self) -> None:
        if (self.listen_certificate is None) != (self.listen_key is None):
            raise InvalidSetting("listen_certificate and listen_key go together: set both")
        if self.listen_client_ca is not None and self.listen_certificate is None:
            raise InvalidSetting(
                "listen_client_ca is about listeners that speak TLS: set listen_certificate and"
                " listen_key as well"
            )

    def _check_auth(self) -> None:
        if self.local_auth == "none":
            return
        if self.mode == "relay":
            raise InvalidSetting(
                "local_auth: a relay does not look at what it carries: leave it out, or set mode to"
                " gateway"
            )
        if self.client.credentials is None:
            raise InvalidSetting(
                "local_auth is required, and there are no credentials that a local client could"
                " prove: set user name and password"
            )


def check(name: str, value: object) -> None:
    """
    Refuse what the setting *name* of `TunnelSettings` or `TunnelLimits` can never be.

    Raises:
        InvalidSetting: it names the setting.
    """
    if name in _CHECKS:
        _CHECKS[name](name, value)
    else:
        TunnelLimits(**{name: value})  # type: ignore[arg-type] # what it is made of is what it checks


def _check_listen(_name: str, value: object) -> None:
    for text in value if isinstance(value, (tuple, list)) else (value,):
        ListenAddress.parse(text)


def _check_path(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not value or "\0" in value or "-----BEGIN" in value:
        # It may be a private key that somebody wrote in the place of its path: not shown.
        raise InvalidSetting(f"{name} is the path of a file")


def _choice(choices: tuple[str, ...]) -> Callable[[str, object], None]:
    return lambda name, value: require_choice(name, value, choices)


_CHECKS: Final[dict[str, Callable[[str, object], None]]] = {
    "listen": _check_listen,
    "mode": _choice(MODES),
    "upstream_connections": require_whole,
    "drain_seconds": _require_seconds_or_0,
    "local_auth": _choice(LOCAL_AUTH),
    "listen_anywhere": require_bool,
    "listen_certificate": _check_path,
    "listen_key": _check_path,
    "listen_client_ca": _check_path,
    "log_format": _choice(LOG_FORMATS),
}


# The table ----------------------------------------------------------------------------------


class TunnelSetting(NamedTuple):
    """
    One thing that can be set.

    Attributes:
        name: the attribute of `TunnelSettings` or `TunnelLimits`; with hyphens, the option.
        key: in a TOML file.
        read: makes the value of text; raises `InvalidSetting`.
        summary: for the help of a command: in capitals what stands behind the option.
        default: what it is unless it is set.
    """

    name: str
    key: str
    read: Callable[[str], object]
    summary: str
    default: object


_TEXT, _FLAG, _NUMBER, _SECONDS = (
    CLIENT[name].read for name in ("codec", "retry", "max_pending", "timeout")
)
_DEFAULTS: Final = {
    one.name: one.default for one in (*fields(TunnelSettings), *fields(TunnelLimits))
}


def _table(
    prefix: str, *rows: tuple[str, Callable[[str], object], str]
) -> dict[str, TunnelSetting]:
    return {
        name: TunnelSetting(name, f"{prefix}.{name}", read, summary, _DEFAULTS[name])
        for name, read, summary in rows
    }


SETTINGS: Final = _table(
    "tunnel",
    ("listen", _TEXT, "ADDRESS:PORT, from which the listeners count on; or one for each server"),
    ("mode", _TEXT, "WORD: gateway, or relay for what is not memcached's binary protocol"),
    ("upstream_connections", _NUMBER, "NUMBER of the gateway's connections to each server"),
    ("drain_seconds", _SECONDS, "SECONDS for requests in flight at the end"),
    ("local_auth", _TEXT, "WORD: none, or required: local clients prove the same credentials"),
    ("listen_anywhere", _FLAG, "Allow listeners that other machines can reach."),
    ("listen_certificate", _TEXT, "FILE with the certificate that listeners show (PEM)"),
    ("listen_key", _TEXT, "FILE with its private key (PEM)"),
    ("listen_client_ca", _TEXT, "FILE of who vouches for local clients (PEM)"),
    ("log_format", _TEXT, "WORD: text or json"),
) | _table(
    "tunnel.limits",
    ("max_connections", _NUMBER, "NUMBER of local connections, all listeners together"),
    ("max_request", _NUMBER, "BYTES of a local request at most"),
    ("window", _NUMBER, "REQUESTS of one local connection on their way at once"),
    ("max_pending", _NUMBER, "REQUESTS unanswered by one upstream connection"),
    ("max_pending_bytes", _NUMBER, "BYTES of these requests"),
    ("max_unread", _NUMBER, "BYTES of answers that a local client may leave unread"),
    ("max_unread_in_all", _NUMBER, "BYTES that all of them together may"),
    ("request_seconds", _SECONDS, "SECONDS for a request to come whole"),
    ("stall_seconds", _SECONDS, "SECONDS for which a client may take no answers"),
    ("idle_seconds", _SECONDS, "SECONDS of silence that end a local connection; 0: never"),
    ("relay_idle_seconds", _SECONDS, "SECONDS of silence that end a relay; 0: never"),
    ("reserved_descriptors", _NUMBER, "NUMBER of file descriptors kept for upstream"),
)
