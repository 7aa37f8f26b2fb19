"""What `tests.memcached` promises to the tests that stand on it."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple
from unittest import TestResult

import trustme
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.memcached import (
    MemcachedFailed,
    MemcachedOptions,
    MemcachedTestCase,
    RealMemcached,
    needs_memcached,
)

_HEADER = struct.Struct(">BBHBBHIIQ")
_GET, _SET, _NOOP, _LIST_MECHS, _AUTH = 0x00, 0x01, 0x0A, 0x20, 0x21
_SECONDS = 30

_ROOT = Path(__file__).parents[2]


class Issued(NamedTuple):
    chain_pem: bytes
    key_pem: bytes


def issued(authority: trustme.CA, *names: str) -> Issued:
    leaf = authority.issue_cert(*names)
    chain = b"".join(each.bytes() for each in leaf.cert_chain_pems)
    return Issued(chain, leaf.private_key_pem.bytes())


def request(opcode: int, key: bytes = b"", extras: bytes = b"", value: bytes = b"") -> bytes:
    body = extras + key + value
    return _HEADER.pack(0x80, opcode, len(key), len(extras), 0, 0, len(body), 0, 0) + body


NOOP = request(_NOOP)
SET = request(_SET, b"key", bytes(8), b"value")
GET = request(_GET, b"key")


def plain(user: str, password: str) -> bytes:
    return request(_AUTH, b"PLAIN", value=f"\0{user}\0{password}".encode())


class Client:
    """A blocking connection, for use in a thread."""

    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        self._socket = socket.create_connection(address, timeout=_SECONDS)
        if tls is not None:
            try:
                self._socket = tls.wrap_socket(self._socket, server_hostname="localhost")
            except BaseException:
                self._socket.close()
                raise

    def close(self) -> None:
        self._socket.close()

    def send(self, frame: bytes) -> None:
        self._socket.sendall(frame)

    def silent(self, seconds: float) -> bool:
        """Whether nothing comes for that long."""
        return not select.select([self._socket], [], [], seconds)[0]

    def response(self) -> tuple[int, bytes]:
        """Return the next response's status and value."""
        _, _, keys, extras, _, status, body, _, _ = _HEADER.unpack(self._exactly(_HEADER.size))
        return status, self._exactly(body)[extras + keys :]

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise ConnectionResetError("closed by the server")
            data += more
        return data


def talk(
    address: tuple[str, int], *requests: bytes, tls: ssl.SSLContext | None = None
) -> list[tuple[int, bytes]]:
    """Send each request when the one before is answered; return the statuses and values."""
    client = Client(address, tls)
    try:
        responses = []
        for each in requests:
            client.send(each)
            responses.append(client.response())
        return responses
    finally:
        client.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Remembered(RealMemcached):
    """One that can be looked at although its start failed."""

    start_seconds: ClassVar[float] = 0.3
    made: ClassVar[list[RealMemcached]] = []

    def __init__(self, reactor: object, arguments: Sequence[str]) -> None:
        super().__init__(reactor, arguments)
        self.made.append(self)


class Assertions(TestCase):
    def assert_running(self, server: RealMemcached) -> None:
        os.kill(server.pid, 0)

    def assert_nothing_left(self, server: RealMemcached) -> None:
        self.assertRaises(ProcessLookupError, os.kill, server.pid, 0)
        self.assertFalse(server.folder.exists())


