"""
What a user sets, as plain frozen values, and how to read them from text.

Nothing here reads a file, the environment or the clock: that is done at the edges.  A value that
can not be right raises `InvalidSetting` when it is made, never when it is first used.  No `repr`
shows a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from math import inf
from typing import Final

from txtlsmc.errors import InvalidSetting

DEFAULT_PORT: Final = 11211
MECHANISMS: Final = ("PLAIN", "CRAM-MD5", "SCRAM-SHA-256")
TLS_VERSIONS: Final = ("1.2", "1.3")

# Any letters for international names, and of ASCII what a name can have: so no list, URL,
# credentials or second line passes for a host.
_HOST = re.compile(r"[\w.\-\x80-\U0010ffff]+")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(?:%[\w.-]+)?")
_ADDRESS = re.compile(
    r"(?:\[(?P<ipv6>[^\]]*)\]|(?P<host>[^:\[\]/\s]+))(?::(?P<port>[^:]*))?(?::(?P<weight>[^:]*))?"
)
_PIN = re.compile("[0-9A-Fa-f]{64}")
#: What ``sun_path`` holds on Linux, without the NUL behind it.
_LONGEST_PATH: Final = 107
_LARGEST_WEIGHT: Final = 2**31 - 1


def is_ip_address(host: str) -> bool:
    """Return whether *host* is an IPv4 or IPv6 address, and not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_host(text: object) -> bool:
    if not isinstance(text, str):
        return False
    if ":" in text:
        return _IPV6.fullmatch(text) is not None and is_ip_address(text)
    return _HOST.fullmatch(text) is not None and text.isprintable()


def _is_whole(number: object, least: int, most: float) -> bool:
    # True is an int to Python; in a setting it is a mistake.
    return isinstance(number, int) and not isinstance(number, bool) and least <= number <= most


def _whole_number(text: str, least: int, most: int, what: str) -> int:
    # Ten digits are enough; of thousands int() would make a ValueError of its own.
    if not re.fullmatch("[0-9]{1,10}", text) or not least <= int(text) <= most:
        raise InvalidSetting(f"{what} must be a number from {least} to {most}, not {text!r}")
    return int(text)


def _is_source(given: object) -> bool:
    return given is None or (isinstance(given, (str, bytes)) and len(given) > 0)


def _can_travel(secret: object) -> bool:
    # Never raises: the error of str.encode carries the whole text.
    if not isinstance(secret, str) or "\0" in secret:
        return False
    return secret != "" and not any("\ud800" <= c <= "\udfff" for c in secret)


def _require_bool(name: str, value: object) -> None:
    # "false" is true to Python, and these words switch protection off.
    if not isinstance(value, bool):
        raise InvalidSetting(f"{name} must be True or False, not {value!r}")


def _refuse_user(text: str) -> None:
    if "@" in text and not text.startswith("unix:"):
        # There may be a password before it, so the text is not repeated.
        raise InvalidSetting("a server has no '@': user name and password are set as credentials")


