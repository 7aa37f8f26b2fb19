"""The relay in memory: whose end ends what, and when."""

from __future__ import annotations

import random

from twisted.internet.address import IPv4Address
from twisted.trial.unittest import SynchronousTestCase

from tests.cluster.fakes import Journal
from tests.tunnel.wires import SERVER, RelayInMemory, Wire
from txtlsmc.errors import CertificateError
from txtlsmc.settings import TLS, Limits
from txtlsmc.tunnel.pair import QUIET
from txtlsmc.tunnel.settings import TunnelLimits

TIMEOUT = Limits().timeout
STEP = QUIET
ANYBODY = IPv4Address("TCP", "127.0.0.1", 1)


class RelayTestCase(SynchronousTestCase):
    limits: TunnelLimits | None = None

    def setUp(self) -> None:
        self.journal = Journal(self)
        self.memory = RelayInMemory(self.limits)
        self.hub, self.relay = self.memory.hub, self.memory.relay

    def pass_by(self, seconds: float) -> None:
        self.memory.world.pass_by(seconds)

    def assert_idle(self) -> None:
        self.memory.world.settle()
        self.assertTrue(self.memory.idle())


class DialTests(RelayTestCase):
    def test_bytes(self) -> None:
        """Whatever one side says, the other gets, unchanged."""
        local, server = self.memory.pair()
        local.say(b"\x00not memcached\r\n")
        server.say(b"\xffneither")
        local.say(b".")
        self.assertEqual(server.value(), b"\x00not memcached\r\n.")
        self.assertEqual(local.value(), b"\xffneither")

    def test_nothing_is_read_before(self) -> None:
        """A local client is not listened to until there is somebody to tell."""
        local = self.memory.connect()
        self.assertTrue(local.paused)
        self.memory.dials.accept()
        self.assertFalse(local.paused)

    def test_refused(self) -> None:
        """Where the server can not be reached the local client is reset, without a pause."""
        local = self.memory.connect()
        self.memory.dials.refuse()
        self.assertEqual(local.ending, "reset")
        self.assert_idle()
        self.assertEqual(self.hub.counters.refused_down, 1)

    def test_next_is_dialled_for(self) -> None:
        """After a failure the next local client is served as soon as the server is back."""
        for _ in range(3):
            self.memory.connect()
            self.memory.dials.refuse()
        local, server = self.memory.pair()
        server.say(b"here")
        self.assertEqual(local.value(), b"here")

    def test_cause_is_told_once(self) -> None:
        """The log says why the server can not be used once, and once that it is back."""
        self.memory.pair()
        for _ in range(3):
            self.memory.connect()
            self.memory.dials.refuse(CertificateError(SERVER.name, "its certificate is a forgery"))
        self.memory.pair()
        self.memory.pair()
        self.assertEqual(
            self.journal.lines,
            [
                f"{SERVER} is ready",
                f"{SERVER} is down: its certificate is a forgery",
                f"{SERVER} is back",
            ],
        )

    def test_unforeseen_error(self) -> None:
        """An error of any kind is a failure to dial, and its text is made fit to be shown."""
        local = self.memory.connect()
        self.memory.dials.refuse(ValueError("a\nb"))
        self.assertEqual(local.ending, "reset")
        (line,) = self.journal.lines
        self.assertNotIn("\n", line)
        self.assertIn("ValueError", line)

    def test_local_goes_while_dialling(self) -> None:
        """Nobody is dialled for a local client that has gone."""
        self.memory.connect().reset()
        self.assertEqual(self.memory.dials.open, [])
        self.assert_idle()
        self.assertEqual(self.journal.lines, [])

    def test_dialled_too_late(self) -> None:
        """A connection that comes for a client that has gone is closed, and changes nothing."""
        self.memory.dials.deaf = True
        self.memory.connect().reset()
        server = self.memory.dials.accept()
        self.assertEqual(server.ending, "reset")
        self.assert_idle()

    def test_switches(self) -> None:
        """Small packets are not held back, and dead peers are found, on both sides."""
        switched: list[str] = []

        class Switches(Wire):
            def setTcpNoDelay(self, enabled: bool) -> None:
                switched.append(f"no delay {enabled}")

            def setTcpKeepAlive(self, enabled: bool) -> None:
                switched.append(f"keep alive {enabled}")

        protocol = self.relay.factory.buildProtocol(ANYBODY)
        assert protocol is not None
        protocol.makeConnection(Switches(self.memory.world.clock, protocol))
        factory, _ = self.memory.dials.open.pop()
        upstream = factory.buildProtocol(ANYBODY)
        assert upstream is not None
        upstream.makeConnection(Switches(self.memory.world.clock, upstream))
        self.assertEqual(switched, ["no delay True", "keep alive True"] * 2)


