"""`tlsmc` itself: what it answers to the words behind it."""

from __future__ import annotations

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import NamedTuple

from twisted.trial.unittest import SynchronousTestCase

from txtlsmc import __version__
from txtlsmc.cli import main


class Ran(NamedTuple):
    """What a command printed, and how it ended."""

    code: object
    out: str
    err: str


def tlsmc(*words: str) -> Ran:
    """Run ``tlsmc`` in this process; only for words with which it starts nothing."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        try:
            main(words)
        except SystemExit as ended:
            return Ran(ended.code, out.getvalue(), err.getvalue())


class MainTests(SynchronousTestCase):
    def test_version(self) -> None:
        """The version is one line, before a command and behind it."""
        for words in (["--version"], ["serve", "--version"]):
            self.assertEqual(tlsmc(*words), (0, f"tlsmc {__version__}\n", ""))

    def test_help_lists_the_commands(self) -> None:
        """The help has a line for each command."""
        ran = tlsmc("--help")
        self.assertEqual(ran.code, 0)
        self.assertTrue(ran.out.startswith("Usage: tlsmc COMMAND [options]\n"))
        for command in ("demo", "serve", "get", "set", "delete", "stats", "flush", "ring"):
            self.assertIn(f"    {command} ", ran.out)

    def test_help_of_a_command(self) -> None:
        """The help of a command begins with how that command is called."""
        self.assertTrue(tlsmc("demo", "--help").out.startswith("Usage: tlsmc demo\n"))
        self.assertTrue(tlsmc("serve", "--help").out.startswith("Usage: tlsmc serve [options]\n"))

    def test_no_command(self) -> None:
        """Without a command there is a usage error that says which there are."""
        ran = tlsmc()
        self.assertEqual((ran.code, ran.out), (64, ""))
        self.assertIn("there is demo, serve", ran.err)

    def test_unknown_command(self) -> None:
        """An unknown command is named, and where the help is."""
        ran = tlsmc("nonsense")
        self.assertEqual(ran.code, 64)
        self.assertEqual(ran.err, "tlsmc: Unknown command: nonsense\nTry 'tlsmc --help'.\n")

    def test_option_before_the_command(self) -> None:
        """An option that stands before its command is told where it goes."""
        ran = tlsmc("--server", "mc1.example", "get", "key")
        self.assertEqual(ran.code, 64)
        self.assertIn("those of a command go behind it", ran.err)

    def test_unknown_option(self) -> None:
        """An unknown option is a usage error of the command."""
        ran = tlsmc("serve", "--nonsense")
        self.assertEqual(ran.code, 64)
        self.assertIn("nonsense", ran.err)
        self.assertIn("Try 'tlsmc serve --help'.", ran.err)
