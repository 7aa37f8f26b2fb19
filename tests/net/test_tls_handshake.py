"""The words of OpenSSL, of its releases 3.0 to 4.0, become the right errors."""

from __future__ import annotations

from OpenSSL import SSL, crypto
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import (
    CertificateError,
    ClientCertificateRefused,
    ConnectFailed,
    PlaintextServer,
    TLSFailed,
    TLSVersionRefused,
)
from txtlsmc.net.tls_handshake import handshake_failure, openssl_reasons


def failure(
    *reasons: str, peer_seen: bool = False, client_certificate: bool = False
) -> ConnectFailed:
    queue = [("SSL routines", "", reason) for reason in reasons]
    return handshake_failure(
        "mc1",
        SSL.Error(queue),
        peer_seen=peer_seen,
        client_certificate=client_certificate,
        minimum_version="1.3",
    )


class HandshakeFailureTests(SynchronousTestCase):
    def test_plaintext(self) -> None:
        """A first answer that is not TLS means a plaintext port."""
        for reasons in (
            ("wrong version number",),
            ("http request",),
            ("packet length too long", "record layer failure"),
            ("data length too long", "record layer failure"),
        ):
            error = failure(*reasons)
            self.assertIs(type(error), PlaintextServer, reasons)
            self.assertIn(reasons[0], str(error))

    def test_broken_later(self) -> None:
        """What was TLS before is not a plaintext port, whatever comes then."""
        self.assertIs(type(failure("wrong version number", peer_seen=True)), TLSFailed)

    def test_version(self) -> None:
        """Both ways to find no common version are told so, with the least that we accept."""
        for reason in (
            "unsupported protocol",
            "tlsv1 alert protocol version",
            "tls alert protocol version",
            "version too low",
        ):
            error = failure(reason)
            self.assertIs(type(error), TLSVersionRefused, reason)
            self.assertIn("1.3 at least", str(error))

    def test_client_certificate(self) -> None:
        """The alerts about a certificate are about ours, by the names of every release."""
        for alert in (
            "tlsv13 alert certificate required",
            "sslv3 alert bad certificate",
            "ssl/tls alert bad certificate",
            "tls alert bad certificate",
            "tlsv1 alert unknown ca",
            "tlsv1 alert access denied",
            "sslv3 alert certificate unknown",
            "ssl/tls alert certificate expired",
            "tls alert unsupported certificate",
            "sslv3 alert certificate revoked",
        ):
            self.assertIn("wants a client certificate", str(failure(alert)))
            error = failure(alert, client_certificate=True)
            self.assertIs(type(error), ClientCertificateRefused, alert)
            self.assertIn("does not accept our client certificate", str(error))

    def test_handshake_failure(self) -> None:
        """ "Handshake failure" is about our certificate only once the server has shown its own."""
        for alert in ("sslv3 alert handshake failure", "tls alert handshake failure"):
            self.assertIs(type(failure(alert, peer_seen=True)), ClientCertificateRefused)
            self.assertIs(type(failure(alert)), TLSFailed)

    def test_our_own_words(self) -> None:
        """What OpenSSL finds on our side is no alert of the server."""
        for reason in (
            "bad certificate",
            "unknown ca",
            "certificate required",
            "handshake failure",
        ):
            self.assertIs(type(failure(reason, peer_seen=True)), TLSFailed, reason)

    def test_name(self) -> None:
        """A server that does not know the name says so, and the error what to set."""
        for reason in ("tlsv1 unrecognized name", "tlsv1 alert unrecognized name"):
            error = failure(reason)
            self.assertIs(type(error), TLSFailed)
            self.assertIn("set server_name", str(error))

    def test_verification(self) -> None:
        """A failed verification is the certificate's fault even when nobody noted the cause."""
        self.assertIs(type(failure("certificate verify failed")), CertificateError)

    def test_other(self) -> None:
        """Anything else is quoted."""
        error = failure("tlsv1 alert internal error", "more of it")
        self.assertIs(type(error), TLSFailed)
        self.assertIn("(tlsv1 alert internal error, more of it)", str(error))

    def test_end_of_stream(self) -> None:
        """An end without a word says how far it had come."""
        self.assertIs(type(failure("unexpected eof while reading")), TLSFailed)
        self.assertIn("during the TLS handshake", str(failure("unexpected eof while reading")))
        self.assertIs(type(failure(peer_seen=True)), ConnectFailed)


class ReasonsTests(SynchronousTestCase):
    def test_reasons(self) -> None:
        """Only errors with OpenSSL's queue have words of OpenSSL's."""
        for error, reasons in (
            (
                SSL.Error([("a", "b", "Some Reason"), ("a", "b", "another")]),
                ["some reason", "another"],
            ),
            (crypto.Error([("a", "b", "reason")]), ["reason"]),
            (SSL.Error(), []),
            (SSL.Error([]), []),
            (SSL.SysCallError(104, "ECONNRESET"), []),
            (SSL.ZeroReturnError(), []),
            (ValueError("text"), []),
            (None, []),
        ):
            self.assertEqual(openssl_reasons(error), reasons)
