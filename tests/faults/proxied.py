"""One connection through the fault proxy: what it saw of it, and the faults inside of answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NamedTuple
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from txtlsmc.wire.frames import HEADER_SIZE, RESPONSE_MAGIC, Request, RequestReader, ResponseReader
from txtlsmc.wire.opcodes import Opcode

_SASL: Final = (Opcode.SASL_LIST, Opcode.SASL_AUTH, Opcode.SASL_STEP)
#: Far above what memcached stores or takes.
_LARGEST: Final = 2**28
#: So much is held back in each direction; then we read no more.
_MOST_HELD: Final = 2**20
#: Bytes of the header that come before a cut in it.
_OF_HEADER: Final = 10


class Place(Enum):
    """Where in an answer."""

    HEADER = "header"
    BODY = "body"


class How(Enum):
    """What happens there."""

    STALL = "stall"
    RESET = "reset"
    CLOSE_NOTIFY = "close_notify"


class Cut(NamedTuple):
    """
    A fault inside an answer.

    Attributes:
        place: in its header, or in its body.
        how: what happens there.
        least: how long the body of the answer is at least.
    """

    place: Place
    how: How
    least: int

    def where(self, frame: bytes) -> int | None:
        """Return how many bytes of *frame* still go out; None when this one is not cut."""
        body = len(frame) - HEADER_SIZE
        if body < self.least:
            return None
        if self.place is Place.HEADER:
            return _OF_HEADER
        return HEADER_SIZE + body // 2 if body > 1 else None


@dataclass
class Seen:
    """
    What the proxy saw of one connection.

    Attributes:
        certificate: the name of the one that was shown; None when none was.
        serial: its number.
        bad: whether a client should have refused it.
        handshaken: whether TLS came to be.
        hello: the first bytes on the wire, where we kept silent.
        received, sent: bytes of the application, without TLS.
        requests: that were whole.
        sasl: those of them that were about SASL.
        live: whether the connection still is.
    """

    certificate: str | None = None
    serial: int | None = None
    bad: bool = False
    handshaken: bool = False
    hello: bytes = b""
    received: int = 0
    sent: int = 0
    requests: int = 0
    sasl: int = 0
    live: bool = True
    _reader: RequestReader = field(default_factory=lambda: RequestReader(_LARGEST), repr=False)

    def came(self, data: bytes) -> None:
        """Count what a client sent."""
        self.received += len(data)
        if self._reader.error is None:
            for each in self._reader.feed(data):
                self.requests += 1
                request = each if isinstance(each, Request) else each.request
                self.sasl += request.opcode in _SASL


class Faults(Interface):
    """What the proxy says about all its connections."""

    @property
    def silent(self) -> bool:
        """Whether nothing goes through, in either direction."""

    @property
    def trickles(self) -> bool:
        """Whether every byte of an answer is a record of its own."""

    def cut_for(self, frame: bytes) -> tuple[int, How] | None:
        """Return how much of *frame* goes out, and what happens then, or None for all of it."""


class Open(Protocol):
    """A connection that tells when it is lost."""

    transport: Any  # TCP's or TLS's: no one interface of Twisted's has what both can do

    def __init__(self, lost: Callable[[Open], None]) -> None:
        self._lost = lost

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell it."""
        self._lost(self)

    def abort(self) -> None:
        """Reset it."""
        self.transport.abortConnection()


