"""Where a listener listens, read from text; nothing here opens anything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final

from txtlsmc.errors import InvalidSetting
from txtlsmc.servers import Address, is_ip_address

_FORMS: Final = (
    "write ADDRESS:PORT, tcp:PORT:interface=ADDRESS, unix:/PATH or systemd:domain=INET:index=N"
)
_TCP = re.compile(r"(?P<port>[0-9]{1,5})(?::interface=(?P<host>[^=]*))?")
_PAIR = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")
_SYSTEMD = re.compile(
    r"systemd:(?:domain=)?(?:INET6?|UNIX):(?:index=[0-9]{1,3}|name=[\w.-]{1,255})"
)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """
    Where one listener listens; exactly one of *host*, *path* and *systemd* is set.

    Attributes:
        host: an IP address.
        port: with a host: 0 is a free one.
        path: of a Unix socket, from the root.
        systemd: the text of Twisted's endpoint for a socket that systemd opened.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    systemd: str = ""

    @classmethod
    def parse(cls, text: object) -> ListenAddress:
        """
        Read one text of ``listen``.

        Raises:
            InvalidSetting: it is none; it says what to write.
        """
        if not isinstance(text, str):
            raise InvalidSetting(f"listen is text, not {type(text).__name__}")
        if text.startswith("unix:"):
            if re.search(r":(mode|lockfile|wantPID)=", text):
                raise InvalidSetting(f"listen: write unix:/PATH and no more, not {text!r}")
            return cls(path=Address.parse(text).path)
        if text.startswith("systemd:"):
            if not _SYSTEMD.fullmatch(text):
                raise InvalidSetting(
                    f"listen: write systemd:domain=INET:index=N, or UNIX, or name=, not {text!r}"
                )
            return cls(systemd=text)
        rest = text.removeprefix("tcp:")
        parts = _TCP.fullmatch(rest.replace("\\:", ":")) if rest is not text else None
        if parts is not None:
            return cls._tcp(parts["host"] or "0.0.0.0", parts["port"], text)
        parts = _PAIR.fullmatch(rest)
        if parts is None:
            raise InvalidSetting(f"listen: {_FORMS}, not {text!r}")
        return cls._tcp(parts["ipv6"] or parts["host"], parts["port"], text)

    @classmethod
    def _tcp(cls, host: str, port: str, text: str) -> ListenAddress:
        # A name may lead anywhere, and elsewhere tomorrow: only the one that is ours is known.
        host = "127.0.0.1" if host == "localhost" else host
        if not is_ip_address(host):
            raise InvalidSetting(f"listen wants an IP address of this machine, not {text!r}")
        if int(port) > 65535:
            raise InvalidSetting(f"listen: a port is at most 65535, in {text!r}")
        return cls(host=host, port=int(port))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it, as far as its text tells."""
        return not self.host or ip_address(self.host).is_loopback

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        if self.systemd:
            return self.systemd
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def one_for_each(listen: str | Sequence[str], servers: int) -> tuple[str, ...]:
    """
    Return the text of one listener for each server, in the order of the servers.

    Args:
        listen: one base address, whose port the first listener has and from which the others count
            on (of port 0 each gets a free one); or one text for each server.
        servers: how many there are.

    Raises:
        InvalidSetting: a text can not be right, or there are too few or too many.
    """
    texts = [listen] if isinstance(listen, str) else listen
    addresses = [ListenAddress.parse(text) for text in texts]
    if len(addresses) == 1 and addresses[0].host:
        base = addresses[0]
        if base.port and base.port + servers - 1 > 65535:
            raise InvalidSetting(
                f"listen: from {base} on there is no port for each of {servers} servers"
            )
        addresses = [
            replace(base, port=base.port + place if base.port else 0) for place in range(servers)
        ]
    if len(addresses) != servers:
        raise InvalidSetting(
            f"listen: one for each server, in their order, or one ADDRESS:PORT from which they"
            f" count on: there are {servers} servers, and {len(addresses)} listeners"
        )
    named = [str(one) for one in addresses]
    for one in addresses:
        if (one.port or not one.host) and named.count(str(one)) > 1:
            raise InvalidSetting(f"listen: {one} can be listened on only once")
    return tuple(named)
