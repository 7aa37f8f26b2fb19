"""Tests of `txtlsmc.routing`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.cluster.ring import Ring
from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import SCHEMES, Backoff, Routing, Server


class _Tests(SynchronousTestCase):
    def refused(self, call: Callable[..., object], **named: Any) -> str:
        """Return in which words *call* is refused."""
        return str(self.assertRaises(InvalidSetting, call, **named))


class BackoffTests(_Tests):
    def test_default(self) -> None:
        """A tenth of a second that grows to five, woken once a second, a minute for a password."""
        self.assertEqual(Backoff(), Backoff(0.1, 5.0, 1.0, 60.0))
        self.assertEqual(
            Backoff(), Backoff(first=0.1, longest=5.0, wake_every=1.0, credentials=60.0)
        )

    def test_seconds(self) -> None:
        """All are times above 0 that end."""
        for name in ("first", "longest", "wake_every", "credentials"):
            self.assertEqual(getattr(replace(Backoff(), **{name: 7}), name), 7)
            for bad in (0, -1, float("nan"), float("inf"), "1", None, True, [1]):
                said = self.refused(Backoff, **{name: bad})
                self.assertTrue(said.startswith(f"{name} must be seconds, above 0"), said)


class RoutingTests(_Tests):
    def test_default(self) -> None:
        """Keys are where pylibmc has them with ketama; what is down is an error."""
        routing = Routing()
        self.assertEqual((routing.scheme, routing.backoff), ("ketama", Backoff()))
        self.assertEqual((routing.on_failure, routing.partial), ("fail", "fail"))
        self.assertEqual((routing.eject_after, routing.connections, routing.handshakes), (2, 1, 2))
        self.assertIs(routing.retry, True)
        self.assertIs(routing.hash_namespace, False)

    def test_choices(self) -> None:
        """A word that is none of those there are is refused, and these are listed."""
        for name, what, words in (
            ("scheme", "a routing scheme", SCHEMES),
            ("on_failure", "on_failure", ("fail", "rehash", "miss")),
            ("partial", "partial", ("fail", "return")),
        ):
            for word in words:
                named: dict[str, Any] = {name: word}
                self.assertEqual(getattr(Routing(**named), name), word)
            for bad in ("", "Ketama", "FAIL", None, 5, ["fail"]):
                said = self.refused(Routing, **{name: bad})
                self.assertEqual(said, f"{what} is one of {', '.join(words)}, not {bad!r}")

    def test_schemes(self) -> None:
        """Each scheme that can be set is one that the ring has."""
        for scheme in SCHEMES:
            ring = Ring([Server("mc1"), Server("mc2")], scheme)
            self.assertIn(ring.locate(b"key"), (0, 1))

    def test_numbers(self) -> None:
        """Counts are whole, and 1 at least."""
        for name in ("eject_after", "connections", "handshakes"):
            named: dict[str, Any] = {name: 1}
            self.assertEqual(getattr(Routing(**named), name), 1)
            for bad in (0, -1, 1.0, "1", None, True):
                said = self.refused(Routing, **{name: bad})
                self.assertEqual(said, f"{name} must be a whole number above 0, not {bad!r}")

    def test_flags(self) -> None:
        """A flag is True or False, and nothing that only looks like it."""
        for name in ("retry", "hash_namespace"):
            for bad in ("false", 1, 0, None):
                self.assertIn("must be True or False", self.refused(Routing, **{name: bad}))

    def test_backoff(self) -> None:
        """The back-off is one object of its own."""
        self.assertEqual(Routing(backoff=Backoff(first=1)).backoff.first, 1)
        self.assertIn("is a Backoff, not float", self.refused(Routing, backoff=0.5))

    def test_value(self) -> None:
        """Routing is a value that can not be changed."""
        self.assertEqual(replace(Routing(), scheme="modula"), Routing("modula"))
        with self.assertRaises(FrozenInstanceError):
            Routing().retry = False  # type: ignore[misc] # that it is frozen is what this shows
