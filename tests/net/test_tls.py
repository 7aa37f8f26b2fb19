"""A client meets servers of all kinds, by real OpenSSL in memory: whom does it trust?"""

from __future__ import annotations

import os
import ssl as stdlib_ssl
import warnings
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID, NameOID
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.net.handshakes import Meeting, Scripted, meet
from txtlsmc.errors import (
    CertificateError,
    CertificateExpired,
    CertificateNotYetValid,
    CertificateUntrusted,
    CertificateWrongHost,
    ClientCertificateRefused,
    ConnectFailed,
    InvalidSetting,
    PinMismatch,
    PlaintextServer,
    TLSFailed,
    TLSVersionRefused,
)
from txtlsmc.net.certificates import CertificateFacts
from txtlsmc.net.tls import ClientTLS, TLSAttempt, handshake_error
from txtlsmc.settings import TLS, Server
from txtlsmc.testing.authority import Authority
from txtlsmc.testing.issued import IssuedCertificate, PrivateKey

YESTERDAY = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
LOCALHOST = Server("localhost:11211")


@cache
def authority() -> Authority:
    return Authority()


@cache
def stranger() -> Authority:
    return Authority("somebody else")


def crafted(
    extension: x509.ExtensionType,
    *,
    issuer: x509.Name | None = None,
    signer: PrivateKey | None = None,
) -> IssuedCertificate:
    """Return a certificate that no authority would issue; self-signed unless there is a signer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder(issuer or subject, subject, key.public_key())
    builder = builder.serial_number(1).add_extension(extension, critical=False)
    builder = builder.not_valid_before(YESTERDAY).not_valid_after(YESTERDAY + timedelta(days=9))
    return IssuedCertificate(builder.sign(signer or key, hashes.SHA256()), (), key)


def attempt_with(tls: TLS | None = None, server: Server = LOCALHOST) -> TLSAttempt:
    return ClientTLS(server, tls or TLS(ca=authority().pem)).attempt()


class MeetingTestCase(SynchronousTestCase):
    def assert_accepted(
        self,
        issued: IssuedCertificate,
        tls: TLS | None = None,
        server: Server = LOCALHOST,
        options: CertificateOptions | None = None,
    ) -> Meeting:
        attempt = attempt_with(tls, server)
        meeting = meet(attempt, options or issued.server_options())
        self.assertTrue(meeting.agreed, meeting.client.lost)
        self.assertIsNone(attempt.failure)
        assert attempt.peer is not None
        self.assertEqual(attempt.peer.pin, issued.pin)
        return meeting

    def refusal(
        self,
        server_side: IssuedCertificate | CertificateOptions | Protocol,
        tls: TLS | None = None,
        server: Server = LOCALHOST,
    ) -> ConnectFailed:
        """Meet, see that the handshake fails and nothing was sent, and return the error."""
        attempt = attempt_with(tls, server)
        if isinstance(server_side, IssuedCertificate):
            server_side = server_side.server_options()
        meeting = meet(attempt, server_side)
        self.assertFalse(meeting.client.completed)
        self.assertEqual(meeting.server.received, b"")
        assert meeting.client.lost is not None
        error = handshake_error(server.name, meeting.client.lost, attempt)
        self.assertEqual(error.server, server.name)
        if isinstance(error, CertificateError):
            self.assertIs(error, attempt.failure)
            self.assertIsNone(attempt.peer)
        return error

    def assert_refused(
        self,
        kind: type[ConnectFailed],
        server_side: IssuedCertificate | CertificateOptions | Protocol,
        *words: str,
        tls: TLS | None = None,
        server: Server = LOCALHOST,
    ) -> ConnectFailed:
        error = self.refusal(server_side, tls, server)
        self.assertIs(type(error), kind, error)
        for word in words:
            self.assertIn(word, str(error))
        return error

    def assert_certificate_refused(
        self,
        kind: type[CertificateError],
        server_side: IssuedCertificate,
        *words: str,
        tls: TLS | None = None,
        server: Server = LOCALHOST,
    ) -> CertificateError:
        error = self.assert_refused(kind, server_side, *words, tls=tls, server=server)
        assert isinstance(error, CertificateError)
        return error


class AcceptedTests(MeetingTestCase):
    def test_names(self) -> None:
        """A server is accepted under each of the ways to write the name that it has."""
        for wanted, in_certificate in (
            ("localhost", "localhost"),
            ("LOCALHOST", "localhost"),
            ("localhost", "LocalHost"),
            ("mc1.example.", "mc1.example"),
            ("mc1.pool.example", "*.pool.example"),
            ("mc1.pool.example", "mc1.POOL.example"),
            ("bücher.example", "bücher.example"),
            ("BÜCHER.example", "bücher.example"),
            ("xn--bcher-kva.example", "bücher.example"),
            ("10.0.0.1", "10.0.0.1"),
            ("[2001:db8::1]:11211", "2001:0db8:0:0:0:0:0:1"),
        ):
            issued = authority().issue("other.example", in_certificate)
            self.assert_accepted(issued, server=Server(wanted))

    def test_peer(self) -> None:
        """What the server's certificate says is known once it is accepted."""
        attempt = attempt_with()
        self.assertIsNone(attempt.peer)
        meet(attempt, authority().issue(not_after=YESTERDAY + timedelta(days=15)).server_options())
        assert attempt.peer is not None
        self.assertEqual(attempt.peer.names, ("localhost", "127.0.0.1"))
        self.assertEqual(attempt.peer.not_after, YESTERDAY + timedelta(days=15))
        self.assertEqual(attempt.peer.days_left(YESTERDAY), 15)

    def test_server_name(self) -> None:
        """The certificate can be for another name than the server's own, if one says so."""
        tls = TLS(ca=authority().pem, server_name="real.example")
        self.assert_accepted(authority().issue("real.example"), tls)
        self.assert_accepted(authority().issue("real.example"), tls, Server("unix:/run/mc.sock"))
        self.assert_certificate_refused(CertificateWrongHost, authority().issue(), tls=tls)

    def test_address(self) -> None:
        """Whatever address is dialled, the certificate must be for the server's own name."""
        tunnelled = Server("mc1.example:11211", address="127.0.0.1:11219")
        self.assert_accepted(authority().issue("mc1.example"), server=tunnelled)
        self.assert_certificate_refused(
            CertificateWrongHost, authority().issue("127.0.0.1"), server=tunnelled
        )

    def test_intermediate(self) -> None:
        """The server's chain may have authorities between it and the root that we trust."""
        self.assert_accepted(authority().intermediate().intermediate().issue())

    def test_misplaced_address(self) -> None:
        """An address that stands among the DNS names as well does no harm, and no good."""
        both = authority().issue("localhost", x509.DNSName("10.0.0.1"))
        self.assert_accepted(both)
        self.assert_certificate_refused(
            CertificateWrongHost, both, "not for 10.0.0.1", server=Server("10.0.0.1")
        )
        only = authority().issue(x509.DNSName("10.0.0.1"))
        self.assert_certificate_refused(CertificateWrongHost, only, "is for 10.0.0.1, and not for")

    def test_other_kinds_of_names(self) -> None:
        """Names of other kinds are nothing to us: not even their form matters."""
        uri = x509.UniformResourceIdentifier("urn:a:b:c")
        self.assert_accepted(authority().issue("localhost", uri, x509.RFC822Name("a@b.example")))


