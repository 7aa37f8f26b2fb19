"""Tests of `txtlsmc.tunnel.admission`, of the counters, and of what all listeners share."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from twisted.trial.unittest import SynchronousTestCase

from tests.tunnel.hearing import Heard
from txtlsmc.tunnel.admission import Admission, descriptor_limit
from txtlsmc.tunnel.counters import Counters
from txtlsmc.tunnel.hub import Hub
from txtlsmc.tunnel.journal import Journal
from txtlsmc.tunnel.settings import TunnelLimits


class _Transport:
    """That of an accepted connection, as far as it is looked at."""

    def __init__(self, accepted: socket.socket) -> None:
        self._accepted = accepted

    def getHandle(self) -> socket.socket:  # noqa: N802 - the interface of a transport
        return self._accepted


class AdmissionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.heard, self.counters = Heard(self), Counters()
        self.most: int | None = 1024
        self.admission = Admission(
            TunnelLimits(max_connections=3, reserved_descriptors=10),
            self.counters,
            Journal(),
            lambda: self.most,
        )

    def test_most(self) -> None:
        """So many may be open at once, whichever they are; the next is refused and counted."""
        for _ in range(3):
            self.assertIsNone(self.admission.admit(object()))
        for _ in range(5):
            self.assertEqual(self.admission.admit(object()), "max_connections")
        self.assertEqual(self.heard.lines, ["limit reached: max_connections of 3"])
        self.admission.release()
        self.assertIsNone(self.admission.admit(object()))
        self.assertEqual(self.counters.local_connections, 3)
        self.assertEqual(self.counters.local_connections_total, 4)
        self.assertEqual(self.counters.refused_max_connections, 5)

    def test_descriptors(self) -> None:
        """What would need a descriptor that is kept for upstream is refused, and no other."""
        with ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            transport = _Transport(first)
            self.most = first.fileno() + 11
            self.assertIsNone(self.admission.admit(transport))
            self.most = first.fileno() + 10
            self.assertEqual(self.admission.admit(transport), "descriptors")
            self.most = None
            self.assertIsNone(self.admission.admit(transport))
        self.assertEqual(self.counters.refused_descriptors, 1)
        self.assertEqual(self.counters.local_connections, 2)
        self.assertEqual(self.heard.names, ["limit"])

    def test_own_limit(self) -> None:
        """The limit of this process is known."""
        limit = descriptor_limit()
        self.assertTrue(limit is None or limit > 10)


class HubTests(SynchronousTestCase):
    def test_new(self) -> None:
        """Nothing is counted in a new one, and its parts belong together."""
        hub = Hub.make(TunnelLimits(max_connections=1))
        self.assertEqual(set(hub.counters.as_dict().values()), {0})
        hub.admission.admit(object())
        hub.admission.admit(object())
        self.assertEqual(hub.counters.refused_max_connections, 1)

    def test_counters(self) -> None:
        """A counter that there is not can not be counted by mistake."""
        counters = Counters()
        counters.requests += 2
        self.assertEqual(counters.as_dict()["requests"], 2)
        self.assertRaises(AttributeError, setattr, counters, "request", 1)
        self.assertEqual(set(Counters.__annotations__), set(Counters.__slots__))
