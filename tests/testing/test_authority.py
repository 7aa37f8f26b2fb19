"""The certificate authority for tests makes what it says, as OpenSSL sees it."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from twisted.internet import ssl
from twisted.trial.unittest import SynchronousTestCase

from tests.net.handshakes import Meeting, meet
from txtlsmc.errors import InvalidArgument
from txtlsmc.testing.authority import Authority
from txtlsmc.testing.issued import IssuedCertificate

DAY = timedelta(days=1)


@cache
def authority() -> Authority:
    return Authority()


def names_of(issued: IssuedCertificate) -> list[str]:
    names = issued.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(name.value) for name in names.value]


def common_name_of(certificate: x509.Certificate) -> str:
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


def verify(issued: IssuedCertificate, root: Authority) -> None:
    """Let OpenSSL verify the chain, as a peer that trusts *root* would."""
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(root.certificate))
    intermediates = [crypto.X509.from_cryptography(one) for one in issued.intermediates]
    leaf = crypto.X509.from_cryptography(issued.certificate)
    crypto.X509StoreContext(store, leaf, intermediates).verify_certificate()


class IssueTests(SynchronousTestCase):
    def assert_refused(self, issued: IssuedCertificate, why: str) -> None:
        error = self.assertRaises(crypto.X509StoreContextError, verify, issued, authority())
        self.assertIn(why, str(error))

    def test_default(self) -> None:
        """Without a word a certificate is for localhost, by name and by address, for 90 days."""
        issued = authority().issue()
        self.assertEqual(names_of(issued), ["localhost", "127.0.0.1"])
        self.assertEqual(common_name_of(issued.certificate), "localhost")
        left = issued.certificate.not_valid_after_utc - datetime.now(UTC)
        self.assertTrue(89 * DAY < left <= 90 * DAY, left)
        verify(issued, authority())

    def test_names(self) -> None:
        """Names are told apart from addresses; wildcards and other scripts than Latin are names."""
        given = ("mc1.example", "*.mc.example", "bücher.example", "*.bücher.example", "10.0.0.1")
        issued = authority().issue(*given, "2001:db8::1")
        kinds = issued.certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
        self.assertEqual(
            kinds.get_values_for_type(x509.DNSName),
            [
                "mc1.example",
                "*.mc.example",
                "xn--bcher-kva.example",
                "*.xn--bcher-kva.example",
            ],
        )
        self.assertEqual(
            [str(one) for one in kinds.get_values_for_type(x509.IPAddress)],
            ["10.0.0.1", "2001:db8::1"],
        )

    def test_no_name(self) -> None:
        """What is no name is refused, and the error says how to have it all the same."""
        for name in ("", "two words", "localhost\0.evil.example", "a/b"):
            error = self.assertRaises(InvalidArgument, authority().issue, name)
            self.assertIn("x509.DNSName", str(error))

    def test_raw_name(self) -> None:
        """A name that is wrong on purpose gets into the certificate as it is."""
        issued = authority().issue(x509.DNSName("localhost\0.evil.example"))
        self.assertEqual(names_of(issued), ["localhost\0.evil.example"])
        self.assertEqual(list(issued.certificate.subject), [])

    def test_common_name(self) -> None:
        """The common name can be another one than the first name, and is cut to what fits."""
        issued = authority().issue("other.example", common_name="localhost")
        self.assertEqual(common_name_of(issued.certificate), "localhost")
        self.assertEqual(names_of(issued), ["other.example"])
        self.assertEqual(len(common_name_of(authority().issue("a" * 70).certificate)), 64)

    def test_common_name_only(self) -> None:
        """A certificate as of old has a common name and nothing else."""
        issued = authority().common_name_only("localhost")
        self.assertEqual(common_name_of(issued.certificate), "localhost")
        self.assertRaises(x509.ExtensionNotFound, names_of, issued)
        verify(issued, authority())

    def test_expired(self) -> None:
        """An expired certificate is refused for that, and was valid once."""
        issued = authority().expired()
        self.assert_refused(issued, "certificate has expired")
        self.assertLess(
            issued.certificate.not_valid_before_utc, issued.certificate.not_valid_after_utc
        )

    def test_not_yet_valid(self) -> None:
        """A certificate of tomorrow is refused for that."""
        self.assert_refused(authority().not_yet_valid(), "certificate is not yet valid")

    def test_validity(self) -> None:
        """The dates are those that were given; one alone moves the other out of its way."""
        first, last = datetime(2015, 1, 1, tzinfo=UTC), datetime(2015, 4, 20, tzinfo=UTC)
        both = authority().issue(not_before=first, not_after=last).certificate
        self.assertEqual((both.not_valid_before_utc, both.not_valid_after_utc), (first, last))
        ended = authority().issue(not_after=first).certificate
        self.assertEqual(
            (ended.not_valid_before_utc, ended.not_valid_after_utc), (first - DAY, first)
        )
        later = authority().issue(not_before=datetime(2090, 1, 1, tzinfo=UTC)).certificate
        self.assertEqual(later.not_valid_after_utc - later.not_valid_before_utc, 90 * DAY)

    def test_now(self) -> None:
        """An authority can live in another time."""
        now = datetime(2015, 4, 1, tzinfo=UTC)
        there = Authority(now=now)
        self.assertEqual(there.expired().certificate.not_valid_after_utc, now - DAY)
        self.assertEqual(there.intermediate().expired().certificate.not_valid_after_utc, now - DAY)

    def test_key(self) -> None:
        """The key is a new one each time, unless it is given: then the pin stays."""
        first, second = authority().issue(), authority().issue()
        self.assertNotEqual(first.pin, second.pin)
        self.assertEqual(authority().issue(key=first.key).pin, first.pin)

    def test_self_signed(self) -> None:
        """For a self-signed certificate only itself vouches."""
        issued = authority().self_signed()
        self.assertEqual(issued.certificate.issuer, issued.certificate.subject)
        self.assertEqual(names_of(issued), ["localhost", "127.0.0.1"])
        self.assert_refused(issued, "self-signed certificate")

    def test_other_authority(self) -> None:
        """Two authorities of the same name are two authorities."""
        self.assertRaises(crypto.X509StoreContextError, verify, Authority().issue(), authority())


class IntermediateTests(SynchronousTestCase):
    def test_chain(self) -> None:
        """The chain leads from the certificate up to the root, which is not in it."""
        outer = authority().intermediate("outer")
        inner = outer.intermediate("inner")
        issued = inner.issue()
        self.assertEqual([common_name_of(one) for one in issued.intermediates], ["inner", "outer"])
        chain = x509.load_pem_x509_certificates(issued.chain_pem)
        self.assertEqual(chain, [issued.certificate, *issued.intermediates])
        verify(issued, authority())

    def test_expired(self) -> None:
        """An intermediate authority can have expired while what it issued has not."""
        old = authority().intermediate(not_after=datetime.now(UTC) - DAY)
        error = self.assertRaises(crypto.X509StoreContextError, verify, old.issue(), authority())
        self.assertIn("expired", str(error))

    def test_expired_root(self) -> None:
        """A root can have expired too."""
        old = Authority(not_after=datetime.now(UTC) - DAY)
        error = self.assertRaises(crypto.X509StoreContextError, verify, old.issue(), old)
        self.assertIn("expired", str(error))


class FormsTests(SynchronousTestCase):
    def test_pem(self) -> None:
        """The PEM has the chain and then its private key."""
        issued = authority().intermediate().issue()
        self.assertEqual(issued.pem, issued.chain_pem + issued.key_pem)
        self.assertTrue(issued.chain_pem.startswith(issued.certificate_pem))
        key = load_pem_private_key(issued.key_pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self.assertEqual(key.public_key(), issued.certificate.public_key())

    def test_pin(self) -> None:
        """The pin is the SHA-256 of the public key in the certificate."""
        issued = authority().issue()
        public = issued.certificate.public_key()
        encoded = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.assertEqual(issued.pin, sha256(encoded).hexdigest())

    def test_files(self) -> None:
        """The key's file can be read by its owner only, even where a readable one was before."""
        folder = Path(self.mktemp())
        folder.mkdir()
        issued = authority().issue()
        key = folder / "mc.key"
        key.write_text("something longer than a key" * 50)
        key.chmod(0o644)
        self.addCleanup(os.umask, os.umask(0))
        files = issued.write_to(folder, "mc")
        self.assertEqual((files.chain, files.key), (folder / "mc.crt", key))
        self.assertEqual(files.chain.read_bytes(), issued.chain_pem)
        self.assertEqual(files.key.read_bytes(), issued.key_pem)
        self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o600)
        fresh = issued.write_to(folder)
        self.assertEqual(stat.S_IMODE(fresh.key.stat().st_mode), 0o600)
        self.assertEqual(authority().write_to(folder).read_bytes(), authority().pem)

    def test_repr(self) -> None:
        """No repr shows a key."""
        issued = authority().issue()
        secret = issued.key_pem.decode().splitlines()[1]
        for thing in (issued, authority(), issued.server_options()):
            self.assertNotIn(secret, repr(thing))
            self.assertNotIn("key=", repr(thing))
        self.assertEqual(repr(Authority("mine")), "<Authority 'mine'>")