class PlainTests(Assertions, MemcachedTestCase):
    async def test_answers(self) -> None:
        """The server takes connections as soon as it is started, and stores what it is given."""
        responses = await deferToThread(talk, self.memcached.address, SET, GET)
        self.assertEqual(responses, [(0, b""), (0, b"value")])

    async def test_loopback_port_of_its_own(self) -> None:
        """Each server listens on loopback, on a port of its own, not on memcached's usual one."""
        other = await self.start_memcached()
        host, port = self.memcached.address
        self.assertEqual(host, "127.0.0.1")
        self.assertRaises(ConnectionRefusedError, socket.create_connection, ("127.0.0.2", port))
        self.assertEqual(len({11211, port, other.address[1]}), 3)
        await deferToThread(talk, self.memcached.address, SET)
        self.assertEqual((await deferToThread(talk, other.address, GET))[0][0], 1)

    def test_never_root(self) -> None:
        """The server never runs as root, also when the tests do."""
        status = Path(f"/proc/{self.memcached.pid}/status").read_text()
        users = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
        self.assertNotIn("0", users)

    async def test_restart(self) -> None:
        """A restarted server is a new process on the same port, with nothing in its cache."""
        address, pid = self.memcached.address, self.memcached.pid
        client = await deferToThread(Client, address)
        self.addCleanup(client.close)
        client.send(SET)
        self.assertEqual(await deferToThread(client.response), (0, b""))

        await self.memcached.restart()  # with a connection open, which keeps the port busy
        self.assertEqual(self.memcached.address, address)
        self.assertNotEqual(self.memcached.pid, pid)
        self.assertRaises(ProcessLookupError, os.kill, pid, 0)
        await self.assertFailure(deferToThread(client.response), ConnectionResetError)
        (status, _), done = await deferToThread(talk, address, GET, SET)
        self.assertEqual((status, done), (1, (0, b"")))

    async def test_kill(self) -> None:
        """A killed server is gone at once, and its port is refused until it is restarted."""
        pid = self.memcached.pid
        await self.memcached.kill()
        self.assertRaises(ProcessLookupError, os.kill, pid, 0)
        await self.assertFailure(
            deferToThread(talk, self.memcached.address, NOOP), ConnectionRefusedError
        )
        await self.memcached.restart()
        self.assertEqual(await deferToThread(talk, self.memcached.address, NOOP), [(0, b"")])

    async def test_port_stays_reserved(self) -> None:
        """Nobody else gets the port of a server that is down, so that it can come back."""
        await self.memcached.kill()
        with socket.socket() as thief:
            self.assertRaises(OSError, thief.bind, self.memcached.address)

    async def test_pause(self) -> None:
        """A paused server accepts and says nothing; resumed, it answers what was asked."""
        client = await deferToThread(Client, self.memcached.address)
        self.addCleanup(client.close)
        client.send(NOOP)
        self.assertEqual(await deferToThread(client.response), (0, b""))

        self.memcached.pause()
        client.send(NOOP)
        late = await deferToThread(Client, self.memcached.address)
        self.addCleanup(late.close)
        late.send(NOOP)
        self.assertTrue(await deferToThread(client.silent, 0.2))
        self.assertTrue(late.silent(0))

        self.memcached.resume()
        self.assertEqual(await deferToThread(client.response), (0, b""))
        self.assertEqual(await deferToThread(late.response), (0, b""))

    async def test_pause_of_a_dead_server(self) -> None:
        """To pause or resume a server that is down is an error of the test, and says so."""
        await self.memcached.kill()
        self.assertRaises(ProcessExitedAlready, self.memcached.pause)
        self.assertRaises(ProcessExitedAlready, self.memcached.resume)

    async def test_arguments(self) -> None:
        """More of memcached's arguments can be given, and its output can be read."""
        server = await self.start_memcached(arguments=["-vv"])
        await deferToThread(talk, server.address, NOOP)
        await server.kill()
        self.assertIn("client connection", server.output)


class StopTests(Assertions, MemcachedTestCase):
    async def test_nothing_left(self) -> None:
        """A stopped server leaves no process, file, port or descriptor behind."""
        before = descriptors()
        server = await self.start_memcached()
        self.assertTrue(server.folder.exists())
        self.assertGreater(descriptors(), before)
        await server.stop()
        self.assert_nothing_left(server)
        self.assertEqual(descriptors(), before)

    async def test_twice(self) -> None:
        """To stop a server again does nothing."""
        await self.memcached.stop()
        await self.memcached.stop()
        self.assert_nothing_left(self.memcached)

    async def test_paused(self) -> None:
        """A paused server can be stopped."""
        self.memcached.pause()
        await self.memcached.stop()
        self.assert_nothing_left(self.memcached)

    async def test_ended_by_itself(self) -> None:
        """A server that ended by itself can be stopped."""
        os.kill(self.memcached.pid, signal.SIGSEGV)
        await self.memcached.stop()
        self.assert_nothing_left(self.memcached)


