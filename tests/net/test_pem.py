"""Certificates and keys come from files, folders and text; a key comes out nowhere else."""

from __future__ import annotations

import base64
import os
import traceback
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import InvalidSetting
from txtlsmc.net.pem import load_client_certificate, load_trust_roots
from txtlsmc.net.tls import ClientTLS
from txtlsmc.settings import TLS, Server
from txtlsmc.testing.authority import Authority
from txtlsmc.testing.issued import IssuedCertificate

ONE, TWO = Authority("one"), Authority("two")
CLIENT = ONE.intermediate().client()


def roots(ca: str | bytes) -> list[x509.Certificate]:
    return [one.to_cryptography() for one in load_trust_roots(TLS(ca=ca))]


class FolderTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def file(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)


class TrustRootsTests(FolderTestCase):
    def test_text(self) -> None:
        """PEM text is taken as it is, be it str or bytes, with other text around it."""
        both = b"# ours\n" + ONE.pem + b"\n# theirs\n" + TWO.pem.replace(b"\n", b"\r\n")
        for text in (both, both.decode()):
            self.assertEqual(roots(text), [ONE.certificate, TWO.certificate])

    def test_file(self) -> None:
        """A file may hold several certificates."""
        path = self.file("ca.txt", ONE.pem + TWO.pem)
        for given in (path, os.fsencode(path)):
            self.assertEqual(roots(given), [ONE.certificate, TWO.certificate])

    def test_folder(self) -> None:
        """Of a folder, the .pem and .crt files count; one without a certificate does no harm."""
        self.file("b.crt", TWO.pem)
        self.file("a.pem", ONE.pem)
        self.file("c.txt", Authority("three").pem)
        self.file("key.pem", CLIENT.key_pem)
        self.assertEqual(roots(str(self.folder)), [ONE.certificate, TWO.certificate])

    def test_platform_bundle(self) -> None:
        """The certificates that come with most systems can be read."""
        bundle = "/etc/ssl/certs/ca-certificates.crt"
        if not os.path.exists(bundle):
            self.assertRaises(InvalidSetting, roots, bundle)
        else:
            self.assertGreater(len(load_trust_roots(TLS(ca=bundle))), 50)

    def assert_invalid(self, ca: str | bytes, *words: str) -> None:
        error = self.assertRaises(InvalidSetting, roots, ca)
        for word in ("ca", *words):
            self.assertIn(word, str(error))

    def test_unusable(self) -> None:
        """The error says which setting and which file can not be used, and why."""
        missing = str(self.folder / "missing.pem")
        self.assert_invalid(missing, repr(missing), "No such file")
        self.assert_invalid(str(self.folder), "no .pem or .crt file in the folder")
        empty = self.file("empty.pem", b"")
        self.assert_invalid(empty, repr(empty), "no certificate")
        self.assert_invalid(str(self.folder), repr(empty), "no certificate")
        broken = self.file("broken.pem", TWO.pem + ONE.pem.replace(b"M", b"N"))
        self.assert_invalid(broken, repr(broken), "can not be read")
        self.assert_invalid(str(self.folder), repr(broken), "can not be read")
        self.assert_invalid(ONE.pem[:200], "as PEM text", "can not be read")
        self.assert_invalid(TWO.pem + ONE.pem[:200], "cut off")
        self.assert_invalid("two\nlines", "neither the path of a file nor PEM text")
        self.assert_invalid("nul\0", "neither the path of a file nor PEM text")

    def test_unreadable(self) -> None:
        """A file of a folder that can not be read is an error: trust does not shrink unseen."""
        self.file("a.pem", ONE.pem)
        (self.folder / "b.pem").symlink_to(self.folder / "gone.pem")
        self.assert_invalid(str(self.folder), "b.pem", "No such file")


class ClientCertificateTests(FolderTestCase):
    def test_forms(self) -> None:
        """The certificate, its chain and its key come from one file or text, in any order."""
        reordered = CLIENT.key_pem + CLIENT.chain_pem
        path = self.file("client.pem", CLIENT.pem)
        for given in (CLIENT.pem, CLIENT.pem.decode(), reordered, path, os.fsencode(path)):
            chain, key = load_client_certificate(TLS(client_certificate=given))
            self.assertEqual(chain, [CLIENT.certificate, *CLIENT.intermediates])
            self.assertEqual(key.public_key(), CLIENT.key.public_key())

    def test_old_form(self) -> None:
        """A key in OpenSSL's older form, behind the parameters of its curve, is found."""
        old = CLIENT.key.private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
        )
        parameters = (
            b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        )
        _, key = load_client_certificate(
            TLS(client_certificate=CLIENT.chain_pem + parameters + old)
        )
        self.assertEqual(key.public_key(), CLIENT.key.public_key())


