"""
A real memcached for trial tests: a process of its own, on a loopback port of its own.

The port is reserved for as long as the fixture lives: a socket that is bound, has SO_REUSEADDR and
never listens.  Linux then gives the port to nobody who asks for any free one, as listener or as
the near end of a connection, while memcached, which has SO_REUSEADDR too, may listen there.  So
neither a start nor a restart races with other processes, a dead server's port stays refused, and
a client that keeps dialling it can not reach itself.

All file names that the process gets are relative to its working folder: when it runs as another
user than root it need not be able to walk down to the temporary folder, and nothing in a
folder's name can break memcached's comma lists.
"""

from __future__ import annotations

import functools
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Protocol, Self, TypedDict, Unpack

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IProcessTransport, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase

_HOST = "127.0.0.1"
_POLL_SECONDS = 0.002
_KEPT_OUTPUT = 16384

#: Where Debian has saslpasswd2, which is not on everybody's PATH.
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_SEARCH_PATH = f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"

_MECHANISMS = frozenset({"PLAIN", "CRAM-MD5", "SCRAM-SHA-256"})


class Certificate(Protocol):
    """A certificate with its private key, as `txtlsmc.testing.Authority` issues it."""

    @property
    def chain_pem(self) -> bytes:
        """The certificate, and those that lead to the root."""

    @property
    def key_pem(self) -> bytes:
        """The private key, not encrypted."""


class MemcachedOptions(TypedDict, total=False):
    """What `RealMemcached.start` takes by name."""

    sasl: Mapping[str, str] | None
    mechanisms: Sequence[str]
    certificate: Certificate | None
    client_ca_pem: bytes | None
    arguments: Sequence[str]


class MemcachedFailed(RuntimeError):
    """The process could not be started; the text holds what it said."""


def needs_memcached(
    *, sasl: bool = False, tls: bool = False, path: str = _SEARCH_PATH
) -> str | None:
    """
    Return the reason why a test that needs a real memcached must be skipped.

    What a program says about itself is asked once for each process.

    Args:
        sasl: the test needs SASL, with any of PLAIN, CRAM-MD5 and SCRAM-SHA-256.
        tls: the test needs TLS.
        path: where the programs are looked for.

    Returns:
        A sentence for people, or None when all is there.
    """
    memcached = shutil.which("memcached", path=path)
    if memcached is None:
        return "memcached is not installed (apt-get install memcached)"
    if tls and "--enable-ssl" not in _output(memcached, "-h"):
        return f"{memcached} is built without TLS"
    if not sasl:
        return None
    if "--enable-sasl" not in _output(memcached, "-h"):
        return f"{memcached} is built without SASL"
    if shutil.which("saslpasswd2", path=path) is None:
        return "saslpasswd2 is not installed (apt-get install sasl2-bin)"
    # Debian's name, then upstream's.  It is part of what has saslpasswd2; where a distribution
    # left it out, the tests themselves find out whether the mechanisms are there.
    viewer = shutil.which("saslpluginviewer", path=path) or shutil.which("pluginviewer", path=path)
    if viewer is None:
        return None
    missing = _MECHANISMS.difference(re.findall(r"SASL mechanism: ([\w-]+)", _output(viewer, "-s")))
    if missing:
        listed = ", ".join(sorted(missing))
        return f"Cyrus SASL has no plugin for {listed} (apt-get install libsasl2-modules)"
    return None


@functools.cache
def _output(*command: str) -> str:
    """Return what *command* writes, asked once."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.stdout.decode("utf-8", "replace")


def _program(name: str) -> str:
    """Return the path of a program that must be there."""
    found = shutil.which(name, path=_SEARCH_PATH)
    if found is None:
        raise MemcachedFailed(f"{name} is not installed: ask needs_memcached() first")
    return found


@functools.cache
def _launch_command() -> tuple[str, ...]:
    """
    Return memcached's path, behind what makes it die with us and drops the rights of root.

    setpriv drops the rights, not memcached's own ``-u``: the kernel forgets the signal for a
    parent's death when a process changes its user, and setpriv asks for it after that change.
    Where there is no setpriv that can do it, memcached outlives a test run that is killed.
    """
    memcached = _program("memcached")
    nobody = _nobody()
    setpriv = shutil.which("setpriv", path=_SEARCH_PATH)
    if setpriv is not None:
        user = [f"--reuid={nobody[0]}", f"--regid={nobody[1]}", "--clear-groups"] if nobody else []
        command = (setpriv, *user, "--pdeathsig", "KILL", memcached)
        # Busybox has a setpriv that knows less; only trying tells.
        if _output(*command, "-V").startswith("memcached "):
            return command
    return (memcached, "-u", "nobody") if nobody else (memcached,)


def _nobody() -> tuple[int, int] | None:
    """Return the user and group that memcached is to run as, or None for ours."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