class FailedStartTests(Assertions):
    skip = needs_memcached(sasl=True)

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits, unittest does not
        Remembered.made.clear()
        await deferLater(IReactorTime(reactor), 0)  # until it runs, and has its own descriptors
        self.descriptors = descriptors()

    def assert_cleaned_up(self) -> None:
        (server,) = Remembered.made
        if server.pid != 0:
            self.assert_nothing_left(server)
        self.assertFalse(server.folder.exists())
        self.assertEqual(descriptors(), self.descriptors)

    async def test_ends_at_once(self) -> None:
        """A server that ends instead of listening says why, at once."""
        failure = await self.assertFailure(
            Remembered.start(arguments=["--no-such-option"]), MemcachedFailed
        )
        self.assertIn("memcached did not start: A process has ended", str(failure))
        self.assertIn("unrecognized option '--no-such-option'", str(failure))
        self.assert_cleaned_up()

    async def test_never_listens(self) -> None:
        """A server that does not listen in time is ended."""
        unix_socket_instead = ["-s", "socket"]
        failure = await self.assertFailure(
            Remembered.start(arguments=unix_socket_instead), MemcachedFailed
        )
        self.assertIn("did not listen within 0.3 s", str(failure))
        self.assert_cleaned_up()

    async def test_cancelled(self) -> None:
        """A start that is cancelled leaves nothing behind."""
        starting = Remembered.start()
        (server,) = Remembered.made
        self.assert_running(server)
        starting.cancel()
        await self.assertFailure(starting, CancelledError)
        self.assert_cleaned_up()

    async def test_empty_password(self) -> None:
        """What saslpasswd2 does not take is told in its words, without the password."""
        failure = await self.assertFailure(
            Remembered.start(sasl={"alice": "not to be shown", "bob": ""}), MemcachedFailed
        )
        self.assertIn("saslpasswd2 made no user 'bob': saslpasswd2: invalid", str(failure))
        self.assertNotIn("not to be shown", str(failure))
        self.assert_cleaned_up()

    def test_client_certificates_without_tls(self) -> None:
        """Client certificates on a server without TLS are refused before anything is started."""
        self.assertRaises(ValueError, Remembered.start, client_ca_pem=b"a certificate")
        self.assertEqual(Remembered.made, [])


class SASLTests(MemcachedTestCase):
    def memcached_options(self) -> MemcachedOptions:
        return {"sasl": {"alice": "secret", "bob": "ünï ☃"}}

    async def test_must_authenticate(self) -> None:
        """A server with SASL refuses whoever does not authenticate."""
        address = self.memcached.address
        self.assertEqual((await deferToThread(talk, address, NOOP))[0][0], 0x20)

    async def test_users(self) -> None:
        """Each user gets in with the right password, and with no other."""
        address = self.memcached.address
        for user, password, status in (
            ("alice", "secret", 0),
            ("bob", "ünï ☃", 0),
            ("alice", "ünï ☃", 0x20),
            ("carol", "secret", 0x20),
        ):
            (answer,) = await deferToThread(talk, address, plain(user, password))
            self.assertEqual((user, answer[0]), (user, status))
        *_, stored = await deferToThread(talk, address, plain("alice", "secret"), SET, GET)
        self.assertEqual(stored, (0, b"value"))

    async def test_restart_keeps_the_users(self) -> None:
        """The users are still there after a restart."""
        await self.memcached.restart()
        address = self.memcached.address
        _, noop = await deferToThread(talk, address, plain("alice", "secret"), NOOP)
        self.assertEqual(noop, (0, b""))

    async def test_mechanisms(self) -> None:
        """The server offers the mechanisms that were asked for, and no other."""
        for mechanisms in (("plain",), ("cram-md5", "scram-sha-256"), ("scram-sha-256", "plain")):
            server = await self.start_memcached(sasl={"alice": "secret"}, mechanisms=mechanisms)
            ((status, offered),) = await deferToThread(talk, server.address, request(_LIST_MECHS))
            self.assertEqual(status, 0)
            self.assertEqual(set(offered.decode().lower().split()), set(mechanisms))


class TLSTestCase(MemcachedTestCase):
    @cached_property
    def authority(self) -> trustme.CA:
        return trustme.CA()

    def memcached_options(self) -> MemcachedOptions:
        return {"certificate": issued(self.authority, "localhost")}

    def trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


