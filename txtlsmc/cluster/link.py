"""A link: one connection to a node, made anew whenever it is gone, and those who wait for it."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar
from typing import Protocol as Interface

from twisted.internet.defer import Deferred, DeferredSemaphore, fail
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IReactorTime,
    IStreamClientEndpoint,
)

from txtlsmc.cluster.redial import Redial, RedialWatcher
from txtlsmc.errors import (
    ConnectionClosed,
    MemcacheError,
    PendingLimit,
    RequestTimeout,
)
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.routing import Backoff
from txtlsmc.settings import Limits
from txtlsmc.wire.operations import Operation
from txtlsmc.wire.runs import Run, RunOutcomes

T = TypeVar("T")

#: How often those who wait are looked at within the shortest timeout, and at the most.
_SWEEPS: Final = 10
_SHORTEST_SWEEP: Final = 0.01


class LinkWatcher(RedialWatcher, Interface):
    """Whom a link tells, and asks."""

    def refusal(self) -> MemcacheError | None:
        """Return the error for who would wait for the link; None when waiting is worth it."""


class Link(Redial[MemcacheProtocol]):
    """One connection to a node, and those who wait for it."""

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
            watcher: the node.
            limits: the bounds of the connection.
            clock, endpoint, build, server, backoff, handshakes, jitter, monotonic: see `Redial`.
        """
        super().__init__(
            clock,
            endpoint,
            build,
            watcher,
            server=server,
            backoff=backoff,
            handshakes=handshakes,
            jitter=jitter,
            monotonic=monotonic,
        )
        self._node, self._limits = watcher, limits
        self._waiting: deque[_Waiting] = deque()
        self._sweeping: IDelayedCall | None = None

    # For callers

    def perform(self, operation: Operation[T], timeout: float) -> Deferred[T]:
        """
        Send *operation* once there is a connection; *timeout* covers the wait for it.

        Fails as `PipelinedProtocol.perform`, and with what the watcher's `refusal` says.
        """
        if self.live is not None:
            return self.live.perform(operation, timeout)
        return self._when_live(timeout, lambda live, left: live.perform(operation, left))

    def perform_run(self, run: Run[T], timeout: float) -> Deferred[RunOutcomes[T]]:
        """Send many requests, likewise; it fails only if there was no connection for them."""
        if self.live is not None:
            return self.live.perform_run(run, timeout)
        return self._when_live(timeout, lambda live, left: live.perform_run(run, left))

    def _when_live(
        self, timeout: float, use: Callable[[MemcacheProtocol, float], Deferred[T]]
    ) -> Deferred[T]:
        self.wake()
        refusal = self._node.refusal()
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

    # Those who wait

    def _admit(self, protocol: MemcacheProtocol) -> None:
        super()._admit(protocol)
        while self._waiting and self.live is protocol:
            waiting = self._waiting.popleft()
            if not waiting.done.called:
                waiting.done.callback(protocol)

    def _awaited(self) -> bool:
        return bool(self._waiting)

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
        """Dismiss all who wait, and close as `Redial.close` does."""
        self._closed = True
        self.dismiss(closed)
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        return super().close(timeout)


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