class ServerOptionsTests(SynchronousTestCase):
    def meet(self, options: ssl.CertificateOptions, **client: object) -> Meeting:
        """Meet a client of Twisted's own that trusts the authority."""
        root = ssl.Certificate(crypto.X509.from_cryptography(authority().certificate))
        return meet(
            ssl.optionsForClientTLS("localhost", root, extraCertificateOptions=client), options
        )

    def test_agreed(self) -> None:
        """Twisted's own client accepts the server, by the newest version of TLS."""
        meeting = self.meet(authority().issue().server_options())
        self.assertTrue(meeting.agreed)
        self.assertEqual(meeting.client.tls.get_protocol_version_name(), "TLSv1.3")

    def test_chain(self) -> None:
        """The server sends the intermediate certificates along."""
        meeting = self.meet(authority().intermediate().issue().server_options())
        self.assertTrue(meeting.agreed)

    def test_versions(self) -> None:
        """The server's oldest and newest version can be chosen."""
        issued = authority().issue()
        old = self.meet(issued.server_options(maximum_version="1.2"))
        self.assertTrue(old.agreed)
        self.assertEqual(old.client.tls.get_protocol_version_name(), "TLSv1.2")
        only_new = issued.server_options(minimum_version="1.3")
        refused = self.meet(only_new, lowerMaximumSecurityTo=ssl.TLSVersion.TLSv1_2)
        self.assertFalse(refused.client.completed)

    def test_wrong_versions(self) -> None:
        """Versions that there are not, or that are the wrong way round, are refused at once."""
        issued = authority().issue()
        for lowest, highest in (("1.1", None), ("1.2", "2.0"), ("1.3", "1.2")):
            self.assertRaises(
                InvalidArgument,
                issued.server_options,
                minimum_version=lowest,
                maximum_version=highest,
            )

    def test_client_certificate(self) -> None:
        """With an authority for clients, only clients whom it vouches for get through."""
        options = authority().issue().server_options(client_ca=authority().pem)
        for client, welcome in (
            (None, False),
            (Authority("another").client(), False),
            (authority().issue(), False),  # made for a server
            (authority().client("app"), True),
        ):
            identity = (
                {"certificate": client.certificate, "privateKey": client.key} if client else {}
            )
            meeting = self.meet(options, **identity)
            self.assertEqual(meeting.agreed, welcome, client)
            if not welcome:
                assert meeting.server.lost is not None
                self.assertIsInstance(meeting.server.lost.value, SSL.Error)
