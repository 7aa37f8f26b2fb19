"""Clients of a listener, and the listeners' certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from OpenSSL import crypto
from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol, wrapClientTLS
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from txtlsmc.testing import Authority, IssuedCertificate
from txtlsmc.tunnel.addresses import ListenAddress


class Talk(Protocol):
    """
    One connection to a listener.

    Attributes:
        got: what came so far.
        lost: fires with the reason when it is closed.
    """

    def __init__(self) -> None:
        self.got = b""
        self._awaited: list[tuple[bytes, Deferred[None]]] = []
        self.lost: Deferred[BaseException | None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.got += data
        for awaited in list(self._awaited):
            if awaited[0] in self.got:
                self._awaited.remove(awaited)
                awaited[1].callback(None)

    def until(self, words: bytes) -> Deferred[None]:
        """Return a Deferred that fires when *words* have come."""
        done: Deferred[None] = Deferred()
        self._awaited.append((words, done))
        self.dataReceived(b"")
        return done

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        for _, done in self._awaited:
            done.errback(reason)
        self.lost.callback(reason.value)

    @property
    def serial(self) -> int:
        """The serial number of the certificate that the listener showed."""
        transport: Any = self.transport
        presented: crypto.X509 = transport.getPeerCertificate()
        return presented.get_serial_number()


async def talk(where: str, tls: Any = None) -> Talk:
    """Connect to *where* a listener is reached; *tls* is how a client speaks it."""
    address = ListenAddress.parse(where)
    text = (
        f"unix:{address.path}"
        if address.path
        else f"tcp:{address.host.replace(':', chr(92) + ':')}:{address.port}"
    )
    endpoint = clientFromString(reactor, text)
    if tls is not None:
        endpoint = wrapClientTLS(tls, endpoint)
    made: Talk = await connectProtocol(endpoint, Talk())
    return made


def client_tls(authority: Authority, issued: IssuedCertificate | None = None) -> Any:
    """Return how a client that trusts *authority* speaks TLS, as *issued* if it is given."""
    extra: dict[str, Any] = {}
    if issued is not None:
        extra = {"privateKey": issued.key, "certificate": issued.certificate}
    root = crypto.load_certificate(crypto.FILETYPE_PEM, authority.pem)
    return ssl.optionsForClientTLS(
        "localhost",
        trustRoot=ssl.trustRootFromCertificates([ssl.Certificate(root)]),
        extraCertificateOptions=extra,
    )


def listen_files(authority: Authority, folder: Path, name: str = "listener") -> dict[str, str]:
    """Write a new certificate for localhost; return the settings that name it."""
    files = authority.issue("localhost").write_to(folder, name)
    return {"listen_certificate": str(files.chain), "listen_key": str(files.key)}
