"""A client that goes through an exchange, and what it hears."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IReactorTime,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.integration.parity.exchange import FENCE, FENCES, Exchange
from txtlsmc.wire.frames import Request, Response, ResponseReader
from txtlsmc.wire.opcodes import Opcode

#: When a server is said to be silent: far above what any answer takes.  One that was silent before
#: is not waited for as long, so that a broken one is found out in a reasonable time.
_PATIENCE: Final = 20.0
_LITTLE_PATIENCE: Final = 0.5
_MAX_BODY: Final = 2**26

OPEN: Final = "open"
SILENT: Final = "silent"


@dataclass
class Section:
    """
    What came for a flight, and for those before it that ended inside a frame.

    Attributes:
        responses: in this order.
        ending: what became of the connection.
    """

    responses: list[Response]
    ending: str

    @property
    def ended(self) -> bool:
        """Whether nothing can come behind it."""
        return self.ending != OPEN


class Peer(Protocol):
    """
    The client's side of one connection.

    Attributes:
        heard: all responses.
        trouble: why what came is no response; empty when it is one.
        closed: whether the connection is gone.
    """

    transport: ITCPTransport

    def __init__(self) -> None:
        self.heard: list[Response] = []
        self.trouble = ""
        self.closed = False
        self._reader = ResponseReader(_MAX_BODY)
        self._waiting: list[Deferred[None]] = []
        self._taken = 0

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        if not self.trouble:
            self.heard += self._reader.feed(data)
            self.trouble = "" if self._reader.error is None else str(self._reader.error)
        self._tell()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._reader.inside_frame and not self.trouble:
            self.trouble = "the connection ends inside an answer"
        self.closed = True
        self._tell()

    def answers(self) -> list[Response]:
        """Return what was heard, without the answers to the fences."""
        return [response for response in self.heard if response.opaque not in FENCES]

    async def heard_all(self, count: int) -> None:
        """Wait until so many responses came, or no more can come."""
        while len(self.heard) < count and not (self.closed or self.trouble):
            await self._news()

    async def fenced(self) -> None:
        """Wait until the last fence is answered, or can not be."""
        while not (self.closed or self.trouble or self._is_fenced()):
            await self._news()

    async def ended(self) -> None:
        """Wait until the connection is gone."""
        while not self.closed:
            await self._news()

    def take(self) -> Section:
        """Return what came since the last time."""
        start, self._taken = self._taken, len(self.heard)
        ending = self.trouble or ("closed" if self.closed else OPEN)
        return Section(self.heard[start:], ending)

    def _is_fenced(self) -> bool:
        return len(self.heard) > self._taken and self.heard[-1].opaque == FENCES[-1]

    def _news(self) -> Deferred[None]:
        waiter: Deferred[None] = Deferred()
        self._waiting.append(waiter)
        return waiter

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)


@implementer(IHalfCloseableProtocol)
class HalfClosingPeer(Peer):
    """One over plain TCP, which says when it has nothing more to say, and goes on listening."""

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing: we did that."""


class Pacer:
    """
    A connection that tells when the server has looked at what was sent on others.

    The servers have one thread: what was there before a question is read before it is answered.
    Nothing but where the server finds the stream cut rests on that.
    """

    def __init__(self, reactor: IReactorTime, peer: Peer) -> None:
        self._reactor, self._peer = reactor, peer
        self._asked = 0

    async def turn(self) -> None:
        """Wait until the server has looked at what was written."""
        for _ in range(2):  # what is written is sent at the end of the reactor's turn
            await deferLater(self._reactor, 0)
        self._asked += 1
        self._peer.transport.write(Request(Opcode.VERSION).encode())
        await self._peer.heard_all(self._asked)


class Client:
    """Goes through exchanges with one server, each on a connection of its own."""

    def __init__(
        self, reactor: IReactorTime, endpoint: IStreamClientEndpoint, *, half_closes: bool
    ) -> None:
        """
        Args:
            reactor: tells the time.
            endpoint: leads to the server.
            half_closes: whether a connection can be closed in one direction.
        """
        self._reactor, self._endpoint = reactor, endpoint
        self._kind = HalfClosingPeer if half_closes else Peer
        self._pacing: Peer | None = None
        self._patience = _PATIENCE

    async def open(self) -> str:
        """Make ready, and return the server's version; `close` must be called then."""
        self._pacing = await self._connect()
        self._pacer = Pacer(self._reactor, self._pacing)
        await self._pacer.turn()
        return self._pacing.heard[0].value.decode()

    async def close(self) -> None:
        """Close the last connection."""
        if self._pacing is not None:
            self._pacing.transport.loseConnection()
            await self._pacing.ended()

    async def go_through(self, exchange: Exchange) -> list[Section]:
        """Send all flights of *exchange*, and return what came for them."""
        peer = await self._connect()
        sections = []
        try:
            for flight in exchange.flights:
                if flight.after:
                    await deferLater(self._reactor, flight.after)
                # That it is closed may be seen behind a flight without a fence, or only here.
                if peer.closed or peer.trouble:
                    break
                data = flight.encode(peer.answers())
                if flight.whole:
                    peer.transport.write(data + FENCE)
                    await self._in_time(peer.fenced())
                    sections.append(peer.take())
                else:
                    peer.transport.write(data)
                    await self._pacer.turn()
            if not (sections and sections[-1].ended):
                await self._say_no_more(peer)
                sections.append(peer.take())
        except TimeoutError:
            self._patience = _LITTLE_PATIENCE
            sections.append(Section(peer.take().responses, SILENT))
        finally:
            if not peer.closed:
                peer.transport.abortConnection()
                await peer.ended()
        return sections

    async def _say_no_more(self, peer: Peer) -> None:
        if peer.closed:
            return
        if isinstance(peer, HalfClosingPeer):
            peer.transport.loseWriteConnection()
        else:
            peer.transport.loseConnection()
        await self._in_time(peer.ended())

    async def _connect(self) -> Peer:
        peer = await self._endpoint.connect(Factory.forProtocol(self._kind))
        assert isinstance(peer, Peer)
        return peer

    def _in_time(self, waiting: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
        return Deferred.fromCoroutine(waiting).addTimeout(self._patience, self._reactor)
