"""Connecting to a real memcached, in all the ways that it can be set up."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from twisted.application.internet import ClientService
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater

from tests.memcached import MemcachedOptions, MemcachedTestCase, RealMemcached
from tests.secrecy import USER, Witness, credentials, password, wrong_credentials
from txtlsmc.errors import (
    CertificateError,
    CertificateExpired,
    CertificateNotYetValid,
    CertificateUntrusted,
    CertificateWrongHost,
    ClientCertificateRefused,
    ConnectFailed,
    ConnectionClosed,
    ConnectRefused,
    ConnectTimedOut,
    CredentialsRefused,
    CredentialsRequired,
    InsecurePassword,
    MechanismNotOffered,
    MemcacheError,
    PinMismatch,
    PlaintextServer,
    SASLUnavailable,
    TLSFailed,
    TLSVersionRefused,
)
from txtlsmc.net.endpoints import ReadyEndpoint, connect
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.settings import MECHANISMS, TLS, Credentials, InsecurePlaintext, Limits, Server
from txtlsmc.testing.authority import Authority
from txtlsmc.testing.issued import IssuedCertificate

NOW = datetime.now(UTC).replace(microsecond=0)
PLAINTEXT = InsecurePlaintext()
PLAIN, CRAM, SCRAM = MECHANISMS

#: No test is about these running out, unless it says so.
PATIENT = Limits(timeout=60, connect_timeout=60)


@cache
def authority() -> Authority:
    return Authority()


@cache
def stranger() -> Authority:
    return Authority("somebody else")


@cache
def localhost() -> IssuedCertificate:
    return authority().issue("localhost")


def next_turn() -> Deferred[None]:
    """Return a Deferred for when nothing calls us any more: a service must not be called back."""
    return deferLater(IReactorTime(reactor), 0)


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until the answer is yes; the test's timeout bounds it."""
    while not await check():
        await deferLater(IReactorTime(reactor), 0.02)


class RealTestCase(MemcachedTestCase):
    """
    A real memcached and a way to it: plain, unless a subclass says otherwise.

    Attributes:
        sasl: whether the server has SASL, with all mechanisms.
        tls: whether it has TLS.
        arguments: more of memcached's own.
    """

    timeout = 120
    sasl: ClassVar[bool] = False
    tls: ClassVar[bool] = False
    arguments: ClassVar[tuple[str, ...]] = ()

    def memcached_options(self) -> MemcachedOptions:
        options: MemcachedOptions = {"arguments": self.arguments}
        if self.sasl:
            options["sasl"] = {USER: password()}
            options["mechanisms"] = [name.lower() for name in MECHANISMS]
        if self.tls:
            options["certificate"] = localhost()
        return options

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits, unittest does not
        self.witness = Witness(self)
        return super().setUp()

    def server(self, memcached: RealMemcached | None = None, name: str = "localhost") -> Server:
        """Return the server under a name that its certificate has."""
        host, port = (memcached or self.memcached).address
        return Server(f"{name}:{port}", address=f"{host}:{port}")

    def trusting(self, **more: Any) -> TLS:
        return TLS(ca=authority().pem, **more)

    def dial(
        self,
        credentials: Credentials | None = None,
        *,
        tls: TLS | InsecurePlaintext | None = None,
        memcached: RealMemcached | None = None,
        name: str = "localhost",
        limits: Limits = PATIENT,
    ) -> Deferred[MemcacheProtocol]:
        """Connect, by the right TLS and without credentials unless it is told otherwise."""
        return connect(
            IReactorTime(reactor),
            self.server(memcached, name),
            tls=tls or (self.trusting() if self.tls else PLAINTEXT),
            credentials=credentials,
            limits=limits,
        )

    async def connected(self, *arguments: Any, **options: Any) -> MemcacheProtocol:
        """Connect as `dial` does, until the test is over."""
        protocol = await self.dial(*arguments, **options)
        self.addCleanup(protocol.close)
        return protocol

    def own_credentials(self) -> Credentials | None:
        """Return what opens the server."""
        return credentials(insecure=not self.tls) if self.sasl else None

    async def at_home(self) -> MemcacheProtocol:
        """Connect as one should."""
        return await self.connected(self.own_credentials())

    async def assert_fails(
        self, connecting: Deferred[MemcacheProtocol], kind: type[MemcacheError], *words: str
    ) -> MemcacheError:
        try:
            await connecting
        except MemcacheError as error:
            self.witness.examine(error)
            self.assertIs(type(error), kind, error)
            for word in words:
                self.assertIn(word, str(error))
            return error
        return self.fail(f"no {kind.__name__}")

    async def assert_alone(self, protocol: MemcacheProtocol, logins: int = 0) -> None:
        """All connections but *protocol* are gone, and there were so many attempts to log in."""

        async def alone() -> bool:
            return (await protocol.stats())[b"curr_connections"] == b"1"

        await until(alone)
        self.assertEqual(int((await protocol.stats())[b"auth_cmds"]), logins)


