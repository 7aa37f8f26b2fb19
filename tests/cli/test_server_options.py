"""Tests of `txtlsmc.cli.server_options`."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO

from twisted.trial.unittest import SynchronousTestCase

from txtlsmc import __version__
from txtlsmc.cli.server_options import ServerOptions
from txtlsmc.settings import ClientSettings, Server


class _Get(ServerOptions):
    synopsis = "tlsmc get [options] KEY"
    optFlags = [["json", None, "As JSON."]]  # noqa: RUF012 - the interface of usage.Options

    def parseArgs(self, key: str) -> None:  # type: ignore[override] # as Twisted documents it
        self["key"] = key


class ServerOptionsTests(SynchronousTestCase):
    def told(self, word: str) -> str:
        """Return what is printed for *word*, which ends the command."""
        with redirect_stdout(StringIO()) as out:
            ended = self.assertRaises(SystemExit, _Get().parseOptions, [word])
        self.assertFalse(ended.code)
        return out.getvalue()

    def test_help(self) -> None:
        """The help of a command lists what all have, and its own."""
        told = self.told("--help")
        self.assertTrue(told.startswith("Usage: tlsmc get [options] KEY\n"))
        for option in (
            *("server", "from-environ", "provider", "config", "ca", "client-certificate", "pin"),
            *("server-name", "tls-port", "username", "password-file", "routing", "timeout"),
            *("namespace", "codec", "insecure-no-verify", "insecure-plaintext"),
            *("insecure-password", "json"),
        ):
            self.assertRegex(told, rf"(?m)^ +--{option}[ =]")
        self.assertNotRegex(told, "--password[ =]")

    def test_version(self) -> None:
        """The version is that of tlsmc."""
        self.assertEqual(self.told("--version"), f"tlsmc {__version__}\n")

    def test_settings(self) -> None:
        """Options, arguments and the environment come to settings."""
        options = _Get()
        options.parseOptions(["--server", "mc1", "--json", "greeting"])
        self.assertEqual((options["key"], options["json"]), ("greeting", 1))
        self.assertEqual(options.client_settings({}), ClientSettings((Server("mc1"),)))
