"""
A link: one connection to a node, made anew whenever it is gone, and those who wait for it.

Twisted's `ClientService` reconnects.  This adds a back-off that a waiting call can cut short, and
that counts the attempts since a connection last proved useful, not since one was last made: a
server that accepts and drops would otherwise be dialled without a pause.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeVar
from typing import Protocol as Interface

from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred, DeferredSemaphore, fail
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txtlsmc.errors import (
    AuthenticationError,
    ConnectFailed,
    ConnectionClosed,
    MemcacheError,
    PendingLimit,
    RemoteProtocolError,
    RequestTimeout,
    ServerSilent,
)
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.routing import Backoff
from txtlsmc.settings import Limits
from txtlsmc.wire.operations import Operation

T = TypeVar("T")

#: How often those who wait are looked at within the shortest timeout, and at the most.
_SWEEPS: Final = 10
_SHORTEST_SWEEP: Final = 0.01


class LinkWatcher(Interface):
    """Whom a link tells, and asks."""

    def refusal(self) -> MemcacheError | None:
        """Return the error for who would wait for the link; None when waiting is worth it."""

    def link_ready(self) -> None:
        """There is a connection."""

    def link_failed(self, error: MemcacheError) -> None:
        """There is none to be had, or the one there was broke by the server's fault."""

    def link_lost(self, error: MemcacheError) -> None:
        """The connection ended and nobody is to blame."""

    def link_useful(self) -> None:
        """The connection that has ended had answered somebody."""


