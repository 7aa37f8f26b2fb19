"""
The codecs and the libraries they are named for read each other's values, at a real memcached.

The libraries block, so each runs in a thread, with a connection of its own from start to end.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest

from tests.memcached import MemcachedTestCase
from txtlsmc import (
    CodecError,
    InsecurePlaintext,
    MemcacheProtocol,
    RawItem,
    codec_named,
    connect,
)

_SECONDS: Final = 30
_ZLIB: Final = 8

#: What all three libraries store without pickle.
PLAIN: Final[dict[str, object]] = {
    "bytes-empty": b"",
    "bytes-text": b"text",
    "bytes-all": bytes(range(256)),
    "bytes-lines": b"a\r\nEND\r\n",
    "str-empty": "",
    "str-ascii": "text",
    "str-unicode": "grüße, 世界 🙂",
    "str-lines": "a\r\nEND\r\n\0",
    "int-zero": 0,
    "int-one": 1,
    "int-negative": -17,
    "int-32": 2**32,
    "int-63": 2**63 - 1,
    "int-63-negative": -(2**63),
    "int-64": 2**64 - 1,
    "int-longest": 10**20 - 1,
    "int-longest-negative": -(10**20) + 1,
}
BOOLS: Final[dict[str, object]] = {"bool-true": True, "bool-false": False}
#: Long enough for each library to compress them, and what zlib makes no smaller.
LONG: Final[dict[str, object]] = {
    "long-bytes": bytes(range(256)) * 20,
    "long-str": "grüße, 世界 🙂" * 300,
}
NOISE: Final[dict[str, object]] = {"noise": random.Random(1).randbytes(3000)}
OTHER: Final[dict[str, object]] = {"list": ["a", 1, {"b": None}], "float": 1.5, "none": None}


class Library:
    """
    One library, and how to use it.

    Attributes:
        module: what is imported.
        install: what installs it.
    """

    module: ClassVar[str]
    install: ClassVar[str]

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address

    @contextmanager
    def client(self, *, compress: bool) -> Iterator[Any]:
        """Connect, and disconnect at the end."""
        raise NotImplementedError

    def store(self, client: Any, key: str, value: object, *, compress: bool) -> object:
        """Store a value, and return True when it was done."""
        raise NotImplementedError

    def write(self, values: Mapping[str, object], *, compress: bool) -> Deferred[list[str]]:
        """Store *values*; the Deferred fires with the keys that were not stored."""

        def blocking() -> list[str]:
            with self.client(compress=compress) as client:
                done = {k: self.store(client, k, v, compress=compress) for k, v in values.items()}
            return [key for key, stored in done.items() if stored is not True]

        return deferToThread(blocking)

    def read(self, keys: Iterable[str], *, compress: bool) -> Deferred[dict[str, object]]:
        """Fetch values; the Deferred fires with what the library makes of them."""

        def blocking() -> dict[str, object]:
            with self.client(compress=compress) as client:
                return {key: client.get(key) for key in keys}

        return deferToThread(blocking)


class Pylibmc(Library):
    module = "pylibmc"
    install = "pip install pylibmc, which above Python 3.11 is built with libmemcached-dev"

    @contextmanager
    def client(self, *, compress: bool) -> Iterator[Any]:
        waits = {"connect_timeout": _SECONDS * 1000, "_poll_timeout": _SECONDS * 1000}
        host, port = self.address
        pylibmc = importlib.import_module("pylibmc")
        client = pylibmc.Client([f"{host}:{port}"], binary=True, behaviors=waits)
        try:
            yield client
        finally:
            client.disconnect_all()

    def store(self, client: Any, key: str, value: object, *, compress: bool) -> object:
        return client.set(key, value, min_compress_len=100 if compress else 0)


class BMemcached(Library):
    module = "bmemcached"
    install = "pip install python-binary-memcached"

    @contextmanager
    def client(self, *, compress: bool) -> Iterator[Any]:
        host, port = self.address
        bmemcached = importlib.import_module("bmemcached")
        client = bmemcached.Client((f"{host}:{port}",), socket_timeout=_SECONDS)
        try:
            yield client
        finally:
            client.disconnect_all()

    def store(self, client: Any, key: str, value: object, *, compress: bool) -> object:
        return client.set(key, value, compress_level=-1 if compress else 0)


class Pymemcache(Library):
    module = "pymemcache"
    install = "pip install pymemcache"

    @contextmanager
    def client(self, *, compress: bool) -> Iterator[Any]:
        base = importlib.import_module("pymemcache.client.base")
        serde = importlib.import_module("pymemcache.serde")
        client = base.Client(
            self.address,
            serde=serde.compressed_serde if compress else serde.pickle_serde,
            connect_timeout=_SECONDS,
            timeout=_SECONDS,
        )
        try:
            yield client
        finally:
            client.close()

    def store(self, client: Any, key: str, value: object, *, compress: bool) -> object:
        return client.set(key, value, noreply=False)


class AgreementTestCase(MemcachedTestCase):
    """
    What is to hold between a codec and the library that it is named for.

    Attributes:
        name: the codec.
        library_class: the library.
    """

    timeout = 120
    name: ClassVar[str]
    library_class: ClassVar[type[Library]]

    library: Library
    connection: MemcacheProtocol

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for any Deferred
        """Connect to the server, unless the library is not there."""
        library_class = self.library_class
        try:
            importlib.import_module(library_class.module)
        except ImportError as error:
            reason = (
                f"{library_class.module} can not be imported ({library_class.install}): {error}"
            )
            raise SkipTest(reason) from None
        await super().setUp()
        self.library = library_class(self.memcached.address)
        host, port = self.memcached.address
        server = f"{host}:{port}"
        self.connection = await connect(IReactorTime(reactor), server, tls=InsecurePlaintext())
        self.addCleanup(self.connection.close)

    def assert_same(self, read: Mapping[str, object], stored: Mapping[str, object]) -> None:
        """What was read equals what was stored, type included: True is not 1."""
        self.assertEqual(
            {key: (type(value), value) for key, value in read.items()},
            {key: (type(value), value) for key, value in stored.items()},
        )

    async def written_by_library(
        self, values: Mapping[str, object], *, compress: bool = False
    ) -> dict[str, RawItem]:
        """Let the library store *values*, and return what the server holds then."""
        self.assertEqual(await self.library.write(values, compress=compress), [])
        return await self.connection.get_multi(list(values))

    async def read_by_library(
        self, values: Mapping[str, object], codec: str, *, compress: bool = False
    ) -> dict[str, object]:
        """Store *values* by our codec, and return what the library makes of them."""
        ours = codec_named(codec, compress_above=100 if compress else None)
        for key, value in values.items():
            data, flags = ours.encode(value)
            # Else the case shows nothing about compression.
            self.assertEqual(bool(flags & _ZLIB), compress, key)
            await self.connection.set(key, data, flags=flags)
        return await self.library.read(values, compress=compress)

    async def check_theirs(self, values: Mapping[str, object]) -> None:
        """We read what the library wrote, and would have written it with the same marks."""
        codec = codec_named(self.name)
        items = await self.written_by_library(values)
        self.assert_same({k: codec.decode(i.value, i.flags) for k, i in items.items()}, values)
        self.assertEqual(
            {key: (item.value, item.flags) for key, item in items.items()},
            {key: codec.encode(value) for key, value in values.items()},
        )

    async def check_ours(self, values: Mapping[str, object]) -> None:
        """The library reads what we wrote."""
        self.assert_same(await self.read_by_library(values, self.name), values)

    async def check_compressed(self) -> None:
        """Either reads what the other compressed, or left alone because it would have grown."""
        codec = codec_named(self.name)
        items = await self.written_by_library(LONG | NOISE, compress=True)
        self.assertEqual({k for k, item in items.items() if item.flags & _ZLIB}, set(LONG))
        read = {key: codec.decode(item.value, item.flags) for key, item in items.items()}
        self.assert_same(read, LONG | NOISE)
        self.assert_same(await self.read_by_library(LONG, self.name, compress=True), LONG)

    async def check_pickled(self, values: Mapping[str, object]) -> None:
        """Only the codec that is insecure by name agrees with the library on pickled values."""
        codec, insecure = codec_named(self.name), codec_named(f"{self.name}-insecure-pickle")
        items = await self.written_by_library(values)
        for item in items.values():
            error = self.assertRaises(CodecError, codec.decode, item.value, item.flags)
            self.assertIn(f"the codec {self.name}-insecure-pickle reads it", str(error))
        self.assert_same({k: insecure.decode(i.value, i.flags) for k, i in items.items()}, values)
        self.assert_same(await self.read_by_library(values, insecure.name), values)

    async def check_pickled_and_compressed(self) -> None:
        """A long pickled value that the library compressed is read, and the other way round."""
        values = {"long-list": ["abc"] * 3000}
        insecure = codec_named(f"{self.name}-insecure-pickle")
        items = await self.written_by_library(values, compress=True)
        self.assertEqual({item.flags for item in items.values()}, {9})
        self.assert_same({k: insecure.decode(i.value, i.flags) for k, i in items.items()}, values)
        self.assert_same(await self.read_by_library(values, insecure.name, compress=True), values)

    async def check_counter(self) -> None:
        """A number of the library's is read after the server counted it down by a digit."""
        await self.written_by_library({"counter": 10})
        self.assertEqual(await self.connection.decr("counter"), 9)
        item = await self.connection.get("counter")
        assert item is not None
        self.assertEqual(item.value, b"9 ")  # so memcached pads it; the codec must know
        self.assert_same(
            {"counter": codec_named(self.name).decode(item.value, item.flags)}, {"counter": 9}
        )