class HelloTests(MeetingTestCase):
    def server_name_sent(self, server: Server, tls: TLS | None = None) -> bytes | None:
        meeting = meet(attempt_with(tls, server), authority().issue().server_options())
        return meeting.server.tls.get_servername()

    def test_server_name(self) -> None:
        """The server is told the name that is expected of it, and never an IP address."""
        ca = authority().pem
        self.assertEqual(self.server_name_sent(Server("mc1.example")), b"mc1.example")
        self.assertEqual(self.server_name_sent(Server("bücher.example.")), b"xn--bcher-kva.example")
        self.assertIsNone(self.server_name_sent(Server("127.0.0.1")))
        self.assertIsNone(self.server_name_sent(Server("[::1]:11211")))
        tls = TLS(ca=ca, server_name="real.example")
        self.assertEqual(self.server_name_sent(Server("127.0.0.1"), tls), b"real.example")

    def test_no_protocols(self) -> None:
        """No application protocol is offered: a server that insists on one finds none."""
        offered: list[list[bytes]] = []

        def select(connection: SSL.Connection, protocols: list[bytes]) -> bytes:
            offered.append(protocols)
            return protocols[0]

        options = authority().issue().server_options()
        options.getContext().set_alpn_select_callback(select)
        self.assertTrue(meet(attempt_with(), options).agreed)
        self.assertEqual(offered, [])


