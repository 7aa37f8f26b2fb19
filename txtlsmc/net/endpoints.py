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
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from txtlsmc.errors import (
    ConnectFailed,
    ConnectTimedOut,
    InsecurePassword,
)
from txtlsmc.net.attempt import Attempt
from txtlsmc.net.certificates import CertificateFacts
from txtlsmc.net.dialling import dial_to
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.net.tls import ClientTLS, TLSAttempt
from txtlsmc.settings import (
    TLS,
    Credentials,
    InsecurePlaintext,
    Limits,
    Server,
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

    Attributes:
        server: where to.
        peer: what the certificate of the server said at the latest successful handshake; None
            before the first, and without TLS.
        on_handshake: called with *peer* at every successful handshake, before SASL.
    """

    peer: CertificateFacts | None = None
    on_handshake: Callable[[CertificateFacts], object] | None = None

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
        self._dial = dial_to(reactor, server, self._limits) if dial is None else dial
        self._settings = tls
        self._tls = None if isinstance(tls, InsecurePlaintext) else ClientTLS(server, tls)

    def __repr__(self) -> str:
        return f"<ReadyEndpoint {self.server}>"

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
        attempt = Attempt(
            self.server,
            factory,
            self._limits,
            tls=None if self._tls is None else self._tls.attempt(),
            handshake=Handshake(self.server.name, credentials, self._nonce()),
            on_verified=self._verified,
        )
        return attempt.start(self._reactor, self._dial)

    def _verified(self, tls: TLSAttempt) -> None:
        self.peer = tls.peer
        if self.on_handshake is not None and tls.peer is not None:
            self.on_handshake(tls.peer)


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