class PylibmcTests(AgreementTestCase):
    name = "pylibmc"
    library_class = Pylibmc

    async def test_theirs(self) -> None:
        """What pylibmc wrote is read, bools as bools."""
        await self.check_theirs(PLAIN | BOOLS)

    async def test_ours(self) -> None:
        """What the codec wrote is read by pylibmc."""
        await self.check_ours(PLAIN)

    async def test_bools(self) -> None:
        """pylibmc itself reads a bool as 0 or 1, its own as well as ours."""
        numbers: dict[str, object] = {"bool-true": 1, "bool-false": 0}
        self.assert_same(await self.read_by_library(BOOLS, self.name), numbers)
        await self.written_by_library(BOOLS)
        self.assert_same(await self.library.read(BOOLS, compress=False), numbers)

    async def test_compressed(self) -> None:
        """Compressed values are read both ways."""
        await self.check_compressed()

    async def test_compressed_int(self) -> None:
        """An int that pylibmc compressed is read, though we never compress one."""
        number = {"number": 10**19}

        def blocking() -> object:
            with self.library.client(compress=True) as client:
                return client.set("number", number["number"], min_compress_len=1)

        self.assertEqual(await deferToThread(blocking), True)
        item = await self.connection.get("number")
        assert item is not None
        self.assertEqual(item.flags, 4 | _ZLIB)
        self.assertEqual(codec_named(self.name).decode(item.value, item.flags), 10**19)

    async def test_pickled(self) -> None:
        """Pickled values are read both ways, by the codec made for it only."""
        await self.check_pickled(OTHER)
        await self.check_pickled_and_compressed()

    async def test_counter(self) -> None:
        """A counter of pylibmc's is read after the server counted."""
        await self.check_counter()