class SecretTests(FolderTestCase):
    """Whatever is wrong with a client certificate, the error says so, and never shows the key."""

    def setUp(self) -> None:
        super().setUp()
        lines = CLIENT.key_pem.decode().splitlines()
        self.secrets = [lines[1][:40], lines[1][-30:], lines[2][:40]]

    def assert_invalid(
        self, content: bytes, *words: str, issued: IssuedCertificate = CLIENT
    ) -> None:
        """Use *content* as text and as a file."""
        path = self.file("client.pem", content)
        for given in (content, content.decode(), path):
            tls = TLS(client_certificate=given)
            try:
                ClientTLS(Server("localhost"), tls)
            except InvalidSetting:
                caught, failure = traceback.format_exc(), Failure(captureVars=True)
            else:
                self.fail("not refused")
            error = failure.value
            assert error is not None and error.__traceback__ is not None
            self.assertIsNone(error.__cause__)
            self.assertIsNone(error.__context__)
            frames = list(traceback.walk_tb(error.__traceback__))[1:]  # the first is this test
            report = traceback.StackSummary.extract(iter(frames), capture_locals=True).format()
            everything = "".join((caught, str(error), repr(error), *report))
            for secret in self.secrets:
                self.assertNotIn(secret, everything)
            for word in ("client_certificate", *words):
                self.assertIn(word, str(error))
            if given is path:
                self.assertIn(repr(path), str(error))

    def test_nothing_inside(self) -> None:
        """A key without a certificate, and a certificate without a key, are not enough."""
        self.assert_invalid(CLIENT.key_pem, "no certificate")
        self.assert_invalid(CLIENT.chain_pem, "no private key")

    def test_other_key(self) -> None:
        """The key must be that of the first certificate."""
        self.assert_invalid(ONE.client().chain_pem + CLIENT.key_pem, "not that of the first")
        self.assert_invalid(ONE.pem + CLIENT.pem, "not that of the first")

    def test_broken(self) -> None:
        """A key or a certificate that is damaged, or cut off, can not be read."""
        key, chain = CLIENT.key_pem, CLIENT.chain_pem
        self.assert_invalid(chain + key.replace(b"\nMI", b"\n!!"), "private key", "can not be read")
        self.assert_invalid(chain + key.replace(b"\nMI", b"\nAA"), "private key", "can not be read")
        self.assert_invalid(chain + key[:-30], "private key", "can not be read")
        self.assert_invalid(chain.replace(b"\nMI", b"\nAA") + key, "certificate", "can not be read")

    def test_encrypted(self) -> None:
        """A key under a password is refused, with the way to take the password off."""
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            locked = CLIENT.key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"pw"))
            self.assert_invalid(CLIENT.chain_pem + locked, "encrypted", "openssl pkey")

    def test_no_pem(self) -> None:
        """What is neither PEM nor a path is not shown, for it may be a key all the same."""
        bare = base64.b64encode(
            CLIENT.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        ).decode()
        self.secrets += [bare[:40], bare[-40:]]
        lines = b"\n".join(CLIENT.key_pem.splitlines()[1:-1])
        for given, words in (
            (bare, "it is not shown"),
            (bare * 3, "it is not shown"),
            (lines.decode(), "it is not shown"),
            (lines, "it is not shown"),
        ):
            error = self.assertRaises(
                InvalidSetting, load_client_certificate, TLS(client_certificate=given)
            )
            self.assertIn(words, str(error))
            for secret in self.secrets:
                self.assertNotIn(secret, str(error))

    def test_long_path(self) -> None:
        """A path is not taken for a key for being long."""
        deep = self.folder / ("a" * 70)
        deep.mkdir()
        (deep / "client.pem").write_bytes(CLIENT.pem)
        load_client_certificate(TLS(client_certificate=str(deep / "client.pem")))

    def test_folder(self) -> None:
        """A folder is no client certificate."""
        error = self.assertRaises(
            InvalidSetting, load_client_certificate, TLS(client_certificate=str(self.folder))
        )
        self.assertIn("Is a directory", str(error))
