"""What certificates say, and the words and classes for what is wrong with one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_network

from cryptography import x509
from OpenSSL.SSL import X509VerificationCodes
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import (
    CertificateError,
    CertificateExpired,
    CertificateNotYetValid,
    CertificateUntrusted,
    CertificateWrongHost,
    InvalidSetting,
    PinMismatch,
)
from txtlsmc.net.certificates import (
    CertificateFacts,
    Host,
    pin_mismatch,
    unreadable,
    verification_error,
)
from txtlsmc.testing.authority import Authority

FIRST, LAST = datetime(2014, 4, 21, tzinfo=UTC), datetime(2015, 4, 20, 12, 30, 5, tzinfo=UTC)


@cache
def authority() -> Authority:
    return Authority("the authority")


def facts() -> CertificateFacts:
    """Return what a certificate of long ago says."""
    issued = authority().issue("mc1.example", "10.0.0.1", not_before=FIRST, not_after=LAST)
    return CertificateFacts.read(issued.certificate)


class FactsTests(SynchronousTestCase):
    def test_read(self) -> None:
        """The facts are those of the certificate, and the dates are in UTC."""
        issued = authority().issue(
            "mc1.example", "*.example", "::1", not_before=FIRST, not_after=LAST
        )
        self.assertEqual(
            CertificateFacts.read(issued.certificate),
            CertificateFacts(
                subject="CN=mc1.example",
                issuer="CN=the authority",
                names=("mc1.example", "*.example", "::1"),
                not_before=FIRST,
                not_after=LAST,
                pin=issued.pin,
            ),
        )

    def test_names(self) -> None:
        """Only DNS names and IP addresses count as names, and never the common name."""
        kinds = (
            x509.RFC822Name("a@b.example"),
            x509.UniformResourceIdentifier("https://c.example"),
            x509.DNSName("d.example"),
        )
        mixed = CertificateFacts.read(
            authority().issue(*kinds, common_name="e.example").certificate
        )
        self.assertEqual(mixed.names, ("d.example",))
        none = CertificateFacts.read(authority().common_name_only("e.example").certificate)
        self.assertEqual(none.names, ())

    def test_shown(self) -> None:
        """What a certificate says can be shown: nothing moves the cursor, nothing is endless."""
        issued = authority().issue(
            x509.DNSName("a\x1b[2J\0b"), x509.DNSName("x" * 5000), common_name="tty\x1b[2J\nfake"
        )
        said = CertificateFacts.read(issued.certificate)
        for text in (said.subject, *said.names):
            self.assertTrue(text.isprintable(), repr(text))
            self.assertLessEqual(len(text), 200)

    def test_days_left(self) -> None:
        """Days left are whole days, and below zero once it has expired."""
        for now, days in (
            (LAST - timedelta(days=30), 30),
            (LAST - timedelta(days=1, seconds=-1), 0),
            (LAST, 0),
            (LAST + timedelta(seconds=1), -1),
            (LAST + timedelta(days=7), -7),
        ):
            self.assertEqual(facts().days_left(now), days)


class HostTests(SynchronousTestCase):
    def mismatch(self, host: str, *names: str | x509.GeneralName) -> CertificateWrongHost | None:
        certificate = authority().issue(*names).certificate
        return Host(host).mismatch("mc1", certificate, CertificateFacts.read(certificate))

    def test_forms(self) -> None:
        """A host is known to TLS in ASCII and small letters, without a final dot or a scope."""
        for text, hello in (
            ("mc1.example", "mc1.example"),
            ("MC1.Example.", "mc1.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("10.0.0.1", "10.0.0.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
        ):
            self.assertEqual((Host(text).text, Host(text).hello), (text, hello))

    def test_no_host(self) -> None:
        """What can stand in no certificate is refused."""
        for text in ("", ".", "two words", "12345", "\0", "ü" * 64, "a/b"):
            error = self.assertRaises(InvalidSetting, Host, text)
            self.assertIn(repr(text), str(error))

    def test_match(self) -> None:
        """A certificate for the host, among others, has nothing wrong with its names."""
        self.assertIsNone(self.mismatch("mc1.example", "a.example", "mc1.example"))
        self.assertIsNone(self.mismatch("mc1.pool.example", "*.pool.example"))
        self.assertIsNone(self.mismatch("10.0.0.1", "a.example", "10.0.0.1"))
        self.assertIsNone(self.mismatch("fe80::1%eth0", "fe80::1"))

    def test_mismatch(self) -> None:
        """The error has the certificate's names, and says whom we wanted, as it was written."""
        error = self.mismatch("MC1.Example", "a.example", "10.0.0.1")
        assert error is not None
        self.assertEqual(error.names, ("a.example", "10.0.0.1"))
        self.assertEqual(
            str(error),
            "mc1: its certificate is for a.example, 10.0.0.1, and not for MC1.Example; correct the"
            " server's address, or set server_name if it is the right server",
        )

    def test_network(self) -> None:
        """A network in the place of an address matches none of its addresses."""
        network = x509.IPAddress(ip_network("10.0.0.0/8"))
        error = self.mismatch("10.0.0.0", network)
        assert error is not None
        self.assertEqual(error.names, ("10.0.0.0/8",))
        self.assertIsNone(self.mismatch("10.0.0.1", network, "10.0.0.1"))

    def test_useless_names(self) -> None:
        """A name that can match nothing does not spoil the others."""
        for useless in ("*", "*.example", "a.*.example", "*.*.example", "a*b.c.example"):
            self.assertIsNone(self.mismatch("mc1.example", useless, "mc1.example"), useless)
            self.assertIsNotNone(self.mismatch("a.b.example", useless), useless)
        self.assertIsNone(self.mismatch("mc1.example", x509.DNSName("10.0.0.1"), "mc1.example"))

    def test_trick(self) -> None:
        """A NUL spoils them all: whoever issues that is not to be trusted in the rest."""
        for trick in ("mc1.example\0.evil.example", "\0"):
            error = self.mismatch("mc1.example", "mc1.example", x509.DNSName(trick))
            assert error is not None
            self.assertIn("a trick", error.reason)
            self.assertIn("\\x00", error.reason)


