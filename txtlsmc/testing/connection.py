"""One connection of the embedded server: cuts what comes into requests, and answers in order."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from txtlsmc.testing.answers import Answers
from txtlsmc.testing.registry import Registry
from txtlsmc.wire.frames import Refusal, Request, RequestReader

#: As much is gathered before it is written, so that the transport can say that it is too much.
_GATHERED: Final = 65536


class _ITransport(ITCPTransport, IConsumer, IPushProducer):
    """What TCP and TLS give to a protocol."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class Connection(Protocol):
    """
    The server's side of one connection.

    A client that does not read its answers is not read either: the requests that came are kept, and
    the rest stays in the network.
    """

    transport: _ITransport

    def __init__(
        self, registry: Registry, answers: Answers, counters: Counter[str], max_body: int
    ) -> None:
        self._registry, self._answers, self._counters = registry, answers, counters
        self._reader = RequestReader(max_body)
        self._asked: deque[Request | Refusal] = deque()
        self._choked = False  # by answers that the client does not take
        self._working = False
        self._no_more = False  # nothing readable comes behind what is asked already
        self._closing = False

    def connectionMade(self) -> None:
        """Begin, or turn the client away."""
        if not self._registry.admit(self):
            self._counters["rejected_connections"] += 1
            self.abort()
            return
        self._counters["total_connections"] += 1
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        if self._registry.paused:
            self.pause()

    def dataReceived(self, data: bytes) -> None:
        """Take a piece of the stream."""
        if self._closing or self._no_more:
            return
        self._counters["bytes_read"] += len(data)
        self._asked.extend(self._reader.feed(data))
        self._no_more = self._reader.error is not None  # no answer to that: memcached hangs up
        self._work()

    def readConnectionLost(self) -> None:
        """Answer what was asked, and close then: the client will ask nothing more."""
        self._no_more = True
        self._work()

    def writeConnectionLost(self) -> None:
        """Do nothing: nobody asked for that."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget what was asked."""
        self._closing = True
        self._asked.clear()
        self._registry.forget(self)

    # IPushProducer, of answers

    def pauseProducing(self) -> None:
        """Answer no more: there are too many answers that the client has not taken."""
        self._choked = True
        self._set_reading(False)

    def resumeProducing(self) -> None:
        """Go on."""
        self._choked = False
        self._work()
        self._set_reading(not self._choked and not self._registry.paused)

    def stopProducing(self) -> None:
        """Do nothing: `connectionLost` comes as well."""

    # For the server

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self.transport.abortConnection()

    def pause(self) -> None:
        """Read nothing, and answer nothing."""
        self._set_reading(False)

    def resume(self) -> None:
        """Read and answer again."""
        self._work()
        self._set_reading(not self._choked)

    # Inside

    def _set_reading(self, reading: bool) -> None:
        if self._closing:
            return
        if reading:
            self.transport.resumeProducing()
        else:
            self.transport.pauseProducing()

    def _work(self) -> None:
        if self._working:  # the transport resumes us while we write
            return
        self._working = True
        try:
            self._answer_all()
        finally:
            self._working = False

    def _answer_all(self) -> None:
        while self._asked and not (self._choked or self._closing or self._registry.paused):
            gathered, closes = [], False
            size = 0
            while self._asked and size < _GATHERED and not closes:
                responses, closes = self._answers.to(self._asked.popleft())
                for response in responses:
                    gathered.append(response.encode())
                    size += len(gathered[-1])
            self._send(gathered, size)
            if closes:
                self._close()
        if self._no_more and not self._asked:
            self._close()

    def _send(self, gathered: list[bytes], size: int) -> None:
        if gathered:
            self._counters["bytes_written"] += size
            self.transport.writeSequence(gathered)

    def _close(self) -> None:
        if not self._closing:
            self._closing = True
            self.transport.unregisterProducer()  # over TLS it would never close with one
            self.transport.loseConnection()
