"""
Redial: one connection to a server, made anew whenever it is gone.

Twisted's `ClientService` reconnects.  This adds a back-off that somebody who waits can cut short,
and that counts the attempts since a connection last proved useful, not since one was last made: a
server that accepts and drops would otherwise be dialled without a pause.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar
from typing import Protocol as Interface

from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred, DeferredSemaphore
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
    MemcacheError,
    RemoteProtocolError,
    ServerSilent,
)
from txtlsmc.net.kept import KeptProtocol
from txtlsmc.routing import Backoff

P = TypeVar("P", bound=KeptProtocol)


class RedialWatcher(Interface):
    """Whom a redialled connection tells."""

    def link_ready(self) -> None:
        """There is a connection."""

    def link_failed(self, error: MemcacheError) -> None:
        """There is none to be had, or the one there was broke by the server's fault."""

    def link_lost(self, error: MemcacheError) -> None:
        """The connection ended and nobody is to blame."""

    def link_useful(self) -> None:
        """The connection that has ended had answered somebody."""


class Redial(Generic[P]):
    """
    One connection to a server.

    Attributes:
        live: the connection that is ready, or None.
        error: why there was none when it was last tried; None while there is one.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        build: Callable[[IAddress | None], P],
        watcher: RedialWatcher,
        *,
        server: str,
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
            watcher: is told what happens.
            server: its name.
            backoff: how long to wait between attempts.
            handshakes: bounds how many connections are being made at once.
            jitter: a random number from 0 to 1.
            monotonic: seconds that never jump.
        """
        self.live: P | None = None
        self.error: MemcacheError | None = None
        self._clock, self._monotonic = clock, monotonic
        self._watcher, self._server = watcher, server
        self._backoff, self._jitter = backoff, jitter
        self._retrying = _RetryClock(clock)
        self._dialling = _Dialling(endpoint, handshakes, self._failed)
        self._service = _QuietClientService(
            self._dialling,
            _RedialFactory(build, self._built),
            retryPolicy=self._delay,
            clock=self._retrying,
        )
        self._tries = 1  # the first, which is made at once
        self._since = 0.0
        self._woken = float("-inf")
        self._closed = False

    def start(self) -> None:
        """Begin to connect."""
        self._service.startService()

    def dial_by(self, endpoint: IStreamClientEndpoint) -> None:
        """
        Use *endpoint* from the next attempt on; the connection that lives is not touched.

        Where the credentials were refused, that attempt is made now: there may be others.
        """
        self._dialling.endpoint = endpoint
        if isinstance(self.error, AuthenticationError):
            self.error = None
            self._retrying.hurry(0)

    def wake(self) -> None:
        """Try now instead of at the end of the back-off, or as soon as that is allowed again."""
        if isinstance(self.error, AuthenticationError):
            return  # another try would tell nothing new, and providers lock accounts
        within = self._may_wake_in()
        if self._retrying.hurry(within):
            self._woken = self._monotonic() + within

    def _may_wake_in(self) -> float:
        """Return after how many seconds the back-off may be cut short."""
        return max(self._woken + self._backoff.wake_every - self._monotonic(), 0)

    def _built(self, protocol: P) -> None:
        protocol.on_end = lambda error: self._ended(protocol, error)
        protocol.on_ready = lambda: self._admit(protocol)

    def _admit(self, protocol: P) -> None:
        self.error = None
        self.live = protocol
        self._since = self._monotonic()
        self._watcher.link_ready()

    def _ended(self, protocol: P, error: MemcacheError) -> None:
        if self.live is not protocol:
            return
        self.live = None
        if protocol.answered or self._monotonic() - self._since >= self._backoff.longest:
            self._tries = 0
            self._watcher.link_useful()
        if self._closed:
            return
        if isinstance(error, (ServerSilent, RemoteProtocolError)):
            self.error = error
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
        self.error = error
        self._watcher.link_failed(error)

    def _delay(self, attempt: int) -> float:
        # *attempt* counts since the last connection; see the top of the module.
        refused = isinstance(self.error, AuthenticationError)
        if refused and self._dialling.tried is self._dialling.endpoint:
            return self._backoff.credentials
        tries, self._tries = self._tries, self._tries + 1
        if not tries:
            return 0
        grown = min(self._backoff.first * 2.0 ** min(tries - 1, 60), self._backoff.longest)
        pause = grown * (0.5 + self._jitter() / 2)
        within = self._may_wake_in()
        if self._awaited() and within < pause:
            # They came while it was being dialled, when there was no back-off to be cut short.
            self._woken = self._monotonic() + within
            return within
        return pause

    def _awaited(self) -> bool:
        """Whether anybody waits for a connection."""
        return False

    def close(self, timeout: float) -> Deferred[None]:
        """
        Let what is pending finish for *timeout* seconds, then end the connection for good.

        Returns:
            A Deferred that fires when it is gone.
        """
        self._closed = True
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


@implementer(IStreamClientEndpoint)
class _Dialling:
    """The endpoint, as the service sees it: few handshakes at once, and failures are told."""

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        handshakes: DeferredSemaphore,
        failed: Callable[[Failure], None],
    ) -> None:
        self.endpoint = endpoint
        self.tried: IStreamClientEndpoint | None = None  # the latest; there may be another since
        self._handshakes, self._failed = handshakes, failed

    def connect(
        self,
        protocolFactory: IProtocolFactory,  # noqa: N803 - the interface's name for it
    ) -> Deferred[IProtocol]:
        self.tried = self.endpoint
        connecting: Deferred[IProtocol] = self._handshakes.run(
            self.endpoint.connect, protocolFactory
        )
        return connecting.addErrback(self._told)

    def _told(self, reason: Failure) -> Failure:
        self._failed(reason)
        return reason


class _RedialFactory(Factory, Generic[P]):
    """Builds the protocol of a connection, and tells of it."""

    noisy = False

    def __init__(
        self,
        build: Callable[[IAddress | None], P],
        built: Callable[[P], None],
    ) -> None:
        self._build, self._built = build, built

    def buildProtocol(self, addr: IAddress | None) -> P:
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
