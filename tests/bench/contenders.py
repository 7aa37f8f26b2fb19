"""
The contenders, each a process of its own: ``python -m tests.bench.contenders NAME PORT CA-FILE``.

A contender connects, stores what the rows read, and prints ``ready``.  For each line ``ROW COUNT``
on its standard input it then does the row's work COUNT times, and prints how many seconds it took.
It waits for its turn without a word, so only one of them works at a time.
"""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from struct import Struct
from time import perf_counter
from typing import Any

_KEY = "bench:key"
_VALUE = b"v" * 100
_MANY = [f"bench:{number}" for number in range(100)]
_IN_FLIGHT = 64

Row = Callable[[int], object]


def serve(rows: dict[str, Row]) -> None:
    """Do rows as they are asked for, until there are no more."""
    print("ready", flush=True)
    for line in sys.stdin:
        row, count = line.split()
        began = perf_counter()
        rows[row](int(count))
        print(perf_counter() - began, flush=True)


async def serve_async(rows: dict[str, Callable[[int], Awaitable[object]]]) -> None:
    """Do the same with rows that are coroutines; what runs them has nothing else to do."""
    print("ready", flush=True)
    while line := sys.stdin.readline():
        row, count = line.split()
        began = perf_counter()
        await rows[row](int(count))
        print(perf_counter() - began, flush=True)


def _expect(got: object, wanted: object) -> None:
    if got != wanted:
        raise SystemExit(f"a wrong answer: {got!r}")


# Ours


def txtlsmc(port: int, ca: str, *, plaintext: bool = False) -> None:
    """Our client on the default reactor; 64 at a time is 64 Deferreds."""
    from twisted.internet.defer import gatherResults
    from twisted.internet.task import react

    from txtlsmc import TLS, InsecurePlaintext, MemcacheClient

    async def main(reactor: Any) -> None:
        tls = InsecurePlaintext() if plaintext else TLS(ca=ca)
        client = MemcacheClient(reactor, f"localhost:{port}", tls=tls, codec="raw")
        await client.set(_KEY, _VALUE)
        await client.set_multi(dict.fromkeys(_MANY, _VALUE))

        async def one_by_one(count: int) -> None:
            for _ in range(count):
                got = await client.get(_KEY)
            _expect(got, _VALUE)

        async def in_flight(count: int) -> None:
            for _ in range(count // _IN_FLIGHT):
                got = await gatherResults([client.get(_KEY) for _ in range(_IN_FLIGHT)])
            _expect(got, [_VALUE] * _IN_FLIGHT)

        async def many(count: int) -> None:
            for _ in range(count):
                got = await client.get_multi(_MANY)
            _expect(len(got), len(_MANY))

        await serve_async({"P1": one_by_one, "P2": in_flight, "P3": many})
        await client.close()

    react(lambda reactor: main(reactor))


def txtlsmc_plaintext(port: int, ca: str) -> None:
    """Our client without TLS."""
    txtlsmc(port, ca, plaintext=True)


# What users have


def raw_ssl(port: int, ca: str) -> None:
    """A blocking loop over a TLS socket, which knows in advance what comes: the limit."""
    context = ssl.create_default_context(cafile=ca)
    plain = socket.create_connection(("localhost", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = context.wrap_socket(plain, server_hostname="localhost")
    header = Struct(">BBHBBHIIQ")
    key = _KEY.encode()
    stored = header.pack(0x80, 1, len(key), 8, 0, 0, 8 + len(key) + len(_VALUE), 0, 0)
    connection.sendall(stored + bytes(8) + key + _VALUE)
    connection.recv(65536)
    asked = header.pack(0x80, 0, len(key), 0, 0, 0, len(key), 0, 0) + key

    def one_by_one(count: int) -> None:
        for _ in range(count):
            connection.sendall(asked)
            answer = b""
            while len(answer) < header.size + 4 + len(_VALUE):
                answer += connection.recv(65536)
        _expect(answer[-len(_VALUE) :], _VALUE)

    serve({"P1": one_by_one})


def pylibmc_stunnel(port: int, ca: str) -> None:
    """The client in C that knows no TLS; *port* is stunnel's."""
    pylibmc = import_module("pylibmc")
    client = pylibmc.Client([f"127.0.0.1:{port}"], binary=True, behaviors={"tcp_nodelay": True})
    client.set(_KEY, _VALUE)
    client.set_multi(dict.fromkeys(_MANY, _VALUE))

    def one_by_one(count: int) -> None:
        for _ in range(count):
            got = client.get(_KEY)
        _expect(got, _VALUE)

    def many(count: int) -> None:
        for _ in range(count):
            got = client.get_multi(_MANY)
        _expect(len(got), len(_MANY))

    serve({"P1": one_by_one, "P3": many})


def bmemcached_tls(port: int, ca: str) -> None:
    """python-binary-memcached over TLS."""
    bmemcached = import_module("bmemcached")
    context = ssl.create_default_context(cafile=ca)
    client = bmemcached.Client((f"localhost:{port}",), tls_context=context)
    client.set(_KEY, _VALUE)
    client.set_multi(dict.fromkeys(_MANY, _VALUE))

    def one_by_one(count: int) -> None:
        for _ in range(count):
            got = client.get(_KEY)
        _expect(got, _VALUE)

    def many(count: int) -> None:
        for _ in range(count):
            got = client.get_multi(_MANY)
        _expect(len(got), len(_MANY))

    serve({"P1": one_by_one, "P3": many})


def emcache_uvloop(port: int, ca: str) -> None:
    """emcache on uvloop, with TLS."""
    import asyncio

    # No types, or not the right ones: these are only installed for the bench.
    emcache, uvloop = import_module("emcache"), import_module("uvloop")

    async def main() -> None:
        client = await emcache.create_client(
            [emcache.MemcachedHostAddress("localhost", port)],
            ssl=True,
            ssl_extra_ca=ca,
            timeout=10.0,
            max_connections=2,
        )
        key = _KEY.encode()
        await client.set(key, _VALUE)
        for each in _MANY:
            await client.set(each.encode(), _VALUE)
        names = [each.encode() for each in _MANY]

        async def in_flight(count: int) -> None:
            for _ in range(count // _IN_FLIGHT):
                got = await asyncio.gather(*[client.get(key) for _ in range(_IN_FLIGHT)])
            _expect(got[-1].value, _VALUE)

        async def many(count: int) -> None:
            for _ in range(count):
                got = await client.get_many(names)
            _expect(len(got), len(names))

        await serve_async({"P2": in_flight, "P3": many})
        await client.close()

    uvloop.run(main())


CONTENDERS: dict[str, Callable[[int, str], None]] = {
    "txtlsmc": txtlsmc,
    "txtlsmc-plaintext": txtlsmc_plaintext,
    "raw-ssl": raw_ssl,
    "pylibmc+stunnel": pylibmc_stunnel,
    "bmemcached": bmemcached_tls,
    "emcache+uvloop": emcache_uvloop,
}

if __name__ == "__main__":
    CONTENDERS[sys.argv[1]](int(sys.argv[2]), sys.argv[3])