class PlainTests(RealTestCase):
    async def test_ready(self) -> None:
        """A plain server is ready, and does what it is asked for."""
        protocol = await self.at_home()
        self.assertIs(await protocol.set("key", b"value"), True)
        item = await protocol.get("key")
        assert item is not None
        self.assertEqual(item.value, b"value")
        await self.assert_alone(protocol)

    async def test_no_sasl(self) -> None:
        """With credentials a server without SASL is refused, whatever the mechanism."""
        for mechanism in MECHANISMS:
            await self.assert_fails(
                self.dial(credentials(mechanism, insecure=True)), SASLUnavailable, "memcached -S"
            )
        await self.assert_alone(await self.at_home())

    async def test_password(self) -> None:
        """A password for a connection without TLS is refused before there is any connection."""
        protocol = await self.at_home()
        before = (await protocol.stats())[b"total_connections"]
        for mechanism in MECHANISMS:
            with self.assertRaises(InsecurePassword) as caught:
                self.dial(credentials(mechanism))
            self.witness.examine(caught.exception)
        await next_turn()
        self.assertEqual((await protocol.stats())[b"total_connections"], before)

    async def test_no_tls(self) -> None:
        """A plain port is told apart from all other trouble with TLS."""
        for given in (None, credentials()):
            await self.assert_fails(
                self.dial(given, tls=self.trusting()), PlaintextServer, "a plaintext port?"
            )
        await self.assert_alone(await self.at_home())

    async def test_cancel(self) -> None:
        """A cancelled attempt leaves no connection at the server, whenever it is cancelled."""
        protocol = await self.at_home()
        for turns in range(8):
            connecting = self.dial()
            for _ in range(turns):
                await next_turn()
            if not connecting.called:
                connecting.cancel()
                await self.assertFailure(connecting, CancelledError)
            else:
                await (await connecting).close()
        await self.assert_alone(protocol)

    async def test_down(self) -> None:
        """A server that is down is refused at once; when it is up again, it is ready."""
        await self.memcached.kill()
        await self.assert_fails(self.dial(), ConnectRefused, "nobody listens on 127.0.0.1")
        await self.memcached.restart()
        self.assertIs(await (await self.at_home()).noop(), True)

    async def test_frozen(self) -> None:
        """A server that accepts and does not answer is given up on time."""
        protocol = await self.at_home()
        self.memcached.pause()
        limits = Limits(connect_timeout=0.3)
        await self.assert_fails(
            self.dial(limits=limits), ConnectTimedOut, "not ready within 0.3 s: no answer"
        )
        self.memcached.resume()
        await self.assert_alone(protocol)

    async def test_dies(self) -> None:
        """A server that dies while it is awaited makes the attempt fail at once."""
        self.memcached.pause()
        connecting = self.dial()
        for _ in range(100):  # so that the connection is there, not that it matters
            await next_turn()
        await self.memcached.kill()
        await self.assert_fails(connecting, ConnectFailed, "closed the connection before it was")

    async def test_dies_later(self) -> None:
        """A request that is pending when the server dies may have been seen by it."""
        protocol = await self.at_home()
        self.memcached.pause()
        pending = protocol.get("key")
        await self.memcached.kill()
        with self.assertRaises(ConnectionClosed) as caught:
            await pending
        self.assertIs(caught.exception.sent, True)


