"""One local connection: it speaks the binary protocol by itself, and judges each answer's frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any, Final

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tests.faults.verdicts import CORRUPT, CROSSED, UNANSWERED, Verdicts
from txtlsmc.wire.frames import Request, Response, ResponseReader
from txtlsmc.wire.opcodes import OPCODES, Quiet

_LARGEST: Final = 2**26
#: Each connection numbers its requests in a range of its own, so that a stranger's is known.
_STARTS = count(1)
_RANGE: Final = 2**20


class Broken(Exception):
    """The connection ended, or was ended by us, before all answers were there."""


class Local(Protocol):
    """
    A connection to a tunnel, or to memcached itself.

    Attributes:
        lost: whether it has ended.
        answer_seconds: within this a request is answered, or the connection ends.
    """

    transport: Any  # TCP's

    def __init__(self, verdicts: Verdicts, answer_seconds: float) -> None:
        """
        Args:
            verdicts: get what is wrong with the frames.
            answer_seconds: within this a request is answered, or the connection ends.
        """
        self.lost = False
        self._verdicts, self.answer_seconds = verdicts, answer_seconds
        self._reader = ResponseReader(_LARGEST)
        self._opaques = count(next(_STARTS) % 4000 * _RANGE)
        self._pending: deque[Request] = deque()
        self._answers: list[Response | None] = []
        self._done: Deferred[list[Response | None]] | None = None
        self._gone: list[Deferred[None]] = []

    @classmethod
    async def dial(
        cls, address: tuple[str, int], verdicts: Verdicts, answer_seconds: float = 10
    ) -> Local:
        """Connect; fails as Twisted's endpoints do."""
        factory = Factory.forProtocol(lambda: cls(verdicts, answer_seconds))
        factory.noisy = False
        connected = await TCP4ClientEndpoint(reactor, *address).connect(factory)
        assert isinstance(connected, cls)
        return connected

    async def ask(self, requests: Sequence[Request]) -> list[Response | None]:
        """
        Send *requests* in one piece, of which the last is not quiet.

        Returns:
            The answer to each; None for a quiet one that had none.

        Raises:
            Broken: the connection ended first; of no request is known whether it was done.
        """
        if self.lost:
            raise Broken("the connection had ended")
        for each in requests:
            each.opaque = next(self._opaques) % 2**32
        self._pending.extend(requests)
        self._answers = []
        done: Deferred[list[Response | None]] = Deferred()
        self._done = done
        self.transport.write(b"".join(each.encode() for each in requests))
        clock = IReactorTime(reactor)
        late = clock.callLater(self.answer_seconds, self._late)
        try:
            return await done
        finally:
            if late.active():
                late.cancel()

    def close(self, *, orderly: bool = False) -> Deferred[None]:
        """End it, by a reset unless it is to be in good order; fires when it has ended."""
        gone: Deferred[None] = Deferred()
        if self.lost:
            gone.callback(None)
        else:
            self._gone.append(gone)
            if orderly:
                self.transport.loseConnection()
            else:
                self.transport.abortConnection()
        return gone

    def dataReceived(self, data: bytes) -> None:
        """Take a piece of the answers."""
        for response in self._reader.feed(data):
            if self.lost or not self._take(response):
                return
        if self._reader.error is not None:
            self._verdicts.add(CORRUPT, f"no frame: {self._reader.error}")
            self.close()

    def _take(self, response: Response) -> bool:
        skipped: list[None] = []
        while self._pending:
            request = self._pending.popleft()
            if request.opaque == response.opaque and request.opcode == response.opcode:
                self._answers += [*skipped, response]
                if not self._pending and self._done is not None:
                    done, self._done = self._done, None
                    done.callback(self._answers)
                return True
            if OPCODES[request.opcode].quiet is Quiet.NEVER:
                break
            skipped.append(None)
        self._verdicts.add(CROSSED, f"an answer that was not asked for here: {response}")
        self.close()
        return False

    def _late(self) -> None:
        waited = f"{len(self._pending)} requests after {self.answer_seconds:g} s"
        self._verdicts.add(UNANSWERED, f"no answer to {waited}, and the connection lives")
        self.close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell those who wait."""
        self.lost = True
        if self._done is not None:
            done, self._done = self._done, None
            done.errback(Broken(f"the connection ended: {reason.getErrorMessage()}"))
        gone, self._gone = self._gone, []
        for each in gone:
            each.callback(None)


class LazyReader(Protocol):
    """Asks for much, and reads nothing of it."""

    transport: Any  # TCP's

    def __init__(self, requests: bytes) -> None:
        self._requests = requests
        self.gone: Deferred[None] = Deferred()

    @classmethod
    async def dial(cls, address: tuple[str, int], requests: bytes) -> LazyReader:
        """Connect, and ask."""
        factory = Factory.forProtocol(lambda: cls(requests))
        factory.noisy = False
        connected = await TCP4ClientEndpoint(reactor, *address).connect(factory)
        assert isinstance(connected, cls)
        return connected

    def connectionMade(self) -> None:
        """Ask, and read no more."""
        self.transport.pauseProducing()
        self.transport.write(self._requests)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Note it."""
        self.gone.callback(None)

    async def close(self) -> None:
        """End it; again, it changes nothing."""
        if not self.gone.called:
            self.transport.abortConnection()
            await self.gone
