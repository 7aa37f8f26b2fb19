"""
The one place that may say "connected".

The endpoint that `twisted.internet.endpoints.wrapClientTLS` makes fires before the TLS handshake,
so whoever reconnects behind it takes an untrusted certificate for a success and never backs off.
`ReadyEndpoint` keeps the connection to itself until it is *ready*: TCP, TLS, the certificate, and
one answer of the server, AUTH's or NOOP's.  (The answer matters without credentials too: under TLS
1.3 a server refuses our certificate only after our side's handshake is complete.)  Only then is the
application's protocol built.  All else is a failure, and its class says of what.

    dial ──▶ TCP ──▶ TLS, verified ──▶ SASL or NOOP ──▶ buildProtocol ──▶ the Deferred fires
      └────────┴────────────┴─────────────────┴──▶ one ConnectFailed, the connection is gone
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferTimeoutError
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.error import (
    ConnectError,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
    TCPTimedOutError,
    TimeoutError,
    UnknownHostError,
)
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

from txtlsmc.errors import (
    ConnectFailed,
    ConnectRefused,
    ConnectTimedOut,
    InsecurePassword,
    MemcacheError,
    NameNotFound,
    TLSFailed,
    shown,
)
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.net.tls import ClientTLS, TLSAttempt, handshake_error
from txtlsmc.net.tls_layer import TLSEndpoint
from txtlsmc.settings import (
    TLS,
    Credentials,
    InsecurePlaintext,
    Limits,
    Server,
    is_ip_address,
)
from txtlsmc.wire.handshake import Handshake

#: Seconds until the next address of a name is tried; also how late the refusal of the last is told.
_NEXT_ADDRESS: Final = 0.05

#: Who we are: known, or asked for at every connection.
CredentialsSource = Credentials | Callable[[], Credentials | Deferred[Credentials] | None] | None


def check_password_rule(
    server: Server, tls: TLS | InsecurePlaintext, credentials: Credentials | None
) -> None:
    """
    Raise `InsecurePassword` if *credentials* could be read or stolen on the way.

    Whatever the mechanism: a proof is as good as the password to whoever relays it.
    """
    if credentials is None or credentials.insecure_password:
        return
    if isinstance(tls, InsecurePlaintext):
        way = "without TLS"
    elif tls.insecure_no_verify:
        way = "over TLS that verifies nobody"
    else:
        return
    raise InsecurePassword(
        f"{server}: a password {way} can be stolen on the way; use verified TLS, or write"
        " insecure_password if that is what you want"
    )


@implementer(IStreamClientEndpoint)
class ReadyEndpoint:
    """
    Connects a protocol to a server once the connection is ready.

    It can be connected many times, as `twisted.application.internet.ClientService` does; names are
    resolved anew each time.  Files are read once, when it is made.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        server: Server,
        *,
        tls: TLS | InsecurePlaintext,
        credentials: CredentialsSource = None,
        limits: Limits | None = None,
        nonce: Callable[[], str] = secrets.token_urlsafe,
        dial: IStreamClientEndpoint | None = None,
    ) -> None:
        """
        Args:
            reactor: what has the sockets and the time.
            server: where to, and who it has to be.
            tls: how to know that it is the server.
            credentials: who we are, or what returns that (a Deferred too) and is asked at every
                connection; None: the server is to be used without.
            limits: `Limits.connect_timeout` bounds it all, and the wait for credentials likewise.
            nonce: makes a random string for SCRAM; for tests.
            dial: connects the bytes instead of the server's address; for tests.

        Raises:
            InsecurePassword: the credentials could be stolen on the way.
            InvalidSetting: a file of *tls*, or the credentials, can not be used.
        """
        self.server = server  # first: whoever shows the traceback of an error below shows this too
        if not callable(credentials):
            check_password_rule(server, tls, credentials)
            Handshake(server.name, credentials, nonce())  # what is wrong with them is told here
        self._reactor = reactor
        self._credentials = credentials
        self._limits = Limits() if limits is None else limits
        self._nonce = nonce
        self._dial = self._address() if dial is None else dial
        self._settings = tls
        self._tls = None if isinstance(tls, InsecurePlaintext) else ClientTLS(server, tls)

    def __repr__(self) -> str:
        return f"<ReadyEndpoint {self.server}>"

    def _address(self) -> IStreamClientEndpoint:
        address, timeout = self.server.address, self._limits.connect_timeout
        if address.path:
            return UNIXClientEndpoint(self._reactor, address.path, timeout=timeout)
        if is_ip_address(address.host):
            # The endpoint for names tells of a refusal only after its pause for further addresses.
            kind = TCP6ClientEndpoint if ":" in address.host else TCP4ClientEndpoint
            return kind(self._reactor, address.host, address.port, timeout=timeout)
        return HostnameEndpoint(
            self._reactor,
            address.host,
            address.port,
            timeout=timeout,
            attemptDelay=_NEXT_ADDRESS,
        )

    def connect(
        self,
        protocolFactory: IProtocolFactory,  # noqa: N803 - the interface's name for it
    ) -> Deferred[IProtocol]:
        """
        Connect, and build a protocol with *protocolFactory* once the connection is ready.

        Returns:
            A Deferred that fires with that protocol.  Cancelling it ends the attempt.

        Fails:
            ConnectFailed: by one of its kinds, which says why.
            RemoteProtocolError: whoever answers is no memcached.
        """
        source = self._credentials
        if not callable(source):
            return self._attempt(source, protocolFactory)
        # Its type says either a Deferred or not, and ours may do the one or the other.
        asked: Deferred[Credentials | None] = maybeDeferred(source)  # type: ignore[call-overload]  # see
        asked.addTimeout(self._limits.connect_timeout, self._reactor)
        asked.addErrback(self._no_credentials)
        return asked.addCallback(self._rotated, protocolFactory)

    def _no_credentials(self, reason: Failure) -> Failure:
        if reason.check(CancelledError):
            return reason
        if reason.check(DeferTimeoutError):
            why = f"the credentials did not come within {self._limits.connect_timeout:g} s"
            return Failure(ConnectTimedOut(self.server.name, why))
        # Its class only: what a store of secrets says may hold one.
        why = f"the credentials could not be had ({type(reason.value).__name__})"
        return Failure(ConnectFailed(self.server.name, why))

    def _rotated(
        self, credentials: Credentials | None, factory: IProtocolFactory
    ) -> Deferred[IProtocol]:
        check_password_rule(self.server, self._settings, credentials)
        return self._attempt(credentials, factory)

    def _attempt(
        self, credentials: Credentials | None, factory: IProtocolFactory
    ) -> Deferred[IProtocol]:
        handshake = Handshake(self.server.name, credentials, self._nonce())
        attempt = _Attempt(self.server, handshake, factory, self._limits)
        dial = self._dial
        if self._tls is not None:
            attempt.tls = self._tls.attempt()
            dial = TLSEndpoint(attempt.tls, dial, self._reactor)
        return attempt.start(self._reactor, dial)