class SASLTests(RealTestCase):
    sasl = True

    async def test_ready(self) -> None:
        """Each mechanism opens the server, where it is allowed to travel in the clear."""
        for mechanism in MECHANISMS:
            protocol = await self.connected(credentials(mechanism, insecure=True))
            self.assertIs(await protocol.set("key", b"value"), True)

    async def test_password(self) -> None:
        """Where it is not allowed no connection is even made."""
        for mechanism in MECHANISMS:
            with self.assertRaises(InsecurePassword) as caught:
                self.dial(credentials(mechanism))
            self.witness.examine(caught.exception)
        await self.assert_alone(await self.at_home(), logins=1)

    async def test_wrong_password(self) -> None:
        """A wrong password is refused by each mechanism, and the connection is closed."""
        for mechanism in MECHANISMS:
            given = wrong_credentials(mechanism, insecure=True)
            await self.assert_fails(self.dial(given), CredentialsRefused, "password", mechanism)
        protocol = await self.at_home()
        self.assertEqual((await protocol.stats())[b"auth_errors"], b"3")
        await self.assert_alone(protocol, logins=4)

    async def test_unknown_user(self) -> None:
        """So is a user that the server does not know."""
        for mechanism in MECHANISMS:
            given = Credentials("bob", password(), mechanism, insecure_password=True)
            await self.assert_fails(self.dial(given), CredentialsRefused, "user name", mechanism)

    async def test_no_credentials(self) -> None:
        """Who has no credentials is told that they are wanted."""
        await self.assert_fails(self.dial(), CredentialsRequired, "user name and a password")
        await self.assert_alone(await self.at_home(), logins=1)

    async def test_other_mechanism(self) -> None:
        """A mechanism that the server does not offer is told apart from a wrong password."""
        plain_only = await self.start_memcached(sasl={USER: password()}, mechanisms=["plain"])
        for mechanism in (CRAM, SCRAM):
            given = credentials(mechanism, insecure=True)
            error = await self.assert_fails(
                self.dial(given, memcached=plain_only), MechanismNotOffered, mechanism, "but PLAIN"
            )
            assert isinstance(error, MechanismNotOffered)
            self.assertEqual(error.offered, (PLAIN,))


class TLSTests(RealTestCase):
    tls = True

    async def test_ready(self) -> None:
        """A server with TLS is ready when it is verified, by TLS 1.3 where that is asked for."""
        for version in ("1.2", "1.3"):
            protocol = await self.connected(tls=self.trusting(minimum_version=version))
            self.assertIs(await protocol.set("key", b"value"), True)
        pinned = self.trusting(pins=(localhost().pin,))
        self.assertIs(await (await self.connected(tls=pinned)).noop(), True)

    async def test_no_sasl(self) -> None:
        """With credentials a server without SASL is refused, over TLS too."""
        for mechanism in MECHANISMS:
            await self.assert_fails(self.dial(credentials(mechanism)), SASLUnavailable)
        await self.assert_alone(await self.at_home())

    async def test_no_tls(self) -> None:
        """Who does not speak TLS is cut off by the server, and told."""
        await self.assert_fails(
            self.dial(tls=PLAINTEXT), ConnectFailed, "closed the connection before it was ready"
        )

    async def test_frozen(self) -> None:
        """A server that accepts and never shakes hands is given up on time."""
        protocol = await self.at_home()
        self.memcached.pause()
        limits = Limits(connect_timeout=0.3)
        await self.assert_fails(
            self.dial(limits=limits), ConnectTimedOut, "the TLS handshake is not finished"
        )
        self.memcached.resume()
        await self.assert_alone(protocol)

    async def test_dies(self) -> None:
        """A server that dies in the middle of the handshake makes the attempt fail at once."""
        self.memcached.pause()
        connecting = self.dial()
        for _ in range(100):
            await next_turn()
        await self.memcached.kill()
        await self.assert_fails(connecting, TLSFailed, "closed during the TLS handshake")


