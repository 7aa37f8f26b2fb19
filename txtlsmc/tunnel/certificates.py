"""The server's side of TLS for listeners: their certificate, and whose clients they accept."""

from __future__ import annotations

import os
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from twisted.internet import ssl
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IReactorTime,
    ITransport,
)
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from txtlsmc.errors import InvalidSetting
from txtlsmc.net.certificates import CertificateFacts
from txtlsmc.net.pem import load_client_certificate, load_trust_roots
from txtlsmc.settings import TLS
from txtlsmc.tunnel.settings import TunnelSettings

_BOTH = "listen_certificate and listen_key"


def read_certificate(
    settings: TunnelSettings,
) -> tuple[ssl.CertificateOptions, CertificateFacts] | None:
    """
    Return what listeners show and demand, and what their certificate says; None without TLS.

    Raises:
        InvalidSetting: a file is missing, can not be used, or is for others to read.
    """
    if settings.listen_certificate is None or settings.listen_key is None:
        return None
    require_private("listen_key", settings.listen_key)
    # As one text of both they can be told not to belong together; in no variable, since a report
    # may show those.
    try:
        (certificate, *chain), key = load_client_certificate(
            TLS(
                client_certificate=_text("listen_certificate", settings.listen_certificate)
                + b"\n"
                + _text("listen_key", settings.listen_key)
            )
        )
    except InvalidSetting as error:
        problem = str(error).removeprefix("client_certificate, as PEM text: ")
    else:
        return _options(certificate, chain, key, settings), CertificateFacts.read(certificate)
    raise InvalidSetting(problem if problem.startswith("listen_") else f"{_BOTH}: {problem}")


def require_private(setting: str, path: str) -> None:
    """
    Refuse a file with a private key that others can read.

    Raises:
        InvalidSetting: they can, or there is no such file.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise InvalidSetting(f"{setting}: can not read {path!r}: {error.strerror}") from None
    # A group of root's choice may read it, as many systems have one for their keys.
    if found.st_mode & (0o037 if found.st_uid == 0 else 0o077):
        raise InvalidSetting(f"{setting}: others may read or change {path!r}: chmod 600")


def _text(setting: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        problem = f"{setting}: can not read {path!r}: {error.strerror}"
    raise InvalidSetting(problem)


def _options(
    certificate: x509.Certificate, chain: list[x509.Certificate], key: Any, settings: TunnelSettings
) -> ssl.CertificateOptions:
    trusted = None
    if settings.listen_client_ca is not None:
        try:
            roots = load_trust_roots(TLS(ca=settings.listen_client_ca))
        except InvalidSetting as error:
            problem = str(error).removeprefix("ca")
            raise InvalidSetting(f"listen_client_ca{problem}") from None
        trusted = ssl.trustRootFromCertificates(map(ssl.Certificate, roots))
    # Twisted's annotations ask for pyOpenSSL's own classes, which pyOpenSSL deprecates.
    identity: dict[str, Any] = {
        "privateKey": key,
        "certificate": certificate,
        "extraCertChain": chain,
    }
    options = ssl.CertificateOptions(
        **identity, trustRoot=trusted, raiseMinimumTo=ssl.TLSVersion.TLSv1_2
    )
    try:
        options.getContext()  # now, to hear what OpenSSL refuses
    except SSL.Error as error:
        problem = f"{_BOTH}: OpenSSL refuses them: {error}"
    else:
        return options
    raise InvalidSetting(problem)


@implementer(IOpenSSLServerConnectionCreator)
class CurrentCertificate:
    """
    Makes the TLS connections of listeners, with the certificate of the moment.

    Attributes:
        options: what the next handshake uses; to be exchanged.
    """

    def __init__(self, options: ssl.CertificateOptions) -> None:
        self.options = options

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Make the OpenSSL connection for *protocol*, as Twisted's TLS layer asks for it."""
        return SSL.Connection(self.options.getContext(), None)


class _LocalTLS(TLSMemoryBIOProtocol):
    """The TLS layer of a local connection, which ends unless the client shakes hands in time."""

    factory: LocalTLSFactory

    def makeConnection(self, transport: ITransport) -> None:
        """Begin to wait for the handshake."""
        self._late = self.factory.clock.callLater(self.factory.seconds, self._look)
        super().makeConnection(transport)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override] # Twisted's is untyped
        """Wait no more."""
        if self._late.active():
            self._late.cancel()
        super().connectionLost(reason)

    def _look(self) -> None:
        # What the client sent last of a handshake is there only when that was completed.
        if self.getHandle().get_peer_finished() is None:
            self.abortConnection()


class LocalTLSFactory(TLSMemoryBIOFactory):
    """
    Puts TLS between a listener and what it leads to.

    Attributes:
        clock: for the time that a handshake may take.
        seconds: that time.
    """

    protocol = _LocalTLS

    def __init__(
        self,
        certificate: CurrentCertificate,
        inside: IProtocolFactory,
        clock: IReactorTime,
        seconds: float,
    ) -> None:
        super().__init__(certificate, False, inside)
        self.clock, self.seconds = clock, seconds

    def buildProtocol(  # type: ignore[override] # Twisted's own knows nothing of None
        self, addr: IAddress | None
    ) -> _LocalTLS | None:
        """Return the protocol of one connection, or None where none is wanted."""
        inside = self.wrappedFactory.buildProtocol(addr)
        return None if inside is None else self.protocol(self, inside)
