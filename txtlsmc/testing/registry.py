"""Who is connected to the embedded server, and how all of them are told something at once."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred, succeed


class Connected(Protocol):
    """What a registry does with a connection."""

    def abort(self) -> None:
        """Close at once."""

    def pause(self) -> None:
        """Fall silent."""

    def resume(self) -> None:
        """Go on."""


class Registry:
    """
    Everything that is open, and has to be gone when the server is stopped.

    Attributes:
        accepting: whether there is a server for those who come.
        paused: whether connections are to be silent.
    """

    def __init__(self, max_connections: int) -> None:
        self.accepting = True
        self.paused = False
        self._max_connections = max_connections
        self._connections: set[Connected] = set()
        self._others: set[object] = set()
        self._waiting: list[Deferred[None]] = []

    def __len__(self) -> int:
        """Return how many connections there are, without those that were turned away."""
        return len(self._connections)

    def admit(self, connection: Connected) -> bool:
        """Note that *connection* is open; return whether it may stay."""
        admitted = self.accepting and len(self) < self._max_connections
        (self._connections if admitted else self._others).add(connection)
        return admitted

    def note(self, other: object) -> None:
        """Note that *other* is open, which is no connection of ours."""
        self._others.add(other)

    def forget(self, closed: object) -> None:
        """Note that a connection, or something else that was noted, is gone."""
        self._others.discard(closed)
        self._connections.discard(closed)
        if not self._connections and not self._others:
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.callback(None)

    def when_empty(self) -> Deferred[None]:
        """Return a Deferred that fires when nothing is open; cancelling it changes nothing."""
        if not self._connections and not self._others:
            return succeed(None)
        waiter: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        return waiter

    def abort_all(self) -> None:
        """Close all connections at once."""
        for connection in list(self._connections):
            connection.abort()

    def pause_all(self) -> None:
        """Make all connections silent, and those that are to come."""
        self.paused = True
        for connection in list(self._connections):
            connection.pause()

    def resume_all(self) -> None:
        """Make them go on."""
        self.paused = False
        for connection in list(self._connections):
            connection.resume()
