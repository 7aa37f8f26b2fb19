"""Tests of `txtlsmc.cluster.node`."""

from __future__ import annotations

from zlib import crc32

from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IAddress
from twisted.trial.unittest import SynchronousTestCase

from tests.cluster.fakes import Dials, Journal, Line, World, outcome
from tests.net.fakes import answer, hit
from txtlsmc.cluster.link import Link, LinkWatcher
from txtlsmc.cluster.node import Node, NodeState
from txtlsmc.errors import (
    ConnectFailed,
    ConnectionClosed,
    ConnectRefused,
    ConnectTimedOut,
    CredentialsRefused,
    NodeDown,
    NotPermitted,
    RemoteProtocolError,
    RequestTimeout,
    ServerSilent,
)
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.routing import Backoff
from txtlsmc.settings import Limits, Server
from txtlsmc.wire import operations


class NodeTests(SynchronousTestCase):
    """What is common to the tests of a node."""

    def setUp(self) -> None:
        self.world = World()
        self.dials = Dials(self.world)
        self.journal = Journal(self)
        self.make()

    def make(self, connections: int = 1, eject_after: int = 2) -> Node:
        """Make another node instead of the usual one."""
        world, limits = self.world, Limits()
        handshakes = DeferredSemaphore(2)

        def build(address: IAddress | None) -> MemcacheProtocol:
            return MemcacheProtocol(world.clock, limits=limits, monotonic=world.monotonic)

        def link(watcher: LinkWatcher) -> Link:
            return Link(
                world.clock,
                self.dials,
                build,
                watcher,
                server="a:1",
                limits=limits,
                backoff=Backoff(),
                handshakes=handshakes,
                jitter=lambda: 1.0,
                monotonic=world.monotonic,
            )

        self.node = Node(Server("a:1"), 0, link, connections=connections, eject_after=eject_after)
        return self.node

    def get(self, key: str = "key", timeout: float = 2.0) -> list[object]:
        """Ask for a key; return where the outcome will be."""
        link = self.node.link_for(key.encode())
        return outcome(link.perform(operations.get(key), timeout))

    def up(self) -> Line:
        """Start, and connect."""
        self.node.start()
        return self.dials.accept()

    def again(self) -> Line:
        """Wait for the next attempt, and let it succeed."""
        self.wait()
        return self.dials.accept()

    def wait(self) -> None:
        """Wait for the next attempt."""
        for _ in range(200):
            if self.dials.open:
                return
            self.world.advance(0.05)
        self.fail("no further attempt")

    def fall(self, times: int = 2) -> None:
        """Let so many attempts fail."""
        self.node.start()
        for _ in range(times):
            self.wait()
            self.dials.fail()


