"""Tests of `txtlsmc.tunnel.expiry`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from twisted.trial.unittest import SynchronousTestCase

from tests.tunnel.hearing import Heard
from txtlsmc.net.certificates import CertificateFacts
from txtlsmc.tunnel.expiry import Expiry, threshold
from txtlsmc.tunnel.journal import Journal

START = datetime(2030, 1, 1, tzinfo=UTC)


def facts(days: int, pin: str = "aa") -> CertificateFacts:
    """Return a certificate that is valid for *days* days from the start."""
    return CertificateFacts("CN=mc1", "CN=ca", (), START, START + timedelta(days), pin)


class ThresholdTests(SynchronousTestCase):
    def test_table(self) -> None:
        """Each number of days belongs to the nearest threshold above it."""
        for days, least in {31: None, 30: 30, 15: 30, 14: 14, 8: 14, 7: 7, 2: 7}.items():
            self.assertEqual(threshold(days), least, days)
        for days in (1, 0, -1, -400):
            self.assertEqual(threshold(days), 1)


class ExpiryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now, self.heard = START, Heard(self)
        self.expiry = Expiry(Journal(), lambda: self.now)

    @property
    def told(self) -> list[tuple[str, int, str]]:
        return [
            (event["server"], event["days"], event["log_level"].name) for event in self.heard.events
        ]

    def test_once_each(self) -> None:
        """Day by day, a warning comes at 30, 14 and 7 days, an error at 1, and each once."""
        self.expiry.look("mc1", facts(40))
        for _ in range(45):
            self.now += timedelta(1)
            self.expiry.look_again()
            self.expiry.look("mc1", facts(40))  # a handshake in between says nothing new
        self.assertEqual(
            self.told,
            [("mc1", 30, "warn"), ("mc1", 14, "warn"), ("mc1", 7, "warn"), ("mc1", 1, "error")],
        )

    def test_late(self) -> None:
        """What is seen late is told once, by how late it is."""
        self.expiry.look("mc1", facts(5))
        self.expiry.look_again()
        self.assertEqual(self.told, [("mc1", 5, "warn")])

    def test_each_certificate(self) -> None:
        """Another server, and another certificate of the same one, are told of by themselves."""
        self.expiry.look("mc1", facts(5))
        self.expiry.look("mc2", facts(5))
        self.expiry.look("mc1", facts(5, "bb"))
        self.expiry.look("mc1", facts(5))
        self.assertEqual([server for server, _, _ in self.told], ["mc1", "mc2", "mc1"])

    def test_renewed(self) -> None:
        """Nothing is told of a certificate that was exchanged in time, or of a server that left."""
        self.expiry.look("mc1", facts(40))
        self.expiry.look("mc2", facts(40))
        self.expiry.look("mc1", facts(400, "bb"))
        self.expiry.forget("mc2")
        self.now += timedelta(39)
        self.expiry.look_again()
        self.assertEqual(self.told, [])
