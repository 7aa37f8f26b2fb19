"""Tests of `txtlsmc.tunnel.listeners` and `txtlsmc.tunnel.certificates`, with real sockets."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol, ServerFactory, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.tunnel.talking import Talk, client_tls, listen_files, talk
from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import ClientSettings, Server
from txtlsmc.testing import Authority
from txtlsmc.tunnel.addresses import ListenAddress
from txtlsmc.tunnel.certificates import CurrentCertificate, LocalTLSFactory, read_certificate
from txtlsmc.tunnel.listeners import Door, Listener, listen
from txtlsmc.tunnel.settings import TunnelSettings


class _Hello(Protocol):
    def __init__(self) -> None:
        self.gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello\n")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone.callback(None)


class _Nobody(Factory):
    noisy = False

    def buildProtocol(self, addr: Any) -> Any:
        return None


class ListenerTestCase(TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()  # a short path: a socket's may not be long
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.greeters: list[_Hello] = []
        self.addCleanup(lambda: DeferredList([one.gone for one in self.greeters]))

    def hello(self) -> Door:
        """Return what says hello to everybody."""

        def greeter() -> _Hello:
            self.greeters.append(_Hello())
            return self.greeters[-1]

        return Door(ServerFactory.forProtocol(greeter))

    def listen(self, text: str, factory: Any = None, **words: bool) -> Listener:
        listener = listen(reactor, ListenAddress.parse(text), factory or self.hello(), **words)
        self.addCleanup(listener.close)
        return listener

    def refused(self, text: str) -> str:
        return str(self.assertRaises(InvalidSetting, self.listen, text))

    async def greeted(self, where: str, tls: Any = None) -> Talk:
        made = await talk(where, tls)
        self.addCleanup(self._hang_up, made)
        await made.until(b"hello\n")
        return made

    @staticmethod
    def _hang_up(made: Talk) -> Deferred[Any]:
        assert made.transport is not None
        if not made.lost.called:
            made.transport.abortConnection()  # type: ignore[attr-defined] # all of these have it
        return made.lost


class TCPTests(ListenerTestCase):
    async def test_free_port(self) -> None:
        """On port 0 a listener says which one it got, and is reached there."""
        for text in ("127.0.0.1:0", "[::1]:0"):
            listener = self.listen(text)
            self.assertNotEqual(listener.where, text)
            await self.greeted(listener.where)

    async def test_closed(self) -> None:
        """A port is free again when its listener is closed."""
        listener = self.listen("127.0.0.1:0")
        await listener.close()
        again = self.listen(listener.where)
        self.assertEqual(again.where, listener.where)

    def test_taken(self) -> None:
        """A port that somebody has is refused by its address, in words."""
        listener = self.listen("127.0.0.1:0")
        self.assertEqual(
            self.refused(listener.where),
            f"listen: can not listen on {listener.where}: somebody listens there already",
        )
        self.assertIn("this machine has no such address", self._anywhere("192.0.2.1:0"))

    def _anywhere(self, text: str) -> str:
        return str(self.assertRaises(InvalidSetting, self.listen, text, anywhere=True))

    async def test_exposed(self) -> None:
        """Nothing that others reach is bound, unless that is allowed."""
        self.assertIn("set listen_anywhere", self.refused("0.0.0.0:0"))
        listener = self.listen("0.0.0.0:0", anywhere=True)
        self.assertFalse(listener.is_local)
        await self.greeted(listener.where.replace("0.0.0.0", "127.0.0.1"))

    async def test_door(self) -> None:
        """A port can lead to somebody else without being closed."""
        door = self.hello()
        listener = self.listen("127.0.0.1:0", door)
        await self.greeted(listener.where)
        door.inside = _Nobody()
        closed = await talk(listener.where)
        await closed.lost
        door.inside = self.hello().inside
        await self.greeted(listener.where)


class UnixTests(ListenerTestCase):
    async def test_mode(self) -> None:
        """A socket is its owner's alone, from its first moment; the umask is as it was."""
        path, modes = self.folder / "a", list[int]()
        chmod = os.chmod
        # What Twisted does to it after the bind comes too late, so it is switched off here.
        self.patch(os, "chmod", lambda *_: modes.append(stat.S_IMODE(path.stat().st_mode)))
        before = os.umask(0o22)
        self.addCleanup(os.umask, before)
        listener = self.listen(f"unix:{path}")
        self.patch(os, "chmod", chmod)
        self.assertEqual(modes, [0o600])
        self.assertEqual(os.umask(0o22), 0o22)
        self.assertTrue(listener.is_local)
        await self.greeted(f"unix:{path}")
        await listener.close()
        self.assertFalse(path.exists())

    async def test_stale(self) -> None:
        """A socket that a process left behind when it was killed is no obstacle."""
        path = self.folder / "a"
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
        self.listen(f"unix:{path}")
        await self.greeted(f"unix:{path}")

    async def test_in_use(self) -> None:
        """A socket at which somebody listens is left to him."""
        path = self.folder / "a"
        self.listen(f"unix:{path}")
        self.assertIn("somebody listens there already", self.refused(f"unix:{path}"))
        await self.greeted(f"unix:{path}")

    def test_file(self) -> None:
        """A file that is no socket is not removed, whatever is in it."""
        path = self.folder / "a"
        path.write_text("precious")
        self.assertIn("there is a file of that name already", self.refused(f"unix:{path}"))
        self.assertEqual(path.read_text(), "precious")
        self.assertIn("no such folder", self.refused(f"unix:{self.folder}/none/a"))

    def test_systemd(self) -> None:
        """Where systemd has handed over nothing, that is said."""
        self.assertIn(
            "systemd has handed over no such socket", self.refused("systemd:domain=INET:index=9")
        )
        self.assertIn("no such socket", self.refused("systemd:domain=INET:name=cache"))


