"""`MemcacheClientFactory`: the nodes of a server list, and which of them has a key."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.interfaces import IAddress, IConnector, IStreamClientEndpoint
from twisted.internet.protocol import ClientFactory

from txtlsmc.cluster.link import Link, LinkWatcher
from txtlsmc.cluster.node import Node, NodeHealth, NodeState
from txtlsmc.cluster.ring import Pick, Ring
from txtlsmc.errors import InvalidArgument, MemcacheError, NotReady, WrongProcess
from txtlsmc.net.endpoints import CredentialsSource, ReadyEndpoint
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.routing import Routing
from txtlsmc.settings import TLS, InsecurePlaintext, Limits, Server

MakeEndpoint = Callable[[Server], IStreamClientEndpoint]


class MemcacheClientFactory(ClientFactory):
    """
    Keeps a connection, or several, to each server of a list, and knows which has a key.

    It is started by `start` and dials by itself: it is not for ``reactor.connectTCP``.

    Attributes:
        nodes: in the order of the server list.
        ring: which of them has a key.
        closed: whether `close` was called.
        routing: the settings of both.
        now: returns seconds that never jump.
    """

    noisy = False
    protocol = MemcacheProtocol

    def __init__(
        self,
        reactor: Any,
        servers: Sequence[Server],
        *,
        tls: TLS | InsecurePlaintext | None = None,
        credentials: CredentialsSource = None,
        routing: Routing | None = None,
        limits: Limits | None = None,
        endpoint: MakeEndpoint | None = None,
        jitter: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            reactor: the reactor.
            servers: one or more, in ring order; the same one twice is two nodes.
            tls, credentials, limits: as for `txtlsmc.connect`.
            routing: how keys are shared out, and what happens when a node is down.
            endpoint: connects to a server once ready; for tests.
            jitter, monotonic, wall_clock: for tests.

        Raises:
            InvalidSetting: a setting can not be right.
            InsecurePassword: the password could be stolen on the way.
        """
        self._reactor = reactor
        self.routing = routing = Routing() if routing is None else routing
        self.limits = Limits() if limits is None else limits
        self.now, self._wall_clock = monotonic, wall_clock
        self._rehash = routing.on_failure == "rehash"
        self.ring = Ring(servers, routing.scheme)
        self._process: int | None = None
        self._started = self.closed = False

        def ready_endpoint(server: Server) -> IStreamClientEndpoint:
            return ReadyEndpoint(
                reactor,
                server,
                tls=TLS() if tls is None else tls,
                credentials=credentials,
                limits=self.limits,
            )

        def node(place: int, server: Server) -> Node:
            connects = (endpoint or ready_endpoint)(server)
            handshakes = DeferredSemaphore(routing.handshakes)

            def link(watcher: LinkWatcher) -> Link:
                return Link(
                    reactor,
                    connects,
                    self.buildProtocol,
                    watcher,
                    server=server.name,
                    limits=self.limits,
                    backoff=routing.backoff,
                    handshakes=handshakes,
                    jitter=jitter,
                    monotonic=monotonic,
                )

            return Node(
                server,
                place,
                link,
                connections=routing.connections,
                eject_after=routing.eject_after,
            )

        self.nodes = tuple(node(place, server) for place, server in enumerate(self.ring.servers))

    def start(self) -> None:
        """Begin to connect to every server; calling it again changes nothing."""
        if not self._started and not self.closed:
            self._started, self._process = True, os.getpid()
            for node in self.nodes:
                node.start()

    def buildProtocol(self, addr: IAddress | None) -> MemcacheProtocol:
        """Build the protocol of one connection."""
        built = self.protocol(
            self._reactor,
            limits=self.limits,
            monotonic=self.now,
            wall_clock=self._wall_clock,
        )
        built.factory = self
        return built

    def startedConnecting(self, connector: IConnector) -> None:
        """Refuse ``reactor.connectTCP`` and its like: there would be no TLS and no SASL."""
        connector.disconnect()
        raise InvalidArgument(
            "a MemcacheClientFactory dials by itself: call start(), not reactor.connectTCP"
        )

    def whenReady(self, count: int | None = None) -> Deferred[None]:
        """
        Wait for servers.

        Args:
            count: how many have to be up; None: all.

        Returns:
            A Deferred that fires when so many are.

        Raises:
            InvalidArgument: there are not so many servers.
            WrongProcess: see `enter`.

        Fails:
            NotReady: it has become clear that so many will not be; holds the error of each node
                that was ejected.  They go on being dialled.
        """
        wanted = len(self.nodes) if count is None else count
        if not 0 <= wanted <= len(self.nodes):
            raise InvalidArgument(f"count is from 0 to {len(self.nodes)}, not {count}")
        self.enter()
        waiting = _Waiting(wanted, len(self.nodes))
        for node in self.nodes:
            waiting.add(node)
        return waiting.done

    def node_for(self, key: bytes) -> Node:
        """
        Return the node to use for *key* now.

        That is the one the ring says, unless it is down and the routing's *on_failure* is
        ``"rehash"``: then it is the next on the ring that is not.
        """
        if os.getpid() != self._process:
            self.enter()
        node = self.nodes[self.ring.locate(key)]
        if self._rehash and node.state is NodeState.DOWN:
            for place in self.ring.successors(key):
                if self.nodes[place].state is not NodeState.DOWN:
                    node.link_for(key).wake()
                    return self.nodes[place]
        return node

    def share_out(
        self, keys: Sequence[bytes], numbers: Sequence[int]
    ) -> list[tuple[Node, Link, Sequence[int]]]:
        """
        Return which links to use now for those of *keys* that have *numbers*.

        Returns:
            Each link once, with its node and its part of *numbers*.
        """
        self.enter()
        nodes, rehash = self.nodes, self._rehash
        if len(nodes) == 1 and not rehash and len(nodes[0].links) == 1:
            return [(nodes[0], nodes[0].links[0], numbers)]
        locate = self.ring.locate
        by_place: dict[int, list[int]] = {}
        for number in numbers:
            by_place.setdefault(locate(keys[number]), []).append(number)
        shares: dict[Link, tuple[Node, list[int]]] = {}
        for place, its in by_place.items():
            node = nodes[place]
            if len(node.links) == 1 and not (rehash and node.state is NodeState.DOWN):
                shares.setdefault(node.links[0], (node, []))[1].extend(its)
                continue
            for number in its:
                other = self.node_for(keys[number])
                link = other.link_for(keys[number])
                shares.setdefault(link, (other, []))[1].append(number)
        return [(node, link, its) for link, (node, its) in shares.items()]

    def enter(self) -> None:
        """
        Start, if that is to be done, at the beginning of a call.

        Raises:
            WrongProcess: this process was forked off since: two on one connection would read each
                other's answers.
        """
        if not self._started:
            self.start()
        self._check_process()

    def _check_process(self) -> None:
        if self._process is not None and os.getpid() != self._process:
            raise WrongProcess(
                "this client was connected before a fork; make one of its own in each process"
            )

    def explain(self, key: bytes) -> Pick:
        """Return which server has *key* by the ring, and why."""
        return self.ring.explain(key)

    def health(self) -> list[NodeHealth]:
        """Return how each node is, in the order of the server list."""
        return [node.health() for node in self.nodes]

    def close(self, timeout: float | None = None) -> Deferred[None]:
        """
        End for good: let what is pending finish, then close all connections.

        Args:
            timeout: seconds that it may take; the limits' own when None.  What is not answered by
                then fails with `ConnectionClosed`.

        Returns:
            A Deferred that fires when nothing is left.  Cancelling it ends the wait, and not the
            closing.

        Raises:
            InvalidArgument: *timeout* is below 0.
            WrongProcess: see `enter`; the other process goes on with its connections.
        """
        seconds = self.limits.timeout if timeout is None else timeout
        if not seconds >= 0:
            raise InvalidArgument(f"a timeout is a number of seconds, not {timeout!r}")
        self._check_process()
        self.closed = True
        done: Deferred[None] = Deferred()
        closing = gatherResults([node.close(seconds) for node in self.nodes])
        closing.addCallback(lambda _: done.callback(None))
        return done


class _Waiting:
    """Some of many nodes have to be up."""

    def __init__(self, wanted: int, nodes: int) -> None:
        self.done: Deferred[None] = Deferred()
        self._missing, self._spare = wanted, nodes - wanted
        self._errors: dict[str, MemcacheError] = {}
        if not wanted:
            self.done.callback(None)

    def add(self, node: Node) -> None:
        node.when_settled().addCallbacks(self._up, lambda reason: self._down(node, reason.value))

    def _up(self, node: Node) -> None:
        self._missing -= 1
        if not self._missing and not self.done.called:
            self.done.callback(None)

    def _down(self, node: Node, error: MemcacheError) -> None:
        self._errors[node.server.name] = error
        self._spare -= 1
        if self._spare < 0 and not self.done.called:
            self.done.errback(NotReady(dict(self._errors)))