class Link:
    """
    One connection to a node.

    Attributes:
        live: the connection that is ready, or None.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        build: Callable[[IAddress | None], MemcacheProtocol],
        watcher: LinkWatcher,
        *,
        server: str,
        limits: Limits,
        backoff: Backoff,
        handshakes: DeferredSemaphore,
        jitter: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            clock: the reactor.
            endpoint: connects when ready, and not before.
            build: makes the protocol of a connection that is.
            watcher: the node.
            server: its name.
            limits: the bounds of the connection.
            backoff: how long to wait between attempts.
            handshakes: bounds how many links of the node are being made at once.
            jitter: a random number from 0 to 1.
            monotonic: seconds that never jump.
        """
        self.live: MemcacheProtocol | None = None
        self._clock, self._monotonic = clock, monotonic
        self._watcher, self._server = watcher, server
        self._limits, self._backoff, self._jitter = limits, backoff, jitter
        self._retrying = _RetryClock(clock)
        self._service = _QuietClientService(
            _Dialling(endpoint, handshakes, self._failed),
            _LinkFactory(build, self._ready),
            retryPolicy=self._delay,
            clock=self._retrying,
        )
        self._tries = 1  # the first, which is made at once
        self._since = 0.0
        self._error: MemcacheError | None = None
        self._woken = float("-inf")
        self._waiting: deque[_Waiting] = deque()
        self._sweeping: IDelayedCall | None = None
        self._closed = False

    def start(self) -> None:
        """Begin to connect."""
        self._service.startService()

    # For callers

    def perform(self, operation: Operation[T], timeout: float) -> Deferred[T]:
        """
        Send *operation* once there is a connection; *timeout* covers the wait for it.

        Fails as `PipelinedProtocol.perform`, and with what the watcher's `refusal` says.
        """
        if self.live is not None:
            return self.live.perform(operation, timeout)
        return self._when_live(timeout, lambda live, left: live.perform(operation, left))

    def perform_all(
        self, operations: Sequence[Operation[T]], timeout: float
    ) -> Deferred[list[T | MemcacheError]]:
        """Send many *operations*, likewise; it fails only if there was no connection for them."""
        if self.live is not None:
            return self.live.perform_all(operations, timeout)
        return self._when_live(timeout, lambda live, left: live.perform_all(operations, left))

    def _when_live(
        self, timeout: float, use: Callable[[MemcacheProtocol, float], Deferred[T]]
    ) -> Deferred[T]:
        self.wake()
        refusal = self._watcher.refusal()
        if refusal is not None:
            return fail(refusal)
        if self._closed:
            return fail(closed())
        if len(self._waiting) >= self._limits.max_pending:
            return fail(PendingLimit("max_pending", self._limits.max_pending))
        waiting = _Waiting(timeout, self._monotonic() + timeout)
        self._waiting.append(waiting)
        self._sweep_for(timeout)

        def ready(live: MemcacheProtocol) -> Deferred[T]:
            left = waiting.deadline - self._monotonic()
            if left <= 0:
                return fail(RequestTimeout(timeout, sent=False))
            return use(live, left)

        return waiting.done.addCallback(ready)

    def wake(self) -> None:
        """Try now instead of at the end of the back-off, or as soon as that is allowed again."""
        if isinstance(self._error, AuthenticationError):
            return  # another try would tell nothing new, and providers lock accounts
        within = self._may_wake_in()
        if self._retrying.hurry(within):
            self._woken = self._monotonic() + within

    def _may_wake_in(self) -> float:
        """Return after how many seconds the back-off may be cut short."""
        return max(self._woken + self._backoff.wake_every - self._monotonic(), 0)

    # What becomes of the connection

    def _ready(self, protocol: MemcacheProtocol) -> None:
        protocol.on_end = lambda error: self._ended(protocol, error)
        protocol.on_ready = lambda: self._admit(protocol)

    def _admit(self, protocol: MemcacheProtocol) -> None:
        self._error = None
        self.live = protocol
        self._since = self._monotonic()
        self._watcher.link_ready()
        while self._waiting and self.live is protocol:
            waiting = self._waiting.popleft()
            if not waiting.done.called:
                waiting.done.callback(protocol)

    def _ended(self, protocol: MemcacheProtocol, error: MemcacheError) -> None:
        if self.live is not protocol:
            return
        self.live = None
        if protocol.answered or self._monotonic() - self._since >= self._backoff.longest:
            self._tries = 0
            self._watcher.link_useful()
        if self._closed:
            return
        if isinstance(error, (ServerSilent, RemoteProtocolError)):
            self._error = error
            self._watcher.link_failed(error)
        else:
            self._watcher.link_lost(error)

    def _failed(self, reason: Failure) -> None:
        if self._closed:
            return
        error = reason.value
        if not isinstance(error, MemcacheError):
            # Its class only: what it says may hold what it got from a store of secrets.
            error = ConnectFailed(self._server, f"the attempt failed ({type(error).__name__})")
        self._error = error
        self._watcher.link_failed(error)

    def _delay(self, attempt: int) -> float:
        # *attempt* counts since the last connection; see the top of the module.
        if isinstance(self._error, AuthenticationError):
            return self._backoff.credentials
        tries, self._tries = self._tries, self._tries + 1
        if not tries:
            return 0
        grown = min(self._backoff.first * 2.0 ** min(tries - 1, 60), self._backoff.longest)
        pause = grown * (0.5 + self._jitter() / 2)
        within = self._may_wake_in()
        if self._waiting and within < pause:
            # They came while it was being dialled, when there was no back-off to be cut short.
            self._woken = self._monotonic() + within
            return within
        return pause

    # The end of waiting

    def dismiss(self, error: Callable[[], MemcacheError]) -> None:
        """Fail all who wait."""
        waiting, self._waiting = self._waiting, deque()
        for each in waiting:
            if not each.done.called:
                each.done.errback(error())

    def _sweep_for(self, timeout: float) -> None:
        # No reactor can wait for ever, as a timeout may.
        every = max(min(timeout, self._limits.timeout) / _SWEEPS, _SHORTEST_SWEEP)
        if self._sweeping is None:
            self._sweeping = self._clock.callLater(every, self._sweep)
        elif self._sweeping.getTime() > self._clock.seconds() + every:
            self._sweeping.reset(every)

    def _sweep(self) -> None:
        self._sweeping = None
        now = self._monotonic()
        late = [each for each in self._waiting if each.deadline <= now]
        self._waiting = deque(
            each for each in self._waiting if each.deadline > now and not each.done.called
        )
        for each in late:
            if not each.done.called:
                each.done.errback(RequestTimeout(each.timeout, sent=False))
        if self._waiting:
            self._sweep_for(min(each.timeout for each in self._waiting))

    def close(self, timeout: float) -> Deferred[None]:
        """
        Let what is pending finish for *timeout* seconds, then end the connection for good.

        Returns:
            A Deferred that fires when it is gone.
        """
        self._closed = True
        self.dismiss(closed)
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        if self.live is None:
            return self._stop()
        live = self.live
        late = self._clock.callLater(timeout, live.abort)

        def stop(result: None) -> Deferred[None]:
            if late.active():
                late.cancel()
            return self._stop()

        return live.close().addCallback(stop)

    def _stop(self) -> Deferred[None]:
        stopped: Deferred[None] = self._service.stopService()
        return stopped