class WrongHostTests(MeetingTestCase):
    def test_other_name(self) -> None:
        """A certificate for others is refused, and the error has their names."""
        issued = authority().issue("a.example", "b.example", "10.0.0.1")
        error = self.assert_certificate_refused(
            CertificateWrongHost,
            issued,
            "a.example, b.example, 10.0.0.1",
            "localhost",
            "server_name",
        )
        self.assertEqual(error.names, ("a.example", "b.example", "10.0.0.1"))
        self.assertEqual(error.depth, 0)
        self.assertEqual(error.not_after, issued.certificate.not_valid_after_utc)

    def test_address_in_place_of_name(self) -> None:
        """A name does not make a certificate good for an address, nor the other way round."""
        self.assert_certificate_refused(
            CertificateWrongHost,
            authority().issue("localhost"),
            "is for localhost, and not for 127.0.0.1",
            server=Server("127.0.0.1"),
        )
        self.assert_certificate_refused(
            CertificateWrongHost,
            authority().issue("127.0.0.1"),
            "is for 127.0.0.1, and not for localhost",
        )

    def test_no_alternative_name(self) -> None:
        """A common name alone counts for nothing, even the right one."""
        error = self.assert_certificate_refused(
            CertificateWrongHost,
            authority().common_name_only("localhost"),
            "subjectAltName",
            "common name (localhost) does not count",
        )
        self.assertEqual(error.names, ())
        self.assert_certificate_refused(
            CertificateWrongHost,
            authority().issue("other.example", common_name="localhost"),
            "is for other.example",
        )

    def test_nul(self) -> None:
        """A name with a NUL in it is refused, as is the whole certificate around it."""
        trick = x509.DNSName("localhost\0.evil.example")
        for issued in (authority().issue(trick), authority().issue("localhost", trick)):
            error = self.assert_certificate_refused(CertificateWrongHost, issued, "trick")
            self.assertIn("localhost\\x00.evil.example", error.names)
            self.assertNotIn("\0", str(error))

    def test_wildcards(self) -> None:
        """A wildcard stands for one label at the left, and for no part of one."""
        for wanted, wildcard in (
            ("pool.example", "*.pool.example"),
            ("a.b.pool.example", "*.pool.example"),
            ("mc1.example", "mc*.example"),
            ("mc1.pool.example", "mc1.*.example"),
            ("mc1.example", "*.*"),
            ("localhost", "*"),
            ("xn--bcher-kva.pool.example", "*.pool.example"),
        ):
            self.assert_certificate_refused(
                CertificateWrongHost, authority().issue(wildcard), server=Server(wanted)
            )

    def test_many_names(self) -> None:
        """Of very many names the message lists a few, and the error has all."""
        issued = authority().issue(*(f"mc{number}.example" for number in range(100)))
        error = self.assert_certificate_refused(CertificateWrongHost, issued, "and 92 more")
        self.assertEqual(len(error.names), 100)
        self.assertLess(len(str(error)), 500)


