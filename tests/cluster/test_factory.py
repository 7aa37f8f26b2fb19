"""Tests of `txtlsmc.cluster.factory`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Client as TCPClient
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.cluster.fakes import Dials, Journal, World, outcome
from tests.net.fakes import hit
from tests.secrecy import credentials, leaks, password, wrong_credentials
from txtlsmc.cluster.factory import MemcacheClientFactory
from txtlsmc.cluster.node import NodeState
from txtlsmc.errors import (
    ConnectFailed,
    ConnectRefused,
    ConnectTimedOut,
    CredentialsRefused,
    InsecurePassword,
    InvalidArgument,
    MemcacheError,
    NodeDown,
    NotReady,
    WrongProcess,
)
from txtlsmc.net.endpoints import CredentialsSource, ReadyEndpoint
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.routing import Routing
from txtlsmc.settings import Credentials, InsecurePlaintext, Limits, Server
from txtlsmc.testing import MemoryServer
from txtlsmc.wire import operations

SERVERS = (Server("a:1"), Server("b:1"), Server("c:1"))


class FactoryTests(SynchronousTestCase):
    """What is common to the tests of a factory with a network in memory."""

    def setUp(self) -> None:
        self.world = World()
        self.journal = Journal(self)

    def make(self, **routing: Any) -> MemcacheClientFactory:
        """Make a factory."""
        self.dials: list[Dials] = []

        def endpoint(server: Server) -> Dials:
            self.dials.append(Dials(self.world))
            return self.dials[-1]

        self.factory = MemcacheClientFactory(
            self.world.clock,
            SERVERS,
            routing=Routing(**routing),
            endpoint=endpoint,
            jitter=lambda: 1.0,
            monotonic=self.world.monotonic,
        )
        return self.factory

    def eject(self, place: int, error: MemcacheError | None = None) -> None:
        """Have a server refuse until its node is down."""
        for _ in range(20):
            if self.factory.nodes[place].state is NodeState.DOWN:
                return
            for dial in self.dials[place].open:
                dial.fail(error)
            self.world.advance(0.05)
        self.fail("it is not ejected")

    def key_of(self, place: int) -> bytes:
        """Return a key that the ring gives to a server."""
        keys = (b"key%d" % number for number in range(1000))
        return next(key for key in keys if self.factory.ring.locate(key) == place)


class StartTests(FactoryTests):
    def test_starts_at_the_first_call(self) -> None:
        """Nothing is dialled before the first call; then all servers are, once."""
        factory = self.make()
        self.assertEqual([len(dials.all) for dials in self.dials], [0, 0, 0])
        factory.node_for(b"key")
        factory.start()
        self.assertEqual([len(dials.all) for dials in self.dials], [1, 1, 1])

    def test_builds_protocols(self) -> None:
        """The factory builds the protocols, and each knows its factory."""
        factory = self.make()
        built = factory.buildProtocol(None)
        self.assertIsInstance(built, MemcacheProtocol)
        self.assertIs(built.factory, factory)

    def test_stop_factory(self) -> None:
        """Twisted stops factories between attempts; that ends nothing."""
        factory = self.make()
        factory.start()
        factory.doStart()
        factory.doStop()
        factory.stopFactory()
        self.dials[0].accept()
        self.assertIs(factory.nodes[0].state, NodeState.UP)

    def test_connections(self) -> None:
        """Several connections to a server are made, so many at once as the routing allows."""
        factory = self.make(connections=4, handshakes=3)
        factory.start()
        self.assertEqual([len(dials.open) for dials in self.dials], [3, 3, 3])
        self.dials[0].open[0].accept()
        self.assertEqual([len(dials.all) for dials in self.dials], [4, 3, 3])

    def test_same_server_twice(self) -> None:
        """The same server twice is two nodes, each with a connection."""
        made: list[Dials] = []

        def endpoint(server: Server) -> Dials:
            made.append(Dials(self.world))
            return made[-1]

        twice = (Server("a:1"), Server("a:1"))
        factory = MemcacheClientFactory(self.world.clock, twice, endpoint=endpoint)
        factory.start()
        self.assertEqual([len(dials.all) for dials in made], [1, 1])
        self.assertEqual([node.place for node in factory.nodes], [0, 1])

    def test_insecure_password(self) -> None:
        """A password that could be stolen is refused when the factory is made."""
        with self.assertRaises(InsecurePassword):
            MemcacheClientFactory(
                self.world.clock, SERVERS, tls=InsecurePlaintext(), credentials=credentials()
            )


class RoutingTests(FactoryTests):
    def test_by_the_ring(self) -> None:
        """A key goes to the server that the ring says."""
        factory = self.make()
        for number in range(50):
            key = b"key%d" % number
            self.assertEqual(factory.node_for(key).place, factory.ring.locate(key))
            self.assertEqual(factory.explain(key).server, factory.node_for(key).server)

    def test_fail(self) -> None:
        """By default the keys of a server that is down stay its own."""
        factory = self.make()
        factory.start()
        self.eject(1)
        self.assertEqual(factory.node_for(self.key_of(1)).place, 1)

    def test_rehash(self) -> None:
        """With "rehash" they go to the next server on the ring, and come back with it."""
        factory = self.make(on_failure="rehash")
        factory.start()
        key = self.key_of(1)
        self.dials[0].accept()
        self.dials[2].accept()
        self.eject(1)
        heirs = [place for place in factory.ring.successors(key) if place != 1]
        self.assertEqual(factory.node_for(key).place, heirs[0])
        self.assertEqual(factory.node_for(self.key_of(2)).place, 2)
        self.world.pass_by(1)
        self.dials[1].accept()
        self.assertEqual(factory.node_for(key).place, 1)

    def test_rehash_wakes(self) -> None:
        """A call that went elsewhere has its own server dialled."""
        factory = self.make(on_failure="rehash")
        factory.start()
        self.eject(1)
        for _ in range(200):  # until it is in a long pause
            for dial in self.dials[1].open:
                dial.fail()
            self.world.advance(0.05)
        before = len(self.dials[1].all)
        factory.node_for(self.key_of(1))
        self.world.advance(0)
        self.assertEqual(len(self.dials[1].all), before + 1)

    def test_all_down(self) -> None:
        """When all are down, the call fails as that of its own server."""
        factory = self.make(on_failure="rehash")
        factory.start()
        for place in range(3):
            self.eject(place)
        key = self.key_of(2)
        node = factory.node_for(key)
        self.assertEqual(node.place, 2)
        error = outcome(node.link_for(key).perform(operations.get(key), 1))[0]
        self.assertIsInstance(error, NodeDown)

    def test_health(self) -> None:
        """The health of each node is told in the order of the list."""
        factory = self.make()
        factory.start()
        self.dials[0].accept()
        self.eject(1)
        states = [health.state for health in factory.health()]
        self.assertEqual(states, [NodeState.UP, NodeState.DOWN, NodeState.CONNECTING])


class ReadyTests(FactoryTests):
    def test_all(self) -> None:
        """It fires when all servers are ready, and starts them."""
        ready = outcome(self.make().whenReady())
        for dials in self.dials:
            self.assertEqual(ready, [])
            dials.accept()
        self.assertEqual(ready, [None])
        self.assertEqual(outcome(self.factory.whenReady()), [None])

    def test_some(self) -> None:
        """It fires when as many are ready as were asked for, also when another is down."""
        ready = outcome(self.make().whenReady(2))
        self.eject(1)
        self.dials[0].accept()
        self.assertEqual(ready, [])
        self.dials[2].accept()
        self.assertEqual(ready, [None])

    def test_none(self) -> None:
        """No server at all is always ready."""
        self.assertEqual(outcome(self.make().whenReady(0)), [None])
        for dials in self.dials:
            dials.accept()

    def test_not_ready(self) -> None:
        """It fails as soon as there can not be so many, with the cause of each."""
        ready = outcome(self.make().whenReady(2))
        self.eject(0, ConnectRefused("a:1", "nobody listens"))
        self.assertEqual(ready, [])
        self.eject(2, ConnectFailed("c:1", "the moon is wrong"))
        (error,) = ready
        assert isinstance(error, NotReady)
        self.assertEqual(set(error.errors), {"a:1", "c:1"})
        self.assertIn("nobody listens", str(error))
        self.assertIn("the moon is wrong", str(error))

    def test_goes_on(self) -> None:
        """After that has failed, the servers are dialled on, and may be ready yet."""
        first = outcome(self.make().whenReady())
        self.eject(0)
        self.assertIsInstance(first[0], NotReady)
        second = outcome(self.factory.whenReady(1))
        self.dials[1].accept()
        self.assertEqual(second, [None])

    def test_impossible(self) -> None:
        """More servers than there are is an error at once."""
        for count in (4, -1):
            with self.assertRaises(InvalidArgument):
                self.make().whenReady(count)

    def test_cancelled(self) -> None:
        """Who does not wait any more is not told, and nothing is logged."""
        done = self.make().whenReady()
        got = outcome(done)
        done.cancel()
        for place in range(3):
            self.eject(place)
        self.assertEqual(len(got), 1)

    def test_closed(self) -> None:
        """Closing ends the wait, with an error that says so."""
        ready = outcome(self.make().whenReady())
        self.factory.close()
        assert isinstance(ready[0], NotReady)
        self.assertIn("the client was closed", str(ready[0]))
        self.assertIsInstance(outcome(self.factory.whenReady())[0], NotReady)


class CloseTests(FactoryTests):
    def test_all_kinds(self) -> None:
        """Servers that are up, being dialled, and in a pause are all ended; nothing is left."""
        factory = self.make()
        factory.start()
        line = self.dials[0].accept()
        self.dials[1].fail()
        closed = outcome(factory.close())
        self.world.settle()
        self.assertEqual(closed, [None])
        self.assertTrue(line.lost)
        self.assertTrue(self.dials[2].all[0].cancelled)
        self.assertEqual(self.world.delayed(), [])
        again = outcome(factory.close())
        self.assertEqual(again, [None])
        self.assertEqual({h.state for h in factory.health()}, {NodeState.CLOSED})

    def test_drains(self) -> None:
        """It waits for what is pending, as long as it may."""
        factory = self.make()
        factory.start()
        line = self.dials[0].accept()
        key = self.key_of(0)
        got = outcome(factory.node_for(key).link_for(key).perform(operations.get(key), 2))
        closed = outcome(factory.close(1))
        self.world.settle()
        self.assertEqual(closed, [])
        line.say(hit(line.request()))
        self.world.settle()
        self.assertEqual((len(got), closed), (1, [None]))

    def test_cancel(self) -> None:
        """Who cancels what close returned stops waiting for it; the closing goes on."""
        factory = self.make()
        factory.start()
        lines = [dials.accept() for dials in self.dials]
        key = self.key_of(0)
        got = outcome(factory.node_for(key).link_for(key).perform(operations.get(key), 2))
        done = factory.close(1)
        closed = outcome(done)
        done.cancel()
        self.assertEqual([type(error) for error in closed], [CancelledError])
        lines[0].say(hit(lines[0].request()))
        self.world.settle()
        self.assertEqual((len(got), [line.lost for line in lines]), (1, [True] * 3))
        self.world.pass_by(10)
        self.assertEqual([len(dials.all) for dials in self.dials], [1, 1, 1])
        self.assertEqual(self.world.delayed(), [])

    def test_before_the_start(self) -> None:
        """A factory that was closed before its first use does not begin to dial."""
        factory = self.make()
        self.assertEqual(outcome(factory.close()), [None])
        factory.start()
        factory.node_for(b"key")
        self.assertEqual([len(dials.all) for dials in self.dials], [0, 0, 0])

    def test_timeout(self) -> None:
        """A time below 0 is an error, and nothing is closed."""
        factory = self.make()
        for timeout in (-1, float("nan")):
            with self.assertRaises(InvalidArgument):
                factory.close(timeout)
        self.assertFalse(factory.closed)


class ForkTests(FactoryTests):
    def in_child(self, call: Callable[[], object]) -> int:
        """Return 0 if *call* raises `WrongProcess` in a forked process, and says what to do."""
        child = os.fork()
        if not child:
            status = 1
            try:
                call()
            except WrongProcess as error:
                status = 0 if "make one of its own" in str(error) else 2
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def test_fork(self) -> None:
        """In a forked process the first call fails; the connections are the other process's."""
        factory = self.make()
        factory.start()
        self.assertEqual(self.in_child(lambda: factory.node_for(b"key")), 0)
        self.assertEqual(self.in_child(factory.whenReady), 0)
        self.assertEqual(self.in_child(factory.close), 0)
        factory.node_for(b"key")

    def test_fork_before_the_start(self) -> None:
        """A client that was not used before the fork may be used behind it."""
        factory = self.make()
        self.assertEqual(self.in_child(lambda: factory.node_for(b"key")), 1)