class EjectionTests(NodeTests):
    def test_starts(self) -> None:
        """Before anything is known of it, a node is neither up nor down."""
        self.node.start()
        self.assertEqual(self.node.health(), (Server("a:1"), NodeState.CONNECTING, 0, 0, None, 0))

    def test_one_failure(self) -> None:
        """After one failure calls still wait."""
        self.fall(1)
        self.assertIs(self.node.state, NodeState.CONNECTING)
        got = self.get()
        line = self.again()
        line.say(hit(line.request()))
        self.assertEqual(len(got), 1)

    def test_cannot_connect(self) -> None:
        """After two failures in a row calls fail at once, and say why."""
        self.fall()
        self.assertIs(self.node.state, NodeState.DOWN)
        (error,) = self.get()
        assert isinstance(error, NodeDown)
        self.assertEqual(error.node, "a:1")
        self.assertIsInstance(error.cause, ConnectRefused)
        self.assertIn("nobody listens", str(error))
        self.assertEqual(self.node.health().failures, 2)

    def test_who_waited(self) -> None:
        """Calls that wait when the node is ejected fail then, each with the cause."""
        self.node.start()
        first, second = self.get(), self.get()
        self.fall(1)
        self.assertEqual((first, second), ([], []))
        self.fall(1)
        error = first[0]
        assert isinstance(error, NodeDown)
        self.assertIsInstance(error.cause, ConnectRefused)
        self.assertIsNot(error, second[0])

    def test_how_many(self) -> None:
        """How many failures are too many is a setting."""
        self.make(eject_after=4)
        self.fall(3)
        self.assertIs(self.node.state, NodeState.CONNECTING)
        self.fall(1)
        self.assertIs(self.node.state, NodeState.DOWN)

    def test_refused_credentials(self) -> None:
        """Refused credentials eject a node at once: the next try is a minute away."""
        self.node.start()
        waiting = self.get()
        self.dials.fail(CredentialsRefused("a:1", "the password is wrong"))
        for (error,) in (waiting, self.get()):
            assert isinstance(error, NodeDown)
            self.assertIsInstance(error.cause, CredentialsRefused)
        self.assertEqual(self.node.health()[1:4], (NodeState.DOWN, 0, 1))
        self.world.pass_by(60.1)
        self.dials.accept()
        self.assertIs(self.node.state, NodeState.UP)

    def test_silent(self) -> None:
        """A server that accepts and never answers is ejected."""
        self.node.start()
        for failures in (1, 2):
            self.again()
            got = self.get()
            self.world.pass_by(2.5)
            self.assertIsInstance(got[0], (RequestTimeout, ServerSilent))
            self.assertEqual(self.node.health().failures, failures)
        (error,) = self.get()
        assert isinstance(error, NodeDown)
        self.assertIsInstance(error.cause, ServerSilent)

    def test_protocol_broken(self) -> None:
        """A server that breaks the protocol is ejected."""
        self.node.start()
        for _ in range(2):
            line = self.again()
            self.get()
            line.say(b"HTTP/1.1 400 Bad Request")
            self.world.advance(0)
        (error,) = self.get()
        assert isinstance(error, NodeDown)
        self.assertIsInstance(error.cause, RemoteProtocolError)

    def test_statuses_do_not_count(self) -> None:
        """A server that refuses requests is well."""
        line = self.up()
        for _ in range(5):
            got = self.get()
            line.say(answer(line.request(), b"no", status=0x20))
            self.assertIsInstance(got[0], NotPermitted)
        self.assertEqual(self.node.health()[1:5], (NodeState.UP, 1, 0, None))

    def test_losses_do_not_count(self) -> None:
        """Connections that just end are no reason to eject a node."""
        self.node.start()
        for _ in range(5):
            self.again().lose()
        self.assertIs(self.node.state, NodeState.CONNECTING)
        self.assertEqual(self.node.health().failures, 0)
        self.assertIsInstance(self.node.health().error, ConnectionClosed)

    def test_in_a_row(self) -> None:
        """Failures count anew after a connection that served."""
        self.node.start()
        for _ in range(3):
            line = self.again()
            got = self.get()
            line.say(hit(line.request()))
            self.assertEqual(len(got), 1)
            self.get()
            line.say(b"\0" * 24)
            self.world.advance(0)
            self.assertEqual(self.node.health().failures, 1)
            self.assertIs(self.node.state, NodeState.CONNECTING)

    def test_ready_is_not_enough(self) -> None:
        """A server that is ready each time and serves nobody is ejected all the same."""
        self.node.start()
        for _ in range(2):
            line = self.again()
            self.get()
            line.say(b"\0" * 24)
            self.world.advance(0)
        self.assertIs(self.node.state, NodeState.DOWN)


class ReadmissionTests(NodeTests):
    def test_readmitted(self) -> None:
        """The first connection that is ready brings an ejected node back."""
        self.fall(3)
        line = self.again()
        self.assertIs(self.node.state, NodeState.UP)
        self.assertIsNone(self.node.health().error)
        got = self.get()
        self.assertEqual(self.node.health().pending, 1)
        line.say(hit(line.request()))
        self.assertEqual(len(got), 1)

    def test_woken(self) -> None:
        """A call that fails fast has the node dialled, so that the next one may find it up."""
        self.fall(8)
        before = len(self.dials.all)
        self.assertIsInstance(self.get()[0], NodeDown)
        self.world.advance(0)
        self.assertEqual(len(self.dials.all), before + 1)


class LogTests(NodeTests):
    def test_each_cause_once(self) -> None:
        """An outage is in the log once for each cause, however often it is tried."""
        self.node.start()
        refused = ConnectRefused("a:1", "nobody listens")
        late = ConnectTimedOut("a:1", "no answer")
        for error in (refused, refused, late, refused, late):
            self.wait()
            self.dials.fail(error)
        self.assertEqual(self.journal.lines, ["a:1: nobody listens", "a:1: no answer"])

    def test_ready_again(self) -> None:
        """That it is ready again is logged once, and the next outage anew."""
        self.fall(3)
        line = self.again()
        told = ["a:1: nobody listens on a:1", "a:1: ready again"]
        self.assertEqual(self.journal.lines, told)
        self.world.pass_by(6)
        line.lose()
        self.again()
        lost = "a:1: the server closed the connection; the server may have seen the request"
        self.assertEqual(self.journal.lines, [*told, lost, "a:1: ready again"])

    def test_all_is_well(self) -> None:
        """A node that connects and is closed is not worth a line."""
        self.up()
        self.node.close(1)
        self.world.advance(0)
        self.assertEqual(self.journal.lines, [])

    def test_bounded(self) -> None:
        """A server that makes up a new cause each time does not fill the log."""
        self.node.start()
        for number in range(40):
            self.wait()
            self.dials.fail(ConnectFailed("a:1", f"said {number}"))
        self.assertEqual(len(self.journal.lines), 16)


