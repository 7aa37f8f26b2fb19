"""Connections to a server over verified TLS, for whoever speaks on them in words of his own."""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from txtlsmc.net.attempt import Attempt
from txtlsmc.net.certificates import CertificateFacts
from txtlsmc.net.dialling import dial_to
from txtlsmc.net.resumption import Resumption
from txtlsmc.net.tls import ClientTLS, TLSAttempt
from txtlsmc.settings import TLS, InsecurePlaintext, Limits, Server


@implementer(IStreamClientEndpoint)
class SecureEndpoint:
    """
    Connects any protocol to a server over TLS, once the server's certificate is verified.

    Connected means that TCP and the TLS handshake are done; nothing is sent but them.  (Under TLS
    1.3 a server that refuses our certificate says so later.)  With `InsecurePlaintext`
    it means TCP.

    Attributes:
        server: where to.
        peer: what the certificate of the server said at the latest successful handshake, or at that
            of the session which was taken up; None before the first, and without TLS.
        resumed: whether the latest connection took up an earlier session.
        on_handshake: called with *peer* at every successful handshake.
    """

    peer: CertificateFacts | None = None
    resumed = False
    on_handshake: Callable[[CertificateFacts], object] | None = None

    def __init__(
        self,
        reactor: IReactorTime,
        server: Server,
        *,
        tls: TLS | InsecurePlaintext,
        limits: Limits | None = None,
        resume: bool = False,
        dial: IStreamClientEndpoint | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            reactor: what has the sockets and the time.
            server: where to, and who it has to be.
            tls: how to know that it is the server.
            limits: `Limits.connect_timeout` bounds it all.
            resume: whether to take up the session of an earlier connection of this endpoint, which
                makes a new one cheaper.  Never done with ``insecure_no_verify``.
            dial: connects the bytes instead of the server's address; for tests.
            wall_clock: the Unix time, for the validity of a session's certificate.

        Raises:
            InvalidSetting: a file of *tls* can not be used.
        """
        self.server = server
        self._reactor = reactor
        self._limits = Limits() if limits is None else limits
        self._dial = dial_to(reactor, server, self._limits) if dial is None else dial
        self._tls: ClientTLS | None = None
        if not isinstance(tls, InsecurePlaintext):
            self._tls = ClientTLS(server, tls, Resumption(wall_clock) if resume else None)

    def __repr__(self) -> str:
        return f"<SecureEndpoint {self.server}>"

    def connect(
        self,
        protocolFactory: IProtocolFactory,  # noqa: N803 - the interface's name for it
    ) -> Deferred[IProtocol]:
        """
        Connect, and build a protocol with *protocolFactory* once the server is verified.

        Returns:
            A Deferred that fires with that protocol.  Cancelling it ends the attempt.

        Fails:
            ConnectFailed: by one of its kinds, which says why.
        """
        attempt = Attempt(
            self.server,
            protocolFactory,
            self._limits,
            tls=None if self._tls is None else self._tls.attempt(),
            on_verified=self._verified,
        )
        return attempt.start(self._reactor, self._dial)

    def _verified(self, tls: TLSAttempt) -> None:
        self.peer, self.resumed = tls.peer, tls.resumed
        if self.on_handshake is not None and tls.peer is not None:
            self.on_handshake(tls.peer)
