"""
Gateway mode: many local connections share a few connections to one server.

A local connection is bound to one upstream connection, so its answers come in the order of its
requests.  While that one is made for the first time, or anew after it ended without a fault, its
local connections wait.  Once an attempt has failed the server counts as down: those who want
something are closed at once, as by a dead server, and each new one has it dialled again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory

from txtlsmc.cluster.redial import Redial
from txtlsmc.errors import MemcacheError
from txtlsmc.net.endpoints import ReadyEndpoint
from txtlsmc.settings import TLS, Credentials, InsecurePlaintext, Server
from txtlsmc.tunnel.hub import Hub
from txtlsmc.tunnel.local import LocalConnection
from txtlsmc.tunnel.login import Login
from txtlsmc.tunnel.settings import TunnelSettings
from txtlsmc.tunnel.upstream import Local, UpstreamConnection
from txtlsmc.wire.conversation import Conversation

#: Seconds between two looks at all local connections, or a tenth of the shortest of their limits.
_LONGEST_SWEEP = 1.0
_SWEEPS = 10


class Gateway:
    """
    What serves one server in gateway mode.

    Attributes:
        server: the server.
        factory: builds the local connections.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        server: Server,
        settings: TunnelSettings,
        hub: Hub,
        *,
        endpoint: Callable[[], IStreamClientEndpoint] | None = None,
    ) -> None:
        """
        Args:
            reactor: what has the sockets and the time.
            server: the server.
            settings: those of the tunnel.
            hub: what all listeners share.
            endpoint: makes what connects to the server; for tests.
        """
        self.server = server
        self.factory = _LocalFactory(self._local)
        self._reactor, self._settings, self._hub = reactor, settings, hub
        self._tls: TLS | InsecurePlaintext = settings.client.tls
        self._credentials = settings.client.credentials
        self._make_endpoint = endpoint or self._endpoint
        handshakes = DeferredSemaphore(settings.client.routing.handshakes)
        dial = self._make_endpoint()
        self._upstreams = [
            Upstream(reactor, server, settings, hub, dial, handshakes)
            for _ in range(settings.upstream_connections)
        ]
        self._sweeping: IDelayedCall | None = None
        self._swept = 0.0
        self._draining = False

    def _endpoint(self) -> IStreamClientEndpoint:
        endpoint = ReadyEndpoint(
            self._reactor,
            self.server,
            tls=self._tls,
            credentials=self._credentials,
            limits=self._settings.client.limits,
        )
        endpoint.on_handshake = partial(self._hub.expiry.look, self.server)
        return endpoint

    @property
    def ready(self) -> int:
        """How many upstream connections there are now."""
        return sum(upstream.live is not None for upstream in self._upstreams)

    def local_connections(self) -> int:
        """Return how many there are."""
        return sum(len(upstream.locals) for upstream in self._upstreams)

    def start(self) -> None:
        """Begin to connect."""
        for upstream in self._upstreams:
            upstream.start()
        self._swept = self._hub.monotonic()
        self._sweep_soon()

    def reload(
        self, server: Server, tls: TLS | InsecurePlaintext, credentials: Credentials | None
    ) -> None:
        """
        Use other settings from the next attempt on; what is connected stays so.

        Raises:
            InvalidSetting: they can not be used; nothing has changed.
        """
        before = self.server, self._tls, self._credentials
        self.server, self._tls, self._credentials = server, tls, credentials
        try:
            dial = self._make_endpoint()
        except MemcacheError:
            self.server, self._tls, self._credentials = before
            raise
        for upstream in self._upstreams:
            upstream.dial_by(dial)

    def _local(self) -> LocalConnection | None:
        if self._draining:
            return None  # it came with the last ones, and is closed
        upstream = min(self._upstreams, key=lambda each: (each.down, len(each.locals)))
        return LocalConnection(
            upstream,
            self._hub,
            self._settings.limits,
            Login(lambda: self._credentials),
            locked=self._settings.local_auth == "required",
        )

    # The coarse clock of all local connections

    def _sweep_soon(self) -> None:
        limits = self._settings.limits
        bounds = (limits.stall_seconds, limits.request_seconds, limits.idle_seconds)
        shortest = min(bound for bound in bounds if bound)
        every = min(shortest / _SWEEPS, _LONGEST_SWEEP)
        self._sweeping = self._reactor.callLater(every, self._sweep)

    def _sweep(self) -> None:
        now = self._hub.monotonic()
        seconds, self._swept = now - self._swept, now
        for upstream in self._upstreams:
            for local in list(upstream.locals):
                local.sweep(seconds)
        self._sweep_soon()

    # The end

    def drain(self, seconds: float) -> Deferred[None]:
        """
        Let requests in flight be answered, then close everything.

        Args:
            seconds: the most that it may take.

        Returns:
            A Deferred that fires when all connections are gone.
        """
        self._draining = True
        late = self._reactor.callLater(seconds, self._abort)
        locals_gone = gatherResults([upstream.drain() for upstream in self._upstreams])

        def close(result: object) -> Deferred[list[None]]:
            left = max(late.getTime() - self._reactor.seconds(), 0) if late.active() else 0
            return gatherResults([upstream.close(left) for upstream in self._upstreams])

        def stop(result: object) -> None:
            for timer in (late, self._sweeping):
                if timer is not None and timer.active():
                    timer.cancel()

        return locals_gone.addCallback(close).addCallback(stop)

    def _abort(self) -> None:
        for upstream in self._upstreams:
            self._hub.counters.closed_drain += len(upstream.locals)
            for local in list(upstream.locals):
                local.abort()


