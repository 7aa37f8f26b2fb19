"""
One connection on its way to being ready, and who speaks on it until it is.

    dial ──▶ TCP ──▶ TLS, verified ──▶ SASL or NOOP ──▶ buildProtocol ──▶ the Deferred fires
      └────────┴────────────┴─────────────────┴──▶ one ConnectFailed, the connection is gone

Without a handshake of memcached's, a connection is ready as soon as the one of TLS is complete.
"""

from __future__ import annotations

from collections.abc import Callable

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from txtlsmc.errors import ConnectFailed, ConnectTimedOut, MemcacheError, TLSFailed, shown
from txtlsmc.net.dialling import dial_error
from txtlsmc.net.tls import TLSAttempt, handshake_error
from txtlsmc.net.tls_layer import TLSEndpoint
from txtlsmc.settings import Limits, Server
from txtlsmc.wire.handshake import Handshake


class Attempt:
    """
    One connection on its way to being ready.

    Attributes:
        server: where to.
        tls: its TLS; None: without.
        handshake: what to say and to be told before it is ready; None: nothing.
    """

    def __init__(
        self,
        server: Server,
        factory: IProtocolFactory,
        limits: Limits,
        *,
        tls: TLSAttempt | None,
        handshake: Handshake | None = None,
        on_verified: Callable[[TLSAttempt], object] = lambda tls: None,
    ) -> None:
        """
        Args:
            server: where to.
            factory: builds the protocol, once it is ready.
            limits: the time it may take.
            tls: its TLS.
            handshake: what to say and to be told before.
            on_verified: called when the TLS handshake is complete.
        """
        self.server, self.tls, self.handshake = server, tls, handshake
        self._on_verified = on_verified
        self._factory = factory
        self._timeout = limits.connect_timeout
        self._stage = "no connection"  # what is missing, for the timeout
        self._timer: IDelayedCall | None = None
        self._dialing: Deferred[IProtocol] | None = None
        self._greeter: _Greeter | None = None
        self._done: Deferred[IProtocol] = Deferred(self._cancelled)
        self._over = False

    def start(self, reactor: IReactorTime, dial: IStreamClientEndpoint) -> Deferred[IProtocol]:
        """
        Connect *dial*, and put TLS over it.

        Returns:
            A Deferred that fires with the protocol.  Cancelling it ends the attempt.

        Fails:
            ConnectFailed: by one of its kinds, which says why.
            RemoteProtocolError: whoever answers is no memcached.
        """
        if self.tls is not None:
            dial = TLSEndpoint(self.tls, dial, reactor)
        self._timer = reactor.callLater(self._timeout, self._timed_out)
        self._dialing = dial.connect(_GreeterFactory(_Greeter(self)))
        self._dialing.addErrback(self._not_dialled)
        return self._done

    # What happens, each at most once.

    def connected(self, greeter: _Greeter) -> None:
        """There are bytes to be had."""
        if self._over:  # whoever dials did not listen when it was cancelled
            greeter.abort()
            return
        self._greeter = greeter
        self._stage = "the TLS handshake is not finished" if self.tls else "no answer"

    def greeted(self) -> bool:
        """Return whether it is time for the first words."""
        if self._over:
            return False
        if self.tls is not None:
            self.tls.handshake_completed()
            if self.tls.peer is None:
                # Nobody gets here without a verified certificate; else, nothing is said.
                self.failed(TLSFailed(self.server.name, "its certificate was not looked at"))
                return False
            self._on_verified(self.tls)
            if self._over:  # ended by whoever was told
                return False
        self._stage = "no answer"
        return True

    def ready(self) -> None:
        """Hand the connection over."""
        greeter = self._greeter
        assert greeter is not None and greeter.transport is not None
        if self._over:  # the answer was on its way when the attempt ended
            return
        self._settle(keep=True)
        try:
            protocol = self._factory.buildProtocol(greeter.transport.getPeer())
            if self._done.called:  # cancelled by whoever built it
                return
            if protocol is None:
                raise ConnectFailed(self.server.name, "the factory built no protocol")
            greeter.hand_over(protocol)
        except Exception:  # the application's own: whoever waits hears of it, whatever it is
            greeter.abort()
            if not self._done.called:
                self._done.errback()
            return
        if not self._done.called:
            self._done.callback(protocol)

    def failed(self, error: MemcacheError) -> None:
        """Give up."""
        if self._over:
            return
        self._settle()
        self._done.errback(error)

    def lost(self, reason: Failure) -> None:
        """The connection ended."""
        if self.tls is not None:
            self.failed(handshake_error(self.server.name, reason, self.tls))
        else:
            why = shown(reason.getErrorMessage())
            self.failed(
                ConnectFailed(self.server.name, f"closed the connection before it was ready: {why}")
            )

    def _timed_out(self) -> None:
        self.failed(
            ConnectTimedOut(
                self.server.name, f"not ready within {self._timeout:g} s: {self._stage}"
            )
        )

    def _cancelled(self, done: Deferred[IProtocol]) -> None:
        self._settle()

    def _settle(self, *, keep: bool = False) -> None:
        """The outcome is known: stop the clock, and the connection unless it is to be kept."""
        self._over = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._greeter is None:
            if self._dialing is not None:
                self._dialing.cancel()
        elif not keep:
            self._greeter.abort()

    def _not_dialled(self, reason: Failure) -> None:
        if not self._over:
            self.failed(dial_error(self.server, reason))


