"""
`MemcacheClient`: what applications call.

It turns keys and values of Python's into operations, which `txtlsmc.cluster.dispatch` sends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, Self, TypeVar

from twisted.internet.defer import Deferred

from txtlsmc.cluster.dispatch import Dispatcher, Outcomes
from txtlsmc.cluster.factory import MemcacheClientFactory
from txtlsmc.cluster.node import NodeHealth
from txtlsmc.cluster.ring import Pick
from txtlsmc.environ import settings_from_environ
from txtlsmc.errors import (
    CodecError,
    InvalidArgument,
    InvalidKey,
    InvalidSetting,
)
from txtlsmc.net.endpoints import CredentialsSource
from txtlsmc.routing import Routing
from txtlsmc.servers import Server, parse_servers
from txtlsmc.settings import TLS, ClientSettings, InsecurePlaintext, Limits
from txtlsmc.sources import Given
from txtlsmc.urls import settings_from_url
from txtlsmc.wire import operations
from txtlsmc.wire.codecs import Codec, codec_named
from txtlsmc.wire.frames import Request, Response
from txtlsmc.wire.opcodes import Opcode
from txtlsmc.wire.operations import (
    Operation,
    absolute_exptime,
    encode_key,
    encode_keys,
    item_reader,
)
from txtlsmc.wire.runs import Run, run_of_deletes, run_of_gets, run_of_sets

T = TypeVar("T")
K = TypeVar("K", str, bytes)
Exptime = float | timedelta | datetime
# The requests of reads are made here, where their keys were checked.
_GET: Final = int(Opcode.GET)
#: Among the results of many: there is no such item.  (A value may be None.)
_MISS: Final = object()


class Item(NamedTuple):
    """
    A value with its version.

    Attributes:
        value: as the codec reads it.
        cas: for `MemcacheClient.cas`.
    """

    value: Any
    cas: int


class MemcacheClient:
    """
    Memcached, as many servers as there are.

    The client connects at its first call, or by `when_ready`, and ends by `close`.  Keys are text
    (UTF-8) or bytes: 1 to 250 of them with the namespace, no white space and no control characters;
    another raises `InvalidKey` at once.  All operations take *timeout*, seconds until the Deferred
    fails with `RequestTimeout`; None is the limits' own, and the wait for a connection counts.

    What the Deferreds fail with, besides what an operation itself names:

    - `NodeDown`: the server of the key has failed too often and is not waited for;
    - `ConnectionClosed` (`ServerSilent`), `RemoteProtocolError`: the connection ended before the
      answer; *sent* says whether the server may have seen the request;
    - `RequestTimeout`, `PendingLimit`;
    - `ServerError`, by the class of its status;
    - `CodecError`: what is stored can not be read by this client's codec.

    Attributes:
        factory: the nodes and the ring.
    """

    def __init__(
        self,
        reactor: Any,
        servers: str | Sequence[str | Server],
        *,
        tls: TLS | InsecurePlaintext | None = None,
        credentials: CredentialsSource = None,
        routing: Routing | None = None,
        codec: str | Codec = "pylibmc",
        namespace: str | bytes = b"",
        limits: Limits | None = None,
        factory: MemcacheClientFactory | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            reactor: the reactor.
            servers: `Server` values or ``"host:port"``, in ring order; or one text with commas.
            tls: how to know the servers; what the platform trusts when None.  `InsecurePlaintext`
                for no TLS.
            credentials: `Credentials`, or what returns them (a Deferred too) and is asked at every
                connection, so that a new password needs no restart.
            routing: how keys are shared out, and what happens when a server is down.
            codec: how values are marked: ``"pylibmc"``, ``"bmemcached"``, ``"raw"``, or one made by
                `txtlsmc.codec_named`.
            namespace: goes before every key on the wire; by default the ring does not look at it.
            limits: the bounds of each connection.
            factory: one made otherwise, instead of *tls*, *credentials*, *routing*, *limits*.
            wall_clock: the Unix time; for tests.

        Raises:
            InvalidSetting: a setting can not be right.
            InsecurePassword: the password could be stolen on the way.
        """
        if factory is None:
            factory = MemcacheClientFactory(
                reactor,
                parse_servers(servers),
                tls=tls,
                credentials=credentials,
                routing=routing,
                limits=limits,
            )
        self.factory = factory
        self._routing = factory.routing
        self._dispatcher = Dispatcher(factory)
        self._namespace = _encode_namespace(namespace)
        self._codec = codec_named(codec) if isinstance(codec, str) else codec
        self._wall_clock = wall_clock
        self._read_or_none = self._reader(None)
        self._read_item: Callable[[list[Response]], Item | None] = item_reader(
            self._versioned, None
        )

    @classmethod
    def from_settings(cls, reactor: Any, settings: ClientSettings) -> Self:
        """
        Make a client of settings that were read, or made, otherwise.

        Raises:
            InsecurePassword: the password could be stolen on the way.
        """
        return cls(
            reactor,
            settings.servers,
            tls=settings.tls,
            credentials=settings.credentials,
            routing=settings.routing,
            codec=settings.codec,
            namespace=settings.namespace,
            limits=settings.limits,
        )

    @classmethod
    def from_url(cls, reactor: Any, url: str, *, environ: Mapping[str, str] | None = None) -> Self:
        """
        Make a client of a URL.

        Args:
            reactor: the reactor.
            url: ``memcaches://user@host:port,host:port/?ca=FILE&routing=ketama&timeout=2`` (TLS),
                or ``memcache://…`` (none).
            environ: where ``TXTLSMC_PASSWORD`` is looked up for a user name without a password;
                that of the process when None.

        Raises:
            InvalidSetting: it is no such URL, or a setting in it can not be right.
            InsecurePassword: the password could be stolen on the way.
        """
        given, url = Given(url, "the URL"), ""
        try:
            settings = settings_from_url(given, environ=os.environ if environ is None else environ)
        finally:
            del environ  # or a traceback with locals would show the password
        return cls.from_settings(reactor, settings)

    @classmethod
    def from_environ(
        cls,
        reactor: Any,
        *,
        provider: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """
        Make a client of environment variables: ``TXTLSMC_URL`` and its like, or a provider's.

        Args:
            reactor: the reactor.
            provider: ``"memcachier"``, ``"memcachedcloud"`` or ``"memcache"``: whose variables to
                read, where several have set theirs.
            environ: the variables; those of the process when None.

        Raises:
            InvalidSetting: a variable can not be right, is missing, or contradicts another.
            InsecurePassword: the password could be stolen on the way.
        """
        try:
            settings = settings_from_environ(
                os.environ if environ is None else environ, provider=provider
            )
        finally:
            del environ  # or a traceback with locals would show the password
        return cls.from_settings(reactor, settings)

    def __repr__(self) -> str:
        names = ",".join(server.name for server in self.factory.ring.servers)
        return f"<MemcacheClient {names}>"

    # Keys and values

    def _wire_key(self, key: bytes) -> bytes:
        return encode_key(self._namespace + key) if self._namespace else key

    def _wire_keys(self, keys: list[bytes]) -> list[bytes]:
        namespace = self._namespace
        return encode_keys([namespace + key for key in keys]) if namespace else keys

    def _hashed(self, key: bytes) -> bytes:
        return self._namespace + key if self._routing.hash_namespace else key

    def _all_hashed(self, keys: list[bytes]) -> list[bytes]:
        if not (self._routing.hash_namespace and self._namespace):
            return keys
        return [self._namespace + key for key in keys]

    def _exptime(self, exptime: Exptime) -> int:
        if exptime == 0:
            return 0
        now = self._wall_clock()
        if isinstance(exptime, timedelta):
            seconds = exptime.total_seconds()
        elif isinstance(exptime, datetime):
            if exptime.tzinfo is None:
                raise InvalidArgument("an exptime that is a datetime needs a time zone")
            seconds = exptime.timestamp() - now
        else:
            seconds = exptime
        if isinstance(exptime, (timedelta, datetime)) and seconds <= 0:
            seconds = -1  # 0 would be never
        return absolute_exptime(seconds, now)

    def _encode(self, value: object) -> tuple[bytes, int]:
        data, flags = self._codec.encode(value)
        return data, flags

    def _decode(self, value: bytes, flags: int, cas: int) -> Any:
        try:
            return self._codec.decode(value, flags)
        except CodecError:
            raise
        except Exception as error:
            # This runs where the connection reads; a codec's mistake is not to end it.
            why = f"it failed with {type(error).__name__}"
            raise CodecError(self._codec.name, why, flags=flags) from error

    def _reader(self, default: Any) -> Callable[[list[Response]], Any]:
        return item_reader(self._decode, default)

    # One key

    def get(
        self, key: str | bytes, default: Any = None, *, timeout: float | None = None
    ) -> Deferred[Any]:
        """
        Fetch a value.

        Returns:
            A Deferred that fires with the value, or with *default* on a miss.
        """
        wire_key = hashed = encode_key(key)
        if self._namespace:
            wire_key, hashed = self._wire_key(hashed), self._hashed(hashed)
        reader = self._read_or_none if default is None else self._reader(default)
        asked = Operation(Request(_GET, wire_key), reader)
        return self._dispatcher.ask(hashed, asked, timeout, read=True, miss=default)

    def gets(self, key: str | bytes, *, timeout: float | None = None) -> Deferred[Item | None]:
        """
        Fetch a value with its version.

        Returns:
            A Deferred that fires with an `Item`, or with None on a miss.
        """
        bare = encode_key(key)
        request = Request(_GET, self._wire_key(bare))
        return self._dispatcher.ask(
            self._hashed(bare), Operation(request, self._read_item), timeout, read=True
        )

    def _versioned(self, value: bytes, flags: int, cas: int) -> Item:
        return Item(self._decode(value, flags, cas), cas)

    def gat(
        self,
        key: str | bytes,
        exptime: Exptime,
        default: Any = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[Any]:
        """
        Fetch a value and give it a new expiry time.

        Args:
            exptime: seconds from now, however many (0 is never, below 0 is over at once), a
                `timedelta`, or a `datetime` with a time zone.
            key, default, timeout: as for `get`.

        Returns:
            A Deferred that fires with the value, or with *default* on a miss.
        """
        bare = encode_key(key)
        request = operations.gat(self._wire_key(bare), self._exptime(exptime)).request
        asked = Operation(request, self._reader(default))
        return self._dispatcher.ask(self._hashed(bare), asked, timeout, read=True, miss=default)

    def touch(
        self, key: str | bytes, exptime: Exptime, *, timeout: float | None = None
    ) -> Deferred[bool]:
        """Give an item a new expiry time, as `gat` takes it: True, or False where there is none."""
        bare = encode_key(key)
        operation = operations.touch(self._wire_key(bare), self._exptime(exptime))
        return self._dispatcher.ask(self._hashed(bare), operation, timeout)

    def set(
        self,
        key: str | bytes,
        value: object,
        *,
        exptime: Exptime = 0,
        timeout: float | None = None,
    ) -> Deferred[bool]:
        """
        Store a value, whatever there was.

        Args:
            key: see the class.
            value: what the codec takes.
            exptime: as for `gat`.
            timeout: see the class.

        Returns:
            A Deferred that fires with True.

        Raises:
            InvalidKey, InvalidArgument: at once; nothing was sent.
            CodecError: the codec does not take such a value; nothing was sent.

        Fails:
            ValueTooLarge: the server takes no values of this size.
        """
        return self._store(operations.set, key, value, exptime, timeout)

    def add(
        self,
        key: str | bytes,
        value: object,
        *,
        exptime: Exptime = 0,
        timeout: float | None = None,
    ) -> Deferred[bool]:
        """Store a value where there is none: True, or False where there is one.  See `set`."""
        return self._store(operations.add, key, value, exptime, timeout)

    def replace(
        self,
        key: str | bytes,
        value: object,
        *,
        exptime: Exptime = 0,
        timeout: float | None = None,
    ) -> Deferred[bool]:
        """Store a value where there is one: True, or False where there is none.  See `set`."""
        return self._store(operations.replace, key, value, exptime, timeout)

    def cas(
        self,
        key: str | bytes,
        value: object,
        cas: int,
        *,
        exptime: Exptime = 0,
        timeout: float | None = None,
    ) -> Deferred[bool]:
        """
        Store a value if nobody changed it since.

        Args:
            cas: the `Item.cas` that was read; never 0, which would mean any.
            key, value, exptime, timeout: as for `set`.

        Returns:
            A Deferred that fires with True, or with False when it was changed or is gone.
        """
        return self._store(operations.cas, key, value, exptime, timeout, cas=cas)

    def _store(
        self,
        build: Callable[..., Operation[bool]],
        key: str | bytes,
        value: object,
        exptime: Exptime,
        timeout: float | None,
        **more: int,
    ) -> Deferred[bool]:
        bare = encode_key(key)
        data, flags = self._encode(value)
        wire_exptime = self._exptime(exptime)
        operation = build(self._wire_key(bare), data, flags=flags, exptime=wire_exptime, **more)
        return self._dispatcher.ask(self._hashed(bare), operation, timeout)

    def append(
        self, key: str | bytes, value: bytes, *, timeout: float | None = None
    ) -> Deferred[bool]:
        """
        Put bytes behind what is stored: True, or False where nothing is.

        No codec has a part in it: what is stored keeps its own mark.
        """
        bare = encode_key(key)
        return self._dispatcher.ask(
            self._hashed(bare), operations.append(self._wire_key(bare), value), timeout
        )

    def prepend(
        self, key: str | bytes, value: bytes, *, timeout: float | None = None
    ) -> Deferred[bool]:
        """Put bytes before what is stored: True, or False where nothing is.  See `append`."""
        bare = encode_key(key)
        return self._dispatcher.ask(
            self._hashed(bare), operations.prepend(self._wire_key(bare), value), timeout
        )

    def delete(self, key: str | bytes, *, timeout: float | None = None) -> Deferred[bool]:
        """Remove an item: True, or False where there is none."""
        bare = encode_key(key)
        return self._dispatcher.ask(
            self._hashed(bare), operations.delete(self._wire_key(bare)), timeout
        )

    def incr(
        self,
        key: str | bytes,
        delta: int = 1,
        initial: int | None = None,
        exptime: Exptime = 0,
        *,
        timeout: float | None = None,
    ) -> Deferred[int | None]:
        """
        Add to a number that is stored as decimal text.

        Args:
            key: see the class.
            delta: 0 to 2**64 - 1; the sum wraps at 2**64.
            initial: what to store where nothing is; None: store nothing.
            exptime: of an item that is created, as for `gat`.
            timeout: see the class.

        Returns:
            A Deferred that fires with the new number, or with None where nothing is and *initial*
            is None.

        Fails:
            NonNumericValue: what is stored is no number.
        """
        bare = encode_key(key)
        operation = operations.incr(
            self._wire_key(bare), delta, initial=initial, exptime=self._exptime(exptime)
        )
        return self._dispatcher.ask(self._hashed(bare), operation, timeout)

    def decr(
        self,
        key: str | bytes,
        delta: int = 1,
        initial: int | None = None,
        exptime: Exptime = 0,
        *,
        timeout: float | None = None,
    ) -> Deferred[int | None]:
        """Subtract from a number; it stops at 0.  The rest is as for `incr`."""
        bare = encode_key(key)
        operation = operations.decr(
            self._wire_key(bare), delta, initial=initial, exptime=self._exptime(exptime)
        )
        return self._dispatcher.ask(self._hashed(bare), operation, timeout)

    # Many keys

    def get_multi(
        self, keys: Iterable[K], *, timeout: float | None = None
    ) -> Deferred[dict[K, Any]]:
        """
        Fetch many values: all servers at once, one round trip to each.

        Returns:
            A Deferred that fires with what was found, under the keys as they were given.

        Fails:
            PartialResult: a server could not be asked; holds what the others had.  By the setting
                ``Routing(partial="return")`` that is the result, unless no server answered.
        """
        return self._get_many(keys, self._decode, timeout)

    def gets_multi(
        self, keys: Iterable[K], *, timeout: float | None = None
    ) -> Deferred[dict[K, Item]]:
        """Fetch many values, each as an `Item`.  See `get_multi`."""
        return self._get_many(keys, self._versioned, timeout)

    def _get_many(
        self, keys: Iterable[K], hit: Callable[[bytes, int, int], Any], timeout: float | None
    ) -> Deferred[dict[K, Any]]:
        given = _distinct(keys)
        bare = encode_keys(given)
        gets = run_of_gets(self._wire_keys(bare), hit, _MISS)

        def found(outcomes: Outcomes[Any]) -> dict[K, Any]:
            results = zip(given, outcomes.results, strict=True)
            values = {key: result for key, result in results if result is not _MISS}
            outcomes.check(values, partial=self._routing.partial == "return")
            return values

        return self._dispatcher.ask_run(
            gets, self._all_hashed(bare), timeout, read=True
        ).addCallback(found)

    def set_multi(
        self,
        mapping: Mapping[K, object],
        *,
        exptime: Exptime = 0,
        timeout: float | None = None,
    ) -> Deferred[list[K]]:
        """
        Store many values: all servers at once, one round trip to each.

        Returns:
            A Deferred that fires with the keys that were not stored: none.

        Fails:
            PartialResult: a server could not be asked or refused a value; holds True for each key
                that was stored, and the errors.
        """
        given, wire_exptime = list(mapping), self._exptime(exptime)
        bare = encode_keys(given)
        values, flags = [], []
        for value in mapping.values():
            data, mark = self._codec.encode(value)
            values.append(data)
            flags.append(mark)
        sets = run_of_sets(self._wire_keys(bare), values, flags, wire_exptime)
        return self._write_all(given, bare, sets, timeout)

    def delete_multi(self, keys: Iterable[K], *, timeout: float | None = None) -> Deferred[list[K]]:
        """
        Remove many items: all servers at once, one round trip to each.

        Returns:
            A Deferred that fires with the keys where there was none.

        Fails:
            PartialResult: a server could not be asked; holds the result for each key of the others.
        """
        given = _distinct(keys)
        bare = encode_keys(given)
        return self._write_all(given, bare, run_of_deletes(self._wire_keys(bare)), timeout)

    def _write_all(
        self, given: list[K], bare: list[bytes], writes: Run[bool], timeout: float | None
    ) -> Deferred[list[K]]:
        def undone(outcomes: Outcomes[bool]) -> list[K]:
            results, errors = outcomes.results, outcomes.errors
            if errors:
                told = enumerate(zip(given, results, strict=True))
                outcomes.check(dict(each for number, each in told if number not in errors))
            if all(results):
                return []
            return [key for key, done in zip(given, results, strict=True) if not done]

        return self._dispatcher.ask_run(writes, self._all_hashed(bare), timeout).addCallback(undone)

    # The servers

    def stats(
        self, argument: str | bytes | None = None, *, timeout: float | None = None
    ) -> Deferred[dict[str, dict[str, str]]]:
        """
        Ask every server for its numbers.

        Args:
            argument: a group of them: ``items``, ``slabs``, ``settings`` …; None: the general ones.
            timeout: see the class.

        Returns:
            A Deferred that fires with numbers by name, by server.

        Fails:
            PartialResult: a server could not be asked; holds what the others said.
        """
        asked = operations.stats(argument or b"")

        def read(responses: list[Response]) -> dict[str, str]:
            numbers = asked.read(responses)
            return {_text(name): _text(value) for name, value in numbers.items()}

        return self._dispatcher.ask_each(Operation(asked.request, read), timeout)

    def version(self, *, timeout: float | None = None) -> Deferred[dict[str, str]]:
        """Ask every server for its version: a dict by server.  Fails as `stats`."""
        asked = operations.version()
        told = Operation(asked.request, lambda responses: _text(asked.read(responses)))
        return self._dispatcher.ask_each(told, timeout)

    def flush_all(self, delay: float = 0, *, timeout: float | None = None) -> Deferred[bool]:
        """
        Forget every item, on all servers and for all their users.

        Args:
            delay: seconds from now; 0 is now.
            timeout: see the class.

        Returns:
            A Deferred that fires with True when every server did it.

        Fails:
            PartialResult: a server did not; among its errors may be `NotPermitted`.
        """
        if not delay >= 0:
            raise InvalidArgument(f"delay is a number of seconds, 0 or more, not {delay!r}")
        operation = operations.flush_all(self._exptime(delay))
        return self._dispatcher.ask_each(operation, timeout).addCallback(lambda told: True)

    def noop(self, *, timeout: float | None = None) -> Deferred[bool]:
        """Ask every server for an answer and nothing else: True.  Fails as `stats`."""
        return self._dispatcher.ask_each(operations.noop(), timeout).addCallback(lambda told: True)

    # The client

    def node_for(self, key: str | bytes) -> Pick:
        """Return which server has *key* by the ring, and why; nothing is sent."""
        return self.factory.explain(self._hashed(encode_key(key)))

    def nodes(self) -> list[NodeHealth]:
        """Return how each server is, in the order of the server list."""
        return self.factory.health()

    def when_ready(self, count: int | None = None) -> Deferred[None]:
        """Wait until *count* servers (None: all) are ready.  See the factory's ``whenReady``."""
        return self.factory.whenReady(count)

    def close(self, timeout: float | None = None) -> Deferred[None]:
        """
        End for good: let what is pending finish, then close all connections.

        Args:
            timeout: seconds that it may take; the limits' own when None.

        Returns:
            A Deferred that fires when nothing is left.
        """
        return self.factory.close(timeout)


def _distinct(keys: Iterable[K]) -> list[K]:
    if isinstance(keys, (str, bytes)):
        raise InvalidArgument("keys is a collection of keys, and one key was given")
    return list(dict.fromkeys(keys))


def _encode_namespace(namespace: str | bytes) -> bytes:
    try:
        return encode_key(namespace) if namespace else b""
    except InvalidKey as error:
        raise InvalidSetting(f"the namespace goes before every key: {error}") from None


def _text(told: bytes) -> str:
    return told.decode("utf-8", "backslashreplace")