class _Attempt:
    """One connection on its way to being ready."""

    tls: TLSAttempt | None = None

    def __init__(
        self, server: Server, handshake: Handshake, factory: IProtocolFactory, limits: Limits
    ) -> None:
        self.server, self.handshake = server, handshake
        self._factory = factory
        self._timeout = limits.connect_timeout
        self._stage = "no connection"  # what is missing, for the timeout
        self._timer: IDelayedCall | None = None
        self._dialing: Deferred[IProtocol] | None = None
        self._greeter: _Greeter | None = None
        self._done: Deferred[IProtocol] = Deferred(self._cancelled)
        self._over = False

    def start(self, reactor: IReactorTime, dial: IStreamClientEndpoint) -> Deferred[IProtocol]:
        self._timer = reactor.callLater(self._timeout, self._timed_out)
        self._dialing = dial.connect(_GreeterFactory(_Greeter(self)))
        self._dialing.addErrback(self._not_dialled)
        return self._done

    # What happens, each at most once.

    def connected(self, greeter: _Greeter) -> None:
        if self._over:  # whoever dials did not listen when it was cancelled
            greeter.abort()
            return
        self._greeter = greeter
        self._stage = "the TLS handshake is not finished" if self.tls else "no answer"

    def greeted(self) -> bool:
        """Return whether it is time for the first words."""
        if self._over:
            return False
        if self.tls is not None and self.tls.peer is None:
            # Nobody gets here without a verified certificate; if somebody does, nothing is said.
            self.failed(TLSFailed(self.server.name, "its certificate was not looked at"))
            return False
        self._stage = "no answer"
        return True

    def ready(self) -> None:
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
        if self._over:
            return
        self._settle()
        self._done.errback(error)

    def lost(self, reason: Failure) -> None:
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
            self.failed(_dial_error(self.server, reason))


