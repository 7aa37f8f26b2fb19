"""
One connection from the gateway to a server, and who is served on it when.

Written is as in `txtlsmc.net.pipeline`: at once when nothing is pending, and otherwise at the end
of the reactor's turn, all in one.  Those who want something are served in turn, each with one piece
of at most a TLS record, so that neither a flood nor large requests hold up the others.
"""

from __future__ import annotations

from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from txtlsmc.errors import ConnectionClosed, MemcacheError, ServerSilent
from txtlsmc.net.kept import KeptProtocol
from txtlsmc.net.pipeline import FIRST_OPAQUE, why_lost
from txtlsmc.settings import Limits
from txtlsmc.tunnel.hub import Hub
from txtlsmc.tunnel.settings import TunnelLimits
from txtlsmc.wire.conversation import Conversation
from txtlsmc.wire.shared import SharedSession

#: The sweep looks so many times within the timeout whether there was an answer …
_SWEEPS: Final = 10
#: … and waits at least so many seconds in between.
_SHORTEST_SWEEP: Final = 0.01


class Local(Protocol):
    """A local connection, as upstream ones see it."""

    def deliver(self) -> None:
        """Take the answers that have come, and do what had to wait for them."""

    def settle(self) -> None:
        """Do what is not for the server, once nothing is in flight."""

    def upstream_lost(self) -> None:
        """End: an answer may have been lost."""

    def refused(self) -> None:
        """End: the server is down."""


