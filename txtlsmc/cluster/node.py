"""
A node: one entry of the server list as we see it, with its links and its health.

What counts against it: that it can not be connected to (whatever the cause), keeps silent, or
breaks the protocol.  A status does not, and neither does a connection that just ends.  After so
many in a row it is *ejected*: its keys fail at once instead of waiting.  It goes on being dialled,
and the first connection that is ready readmits it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple
from zlib import crc32

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from txtlsmc.cluster.link import Link, LinkWatcher, closed
from txtlsmc.errors import AuthenticationError, MemcacheError, NodeDown
from txtlsmc.settings import Server

#: So many causes of one outage are logged: a server may make up ever new ones.
_MOST_TOLD: Final = 16


class NodeState(Enum):
    """How a node is."""

    CONNECTING = "connecting"
    UP = "up"
    DOWN = "down"
    CLOSED = "closed"


class NodeHealth(NamedTuple):
    """
    How a node is, at one moment.

    Attributes:
        server: the entry of the server list.
        state: see `NodeState`.
        connections: how many are ready.
        failures: in a row.
        error: the latest, until it is up again; its text says what is wrong.
        pending: requests without an answer.
    """

    server: Server
    state: NodeState
    connections: int
    failures: int
    error: MemcacheError | None
    pending: int


class Node:
    """
    One entry of the server list.

    Attributes:
        server: that entry.
        place: its place in the list.
        error: the latest failure; None while it is up.
    """

    _log: Final = Logger()

    def __init__(
        self,
        server: Server,
        place: int,
        make_link: Callable[[LinkWatcher], Link],
        *,
        connections: int,
        eject_after: int,
    ) -> None:
        """
        Args:
            server: the entry.
            place: its place in the list.
            make_link: makes one of its links.
            connections: how many links; one key always uses the same.
            eject_after: how many failures in a row are too many.
        """
        self.server, self.place = server, place
        self.error: MemcacheError | None = None
        self._eject_after = eject_after
        self._failures = 0
        self._closed = False
        self._told: set[str] = set()  # what the log knows of it since it was up
        self._awaiting: list[Deferred[Node]] = []
        self.links = tuple(make_link(self) for _ in range(connections))

    def __repr__(self) -> str:
        return f"<Node {self.server} {self.state.value}>"

    @property
    def state(self) -> NodeState:
        """How it is now."""
        if self._closed:
            return NodeState.CLOSED
        if any(link.live is not None for link in self.links):
            return NodeState.UP
        # The next try of a refused password is a minute away: nobody can wait for that.
        hopeless = isinstance(self.error, AuthenticationError)
        down = hopeless or self._failures >= self._eject_after
        return NodeState.DOWN if down else NodeState.CONNECTING

    def health(self) -> NodeHealth:
        """Return how it is now, and why."""
        live = [link.live for link in self.links if link.live is not None]
        pending = sum(protocol.pending for protocol in live)
        return NodeHealth(self.server, self.state, len(live), self._failures, self.error, pending)

    def link_for(self, key: bytes) -> Link:
        """Return the link that *key* uses."""
        links = self.links
        return links[0] if len(links) == 1 else links[crc32(key) % len(links)]

    def start(self) -> None:
        """Begin to connect."""
        for link in self.links:
            link.start()

    def when_settled(self) -> Deferred[Node]:
        """
        Return a Deferred that fires once it is up, and fails with `NodeDown` once ejected.

        One that is ejected already has another try, unless that would be no sooner than a refused
        password is tried again.
        """
        done: Deferred[Node] = Deferred()
        self._awaiting.append(done)
        if self.state is NodeState.DOWN and not isinstance(self.error, AuthenticationError):
            for link in self.links:
                link.wake()
        else:
            self._settle()
        return done

    def _settle(self) -> None:
        state = self.state
        if state is NodeState.CONNECTING:
            return
        awaiting, self._awaiting = self._awaiting, []
        for done in awaiting:
            if done.called:
                continue
            if state is NodeState.UP:
                done.callback(self)
            else:
                done.errback(self._down())

    def _down(self) -> NodeDown:
        error = closed() if self._closed else self.error
        return NodeDown(self.server.name, error)

    # LinkWatcher

    def refusal(self) -> MemcacheError | None:
        """Return the error for who would wait for a link."""
        return self._down() if self.state is NodeState.DOWN else None

    def link_ready(self) -> None:
        """Readmit it, if it was ejected."""
        if self._told:
            self._log.info("{node}: ready again", node=self.server.name)
        self._told.clear()
        self.error = None
        self._settle()

    def link_failed(self, error: MemcacheError) -> None:
        """Count a failure, and eject it after too many."""
        self._failures += 1
        self.error = error
        self._tell(error)
        if self.state is NodeState.DOWN:
            for link in self.links:
                link.dismiss(self._down)
        self._settle()

    def link_lost(self, error: MemcacheError) -> None:
        """Keep why, in case it does not come back."""
        self.error = error
        self._tell(error)

    def link_useful(self) -> None:
        """Forget what was before: failures in a row are counted from here."""
        self._failures = 0

    def _tell(self, error: MemcacheError) -> None:
        words = str(error).removeprefix(f"{self.server.name}: ")
        if words not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(words)
            self._log.warn("{node}: {words}", node=self.server.name, words=words)

    def close(self, timeout: float) -> Deferred[None]:
        """Let what is pending finish for *timeout* seconds, then end all connections for good."""
        self._closed = True
        # The last ones first: they wait for the others' handshakes to end, and would begin theirs.
        closing = gatherResults([link.close(timeout) for link in reversed(self.links)])
        self._settle()
        return closing.addCallback(lambda _: None)