class SecureTests(RealTestCase):
    sasl = tls = True

    async def test_ready(self) -> None:
        """Each mechanism opens the server over TLS, without another word."""
        for mechanism in MECHANISMS:
            protocol = await self.connected(credentials(mechanism))
            self.assertIs(await protocol.set("key", b"value"), True)

    async def test_wrong_password(self) -> None:
        """A wrong password is refused by each mechanism, and the connection is closed."""
        for mechanism in MECHANISMS:
            await self.assert_fails(
                self.dial(wrong_credentials(mechanism)), CredentialsRefused, mechanism
            )
        await self.assert_alone(await self.at_home(), logins=4)

    async def test_no_credentials(self) -> None:
        """Who has no credentials is told that they are wanted."""
        await self.assert_fails(self.dial(), CredentialsRequired, "user name and a password")

    async def test_not_verified(self) -> None:
        """A password goes to nobody who was not verified, unless one insists."""
        unverified = TLS(insecure_no_verify=True)
        with self.assertRaises(InsecurePassword) as caught:
            self.dial(credentials(), tls=unverified)
        self.witness.examine(caught.exception)
        insisting = await self.connected(credentials(insecure=True), tls=unverified)
        await self.assert_alone(insisting, logins=1)

    async def test_verification(self) -> None:
        """Whatever is wrong with the certificate, the server never sees an attempt to log in."""
        wrong_pin = self.trusting(pins=(stranger().issue().pin,))
        cases: tuple[tuple[type[CertificateError], dict[str, Any], str], ...] = (
            (CertificateUntrusted, {"tls": TLS(ca=stranger().pem)}, "set ca"),
            (CertificateUntrusted, {"tls": TLS()}, "set ca"),
            (CertificateWrongHost, {"name": "127.0.0.1"}, "is for localhost, and not for 127.0"),
            (CertificateWrongHost, {"name": "mc1.example"}, "is for localhost, and not for mc1"),
            (PinMismatch, {"tls": wrong_pin}, localhost().pin),
        )
        for kind, options, words in cases:
            for mechanism in MECHANISMS:
                error = await self.assert_fails(
                    self.dial(credentials(mechanism), **options), kind, words
                )
                assert isinstance(error, CertificateError)
                self.assertEqual(error.names, ("localhost",))
        await self.assert_alone(await self.at_home(), logins=1)

    async def test_dates(self) -> None:
        """A certificate out of its time is refused, with the date, before any login."""
        end, start = NOW - timedelta(days=3), NOW + timedelta(days=3)
        for issued, kind, moment in (
            (authority().issue("localhost", not_after=end), CertificateExpired, end),
            (authority().issue("localhost", not_before=start), CertificateNotYetValid, start),
        ):
            memcached = await self.start_memcached(sasl={USER: password()}, certificate=issued)
            dialled = self.dial(credentials(), memcached=memcached)
            await self.assert_fails(dialled, kind, f"{moment:%Y-%m-%dT%H:%M:%SZ}")
            careless = await self.connected(
                credentials(insecure=True), tls=TLS(insecure_no_verify=True), memcached=memcached
            )
            await self.assert_alone(careless, logins=1)

    async def test_service(self) -> None:
        """A service comes back when its server does, and does not wait longer each time."""
        attempts: list[int] = []

        def soon(attempt: int) -> float:
            attempts.append(attempt)
            return 0.01

        endpoint = ReadyEndpoint(
            IReactorTime(reactor),
            self.server(),
            tls=self.trusting(),
            credentials=credentials(SCRAM),
            limits=PATIENT,
        )
        factory = Factory.forProtocol(lambda: MemcacheProtocol(IReactorTime(reactor)))
        service = ClientService(endpoint, factory, soon, reactor)
        service.startService()
        for _ in range(2):
            protocol = await service.whenConnected()
            self.assertIsInstance(protocol, MemcacheProtocol)
            assert isinstance(protocol, MemcacheProtocol)
            self.assertIs(await protocol.set("key", b"value"), True)
            attempts.clear()
            await self.memcached.kill()
            await protocol.close()  # the loss is noticed now
            await next_turn()
            with self.assertRaises(ConnectRefused):
                await service.whenConnected(failAfterFailures=3)
            self.assertEqual(attempts, list(range(1, len(attempts) + 1)))
            await next_turn()
            await self.memcached.restart()
        await service.whenConnected()
        await next_turn()
        await service.stopService()

    async def test_service_backs_off(self) -> None:
        """A service that is refused counts its attempts, whether by TLS or by SASL."""
        cases: tuple[tuple[type[MemcacheError], TLS, Credentials], ...] = (
            (CertificateUntrusted, TLS(ca=stranger().pem), credentials()),
            (CredentialsRefused, self.trusting(), wrong_credentials()),
        )
        for kind, tls, given in cases:
            attempts: list[int] = []

            def soon(attempt: int, attempts: list[int] = attempts) -> float:
                attempts.append(attempt)
                return 0.01

            endpoint = ReadyEndpoint(
                IReactorTime(reactor), self.server(), tls=tls, credentials=given, limits=PATIENT
            )
            service = ClientService(endpoint, Factory(), soon, reactor)
            service.startService()
            try:
                await service.whenConnected(failAfterFailures=4)
            except MemcacheError as error:
                self.witness.examine(error)
                self.assertIs(type(error), kind, error)
            await next_turn()
            await service.stopService()
            self.assertGreaterEqual(len(attempts), 3)
            self.assertEqual(attempts, list(range(1, len(attempts) + 1)))