class UntrustedTests(MeetingTestCase):
    def test_other_authority(self) -> None:
        """A certificate of an authority that we do not know is refused, which is named."""
        error = self.assert_certificate_refused(
            CertificateUntrusted, stranger().issue(), "CN=somebody else", "set ca"
        )
        self.assertEqual(error.subject, "CN=localhost")
        self.assertEqual(error.names, ("localhost", "127.0.0.1"))

    def test_same_name(self) -> None:
        """An authority is known by its key: one that has only the name is refused."""
        self.assert_certificate_refused(CertificateUntrusted, Authority(authority().name).issue())

    def test_self_signed(self) -> None:
        """A self-signed certificate is refused, unless it is the one that we trust."""
        issued = authority().self_signed()
        self.assert_certificate_refused(
            CertificateUntrusted, issued, "nobody but itself", "CN=localhost", "set ca to it"
        )
        self.assert_accepted(issued, TLS(ca=issued.certificate_pem))

    def test_root_sent_along(self) -> None:
        """A root that the server sends along does not become a trusted one by that."""
        chained = stranger().issue()
        whole = IssuedCertificate(chained.certificate, (stranger().certificate,), chained.key)
        error = self.assert_certificate_refused(
            CertificateUntrusted, whole, "lead to an authority that is not trusted", "set ca to it"
        )
        self.assertEqual((error.depth, error.subject), (1, "CN=somebody else"))

    def test_missing_intermediate(self) -> None:
        """When the server sends no intermediate certificate, the error tells who is missing."""
        whole = authority().intermediate("between").issue()
        alone = IssuedCertificate(whole.certificate, (), whole.key)
        self.assert_certificate_refused(
            CertificateUntrusted, alone, "CN=between", "send its whole chain"
        )

    def test_leaf_as_authority(self) -> None:
        """A server's certificate can not vouch for another one."""
        leaf = authority().issue("evil.example")
        forged = crafted(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]),
            issuer=leaf.certificate.subject,
            signer=leaf.key,
        )
        chain = IssuedCertificate(forged.certificate, (leaf.certificate,), forged.key)
        error = self.refusal(chain)
        self.assertIsInstance(error, CertificateUntrusted)

    def test_made_for_a_client(self) -> None:
        """A client's certificate does not make a server."""
        self.assert_certificate_refused(
            CertificateError, authority().client("localhost"), "not made for a server"
        )

    def test_wrong_names_too(self) -> None:
        """When the names are wrong as well, the error tells both."""
        self.assert_certificate_refused(
            CertificateUntrusted, stranger().issue("a.example"), "besides", "a.example, and not for"
        )


class DatesTests(MeetingTestCase):
    def test_expired(self) -> None:
        """An expired certificate is refused with the date."""
        error = self.assert_certificate_refused(
            CertificateExpired,
            authority().issue(not_after=YESTERDAY),
            f"expired on {YESTERDAY:%Y-%m-%dT%H:%M:%SZ}",
            "its certificate (CN=localhost)",
        )
        self.assertEqual((error.not_after, error.depth), (YESTERDAY, 0))
        self.assertEqual(error.names, ("localhost", "127.0.0.1"))

    def test_not_yet_valid(self) -> None:
        """A certificate of tomorrow is refused with the date, and a hint at the clock."""
        tomorrow = YESTERDAY + timedelta(days=2)
        error = self.assert_certificate_refused(
            CertificateNotYetValid,
            authority().issue(not_before=tomorrow),
            f"not valid until {tomorrow:%Y-%m-%dT%H:%M:%SZ}",
            "clock",
        )
        self.assertEqual(error.not_before, tomorrow)

    def test_expired_intermediate(self) -> None:
        """When an authority on the way has expired, the error says which one."""
        between = authority().intermediate("between", not_after=YESTERDAY)
        error = self.assert_certificate_refused(
            CertificateExpired, between.issue(), "an authority in its chain (CN=between, depth 1)"
        )
        self.assertEqual((error.depth, error.not_after), (1, YESTERDAY))

    def test_expired_root(self) -> None:
        """A root that we trust can have expired as well."""
        old = Authority("old root", not_after=YESTERDAY)
        error = self.assert_certificate_refused(
            CertificateExpired, old.issue(), "CN=old root", "ca a new root", tls=TLS(ca=old.pem)
        )
        self.assertEqual(error.depth, 1)

    def test_root_first(self) -> None:
        """Of several that have expired, the error is about the one nearest to the root."""
        between = authority().intermediate(not_after=YESTERDAY)
        error = self.assert_certificate_refused(CertificateExpired, between.expired())
        self.assertEqual(error.depth, 1)

    def test_wrong_host_too(self) -> None:
        """A certificate that has expired and is for others counts as expired; both are told."""
        self.assert_certificate_refused(
            CertificateExpired,
            authority().expired("a.example"),
            "expired on",
            "besides, its certificate is for a.example, and not for localhost",
        )

    def test_untrusted_too(self) -> None:
        """A certificate that nobody vouches for is untrusted, whatever its dates."""
        self.assert_certificate_refused(CertificateUntrusted, stranger().expired())


