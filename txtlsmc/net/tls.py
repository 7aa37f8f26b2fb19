"""
The client's side of TLS: whom to trust, who we are, and a verdict on every server.

Built over `twisted.internet.ssl.optionsForClientTLS`.  Its verification says no more than
"certificate verify failed", knows no pins, and lets a certificate pass when looking at its names
raises anything unforeseen; so each connection gets a verification of ours in its place.  That must
do all that the one it replaces did: whatever goes wrong in it means no.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet import ssl
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from txtlsmc.errors import CertificateError, ConnectFailed, InvalidSetting
from txtlsmc.net.certificates import (
    CertificateFacts,
    Host,
    pin_mismatch,
    unreadable,
    verification_error,
)
from txtlsmc.net.pem import load_client_certificate, load_trust_roots
from txtlsmc.net.resumption import Resumption
from txtlsmc.net.tls_handshake import handshake_failure, openssl_reasons
from txtlsmc.settings import TLS, Server

_MINIMUM = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class ClientTLS:
    """
    How to speak TLS to one server, with all files read.

    Attributes:
        server: the server.
        tls: the settings.
        host: whom its certificate must be for.
        resumption: what keeps sessions, if anything does.
    """

    def __init__(self, server: Server, tls: TLS, resumption: Resumption | None = None) -> None:
        """
        Args:
            server: its own host is whom the certificate must be for, whatever address is dialled.
            tls: the settings; ``server_name`` is another one to be for.
            resumption: keeps the session for the next connection, and this object's alone; None:
                each connection begins a new one.  It is not used where nobody is verified.

        Raises:
            InvalidSetting: there is no host name, or a file is missing or can not be used.
        """
        name = tls.server_name or server.identity.host
        if not name:
            raise InvalidSetting(
                f"{server}: a Unix socket has no host name; set server_name to the name in the"
                " server's certificate"
            )
        self.server, self.tls, self.host = server, tls, Host(name)
        self.resumption = None if tls.insecure_no_verify else resumption
        self._creator = _client_options(self.host, tls, tickets=self.resumption is not None)

    def attempt(self) -> TLSAttempt:
        """Return what one attempt to connect needs."""
        return TLSAttempt(self, self._creator)


@implementer(IOpenSSLClientConnectionCreator)
class TLSAttempt:
    """
    Makes the TLS connection of one attempt, and knows what became of it.

    Attributes:
        client: what it belongs to.
        resumed: whether it took up an earlier session; known once the handshake is complete.
    """

    resumed = False

    def __init__(self, client: ClientTLS, creator: IOpenSSLClientConnectionCreator) -> None:
        self.client, self._creator = client, creator
        self._verification = _Verification(client)
        self._offered: CertificateFacts | None = None

    @property
    def failure(self) -> CertificateError | None:
        """Why the server's certificate was not accepted; None if it was, or never came."""
        return self._verification.failure

    @property
    def peer(self) -> CertificateFacts | None:
        """What the server's certificate says, once it was accepted, here or with the session."""
        return self._offered if self.resumed else self._verification.peer

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Make the OpenSSL connection for *protocol*, as Twisted's TLS layer asks for it."""
        connection = self._creator.clientConnectionForTLS(protocol)
        # A verdict of its own for each connection: none can be taken for another's.
        self._verification = _Verification(self.client)
        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._verification)
        if self.client.resumption is not None:
            self._offered = self.client.resumption.offer(connection, self.client.tls.pins)
        return connection

    def handshake_completed(self) -> None:
        """Learn that the handshake is complete: who the server is, is known from now on."""
        # Every handshake asks for our verdict, and fails without; but for one: that which takes up
        # the session that we offered.  (pyOpenSSL does not tell whether OpenSSL took it up.)
        self.resumed = self._offered is not None and not self._verification.asked

    def keep_session(self, connection: SSL.Connection) -> None:
        """
        Keep what the session of *connection* has come to, for the next connection.

        Under TLS 1.3 there is nothing worth keeping before the server's first words.
        """
        resumption, peer = self.client.resumption, self.peer
        if resumption is not None and peer is not None:
            resumption.keep(connection, peer)


