"""
One local connection of the gateway.

Its requests are the conversation's business; here is what is between that and the socket: whether
it may stay, what it speaks, how fast it reads, and how it ends.

For a client that does not read its answers nothing more is asked; what comes for it meanwhile is
kept, up to a limit.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from twisted.internet.interfaces import IHalfCloseableProtocol, ITCPTransport
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from txtlsmc.tunnel.hub import Hub
from txtlsmc.tunnel.login import Login
from txtlsmc.tunnel.settings import TunnelLimits
from txtlsmc.tunnel.unread import PIECE, Unread
from txtlsmc.tunnel.upstream import Local
from txtlsmc.wire.conversation import Conversation
from txtlsmc.wire.frames import REQUEST_MAGIC, Refusal, Request, Response, error_response
from txtlsmc.wire.opcodes import Opcode, Status

#: With so many bytes of requests waiting for their turn, a client is not read any more.
_READ_AHEAD: Final = 262_144

_HINTS: Final = {0x16: "TLS hello", 0x81: "response"}
_HTTP: Final = (b"GET /", b"POST ", b"HEAD ", b"PUT /", b"OPTIO", b"CONNE", b"DELET", b"PATCH")


class LocalUpstream(Protocol):
    """What a local connection is bound to."""

    down: bool

    def bind(self, local: LocalConnection) -> None:
        """Count it in."""

    def release(self, local: LocalConnection) -> None:
        """Count it out."""

    def ask(self, conversation: Conversation[Local]) -> None:
        """Serve it, now or when there is a connection; or refuse it."""

    def wake(self) -> None:
        """Dial now."""

    def login_refused(self) -> None:
        """Tell that a client gave the wrong credentials."""


@implementer(IHalfCloseableProtocol)
class LocalConnection(TwistedProtocol):
    """
    The gateway's side of a connection from this machine.

    Attributes:
        conversation: what is asked and answered on it.
    """

    transport: Any  # TCP, a Unix socket, or TLS over one

    def __init__(
        self, upstream: LocalUpstream, hub: Hub, limits: TunnelLimits, login: Login, *, locked: bool
    ) -> None:
        """
        Args:
            upstream: what it is bound to.
            hub: what all local connections share.
            limits: its bounds.
            login: answers SASL.
            locked: whether SASL comes first.
        """
        self.conversation: Conversation[Local] = Conversation(
            self, max_body=limits.max_request, window=limits.window, locked=locked
        )
        self._upstream, self._hub, self._limits, self._login = upstream, hub, limits, login
        self._admitted = self._spoken = False
        self._paused = False
        self._held = False  # whether something is counted as kept for it
        self._no_more = False  # nothing more will be asked
        self._closing = False
        # What the sweep saw last, and for how many seconds it has seen the same.
        self._seen: tuple[int | bool, ...] = ()
        self._same_seconds = 0.0

    def connectionMade(self) -> None:
        """See whether it may stay."""
        if self._hub.admission.admit(self.transport) is not None:
            self._closing = True
            self.transport.abortConnection()
            return
        self._admitted = True
        self._upstream.bind(self)
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
        self._unread = Unread(self.transport, self._taken)
        if self._upstream.down:
            self._upstream.wake()
            self.refused()

    # What it says

    def dataReceived(self, data: bytes) -> None:
        """Take a piece of its requests."""
        if self._closing:
            return
        if not self._spoken:
            if not data:
                return
            self._spoken = True
            if data[0] != REQUEST_MAGIC:
                self._not_binary(data)
                return
        conversation = self.conversation
        conversation.feed(data)
        if conversation.more:
            self._upstream.ask(conversation)
        if self._held or conversation.buffered > PIECE:
            self._keep_up()

    def _keep_up(self) -> None:
        """Count what is kept, and read on unless enough requests wait for their turn."""
        self._hold()
        if self._closing or self._no_more:
            return
        conversation = self.conversation
        # A single request may be larger than that: it has to be read on to become whole.
        waiting = conversation.buffered if conversation.more else 0
        if self._paused and waiting <= _READ_AHEAD // 2:
            self._paused = False
            self.transport.resumeProducing()
        elif not self._paused and waiting > _READ_AHEAD:
            self._paused = True
            self.transport.pauseProducing()

    def _not_binary(self, data: bytes) -> None:
        hint = _HINTS.get(data[0], "HTTP" if data[:5] in _HTTP else "text")
        self._hub.counters.refused_first_byte += 1
        self._hub.journal.local_hint(hint)
        self._close()

    def readConnectionLost(self) -> None:
        """Answer what was asked, and end then: it will ask nothing more."""
        self._no_more = True
        self.settle()

    def writeConnectionLost(self) -> None:
        """Do nothing: nobody asked for that."""

    def drain(self) -> None:
        """Read no more; answer what was asked, and end then."""
        if self._closing:
            return
        self._no_more = True
        self._paused = True
        self.transport.pauseProducing()
        self.settle()

    # What it is told

    def deliver(self) -> None:
        """Take the answers that have come, and do what had to wait for them."""
        conversation = self.conversation
        answers = conversation.answers
        if answers:
            self._tell(bytes(answers[0]) if len(answers) == 1 else b"".join(answers))
            answers.clear()
        if self._held or self._paused:
            self._keep_up()
        if not conversation.in_flight:
            self.settle()

    def _tell(self, data: bytes) -> None:
        if not self._closing and self._unread.write(data):
            self.conversation.choked = True
            self._hold()

    def _hold(self) -> None:
        kept = self._unread.size + self.conversation.buffered
        self._held = kept > PIECE
        self._hub.memory.hold(self, kept if self._held else 0)

    def _taken(self) -> None:
        """Go on: all that was told has been read."""
        conversation = self.conversation
        conversation.choked = False
        if self._closing:
            return
        if conversation.more:
            self._upstream.ask(conversation)
        self._keep_up()
        self.settle()

    # What is between it and the gateway

    def settle(self) -> None:
        """Answer what is answered here, or end, unless an answer has to come first."""
        if self._held or self._paused:
            self._keep_up()
        conversation = self.conversation
        if conversation.in_flight or self._closing or not self._admitted:
            return
        here, conversation.here = conversation.here, None
        if here is not None:
            self._answer(here)
        if conversation.here is None and (
            conversation.ended or (self._no_more and not conversation.more)
        ):
            self._close()

    def _answer(self, here: Request | Refusal) -> None:
        counters = self._hub.counters
        counters.requests += 1
        counters.answered_here += 1
        if isinstance(here, Refusal):
            counters.refused_shape += 1
            if here.status == Status.VALUE_TOO_LARGE:
                counters.refused_max_request += 1
                self._hub.journal.limit("max_request", self._limits.max_request)
            self._tell_here(error_response(here.request, here.status))
            return
        if here.opcode in (Opcode.QUIT, Opcode.QUITQ):
            if here.opcode == Opcode.QUIT:
                self._tell_here(Response(here.opcode, Status.OK, here.opaque))
            self.conversation.end()
            return
        answer = self._login.answer(here)
        if answer.status == Status.OK and here.opcode == Opcode.SASL_AUTH:
            self.conversation.locked = False
        if self._login.refused:
            # As at a server: who tried and failed may nothing, whoever may without trying.
            self.conversation.locked = True
            counters.refused_login += 1
            self._upstream.login_refused()
        self._tell_here(answer)

    def _tell_here(self, answer: Response) -> None:
        self._hub.counters.answers += 1
        self._tell(answer.encode())

    # The end

    def upstream_lost(self) -> None:
        """End: an answer may have been lost."""
        if not self._closing:
            self._hub.counters.closed_upstream_lost += 1
            self.conversation.in_flight = 0
            self.conversation.here = None  # behind a cut answer it would pass for the rest of that
            self._close()

    def refused(self) -> None:
        """End: the server is down."""
        if not self._closing:
            self._hub.counters.refused_down += 1
            self._close()

    def over_limit(self, name: str, limit: int) -> None:
        """End: too much is kept for it."""
        if not self._closing:
            self._hub.counters.closed_unread += 1
            self._hub.journal.limit(name, limit)
            self.abort()

    def _close(self) -> None:
        """End once what was told has been read."""
        if self._closing:
            return
        if self._unread.size:
            self._no_more = True
            self.conversation.end()
            return  # `_taken` comes here again
        self._leave()
        self._unread.finish()

    def _leave(self) -> None:
        """Ask nothing more, and let answers that still come be dropped."""
        self._closing = self.conversation.gone = True
        self.conversation.end()

    def abort(self) -> None:
        """End now."""
        self._leave()
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget it; answers that still come for it are dropped."""
        self._leave()
        self.conversation.answers.clear()
        self._hub.memory.hold(self, 0)
        if self._admitted:
            self._unread.forget()
            self._admitted = False
            self._hub.admission.release()
            self._upstream.release(self)

    def sweep(self, seconds: float) -> None:
        """
        Look whether it has kept something waiting for too long.

        Args:
            seconds: since the last look.
        """
        conversation, counters = self.conversation, self._hub.counters
        # Over TLS the end of a connection waits for the client as well.
        stalled = self._closing or self._unread.stuck
        half, busy = conversation.inside_request, conversation.in_flight > 0
        seen = (conversation.asked, self._unread.pieces, stalled, half, busy)
        if seen != self._seen:
            self._seen, self._same_seconds = seen, 0.0
            return
        self._same_seconds += seconds
        limits = self._limits
        idle = limits.idle_seconds and not busy
        if stalled:
            if self._same_seconds >= limits.stall_seconds:
                counters.closed_stalled += 1
                self._hub.journal.limit("stall_seconds", limits.stall_seconds)
                self.abort()
        elif half:
            if self._same_seconds >= limits.request_seconds:
                counters.closed_request_seconds += 1
                self._hub.journal.limit("request_seconds", limits.request_seconds)
                self.abort()
        elif idle and self._same_seconds >= limits.idle_seconds:
            counters.closed_idle += 1
            self._hub.journal.limit("idle_seconds", limits.idle_seconds)
            self._close()
