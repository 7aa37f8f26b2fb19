"""
Connections without sockets: two transports in one process, and what moves between them.

They behave as TCP does to a protocol: what is written arrives later and in other pieces, as much as
64 KiB travels while nobody reads, and a writer that gets ahead is paused.  All that happens does so
in calls of the reactor's `callLater`, so that a `twisted.internet.task.Clock` drives it too: after
``clock.advance(0)`` all is done that can be done without time passing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import Final, cast

from twisted.internet.address import IPv4Address
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
)
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    IProducer,
    IProtocol,
    IPullProducer,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txtlsmc.settings import DEFAULT_PORT

_CAPACITY: Final = 65536
#: Made up, like all addresses here.
SERVER_ADDRESS: Final = IPv4Address("TCP", "127.0.0.1", DEFAULT_PORT)
_ports = count(49152)

_log = Logger()


@implementer(ITCPTransport, IConsumer, IPushProducer)
class MemoryTransport:
    """One side of a `MemoryPipe`: to its protocol a TCP connection."""

    def __init__(self, pipe: MemoryPipe, host: IPv4Address, peer: IPv4Address) -> None:
        self.connected = True
        self.disconnecting = False
        self.other: MemoryTransport = self  # until the pipe has both
        self._pipe, self._host, self._peer = pipe, host, peer
        self._protocol: IProtocol | None = None
        self._outgoing = bytearray()  # written, and no room for it on the way
        self._incoming = bytearray()  # on its way to us
        self._reading = True
        self._producer: IPushProducer | IPullProducer | None = None
        self._streaming = self._producer_paused = False
        self._no_delay = self._keep_alive = False
        # How the connection ends: the reason to lose it at once, and the two half-closes.
        self._fatal: Failure | None = None
        self._no_more_writes = self._end_sent = False
        self._end_came = self._end_told = False

    # ITransport

    def write(self, data: bytes) -> None:
        """Send *data*, sooner or later."""
        if self.connected and not self._no_more_writes and data:
            self._outgoing += data
            if self._streaming and len(self._outgoing) > _CAPACITY:
                self._pause_producer()
            self._pipe.wake()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send the pieces of *data*."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close the connection when all is sent."""
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self._reading = False
            self._pipe.wake()

    def loseWriteConnection(self) -> None:
        """Send no more; the other side can go on."""
        self._no_more_writes = True
        self._pipe.wake()

    def abortConnection(self) -> None:
        """Close the connection at once; what is on its way is lost."""
        self._abort(Failure(ConnectionAborted()))

    def getHost(self) -> IPv4Address:
        """Return a made up address of our side."""
        return self._host

    def getPeer(self) -> IPv4Address:
        """Return a made up address of the other side."""
        return self._peer

    # ITCPTransport, the rest of it

    def getTcpNoDelay(self) -> bool:
        """Return what was set."""
        return self._no_delay

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Keep it."""
        self._no_delay = bool(enabled)

    def getTcpKeepAlive(self) -> bool:
        """Return what was set."""
        return self._keep_alive

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Keep it."""
        self._keep_alive = bool(enabled)

    # IPushProducer: what we read

    def pauseProducing(self) -> None:
        """Deliver nothing for now."""
        self._reading = False

    def resumeProducing(self) -> None:
        """Deliver again."""
        if self.connected and not self.disconnecting:
            self._reading = True
            self._pipe.wake()

    def stopProducing(self) -> None:
        """Close the connection."""
        self.loseConnection()

    # IConsumer: what we write

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Pause and resume *producer* as there is room."""
        if self._producer is not None:
            raise RuntimeError(f"{self._producer} is registered and was not unregistered")
        if not self.connected:
            producer.stopProducing()
            return
        self._producer = cast(IPushProducer | IPullProducer, producer)
        self._streaming, self._producer_paused = streaming, False
        if not streaming:
            self._producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """Forget the producer."""
        self._producer = None
        self._streaming = False
        self._pipe.wake()

    # What the pipe does, in turns

    def make_connection(self, protocol: IProtocol) -> None:
        """Hand this transport to *protocol*, which is told of everything from now on."""
        self._protocol = protocol
        try:
            protocol.makeConnection(self)
        except Exception:
            self._failed()

    def send(self) -> None:
        """Put on the way what there is room for, and do what can be done when all is sent."""
        if not self.connected:
            return
        if self._fatal is not None:
            self._lose(self._fatal)
            self.other.reset()
            return
        if self._outgoing:
            if not self.other.connected:
                self._lose(Failure(ConnectionLost()))
                return
            room = _CAPACITY - len(self.other._incoming)
            self.other._incoming += self._outgoing[:room]
            del self._outgoing[:room]
        if self._outgoing:
            return
        if self._producer is not None and (not self._streaming or self._producer_paused):
            self._producer_paused = False
            self._producer.resumeProducing()
            self._pipe.wake()
        elif self.disconnecting:
            self.other.end()
            self._lose(Failure(ConnectionDone()))
        elif self._no_more_writes and not self._end_sent:
            self._end_sent = True
            self.other.end()

    def receive(self) -> None:
        """Give the protocol what came."""
        if not self.connected or not self._reading or self._protocol is None:
            return
        try:
            if self._incoming:
                data = bytes(self._incoming)
                self._incoming.clear()
                self._pipe.wake()
                self._protocol.dataReceived(data)
            elif self._end_came and not self._end_told:
                self._end_told = True
                half_closeable = IHalfCloseableProtocol(self._protocol, None)
                if half_closeable is None:
                    self.other.end()
                    self._lose(Failure(ConnectionDone()))
                else:
                    half_closeable.readConnectionLost()
        except Exception:
            self._failed()

    def end(self) -> None:
        """Learn that the other side sends no more."""
        self._end_came = True
        self._pipe.wake()

    def reset(self) -> None:
        """Learn that the other side is gone, and what was on the way as well."""
        if self._fatal is None:
            self._lose(Failure(ConnectionLost()))

    def _pause_producer(self) -> None:
        if self._producer is not None and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()  # type: ignore[union-attr]  # it is a streaming one

    def _failed(self) -> None:
        # As the reactor does with an error in a protocol.
        reason = Failure()
        _log.failure("Unhandled error in {protocol}", reason, protocol=self._protocol)
        self._abort(reason)

    def _abort(self, reason: Failure) -> None:
        if self.connected and self._fatal is None:
            self.disconnecting = True
            self._reading = False
            self._fatal = reason
            self._pipe.wake()

    def _lose(self, reason: Failure) -> None:
        if not self.connected:
            return
        self.connected = False
        self.disconnecting = True
        self._outgoing.clear()
        self._incoming.clear()
        self._pipe.wake()
        producer, self._producer = self._producer, None
        try:
            if producer is not None:
                producer.stopProducing()
            if self._protocol is not None:
                self._protocol.connectionLost(reason)
        except Exception:
            _log.failure("Unhandled error in {protocol}", protocol=self._protocol)


class MemoryPipe:
    """
    A connection: two transports, and the turns in which things move between them.

    Attributes:
        client, server: its two sides.
    """

    def __init__(self, reactor: IReactorTime, gone: Callable[[MemoryPipe], object]) -> None:
        """
        Args:
            reactor: gives the turns.
            gone: called once, when the protocols on both sides know that it is over.
        """
        self._reactor, self._gone = reactor, gone
        self._turn_call: IDelayedCall | None = None
        self._over = False
        client_address = IPv4Address("TCP", "127.0.0.1", next(_ports))
        self.client = MemoryTransport(self, client_address, SERVER_ADDRESS)
        self.server = MemoryTransport(self, SERVER_ADDRESS, client_address)
        self.client.other, self.server.other = self.server, self.client

    def wake(self) -> None:
        """Let things move soon."""
        if self._turn_call is None and not self._over:
            self._turn_call = self._reactor.callLater(0, self._turn)

    def _turn(self) -> None:
        self._turn_call = None
        sides = (self.client, self.server)
        for side in sides:
            side.send()
        for side in sides:
            side.receive()
        if not any(side.connected for side in sides) and not self._over:
            self._over = True
            if self._turn_call is not None:
                self._turn_call.cancel()
            self._gone(self)