class _Child(ProcessProtocol):
    """A child process: what it wrote last, and when it has ended."""

    transport: IProcessTransport  # for as long as we look at it

    def __init__(self, stdin: bytes = b"") -> None:
        self._stdin, self._output = stdin, bytearray()
        self._waiting: list[Deferred[None]] = []
        self.pid = 0
        self.ended: Failure | None = None

    def connectionMade(self) -> None:
        """Hand over what goes to standard input, and close it."""
        self.pid = self.transport.pid
        self.transport.write(self._stdin)
        self.transport.closeStdin()

    def childDataReceived(self, child_fd: int, data: bytes) -> None:
        """Keep the end of both outputs."""
        self._output += data
        del self._output[:-_KEPT_OUTPUT]

    def processEnded(self, reason: Failure) -> None:
        """Tell those who wait."""
        self.ended = reason
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    @property
    def output(self) -> str:
        """The end of what it wrote."""
        return self._output.decode("utf-8", "backslashreplace").strip()

    def gone(self) -> Deferred[None]:
        """Return a Deferred that fires when the process has ended and is reaped."""
        if self.pid == 0 or self.ended is not None:
            return succeed(None)
        waiter: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        return waiter

    def kill(self) -> Deferred[None]:
        """End the process, if there is one, and return when it is gone."""
        if self.pid != 0:
            with suppress(ProcessExitedAlready):
                self.transport.signalProcess(signal.SIGKILL)
        return self.gone()