class TLSTests(TLSTestCase):
    async def test_answers(self) -> None:
        """The server speaks TLS and shows the certificate that it was given."""
        address = self.memcached.address
        responses = await deferToThread(talk, address, SET, GET, tls=self.trusting())
        self.assertEqual(responses, [(0, b""), (0, b"value")])

    async def test_other_authority(self) -> None:
        """Who trusts another authority does not accept the certificate."""
        strangers = ssl.create_default_context()
        trustme.CA().configure_trust(strangers)
        await self.assertFailure(
            deferToThread(talk, self.memcached.address, NOOP, tls=strangers),
            ssl.SSLCertVerificationError,
        )

    async def test_plaintext(self) -> None:
        """A client without TLS gets no answer."""
        await self.assertFailure(
            deferToThread(talk, self.memcached.address, NOOP), ConnectionResetError
        )

    async def test_restart_keeps_the_certificate(self) -> None:
        """The certificate is the same after a restart."""
        await self.memcached.restart()
        responses = await deferToThread(talk, self.memcached.address, NOOP, tls=self.trusting())
        self.assertEqual(responses, [(0, b"")])


class SASLOverTLSTests(TLSTestCase):
    def memcached_options(self) -> MemcachedOptions:
        return {**super().memcached_options(), "sasl": {"alice": "secret"}}

    async def test_both(self) -> None:
        """TLS and SASL go together."""
        address, tls = self.memcached.address, self.trusting()
        responses = await deferToThread(talk, address, plain("alice", "secret"), SET, GET, tls=tls)
        self.assertEqual([status for status, _ in responses], [0, 0, 0])
        for requests in ([plain("alice", "wrong")], [NOOP]):
            ((status, _),) = await deferToThread(talk, address, *requests, tls=tls)
            self.assertEqual(status, 0x20)


class ClientCertificateTests(TLSTestCase):
    def memcached_options(self) -> MemcachedOptions:
        return {**super().memcached_options(), "client_ca_pem": self.authority.cert_pem.bytes()}

    async def test_right_one(self) -> None:
        """A client whose certificate has the right authority gets in."""
        context = self.trusting()
        self.authority.issue_cert("client.example").configure_cert(context)
        responses = await deferToThread(talk, self.memcached.address, NOOP, tls=context)
        self.assertEqual(responses, [(0, b"")])

    async def test_none_or_a_stranger(self) -> None:
        """A client without a certificate, or with one from elsewhere, gets no answer."""
        without, stranger = self.trusting(), self.trusting()
        trustme.CA().issue_cert("client.example").configure_cert(stranger)
        for context in (without, stranger):
            await self.assertFailure(
                deferToThread(talk, self.memcached.address, NOOP, tls=context),
                ssl.SSLError,
                ConnectionError,
            )


class TestCaseTests(SynchronousTestCase):
    skip = needs_memcached()

    def run_inner(
        self, body: Callable[[MemcachedTestCase], None]
    ) -> tuple[RealMemcached, TestResult]:
        class Inner(MemcachedTestCase):
            def test_it(self) -> None:
                servers.append(self.memcached)
                os.kill(self.memcached.pid, 0)
                body(self)

        servers: list[RealMemcached] = []
        result = TestResult()
        Inner("test_it").run(result)
        return servers[0], result

    def test_started_and_stopped(self) -> None:
        """A test has its server for as long as it runs."""
        server, result = self.run_inner(lambda test: None)
        self.assertTrue(result.wasSuccessful())
        self.assertRaises(ProcessLookupError, os.kill, server.pid, 0)
        self.assertFalse(server.folder.exists())

    def test_stopped_after_a_failure(self) -> None:
        """A test that fails leaves no server behind."""
        server, result = self.run_inner(lambda test: test.fail("as meant"))
        self.assertEqual(len(result.failures), 1)
        self.assertEqual(result.errors, [])
        self.assertRaises(ProcessLookupError, os.kill, server.pid, 0)
        self.assertFalse(server.folder.exists())