class MutualTests(RealTestCase):
    """The server wants to see a client certificate of our authority."""

    sasl = tls = True

    def memcached_options(self) -> MemcachedOptions:
        options = super().memcached_options()
        options["client_ca_pem"] = authority().pem
        return options

    async def assert_mutual(self) -> None:
        ours = self.trusting(client_certificate=authority().client().pem)
        for given in (None, credentials()):
            for tls, words in (
                (self.trusting(), "wants a client certificate"),
                (
                    self.trusting(client_certificate=stranger().client().pem),
                    "does not accept our client certificate",
                ),
            ):
                await self.assert_fails(self.dial(given, tls=tls), ClientCertificateRefused, words)
        await self.assert_fails(self.dial(tls=ours), CredentialsRequired)
        await self.assert_fails(self.dial(wrong_credentials(), tls=ours), CredentialsRefused)
        protocol = await self.connected(credentials(), tls=ours)
        self.assertIs(await protocol.noop(), True)
        await self.assert_alone(protocol, logins=2)

    async def test_client_certificate(self) -> None:
        """The right certificate opens it, another one or none is refused before any login."""
        await self.assert_mutual()


class OldMutualTests(MutualTests):
    """The same with a server that speaks TLS 1.2, which refuses within the handshake."""

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits, unittest does not
        # memcached has no setting for this, but its OpenSSL has.
        folder = Path(tempfile.mkdtemp(prefix="txtlsmc-openssl-"))
        self.addCleanup(shutil.rmtree, folder)
        folder.chmod(0o755)  # it runs as another user
        file = folder / "openssl.cnf"
        file.write_text(
            "openssl_conf = init\n[init]\nssl_conf = ssl\n[ssl]\nsystem_default = old\n"
            "[old]\nMaxProtocol = TLSv1.2\n"
        )
        self.patch(os, "environ", os.environ | {"OPENSSL_CONF": str(file)})
        return super().setUp()

    async def test_client_certificate(self) -> None:
        """The right certificate opens it, another one or none is refused before any login."""
        newest = self.trusting(minimum_version="1.3", client_certificate=authority().client().pem)
        await self.assert_fails(self.dial(tls=newest), TLSVersionRefused, "1.3 at least")
        await self.assert_mutual()
