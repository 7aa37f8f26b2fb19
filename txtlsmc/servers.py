"""Servers: what each is called, where it is dialled, and how a list of them is written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final

from txtlsmc.checks import is_whole, whole_number
from txtlsmc.errors import InvalidSetting

DEFAULT_PORT: Final = 11211

# Any letters for international names, and of ASCII what a name can have: so no list, URL,
# credentials or second line passes for a host.
_HOST = re.compile(r"[\w.\-\x80-\U0010ffff]+")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(?:%[\w.-]+)?")
_ADDRESS = re.compile(
    r"(?:\[(?P<ipv6>[^\]]*)\]|(?P<host>[^:\[\]/\s]+))(?::(?P<port>[^:]*))?(?::(?P<weight>[^:]*))?"
)
#: What ``sun_path`` holds on Linux, without the NUL behind it.
_LONGEST_PATH: Final = 107
_LARGEST_WEIGHT: Final = 2**31 - 1
_SEPARATORS = re.compile(r"[,;\s]+")


def is_ip_address(host: str) -> bool:
    """Return whether *host* is an IPv4 or IPv6 address, and not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_host(text: object) -> bool:
    """Return whether *text* is a host name, or an IP address without brackets."""
    if not isinstance(text, str):
        return False
    if ":" in text:
        return _IPV6.fullmatch(text) is not None and is_ip_address(text)
    return _HOST.fullmatch(text) is not None and text.isprintable()


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
        if not is_host(self.host):
            raise InvalidSetting(f"{self.host!r} is neither a host name nor an IP address")
        if not is_whole(self.port, 1, 65535):
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
    if ipv6 is not None and not (":" in ipv6 and is_host(ipv6)):
        raise InvalidSetting(f"{ipv6!r} is no IPv6 address, in {text!r}")
    host = parts["host"] if ipv6 is None else ipv6
    port, weight = parts["port"], parts["weight"]
    return (
        Address(
            host,
            DEFAULT_PORT if port is None else whole_number(port, 1, 65535, f"the port of {text!r}"),
        ),
        None
        if weight is None
        else whole_number(weight, 1, _LARGEST_WEIGHT, f"the weight of {text!r}"),
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
        if weight is not None and not is_whole(weight, 1, _LARGEST_WEIGHT):
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


def parse_servers(
    servers: str | Sequence[str | Server], *, tls_port: int | None = None
) -> tuple[Server, ...]:
    """
    Read a list of servers.

    Args:
        servers: one text, its entries separated by commas, semicolons or white space; or a list
            with one entry each (where a socket's path may hold such characters).  An entry is a
            `Server`, or text as `Server.parse` reads it.
        tls_port: another port of the same host to dial, which moves no key.  An entry that says
            itself what to dial keeps that.

    Returns:
        The servers, in their order; the same one twice is two nodes.

    Raises:
        InvalidSetting: one of them can not be right, or there is none.
    """
    if isinstance(servers, str):
        entries: Sequence[str | Server] = [
            entry for entry in _SEPARATORS.split(servers) if entry != ""
        ]
    elif isinstance(servers, Sequence) and not isinstance(servers, (bytes, bytearray)):
        entries = servers
    else:
        raise InvalidSetting(f"servers are text or a list, not {type(servers).__name__}")
    if not entries:
        raise InvalidSetting("there is no server in the list")
    if tls_port is not None and not is_whole(tls_port, 1, 65535):
        raise InvalidSetting(f"tls_port must be a number from 1 to 65535, not {tls_port!r}")
    return tuple(_entry(entry, tls_port) for entry in entries)


def _entry(entry: str | Server, tls_port: int | None) -> Server:
    server = entry if isinstance(entry, Server) else Server.parse(entry)
    own = server.identity
    said = "=" in entry if isinstance(entry, str) else server.address != own
    if tls_port is None or said:
        return server
    if own.path:
        raise InvalidSetting(f"tls_port is for hosts, and {server.name!r} is a Unix socket")
    return replace(server, address=Address(own.host, tls_port))
