"""
A certificate authority in memory, which issues what tests of TLS need: good and bad.

Keys are made anew each time and live as long as the object.  It is for tests and demos: nobody
must ever rely on what it issues.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from service_identity.hazmat import DNS_ID

from txtlsmc.errors import InvalidArgument
from txtlsmc.settings import is_ip_address
from txtlsmc.testing.issued import IssuedCertificate, PrivateKey

SubjectName = str | IPv4Address | IPv6Address | x509.GeneralName

_DEFAULT_NAMES: tuple[SubjectName, ...] = ("localhost", "127.0.0.1")
_DNS_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-_*")
_COMMON_NAME_LENGTH = 64  # X.520 allows no more


class Authority:
    """
    A certificate authority.

    A server for a test, and a client that trusts it::

        authority = Authority()
        options = authority.issue("localhost").server_options()
        listening = SSL4ServerEndpoint(reactor, 0, options, interface="127.0.0.1").listen(factory)
        client = MemcacheClient(reactor, servers, tls=TLS(ca=authority.pem))

    Attributes:
        name: its common name.
        certificate: its own.
    """

    def __init__(
        self,
        name: str = "txtlsmc test authority",
        *,
        now: datetime | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        issuer: Authority | None = None,
    ) -> None:
        """
        Args:
            name: its common name.
            now: the time that it goes by, with a time zone; the wall clock's by default.
            not_before: the start of its own validity; a year ago by default.
            not_after: the end of its own validity; ten years from now by default.
            issuer: who vouches for it; nobody by default, which makes it a root.
        """
        self.name = name
        self._now = now or datetime.now(UTC)
        self._issuer = issuer
        self._signer = own = _Signer(_distinguished(name), _new_key())
        self.certificate = _sign(
            own,
            issuer._signer if issuer else own,
            _validity(self._now, not_before, not_after, started=_YEAR, lasts=10 * _YEAR),
            (x509.BasicConstraints(ca=True, path_length=None), _CA_USAGE),
        )

    def __repr__(self) -> str:
        return f"<Authority {self.name!r}>"

    @property
    def pem(self) -> bytes:
        """Its own certificate: what ``TLS(ca=…)`` takes, if it is a root."""
        return self.certificate.public_bytes(Encoding.PEM)

    def write_to(self, folder: str | PathLike[str], name: str = "ca") -> Path:
        """Write its own certificate to ``NAME.pem`` in *folder*, and return the path."""
        path = Path(folder, f"{name}.pem")
        path.write_bytes(self.pem)
        return path

    def intermediate(
        self,
        name: str = "txtlsmc test intermediate authority",
        *,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Authority:
        """
        Return an authority that this one vouches for.

        What it issues has its certificate in the chain.
        """
        return Authority(
            name, now=self._now, not_before=not_before, not_after=not_after, issuer=self
        )

    def issue(
        self,
        *names: SubjectName,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        common_name: str | None = None,
        key: PrivateKey | None = None,
    ) -> IssuedCertificate:
        """
        Issue a server's certificate.

        Args:
            names: DNS names (``*.example.net`` too) and IP addresses; ``localhost`` and
                ``127.0.0.1`` by default.  An `x509.GeneralName` is taken as it is, however wrong.
            not_before: the start of its validity, with a time zone; an hour ago by default.
            not_after: the end of its validity; 90 days from now by default.
            common_name: of the subject; by default the first name.
            key: its private key; a new one on P-256 by default.

        Raises:
            InvalidArgument: a name is neither a DNS name nor an IP address.
        """
        return self._issue(
            _server_subject(names, common_name),
            _server_extensions(names),
            not_before=not_before,
            not_after=not_after,
            key=key,
        )

    def expired(self, *names: SubjectName) -> IssuedCertificate:
        """Issue a server's certificate that expired yesterday."""
        return self.issue(*names, not_after=self._now - _DAY)

    def not_yet_valid(self, *names: SubjectName) -> IssuedCertificate:
        """Issue a server's certificate that is valid from tomorrow on."""
        return self.issue(*names, not_before=self._now + _DAY)

    def common_name_only(self, name: str = "localhost") -> IssuedCertificate:
        """Issue a server's certificate as of old: a common name, and no alternative names."""
        return self._issue(_distinguished(name), (_LEAF, _LEAF_USAGE, _SERVER_USAGE))

    def client(self, name: str = "client") -> IssuedCertificate:
        """Issue a client's certificate, with *name* as its common name; no server can use it."""
        return self._issue(_distinguished(name), (_LEAF, _LEAF_USAGE, _CLIENT_USAGE))

    def self_signed(self, *names: SubjectName) -> IssuedCertificate:
        """Make a server's certificate for which only itself vouches, and not this authority."""
        own = _Signer(_server_subject(names, None), _new_key())
        validity = _validity(self._now, None, None, started=_HOUR, lasts=90 * _DAY)
        return IssuedCertificate(_sign(own, own, validity, _server_extensions(names)), (), own.key)

    def _issue(
        self,
        subject: x509.Name,
        extensions: Iterable[x509.ExtensionType],
        *,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        key: PrivateKey | None = None,
    ) -> IssuedCertificate:
        own = _Signer(subject, key or _new_key())
        validity = _validity(self._now, not_before, not_after, started=_HOUR, lasts=90 * _DAY)
        certificate = _sign(own, self._signer, validity, extensions)
        return IssuedCertificate(certificate, tuple(self._up_to_root()), own.key)

    def _up_to_root(self) -> Iterator[x509.Certificate]:
        if self._issuer is not None:
            yield self.certificate
            yield from self._issuer._up_to_root()


