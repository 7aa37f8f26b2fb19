"""The server's end of a connection in memory: it speaks the real codec and does what it is told."""

from __future__ import annotations

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from txtlsmc.net.pipeline import PipelinedProtocol
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.settings import Limits
from txtlsmc.wire.frames import Request, RequestReader, Response
from txtlsmc.wire.opcodes import Opcode

#: The Unix time of every test.
NOW = 1_800_000_000.0


class Wire(StringTransport):
    """
    A transport that remembers how it was used.

    Attributes:
        writes: what each call of `write` had.
        aborted: how often it was told to abort.
        losing: how often it was told to close.
        gone: whether the connection is lost; who aborts it then makes the error that TLS makes.
        breaks: who loses the connection during the next write.
    """

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.aborted = self.losing = 0
        self.gone = False
        self.breaks: PipelinedProtocol | None = None

    def write(self, data: bytes) -> None:
        super().write(data)
        self.writes.append(data)
        if self.breaks is not None:
            self.gone = True
            self.breaks.connectionLost(Failure(ConnectionDone()))

    def loseConnection(self) -> None:
        self.losing += 1

    def abortConnection(self) -> None:
        if self.gone:
            raise AttributeError("abortConnection of a connection that is lost")
        self.aborted += 1


class Peer:
    """
    One connection, seen from the server.

    Attributes:
        clock: the reactor's; it may jump.
        now: seconds on the monotonic clock.
        protocol: the client's end.
        wire: its transport.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.clock = Clock()
        self.now = 1000.0
        self.protocol = MemcacheProtocol(
            self.clock, limits=limits, monotonic=lambda: self.now, wall_clock=lambda: NOW
        )
        self.wire = Wire()
        self.protocol.makeConnection(self.wire)
        self._reader = RequestReader(2**32)
        self._read = 0

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks."""
        self.now += seconds
        self.clock.advance(seconds)

    def pass_by(self, seconds: float, step: float = 0.01) -> None:
        """Let time pass as a reactor does, in small steps."""
        for _ in range(round(seconds / step)):
            self.advance(step)

    def delayed(self) -> list[IDelayedCall]:
        """Return what waits on the reactor's clock."""
        return [call for call in self.clock.getDelayedCalls() if call.active()]

    def requests(self) -> list[Request]:
        """Return the requests that came since the last call; a malformed one is an error."""
        data = self.wire.value()[self._read :]
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

    def lose(self, reason: BaseException | None = None) -> None:
        """End the connection; cleanly unless there is another *reason*."""
        self.wire.gone = True
        self.protocol.connectionLost(Failure(reason or ConnectionDone()))


def answer(
    request: Request,
    value: bytes = b"",
    *,
    status: int = 0,
    extras: bytes = b"",
    key: bytes = b"",
    cas: int = 0,
) -> Response:
    """Return a response to *request*."""
    return Response(request.opcode, status, request.opaque, cas, extras, key, value)


def hit(request: Request, value: bytes = b"value", *, flags: int = 0, cas: int = 7) -> Response:
    """Return the response to a get that found something."""
    return answer(request, value, extras=flags.to_bytes(4, "big"), cas=cas)


def miss(request: Request) -> Response:
    """Return the response to a get that found nothing."""
    return answer(request, b"Not found", status=1)


def opcodes(requests: list[Request]) -> list[Opcode]:
    """Return what *requests* ask for."""
    return [Opcode(request.opcode) for request in requests]