class CredentialsTests(SynchronousTestCase):
    """Credentials that are asked for at every connection, against a server in memory."""

    def setUp(self) -> None:
        self.world = World()
        self.journal = Journal(self)
        self.server = MemoryServer(self.world.clock, users={"alice": password()})

    def make(self, source: CredentialsSource) -> MemcacheClientFactory:
        """Make a factory for the server."""

        def endpoint(server: Server) -> IStreamClientEndpoint:
            return ReadyEndpoint(
                self.world.clock,
                server,
                tls=InsecurePlaintext(),
                credentials=source,
                dial=self.server.endpoint(),
            )

        self.factory = MemcacheClientFactory(
            self.world.clock,
            SERVERS[:1],
            routing=Routing(),
            limits=Limits(),
            endpoint=endpoint,
            jitter=lambda: 1.0,
            monotonic=self.world.monotonic,
        )
        return self.factory

    def cause(self, ready: list[object]) -> MemcacheError:
        """Return why the server is not ready; nothing may show a password."""
        for _ in range(600):
            if ready:
                break
            self.world.advance(0.1)
            self.world.settle()
        (error,) = ready
        assert isinstance(error, NotReady)
        down = error.errors["a:1"]
        assert isinstance(down, NodeDown) and down.cause is not None
        for text in (str(error), repr(error), *self.journal.lines):
            self.assertEqual(leaks(text), [])
        self.assertEqual(len(self.journal.lines), 1)
        self.assertEqual(outcome(self.factory.close()), [None])
        self.assertEqual(self.world.delayed(), [])
        return down.cause

    def test_rotated(self) -> None:
        """They are asked for at every connection, so that a new password needs no restart."""
        asked: list[int] = []

        def source() -> Credentials | Deferred[Credentials]:
            asked.append(1)
            right = credentials(insecure=True)
            return right if len(asked) % 2 else succeed(right)

        ready = outcome(self.make(source).whenReady())
        self.world.settle()
        self.assertEqual((ready, len(asked)), ([None], 1))
        self.world.pass_by(6)
        self.server.drop_connections()
        self.world.settle()
        self.assertEqual((self.factory.nodes[0].state, len(asked)), (NodeState.UP, 2))
        self.factory.close()
        self.world.settle()
        self.assertEqual(self.world.delayed(), [])

    def test_wrong(self) -> None:
        """A wrong password is tried once a minute, and logged once."""
        asked: list[float] = []

        def source() -> Credentials:
            asked.append(self.world.now)
            return wrong_credentials(insecure=True)

        ready = outcome(self.make(source).whenReady())
        self.world.settle()
        self.assertEqual(len(ready), 1)
        self.world.pass_by(150, 0.5)
        self.assertEqual([round(at - asked[0]) for at in asked], [0, 60, 120])
        self.assertIsInstance(self.cause(ready), CredentialsRefused)

    def test_raise(self) -> None:
        """A source that raises is a failure by its class; what it said is not repeated."""

        def source() -> Credentials:
            raise ValueError(password())

        cause = self.cause(outcome(self.make(source).whenReady()))
        self.assertIsInstance(cause, ConnectFailed)
        self.assertIn("ValueError", str(cause))

    def test_fail(self) -> None:
        """So is one whose Deferred fails."""

        def source() -> Deferred[Credentials]:
            done: Deferred[Credentials] = Deferred()
            self.world.clock.callLater(0.5, done.errback, ValueError(password()))
            return done

        cause = self.cause(outcome(self.make(source).whenReady()))
        self.assertIn("ValueError", str(cause))

    def test_hang(self) -> None:
        """One that never answers is given up after the time for connecting."""
        ready = outcome(self.make(lambda: Deferred()).whenReady())
        self.world.pass_by(4.5, 0.5)
        self.assertEqual(self.factory.health()[0].failures, 0)
        self.assertIs(type(self.cause(ready)), ConnectTimedOut)

    def test_close_while_asked(self) -> None:
        """Closing while they are asked for ends the question."""
        ended: list[object] = []
        factory = self.make(lambda: Deferred(ended.append))
        factory.start()
        self.assertEqual(outcome(factory.close()), [None])
        self.assertEqual(len(ended), 1)
        self.assertEqual(self.world.delayed(), [])

    def test_insecure(self) -> None:
        """Credentials that come later are refused all the same where they could be stolen."""
        cause = self.cause(outcome(self.make(lambda: succeed(credentials())).whenReady()))
        self.assertIsInstance(cause, InsecurePassword)
        self.assertEqual(self.server.stats["cmd_get"], 0)

    def test_no_credentials(self) -> None:
        """A source that returns something else is a failure that is told, not an endless wait."""
        wrong: Any = lambda: ("alice", password())  # noqa: E731 - one line says it
        cause = self.cause(outcome(self.make(wrong).whenReady()))
        self.assertIsInstance(cause, ConnectFailed)