class BMemcachedTests(AgreementTestCase):
    name = "bmemcached"
    library_class = BMemcached

    async def test_theirs(self) -> None:
        """What python-binary-memcached wrote is read."""
        await self.check_theirs(PLAIN)

    async def test_ours(self) -> None:
        """What the codec wrote is read by python-binary-memcached."""
        await self.check_ours(PLAIN)

    async def test_compressed(self) -> None:
        """Compressed values are read both ways."""
        await self.check_compressed()

    async def test_pickled(self) -> None:
        """Pickled values, bools among them, are read both ways by the codec made for it only."""
        await self.check_pickled(OTHER | BOOLS)
        await self.check_pickled_and_compressed()

    async def test_counter(self) -> None:
        """A counter of python-binary-memcached's is read after the server counted."""
        await self.check_counter()


class PymemcacheTests(AgreementTestCase):
    name = "pymemcache"
    library_class = Pymemcache

    async def test_theirs(self) -> None:
        """What pymemcache's serde wrote is read."""
        await self.check_theirs(PLAIN)

    async def test_ours(self) -> None:
        """What the codec wrote is read by pymemcache's serde."""
        await self.check_ours(PLAIN)

    async def test_compressed(self) -> None:
        """Values of the compressed serde are read, and it reads ours."""
        await self.check_compressed()

    async def test_pickled(self) -> None:
        """Pickled values, bools among them, are read both ways by the codec made for it only."""
        await self.check_pickled(OTHER | BOOLS)
        await self.check_pickled_and_compressed()

    async def test_counter(self) -> None:
        """A counter of pymemcache's is read after the server counted."""
        await self.check_counter()