@dataclass(frozen=True, slots=True)
class Address:
    """
    Where to dial: a host and a port, or the path of a Unix socket.

    Attributes:
        host: a name or an IP address without brackets; empty for a Unix socket.
        port: 1 to 65535; 0 for a Unix socket.
        path: of the Unix socket, from the root; empty otherwise.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    def __post_init__(self) -> None:
        if self.path:
            if not isinstance(self.path, str) or self.path[0] != "/" or "\0" in self.path:
                raise InvalidSetting(f"{self.path!r} is no absolute path of a Unix socket")
            if len(self.path.encode(errors="surrogateescape")) > _LONGEST_PATH:
                raise InvalidSetting(
                    f"{self.path!r} is too long for a Unix socket: {_LONGEST_PATH} bytes at most"
                )
            if self.host or self.port:
                raise InvalidSetting(f"{self.path!r} is a Unix socket, without a host or a port")
            return
        if not _is_host(self.host):
            raise InvalidSetting(f"{self.host!r} is neither a host name nor an IP address")
        if not _is_whole(self.port, 1, 65535):
            raise InvalidSetting(f"the port must be a number from 1 to 65535, not {self.port!r}")

    @classmethod
    def parse(cls, text: str) -> Address:
        """
        Read ``host``, ``host:port``, ``[ipv6]:port`` or ``unix:/path``.

        Raises:
            InvalidSetting: it is none of these.
        """
        address, weight = _parse_weighted(text)
        if weight is not None:
            raise InvalidSetting(f"an address to dial has no weight: {text!r}")
        return address

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _parse_weighted(text: str) -> tuple[Address, int | None]:
    if not isinstance(text, str):
        raise InvalidSetting(f"a server is text, not {type(text).__name__}")
    if text.startswith("unix:"):
        if not text.startswith("unix:/"):
            raise InvalidSetting(f"the path of a Unix socket must be absolute: {text!r}")
        return Address(path=text[len("unix:") :]), None
    _refuse_user(text)
    parts = _ADDRESS.fullmatch(text)
    if parts is None:
        raise InvalidSetting(
            f"{text!r} is no server: write HOST:PORT, HOST:PORT:WEIGHT, [IPV6]:PORT or unix:/PATH"
        )
    ipv6 = parts["ipv6"]
    if ipv6 is not None and not (":" in ipv6 and _is_host(ipv6)):
        raise InvalidSetting(f"{ipv6!r} is no IPv6 address, in {text!r}")
    host = parts["host"] if ipv6 is None else ipv6
    port, weight = parts["port"], parts["weight"]
    return (
        Address(
            host,
            DEFAULT_PORT
            if port is None
            else _whole_number(port, 1, 65535, f"the port of {text!r}"),
        ),
        None
        if weight is None
        else _whole_number(weight, 1, _LARGEST_WEIGHT, f"the weight of {text!r}"),
    )


@dataclass(frozen=True, slots=True, init=False)
class Server:
    """
    One entry of the server list.

    Attributes:
        name: its identity in the ring, letter case kept: ``mc1.example:11211``.
        address: what is dialled; by default what the name says.
        weight: its share of the keys, 1 or more.
    """

    name: str
    address: Address
    weight: int

    def __init__(self, name: str, address: str | Address | None = None, weight: int | None = None):
        """
        Args:
            name: ``host``, ``host:port``, ``host:port:weight``, ``[ipv6]:port`` or ``unix:/path``;
                the port is 11211 unless it is given.
            address: what to dial instead, in the same forms; no key moves by it.
            weight: 1 unless it is given, here or in the name.

        Raises:
            InvalidSetting: one of them can not be right.
        """
        own, in_name = _parse_weighted(name)
        if weight is not None and not _is_whole(weight, 1, _LARGEST_WEIGHT):
            raise InvalidSetting(
                f"the weight of {name!r} must be a number from 1 to {_LARGEST_WEIGHT},"
                f" not {weight!r}"
            )
        if weight is not None and in_name not in (None, weight):
            raise InvalidSetting(f"two weights for {name!r}: {in_name} and {weight}")
        if address is None:
            dialled = own
        else:
            dialled = address if isinstance(address, Address) else Address.parse(address)
        object.__setattr__(self, "name", name if in_name is None else name.rpartition(":")[0])
        object.__setattr__(self, "address", dialled)
        object.__setattr__(self, "weight", weight or in_name or 1)

    @classmethod
    def parse(cls, text: str) -> Server:
        """
        Read ``NAME`` or ``NAME=ADDRESS``, each in the forms of the constructor.

        Raises:
            InvalidSetting: it is none of these.
        """
        if not isinstance(text, str):
            raise InvalidSetting(f"a server is text, not {type(text).__name__}")
        name, given, address = text.strip().partition("=")
        _refuse_user(name)
        _refuse_user(address)
        if given and not address:
            raise InvalidSetting(f"no address behind the '=' of {text!r}")
        return cls(name, address or None)

    @property
    def identity(self) -> Address:
        """What the name says: the host and port that the ring hashes and the certificate is for."""
        return _parse_weighted(self.name)[0]

    def __str__(self) -> str:
        return self.name


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
        if self.minimum_version not in TLS_VERSIONS:
            raise InvalidSetting(
                f"the minimum TLS version is one of {', '.join(TLS_VERSIONS)},"
                f" not {self.minimum_version!r}"
            )
        if not isinstance(self.pins, (tuple, list)):
            raise InvalidSetting(f"pins are a tuple of strings, not {type(self.pins).__name__}")
        for pin in self.pins:
            if not isinstance(pin, str) or not _PIN.fullmatch(pin.replace(":", "")):
                raise InvalidSetting(f"a pin has 64 hexadecimal digits (SHA-256), not {pin!r}")
        object.__setattr__(self, "pins", tuple(pin.replace(":", "").lower() for pin in self.pins))
        if self.server_name is not None and not _is_host(self.server_name):
            raise InvalidSetting(
                f"the server name {self.server_name!r} is neither a host name nor an IP address"
            )
        _require_bool("insecure_no_verify", self.insecure_no_verify)


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
        if self.mechanism not in MECHANISMS:
            raise InvalidSetting(
                f"the SASL mechanism is one of {', '.join(MECHANISMS)}, not {self.mechanism!r}"
            )
        for what, name in (("user name", "username"), ("password", "password")):
            if not _can_travel(getattr(self, name)):
                raise InvalidSetting(
                    f"the {what} must be text that UTF-8 can encode, not empty, without NUL"
                )
        _require_bool("insecure_password", self.insecure_password)


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
            seconds = getattr(self, name)
            is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
            if not is_number or not 0 < seconds < inf:
                raise InvalidSetting(f"{name} must be seconds, above 0, not {seconds!r}")
        for name in ("max_pending", "max_pending_bytes", "max_body"):
            number = getattr(self, name)
            if not _is_whole(number, 1, inf):
                raise InvalidSetting(f"{name} must be a whole number above 0, not {number!r}")
