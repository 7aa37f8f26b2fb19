"""
What a certificate says, and what is wrong with it, in words.

The first thing that is wrong gives the class of the error: the chain, as OpenSSL looks at it
(untrusted, then expired or not yet valid, from the root down), then the names, then the pins.  Of
an untrusted or expired certificate that has the wrong names too, the message tells both.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from OpenSSL.SSL import X509VerificationCodes as Codes
from service_identity import CertificateError as MalformedName
from service_identity import VerificationError
from service_identity.hazmat import (
    DNS_ID,
    CertificatePattern,
    DNSPattern,
    IPAddress_ID,
    IPAddressPattern,
    verify_service_identity,
)

from txtlsmc.errors import (
    CertificateError,
    CertificateExpired,
    CertificateNotYetValid,
    CertificateUntrusted,
    CertificateWrongHost,
    InvalidSetting,
    PinMismatch,
    shown,
)
from txtlsmc.settings import is_ip_address

_E = TypeVar("_E", bound=CertificateError)

_MOST_NAMES = 8  # in a message; the error's attribute has them all


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """
    What a certificate says.

    Attributes:
        subject: whose it is, as in ``CN=mc1.example``; text from a peer, made fit to be read.
        issuer: who signed it, or says so.
        names: the DNS names and IP addresses that it is for, of the subjectAltName only.
        not_before: the start of its validity, in UTC.
        not_after: the end of its validity, in UTC.
        pin: the SHA-256 of its public key, in hexadecimal digits.
    """

    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    pin: str

    @classmethod
    def read(cls, certificate: x509.Certificate) -> CertificateFacts:
        """
        Return what *certificate* says.

        Raises:
            ValueError, UnsupportedAlgorithm: it is too broken to be read.
        """
        public_key = certificate.public_key()
        key = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(
            subject=shown(certificate.subject.rfc4514_string()),
            issuer=shown(certificate.issuer.rfc4514_string()),
            names=tuple(shown(str(name.value)) for name in _alternative_names(certificate)),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            pin=sha256(key).hexdigest(),
        )

    def days_left(self, now: datetime) -> int:
        """Return the whole days until it expires, below zero once it has."""
        return (self.not_after - now).days


def _alternative_names(certificate: x509.Certificate) -> list[x509.DNSName | x509.IPAddress]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]


# The host name ------------------------------------------------------------------------------


class Host:
    """
    Whom a server's certificate must be for.

    Attributes:
        text: the name or the IP address, as it was given.
        hello: how TLS knows it: in ASCII, without a final dot or a scope.
    """

    def __init__(self, text: str) -> None:
        """
        Raises:
            InvalidSetting: *text* is neither a host name nor an IP address.
        """
        self.text = text
        bare = text.partition("%")[0]  # a scope, as in fe80::1%eth0, is of this machine only
        if is_ip_address(bare):
            self.hello = bare
            self._identity: DNS_ID | IPAddress_ID = IPAddress_ID(ip_address(bare))
            return
        try:
            identity = DNS_ID(text.lower().removesuffix("."))
        except (ValueError, UnicodeError):
            raise InvalidSetting(
                f"{text!r} is no host name that a certificate can be for"
            ) from None
        self.hello, self._identity = identity.hostname.decode("ascii"), identity

    def mismatch(
        self, server: str, certificate: x509.Certificate, facts: CertificateFacts
    ) -> CertificateWrongHost | None:
        """
        Return what is wrong with the names of *certificate*, or None if it is for this host.

        Only DNS names and IP addresses are looked at, and of these an address only for an address.

        Raises:
            Exception: the names can not be read; whatever it is, it means no.
        """
        names = _alternative_names(certificate)
        if not names:
            reason = _nameless(certificate)
        elif any("\0" in str(name.value) for name in names):
            # To old software "localhost\0.evil.example" was "localhost".
            reason = f"a name in its certificate is a trick: {_listed(facts.names)}"
        elif self._is_among(names):
            return None
        else:
            reason = (
                f"its certificate is for {_listed(facts.names)}, and not for {self.text};"
                " correct the server's address, or set server_name if it is the right server"
            )
        return _error(CertificateWrongHost, server, reason, facts)

    def _is_among(self, names: Sequence[x509.DNSName | x509.IPAddress]) -> bool:
        patterns: list[CertificatePattern] = []
        for name in names:
            # service_identity would refuse all names for one that it can make nothing of.  Such a
            # one ("*.internal", or an address among the DNS names) matches nothing anyway.
            with suppress(MalformedName):
                patterns.append(_pattern(name))
        try:
            return bool(patterns and verify_service_identity(patterns, [self._identity], []))
        except VerificationError:
            return False


def _pattern(name: x509.DNSName | x509.IPAddress) -> CertificatePattern:
    if isinstance(name, x509.DNSName):
        return DNSPattern.from_bytes(name.value.encode("utf-8"))
    if isinstance(name.value, IPv4Address | IPv6Address):
        return IPAddressPattern(name.value)
    raise MalformedName("a network is no address")


def _nameless(certificate: x509.Certificate) -> str:
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    said = f" ({shown(str(common[0].value))})" if common else ""
    return (
        "its certificate has no name or address in a subjectAltName, and the common name"
        f"{said} does not count: it must be issued anew"
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


# Verification -------------------------------------------------------------------------------

_UNTRUSTED = {
    Codes.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: "nobody but itself vouches for its certificate"
    " ({subject}); if it is the right one, set ca to it",
    Codes.ERR_SELF_SIGNED_CERT_IN_CHAIN: "its certificates lead to an authority that is not"
    " trusted ({subject}); if it is the right one, set ca to it",
    Codes.ERR_CERT_SIGNATURE_FAILURE: "the signature on {whose} is wrong: it is forged, or ca has"
    " another authority of the same name",
    Codes.ERR_CERT_REJECTED: "{whose} is marked as not to be trusted",
    Codes.ERR_INVALID_CA: "{whose} was used to sign another one, and may not",
} | dict.fromkeys(
    (
        Codes.ERR_UNABLE_TO_GET_ISSUER_CERT,
        Codes.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
        Codes.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE,
        Codes.ERR_CERT_UNTRUSTED,
    ),
    "{whose} was issued by an authority that is neither trusted nor sent along ({issuer}); set ca"
    " to that authority, or have the server send its whole chain",
)

# OpenSSL's own names for these are of no use to anybody, or missing.
_OTHERWISE_WRONG = {
    Codes.ERR_INVALID_PURPOSE: "{whose} is not made for a server, but for another purpose",
    Codes.ERR_CERT_REVOKED: "{whose} has been revoked",
    66: "the key of {whose} is too weak",
    67: "the key of {whose} is too weak",
    68: "the signature on {whose} is of a weak kind",
}
_CODE_NAMES = {
    value: name.removeprefix("ERR_").replace("_", " ").lower()
    for name, value in vars(Codes).items()
    if isinstance(value, int)
}


def verification_error(
    server: str,
    code: int,
    depth: int,
    facts: CertificateFacts,
    besides: CertificateError | None = None,
) -> CertificateError:
    """
    Return what it means that OpenSSL did not accept a certificate.

    Args:
        server: its name, as configured.
        code: OpenSSL's ``X509_V_ERR_…``.
        depth: 0 is the server's own certificate, 1 the one that signed it, and so on.
        facts: of the certificate at that depth.
        besides: what is wrong with it as well; it is told, and does not change the class.
    """
    kind: type[CertificateError]
    whose = f"its certificate ({facts.subject})"
    if depth:
        whose = f"the certificate of an authority in its chain ({facts.subject}, depth {depth})"
    if code == Codes.ERR_CERT_HAS_EXPIRED:
        kind, reason = CertificateExpired, f"{whose} expired on {_iso(facts.not_after)}"
        reason += "; the server needs a new " + ("chain, or ca a new root" if depth else "one")
    elif code == Codes.ERR_CERT_NOT_YET_VALID:
        kind, reason = CertificateNotYetValid, f"{whose} is not valid until"
        reason += f" {_iso(facts.not_before)}; is the clock of this machine right?"
    else:
        kind = CertificateUntrusted if code in _UNTRUSTED else CertificateError
        unnamed = f"{{whose}} was not accepted: {_CODE_NAMES.get(code, 'OpenSSL error')} ({code})"
        words = (_UNTRUSTED | _OTHERWISE_WRONG).get(code, unnamed)
        reason = words.format(whose=whose, subject=facts.subject, issuer=facts.issuer)
    if besides is not None:
        reason += f"; besides, {besides.reason}"
    return _error(kind, server, reason, facts, depth)


def unreadable(server: str, depth: int, error: BaseException) -> CertificateError:
    """Return what it means that looking at a certificate raised *error*."""
    reason = f"its certificate can not be read ({type(error).__name__}: {shown(str(error))})"
    return CertificateError(server, reason, depth=depth)


def pin_mismatch(server: str, facts: CertificateFacts) -> PinMismatch:
    """Return what it means that the server's public key is none of the pinned ones."""
    reason = (
        f"the public key of its certificate is none of the pinned ones; its pin is {facts.pin}."
        " Add that to pins only if the change of key was announced: it may be somebody else's"
    )
    return _error(PinMismatch, server, reason, facts)


def _error(kind: type[_E], server: str, reason: str, facts: CertificateFacts, depth: int = 0) -> _E:
    return kind(
        server,
        reason,
        subject=facts.subject,
        names=facts.names,
        depth=depth,
        not_before=facts.not_before,
        not_after=facts.not_after,
    )


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