class SettledTests(NodeTests):
    def test_up(self) -> None:
        """Who waits for the node hears when it is up, and later at once."""
        self.node.start()
        got = outcome(self.node.when_settled())
        self.assertEqual(got, [])
        self.dials.accept()
        self.assertEqual(got, [self.node])
        self.assertEqual(outcome(self.node.when_settled()), [self.node])

    def test_down(self) -> None:
        """Who waits for the node hears when it is ejected, and why."""
        got = outcome(self.node.when_settled())
        self.fall(1)
        self.assertEqual(got, [])
        self.fall(1)
        error = got[0]
        assert isinstance(error, NodeDown)
        self.assertIsInstance(error.cause, ConnectRefused)

    def test_another_try(self) -> None:
        """Who waits for a node that is down has it dialled once more, and hears of that."""
        self.fall(7)
        before = len(self.dials.all)
        got = outcome(self.node.when_settled())
        self.assertEqual(got, [])
        self.world.advance(0)
        self.assertEqual(len(self.dials.all), before + 1)
        self.dials.accept()
        self.assertEqual(got, [self.node])

    def test_refused_credentials(self) -> None:
        """Who waits for a node that refuses our password hears so at once."""
        self.node.start()
        self.dials.fail(CredentialsRefused("a:1", "no"))
        error = outcome(self.node.when_settled())[0]
        assert isinstance(error, NodeDown)
        self.assertIsInstance(error.cause, CredentialsRefused)
        self.world.pass_by(50)
        self.assertEqual(len(self.dials.all), 1)

    def test_cancelled(self) -> None:
        """Who does not wait any more is not told."""
        done = self.node.when_settled()
        got = outcome(done)
        done.cancel()
        self.up()
        self.assertEqual(len(got), 1)

    def test_closed(self) -> None:
        """Who waits for a node that is closed hears that."""
        self.node.start()
        got = outcome(self.node.when_settled())
        self.node.close(1)
        for (error,) in (got, outcome(self.node.when_settled())):
            assert isinstance(error, NodeDown)
            self.assertIn("the client was closed", str(error))
        self.assertIs(self.node.state, NodeState.CLOSED)


class ConnectionsTests(NodeTests):
    def test_one_key_one_connection(self) -> None:
        """The requests for one key use one connection, and different keys use all."""
        self.make(connections=3)
        keys = [b"key%d" % number for number in range(100)]
        links = {key: self.node.link_for(key) for key in keys}
        self.assertEqual(set(links.values()), set(self.node.links))
        for key in keys:
            self.assertIs(self.node.link_for(key), links[key])
            self.assertIs(links[key], self.node.links[crc32(key) % 3])

    def test_handshakes_at_once(self) -> None:
        """No more than two of them are being made at the same time."""
        self.make(connections=5)
        self.node.start()
        made = 0
        while self.dials.open:
            self.assertEqual(len(self.dials.all), min(made + 2, 5))
            self.dials.open[0].accept()
            made += 1
        self.assertEqual((made, self.node.health().connections), (5, 5))

    def test_one_is_enough(self) -> None:
        """A node with one live connection of several is up."""
        self.make(connections=2, eject_after=1)
        self.node.start()
        self.dials.open[0].accept()
        self.dials.open[0].fail()
        self.assertEqual(self.node.health()[1:4], (NodeState.UP, 1, 1))

    def test_closing(self) -> None:
        """Closing ends those that are up, those that are made, and those that wait to be made."""
        self.make(connections=4)
        self.node.start()
        line = self.dials.open[0].accept()
        closed = outcome(self.node.close(1))
        self.world.settle()
        self.assertEqual(closed, [None])
        self.assertTrue(line.lost)
        self.assertEqual((self.dials.open, self.world.delayed()), ([], []))
        self.assertEqual(len(self.dials.all), 3)
