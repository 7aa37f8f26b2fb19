"""What serves one server in gateway mode: waiting, refusing, coming back, and the end."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone

from tests.cluster.fakes import outcome
from tests.net.fakes import answer
from tests.tunnel.fakes import Client, GatewayTestCase, found, get, store
from txtlsmc.errors import AuthenticationError, InvalidSetting
from txtlsmc.settings import InsecurePlaintext, Limits
from txtlsmc.tunnel.settings import TunnelLimits
from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import Opcode


class ConnectingTests(GatewayTestCase):
    def test_hold(self) -> None:
        """While the server is dialled for the first time, clients wait."""
        self.made()
        client, idle = self.client(get()), self.client()
        self.world.pass_by(1)
        self.assertFalse(client.lost)
        line = self.dials.accept()
        line.say(found(line.request()))
        self.assertEqual(len(client.hear()), 1)
        self.assertFalse(idle.lost)
        self.assertEqual((self.gateway.ready, self.gateway.local_connections()), (1, 2))

    def test_refused(self) -> None:
        """Once the dial has failed those who want something are closed; others stay."""
        self.made()
        client, idle = self.client(get()), self.client()
        self.refuse()
        self.world.settle()
        self.assertEqual((client.lost, idle.lost), (True, False))
        self.assertEqual(self.counters.refused_down, 1)
        self.assertEqual((self.counters.upstream_failed, self.counters.upstream_lost), (1, 0))
        self.assertEqual(len(self.lines("cache.example:11211 is down: nobody listens there")), 1)

    def test_down(self) -> None:
        """While the server is down new clients are closed at once, and wake it; once a second."""
        self.made()
        self.refuse()
        for number in range(40):
            client = self.client()
            self.world.advance(0.05)
            self.assertTrue(client.lost)
            if self.dials.open:
                self.refuse()
            self.assertEqual(self.counters.refused_down, number + 1)
        self.assertLess(len(self.dials.all), 10)
        self.assertEqual(len(self.lines("is down")), 1)
        self.client()
        self.world.pass_by(1)
        line = self.dials.accept()
        client = self.client(get())
        line.say(found(line.request()))
        self.assertEqual(len(client.hear()), 1)
        self.assertEqual(len(self.lines("is ready")), 1)

    def test_idle_client_asks_while_down(self) -> None:
        """A client that was there before is closed when it wants something, and wakes the server."""
        line = self.served()
        client = self.client()
        line.lose()
        self.world.pass_by(0.2)
        self.refuse()
        for _ in range(5):
            self.world.pass_by(3)
            if self.dials.open:
                self.refuse()
        self.assertFalse(client.lost)
        before = len(self.dials.all)
        client.say(get())
        self.world.settle()
        self.assertTrue(client.lost)
        self.assertEqual(len(self.dials.all), before + 1)

    def test_waiting_wakes(self) -> None:
        """Who waits for a server that keeps hanging up has it dialled again within a second."""
        self.made()
        for _ in range(10):  # the back-off is at its longest
            self.dials.accept().lose()
            self.world.pass_by(6)
        self.dials.accept().lose()
        self.world.settle()
        client = self.client(get())
        self.world.pass_by(1.1)
        line = self.dials.accept()
        line.say(found(line.request()))
        self.assertEqual(len(client.hear()), 1)

    def test_restart(self) -> None:
        """A server that restarts is told of once, and once when it is back."""
        line = self.served()
        client = self.client(get())
        line.say(found(line.request()))
        line.lose(ConnectionDone())
        self.world.settle()
        self.refuse()
        self.world.pass_by(0.2)
        line = self.dials.accept()
        self.assertFalse(client.lost)
        self.assertEqual(len(self.lines("is back")), 1)
        self.assertEqual(len(self.lines("is down")), 2)  # it hung up, and then it refused
        self.assertEqual((self.counters.upstream_ready, self.counters.upstream_lost), (2, 1))

    def test_credentials_refused(self) -> None:
        """A server that refuses our credentials is not woken by anybody."""
        self.made()
        self.dials.fail(AuthenticationError("cache.example:11211", "the password is wrong"))
        for _ in range(50):
            self.client(get())
            self.world.pass_by(1)
        self.assertEqual(len(self.dials.all), 1)
        self.world.pass_by(15, 1)
        self.assertEqual(len(self.dials.all), 2)

    def test_bound_to_what_is_there(self) -> None:
        """With several connections a new client gets one that is there."""
        self.made(upstream_connections=2)
        line = self.dials.open[0].accept()
        self.dials.open[0].fail()
        clients = [self.client(get()) for _ in range(4)]
        self.world.settle()
        line.say(*map(found, line.requests()))
        self.assertEqual([len(client.hear()) for client in clients], [1] * 4)