class UnreadableTests(MeetingTestCase):
    def test_refused(self) -> None:
        """A certificate that can not be read is refused, whatever goes wrong in reading it."""
        rubbish = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"rubbish")
        issued = crafted(rubbish)
        tls = TLS(ca=issued.certificate_pem)
        self.assert_certificate_refused(CertificateError, issued, "can not be read", tls=tls)


class PinsTests(MeetingTestCase):
    def test_match(self) -> None:
        """A server whose public key is pinned is accepted, by any of the pins."""
        issued = authority().issue()
        for pins in ((issued.pin,), ("00" * 32, issued.pin.upper())):
            self.assert_accepted(issued, TLS(ca=authority().pem, pins=pins))

    def test_renewed(self) -> None:
        """A pin outlives the certificate: it is that of the key."""
        issued = authority().issue()
        renewed = authority().issue(key=issued.key)
        self.assert_accepted(renewed, TLS(ca=authority().pem, pins=(issued.pin,)))

    def test_mismatch(self) -> None:
        """A server with another key is refused, however well its chain is."""
        issued = authority().issue()
        tls = TLS(ca=authority().pem, pins=("00" * 32, authority().issue().pin))
        error = self.assert_certificate_refused(
            PinMismatch, issued, issued.pin, "none of the pinned ones", tls=tls
        )
        self.assertEqual(error.names, ("localhost", "127.0.0.1"))

    def test_authority_not_pinned(self) -> None:
        """The pin of an authority is no pin of the server."""
        between = authority().intermediate()
        pins = tuple(CertificateFacts.read(one.certificate).pin for one in (authority(), between))
        tls = TLS(ca=authority().pem, pins=pins)
        self.assert_certificate_refused(PinMismatch, between.issue(), tls=tls)

    def test_besides_the_chain(self) -> None:
        """A pin does not make up for anything else that is wrong."""
        for kind, issued in (
            (CertificateUntrusted, stranger().issue()),
            (CertificateExpired, authority().expired()),
            (CertificateWrongHost, authority().issue("a.example")),
        ):
            tls = TLS(ca=authority().pem, pins=(issued.pin,))
            self.assert_certificate_refused(kind, issued, tls=tls)


class InsecureTests(MeetingTestCase):
    def test_anybody(self) -> None:
        """Without verification everybody is accepted, and one can see who it was."""
        tls = TLS(insecure_no_verify=True)
        for issued in (
            authority().self_signed(),
            stranger().expired("a.example"),
            stranger().intermediate(not_after=YESTERDAY).issue(),
            authority().common_name_only(),
            authority().issue(x509.DNSName("localhost\0.evil.example")),
        ):
            self.assert_accepted(issued, tls)

    def test_pins(self) -> None:
        """Pins are checked all the same."""
        issued = authority().self_signed("a.example")
        self.assert_accepted(issued, TLS(insecure_no_verify=True, pins=(issued.pin,)))
        chained = stranger().intermediate(not_after=YESTERDAY).issue()
        self.assert_accepted(chained, TLS(insecure_no_verify=True, pins=(chained.pin,)))
        tls = TLS(insecure_no_verify=True, pins=("00" * 32,))
        for wrong in (issued, authority().issue(), stranger().intermediate().issue()):
            self.assert_certificate_refused(PinMismatch, wrong, tls=tls)


class VerdictTests(MeetingTestCase):
    def test_each_its_own(self) -> None:
        """Connections under way at the same time each get their own verdict."""
        client = ClientTLS(LOCALHOST, TLS(ca=authority().pem))
        attempts = [client.attempt() for _ in range(3)]
        servers = (authority().expired(), authority().issue(), stranger().issue())
        meetings = [
            meet(attempt, issued.server_options(), pumped=False)
            for attempt, issued in zip(attempts, servers, strict=True)
        ]
        for _ in range(20):
            for meeting in meetings:
                meeting.pump.pump()
        self.assertIsInstance(attempts[0].failure, CertificateExpired)
        self.assertIsNone(attempts[1].failure)
        self.assertTrue(meetings[1].agreed)
        self.assertIsInstance(attempts[2].failure, CertificateUntrusted)

    def test_latest(self) -> None:
        """An attempt that makes a second connection tells of that one, and not of the first."""
        attempt = attempt_with()
        meet(attempt, authority().expired().server_options())
        self.assertIsInstance(attempt.failure, CertificateExpired)
        self.assertTrue(meet(attempt, authority().issue().server_options()).agreed)
        self.assertIsNone(attempt.failure)
        self.assertIsNotNone(attempt.peer)


