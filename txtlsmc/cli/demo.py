"""``tlsmc demo``: the story in a few seconds, with nothing but this package."""

from __future__ import annotations

import os
import sys
from typing import Any

from txtlsmc.cli.command import Command
from txtlsmc.cli.demo_cluster import show_cluster
from txtlsmc.cli.demo_tunnel import show_tunnel
from txtlsmc.cli.running import run
from txtlsmc.cli.show import Show
from txtlsmc.errors import (
    CertificateExpired,
    CertificateWrongHost,
    CredentialsRefused,
)
from txtlsmc.net.endpoints import connect
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.settings import TLS, Credentials
from txtlsmc.testing import Authority, IssuedCertificate, MemoryServer

_USER, _PASSWORD = "alice", "correct horse battery staple"


class DemoOptions(Command):
    """No options: it only shows."""

    synopsis = "tlsmc demo"
    longdesc = (
        "Starts embedded servers with TLS and SASL on free ports of this machine, lets a client"
        " do every kind of operation, and shows what is refused, and with which words. Then three"
        " servers share the keys of one client, and one of them fails and comes back. Last, a"
        " client without TLS and password reaches such a server through the tunnel."
        " Exits with 0 only if everything came out as it says."
    )

    def run(self) -> int:
        """Show it; return the exit code."""
        show = Show(sys.stdout, sys.stdout.isatty() and "NO_COLOR" not in os.environ)
        return run(lambda reactor: _demo(reactor, show))


async def _demo(reactor: Any, show: Show) -> int:
    authority = Authority()
    servers = []

    async def server(certificate: IssuedCertificate) -> MemoryServer:
        started = MemoryServer(reactor, users={_USER: _PASSWORD}, certificate=certificate)
        servers.append(started)
        await started.listen()
        return started

    alice = Credentials(_USER, _PASSWORD)
    trusted = TLS(ca=authority.pem)
    try:
        show.title("A server with TLS and SASL, and a client that verifies both")
        good = await server(authority.issue())
        protocol = await connect(reactor, good.server, tls=trusted, credentials=alice)
        verified = f"TLS verified, SASL {alice.mechanism}"
        show.result(f"connected to {good.server}", verified, True)
        show.title("Every kind of operation")
        await _operations(protocol, show)
        await protocol.close()

        show.title("What is refused, before a password or a value is sent")
        elsewhere = await server(authority.issue("cache.example"))
        done = connect(reactor, elsewhere.server, tls=trusted, credentials=alice)
        await show.refuse("a certificate for another host", done, CertificateWrongHost)
        old = await server(authority.expired())
        done = connect(reactor, old.server, tls=trusted, credentials=alice)
        await show.refuse("an expired certificate", done, CertificateExpired)
        show.title("And what the server refuses")
        mallory = Credentials(_USER, "a guess")
        done = connect(reactor, good.server, tls=trusted, credentials=mallory)
        await show.refuse("a wrong password", done, CredentialsRefused)
        await show_cluster(reactor, show, authority, alice)
        await show_tunnel(reactor, show, authority, alice)
    finally:
        for started in servers:
            await started.stop()
    if show.surprises:
        show.title(f"{show.surprises} of these did not come out as they should.")
        return 1
    show.title("All of it came out as it should.")
    return 0


async def _operations(protocol: MemcacheProtocol, show: Show) -> None:
    async def value(key: str) -> bytes | None:
        item = await protocol.get(key)
        return None if item is None else item.value

    async def many() -> dict[str, bytes]:
        items = await protocol.get_multi(["one", "two", "three"])
        return {key: item.value for key, item in items.items()}

    async def version_of(key: str) -> int:
        item = await protocol.gets(key)
        return 0 if item is None else item.cas

    await show.expect("set greeting hello", protocol.set("greeting", b"hello"), True)
    await show.expect("get greeting", value("greeting"), b"hello")
    await show.expect("get nothing-there", value("nothing-there"), None)
    await show.expect("add greeting (it exists)", protocol.add("greeting", b"hi"), False)
    await show.expect("replace greeting", protocol.replace("greeting", b"good day"), True)
    await show.expect("append ' to you'", protocol.append("greeting", b" to you"), True)
    await show.expect("prepend 'A '", protocol.prepend("greeting", b"A "), True)
    await show.expect("get greeting", value("greeting"), b"A good day to you")
    seen = await version_of("greeting")
    await show.expect("cas, with the version seen", protocol.cas("greeting", b"new", seen), True)
    await show.expect("cas, with the same again", protocol.cas("greeting", b"lost", seen), False)
    await show.expect("touch greeting, 60 seconds", protocol.touch("greeting", 60), True)
    await show.expect("incr visits, initially 41", protocol.incr("visits", initial=41), 41)
    await show.expect("incr visits", protocol.incr("visits"), 42)
    await show.expect("decr visits by 2", protocol.decr("visits", 2), 40)
    await show.expect("set_multi one, two", protocol.set_multi({"one": b"1", "two": b"2"}), [])
    await show.expect("get_multi one, two, three", many(), {"one": b"1", "two": b"2"})
    await show.expect("delete_multi two, three", protocol.delete_multi(["two", "three"]), ["three"])
    await show.expect("delete one", protocol.delete("one"), True)
    statistics = await protocol.stats()
    items = statistics.get(b"curr_items", b"?").decode()
    show.result("stats: curr_items", items, items == "2")
    await show.expect("noop", protocol.noop(), True)
    await show.expect("flush_all", protocol.flush_all(), True)
    await show.expect("get greeting", value("greeting"), None)
