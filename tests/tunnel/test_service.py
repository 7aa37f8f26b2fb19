"""Tests of `txtlsmc.tunnel.service`, over real sockets and passages that lead nowhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.application.service import IService
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.secrecy import credentials
from tests.tunnel.echoing import EchoPassage
from tests.tunnel.hearing import Heard
from tests.tunnel.talking import Talk, client_tls, listen_files, talk
from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import TLS, ClientSettings, Server
from txtlsmc.testing import Authority
from txtlsmc.tunnel.service import TunnelService
from txtlsmc.tunnel.settings import TunnelLimits, TunnelSettings


def settings(*servers: str, **given: Any) -> TunnelSettings:
    """Return settings with these servers, each on a free port."""
    client = ClientSettings(tuple(Server(name) for name in servers))
    return TunnelSettings(client, **{"listen": ("127.0.0.1:0",), **given})


class ServiceTestCase(TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.heard = Heard(self)
        self.made: list[EchoPassage] = []

    def passage(self, *arguments: Any) -> EchoPassage:
        self.made.append(EchoPassage(*arguments))
        return self.made[-1]

    def tunnel(self, first: TunnelSettings) -> TunnelService:
        """Return a service; what it rereads is in ``self.now``."""
        self.now: TunnelSettings | Callable[[], TunnelSettings] = first

        def reread() -> TunnelSettings:
            return self.now() if callable(self.now) else self.now

        return TunnelService(reactor, first, reread, {"gateway": self.passage})

    def started(self, first: TunnelSettings) -> TunnelService:
        service = self.tunnel(first)
        service.privilegedStartService()
        service.startService()
        self.addCleanup(lambda: service.stopService() if service.running else None)
        return service

    def reread(self, service: TunnelService, now: TunnelSettings) -> None:
        self.now = now
        service.reload()

    async def reached(self, service: TunnelService, place: int, tls: Any = None) -> Talk:
        """Connect to the listener at *place*."""
        return await talk(service.listeners[place].where, tls)

    async def name_at(self, service: TunnelService, place: int) -> str:
        """Return which server a new connection to the listener at *place* leads to."""
        made = await self.reached(service, place)
        await made.until(b"\n")
        assert made.transport is not None
        made.transport.loseConnection()
        await made.lost
        return made.got.decode().strip()


class StartTests(ServiceTestCase):
    async def test_one_for_each(self) -> None:
        """There is a listener for each server, in their order, and each passage is started once."""
        service = self.started(settings("a", "b", "c"))
        self.assertTrue(IService.providedBy(service))
        self.assertEqual([await self.name_at(service, place) for place in range(3)], list("abc"))
        self.assertEqual([one.started for one in self.made], [1, 1, 1])
        self.assertEqual(self.heard.names, ["listening"] * 3)

    async def test_privileges(self) -> None:
        """Ports are bound while that may need root, sockets by whom the tunnel runs as."""
        path = self.folder / "a"
        service = self.tunnel(settings("a", "b", listen=(f"unix:{path}", "127.0.0.1:0")))
        service.privilegedStartService()
        self.assertEqual(len(service.listeners), 1)
        self.assertFalse(path.exists())
        service.startService()
        self.assertEqual(service.listeners[0].where, f"unix:{path}")
        self.assertEqual([await self.name_at(service, place) for place in range(2)], ["a", "b"])
        await service.stopService()
        self.assertFalse(path.exists())

    async def test_all_or_none(self) -> None:
        """When one listener can not be bound all are given up, and the error says which and why."""
        taken = self.started(settings("x")).listeners[0].where
        for bad in (taken, f"unix:{self.folder}/none/a"):
            service = self.tunnel(settings("a", "b", listen=("127.0.0.1:0", bad)))

            def start(service: TunnelService = service) -> None:
                service.privilegedStartService()
                service.startService()

            said = str(self.assertRaises(InvalidSetting, start))
            self.assertIn(f"can not listen on {bad}: ", said)
            self.assertEqual(service.listeners, [])
            self.assertFalse(service.running)
        self.assertEqual([one.started for one in self.made], [1, 0, 0, 0, 0])
        self.assertEqual(self.heard.names[1:], ["not_started"] * 2)

    def test_files_first(self) -> None:
        """A certificate that can not be read is refused before anything is bound."""
        bad = settings("a", listen_certificate="/nowhere", listen_key="/nowhere")
        self.assertRaises(InvalidSetting, self.tunnel, bad)
        self.assertRaises(InvalidSetting, self.tunnel, settings("bad"))

    async def test_exposed(self) -> None:
        """A listener that other machines reach, and that asks nobody, is told of."""
        self.started(settings("a", listen=("0.0.0.0:0",), listen_anywhere=True))
        self.assertEqual(self.heard.names, ["listening", "exposed"])


class StopTests(ServiceTestCase):
    async def test_order(self) -> None:
        """At the end listeners close first, then all passages drain at once."""
        service = self.started(settings("a", "b", drain_seconds=2.5))
        where = service.listeners[0].where
        here = await self.reached(service, 0)
        await here.until(b"a\n")
        done = service.stopService()
        await done
        await here.lost
        self.assertEqual([one.drains for one in self.made], [[2.5], [2.5]])
        self.assertRaises(ConnectionRefusedError, _connect, where)
        self.assertEqual(self.heard.names[-2:], ["draining", "stopped"])
        self.assertEqual(self.heard.events[-2]["connections"], 1)

    async def test_hanging(self) -> None:
        """A passage that never ends does not keep the tunnel from ending."""
        service = self.started(settings("a", drain_seconds=0.01))
        self.made[0].drain = lambda seconds: Deferred()  # type: ignore[method-assign] # hangs
        await service.stopService()
        self.assertIn("still busy", self.heard.lines[-1])

    async def test_reload_meanwhile(self) -> None:
        """A SIGHUP does not cut short the end, nor change anything then."""
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))
        found: list[int] = []
        signal.signal(signal.SIGHUP, lambda number, _: found.append(number))
        service = self.started(settings("a"))
        drained: Deferred[None] = Deferred()
        self.made[0].drain = lambda seconds: drained  # type: ignore[method-assign] # takes long
        done = service.stopService()
        os.kill(os.getpid(), signal.SIGHUP)
        drained.callback(None)
        await done
        self.assertEqual((found, self.heard.names[-1]), ([], "stopped"))
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(found, [signal.SIGHUP])


def _connect(where: str) -> None:
    import socket

    host, _, port = where.rpartition(":")
    with socket.socket() as probe:
        probe.connect((host, int(port)))


class ReloadTests(ServiceTestCase):
    async def test_servers(self) -> None:
        """A server that stays keeps its connections, whatever comes and goes beside it."""
        service = self.started(settings("a", "b"))
        a, b = self.made
        to_a, to_b = await self.reached(service, 0), await self.reached(service, 1)
        await to_a.until(b"a\n")
        await to_b.until(b"b\n")
        where = [listener.where for listener in service.listeners]
        self.reread(service, settings("b", "c", "d"))
        await to_a.lost
        self.assertEqual([listener.where for listener in service.listeners][:2], where)
        self.assertEqual([await self.name_at(service, place) for place in range(3)], list("bcd"))
        assert to_b.transport is not None
        to_b.transport.write(b"still here\n")
        await to_b.until(b"still here\n")
        self.assertEqual((a.drains, b.drains, b.started), ([5.0], [], 1))
        self.assertEqual([one.server.name for one in self.made], ["a", "b", "c", "d"])
        changes = "servers added: 2, servers gone: 1, listeners added: 1"
        self.assertEqual(self.heard.events[-1]["changes"], changes)
        assert to_b.transport is not None
        to_b.transport.loseConnection()
        await to_b.lost

    async def test_listener_gone(self) -> None:
        """The listener of a server that is gone is closed."""
        service = self.started(settings("a", "b"))
        gone = service.listeners[1].where
        self.reread(service, settings("a"))
        self.assertEqual(await self.name_at(service, 0), "a")
        self.assertRaises(ConnectionRefusedError, _connect, gone)

    def test_twice_the_same(self) -> None:
        """The same server twice is two passages, after a reload as well."""
        service = self.started(settings("a", "a"))
        self.reread(service, settings("a", "b", "a"))
        self.assertEqual([one.server.name for one in self.made], ["a", "a", "b"])
        self.assertEqual([one.drains for one in self.made], [[], [], []])

    def test_address(self) -> None:
        """A server that is dialled elsewhere is another one."""
        service = self.started(settings("a"))
        other = ClientSettings((Server("a", "127.0.0.9:1"),))
        self.reread(service, replace(settings("a"), client=other))
        self.assertEqual([one.drains for one in self.made], [[5.0], []])

    def test_credentials(self) -> None:
        """Passages that stay learn the TLS settings and credentials of the moment, each time."""
        service = self.started(settings("a"))
        self.reread(service, settings("a"))
        client = ClientSettings((Server("a"),), tls=TLS("ca.pem"), credentials=credentials())
        self.reread(service, replace(settings("a"), client=client))
        self.assertEqual(self.made[0].reloads, [(TLS(), None), (TLS("ca.pem"), client.credentials)])
        self.assertEqual(service.hub.counters.reloads, 2)

    async def test_certificate(self) -> None:
        """The next handshake on the same port shows the new certificate; who is there stays."""
        authority = Authority()
        first = settings("a", **listen_files(authority, self.folder))
        service = self.started(first)
        where = service.listeners[0].where
        old = await self.reached(service, 0, client_tls(authority))
        await old.until(b"a\n")
        listen_files(authority, self.folder)  # in the same place
        self.reread(service, first)
        new = await self.reached(service, 0, client_tls(authority))
        await new.until(b"a\n")
        self.assertNotEqual(old.serial, new.serial)
        self.assertEqual((service.listeners[0].where, old.lost.called), (where, False))

    async def test_refused(self) -> None:
        """If anything in the new settings is wrong, all stays as it is, and the log says why."""
        service = self.started(settings("a", "b"))
        taken = service.listeners[0].where
        before = list(service.listeners)

        def unreadable() -> TunnelSettings:
            raise InvalidSetting("tunnel.toml: unknown key tunnel.mood")

        self.made[1].refuses = True
        for now, words in (
            (unreadable, "unknown key tunnel.mood"),
            (settings("a", "bad"), "can not be used"),
            (settings("a", "c", listen=("127.0.0.1:0", taken)), "somebody listens there"),
            (settings("a", "b"), "ca: no certificate in it"),
        ):
            self.now = now
            self.made[0].reloads.clear()
            self.heard.events.clear()
            service.reload()
            self.assertEqual(self.heard.names, ["not_reloaded"])
            self.assertIn(words, self.heard.lines[0])
            self.assertEqual(service.listeners, before)
            self.assertEqual([one.drains for one in self.made[:2]], [[], []])
        # The first was told to change, and then to change back.
        self.assertEqual(self.made[0].reloads, [(TLS(), None)] * 2)
        self.made[1].refuses = False
        self.assertEqual([await self.name_at(service, place) for place in range(2)], ["a", "b"])

    def test_restart(self) -> None:
        """What can not change while the tunnel runs is named, and stays."""
        service = self.started(settings("a"))
        client = replace(settings("a").client, namespace=b"x")
        self.reread(
            service,
            settings("a", upstream_connections=2, limits=TunnelLimits(window=1)),
        )
        self.assertEqual(self.heard.names[-2:], ["needs_restart", "reloaded"])
        self.assertEqual(self.heard.events[-2]["settings"], "upstream_connections, limits")
        self.reread(service, replace(settings("a"), client=client))
        self.assertIn("of the client", self.heard.events[-2]["settings"])

    async def test_signal(self) -> None:
        """SIGHUP reloads while the tunnel runs, and is left as it was found."""
        before = signal.getsignal(signal.SIGHUP)
        service = self.started(settings("a"))
        done: Deferred[None] = Deferred()

        def now() -> TunnelSettings:
            reactor.callLater(0, done.callback, None)
            return settings("a", "b")

        self.now = now
        os.kill(os.getpid(), signal.SIGHUP)
        await done
        self.assertEqual(await self.name_at(service, 1), "b")
        await service.stopService()
        self.assertEqual(signal.getsignal(signal.SIGHUP), before)
        service.reload()  # as one that came late would: nothing happens
        self.assertEqual(self.heard.names[-1], "stopped")