_SCRIPT = """
import sys
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread
from tests.integration.test_fixture import plain, talk
from tests.memcached import RealMemcached

async def main(reactor):
    server = await RealMemcached.start(reactor, sasl={"alice": "open sesame"})
    print(server.pid, flush=True)
    if "stay" in sys.argv:
        await Deferred()
    print(await deferToThread(talk, server.address, plain("alice", "open sesame")))
    await server.stop()

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""


class ProcessTests(SynchronousTestCase):
    skip = needs_memcached(sasl=True)

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir(parents=True, mode=0o700)

    def spawn(self, *arguments: str, path: str = "") -> subprocess.Popen[bytes]:
        """Start a process of its own that uses the fixture, with its files in `folder`."""
        python = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, *arguments],
            cwd=_ROOT,
            env={**os.environ, "TMPDIR": str(self.folder), "PATH": path + os.environ["PATH"]},
            stdout=subprocess.PIPE,
        )
        self.addCleanup(python.communicate)
        self.addCleanup(python.kill)
        return python

    def test_private_temporary_folder(self) -> None:
        """The temporary folder may be one that only the user can enter, who may be root."""
        python = self.spawn()
        out, _ = python.communicate(timeout=_SECONDS)
        self.assertIn(b"[(0, b'Authenticated')]", out)
        self.assertEqual(python.returncode, 0)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_password_in_no_command(self) -> None:
        """saslpasswd2 finds the password in no argument, which anybody could read."""
        programs, seen = self.folder / "programs", self.folder / "seen"
        programs.mkdir()
        real = shutil.which("saslpasswd2", path=f"{os.environ['PATH']}:/usr/sbin")
        spy = programs / "saslpasswd2"
        spy.write_text(f'#!/bin/sh\necho "$@" >> {seen}\nenv >> {seen}\nexec {real} "$@"\n')
        spy.chmod(0o755)
        python = self.spawn(path=f"{programs}:")
        out, _ = python.communicate(timeout=_SECONDS)
        self.assertIn(b"[(0, b'Authenticated')]", out)
        text = seen.read_text()
        self.assertIn(" -a memcached ", text)
        self.assertNotIn("open sesame", text)

    def test_killed_test_run(self) -> None:
        """The server dies with the test run, also when that is killed without warning."""
        python = self.spawn("stay")
        assert python.stdout is not None
        memcached = os.pidfd_open(int(python.stdout.readline()))
        self.addCleanup(os.close, memcached)
        ended = select.poll()
        ended.register(memcached, select.POLLIN)
        self.assertEqual(ended.poll(0), [])
        python.kill()
        self.assertEqual(len(ended.poll(_SECONDS * 1000)), 1)


class NeedsMemcachedTests(SynchronousTestCase):
    """With stand-ins for the programs, in a folder that is all of the search path."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir(parents=True)

    def _program(self, name: str, says: str = "") -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)

    def _reason(self, *, sasl: bool = False, tls: bool = False) -> str | None:
        return needs_memcached(sasl=sasl, tls=tls, path=str(self.folder))

    def test_no_memcached(self) -> None:
        """Without memcached the reason says how to get it."""
        self.assertIn("apt-get install memcached", self._reason() or "")

    def test_built_without(self) -> None:
        """A memcached without TLS or SASL will do for tests that want neither."""
        self._program("memcached", "-p, --port=<num>")
        self.assertIsNone(self._reason())
        self.assertIn("built without TLS", self._reason(tls=True) or "")
        self.assertIn("built without SASL", self._reason(sasl=True) or "")

    def test_sasl_incomplete(self) -> None:
        """SASL needs the program that makes users, and the plugins for all mechanisms."""
        self._program("memcached", "-S, --enable-sasl -Z, --enable-ssl")
        self.assertIsNone(self._reason(tls=True))
        self.assertIn("sasl2-bin", self._reason(sasl=True) or "")
        self._program("saslpasswd2")
        self._program("saslpluginviewer", "SASL mechanism: PLAIN, best SSF: 0")
        reason = self._reason(sasl=True) or ""
        self.assertIn("CRAM-MD5, SCRAM-SHA-256 (apt-get install libsasl2-modules)", reason)

    def test_all_there(self) -> None:
        """When all is there, there is no reason to skip."""
        self._program("memcached", "-S, --enable-sasl -Z, --enable-ssl")
        self._program("saslpasswd2")
        listed = ("SCRAM-SHA-256", "CRAM-MD5", "PLAIN")
        self._program("saslpluginviewer", "\n".join(f"SASL mechanism: {each}," for each in listed))
        self.assertIsNone(self._reason(sasl=True, tls=True))
