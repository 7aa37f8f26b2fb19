"""
Requests in a row over one connection, and what becomes of each when time or the wire runs out.

Each request ends exactly once: with its answer, by its deadline, by `Deferred.cancel`, or with the
connection.  The first three leave the connection alive: a late answer is read and dropped.

Writing: a request that finds the connection idle is written at once, those that find it busy are
gathered until the end of the reactor's turn.  That has the latency of the one and the throughput of
the other.  Deadlines: a timer for each request costs as much as the request, so one coarse sweep
looks at all, and only while something is pending.  It reads the monotonic clock, because
``reactor.seconds()`` is wall time and may jump.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from txtlsmc.errors import (
    ConnectionClosed,
    InvalidArgument,
    MemcacheError,
    PendingLimit,
    RemoteProtocolError,
    RequestTimeout,
    ServerSilent,
    shown,
)
from txtlsmc.net.kept import KeptProtocol
from txtlsmc.net.pending import Batch, Call, Part, Pending, RunCall
from txtlsmc.settings import Limits
from txtlsmc.wire.operations import Operation
from txtlsmc.wire.runs import Run, RunOutcomes
from txtlsmc.wire.session import Session

T = TypeVar("T")

#: The sweep looks at the deadlines this many times within the shortest timeout …
_SWEEPS: Final = 10
#: … and waits at least so many seconds in between.
_SHORTEST_SWEEP: Final = 0.01
#: Not where the handshake's numbers begin: a second answer to one of those is then nobody's.
FIRST_OPAQUE: Final = 0x10000


class PipelinedProtocol(KeptProtocol):
    """
    One connection that is ready: operations go in, results come out.

    Attributes:
        limits: its bounds.
    """

    def __init__(
        self,
        clock: IReactorTime,
        *,
        limits: Limits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            clock: the reactor.
            limits: the bounds of the connection; the defaults of `Limits` when None.
            monotonic: seconds that never jump, for deadlines.
            wall_clock: the Unix time, for expiry times beyond 30 days.
        """
        self.limits = limits = Limits() if limits is None else limits
        self._clock, self._monotonic, self._wall_clock = clock, monotonic, wall_clock
        self._session: Session[Pending] = Session(
            max_pending=limits.max_pending,
            max_pending_bytes=limits.max_pending_bytes,
            max_body=limits.max_body,
            first_opaque=FIRST_OPAQUE,
        )
        self._over: str | None = None  # why nothing more can be asked
        self._gathering: IDelayedCall | None = None
        self._sweeping: IDelayedCall | None = None
        self._sweeping_again = False
        self._shortest = 0.0  # the timeout that the sweep is fast enough for
        self._overdue = 0.0  # when the sweep is late itself, on the monotonic clock
        self._heard = 0.0
        self._lingering: IDelayedCall | None = None
        self._closing: list[Deferred[None]] = []
        self._aborted = False
        self._lost = False

    @property
    def pending(self) -> int:
        """How many requests have no answer yet, abandoned ones included."""
        return len(self._session)

    def perform(self, operation: Operation[T], timeout: float | None = None) -> Deferred[T]:
        """
        Send one operation.

        Args:
            operation: loud; see `txtlsmc.wire.operations`.
            timeout: seconds until it fails; the connection's own when None.  A longer one than
                that helps only while other answers come: a connection that is silent for its own
                timeout is given up.

        Returns:
            A Deferred that fires with the result.  Cancelling it leaves the connection alive; the
            late answer is dropped.

        Raises:
            InvalidArgument: *timeout* is not above 0.

        Fails:
            ServerError: the server's answer was no success.
            RequestTimeout: the answer did not come in time.
            ConnectionClosed: the connection is gone; `ServerSilent` when nothing came on it.
            RemoteProtocolError: the server broke the protocol, here or for another request.
            PendingLimit: too much is unanswered already.
        """
        if self._over is not None:
            return fail(ConnectionClosed(self._over, sent=False))
        session = self._session
        idle = not session.pending
        timeout = self._seconds(timeout)
        now = self._monotonic()
        call = Call(session, operation.read, timeout, now + timeout)
        try:
            call.place = session.send(operation.request, call)
        except PendingLimit as error:
            return fail(error)
        self._queued(idle, now, timeout)
        return call.done

    def perform_all(
        self, operations: Sequence[Operation[T]], timeout: float | None = None
    ) -> Deferred[list[T | MemcacheError]]:
        """
        Send many operations in one go, best in their quiet forms.

        Args:
            operations: loud or quiet; a run that ends quiet is fenced.
            timeout: seconds until those without an answer fail.

        Returns:
            A Deferred that fires with the outcomes in the order of *operations*: of each its
            result, or the error that it alone would have failed with.  It never fails, unless
            it is cancelled, which abandons what has no answer yet.
        """
        if not operations:
            return succeed([])
        if self._over is not None:
            over = self._over
            return succeed([ConnectionClosed(over, sent=False) for _ in operations])
        session = self._session
        idle = not session.pending
        timeout = self._seconds(timeout)
        now = self._monotonic()
        batch: Batch[T] = Batch(session, len(operations))
        for number, operation in enumerate(operations):
            part = Part(batch, number, operation.read, timeout, now + timeout)
            try:
                part.place = session.send(operation.request, part)
            except PendingLimit as error:
                part.failed(error)
            else:
                batch.parts.append(part)
        self._queued(idle, now, timeout)
        return batch.done

    def perform_run(self, run: Run[T], timeout: float | None = None) -> Deferred[RunOutcomes[T]]:
        """
        Send many requests of one quiet opcode in one go; `perform_all` for less.

        Args:
            run: see `txtlsmc.wire.runs`.
            timeout: as for `perform_all`.

        Returns:
            A Deferred that fires with the outcomes.  Like that of `perform_all` it never fails.
        """
        if self._over is not None:
            lost = ConnectionClosed(self._over, sent=False)
            return succeed(
                RunOutcomes([run.silent] * len(run), dict.fromkeys(range(len(run)), lost))
            )
        if not len(run):
            return succeed(RunOutcomes([], {}))
        session = self._session
        idle = not session.pending
        seconds = self._seconds(timeout)
        now = self._monotonic()
        call = RunCall(session, run, seconds, now + seconds)
        try:
            call.place = session.send_run(run, call)
        except PendingLimit:  # for some of it only, perhaps
            return self.perform_all(run.operations(), timeout).addCallback(run.outcomes)
        self._queued(idle, now, seconds)
        return call.done

    def _seconds(self, timeout: float | None) -> float:
        if timeout is None:
            return self.limits.timeout
        if not timeout > 0:
            raise InvalidArgument(f"a timeout is a number of seconds above 0, not {timeout!r}")
        return timeout

    def _queued(self, idle: bool, now: float, timeout: float) -> None:
        # First: the write may end the connection, and its timers.
        if self._sweeping is None or timeout < self._shortest or now > self._overdue:
            self._sweep_for(timeout, now)
        if idle:
            self._heard = now  # silence is counted from here
            self._write()
        elif self._gathering is None:
            self._gathering = self._clock.callLater(0, self._write)

    def _sweep_for(self, timeout: float, now: float) -> None:
        """See to it that sweeps come often enough for *timeout*, and for silence."""
        sweeping = self._sweeping
        if sweeping is not None and timeout >= self._shortest:
            if now > self._overdue:
                # The reactor's clock went back, and the sweep would wait until it has caught up.
                sweeping.reset(0)
            return
        self._shortest = min(timeout, self.limits.timeout)
        every = max(self._shortest / _SWEEPS, _SHORTEST_SWEEP)
        self._overdue = now + 2 * every
        if sweeping is None:
            self._sweeping = self._clock.callLater(every, self._sweep)
        else:
            sweeping.reset(every)

    def _write(self) -> None:
        if self._gathering is not None:
            if self._gathering.active():
                self._gathering.cancel()
            self._gathering = None
        for flight in self._session.flights():
            assert self.transport is not None
            self.transport.write(flight)

    def connectionMade(self) -> None:
        """Tell whoever keeps connections that there is one more."""
        if self.on_ready is not None:
            self.on_ready()

    def dataReceived(self, data: bytes) -> None:
        """Hand answers to those who asked."""
        if self._aborted:
            return  # TLS may hand on what it had decrypted before
        self._heard = self._monotonic()
        session = self._session
        ended = session.receive(data)
        if ended:
            self.answered = True
        error = session.error
        if error is not None:  # told before the callbacks, which may ask for more
            self._conclude(str(error), RemoteProtocolError(error.field, error.reason))
        for pending, responses in ended:
            pending.ended(responses)
        if error is not None:
            # An error of its own for each: they end up in different tracebacks.
            self._give_up(str(error), lambda sent: RemoteProtocolError(error.field, error.reason))
        elif self._closing and not self._awaited():
            self._lose()

    def _sweep(self) -> None:
        self._sweeping = None
        session = self._session
        now = self._monotonic()
        if now > self._overdue and not self._sweeping_again:
            # The reactor runs its timers before it reads: what came in the meantime is read first.
            self._sweeping_again = True
            self._sweeping = self._clock.callLater(0, self._sweep)
            return
        self._sweeping_again = False
        self._write()  # or a request could fail as unsent, and go out behind that
        late = [pending for pending in session.tokens() if pending.deadline <= now]
        for pending in late:
            session.abandon(pending.place)
            pending.failed(RequestTimeout(pending.timeout, sent=True))
        silence = self.limits.timeout
        if len(session) and now - self._heard >= silence:
            reason = f"the server was silent for {silence:g} s"
            self._give_up(reason, lambda sent: ServerSilent(reason, sent=sent))
            return
        if self._closing and not self._awaited():
            self._lose()
        if len(session):
            self._sweep_for(min((each.timeout for each in session.tokens()), default=silence), now)

    def _awaited(self) -> bool:
        """Whether anybody still waits for an answer; nobody does for an abandoned one."""
        return next(self._session.tokens(), None) is not None

    def _give_up(self, reason: str, error: Callable[[bool], MemcacheError]) -> None:
        """End the connection from our side, and everything pending with *error*."""
        alive = not (self._aborted or self._lost)
        self._aborted = True  # before the callbacks, which may call `close`
        self._end(reason, error)
        if alive:
            assert self.transport is not None
            # ITransport does not promise it, but every transport for streams has it.
            self.transport.abortConnection()  # type: ignore[attr-defined]  # see above

    def _end(self, reason: str, error: Callable[[bool], MemcacheError]) -> None:
        self._conclude(reason, error(True))
        for timer in (self._gathering, self._sweeping, self._lingering):
            if timer is not None and timer.active():
                timer.cancel()
        self._gathering = self._sweeping = self._lingering = None
        for pending, sent in self._session.lose():
            pending.failed(error(sent))

    def _conclude(self, reason: str, error: MemcacheError) -> None:
        """Take no more requests, and tell whoever keeps connections."""
        if self._over is None:
            self._over = reason
        told, self.on_end = self.on_end, None
        if told is not None:
            told(error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Fail everything pending, once."""
        self._lost = True
        words = why_lost(reason)
        if self._session.inside_answer:
            words += ", inside an answer"
        self._end(words, lambda sent: ConnectionClosed(words, sent=sent))
        closing, self._closing = self._closing, []
        for done in closing:
            done.callback(None)

    def close(self) -> Deferred[None]:
        """
        Let what is pending finish, within its deadlines, then end the connection.

        Returns:
            A Deferred that fires when the connection is gone.  New operations fail at once, and
            a server that does not close its side within the connection's timeout is cut off.
        """
        done: Deferred[None] = Deferred()
        if self._lost:
            done.callback(None)
            return done
        self._closing.append(done)
        if self._over is None:
            self._over = "the connection was closed by this side"
        if not self._awaited():
            self._lose()
        return done

    def abort(self) -> None:
        """End the connection now; everything pending fails with `ConnectionClosed`."""
        reason = "the connection was aborted by this side"
        self._give_up(reason, lambda sent: ConnectionClosed(reason, sent=sent))

    def _lose(self) -> None:
        if self._aborted or self._lost or self._lingering is not None:
            return
        # Over TLS the connection ends only when the server has said goodbye too.
        self._lingering = self._clock.callLater(self.limits.timeout, self.abort)
        assert self.transport is not None
        self.transport.loseConnection()


def why_lost(reason: Failure) -> str:
    """Return in words what a protocol's ``connectionLost`` was told."""
    if reason.check(ConnectionDone):
        return "the server closed the connection"
    if reason.check(ConnectionAborted):
        return "the connection was aborted"
    return f"the connection was lost ({shown(reason.getErrorMessage())})"
