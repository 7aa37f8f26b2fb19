"""A relay in memory: its two kinds of connections, and dials that end as a test says."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.cluster.fakes import World
from txtlsmc.errors import ConnectRefused
from txtlsmc.settings import TLS, ClientSettings, InsecurePlaintext, Limits, Server
from txtlsmc.tunnel.hub import Hub
from txtlsmc.tunnel.relay import Relay
from txtlsmc.tunnel.settings import TunnelLimits, TunnelSettings

SERVER = Server("mc.example:11211")


class Wire(StringTransport):
    """
    One connection of the relay, seen from the other end.

    Attributes:
        ending: how this side of it ended it: ``"closed"``, ``"reset"``, or None.
        half_closed: whether this side said that it says no more.
        lost: whether its protocol knows that it is gone.
    """

    ending: str | None = None
    half_closed = lost = False

    def __init__(self, clock: Clock, protocol: IProtocol) -> None:
        super().__init__(lenient=True)
        self._clock, self.protocol = clock, protocol

    @property
    def paused(self) -> bool:
        """Whether nothing is read from it."""
        return self.producerState == "paused"

    def loseConnection(self) -> None:
        super().loseConnection()
        if self.ending is None and self.producer is None:
            self.ending = "closed"
            self._clock.callLater(0, self._lose, ConnectionDone())

    def loseWriteConnection(self) -> None:
        """Say that no more comes."""
        self.half_closed = True

    def abortConnection(self) -> None:
        super().abortConnection()
        if self.lost:
            raise AssertionError("aborted although it is gone")
        if self.ending != "reset":
            self.ending = "reset"
            self._clock.callLater(0, self._lose, ConnectionAborted())

    def say(self, data: bytes) -> None:
        """Send *data* to the relay."""
        if not self.lost:
            self.protocol.dataReceived(data)

    def finish(self) -> None:
        """Say no more."""
        half = IHalfCloseableProtocol(self.protocol, None)
        if half is not None and not self.lost:
            half.readConnectionLost()

    def close(self) -> None:
        """End it in good order."""
        self._lose(ConnectionDone())

    def reset(self) -> None:
        """End it otherwise."""
        self._lose(ConnectionLost())

    def _lose(self, reason: Exception) -> None:
        if not self.lost:
            self.lost = True
            self.protocol.connectionLost(Failure(reason))


@implementer(IStreamClientEndpoint)
class Dials:
    """
    Attempts to connect, the oldest of which ends as the test says.

    Attributes:
        tls: what each is to be made with.
        open: those that have not ended.
        deaf: whether they go on although they are not wanted any more.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.tls: TLS | InsecurePlaintext = InsecurePlaintext()
        self.open: list[tuple[IProtocolFactory, Deferred[IProtocol]]] = []
        self.deaf = False

    def __call__(
        self, reactor: IReactorTime, server: Server, tls: TLS | InsecurePlaintext, limits: Limits
    ) -> IStreamClientEndpoint:
        self.tls = tls
        return self

    def connect(
        self,
        protocolFactory: IProtocolFactory,  # noqa: N803 - the interface's name for it
    ) -> Deferred[IProtocol]:
        def cancelled(done: Deferred[IProtocol]) -> None:
            if not self.deaf:
                self.open.remove((protocolFactory, done))

        done: Deferred[IProtocol] = Deferred(cancelled)
        self.open.append((protocolFactory, done))
        return done

    def accept(self) -> Wire:
        """Let there be a connection, and return the server's end of it."""
        factory, done = self.open.pop(0)
        protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        assert protocol is not None
        wire = Wire(self._clock, protocol)
        protocol.makeConnection(wire)
        if not done.called:
            done.callback(protocol)
        return wire

    def refuse(self, error: Exception | None = None) -> None:
        """Let there be none."""
        self.open.pop(0)[1].errback(error or ConnectRefused(SERVER.name, "nobody listens"))


class RelayInMemory:
    """
    A relay, and whoever connects to it.

    Attributes:
        world: the clocks.
        hub: what it counts.
        dials: its upstream connections.
        relay: it.
    """

    def __init__(self, limits: TunnelLimits | None = None) -> None:
        limits = limits or TunnelLimits()
        self.world = World()
        self.hub = Hub.make(limits, monotonic=self.world.monotonic)
        self.dials = Dials(self.world.clock)
        client = ClientSettings(servers=(SERVER,), tls=InsecurePlaintext())
        settings = TunnelSettings(client=client, mode="relay", limits=limits)
        self.relay = Relay(self.world.clock, SERVER, settings, self.hub, dialling=self.dials)

    def connect(self) -> Wire:
        """Connect to it, and return the local client's end."""
        protocol = self.relay.factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        assert protocol is not None
        wire = Wire(self.world.clock, protocol)
        protocol.makeConnection(wire)
        return wire

    def pair(self) -> tuple[Wire, Wire]:
        """Return the far ends of a new local connection and of its upstream one."""
        local = self.connect()
        return local, self.dials.accept()

    def idle(self) -> bool:
        """Return whether nothing is left: no pair, nothing counted, nothing to be called later."""
        return not (
            self.relay.local_connections()
            or self.hub.counters.local_connections
            or self.world.delayed()
            or self.dials.open
        )