class TLSTests(ListenerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority()

    def settings(self, **given: str) -> TunnelSettings:
        files: dict[str, Any] = listen_files(self.authority, self.folder) | given
        return TunnelSettings(ClientSettings((Server("mc1"),)), **files)

    def secured(self, **given: str) -> tuple[Listener, CurrentCertificate]:
        found = read_certificate(self.settings(**given))
        assert found is not None
        current = CurrentCertificate(found[0])
        factory = LocalTLSFactory(current, self.hello(), Clock(), 30.0)
        return self.listen("127.0.0.1:0", factory), current

    async def test_verified(self) -> None:
        """A client that verifies reaches a listener that has a certificate."""
        listener, _ = self.secured()
        await self.greeted(listener.where, client_tls(self.authority))

    async def test_reloaded(self) -> None:
        """A new certificate is shown at the next handshake on the same port; who is there stays."""
        listener, current = self.secured()
        first = await self.greeted(listener.where, client_tls(self.authority))
        found = read_certificate(self.settings())
        assert found is not None
        current.options = found[0]
        second = await self.greeted(listener.where, client_tls(self.authority))
        self.assertNotEqual(first.serial, second.serial)
        self.assertFalse(first.lost.called)

    async def test_client_certificate(self) -> None:
        """Where clients must have a certificate, none gets in without one of that authority."""
        ca = self.folder / "clients.pem"
        clients, others = Authority(), Authority()
        ca.write_bytes(clients.pem)
        listener, _ = self.secured(listen_client_ca=str(ca))
        for issued in (None, others.issue("app")):
            made = await talk(listener.where, client_tls(self.authority, issued))
            reason = await made.lost
            self.assertIsInstance(reason, SSL.Error)
        tls = client_tls(self.authority, clients.client("app"))
        await self.greeted(listener.where, tls)

    async def test_nobody(self) -> None:
        """A connection that is not wanted is closed, with TLS as well."""
        found = read_certificate(self.settings())
        assert found is not None
        factory = LocalTLSFactory(CurrentCertificate(found[0]), Door(_Nobody()), Clock(), 30.0)
        listener = self.listen("127.0.0.1:0", factory)
        made = await talk(listener.where)
        self.assertIsInstance(await made.lost, ConnectionDone)

    async def test_silent(self) -> None:
        """Who never shakes hands is closed after a time, and who did is not."""
        found = read_certificate(self.settings())
        assert found is not None
        clock = Clock()
        factory = LocalTLSFactory(CurrentCertificate(found[0]), self.hello(), clock, 30.0)
        listener = self.listen("127.0.0.1:0", factory)
        silent = await talk(listener.where)
        speaking = await self.greeted(listener.where, client_tls(self.authority))
        self.assertEqual(len(clock.getDelayedCalls()), 2)
        clock.advance(29)
        self.assertFalse(silent.lost.called)
        clock.advance(2)
        await silent.lost
        self.assertFalse(speaking.lost.called)
        self.assertEqual(clock.getDelayedCalls(), [])


class FileTests(ListenerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.files: dict[str, Any] = listen_files(Authority(), self.folder)

    def said(self, **given: str) -> str:
        files = self.files | given
        settings = TunnelSettings(ClientSettings((Server("mc1"),)), **files)
        return str(self.assertRaises(InvalidSetting, read_certificate, settings))

    def test_facts(self) -> None:
        """What the certificate says comes with it; without one there is no TLS."""
        client = ClientSettings((Server("mc1"),))
        found = read_certificate(TunnelSettings(client, **self.files))
        assert found is not None
        self.assertEqual(found[1].names, ("localhost",))
        self.assertIsNone(read_certificate(TunnelSettings(client)))

    def test_wrong(self) -> None:
        """A file that can not be used is named by its setting."""
        empty = self.folder / "empty"
        empty.write_text("")
        empty.chmod(0o600)
        other = listen_files(Authority(), self.folder, "other")["listen_key"]
        for words, given in {
            "listen_certificate: can not read": {"listen_certificate": "/nowhere"},
            "listen_key: can not read '/nowhere'": {"listen_key": "/nowhere"},
            "listen_certificate and listen_key: no private key": {"listen_key": str(empty)},
            "listen_certificate and listen_key: no certificate": {"listen_certificate": str(empty)},
            "listen_certificate and listen_key: the private key in it is not": {
                "listen_key": other
            },
            "listen_client_ca, ": {"listen_client_ca": str(empty)},
            "listen_client_ca: can not read": {"listen_client_ca": "/nowhere"},
        }.items():
            said = self.said(**given)
            self.assertTrue(said.startswith(words), said)

    def test_readable(self) -> None:
        """A private key that others can read is refused."""
        for mode in (0o644, 0o604, 0o660, 0o602):
            os.chmod(self.files["listen_key"], mode)
            self.assertIn("chmod 600", self.said())
