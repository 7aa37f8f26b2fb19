"""What stands for the gateway or the relay where only what is around them is tested."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure

from txtlsmc.errors import InvalidSetting
from txtlsmc.servers import Server
from txtlsmc.settings import TLS, Credentials, InsecurePlaintext
from txtlsmc.tunnel.hub import Hub
from txtlsmc.tunnel.settings import TunnelSettings


class _Saying(Protocol):
    """Says which server it leads to, and echoes what comes."""

    def __init__(self, passage: EchoPassage) -> None:
        self._passage = passage

    def connectionMade(self) -> None:
        self._passage.open.add(self)
        assert self.transport is not None
        self.transport.write(f"{self._passage.server.name}\n".encode())

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._passage.open.discard(self)
        if not self._passage.open and self._passage.drained is not None:
            drained, self._passage.drained = self._passage.drained, None
            drained.callback(None)


class EchoPassage:
    """
    A passage that leads nowhere.

    Attributes:
        server: which it stands for.
        started: how often it was.
        reloads: what it was reloaded with.
        drains: the seconds that it was given to end in.
        open: its local connections.
    """

    def __init__(self, reactor: Any, server: Server, settings: TunnelSettings, hub: Hub) -> None:
        if server.name.startswith("bad"):
            raise InvalidSetting(f"{server}: can not be used")
        self.server, self.started = server, 0
        self.reloads: list[tuple[TLS | InsecurePlaintext, Credentials | None]] = []
        self.drains: list[float] = []
        self.open: set[_Saying] = set()
        self.drained: Deferred[None] | None = None
        self.refuses = False
        factory = ServerFactory.forProtocol(lambda: _Saying(self))
        factory.noisy = False
        self.factory: IProtocolFactory = factory

    def start(self) -> None:
        self.started += 1

    def reload(
        self, server: Server, tls: TLS | InsecurePlaintext, credentials: Credentials | None
    ) -> None:
        if self.refuses:
            raise InvalidSetting("ca: no certificate in it")
        self.reloads.append((tls, credentials))

    def drain(self, seconds: float) -> Deferred[None]:
        self.drains.append(seconds)
        if not self.open:
            return succeed(None)
        self.drained = Deferred()
        for one in self.open:
            assert one.transport is not None
            one.transport.loseConnection()
        return self.drained

    def local_connections(self) -> int:
        return len(self.open)