@implementer(IHandshakeListener)
class _Greeter(Protocol):
    """Speaks for the application's protocol until the connection is ready, then steps aside."""

    _lost = False

    def __init__(self, attempt: _Attempt) -> None:
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
            self.transport.write(self._attempt.handshake.start())

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        handshake = self._attempt.handshake
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
        assert self.transport is not None
        protocol.makeConnection(self.transport)

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


def _dial_error(server: Server, reason: Failure) -> ConnectFailed:
    address, why = server.address, shown(reason.getErrorMessage())
    if reason.check(DNSLookupError, UnknownHostError, ValueError, UnicodeError):
        return NameNotFound(server.name, f"the host name {address.host!r} was not found: {why}")
    if reason.check(TimeoutError, TCPTimedOutError):
        return ConnectTimedOut(server.name, f"no connection to {address} in time: {why}")
    if reason.check(ConnectionRefusedError):
        return ConnectRefused(server.name, f"nobody listens on {address}: {why}")
    if reason.check(NoRouteError):
        return ConnectRefused(server.name, f"there is no way to {address}: {why}")
    if reason.check(ConnectError, OSError, CancelledError):
        return ConnectRefused(server.name, f"no connection to {address}: {why}")
    return ConnectFailed(server.name, f"{type(reason.value).__name__} for {address}: {why}")


def connect(
    reactor: IReactorTime,
    server: Server | str,
    *,
    tls: TLS | InsecurePlaintext | None = None,
    credentials: CredentialsSource = None,
    limits: Limits | None = None,
) -> Deferred[MemcacheProtocol]:
    """
    Connect to one server.

    Args:
        reactor: the reactor.
        server: a `Server`, or ``"host:port"``.
        tls: how to know that it is the server; what the platform trusts when None.
            `InsecurePlaintext` for no TLS at all.
        credentials: user name and password, for SASL, or what returns them.
        limits: time-outs and bounds; the defaults of `Limits` when None.

    Returns:
        A Deferred that fires with a `MemcacheProtocol` when TLS and SASL are done.  Cancelling it
        ends the attempt.

    Raises:
        InvalidSetting: a setting can not be right; nothing was sent.
        InsecurePassword: the password could be stolen on the way; nothing was sent.

    Fails:
        ConnectFailed: by one of its kinds, which says why.
        RemoteProtocolError: whoever answers is no memcached.
    """
    endpoint = ReadyEndpoint(
        reactor,
        Server.parse(server) if isinstance(server, str) else server,
        tls=TLS() if tls is None else tls,
        credentials=credentials,
        limits=limits,
    )
    factory = Factory.forProtocol(lambda: MemcacheProtocol(reactor, limits=limits))
    return endpoint.connect(factory)  # type: ignore[return-value]  # the factory builds these
