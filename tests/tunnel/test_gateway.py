"""What serves one server in gateway mode: waiting, refusing, coming back, and the end."""

from __future__ import annotations

from twisted.internet.error import ConnectionDone

from tests.cluster.fakes import Dials, outcome
from tests.secrecy import credentials, password, wrong_credentials, wrong_password
from tests.tunnel.fakes import Client, GatewayTestCase, found, get, plain, store
from txtlsmc.errors import AuthenticationError, InvalidSetting
from txtlsmc.settings import Credentials, InsecurePlaintext, Limits
from txtlsmc.tunnel.settings import TunnelLimits
from txtlsmc.wire.opcodes import Status


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
        """A client from before is closed when it wants something, and wakes the server."""
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

    def test_credentials_exchanged(self) -> None:
        """Other credentials than those that were refused are tried at once."""
        self.made(credentials=wrong_credentials(insecure=True))
        self.dials.fail(AuthenticationError("cache.example:11211", "the password is wrong"))
        self.world.pass_by(1)
        self.gateway.reload(self.gateway.server, InsecurePlaintext(), credentials(insecure=True))
        self.world.settle()
        self.assertEqual(len(self.dials.all), 2)
        self.dials.accept()
        self.assertEqual(len(self.lines("is ready")), 1)

    def test_credentials_exchanged_meanwhile(self) -> None:
        """Credentials that come while the old ones are being tried do not wait for a minute."""
        self.made(credentials=wrong_credentials(insecure=True))
        tried, self.dials = self.dials, Dials(self.world)
        self.gateway.reload(self.gateway.server, InsecurePlaintext(), credentials(insecure=True))
        tried.fail(AuthenticationError("cache.example:11211", "the password is wrong"))
        self.world.pass_by(1)
        self.assertEqual(len(self.dials.all), 1)
        # They too are tried no more often than any.
        self.dials.fail(AuthenticationError("cache.example:11211", "the password is wrong"))
        self.world.pass_by(20, 1)
        self.assertEqual(len(self.dials.all), 1)

    def test_bound_to_what_is_there(self) -> None:
        """With several connections a new client gets one that is there."""
        self.made(upstream_connections=2)
        line = self.dials.open[0].accept()
        self.dials.open[0].fail()
        clients = [self.client(get()) for _ in range(4)]
        self.world.settle()
        line.say(*map(found, line.requests()))
        self.assertEqual([len(client.hear()) for client in clients], [1] * 4)


