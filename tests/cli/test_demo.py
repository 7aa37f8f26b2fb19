"""`tlsmc demo`: everything comes out as it says, and it says so only then."""

from __future__ import annotations

from io import StringIO

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.cli.processes import Command
from txtlsmc.cli.show import Show
from txtlsmc.errors import CertificateExpired, ConnectRefused
from txtlsmc.net.protocol import MemcacheProtocol


class DemoTests(TestCase):
    timeout = 60

    async def test_it_comes_out_as_it_says(self) -> None:
        """The demo ends with 0, and shows operations, refusals, failing servers and the tunnel."""
        command = Command("demo")
        self.addCleanup(command.kill)
        self.assertEqual((await command.ended, command.err), (0, ""))
        for said in (
            "CertificateWrongHost",
            "is for cache.example, and not for 127.0.0.1",
            "CertificateExpired",
            "expired on 20",
            "CredentialsRefused",
            "refuses the user name or the password",
            "b'A good day to you'",
            "get_multi of them                          300 values",
            "one.example:11211 is killed",
            "get user:0, which it has                   NodeDown",
            "nobody listens",
            "one down, two up, three up",
            "It comes back",
            "'value of user:0'",
            "one up, two up, three up",
            "set song, in plain text to this machine    done",
            "get song                                   b'la la'",
            "The tunnel's server is killed",
            "get song, which is no miss                 closed, without an answer",
            "the client connects again",
            "All of it came out as it should.",
        ):
            self.assertIn(said, command.out)
        self.assertNotIn("UNEXPECTED", command.out)

    async def test_keys_are_shared_out(self) -> None:
        """Each of the three servers has some of the keys, and together they have all."""
        command = Command("demo")
        self.addCleanup(command.kill)
        await command.ended
        lines = (line.split() for line in command.out.splitlines())
        kept = [int(words[3]) for words in lines if words[1:2] == ["on"] and words[4:] == ["keys"]]
        self.assertEqual((len(kept), sum(kept)), (3, 300))
        self.assertGreater(min(kept), 50)

    async def test_no_colours_into_a_pipe(self) -> None:
        """There are colours on a terminal only."""
        command = Command("demo")
        self.addCleanup(command.kill)
        await command.ended
        self.assertNotIn("\x1b", command.out)

    async def test_no_password(self) -> None:
        """The passwords of the demo are not shown."""
        command = Command("demo")
        self.addCleanup(command.kill)
        await command.ended
        self.assertNotIn("correct horse", command.out)
        self.assertNotIn("a guess", command.out)


class ShowTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.out = StringIO()
        self.show = Show(self.out, colours=False)

    def test_another_result_is_a_surprise(self) -> None:
        """A result other than the expected one is counted, and marked."""
        self.successResultOf(Deferred.fromCoroutine(self.show.expect("it", succeed(1), 2)))
        self.assertEqual(self.show.surprises, 1)
        self.assertIn("UNEXPECTED", self.out.getvalue())

    def test_a_failure_is_a_surprise(self) -> None:
        """A failure where a result is expected is counted, with its words."""
        failed: Deferred[int] = fail(ConnectRefused("mc:11211", "nobody listens"))
        self.successResultOf(Deferred.fromCoroutine(self.show.expect("it", failed, 2)))
        self.assertEqual(self.show.surprises, 1)
        self.assertIn("nobody listens", self.out.getvalue())

    def test_another_refusal_is_a_surprise(self) -> None:
        """A refusal for another cause than the expected one is counted."""
        done: Deferred[MemcacheProtocol] = fail(ConnectRefused("mc:11211", "nobody listens"))
        refused = self.show.refuse("it", done, CertificateExpired)
        self.successResultOf(Deferred.fromCoroutine(refused))
        self.assertEqual(self.show.surprises, 1)

    def test_as_said(self) -> None:
        """What comes out as said is no surprise."""
        self.successResultOf(Deferred.fromCoroutine(self.show.expect("it", succeed(1), 1)))
        done: Deferred[MemcacheProtocol] = fail(CertificateExpired("mc:11211", "expired"))
        refused = self.show.refuse("it", done, CertificateExpired)
        self.successResultOf(Deferred.fromCoroutine(refused))
        self.assertEqual(self.show.surprises, 0)

    def test_colours(self) -> None:
        """With colours, what came out as said is green."""
        Show(self.out, colours=True).result("it", 1, as_said=True)
        self.assertIn("\x1b[32mok\x1b[0m", self.out.getvalue())