class VerificationErrorTests(SynchronousTestCase):
    def test_expired(self) -> None:
        """The date of expiry is in the message, in UTC."""
        error = verification_error("mc1", X509VerificationCodes.ERR_CERT_HAS_EXPIRED, 0, facts())
        self.assertIs(type(error), CertificateExpired)
        self.assertEqual(
            str(error),
            "mc1: its certificate (CN=mc1.example) expired on 2015-04-20T12:30:05Z;"
            " the server needs a new one",
        )
        self.assertEqual((error.not_before, error.not_after, error.depth), (FIRST, LAST, 0))
        self.assertEqual(error.subject, "CN=mc1.example")
        self.assertEqual(error.names, ("mc1.example", "10.0.0.1"))

    def test_depth(self) -> None:
        """What is wrong with an authority's certificate is not said of the server's own."""
        error = verification_error("mc1", X509VerificationCodes.ERR_CERT_HAS_EXPIRED, 2, facts())
        self.assertIn("of an authority in its chain (CN=mc1.example, depth 2)", str(error))
        self.assertEqual(error.depth, 2)

    def test_classes(self) -> None:
        """Each of OpenSSL's findings has its class."""
        codes = X509VerificationCodes
        for code, kind in (
            (codes.ERR_CERT_NOT_YET_VALID, CertificateNotYetValid),
            (codes.ERR_DEPTH_ZERO_SELF_SIGNED_CERT, CertificateUntrusted),
            (codes.ERR_SELF_SIGNED_CERT_IN_CHAIN, CertificateUntrusted),
            (codes.ERR_UNABLE_TO_GET_ISSUER_CERT, CertificateUntrusted),
            (codes.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, CertificateUntrusted),
            (codes.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, CertificateUntrusted),
            (codes.ERR_CERT_SIGNATURE_FAILURE, CertificateUntrusted),
            (codes.ERR_INVALID_CA, CertificateUntrusted),
            (codes.ERR_CERT_UNTRUSTED, CertificateUntrusted),
            (codes.ERR_CERT_REJECTED, CertificateUntrusted),
            (codes.ERR_CERT_REVOKED, CertificateError),
            (codes.ERR_INVALID_PURPOSE, CertificateError),
            (codes.ERR_PATH_LENGTH_EXCEEDED, CertificateError),
            (66, CertificateError),
            (9999, CertificateError),
        ):
            error = verification_error("mc1", code, 0, facts())
            self.assertIs(type(error), kind, code)
            self.assertNotIn("{", str(error))

    def test_other(self) -> None:
        """A finding that has no words of ours is told by its name, or at least by its number."""
        code = X509VerificationCodes.ERR_PATH_LENGTH_EXCEEDED
        error = verification_error("mc1", code, 1, facts())
        self.assertIn(f"was not accepted: path length exceeded ({code})", str(error))
        self.assertIn("OpenSSL error (9999)", str(verification_error("mc1", 9999, 0, facts())))

    def test_braces(self) -> None:
        """A subject that looks like a template is shown as it is."""
        tricky = replace(facts(), subject="CN={whose.__class__}", issuer="CN={0}")
        for code in (18, 20, 26, 9999):
            error = verification_error("mc1", code, 0, tricky)
            self.assertTrue("{whose.__class__}" in str(error) or "{0}" in str(error))

    def test_besides(self) -> None:
        """What is wrong as well is told behind, and changes nothing else."""
        other = pin_mismatch("mc1", facts())
        error = verification_error("mc1", 10, 0, facts(), other)
        self.assertIs(type(error), CertificateExpired)
        self.assertTrue(str(error).endswith(f"; besides, {other.reason}"))


class OtherErrorsTests(SynchronousTestCase):
    def test_pin(self) -> None:
        """The error says what pin the server has, so that one can compare."""
        error = pin_mismatch("mc1", facts())
        self.assertIs(type(error), PinMismatch)
        self.assertIn("its pin is ", str(error))
        self.assertEqual(error.not_after, LAST)

    def test_unreadable(self) -> None:
        """The error for a certificate that can not be read names the cause, fit to be shown."""
        error = unreadable("mc1", 1, ValueError("bad\x1bthing"))
        self.assertIs(type(error), CertificateError)
        self.assertEqual(
            str(error), "mc1: its certificate can not be read (ValueError: bad\\x1bthing)"
        )
        self.assertEqual(error.depth, 1)