class OldServer(Protocol):
    """A server that speaks only TLS 1.1."""

    def __init__(self, issued: IssuedCertificate) -> None:
        context = stdlib_ssl.SSLContext(stdlib_ssl.PROTOCOL_TLS_SERVER)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = stdlib_ssl.TLSVersion.TLSv1_1
            context.maximum_version = stdlib_ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with TemporaryDirectory() as folder:
            context.load_cert_chain(*issued.write_to(folder))
        self._incoming, self._outgoing = stdlib_ssl.MemoryBIO(), stdlib_ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.said = ""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except stdlib_ssl.SSLWantReadError:
            pass
        except stdlib_ssl.SSLError as error:
            self.said = error.reason
        self.transport.write(self._outgoing.read())


class VersionTests(MeetingTestCase):
    def test_old_server(self) -> None:
        """A server that speaks only TLS 1.1 is refused; the error says what is the least."""
        old = OldServer(authority().issue())
        self.assert_refused(TLSVersionRefused, old, "1.2 at least", "protocol version")
        self.assertIn("UNSUPPORTED_PROTOCOL", old.said)

    def test_minimum(self) -> None:
        """TLS 1.2 will do unless 1.3 is asked for."""
        issued = authority().issue()
        options = issued.server_options(maximum_version="1.2")
        meeting = self.assert_accepted(issued, options=options)
        self.assertEqual(meeting.client.tls.get_protocol_version_name(), "TLSv1.2")
        only_new = TLS(ca=authority().pem, minimum_version="1.3")
        self.assert_refused(TLSVersionRefused, options, "1.3 at least", tls=only_new)
        newest = self.assert_accepted(issued, only_new)
        self.assertEqual(newest.client.tls.get_protocol_version_name(), "TLSv1.3")


class PlaintextTests(MeetingTestCase):
    def test_plaintext(self) -> None:
        """A server that answers with something else than TLS is told from all others."""
        for answer in (
            b"ERROR\r\n",
            b"\x81\x00" + bytes(22),
            b"\x81\x20" + bytes(6) + b"\0\0\0\x05" + bytes(12) + b"Auth.",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"GET / HTTP/1.0\r\n\r\n",
            b"SSH-2.0-OpenSSH\r\n",
            bytes(50),
            b"\xff" * 50,
        ):
            self.assert_refused(PlaintextServer, Scripted(answer), "plaintext port")

    def test_hung_up(self) -> None:
        """A server that hangs up says nothing of why, so the error tells what it often is."""
        error = self.refusal(Scripted(b""))
        self.assertIs(type(error), TLSFailed)
        self.assertIn("closed during the TLS handshake", str(error))

    def test_other_alert(self) -> None:
        """A server that refuses the handshake is quoted."""
        error = self.refusal(Scripted(b"\x15\x03\x03\x00\x02\x02\x28"))
        self.assertIs(type(error), TLSFailed)
        self.assertIn("handshake failure", str(error))


class ClientCertificateTests(MeetingTestCase):
    def options(self, version: str) -> CertificateOptions:
        return (
            authority().issue().server_options(client_ca=authority().pem, maximum_version=version)
        )

    def tls(self, certificate: IssuedCertificate | None) -> TLS:
        pem = None if certificate is None else certificate.pem
        return TLS(ca=authority().pem, client_certificate=pem)

    def test_accepted(self) -> None:
        """A client whose certificate the server's authority issued gets through, by any chain."""
        for version in ("1.2", "1.3"):
            for issuer in (authority(), authority().intermediate()):
                meeting = meet(attempt_with(self.tls(issuer.client("app"))), self.options(version))
                self.assertTrue(meeting.agreed)

    def test_old(self) -> None:
        """Under TLS 1.2 a client without the right certificate fails in the handshake."""
        options = self.options("1.2")
        self.assert_refused(
            ClientCertificateRefused, options, "wants", "set client_certificate", tls=self.tls(None)
        )
        for wrong in (stranger().client(), authority().issue(), authority().expired()):
            self.assert_refused(
                ClientCertificateRefused, options, "does not accept", tls=self.tls(wrong)
            )

    def test_new(self) -> None:
        """Under TLS 1.3 the refusal comes after the handshake, and is understood all the same."""
        for wrong, words in ((None, "wants"), (stranger().client(), "does not accept")):
            attempt = attempt_with(self.tls(wrong))
            meeting = meet(attempt, self.options("1.3"))
            self.assertTrue(meeting.client.completed)
            self.assertEqual(meeting.server.received, b"")
            assert meeting.client.lost is not None
            error = handshake_error("mc1", meeting.client.lost, attempt)
            self.assertIs(type(error), ClientCertificateRefused)
            self.assertIn(words, str(error))


