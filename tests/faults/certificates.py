"""The certificates that a server may show: the right one, and each kind that must be refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from txtlsmc.testing.authority import Authority
from txtlsmc.testing.issued import IssuedCertificate

#: Whom all the right ones are for, besides 127.0.0.1.
HOST: Final = "localhost"
GOOD: Final = "good"
OLD_TLS: Final = "TLS 1.1 only"


@cache
def stranger() -> Authority:
    """Return an authority that nobody trusts."""
    return Authority("nobody's authority")


_ISSUE: Final[dict[str, Callable[[Authority], IssuedCertificate]]] = {
    GOOD: lambda ours: ours.issue(),
    "expired": lambda ours: ours.expired(),
    "not yet valid": lambda ours: ours.not_yet_valid(),
    "wrong host": lambda ours: ours.issue("other.example"),
    "self-signed": lambda ours: ours.self_signed(),
    "other authority": lambda ours: stranger().issue(),
    "common name only": lambda ours: ours.common_name_only(HOST),
    "NUL in the name": lambda ours: ours.issue(x509.DNSName(f"{HOST}\0.evil.example")),
    OLD_TLS: lambda ours: ours.issue(),
}

#: What `Shown.named` knows besides `GOOD`.
BAD: Final = tuple(name for name in _ISSUE if name != GOOD)


@implementer(IOpenSSLServerConnectionCreator)
class _OldTLS:
    """The server's side of TLS 1.1, which Twisted's own options refuse to speak."""

    def __init__(self, issued: IssuedCertificate) -> None:
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._context.set_min_proto_version(SSL.TLS1_1_VERSION)
        self._context.set_max_proto_version(SSL.TLS1_1_VERSION)
        self._context.set_cipher_list(b"ALL:@SECLEVEL=0")
        self._context.use_certificate(issued.certificate)
        self._context.use_privatekey(issued.key)

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Make the OpenSSL connection of *protocol*."""
        return SSL.Connection(self._context, None)


class Shown:
    """
    A certificate as a server shows it.

    Attributes:
        name: what is special about it.
        issued: itself, with its key.
        serial: its number.
        bad: whether a client that sends anything to it is wrong.
        creator: the server's side of TLS with it, which resumes no session of another one.
    """

    def __init__(self, name: str, issued: IssuedCertificate) -> None:
        self.name, self.issued = name, issued
        self.serial = issued.certificate.serial_number
        self.bad = name != GOOD
        self.creator: IOpenSSLServerConnectionCreator = (
            _OldTLS(issued) if name == OLD_TLS else issued.server_options()
        )

    @classmethod
    def named(cls, name: str, authority: Authority) -> Shown:
        """
        Make a new one.

        Args:
            name: `GOOD`, or one of `BAD`.
            authority: the one that the client trusts.
        """
        return cls(name, _ISSUE[name](authority))