class Mute(Open):
    """A server that accepts and never says anything."""

    def __init__(self, seen: Seen, lost: Callable[[Open], None]) -> None:
        super().__init__(lost)
        self.seen = seen

    def dataReceived(self, data: bytes) -> None:
        """Keep the beginning."""
        self.seen.hello = (self.seen.hello + data)[:1024]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Note it."""
        self.seen.live = False
        super().connectionLost(reason)


class _Upstream(Open):
    """The connection to the server behind; *ours* hears all of it."""

    def __init__(self, ours: Proxied, lost: Callable[[Open], None]) -> None:
        super().__init__(lost)
        self._ours = ours

    def dataReceived(self, data: bytes) -> None:
        self._ours.answered(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._ours.upstream_lost()


@implementer(IHandshakeListener)
class Proxied(Open):
    """
    One connection through the proxy; its transport speaks TLS.

    Answers are handed on frame by frame, as faults are placed in them; a server that answers in
    text gets through as it is, and is not cut.

    Attributes:
        seen: what we saw of it.
    """

    def __init__(
        self,
        faults: Faults,
        seen: Seen,
        endpoint: IStreamClientEndpoint,
        opened: Callable[[Open], None],
        lost: Callable[[Open], None],
    ) -> None:
        super().__init__(lost)
        self.seen = seen
        self._faults, self._endpoint, self._opened = faults, endpoint, opened
        self._reader: ResponseReader | None = None
        self._requests: deque[bytes] = deque()
        self._answers: deque[bytes] = deque()
        self._stalled = self._ending = self._paused = False
        self._dialling: Deferred[IProtocol] | None = None
        self._upstream: _Upstream | None = None

    def connectionMade(self) -> None:
        """Nothing yet: TLS comes first."""

    def handshakeCompleted(self) -> None:
        """Dial the server behind."""
        self.seen.handshaken = True
        factory = Factory.forProtocol(lambda: _Upstream(self, self._lost))
        factory.noisy = False
        self._dialling = self._endpoint.connect(factory)
        self._dialling.addCallbacks(self._connected, lambda _: self._close())

    def _connected(self, upstream: IProtocol) -> None:
        assert isinstance(upstream, _Upstream)
        self._upstream = upstream
        self._opened(upstream)
        if not self.seen.live:
            upstream.abort()
            return
        upstream.transport.registerProducer(self.transport, True)
        self.transport.registerProducer(upstream.transport, True)
        self.move()

    def dataReceived(self, data: bytes) -> None:
        """Take a piece of what the client sends."""
        self.seen.came(data)
        self._requests.append(data)
        self.move()

    def answered(self, data: bytes) -> None:
        """Take a piece of what the server answers."""
        if self._reader is None and data[0] == RESPONSE_MAGIC:
            self._reader = ResponseReader(_LARGEST)
        if self._reader is None:
            self._answers.append(data)
        else:
            self._answers.extend(frame.encode() for frame in self._reader.feed(data))
        self.move()

    def move(self) -> None:
        """Hand on what may go through now."""
        if not self._faults.silent:
            while self._upstream is not None and self._requests:
                self._upstream.transport.write(self._requests.popleft())
            while self._answers and not (self._stalled or self._ending):
                self._hand_on(self._answers.popleft())
        self._read_on(sum(map(len, self._requests)) + sum(map(len, self._answers)) < _MOST_HELD)

    def heal(self) -> None:
        """Let go what was held back."""
        self._stalled = False
        self.move()

    def _hand_on(self, frame: bytes) -> None:
        cut = self._faults.cut_for(frame) if self._reader is not None else None
        if cut is None:
            self._say(frame)
            return
        length, how = cut
        self._say(frame[:length])
        if how is How.STALL:
            self._stalled = True
            self._answers.appendleft(frame[length:])
        elif how is How.RESET:
            self.transport.transport.doWrite()  # what comes before a reset must be with the kernel
            self.abort()
        else:
            self._close()

    def _say(self, data: bytes) -> None:
        self.seen.sent += len(data)
        if self._faults.trickles:
            for place in range(len(data)):
                self.transport.write(data[place : place + 1])
        else:
            self.transport.write(data)

    def _read_on(self, more: bool) -> None:
        if self._upstream is None or more is not self._paused:
            return
        self._paused = not more
        for transport in (self.transport, self._upstream.transport):
            if more:
                transport.resumeProducing()
            else:
                transport.pauseProducing()

    def abort(self) -> None:
        """Reset it; nothing of TLS is said."""
        self._ending = True
        self.transport.transport.abortConnection()

    def _close(self) -> None:
        """Say all that was to be said, then close_notify."""
        if not self._ending:
            self._ending = True
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def upstream_lost(self) -> None:
        """The server behind has gone: so do we."""
        self._upstream = None
        if self.seen.live:
            self._close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Let the server behind finish what it got; what was held back is gone."""
        self.seen.live = False
        self._ending = True
        if self._upstream is not None:
            self._upstream.transport.unregisterProducer()
            self._upstream.transport.loseConnection()
        elif self._dialling is not None:
            self._dialling.cancel()
        super().connectionLost(reason)
