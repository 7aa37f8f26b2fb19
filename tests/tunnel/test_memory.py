"""What is kept for local clients, and who has to go when it is too much."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.tunnel.memory import LocalMemory
from txtlsmc.tunnel.settings import TunnelLimits


class Kept:
    """Somebody who gives up all that is kept, if told to, at once or later."""

    def __init__(self, memory: LocalMemory, *, at_once: bool = True) -> None:
        self.memory, self.at_once = memory, at_once
        self.told: list[tuple[str, int]] = []

    def over_limit(self, name: str, limit: int) -> None:
        """Be told to go."""
        self.told.append((name, limit))
        if self.at_once:
            self.memory.hold(self, 0)


class LocalMemoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.memory = LocalMemory(TunnelLimits(max_unread=100, max_unread_in_all=250))

    def test_total(self) -> None:
        """Each holder counts with what it has now."""
        one, two = Kept(self.memory), Kept(self.memory)
        for holder, size, total in ((one, 10, 10), (two, 20, 30), (one, 5, 25), (one, 0, 20)):
            self.memory.hold(holder, size)
            self.assertEqual(self.memory.total, total)
        self.memory.hold(one, 0)
        self.memory.hold(two, 0)
        self.assertEqual(self.memory.total, 0)

    def test_one(self) -> None:
        """Who has more than one may have goes."""
        one, two = Kept(self.memory), Kept(self.memory)
        self.memory.hold(one, 100)
        self.memory.hold(two, 101)
        self.assertEqual((one.told, two.told), ([], [("max_unread", 100)]))
        self.assertEqual(self.memory.total, 100)

    def test_all(self) -> None:
        """When all together have too much, who has most of it goes, whoever came last."""
        small, most, last = (Kept(self.memory) for _ in range(3))
        for holder, size in ((small, 80), (most, 99), (last, 71)):
            self.memory.hold(holder, size)
        self.assertEqual(most.told, [])
        self.memory.hold(last, 72)
        self.assertEqual(most.told, [("max_unread_in_all", 250)])
        self.assertEqual((small.told, last.told), ([], []))
        self.assertEqual(self.memory.total, 152)

    def test_one_at_a_time(self) -> None:
        """While somebody is on the way out nobody else has to go for the same bytes."""
        most, last = Kept(self.memory, at_once=False), Kept(self.memory)
        other = Kept(self.memory)
        self.memory.hold(most, 99)
        self.memory.hold(other, 80)
        for size in (72, 80, 90):
            self.memory.hold(last, size)
        self.assertEqual((last.told, other.told), ([], []))
        self.assertTrue(most.told)

    def test_exchanged(self) -> None:
        """Other limits count from the next change on."""
        one = Kept(self.memory)
        self.memory.hold(one, 90)
        self.memory.limits = TunnelLimits(max_unread=50)
        self.memory.hold(one, 91)
        self.assertEqual(one.told, [("max_unread", 50)])
