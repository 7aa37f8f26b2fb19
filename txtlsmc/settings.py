"""
What a user sets, as plain frozen values, and how to read them from text.

Nothing here reads a file, the environment or the clock: that is done at the edges.  A value that
can not be right raises `InvalidSetting` when it is made, never when it is first used.  No `repr`
shows a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import NoneType
from typing import Final

from txtlsmc.checks import require_bool, require_choice, require_seconds, require_whole
from txtlsmc.errors import InvalidSetting
from txtlsmc.routing import SCHEMES, Backoff, Routing
from txtlsmc.servers import DEFAULT_PORT, Address, Server, is_host, is_ip_address, parse_servers

__all__ = [
    "CODECS",
    "DEFAULT_PORT",
    "MECHANISMS",
    "SCHEMES",
    "TLS",
    "TLS_VERSIONS",
    "Address",
    "Backoff",
    "ClientSettings",
    "Credentials",
    "InsecurePlaintext",
    "Limits",
    "Routing",
    "Server",
    "is_ip_address",
    "parse_servers",
    "password_risk",
]

MECHANISMS: Final = ("PLAIN", "CRAM-MD5", "SCRAM-SHA-256")
TLS_VERSIONS: Final = ("1.2", "1.3")
#: Those that `txtlsmc.wire.codecs` makes.
CODECS: Final = (
    *("pylibmc", "bmemcached", "pymemcache", "raw"),
    *("pylibmc-insecure-pickle", "bmemcached-insecure-pickle", "pymemcache-insecure-pickle"),
)

_PIN = re.compile("[0-9A-Fa-f]{64}")
#: What may begin a key; one byte at least is the key's own.
_NAMESPACE = re.compile(rb"[^\x00-\x20\x7f]{0,249}")


def _is_source(given: object) -> bool:
    return given is None or (isinstance(given, (str, bytes)) and len(given) > 0)


def _can_travel(secret: object) -> bool:
    # Never raises: the error of str.encode carries the whole text.
    if not isinstance(secret, str) or "\0" in secret:
        return False
    return secret != "" and not any("\ud800" <= c <= "\udfff" for c in secret)


@dataclass(frozen=True, slots=True, init=False)
class TLS:
    """
    How to speak TLS to a server: always verified, unless the word *insecure* is written.

    Attributes:
        ca: what to trust: the path of a PEM file or of a folder of ``.pem`` and ``.crt`` files, or
            PEM text.  By default what the platform trusts (honours ``SSL_CERT_FILE``).
        client_certificate: the path of a PEM file with our certificate, its chain and its private
            key, or that as PEM text.
        pins: SHA-256 of acceptable public keys of the server (of the SubjectPublicKeyInfo), as 64
            hexadecimal digits, colons allowed; checked besides the chain.
        server_name: whom the certificate must be for, where that is not the server's own host.
        minimum_version: ``"1.2"`` or ``"1.3"``.
        insecure_no_verify: shake hands with anybody.  Passwords are then refused, unless the
            credentials say *insecure* as well.
    """

    ca: str | bytes | None
    client_certificate: str | bytes | None = field(repr=False)
    pins: tuple[str, ...]
    server_name: str | None
    minimum_version: str
    insecure_no_verify: bool

    def __init__(
        self,
        ca: str | bytes | None = None,
        client_certificate: str | bytes | None = None,
        pins: tuple[str, ...] = (),
        server_name: str | None = None,
        minimum_version: str = "1.2",
        insecure_no_verify: bool = False,
    ) -> None:
        object.__setattr__(self, "ca", ca)
        object.__setattr__(self, "client_certificate", client_certificate)
        object.__setattr__(self, "pins", pins)
        object.__setattr__(self, "server_name", server_name)
        object.__setattr__(self, "minimum_version", minimum_version)
        object.__setattr__(self, "insecure_no_verify", insecure_no_verify)
        del client_certificate  # or a traceback with locals would show the private key
        self._check()

    def _check(self) -> None:
        for name in ("ca", "client_certificate"):
            if not _is_source(getattr(self, name)):
                raise InvalidSetting(f"{name} is a path or PEM text, and not empty")
        require_choice("the minimum TLS version", self.minimum_version, TLS_VERSIONS)
        if not isinstance(self.pins, (tuple, list)):
            raise InvalidSetting(f"pins are a tuple of strings, not {type(self.pins).__name__}")
        for pin in self.pins:
            if not isinstance(pin, str) or not _PIN.fullmatch(pin.replace(":", "")):
                raise InvalidSetting(f"a pin has 64 hexadecimal digits (SHA-256), not {pin!r}")
        object.__setattr__(self, "pins", tuple(pin.replace(":", "").lower() for pin in self.pins))
        if self.server_name is not None and not is_host(self.server_name):
            raise InvalidSetting(
                f"the server name {self.server_name!r} is neither a host name nor an IP address"
            )
        require_bool("insecure_no_verify", self.insecure_no_verify)


@dataclass(frozen=True, slots=True)
class InsecurePlaintext:
    """In the place of a `TLS`: no encryption; whoever is on the way reads and writes along."""


@dataclass(frozen=True, slots=True, init=False)
class Credentials:
    """
    Who we are, by SASL.

    Attributes:
        username: as the server knows it.
        password: never shown.
        mechanism: ``"PLAIN"``, ``"CRAM-MD5"`` or ``"SCRAM-SHA-256"``.
        insecure_password: allow the password on a connection that is not verified TLS.
    """

    username: str
    password: str = field(repr=False)
    mechanism: str
    insecure_password: bool

    def __init__(
        self,
        username: str,
        password: str,
        mechanism: str = "PLAIN",
        insecure_password: bool = False,
    ) -> None:
        object.__setattr__(self, "username", username)
        object.__setattr__(self, "password", password)
        object.__setattr__(self, "mechanism", mechanism)
        object.__setattr__(self, "insecure_password", insecure_password)
        del password  # or a traceback with locals would show it
        self._check()

    def _check(self) -> None:
        require_choice("the SASL mechanism", self.mechanism, MECHANISMS)
        for what, name in (("user name", "username"), ("password", "password")):
            if not _can_travel(getattr(self, name)):
                raise InvalidSetting(
                    f"the {what} must be text that UTF-8 can encode, not empty, without NUL"
                )
        require_bool("insecure_password", self.insecure_password)


@dataclass(frozen=True, slots=True)
class Limits:
    """
    The bounds of one connection.

    Attributes:
        timeout: seconds for a request, from the call to its answer; also how long a connection
            may be silent while something is pending.
        connect_timeout: seconds until a connection is ready: TCP, TLS and SASL together.
        max_pending: requests without an answer, abandoned ones included.
        max_pending_bytes: the size of these requests.
        max_body: the largest body of an answer, in bytes.
    """

    timeout: float = 2.0
    connect_timeout: float = 5.0
    max_pending: int = 65_536
    max_pending_bytes: int = 64 * 2**20
    max_body: int = 32 * 2**20

    def __post_init__(self) -> None:
        for name in ("timeout", "connect_timeout"):
            require_seconds(name, getattr(self, name))
        for name in ("max_pending", "max_pending_bytes", "max_body"):
            require_whole(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """
    All that makes a client, wherever it was read from.

    Attributes:
        servers: one or more, in ring order.
        tls: how to know the servers, or `InsecurePlaintext`.
        credentials: who we are; None: the servers are used without.
        routing: how keys are shared out, and what happens when a server is down.
        namespace: goes before every key on the wire; text is encoded as UTF-8.
        codec: how values are marked: ``"pylibmc"``, ``"bmemcached"``, ``"pymemcache"``, ``"raw"``,
            or one of these with pickles, whose name says *insecure*.
        limits: the bounds of each connection.
    """

    servers: tuple[Server, ...]
    tls: TLS | InsecurePlaintext = field(default_factory=TLS)
    credentials: Credentials | None = None
    routing: Routing = field(default_factory=Routing)
    namespace: bytes = b""
    codec: str = "pylibmc"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        object.__setattr__(self, "servers", parse_servers(self.servers))
        for name, classes in (
            ("tls", (TLS, InsecurePlaintext)),
            ("credentials", (Credentials, NoneType)),
            ("routing", (Routing,)),
            ("limits", (Limits,)),
        ):
            value = getattr(self, name)
            if not isinstance(value, classes):
                raise InvalidSetting(
                    f"{name} is a {classes[0].__name__}, not {type(value).__name__}"
                )
        object.__setattr__(self, "namespace", _namespace(self.namespace))
        require_choice("the codec", self.codec, CODECS)


def _namespace(given: str | bytes) -> bytes:
    if not isinstance(given, (str, bytes)):
        raise InvalidSetting(f"the namespace is str or bytes, not {type(given).__name__}")
    # What UTF-8 can not encode becomes a control character, and is refused as these are.
    encoded = re.sub("[\ud800-\udfff]", "\0", given).encode() if isinstance(given, str) else given
    if not _NAMESPACE.fullmatch(encoded):
        raise InvalidSetting(
            "the namespace is at most 249 bytes (text as UTF-8), without white space and control"
            f" characters, not {given!r}"
        )
    return encoded


def password_risk(tls: TLS | InsecurePlaintext, credentials: Credentials | None) -> str | None:
    """
    Return in which way the password could be stolen on its way, or None if it can not.

    Whatever the mechanism: a proof is as good as the password to whoever relays it.
    """
    if credentials is None or credentials.insecure_password:
        return None
    if isinstance(tls, InsecurePlaintext):
        return "without TLS"
    return "over TLS that verifies nobody" if tls.insecure_no_verify else None