class AdmissionTests(RelayTestCase):
    limits = TunnelLimits(max_connections=2)

    def test_limit(self) -> None:
        """Who comes beyond the limit is reset at once, not dialled for, and counted."""
        first, _ = self.memory.pair()
        self.memory.connect()
        third = self.memory.connect()
        self.assertEqual(third.ending, "reset")
        self.assertEqual(len(self.memory.dials.open), 1)
        self.assertEqual(self.hub.counters.refused_max_connections, 1)
        self.memory.world.settle()
        self.assertEqual(self.relay.local_connections(), 2)
        first.reset()
        self.memory.world.settle()
        self.assertIsNone(self.memory.connect().ending)


class ServerEndTests(RelayTestCase):
    def test_closed(self) -> None:
        """What the server said before it closed reaches the local client, which is then closed."""
        local, server = self.memory.pair()
        local.say(b"?")
        server.say(b"bye")
        server.close()
        self.assertEqual((local.value(), local.ending), (b"bye", "closed"))
        self.assert_idle()
        self.assertEqual(self.hub.counters.closed_upstream_lost, 0)

    def test_cut(self) -> None:
        """A connection that was cut is no clean end for the local client either."""
        local, server = self.memory.pair()
        server.say(b"half an ans")
        server.reset()
        self.assertEqual((local.value(), local.ending), (b"half an ans", "reset"))
        self.memory.pair()
        self.assertEqual(self.hub.counters.closed_upstream_lost, 1)
        _, down, back = self.journal.lines
        self.assertIn("cut a connection in use", down)
        self.assertIn("back", back)

    def test_cut_after_local_end(self) -> None:
        """That the local client had said all does not make a cut answer a whole one."""
        local, server = self.memory.pair()
        local.say(b"?")
        local.finish()
        self.pass_by(TIMEOUT + STEP)
        server.say(b"half an ans")
        server.reset()
        self.assertEqual(local.ending, "reset")
        self.assert_idle()


class LocalEndTests(RelayTestCase):
    def test_reset(self) -> None:
        """A local client that is gone takes its upstream connection along."""
        local, server = self.memory.pair()
        local.say(b"half a requ")
        local.reset()
        self.assertEqual(server.ending, "reset")
        self.assert_idle()

    def test_answered(self) -> None:
        """A local client that ends after an answer has its upstream end right after it."""
        local, server = self.memory.pair()
        local.say(b"?")
        server.say(b"!")
        local.finish()
        self.assertFalse(server.half_closed)
        self.pass_by(QUIET + STEP)
        self.assertTrue(server.half_closed)
        server.close()
        self.assertEqual(local.ending, "closed")
        self.assert_idle()

    def test_slow_answers(self) -> None:
        """All answers come to a client that says no more, however slow the server is with them."""
        local, server = self.memory.pair()
        local.say(b"?" * 100)
        local.finish()
        for _ in range(100):
            self.pass_by(QUIET / 2)
            self.assertFalse(server.half_closed)
            server.say(b"!")
        self.pass_by(QUIET + STEP)
        self.assertTrue(server.half_closed)
        server.close()
        self.assertEqual((local.value(), local.ending), (b"!" * 100, "closed"))

    def test_first_answer_is_slow(self) -> None:
        """A server that has not answered at all yet gets more time before it is told the end."""
        local, server = self.memory.pair()
        local.say(b"?")
        local.finish()
        self.pass_by(TIMEOUT - STEP)
        self.assertFalse(server.half_closed)
        self.pass_by(3 * STEP)
        self.assertTrue(server.half_closed)
        self.pass_by(TIMEOUT - STEP * 3)
        server.say(b"!")  # after it was told
        self.assertEqual(local.value(), b"!")
        self.pass_by(TIMEOUT - STEP * 3)
        self.assertIsNone(local.ending)

    def test_server_never_ends(self) -> None:
        """A server that does not end what nobody needs any more is reset in the end."""
        local, server = self.memory.pair()
        local.say(b"?")
        local.finish()
        self.pass_by(2 * TIMEOUT + 4 * STEP)
        self.assertEqual((local.ending, server.ending), ("reset", "reset"))
        self.assert_idle()


class IdleTests(RelayTestCase):
    limits = TunnelLimits(relay_idle_seconds=10)

    def test_idle(self) -> None:
        """A pair that carries nothing for too long ends; bytes either way keep it."""
        kept, fed = self.memory.pair()
        idle, silent = self.memory.pair()
        for turn in range(4):
            (kept if turn % 2 else fed).say(b".")
            self.pass_by(4)
        self.assertEqual((idle.ending, silent.ending), ("reset", "closed"))
        self.assertEqual((kept.ending, fed.ending), (None, None))
        self.assertEqual(self.hub.counters.closed_idle, 1)
        kept.reset()
        self.assert_idle()


