"""
`MemcacheProtocol`: every operation of the binary protocol, as a method that returns a Deferred.

A wrong argument raises at once and sends nothing.  What the Deferreds fail with is told once, at
`PipelinedProtocol.perform`.  Values are bytes here, and flags are the caller's: what they mean is a
matter of codecs, further up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from twisted.internet.defer import Deferred

from txtlsmc.errors import InvalidArgument
from txtlsmc.net.pipeline import PipelinedProtocol
from txtlsmc.wire import operations
from txtlsmc.wire.operations import KeyedItem, RawItem, absolute_exptime, encode_keys
from txtlsmc.wire.runs import Run, RunOutcomes, run_of_deletes, run_of_gets, run_of_sets

T = TypeVar("T")
K = TypeVar("K", str, bytes)


class MemcacheProtocol(PipelinedProtocol):
    """
    One connection to one server, ready to be used.

    `txtlsmc.connect` makes one; the constructor is for factories.  All methods take *timeout*,
    seconds until the Deferred fails with `RequestTimeout`; None is the connection's own.
    Cancelling a Deferred abandons its request: a late answer is dropped, the connection lives.
    """

    # Reading

    def get(self, key: str | bytes, *, timeout: float | None = None) -> Deferred[RawItem | None]:
        """
        Fetch an item.

        Args:
            key: 1 to 250 bytes once encoded; text is encoded as UTF-8.  No white space and no
                control characters.
            timeout: see the class.

        Returns:
            A Deferred that fires with the `RawItem`, or with None on a miss.

        Raises:
            InvalidKey: at once; nothing was sent.
        """
        return self.perform(operations.get(key), timeout)

    def gets(self, key: str | bytes, *, timeout: float | None = None) -> Deferred[RawItem | None]:
        """Fetch an item to use its cas; the same as `get`, whose answer always has one."""
        return self.perform(operations.gets(key), timeout)

    def getk(self, key: str | bytes, *, timeout: float | None = None) -> Deferred[KeyedItem | None]:
        """Fetch an item with its key; otherwise as `get`."""
        return self.perform(operations.getk(key), timeout)

    def get_multi(
        self, keys: Iterable[K], *, timeout: float | None = None
    ) -> Deferred[dict[K, RawItem]]:
        """
        Fetch many items in one round trip.

        Returns:
            A Deferred that fires with what was found, under the keys as they were given.  It fails
            with the first error when there is one.

        Raises:
            InvalidKey: for any of them; nothing was sent.
        """
        given = list(dict.fromkeys(_several(keys)))
        gets: Run[RawItem | None] = run_of_gets(encode_keys(given), RawItem, None)

        def found(outcomes: RunOutcomes[RawItem | None]) -> dict[K, RawItem]:
            items = _results(outcomes)
            return {k: item for k, item in zip(given, items, strict=True) if item is not None}

        return self.perform_run(gets, timeout).addCallback(found)

    def gat(
        self, key: str | bytes, exptime: float, *, timeout: float | None = None
    ) -> Deferred[RawItem | None]:
        """
        Fetch an item and give it a new expiry time.

        Args:
            key: as for `get`.
            exptime: seconds from now, however many; 0 is never, below 0 is over at once.  (Above
                30 days a Unix time is sent: the server's rule.)
            timeout: see the class.

        Returns:
            A Deferred that fires with the `RawItem`, or with None on a miss.

        Raises:
            InvalidKey, InvalidArgument: at once; nothing was sent.
        """
        return self.perform(operations.gat(key, self._exptime(exptime)), timeout)

    def gatk(
        self, key: str | bytes, exptime: float, *, timeout: float | None = None
    ) -> Deferred[KeyedItem | None]:
        """Fetch an item with its key, and give it a new expiry time; otherwise as `gat`."""
        return self.perform(operations.gatk(key, self._exptime(exptime)), timeout)

    def touch(
        self, key: str | bytes, exptime: float, *, timeout: float | None = None
    ) -> Deferred[bool]:
        """
        Give an item a new expiry time.

        Args:
            key, exptime, timeout: as for `gat`.

        Returns:
            A Deferred that fires with True, or with False when nothing is stored under *key*.

        Raises:
            InvalidKey, InvalidArgument: at once; nothing was sent.
        """
        return self.perform(operations.touch(key, self._exptime(exptime)), timeout)

    # Writing

    def set(
        self,
        key: str | bytes,
        value: bytes,
        *,
        exptime: float = 0,
        flags: int = 0,
        timeout: float | None = None,
    ) -> Deferred[bool]:
        """
        Store an item, whatever there was.

        Args:
            key: as for `get`.
            value: bytes; how many is the server's setting (``-I``, 1 MiB by default).
            exptime: as for `gat`.
            flags: 32 bits that come back with the value.
            timeout: see the class.

        Returns:
            A Deferred that fires with True.

        Raises:
            InvalidKey, InvalidArgument: at once; nothing was sent.

        Fails:
            ValueTooLarge: the connection lives; an item that was there before is gone.
        """
        stored = operations.set(key, value, flags=flags, exptime=self._exptime(exptime))
        return self.perform(stored, timeout)

    def set_multi(
        self,
        items: Mapping[K, bytes],
        *,
        exptime: float = 0,
        flags: int = 0,
        timeout: float | None = None,
    ) -> Deferred[list[K]]:
        """
        Store many items in one round trip.

        Returns:
            A Deferred that fires with the keys that were not stored: none.  It fails with the
            first error when there is one; what the server took is stored all the same.

        Raises:
            InvalidKey, InvalidArgument: for any of them; nothing was sent.
        """
        keys = list(items)
        marks = [flags] * len(keys)
        values = list(items.values())
        sets = run_of_sets(encode_keys(keys), values, marks, self._exptime(exptime))
        return self._undone(keys, sets, timeout)

    def add(
        self,
        key: str | bytes,
        value: bytes,
        *,
        exptime: float = 0,
        flags: int = 0,
        timeout: float | None = None,
    ) -> Deferred[bool]:
        """Store an item where there is none: True, or False where there is one.  See `set`."""
        added = operations.add(key, value, flags=flags, exptime=self._exptime(exptime))
        return self.perform(added, timeout)

    def replace(
        self,
        key: str | bytes,
        value: bytes,
        *,
        exptime: float = 0,
        flags: int = 0,
        timeout: float | None = None,
    ) -> Deferred[bool]:
        """Store an item where there is one: True, or False where there is none.  See `set`."""
        replaced = operations.replace(key, value, flags=flags, exptime=self._exptime(exptime))
        return self.perform(replaced, timeout)

    def cas(
        self,
        key: str | bytes,
        value: bytes,
        cas: int,
        *,
        exptime: float = 0,
        flags: int = 0,
        timeout: float | None = None,
    ) -> Deferred[bool]:
        """
        Store an item if nobody changed it since.

        Args:
            cas: the `RawItem.cas` that was read; never 0, which would mean any.
            key, value, exptime, flags, timeout: as for `set`.

        Returns:
            A Deferred that fires with True, or with False when the item is another version or gone.

        Raises:
            InvalidKey, InvalidArgument: at once; nothing was sent.
        """
        wire_exptime = self._exptime(exptime)
        return self.perform(
            operations.cas(key, value, cas, flags=flags, exptime=wire_exptime), timeout
        )

    def append(
        self, key: str | bytes, value: bytes, *, timeout: float | None = None
    ) -> Deferred[bool]:
        """Put *value* behind what is stored: True, or False where nothing is.  See `set`."""
        return self.perform(operations.append(key, value), timeout)

    def prepend(
        self, key: str | bytes, value: bytes, *, timeout: float | None = None
    ) -> Deferred[bool]:
        """Put *value* before what is stored: True, or False where nothing is.  See `set`."""
        return self.perform(operations.prepend(key, value), timeout)

    def delete(self, key: str | bytes, *, timeout: float | None = None) -> Deferred[bool]:
        """Remove an item: True, or False where there is none.  See `get`."""
        return self.perform(operations.delete(key), timeout)

    def delete_multi(self, keys: Iterable[K], *, timeout: float | None = None) -> Deferred[list[K]]:
        """
        Remove many items in one round trip.

        Returns:
            A Deferred that fires with the keys where there was none.  It fails with the first
            error when there is one.

        Raises:
            InvalidKey: for any of them; nothing was sent.
        """
        given = list(dict.fromkeys(_several(keys)))
        return self._undone(given, run_of_deletes(encode_keys(given)), timeout)

    def incr(
        self,
        key: str | bytes,
        delta: int = 1,
        *,
        initial: int | None = None,
        exptime: float = 0,
        timeout: float | None = None,
    ) -> Deferred[int | None]:
        """
        Add to a number that is stored as decimal text.

        Args:
            key: as for `get`.
            delta: 0 to 2**64 - 1; the sum wraps at 2**64.
            initial: what to store where nothing is; None: store nothing.
            exptime: of an item that is created, as for `gat`.
            timeout: see the class.

        Returns:
            A Deferred that fires with the new number, or with None where nothing is and *initial*
            is None.

        Raises:
            InvalidKey, InvalidArgument: at once; nothing was sent.

        Fails:
            NonNumericValue: what is stored is no number.
        """
        wire_exptime = self._exptime(exptime)
        return self.perform(
            operations.incr(key, delta, initial=initial, exptime=wire_exptime), timeout
        )

    def decr(
        self,
        key: str | bytes,
        delta: int = 1,
        *,
        initial: int | None = None,
        exptime: float = 0,
        timeout: float | None = None,
    ) -> Deferred[int | None]:
        """Subtract from a number; it stops at 0.  The rest is as for `incr`."""
        wire_exptime = self._exptime(exptime)
        return self.perform(
            operations.decr(key, delta, initial=initial, exptime=wire_exptime), timeout
        )

    # The server

    def flush_all(self, delay: float = 0, *, timeout: float | None = None) -> Deferred[bool]:
        """
        Forget every item, for all users of the server.

        Args:
            delay: seconds from now; 0 is now.
            timeout: see the class.

        Returns:
            A Deferred that fires with True.

        Raises:
            InvalidArgument: at once; nothing was sent.

        Fails:
            NotPermitted: the server is set so (``-F``), or these credentials may not.
        """
        if not delay >= 0:
            raise InvalidArgument(f"delay is a number of seconds, 0 or more, not {delay!r}")
        return self.perform(operations.flush_all(self._exptime(delay)), timeout)

    def stats(
        self, argument: str | bytes = "", *, timeout: float | None = None
    ) -> Deferred[dict[bytes, bytes]]:
        """
        Ask for the server's numbers.

        Args:
            argument: a group of them: ``items``, ``slabs``, ``settings`` …; empty: the general.
            timeout: see the class.

        Returns:
            A Deferred that fires with the values by name, both as they came.

        Fails:
            KeyNotFound: the server has no such group.
        """
        return self.perform(operations.stats(argument), timeout)

    def version(self, *, timeout: float | None = None) -> Deferred[str]:
        """Ask for the server's version, such as ``1.6.18``."""
        done = self.perform(operations.version(), timeout)
        return done.addCallback(lambda text: text.decode("utf-8", "backslashreplace"))

    def noop(self, *, timeout: float | None = None) -> Deferred[bool]:
        """Ask for an answer and nothing else; it comes behind those to all earlier requests."""
        return self.perform(operations.noop(), timeout)

    def quit(self, *, timeout: float | None = None) -> Deferred[bool]:
        """
        Ask the server to end the connection, behind all earlier requests.

        Returns:
            A Deferred that fires with True; later operations fail at once with `ConnectionClosed`.
        """
        done = self.perform(operations.quit(), timeout)
        if not done.called:  # it is, when it was refused: for a limit, or because all is over
            self._over = "the connection was ended by quit"
        return done

    def _exptime(self, exptime: float) -> int:
        return 0 if exptime == 0 else absolute_exptime(exptime, self._wall_clock())

    def _undone(self, keys: list[K], writes: Run[bool], timeout: float | None) -> Deferred[list[K]]:
        def undone(outcomes: RunOutcomes[bool]) -> list[K]:
            return [k for k, done in zip(keys, _results(outcomes), strict=True) if not done]

        return self.perform_run(writes, timeout).addCallback(undone)


def _several(keys: Iterable[K]) -> Iterable[K]:
    if isinstance(keys, (str, bytes)):
        raise InvalidArgument("keys is a collection of keys, and one key was given")
    return keys


def _results(outcomes: RunOutcomes[T]) -> list[T]:
    """Return the results, or raise the first error."""
    if outcomes.errors:
        raise outcomes.errors[min(outcomes.errors)]
    return outcomes.results
