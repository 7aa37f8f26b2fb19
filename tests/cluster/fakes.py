"""A network in memory: dials that end as a test says, and the server's end of a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from txtlsmc.errors import ConnectRefused
from txtlsmc.wire.frames import Request, RequestReader, Response

#: The Unix time of every test.
NOW = 1_800_000_000.0


class World:
    """
    Both clocks.

    Attributes:
        clock: the reactor's; it may jump.
        now: seconds on the monotonic clock.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.now = 1000.0

    def monotonic(self) -> float:
        """Return seconds that never jump."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks."""
        self.now += seconds
        self.clock.advance(seconds)

    def pass_by(self, seconds: float, step: float = 0.05) -> None:
        """Let time pass as a reactor does, in small steps."""
        for _ in range(round(seconds / step)):
            self.advance(step)

    def settle(self) -> None:
        """Let all happen that needs no time."""
        for _ in range(50):
            self.clock.advance(0)

    def delayed(self) -> list[IDelayedCall]:
        """Return what waits on the reactor's clock."""
        return [call for call in self.clock.getDelayedCalls() if call.active()]


class _Wire(StringTransport):
    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def loseConnection(self) -> None:
        self._line.end(ConnectionDone())

    def abortConnection(self) -> None:
        self._line.end(ConnectionAborted())


class Line:
    """
    A connection that was made, seen from the server.

    Attributes:
        protocol: the client's end.
        lost: whether it has ended.
    """

    def __init__(self, clock: Clock, factory: IProtocolFactory) -> None:
        self._clock = clock
        self._wire = _Wire(self)
        self._reader = RequestReader(2**32)
        self._read = 0
        self._ending = False
        self.lost = False
        protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        assert protocol is not None
        self.protocol: IProtocol = protocol

    def begin(self) -> None:
        """Give the client's end its transport."""
        self.protocol.makeConnection(self._wire)

    def requests(self) -> list[Request]:
        """Return the requests that came since the last call; a malformed one is an error."""
        data = self._wire.value()[self._read :]
        self._read += len(data)
        requests = []
        for request in self._reader.feed(data):
            if not isinstance(request, Request):
                raise AssertionError(f"memcached would refuse this: {request.reason}")
            requests.append(request)
        return requests

    def request(self) -> Request:
        """Return the only request that came since the last call."""
        (request,) = self.requests()
        return request

    def say(self, *frames: Response | bytes) -> None:
        """Send *frames* in one piece."""
        self.protocol.dataReceived(
            b"".join(f if isinstance(f, bytes) else f.encode() for f in frames)
        )

    def end(self, reason: BaseException) -> None:
        """End the connection, a turn of the reactor later, as this side of it does."""
        if not self._ending:
            self._ending = True
            self._clock.callLater(0, self.lose, reason)

    def lose(self, reason: BaseException | None = None) -> None:
        """End the connection now."""
        if not self.lost:
            self.lost = self._ending = True
            self.protocol.connectionLost(Failure(reason or ConnectionDone()))


class Dial:
    """An attempt to connect, which ends as the test says."""

    def __init__(self, world: World, factory: IProtocolFactory) -> None:
        self._world, self._factory = world, factory
        self.over = self.cancelled = False
        self.done: Deferred[IProtocol] = Deferred(self._cancelled)

    def _cancelled(self, done: Deferred[IProtocol]) -> None:
        self.over = self.cancelled = True

    def accept(self) -> Line:
        """Let there be a ready connection."""
        self.over = True
        line = Line(self._world.clock, self._factory)
        line.begin()
        self.done.callback(line.protocol)
        return line

    def fail(self, error: BaseException | None = None) -> None:
        """Let there be none."""
        self.over = True
        self.done.errback(error or ConnectRefused("a:1", "nobody listens on a:1"))


@implementer(IStreamClientEndpoint)
class Dials:
    """
    An endpoint that only notes that it was asked to connect.

    Attributes:
        all: every attempt so far.
        times: when each was made, on the monotonic clock.
        at_once: what ends an attempt before `connect` returns, if anything does.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.all: list[Dial] = []
        self.times: list[float] = []
        self.at_once: Callable[[Dial], object] | None = None

    def connect(
        self,
        protocolFactory: IProtocolFactory,  # noqa: N803 - the interface's name for it
    ) -> Deferred[IProtocol]:
        dial = Dial(self._world, protocolFactory)
        self.all.append(dial)
        self.times.append(self._world.now)
        if self.at_once is not None:
            self.at_once(dial)
        return dial.done

    @property
    def open(self) -> list[Dial]:
        """Those that have not ended."""
        return [dial for dial in self.all if not dial.over]

    def accept(self) -> Line:
        """Accept the only one that is open."""
        (dial,) = self.open
        return dial.accept()

    def fail(self, error: BaseException | None = None) -> None:
        """Fail the only one that is open."""
        (dial,) = self.open
        dial.fail(error)


@implementer(ILogObserver)
class Journal:
    """What the package logs, as text, while a test runs."""

    def __init__(self, test: SynchronousTestCase) -> None:
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self)
        test.addCleanup(globalLogPublisher.removeObserver, self)

    def __call__(self, event: LogEvent) -> None:
        """Keep one event."""
        if str(event.get("log_namespace", "")).startswith("txtlsmc"):
            self.lines.append(eventAsText(event, includeTimestamp=False, includeSystem=False))


def outcome(done: Deferred[Any]) -> list[Any]:
    """Return a list that will hold the result or the error of *done*."""
    outcomes: list[Any] = []
    done.addCallbacks(outcomes.append, lambda reason: outcomes.append(reason.value))
    return outcomes
