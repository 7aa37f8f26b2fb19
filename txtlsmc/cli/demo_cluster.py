"""The part of ``tlsmc demo`` with many servers: one of them fails, and comes back."""

from __future__ import annotations

from collections import Counter
from typing import Any

from txtlsmc.cli.show import Show
from txtlsmc.client import MemcacheClient
from txtlsmc.errors import NodeDown
from txtlsmc.settings import TLS, Credentials
from txtlsmc.testing import Authority, MemoryServer

_HOSTS = ("one.example", "two.example", "three.example")
_KEYS = [f"user:{number}" for number in range(300)]
_SECONDS = 10.0


async def show_cluster(
    reactor: Any, show: Show, authority: Authority, credentials: Credentials
) -> None:
    """
    Start three servers with TLS and SASL, and show what a client makes of them.

    Args:
        reactor: the reactor.
        show: takes what comes out.
        authority: issues the certificates of the servers, each for the name that the ring knows.
        credentials: what the client has, and the servers want.
    """
    show.title("Three servers, and a client that shares the keys out among them")
    servers = {
        f"{host}:11211": MemoryServer(
            reactor,
            name=f"{host}:11211",
            users={credentials.username: credentials.password},
            certificate=authority.issue(host),
        )
        for host in _HOSTS
    }
    for server in servers.values():
        await server.listen()
    client = MemcacheClient(
        reactor,
        [server.server for server in servers.values()],
        tls=TLS(ca=authority.pem),
        credentials=credentials,
    )
    try:
        await _share_out(client, servers, show)
        await _lose_one(client, servers, show)
    finally:
        await client.close()
        for server in servers.values():
            await server.stop()


def _place(client: MemcacheClient, key: str) -> str:
    return client.node_for(key).server.name


async def _share_out(client: MemcacheClient, servers: dict[str, MemoryServer], show: Show) -> None:
    values = {key: f"value of {key}" for key in _KEYS}
    await show.expect("set_multi of 300 keys", client.set_multi(values, timeout=_SECONDS), [])
    found = await client.get_multi(_KEYS, timeout=_SECONDS)
    show.result("get_multi of them", f"{len(found)} values", found == values)
    by_ring = Counter(_place(client, key) for key in _KEYS)
    for name, server in servers.items():
        stored = server.stats["curr_items"]
        show.result(f"on {name}", f"{stored} keys", stored == by_ring[name])


async def _lose_one(client: MemcacheClient, servers: dict[str, MemoryServer], show: Show) -> None:
    lost = _place(client, _KEYS[0])
    others = [key for key in _KEYS if _place(client, key) != lost]
    port = servers[lost].server.address.port

    show.title(f"{lost} is killed")
    await servers[lost].stop()
    # This waits for a connection until the server has failed too often to be waited for.
    waiting = client.get(_KEYS[0], timeout=_SECONDS)
    await show.refuse(f"get {_KEYS[0]}, which it has", waiting, NodeDown)
    found = await client.get_multi(others, timeout=_SECONDS)
    served = f"{len(found)} of {len(others)} values"
    show.result("get_multi of the keys of the others", served, len(found) == len(others))
    show.result("states", _states(client), _states(client).count("up") == len(servers) - 1)

    show.title("It comes back, with what it held")
    await servers[lost].listen(f"tcp:{port}:interface=127.0.0.1")
    await client.when_ready()
    value = f"value of {_KEYS[0]}"
    await show.expect(f"get {_KEYS[0]}", client.get(_KEYS[0], timeout=_SECONDS), value)
    show.result("states", _states(client), _states(client).count("up") == len(servers))


def _states(client: MemcacheClient) -> str:
    return ", ".join(
        f"{health.server.name.partition('.')[0]} {health.state.value}" for health in client.nodes()
    )