def closed() -> ConnectionClosed:
    """Return the error for who comes after `Link.close`."""
    return ConnectionClosed("the client was closed", sent=False)


class _Waiting:
    """A call that waits for a connection."""

    __slots__ = ("deadline", "done", "timeout")

    def __init__(self, timeout: float, deadline: float) -> None:
        self.timeout, self.deadline = timeout, deadline
        # Cancelled, it stays in the queue until the next sweep, and nobody looks at it any more.
        self.done: Deferred[MemcacheProtocol] = Deferred()


@implementer(IStreamClientEndpoint)
class _Dialling:
    """The endpoint, as the service sees it: few handshakes at once, and failures are told."""

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        handshakes: DeferredSemaphore,
        failed: Callable[[Failure], None],
    ) -> None:
        self._endpoint, self._handshakes, self._failed = endpoint, handshakes, failed

    def connect(
        self,
        protocolFactory: IProtocolFactory,  # noqa: N803 - the interface's name for it
    ) -> Deferred[IProtocol]:
        connecting: Deferred[IProtocol] = self._handshakes.run(
            self._endpoint.connect, protocolFactory
        )
        return connecting.addErrback(self._told)

    def _told(self, reason: Failure) -> Failure:
        self._failed(reason)
        return reason


class _LinkFactory(Factory):
    """Builds the protocol of a link, and has the link know of it."""

    noisy = False

    def __init__(
        self,
        build: Callable[[IAddress | None], MemcacheProtocol],
        built: Callable[[MemcacheProtocol], None],
    ) -> None:
        self._build, self._built = build, built

    def buildProtocol(self, addr: IAddress | None) -> MemcacheProtocol:
        protocol = self._build(addr)
        self._built(protocol)
        return protocol


@implementer(IReactorTime)
class _RetryClock:
    """The reactor's time for a `ClientService`, whose one timer can be cut short."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._timer: IDelayedCall | None = None

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kwargs: object
    ) -> IDelayedCall:
        self._timer = self._clock.callLater(delay, callable, *args, **kwargs)
        return self._timer

    def seconds(self) -> float:
        return self._clock.seconds()

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        return self._clock.getDelayedCalls()

    def hurry(self, within: float) -> bool:
        """Let the timer run out *within* so many seconds; return whether that is sooner."""
        if self._timer is None or not self._timer.active():
            return False
        if self._timer.getTime() - self._clock.seconds() <= within:
            return False
        self._timer.reset(within)
        return True


@implementer(ILogObserver)
class _Unheard:
    def __call__(self, event: LogEvent) -> None:
        """Do nothing with it."""


class _QuietClientService(ClientService):
    # It logs each attempt, and an operator wants to read of changes only: the node tells of those.
    _log = Logger(observer=_Unheard())
