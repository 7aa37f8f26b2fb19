"""
What serves one server in relay mode: bytes one to one, and any protocol.

Each local connection gets an upstream one of its own, dialled when it comes; nothing of it is read
before.  Where dialling fails it is reset at once, and not dialled for again: the next one is, so
that a server which is back is used at once.  There are never more attempts under way than local
connections are admitted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, ServerFactory
from twisted.python.failure import Failure

from txtlsmc.errors import ConnectFailed, MemcacheError, shown
from txtlsmc.net.secure import SecureEndpoint
from txtlsmc.settings import TLS, Credentials, InsecurePlaintext, Limits, Server
from txtlsmc.tunnel.hub import Hub
from txtlsmc.tunnel.pair import QUIET, Pair, Stage
from txtlsmc.tunnel.settings import TunnelSettings

#: Seconds between two looks at the pairs that are on their way out.
_LOOK_EVERY: Final = QUIET / 2
#: Those in which a pair may stay for as long as it likes, or for as long as it takes to dial.
_IN_USE: Final = (Stage.DIALLING, Stage.OPEN)
#: How often all pairs are looked at within the time that they may be idle.
_LOOKS: Final = 10

#: Makes what connects the bytes to a server: connected means that it is the right one.
Dialling = Callable[[IReactorTime, Server, TLS | InsecurePlaintext, Limits], IStreamClientEndpoint]


class Relay:
    """
    All pairs of one server.

    How a local connection ends: in good order when the server ended its own so; with a reset when
    that was cut, when it could not be made, and at a limit.  When the local side says no more, the
    server is told once nothing more comes: `QUIET` seconds after an answer, `Limits.timeout` where
    none came yet.  Then it has `Limits.timeout` to say more or to end.

    Attributes:
        factory: builds the local side of a connection.
        server: the server.
        counters: of the tunnel.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        server: Server,
        settings: TunnelSettings,
        hub: Hub,
        *,
        dialling: Dialling | None = None,
    ) -> None:
        """
        Args:
            reactor: what has the sockets and the time.
            server: where to.
            settings: of the tunnel.
            hub: what all listeners share.
            dialling: makes the endpoint; for tests.

        Raises:
            InvalidSetting: a file of the TLS settings can not be used.
        """
        self.factory = _Locals(self)
        self.server, self.counters = server, hub.counters
        self._reactor, self._hub = reactor, hub
        self._dialling = dialling or self._secure
        self._limits, self._patience = settings.limits, settings.client.limits
        self._endpoint = self._dialling(reactor, server, settings.client.tls, self._patience)
        self._pairs: set[Pair] = set()
        self._watched: set[Pair] = set()
        self._looking: IDelayedCall | None = None
        self._idling: IDelayedCall | None = None
        self._drained_at: float | None = None  # until when there is time for it
        self._waiting: list[Deferred[None]] = []

    def __repr__(self) -> str:
        return f"<Relay {self.server}>"

    def _secure(
        self, reactor: IReactorTime, server: Server, tls: TLS | InsecurePlaintext, limits: Limits
    ) -> SecureEndpoint:
        endpoint = SecureEndpoint(reactor, server, tls=tls, limits=limits, resume=True)
        endpoint.on_handshake = partial(self._hub.expiry.look, server)
        return endpoint

    def start(self) -> None:
        """Do nothing: who connects is dialled for."""

    def reload(
        self,
        server: Server,
        tls: TLS | InsecurePlaintext,
        credentials: Credentials | None = None,
    ) -> None:
        """
        Dial with new settings from now on; what is connected stays.

        Args:
            server: where to.
            tls: how to know that it is the server; no session is resumed that began before.
            credentials: not used: who logs in is the local client.

        Raises:
            InvalidSetting: a file of *tls* can not be used; the old settings stay.
        """
        self._endpoint = self._dialling(self._reactor, server, tls, self._patience)
        self.server = server

    def local_connections(self) -> int:
        """Return how many there are."""
        return len(self._pairs)

    def drain(self, seconds: float) -> Deferred[None]:
        """
        Admit nobody any more, and end each pair as soon as it is at rest.

        A pair that waits to be connected ends at once.  One is at rest when nothing moved for
        `QUIET` seconds and the server spoke last (or nobody ever did); it is then told the end,
        and what it still answers is carried.  After *seconds* the others are reset.

        Returns:
            A Deferred that fires when all are gone.
        """
        self._drained_at = self._hub.monotonic() + seconds
        for pair in list(self._pairs):
            if pair.stage in (Stage.GREETING, Stage.DIALLING) or seconds <= 0:
                self._give_up(pair)
            elif pair not in self._watched:
                self.watch(pair)
        if not self._pairs:
            return succeed(None)
        gone: Deferred[None] = Deferred()
        self._waiting.append(gone)
        return gone

    # What pairs tell

    def admit(self, pair: Pair, transport: object) -> bool:
        """Decide on a new local connection."""
        if self._drained_at is not None or self._hub.admission.admit(transport) is not None:
            return False
        self._pairs.add(pair)
        if self._limits.relay_idle_seconds and self._idling is None:
            self._look_at_all_later()
        return True

    def greeted(self, pair: Pair) -> None:
        """Dial for it."""
        endpoint = self._endpoint
        dialled = endpoint.connect(_One(pair.upstream))
        if pair.stage is Stage.DIALLING:
            pair.stop_dialling = dialled.cancel
        dialled.addCallbacks(
            self._dialled, self._not_dialled, callbackArgs=(endpoint,), errbackArgs=(pair,)
        )

    def _dialled(self, upstream: IProtocol, endpoint: IStreamClientEndpoint) -> None:
        self.counters.upstream_ready += 1
        # Of the latest connection, which is this one: it tells as soon as there is one.
        if isinstance(endpoint, SecureEndpoint) and endpoint.resumed:
            self.counters.sessions_resumed += 1
        self._hub.journal.ready(self.server)

    def _not_dialled(self, reason: Failure, pair: Pair) -> Failure | None:
        if pair.stage is not Stage.DIALLING:
            return None if pair.stage in (Stage.ABORTED, Stage.GONE) else reason
        error = reason.value
        if not isinstance(error, MemcacheError):
            why = f"the attempt failed ({type(error).__name__}: {shown(str(error))})"
            error = ConnectFailed(self.server.name, why)
        self.counters.upstream_failed += 1
        self.counters.refused_down += 1
        self._hub.journal.lost(self.server, error)
        pair.abort()
        return None

    def cut(self, reason: Failure) -> None:
        """Tell of it."""
        self.counters.upstream_lost += 1
        self.counters.closed_upstream_lost += 1
        why = f"it cut a connection in use: {reason.getErrorMessage()}"
        self._hub.journal.lost(self.server, why)

    def ended(self, pair: Pair) -> None:
        """Forget it."""
        self._pairs.discard(pair)
        self._watched.discard(pair)
        self._hub.admission.release()
        if self._pairs:
            return
        for each in (self._looking, self._idling):
            if each is not None:
                each.cancel()
        self._looking = self._idling = None
        waiting, self._waiting = self._waiting, []
        for gone in waiting:
            gone.callback(None)

    def watch(self, pair: Pair) -> None:
        """Look at its silence, which begins now."""
        pair.moved, pair.since = False, self._hub.monotonic()
        self._watched.add(pair)
        if self._looking is None:
            self._looking = self._reactor.callLater(_LOOK_EVERY, self._look)

    # What time does

    def _look(self) -> None:
        self._looking = None
        now = self._hub.monotonic()
        late = self._drained_at is not None and now >= self._drained_at
        for pair in list(self._watched):
            if late:
                self._give_up(pair)
            elif pair.moved:
                pair.moved, pair.since = False, now
            else:
                self._look_at(pair, now - pair.since)
        if self._watched and self._looking is None:
            self._looking = self._reactor.callLater(_LOOK_EVERY, self._look)

    def _look_at(self, pair: Pair, silent: float) -> None:
        stage, timeout = pair.stage, self._patience.timeout
        if stage is Stage.ABORTED or (stage in _IN_USE and self._drained_at is None):
            self._watched.discard(pair)
        elif stage is Stage.EMPTYING or pair.full:
            if silent >= self._limits.stall_seconds:
                self.counters.closed_stalled += 1
                pair.abort()
        elif stage is Stage.GREETING:
            if silent >= self._limits.request_seconds:
                self.counters.closed_request_seconds += 1
                pair.abort()
        elif stage is Stage.FINISHING:
            if silent >= (timeout if pair.asked else QUIET):
                pair.tell()
        elif stage in (Stage.TOLD, Stage.LEAVING):
            if silent >= timeout:
                pair.abort()
        elif stage is Stage.OPEN and silent >= QUIET and not pair.asked:
            pair.local_finished()
            pair.tell()

    def _give_up(self, pair: Pair) -> None:
        if pair.stage is not Stage.ABORTED:
            self.counters.closed_drain += 1
            pair.abort()

    def _look_at_all_later(self) -> None:
        every = max(self._limits.relay_idle_seconds / _LOOKS, _LOOK_EVERY)
        self._idling = self._reactor.callLater(every, self._look_at_all)

    def _look_at_all(self) -> None:
        self._idling = None
        now = self._hub.monotonic()
        for pair in self._pairs - self._watched:
            if pair.moved or pair.stage is not Stage.OPEN:
                pair.moved, pair.since = False, now
            elif now - pair.since >= self._limits.relay_idle_seconds:
                self.counters.closed_idle += 1
                pair.drop()
        if self._pairs and self._idling is None:
            self._look_at_all_later()


class _Locals(ServerFactory):
    """Builds the local side of each pair."""

    noisy = False

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return Pair(self._relay).local


class _One(Factory):
    """Has one protocol to give."""

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self._protocol