class ConnectTCPTests(TestCase):
    """On a real reactor, which is where the mistake is made."""

    def test_says_what_to_call(self) -> None:
        """With ``reactor.connectTCP`` it raises an error that says what to call."""
        run: Any = reactor
        accepted: list[object] = []

        class Accepting(Protocol):
            def connectionMade(self) -> None:
                accepted.append(self)

        port = run.listenTCP(0, Factory.forProtocol(Accepting), interface="127.0.0.1")
        factory = MemcacheClientFactory(run, SERVERS)
        with self.assertRaises(InvalidArgument) as caught:
            run.connectTCP("127.0.0.1", port.getHost().port, factory)
        self.assertIn("start()", str(caught.exception))
        done: Deferred[None] = Deferred()
        run.callLater(0.05, done.callback, None)

        def stop(result: object) -> Deferred[object]:
            stopping: Deferred[object] = port.stopListening()
            return stopping.addCallback(lambda _: result)

        def check(_: object) -> None:
            open_ones = {*run.getReaders(), *run.getWriters()}
            self.assertEqual([one for one in open_ones if isinstance(one, TCPClient)], [])
            self.assertEqual(accepted, [])

        done.addCallback(check)
        return done.addBoth(stop)  # type: ignore[return-value]  # trial waits for it