@implementer(IHandshakeListener)
class _Greeter(Protocol):
    """Speaks for the application's protocol until the connection is ready, then steps aside."""

    _lost = False

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def connectionMade(self) -> None:
        assert self.transport is not None
        # Asked for by name: TLS claims to be TCP also where it runs over a Unix socket.
        for option in ("setTcpNoDelay", "setTcpKeepAlive"):
            switch = getattr(self.transport, option, None)
            if switch is not None:
                switch(True)
        self._attempt.connected(self)
        if self._attempt.tls is None:
            self._greet()

    def handshakeCompleted(self) -> None:
        self._greet()

    def _greet(self) -> None:
        assert self.transport is not None
        if self._attempt.greeted():
            if self._attempt.handshake is None:
                self._attempt.ready()
            else:
                self.transport.write(self._attempt.handshake.start())

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        handshake = self._attempt.handshake
        if handshake is None:  # what comes behind the end of an attempt
            return
        try:
            self.transport.write(handshake.receive(data))
        except MemcacheError as error:
            # Without its frames: they hold what the server said, which may repeat the password.
            self._attempt.failed(error.with_traceback(None))
        else:
            if handshake.ready:
                self._attempt.ready()

    def hand_over(self, protocol: IProtocol) -> None:
        # Bound to this object and not to the transport, which over TLS is a wrapper that keeps
        # its own reference to us: so nothing stands between the two from now on.
        self.dataReceived = protocol.dataReceived  # type: ignore[method-assign]  # see above
        self.connectionLost = protocol.connectionLost  # type: ignore[method-assign, assignment]  # see
        tls = self._attempt.tls
        if tls is not None and tls.client.resumption is not None:
            self._keep_session(tls, protocol)
        assert self.transport is not None
        protocol.makeConnection(self.transport)

    def _keep_session(self, tls: TLSAttempt, protocol: IProtocol) -> None:
        assert self.transport is not None
        connection: SSL.Connection = self.transport.getHandle()  # type: ignore[attr-defined]  # TLS's

        def first_data(data: bytes) -> None:
            self.dataReceived = protocol.dataReceived  # type: ignore[method-assign]  # see above
            tls.keep_session(connection)  # what a server of TLS 1.3 gives, comes before its words
            protocol.dataReceived(data)

        self.dataReceived = first_data  # type: ignore[method-assign]  # see above
        tls.keep_session(connection)  # TLS 1.2 has it all by now

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        self._attempt.lost(reason)

    def abort(self) -> None:
        if not self._lost:
            assert self.transport is not None
            self.transport.abortConnection()  # type: ignore[attr-defined]  # all streams have it


class _GreeterFactory(Factory):
    """
    Has one greeter to give.

    In the place of `twisted.internet.endpoints.connectProtocol`, which makes a class for every
    call: over TLS zope.interface remembers each, and with it the connection, for ever.
    """

    noisy = False

    def __init__(self, greeter: _Greeter) -> None:
        self._greeter = greeter

    def buildProtocol(self, addr: IAddress | None) -> _Greeter:
        return self._greeter
