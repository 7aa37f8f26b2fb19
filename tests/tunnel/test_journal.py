"""Tests of `txtlsmc.tunnel.journal` and `txtlsmc.tunnel.json_lines`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from io import StringIO

from twisted.internet.error import ConnectionLost
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.tunnel.hearing import Heard
from txtlsmc.errors import CertificateExpired, ConnectionClosed, ConnectRefused, InvalidSetting
from txtlsmc.net.certificates import CertificateFacts
from txtlsmc.servers import Server
from txtlsmc.tunnel.journal import Journal, cause
from txtlsmc.tunnel.json_lines import JSONLines

MC1 = Server("mc1.example:11211")
MOMENT = datetime(2030, 1, 1, tzinfo=UTC)


class JournalTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.heard, self.now = Heard(self), 1000.0
        self.journal = Journal(monotonic=lambda: self.now)


class ServerTests(JournalTestCase):
    def test_life(self) -> None:
        """A server is told to be ready, down and back, each once, however often it is reported."""
        for _ in range(3):
            self.journal.ready(MC1)
        for _ in range(3):
            self.journal.lost(MC1, ConnectRefused(MC1.name, "connection refused"))
        for _ in range(3):
            self.journal.ready(MC1)
        self.assertEqual(
            self.heard.lines,
            [
                "mc1.example:11211 is ready",
                "mc1.example:11211 is down: connection refused",
                "mc1.example:11211 is back",
            ],
        )

    def test_causes(self) -> None:
        """Each cause is told once until the server is back, and then anew."""
        refused = ConnectRefused(MC1.name, "connection refused")
        expired = CertificateExpired(MC1.name, "its certificate expired")
        for error in (refused, expired, refused, expired):
            self.journal.lost(MC1, error)
        self.journal.back(MC1)
        self.journal.lost(MC1, Failure(refused))
        self.assertEqual(self.heard.names, ["lost", "lost", "back", "lost"])
        self.assertEqual(
            [event["error"] for event in self.heard.events if event["event"] == "lost"],
            ["ConnectRefused", "CertificateExpired", "ConnectRefused"],
        )

    def test_ever_different(self) -> None:
        """A server that fails each time in other words does not fill the log."""
        for number in range(1000):
            self.journal.lost(MC1, f"reason {number}")
        self.assertLess(len(self.heard.events), 20)

    def test_each_server(self) -> None:
        """One server's state is not another's."""
        self.journal.ready("a")
        self.journal.lost("b", "x")
        self.journal.ready("b")
        self.journal.ready("a")
        self.assertEqual(self.heard.names, ["ready", "lost", "ready"])

    def test_words(self) -> None:
        """Whatever went wrong becomes words in one line."""
        for error, words in (
            (ConnectRefused("mc1", "connection refused"), "connection refused"),
            (InvalidSetting("ca: no"), "ca: no"),
            (OSError("a\nb"), "OSError: a\\nb"),
            (KeyError(), "KeyError"),
            ("x\x1b[2J", "x\\x1b[2J"),
            (Failure(ConnectionLost()), "ConnectionLost: Connection to the other side"),
        ):
            self.assertTrue(cause(error).startswith(words), cause(error))
        # What may have become of a request is nothing for a line about a server.
        self.assertEqual(cause(ConnectionClosed("it ended", sent=True)), "it ended")

    def test_braces(self) -> None:
        """Braces in an error are only braces."""
        for journal in (self.journal, Journal("json")):
            journal.lost("mc1", "{x} {server} {")
        self.assertEqual(self.heard.lines[0], "mc1 is down: {x} {server} {")
        self.assertEqual(json.loads(self.heard.lines[1])["cause"], "{x} {server} {")


class SeldomTests(JournalTestCase):
    def test_once_a_minute(self) -> None:
        """A limit is told once a minute, with how often it was reached since."""
        for _ in range(500):
            self.journal.limit("max_connections", 1024)
        self.now += 59.9
        self.journal.limit("max_connections", 1024)
        self.now += 0.2
        self.journal.limit("max_connections", 1024)
        self.assertEqual(
            self.heard.lines,
            [
                "limit reached: max_connections of 1024",
                "limit reached: max_connections of 1024 (501 times since the last such line)",
            ],
        )

    def test_each(self) -> None:
        """Each limit and each hint has a minute of its own."""
        for _ in range(2):
            self.journal.limit("max_connections", 1)
            self.journal.limit("descriptors", 1)
            self.journal.local_hint("TLS hello")
            self.journal.local_hint("HTTP")
            self.journal.login_refused(MC1)
        self.assertEqual(
            self.heard.names, ["limit", "limit", "local_hint", "local_hint", "login_refused"]
        )


class JSONTests(SynchronousTestCase):
    def test_objects(self) -> None:
        """As JSON every line is an object with the name of the event and all that belongs to it."""
        heard, journal = Heard(self), Journal("json")
        facts = CertificateFacts("CN=bücher", "CN=ca", (), MOMENT, MOMENT, "aa")
        journal.ready(MC1)
        journal.lost(MC1, ConnectRefused(MC1.name, 'a "quoted" word'))
        journal.expires(MC1, facts, 1)
        journal.limit("descriptors", 1024)
        journal.draining(3, 5.0)
        journal.reloaded({"servers added": 1, "servers gone": 0})
        said = [json.loads(line) for line in heard.lines]
        self.assertEqual([one["event"] for one in said], heard.names)
        self.assertEqual(said[1]["cause"], 'a "quoted" word')
        self.assertEqual((said[2]["days"], said[2]["not_after"]), (1, "2030-01-01T00:00:00Z"))
        self.assertEqual((said[2]["level"], said[2]["subject"]), ("error", "CN=bücher"))
        self.assertIn("expires in 1 day: CN=bücher", said[2]["text"])
        self.assertEqual((said[3]["limit"], said[3]["value"]), ("descriptors", 1024))
        self.assertEqual(said[5]["changes"], "servers added: 1")

    def test_whole_log(self) -> None:
        """With everything as JSON, what is not the tunnel's is an object as well."""
        out = StringIO()
        observer = JSONLines(out)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        Journal("json").ready(MC1)
        Journal("text").ready(MC1)
        said = [json.loads(line) for line in out.getvalue().splitlines()]
        self.assertEqual([one["event"] for one in said], ["ready", "log"])
        self.assertEqual([one["text"] for one in said], ["mc1.example:11211 is ready"] * 2)
        self.assertTrue(all(one["time"].endswith("+00:00") for one in said))
