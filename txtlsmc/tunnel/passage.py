"""What every mode of the tunnel has in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory

from txtlsmc.servers import Server
from txtlsmc.settings import TLS, Credentials, InsecurePlaintext
from txtlsmc.tunnel.hub import Hub
from txtlsmc.tunnel.settings import TunnelSettings


class Passage(Protocol):
    """
    What serves one server, in one mode.

    Attributes:
        factory: builds the local side of each connection.
    """

    factory: IProtocolFactory

    def start(self) -> None:
        """Begin to dial."""

    def reload(
        self, server: Server, tls: TLS | InsecurePlaintext, credentials: Credentials | None
    ) -> None:
        """
        Dial so from now on; connections that are ready stay.

        Raises:
            InvalidSetting: that can not be used; nothing has changed.
        """

    def drain(self, seconds: float) -> Deferred[None]:
        """Answer what is in flight, then close all; fires when that is done."""

    def local_connections(self) -> int:
        """Return how many local connections are open."""


#: From the reactor, the server, the settings and what all listeners share.
MakePassage = Callable[[Any, Server, TunnelSettings, Hub], Passage]
