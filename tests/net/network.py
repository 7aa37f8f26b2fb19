"""A network in memory: names, addresses, and whoever dials them waits for the test's decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHostnameResolver,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.test import iosim
from zope.interface import implementer

from tests.net.servers import FakeServer


@implementer(IHostResolution)
class Resolution:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        raise NotImplementedError  # as Twisted's own


@implementer(IHostnameResolver)
class Names:
    """
    Resolves names by a table.

    Attributes:
        table: addresses by name.
        asked: the names that were to be resolved.
        hanging: the questions without an answer, for as long as *hangs* is set.
    """

    def __init__(self, table: Mapping[str, Sequence[str]]) -> None:
        self.table = dict(table)
        self.asked: list[str] = []
        self.hangs = False
        self.hanging: list[Callable[[], object]] = []

    def resolveHostName(  # noqa: N802 - the interface's names
        self,
        resolutionReceiver: IResolutionReceiver,  # noqa: N803 - these are the interface's
        hostName: str,  # noqa: N803 - see above
        portNumber: int = 0,  # noqa: N803 - see above
        addressTypes: Sequence[type[IAddress]] | None = None,  # noqa: N803 - see above
        transportSemantics: str = "TCP",  # noqa: N803 - see above
    ) -> IHostResolution:
        resolution = Resolution(hostName)
        self.asked.append(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        for text in self.table.get(hostName, ()):
            kind = IPv6Address if ":" in text else IPv4Address
            resolutionReceiver.addressResolved(kind("TCP", text, portNumber))
        if self.hangs:
            self.hanging.append(resolutionReceiver.resolutionComplete)
        else:
            resolutionReceiver.resolutionComplete()
        return resolution


class Network(MemoryReactorClock):
    """
    A reactor without sockets: who dials waits until the test decides what comes of it.

    Attributes:
        names: its resolver.
    """

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.nameResolver = self.names = Names(names)

    @property
    def dialled(self) -> list[tuple[str, int]]:
        """Where those who wait want to go."""
        return [(host, port) for host, port, *_ in self.tcpClients]

    @property
    def waiting(self) -> list[IDelayedCall]:
        """What is to be called later."""
        return [call for call in self.getDelayedCalls() if call.active()]

    def accept(self, server: FakeServer, *, flush: bool = True) -> iosim.IOPump:
        """Connect the first who waits to *server*, and carry the bytes until both are silent."""
        host, port, factory, *_ = self.tcpClients.pop(0)
        self.connectors.pop(0)
        client, far = factory.buildProtocol(None), server.buildProtocol(None)
        assert client is not None
        client_side = iosim.FakeTransport(client, False, peerAddress=IPv4Address("TCP", host, port))
        far_side = iosim.FakeTransport(far, True)
        pump: iosim.IOPump = iosim.connect(
            far, far_side, client, client_side, greet=flush, clock=self
        )
        return pump

    def forget(self) -> None:
        """Forget those who wait."""
        self.tcpClients.clear()
        self.connectors.clear()

    def refuse(self, error: Exception | None = None) -> None:
        """Let the first who waits fail."""
        factory = self.tcpClients.pop(0)[2]
        reason = Failure(error or ConnectionRefusedError())
        factory.clientConnectionFailed(self.connectors.pop(0), reason)


class Application(Protocol):
    """
    What the endpoint is to connect.

    Attributes:
        received: the bytes that came.
        made: how often it was told that it has a connection.
        lost: why the connection ended.
        gone: fires when it ended.
    """

    def __init__(self) -> None:
        self.received = b""
        self.made = 0
        self.lost: Failure | None = None
        self.gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.made += 1

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        self.gone.callback(None)


class Applications(Factory):
    """Builds them, and remembers for whom."""

    noisy = False

    def __init__(self) -> None:
        self.peers: list[IAddress | None] = []

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        self.peers.append(addr)
        return Application()


class Building(Factory):
    """Builds whatever *build* returns."""

    noisy = False

    def __init__(self, build: Callable[[], Protocol | None]) -> None:
        self._build = build

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        return self._build()


@implementer(IStreamClientEndpoint)
class DeafDial:
    """An endpoint that connects although nobody wants it any more."""

    def __init__(self) -> None:
        self.factory: IProtocolFactory | None = None

    def connect(
        self,
        protocolFactory: IProtocolFactory,  # noqa: N803 - the interface's name for it
    ) -> Deferred[IProtocol]:
        self.factory = protocolFactory
        return Deferred()