class _Verification:
    """
    The verdict on one server's certificates; OpenSSL calls it for each, from the root down.

    It keeps no reference to the connection, which keeps one to it.
    """

    def __init__(self, client: ClientTLS) -> None:
        self._client = client
        self.asked = False
        self.failure: CertificateError | None = None
        self.peer: CertificateFacts | None = None

    def __call__(
        self, connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int
    ) -> bool:
        self.asked = True
        # An exception would vanish inside of OpenSSL, so it becomes the verdict, whatever it is.
        try:
            problem = self._problem(certificate, code, depth, accepted=bool(ok))
        except Exception as error:
            problem = unreadable(self._client.server.name, depth, error)
        if problem is not None:
            self.failure = self.failure or problem
        return self.failure is None

    def _problem(
        self, presented: crypto.X509, code: int, depth: int, *, accepted: bool
    ) -> CertificateError | None:
        client, server = self._client, self._client.server.name
        anybody = client.tls.insecure_no_verify
        if depth and (accepted or anybody):
            return None  # the server's own certificate, at depth 0, is the last to be asked about
        certificate = presented.to_cryptography()
        facts = CertificateFacts.read(certificate)
        if not anybody:
            mismatch = None if depth else client.host.mismatch(server, certificate, facts)
            if not accepted:
                return verification_error(server, code, depth, facts, mismatch)
            if mismatch is not None:
                return mismatch
        if client.tls.pins and facts.pin not in client.tls.pins:
            return pin_mismatch(server, facts)
        self.peer = facts
        return None


def handshake_error(server_name: str, reason: Failure, attempt: TLSAttempt) -> ConnectFailed:
    """
    Return why a connection over TLS ended before it was ready.

    Args:
        server_name: of the server, as configured.
        reason: what ``connectionLost`` got.
        attempt: what the connection was made with.
    """
    if attempt.failure is not None:
        return attempt.failure
    tls = attempt.client.tls
    return handshake_failure(
        server_name,
        reason.value,
        peer_seen=attempt.peer is not None,
        client_certificate=tls.client_certificate is not None,
        minimum_version=tls.minimum_version,
    )


def _client_options(host: Host, tls: TLS, *, tickets: bool) -> IOpenSSLClientConnectionCreator:
    """
    Return Twisted's options for *tls*, proven usable.

    Raises:
        InvalidSetting: they are not.
    """
    extra: dict[str, Any] = {
        "raiseMinimumTo": _MINIMUM[tls.minimum_version],
        "enableSessionTickets": tickets,
    }
    if tls.client_certificate is not None:
        # By this way, as the argument of its own takes nothing but pyOpenSSL's deprecated classes.
        (extra["certificate"], *extra["extraCertChain"]), extra["privateKey"] = (
            load_client_certificate(tls)
        )
    try:
        creator = ssl.optionsForClientTLS(
            host.hello, _trust_root(tls), extraCertificateOptions=extra
        )
        # The first connection makes Twisted build the OpenSSL context.  That is done now, to hear
        # what OpenSSL refuses, and to read the platform's authorities before any connection.  (A
        # clock is handed in as Twisted would install a reactor to have one.)
        factory = TLSMemoryBIOFactory(creator, True, Factory(), Clock())
        creator.clientConnectionForTLS(TLSMemoryBIOProtocol(factory, Protocol()))
    except UnicodeError:
        problem = f"{host.text!r} is no host name that TLS can send; set server_name to one"
    except (SSL.Error, crypto.Error, TypeError) as error:
        setting = "ca" if tls.client_certificate is None else "client_certificate"
        problem = f"{setting}: OpenSSL refuses it: {', '.join(openssl_reasons(error)) or error}"
    else:
        return creator
    raise InvalidSetting(problem)  # here, so that no frame of the refusal hangs on it


def _trust_root(tls: TLS) -> Any:
    """Return an `IOpenSSLTrustRoot`, which Twisted does not export."""
    if tls.ca is None:
        return ssl.platformTrust()
    return ssl.trustRootFromCertificates(map(ssl.Certificate, load_trust_roots(tls)))