_HOUR, _DAY, _YEAR = timedelta(hours=1), timedelta(days=1), timedelta(days=365)
_SERVER_USAGE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
_CLIENT_USAGE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
_LEAF = x509.BasicConstraints(ca=False, path_length=None)


def _key_usage(*, of_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        # For the key exchange of old that TLS 1.2 still has with RSA keys.
        key_encipherment=not of_authority,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=of_authority,
        crl_sign=of_authority,
        encipher_only=False,
        decipher_only=False,
    )


_CA_USAGE, _LEAF_USAGE = _key_usage(of_authority=True), _key_usage(of_authority=False)
_CRITICAL = (x509.BasicConstraints, x509.KeyUsage)


class _Signer(NamedTuple):
    subject: x509.Name
    key: PrivateKey


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _distinguished(common_name: str) -> x509.Name:
    if not common_name:
        return x509.Name([])
    name = common_name[:_COMMON_NAME_LENGTH]
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _server_subject(names: Iterable[SubjectName], common_name: str | None) -> x509.Name:
    if common_name is None:
        readable = (str(n) for n in names or _DEFAULT_NAMES if not isinstance(n, x509.GeneralName))
        common_name = next(readable, "")
    return _distinguished(common_name)


def _server_extensions(names: Iterable[SubjectName]) -> tuple[x509.ExtensionType, ...]:
    general = [_general_name(name) for name in names or _DEFAULT_NAMES]
    return x509.SubjectAlternativeName(general), _LEAF, _LEAF_USAGE, _SERVER_USAGE


def _general_name(name: SubjectName) -> x509.GeneralName:
    if isinstance(name, x509.GeneralName):
        return name
    text = str(name)
    if is_ip_address(text):
        return x509.IPAddress(ip_address(text))
    if not text.isascii():
        wildcard = "*." if text.startswith("*.") else ""
        text = wildcard + DNS_ID(text.removeprefix(wildcard).lower()).hostname.decode("ascii")
    if not text or not _DNS_CHARACTERS.issuperset(text.lower()):
        raise InvalidArgument(
            f"{name!r} is neither a DNS name nor an IP address;"
            " to have it in a certificate all the same, give an x509.DNSName"
        )
    return x509.DNSName(text)


def _validity(
    now: datetime,
    not_before: datetime | None,
    not_after: datetime | None,
    *,
    started: timedelta,
    lasts: timedelta,
) -> tuple[datetime, datetime]:
    """Return the start and the end; one that was not given makes way for the other."""
    end = not_after or max(now, not_before or now) + lasts
    return not_before or min(now - started, end - _DAY), end


def _sign(
    owner: _Signer,
    signer: _Signer,
    validity: tuple[datetime, datetime],
    extensions: Iterable[x509.ExtensionType],
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(owner.subject)
        .issuer_name(signer.subject)
        .public_key(owner.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
    )
    own_identifier = x509.SubjectKeyIdentifier.from_public_key(owner.key.public_key())
    of_signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())
    for extension in (*extensions, own_identifier, of_signer):
        builder = builder.add_extension(extension, critical=isinstance(extension, _CRITICAL))
    return builder.sign(signer.key, hashes.SHA256())