class UpstreamConnection(KeptProtocol):
    """One connection to the server that is ready, for many local ones."""

    def __init__(
        self,
        clock: IReactorTime,
        hub: Hub,
        limits: Limits,
        local_limits: TunnelLimits,
    ) -> None:
        """
        Args:
            clock: the reactor.
            hub: what all listeners share.
            limits: of the connection; its `timeout` is how long an answer may take.
            local_limits: what may be pending.
        """
        self._clock, self._monotonic = clock, hub.monotonic
        self._counters, self._journal = hub.counters, hub.journal
        self._timeout, self._local_limits = limits.timeout, local_limits
        self._session: SharedSession[Local] = SharedSession(
            max_pending=local_limits.max_pending,
            max_pending_bytes=local_limits.max_pending_bytes,
            max_body=limits.max_body,
            first_opaque=FIRST_OPAQUE,
        )
        self._asking: dict[Conversation[Local], None] = {}  # who has something to ask, in turn
        self._serving = False
        self._gathering: IDelayedCall | None = None
        self._sweeping: IDelayedCall | None = None
        self._sweeping_again = False
        self._overdue = 0.0  # when the sweep is late itself
        self._heard = False  # whether anything has come since it was last looked at …
        self._since = 0.0  # … and since when nothing has
        self._over = self._aborted = self._lost = False
        self._closing: Deferred[None] | None = None
        self._lingering: IDelayedCall | None = None

    def __len__(self) -> int:
        """Return how many requests have no answer."""
        return len(self._session)

    def connectionMade(self) -> None:
        """Tell whoever keeps connections that there is one more."""
        if self.on_ready is not None:
            self.on_ready()

    # Up

    def ask(self, conversation: Conversation[Local]) -> None:
        """Serve *conversation*, which has something to ask, when it is its turn."""
        self._asking[conversation] = None
        if self._serving or self._gathering is not None:
            return
        if len(self._session):
            self._gathering = self._clock.callLater(0, self._gathered)
        else:
            self._serve()

    def _gathered(self) -> None:
        self._gathering = None
        self._serve()

    def _serve(self) -> None:
        session, asking = self._session, self._asking
        before = len(session)
        self._serving = True
        while asking and not self._over:
            conversation = next(iter(asking))
            del asking[conversation]
            if session.take(conversation):
                if conversation.more and conversation.in_flight < conversation.pace:
                    asking[conversation] = None
                if conversation.here is None and not conversation.ended:
                    continue
            elif session.full and conversation.held_up:
                asking[conversation] = None
                self._tell_full()
                break
            here = conversation.here
            conversation.owner.settle()
            if here is not None and conversation.here is None and conversation.more:
                asking[conversation] = None
        self._serving = False
        taken = len(session) - before
        if taken and not self._over:
            self._counters.forwarded += taken
            self._counters.requests += taken
            if not before:
                self._since = self._monotonic()
                self._heard = False
            if self._sweeping is None:
                self._sweep_soon(self._monotonic())
            for flight in session.flights():
                self._counters.bytes_to_upstream += len(flight)
                assert self.transport is not None
                self.transport.write(flight)

    def _tell_full(self) -> None:
        limits = self._local_limits
        over = len(self._session) >= limits.max_pending
        name = "max_pending" if over else "max_pending_bytes"
        self._counters.pending_full += 1
        self._journal.limit(name, getattr(limits, name))

    # Down

    def dataReceived(self, data: bytes) -> None:
        """Hand the answers to those who asked."""
        if self._over:
            return
        session, asking, counters = self._session, self._asking, self._counters
        before, dropped = session.answers, session.dropped
        self._heard = True
        counters.bytes_from_upstream += len(data)
        touched = session.receive(data)
        came = session.answers - before
        if came:
            self.answered = True
            dropped = session.dropped - dropped
            counters.answers += came - dropped
            counters.dropped_answers += dropped
        self._serving = True  # what they ask meanwhile waits for the others' answers
        for conversation in touched:
            conversation.owner.deliver()
            if conversation.more:
                asking[conversation] = None
        self._serving = False
        if session.error is not None:
            self._give_up(session.error)
            return
        if asking and self._gathering is None:
            self._serve()
        self._close_if_done()

    # The end

    def _sweep_soon(self, now: float) -> None:
        every = max(self._timeout / _SWEEPS, _SHORTEST_SWEEP)
        self._overdue = now + 2 * every
        self._sweeping = self._clock.callLater(every, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        now = self._monotonic()
        if now > self._overdue and not self._sweeping_again:
            # The reactor runs its timers before it reads: what came in the meantime is read first.
            self._sweeping_again = True
            self._sweeping = self._clock.callLater(0, self._sweep)
            return
        self._sweeping_again = False
        if not len(self._session):
            return
        if self._heard:
            self._heard, self._since = False, now
        elif now - self._since >= self._timeout:
            self._counters.upstream_silent += 1
            reason = f"the server was silent for {self._timeout:g} s"
            self._give_up(ServerSilent(reason, sent=True))
            return
        self._sweep_soon(now)

    def _give_up(self, error: MemcacheError) -> None:
        """End the connection from our side."""
        alive = not (self._aborted or self._lost)
        self._aborted = True
        self._end(error)
        if alive:
            assert self.transport is not None
            # ITransport does not promise it, but every transport for streams has it.
            self.transport.abortConnection()  # type: ignore[attr-defined]  # see above

    def _end(self, error: MemcacheError) -> None:
        if self._over:
            return
        self._over = True
        for timer in (self._gathering, self._sweeping, self._lingering):
            if timer is not None and timer.active():
                timer.cancel()
        self._gathering = self._sweeping = self._lingering = None
        self._asking.clear()  # nothing of theirs was sent: they are served by the next connection
        for conversation in self._session.waiting():
            conversation.owner.upstream_lost()
        told, self.on_end = self.on_end, None
        if told is not None:  # last: who is left has lost nothing
            told(error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End all who wait for an answer."""
        self._lost = True
        words = why_lost(reason)
        if self._session.inside_answer:
            words += ", inside an answer"
        self._end(ConnectionClosed(words, sent=True))
        if self._closing is not None:
            closing, self._closing = self._closing, None
            closing.callback(None)

    def close(self) -> Deferred[None]:
        """
        End the connection once all is answered.

        Returns:
            A Deferred that fires when it is gone.
        """
        done: Deferred[None] = Deferred()
        if self._lost:
            done.callback(None)
            return done
        self._closing = done
        self._close_if_done()
        return done

    def _close_if_done(self) -> None:
        if self._closing is None or len(self._session) or self._over or self._lingering is not None:
            return
        # Over TLS the connection ends only when the server has said goodbye too.
        self._lingering = self._clock.callLater(self._timeout, self.abort)
        assert self.transport is not None
        self.transport.loseConnection()

    def abort(self) -> None:
        """End the connection now, and all who wait for an answer."""
        self._give_up(ConnectionClosed("the connection was aborted by this side", sent=True))