class Upstream:
    """
    One of the connections to the server, and the local ones bound to it.

    Attributes:
        locals: these.
        down: whether the last attempt has failed.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        server: Server,
        settings: TunnelSettings,
        hub: Hub,
        endpoint: IStreamClientEndpoint,
        handshakes: DeferredSemaphore,
    ) -> None:
        self.locals: dict[LocalConnection, None] = {}
        self.down = False
        self._reactor, self._server, self._settings, self._hub = reactor, server, settings, hub
        self._was_ready = False  # whether the attempt that ends now had been successful
        self._gone: Deferred[None] | None = None
        self._redial = _AwaitedRedial(
            reactor,
            endpoint,
            self._build,
            self,
            server=server.name,
            backoff=settings.client.routing.backoff,
            handshakes=handshakes,
            monotonic=hub.monotonic,
        )
        self._redial.awaited = self._awaited

    def _awaited(self) -> bool:
        return any(local.conversation.more for local in self.locals)

    def _build(self, address: IAddress | None) -> UpstreamConnection:
        settings = self._settings
        return UpstreamConnection(
            self._reactor,
            self._hub,
            settings.client.limits,
            settings.limits,
        )

    @property
    def live(self) -> UpstreamConnection | None:
        """The connection, while there is one."""
        return self._redial.live

    def start(self) -> None:
        """Begin to connect."""
        self._redial.start()

    def dial_by(self, endpoint: IStreamClientEndpoint) -> None:
        """Connect by *endpoint* from the next attempt on."""
        self._redial.dial_by(endpoint)

    # LocalUpstream

    def bind(self, local: LocalConnection) -> None:
        """Count it in."""
        self.locals[local] = None

    def release(self, local: LocalConnection) -> None:
        """Count it out."""
        self.locals.pop(local, None)
        if self._gone is not None and not self.locals:
            gone, self._gone = self._gone, None
            gone.callback(None)

    def ask(self, conversation: Conversation[Local]) -> None:
        """Serve it, now or when there is a connection; or refuse it."""
        live = self._redial.live
        if live is not None:
            live.ask(conversation)
        else:
            if self.down:
                conversation.owner.refused()
            self._redial.wake()

    def wake(self) -> None:
        """Dial now, if that is allowed."""
        self._redial.wake()

    def login_refused(self) -> None:
        """Tell that a client gave the wrong credentials."""
        self._hub.journal.login_refused(self._server)

    # RedialWatcher

    def link_ready(self) -> None:
        """Serve those who wait."""
        self.down, self._was_ready = False, True
        self._hub.counters.upstream_ready += 1
        self._hub.journal.ready(self._server)
        live = self._redial.live
        assert live is not None
        for local in list(self.locals):
            if local.conversation.more:
                live.ask(local.conversation)

    def link_failed(self, error: MemcacheError) -> None:
        """Refuse those who wait."""
        self.down = True
        if self._was_ready:
            self._hub.counters.upstream_lost += 1
        else:
            self._hub.counters.upstream_failed += 1
        self._was_ready = False
        self._hub.journal.lost(self._server, error)
        for local in list(self.locals):
            if local.conversation.more:
                local.refused()

    def link_lost(self, error: MemcacheError) -> None:
        """Keep in the log why, in case it does not come back."""
        self._was_ready = False
        self._hub.counters.upstream_lost += 1
        self._hub.journal.lost(self._server, error)

    def link_useful(self) -> None:
        """Do nothing: how often it failed is not counted."""

    # The end

    def drain(self) -> Deferred[None]:
        """End the local connections as they are answered; fires when all are gone."""
        done: Deferred[None] = Deferred()
        if not self.locals:
            done.callback(None)
            return done
        self._gone = done
        for local in list(self.locals):
            local.drain()
        return done

    def close(self, seconds: float) -> Deferred[None]:
        """End the connection; fires when it is gone."""
        return self._redial.close(seconds)


class _AwaitedRedial(Redial[UpstreamConnection]):
    """
    Makes the connection anew.

    Attributes:
        awaited: tells whether anybody waits for it.
    """

    awaited: Callable[[], bool]

    def _awaited(self) -> bool:
        return self.awaited()


class _LocalFactory(Factory):
    """Builds local connections."""

    noisy = False

    def __init__(self, make: Callable[[], LocalConnection | None]) -> None:
        self._make = make

    def buildProtocol(self, addr: IAddress | None) -> LocalConnection | None:
        return self._make()
