"""`tlsmc serve`: the embedded server as a process, and what is wrong with a command line."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.cli.processes import Command
from tests.cli.test_main import tlsmc
from txtlsmc import TLS, CertificateUntrusted, Credentials, InsecurePlaintext, connect
from txtlsmc.testing import Authority

_LISTENING = "listening on "
_CA = "CA file for clients: "


class ServeTests(TestCase):
    timeout = 60

    async def serve(self, *words: str, password: str | None = None) -> Command:
        environ = {} if password is None else {"TXTLSMC_PASSWORD": password}
        command = Command("serve", "--listen", "127.0.0.1:0", *words, environ=environ)
        self.addCleanup(command.kill)
        await command.line(_LISTENING)
        return command

    async def test_own_authority(self) -> None:
        """Without a certificate it makes an authority, and says where its file lies."""
        command = await self.serve("--username", "alice", password="wonderland")
        await command.line(_CA)
        ca = command.value(_CA).partition(" (")[0]
        cache = await connect(
            reactor,
            command.value(_LISTENING),
            tls=TLS(ca=ca),
            credentials=Credentials("alice", "wonderland"),
        )
        self.assertTrue(await cache.set("key", b"value"))
        await cache.close()
        command.signal("TERM")
        self.assertEqual((await command.ended, command.err), (0, ""))
        self.assertFalse(Path(ca).exists())
        self.assertNotIn("wonderland", command.out)

    async def test_given_certificate(self) -> None:
        """It serves with the certificate and key that it was given."""
        authority = Authority()
        files = authority.issue("127.0.0.1").write_to(self.folder())
        command = await self.serve("--certificate", str(files.chain), "--key", str(files.key))
        server = command.value(_LISTENING)
        cache = await connect(reactor, server, tls=TLS(ca=authority.pem))
        self.assertTrue(await cache.noop())
        await cache.close()
        await self.assertFailure(
            connect(reactor, server, tls=TLS(ca=Authority().pem)), CertificateUntrusted
        )

    async def test_plaintext(self) -> None:
        """--insecure-plaintext serves without TLS."""
        command = await self.serve("--insecure-plaintext")
        cache = await connect(reactor, command.value(_LISTENING), tls=InsecurePlaintext())
        self.assertTrue(await cache.noop())
        await cache.close()

    async def test_interrupt(self) -> None:
        """Ctrl-C ends it well, with connections open."""
        command = await self.serve("--insecure-plaintext")
        cache = await connect(reactor, command.value(_LISTENING), tls=InsecurePlaintext())
        self.addCleanup(cache.close)
        command.signal("INT")
        self.assertEqual((await command.ended, command.err), (0, ""))

    async def test_address_in_use(self) -> None:
        """An address that is taken is told in one line."""
        first = await self.serve("--insecure-plaintext")
        address = first.value(_LISTENING)
        second = Command("serve", "--insecure-plaintext", "--listen", address)
        self.addCleanup(second.kill)
        self.assertEqual(await second.ended, 81)
        self.assertEqual(len(second.err.splitlines()), 1)
        self.assertIn("Address already in use", second.err)

    def folder(self) -> str:
        folder: str = self.mktemp()
        Path(folder).mkdir(parents=True)
        return folder


class ServeUsageTests(SynchronousTestCase):
    def setUp(self) -> None:
        if (password := os.environ.pop("TXTLSMC_PASSWORD", None)) is not None:
            self.addCleanup(os.environ.__setitem__, "TXTLSMC_PASSWORD", password)

    def assertRefused(self, said: str, *words: str) -> None:
        ran = tlsmc("serve", *words)
        self.assertEqual((ran.code, ran.out), (64, ""))
        self.assertIn(said, ran.err)
        self.assertTrue(ran.err.endswith("Try 'tlsmc serve --help'.\n"))

    def test_wrong_command_lines(self) -> None:
        """What can not be right is refused at once, with what to write instead."""
        for said, words in (
            ("ADDRESS:PORT", ["--listen", "nonsense"]),
            ("ADDRESS:PORT", ["--listen", "cache.example:11211"]),
            ("from 0 to 65535, not '65536'", ["--listen", "127.0.0.1:65536"]),
            ("go together", ["--certificate", "file"]),
            ("go together", ["--key", "file"]),
            ("can not read 'missing'", ["--certificate", "missing", "--key", "missing"]),
            ("TXTLSMC_PASSWORD", ["--username", "alice"]),
            ("from 1 to 1048576", ["--memory", "0"]),
            ("exclude", ["--insecure-plaintext", "--certificate", "a", "--key", "b"]),
        ):
            self.assertRefused(said, *words)

    def test_reachable_from_elsewhere(self) -> None:
        """Outside of loopback it wants TLS and a password."""
        for words in ([], ["--insecure-plaintext"]):
            self.assertRefused("other machines", "--listen", "0.0.0.0:0", *words)

    def test_key_of_another_certificate(self) -> None:
        """A key that does not belong to the certificate is refused, by the options' names."""
        Path(folder := self.mktemp()).mkdir(parents=True)
        authority = Authority()
        one = authority.issue().write_to(folder, "one")
        two = authority.issue().write_to(folder, "two")
        self.assertRefused(
            "--certificate and --key: the private key",
            *("--certificate", str(one.chain), "--key", str(two.key)),
        )