class ForeverTests(RelayTestCase):
    def test_no_limit(self) -> None:
        """Without a limit an idle pair stays, and nothing is called later for it."""
        local, server = self.memory.pair()
        self.assertEqual(self.memory.world.delayed(), [])
        self.pass_by(3600)
        self.assertEqual((local.ending, server.ending), (None, None))


class ReloadTests(RelayTestCase):
    def test_reload(self) -> None:
        """New settings are for new connections; those that are there stay."""
        old, _ = self.memory.pair()
        tls = TLS(pins=("00" * 32,))
        self.relay.reload(SERVER, tls, None)
        self.assertIs(self.memory.dials.tls, tls)
        self.assertIsNone(old.ending)


class DrainTests(RelayTestCase):
    def test_nobody(self) -> None:
        """With nobody connected a drain is over at once."""
        self.successResultOf(self.relay.drain(5))

    def test_at_rest(self) -> None:
        """Pairs at rest end in good order; what is dialled for ends at once; nobody new comes."""
        local, server = self.memory.pair()
        waiting = self.memory.connect()
        drained = self.relay.drain(5)
        late = self.memory.connect()
        self.assertEqual((waiting.ending, late.ending), ("reset", "reset"))
        self.pass_by(QUIET + STEP)
        self.assertTrue(server.half_closed)
        self.assertTrue(local.paused)
        server.close()
        self.memory.world.settle()
        self.assertEqual(local.ending, "closed")
        self.successResultOf(drained)
        self.assert_idle()

    def test_in_flight(self) -> None:
        """A request in flight is answered before its pair ends."""
        local, server = self.memory.pair()
        local.say(b"?")
        drained = self.relay.drain(5)
        self.pass_by(4)
        self.assertEqual((local.ending, server.half_closed), (None, False))
        server.say(b"!")
        self.pass_by(QUIET + STEP)
        server.close()
        self.assertEqual((local.value(), local.ending), (b"!", "closed"))
        self.memory.world.settle()
        self.successResultOf(drained)

    def test_late(self) -> None:
        """A drain ends in time, whatever is still in flight."""
        local, server = self.memory.pair()
        local.say(b"?")
        drained = self.relay.drain(5)
        self.pass_by(5 - STEP)
        self.assertNoResult(drained)
        self.pass_by(3 * STEP)
        self.successResultOf(drained)
        self.assertEqual((local.ending, server.ending), ("reset", "reset"))
        self.assertEqual(self.hub.counters.closed_drain, 1)
        self.assert_idle()

    def test_at_once(self) -> None:
        """A drain of no seconds resets all."""
        local, server = self.memory.pair()
        drained = self.relay.drain(0)
        self.memory.world.settle()
        self.successResultOf(drained)
        self.assertEqual((local.ending, server.ending), ("reset", "reset"))


class AnyOrderTests(SynchronousTestCase):
    """Whatever happens in whatever order, nothing raises, and nothing is left behind."""

    def test_any_order(self) -> None:
        """After any run of events all is gone in the time that the limits give it."""
        for seed in range(1500):
            chance = random.Random(seed)
            memory = RelayInMemory(TunnelLimits(stall_seconds=3, relay_idle_seconds=60))
            memory.dials.deaf = chance.random() < 0.2
            local, server = memory.connect(), None
            ran = []
            for _ in range(chance.randrange(1, 9)):
                event = chance.choice(EVENTS)
                ran.append(event)
                if event == "connected" and memory.dials.open:
                    server = memory.dials.accept()
                elif event == "refused" and memory.dials.open and not memory.dials.deaf:
                    memory.dials.refuse()
                elif event == "drain":
                    memory.relay.drain(chance.choice((0, 1)))
                elif event == "time":
                    memory.world.pass_by(chance.choice((0.05, 0.3, 3)))
                elif event == "turn":
                    memory.world.settle()
                elif event.startswith("local") and not local.paused:
                    getattr(local, event.removeprefix("local "))(*DATA[event])
                elif event.startswith("server") and server is not None:
                    getattr(server, event.removeprefix("server "))(*DATA[event])
            while memory.dials.open:
                server = memory.dials.accept()
            if not local.ending:
                local.finish()
            memory.world.pass_by(10)
            self.assertTrue(memory.idle(), (seed, ran))
            self.assertTrue(local.lost and (server is None or server.lost), (seed, ran))


EVENTS = (
    *("connected", "connected", "refused", "drain", "time", "turn"),
    *("local say", "local finish", "local close", "local reset"),
    *("server say", "server close", "server reset"),
)
DATA = {event: (b"x",) if event.endswith("say") else () for event in EVENTS}