class RealMemcached:
    """
    A memcached process of its own, on a free loopback port.

    Attributes:
        address: the host and port it listens on.
        folder: where its files are, and its working folder; gone after `stop`.
        start_seconds: how long a start may take before it fails.
    """

    start_seconds: ClassVar[float] = 60.0

    def __init__(self, reactor: object, arguments: Sequence[str]) -> None:
        """Reserve a port and a folder; `start` does the rest."""
        self._reactor, self._arguments = reactor, tuple(arguments)
        self._child = _Child()
        self.folder = Path(tempfile.mkdtemp(prefix="txtlsmc-memcached-"))
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind((_HOST, 0))
        self.address: tuple[str, int] = self._reserved.getsockname()

    @classmethod
    def start(
        cls,
        reactor: object | None = None,
        *,
        sasl: Mapping[str, str] | None = None,
        mechanisms: Sequence[str] = ("plain",),
        certificate: Certificate | None = None,
        client_ca_pem: bytes | None = None,
        arguments: Sequence[str] = (),
    ) -> Deferred[Self]:
        """
        Start a server.

        Args:
            reactor: the one that runs the process; without it the global one.
            sasl: the users and their passwords, which are not empty and do not end with a newline
                (saslpasswd2 drops it); None is a server without SASL.
            mechanisms: the SASL mechanisms it offers, in Cyrus' spelling.
            certificate: the server's; None is a server without TLS.
            client_ca_pem: who must have signed the clients' certificates; None asks for none.
            arguments: more of memcached's own, behind ours.

        Returns:
            A Deferred that fires with the server once it listens.  Cancelling it ends the process.

        Raises:
            ValueError: client certificates were asked for on a server without TLS.

        Fails:
            MemcachedFailed: it ended at once, or did not listen in time; nothing is left of it.
        """
        if client_ca_pem is not None and certificate is None:
            raise ValueError("client certificates need TLS: give the server a certificate as well")
        if reactor is None:
            from twisted.internet import reactor  # to import it is to install it: not above
        server = cls(reactor, arguments)
        return Deferred.fromCoroutine(
            server._start(sasl, mechanisms, certificate, client_ca_pem),
        )

    @property
    def pid(self) -> int:
        """The number of the process, or of the last one when it is down."""
        return self._child.pid

    @property
    def output(self) -> str:
        """The end of what the process wrote, on both outputs."""
        return self._child.output

    def kill(self) -> Deferred[None]:
        """
        End the process with SIGKILL; the port stays reserved for `restart`.

        Returns:
            A Deferred that fires when the process is gone: from then on the port is refused.
        """
        return self._child.kill()

    def restart(self) -> Deferred[None]:
        """
        Start a new process on the same port, with the same files and nothing in its cache.

        Returns:
            A Deferred that fires when it listens; a process that is still there is killed first.

        Fails:
            MemcachedFailed: as with `start`, but the fixture is still to be stopped.
        """
        return Deferred.fromCoroutine(self._restart())

    def pause(self) -> None:
        """
        Freeze the process (SIGSTOP): the kernel goes on accepting, and nobody answers.

        Raises:
            ProcessExitedAlready: it is down.
        """
        self._child.transport.signalProcess(signal.SIGSTOP)
        # The signal works some time after it was sent.  WNOWAIT: to reap is the reactor's.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """
        Let the process go on (SIGCONT).

        Raises:
            ProcessExitedAlready: it is down.
        """
        self._child.transport.signalProcess(signal.SIGCONT)

    def stop(self) -> Deferred[None]:
        """
        End the process, in whatever state it is, and leave nothing behind.

        Returns:
            A Deferred that fires when process, folder and port are gone; again, it fires at once.
        """
        return self.kill().addCallback(lambda _: self._clean())

    async def _start(
        self,
        sasl: Mapping[str, str] | None,
        mechanisms: Iterable[str],
        certificate: Certificate | None,
        client_ca_pem: bytes | None,
    ) -> Self:
        try:
            ours = ["-l", _HOST, "-p", str(self.address[1]), "-U", "0", "-t", "1"]
            if sasl is not None:
                await self._write_sasl(sasl, mechanisms)
                ours.append("-S")
            if certificate is not None:
                ours += ["-Z", "-o", self._write_certificates(certificate, client_ca_pem)]
            self._arguments = (*ours, *self._arguments)
            self._hand_over_folder()
            await self._launch()
        except Exception:
            await self.stop()
            raise
        return self

    async def _restart(self) -> None:
        await self.kill()
        await self._launch()

    async def _write_sasl(self, users: Mapping[str, str], mechanisms: Iterable[str]) -> None:
        listed = " ".join(mechanisms)
        conf = f"mech_list: {listed}\nsasldb_path: ./sasldb2\n"
        (self.folder / "memcached.conf").write_text(conf)
        for user, password in users.items():
            # memcached takes a user name without a realm for one of the machine's name.
            command = [_program("saslpasswd2"), "-p", "-c", "-a", "memcached", "-f", "./sasldb2"]
            child = _Child(password.encode())
            self._spawn(child, [*command, "-u", socket.gethostname(), "--", user])
            await child.gone()
            if child.ended is None or not child.ended.check(ProcessDone):
                raise MemcachedFailed(f"saslpasswd2 made no user {user!r}: {child.output}")

    def _write_certificates(self, server: Certificate, client_ca_pem: bytes | None) -> str:
        (self.folder / "chain.pem").write_bytes(server.chain_pem)
        (self.folder / "key.pem").write_bytes(server.key_pem)
        option = "ssl_chain_cert=chain.pem,ssl_key=key.pem"
        if client_ca_pem is not None:
            (self.folder / "clients.pem").write_bytes(client_ca_pem)
            option += ",ssl_ca_cert=clients.pem,ssl_verify_mode=2"  # 2: no handshake without one
        return option

    def _hand_over_folder(self) -> None:
        # The folder has mode 0700; its owner must be who reads the files and writes "listening".
        nobody = _nobody()
        if nobody is not None:
            for each in (self.folder, *self.folder.iterdir()):
                os.chown(each, *nobody)

    async def _launch(self) -> None:
        # memcached writes this file once it listens: surer than dialling, and no connection is
        # left for it to count.
        listening = self.folder / "listening"
        listening.unlink(missing_ok=True)
        child = self._child = _Child()
        self._spawn(child, [*_launch_command(), *self._arguments])
        deadline = time.monotonic() + self.start_seconds
        while not listening.exists():
            if child.ended is not None:
                why = child.ended.getErrorMessage()
                raise MemcachedFailed(f"memcached did not start: {why} It said: {child.output}")
            if time.monotonic() > deadline:
                await self.kill()
                within = f"within {self.start_seconds:g} s"
                raise MemcachedFailed(f"memcached did not listen {within}. It said: {child.output}")
            await deferLater(IReactorTime(self._reactor), _POLL_SECONDS)

    def _spawn(self, child: _Child, command: Sequence[str]) -> None:
        environment = os.environ | {"SASL_CONF_PATH": ".", "MEMCACHED_PORT_FILENAME": "listening"}
        IReactorProcess(self._reactor).spawnProcess(
            child, command[0], command, env=environment, path=str(self.folder)
        )

    def _clean(self) -> None:
        self._reserved.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class MemcachedTestCase(TestCase):
    """
    A test case with a real memcached for each test; skipped where it can not be started.

    Attributes:
        memcached: the server; whoever overrides `setUp` calls ours first, and waits for it.
    """

    memcached: RealMemcached

    def memcached_options(self) -> MemcachedOptions:
        """Return what the server is started with: override it for SASL, TLS and the rest."""
        return {}

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits, unittest does not
        """Start the server; it is stopped when the test is over."""
        return Deferred.fromCoroutine(self._start())

    def start_memcached(self, **options: Unpack[MemcachedOptions]) -> Deferred[RealMemcached]:
        """
        Start one more server, which is stopped when the test is over.

        Raises:
            SkipTest: memcached, or what the options need, is not there.
        """
        reason = needs_memcached(
            sasl=options.get("sasl") is not None, tls=options.get("certificate") is not None
        )
        if reason is not None:
            raise SkipTest(reason)

        def started(server: RealMemcached) -> RealMemcached:
            self.addCleanup(server.stop)
            return server

        return RealMemcached.start(**options).addCallback(started)

    async def _start(self) -> None:
        self.memcached = await self.start_memcached(**self.memcached_options())