class HandshakeErrorTests(MeetingTestCase):
    def test_lost_in_handshake(self) -> None:
        """Whatever else ends a handshake, the error says that it was in the handshake."""
        for reason in (
            ConnectionDone(),
            ConnectionLost(),
            SSL.ZeroReturnError(),
            SSL.SysCallError(-1, "Unexpected EOF"),
            SSL.Error([]),
            IndexError("raised by somebody's layer"),
        ):
            error = handshake_error("mc1", Failure(reason), attempt_with())
            self.assertIs(type(error), TLSFailed)
            self.assertIn("mc1: the connection was closed during the TLS handshake", str(error))

    def test_lost_later(self) -> None:
        """A server that closes once it was accepted is not said to have done so before."""
        attempt = attempt_with()
        meet(attempt, authority().issue().server_options())
        error = handshake_error("mc1", Failure(ConnectionDone()), attempt)
        self.assertIs(type(error), ConnectFailed)
        self.assertIn("after it had shown its certificate", str(error))


class SettingsTests(SynchronousTestCase):
    def assert_invalid(self, tls: TLS, *words: str, server: Server = LOCALHOST) -> None:
        error = self.assertRaises(InvalidSetting, ClientTLS, server, tls)
        for word in words:
            self.assertIn(word, str(error))

    def test_unix_socket(self) -> None:
        """A server behind a Unix socket needs a server name."""
        self.assert_invalid(TLS(), "unix:/run/mc", "server_name", server=Server("unix:/run/mc"))

    def test_host_name(self) -> None:
        """What no certificate can be for is refused at once."""
        for name in ("mc_1", "12345", "a..b", "-a.example", "a" * 64):
            self.assert_invalid(TLS(server_name=name), repr(name))

    def test_refused_by_openssl(self) -> None:
        """A client certificate that OpenSSL does not take is told before any connection."""
        key = rsa.generate_private_key(65537, 1024)
        self.assert_invalid(
            TLS(client_certificate=authority().issue(key=key).pem),
            "client_certificate",
            "too small",
        )

    def test_platform(self) -> None:
        """Without a ca the platform's authorities are trusted, as they were at the start."""
        folder = Path(self.mktemp())
        folder.mkdir()
        before = os.environ.get("SSL_CERT_FILE")

        def restore() -> None:
            os.environ.pop("SSL_CERT_FILE", None)
            if before is not None:
                os.environ["SSL_CERT_FILE"] = before

        self.addCleanup(restore)
        server = authority().issue().server_options()
        os.environ["SSL_CERT_FILE"] = str(authority().write_to(folder))
        ours = ClientTLS(LOCALHOST, TLS()).attempt()
        os.environ["SSL_CERT_FILE"] = str(stranger().write_to(folder, "other"))
        theirs = ClientTLS(LOCALHOST, TLS()).attempt()
        self.assertTrue(meet(ours, server).agreed)
        self.assertFalse(meet(theirs, server).agreed)
        self.assertIsInstance(theirs.failure, CertificateUntrusted)

    def test_read_once(self) -> None:
        """Files are read when the settings are taken, and not again for a connection."""
        folder = Path(self.mktemp())
        folder.mkdir()
        ca = authority().write_to(folder)
        client = ClientTLS(LOCALHOST, TLS(ca=str(ca)))
        ca.unlink()
        self.assertTrue(meet(client.attempt(), authority().issue().server_options()).agreed)