class DrainTests(GatewayTestCase):
    def drain(self, seconds: float = 5) -> list[object]:
        """Begin to drain; the list will hold the result."""
        return outcome(self.gateway.drain(seconds))

    def assert_gone(self, gone: list[object], *clients: Client) -> None:
        """Nothing is left behind."""
        self.assertEqual(gone, [None])
        self.assertTrue(all(client.lost for client in clients))
        self.assertEqual(self.world.delayed(), [])
        self.assertEqual(self.gateway.local_connections(), 0)
        self.assertEqual(self.counters.local_connections, 0)
        self.assertEqual(self.dials.open, [])
        self.assertEqual(self.hub.memory.total, 0)

    def test_idle(self) -> None:
        """What is idle ends at once."""
        line = self.served()
        clients = [self.client() for _ in range(3)]
        gone = self.drain()
        self.world.settle()
        self.assertTrue(line.lost)
        self.assert_gone(gone, *clients)
        self.assertEqual(self.counters.closed_drain, 0)

    def test_in_flight(self) -> None:
        """What was asked is answered, also what waits for its turn; half a request is dropped."""
        line = self.served(limits=TunnelLimits(window=2))
        client = self.client(*[get(opaque=n) for n in range(5)], get().encode()[:-1])
        idle = self.client()
        gone = self.drain()
        self.world.settle()
        self.assertTrue(idle.lost)
        for _ in range(3):
            self.assertFalse(client.lost)
            line.say(*map(found, line.requests()))
            self.world.settle()
        self.assertEqual(len(client.hear()), 5)
        self.assert_gone(gone, client, idle)

    def test_silent_server(self) -> None:
        """Who is not answered in time is closed then, and counted."""
        line = self.served(server_limits=Limits(timeout=60))
        client = self.client(get())
        gone = self.drain(3)
        self.world.pass_by(2.9)
        self.assertEqual((client.lost, gone), (False, []))
        self.world.pass_by(0.2)
        self.assertTrue(line.lost)
        self.assert_gone(gone, client)
        self.assertEqual(self.counters.closed_drain, 1)

    def test_reader_that_stalls(self) -> None:
        """Who does not read its answers is closed when the time is over."""
        line = self.served()
        client = self.client(get(), get())
        client.wire.reads = False
        line.say(*(found(request, b"v" * 200_000) for request in line.requests()))
        gone = self.drain(3)
        self.world.pass_by(2.9)
        self.assertEqual((client.lost, gone), (False, []))
        self.world.pass_by(0.2)
        self.assert_gone(gone, client)

    def test_reader_that_is_slow(self) -> None:
        """Who reads slowly gets all of its answers."""
        line = self.served()
        client = self.client(get(), get())
        client.wire.reads = False
        line.say(*(found(request, b"v" * 200_000) for request in line.requests()))
        gone = self.drain(5)
        while not client.lost:
            client.wire.take(50_000)
            self.world.pass_by(0.1)
        self.assertEqual([len(told.value) for told in client.hear()], [200_000] * 2)
        self.assert_gone(gone, client)
        self.assertEqual(self.counters.closed_drain, 0)

    def test_while_connecting(self) -> None:
        """Who waits for the first connection is served by it; then both end."""
        self.made()
        client, idle = self.client(get()), self.client()
        gone = self.drain()
        self.world.pass_by(1)
        self.assertEqual((client.lost, idle.lost), (False, True))
        line = self.dials.accept()
        line.say(found(line.request()))
        self.world.settle()
        self.assertEqual(len(client.hear()), 1)
        self.assert_gone(gone, client)

    def test_connecting_for_nobody(self) -> None:
        """A dial for which nobody waits is given up."""
        self.made()
        dial = self.dials.open[0]
        gone = self.drain()
        self.world.settle()
        self.assertTrue(dial.cancelled)
        self.assert_gone(gone)

    def test_never_connected(self) -> None:
        """Who waits for a server that does not come is closed when the time is over."""
        self.made()
        client = self.client(get())
        gone = self.drain(2)
        self.world.pass_by(2.1)
        self.assert_gone(gone, client)

    def test_while_down(self) -> None:
        """While the server is down there is nothing to wait for."""
        self.made()
        client = self.client()
        self.refuse()
        gone = self.drain()
        self.world.settle()
        self.assert_gone(gone, client)

    def test_lost_meanwhile(self) -> None:
        """The end of the server's connection ends the drain."""
        line = self.served()
        client = self.client(get())
        gone = self.drain()
        line.lose()
        self.world.settle()
        self.assert_gone(gone, client)

    def test_nothing_new(self) -> None:
        """A client that comes during the drain, or behind it, is not taken."""
        line = self.served()
        client = self.client(get())
        gone = self.drain()
        self.assertIsNone(self.gateway.factory.buildProtocol(None))
        line.say(found(line.request()))
        self.world.settle()
        self.assertIsNone(self.gateway.factory.buildProtocol(None))
        self.assert_gone(gone, client)

    def test_large_request_half_there(self) -> None:
        """Half a large request does not hold it up."""
        self.served()
        client = self.client(store(b"v" * 900_000).encode()[:500_000])
        gone = self.drain()
        self.world.settle()
        self.assert_gone(gone, client)


class ReloadTests(GatewayTestCase):
    def reload(self, credentials: Credentials | None) -> None:
        """Let there be other credentials."""
        self.gateway.reload(self.gateway.server, InsecurePlaintext(), credentials)

    def test_next_dial(self) -> None:
        """New settings count from the next dial on; what is connected stays."""
        line = self.served()
        client = self.client(get())
        before, self.dials = self.dials, Dials(self.world)
        self.reload(None)
        line.say(found(line.request()))
        self.assertEqual((len(client.hear()), line.lost), (1, False))
        line.lose()
        self.world.settle()
        self.assertEqual(before.open, [])
        client.say(get())
        line = self.dials.accept()
        line.say(found(line.request()))
        self.assertEqual(len(client.hear()), 1)

    def test_login(self) -> None:
        """Clients prove the new credentials from then on."""
        self.served(credentials=credentials(insecure=True), local_auth="required")
        client = self.client()
        self.reload(wrong_credentials(insecure=True))
        for word, status in ((password(), Status.AUTHENTICATION_ERROR), (wrong_password(), 0)):
            client.say(plain(word))
            self.assertEqual([told.status for told in client.hear()], [status])

    def test_unusable(self) -> None:
        """Settings that can not be used change nothing."""
        self.served(credentials=credentials(insecure=True))
        self.unusable = InvalidSetting("the key does not fit the certificate")
        self.assertRaises(InvalidSetting, self.reload, None)
        client = self.client(plain(password()))
        self.assertEqual([told.status for told in client.hear()], [0])
