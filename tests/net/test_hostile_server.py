"""
The client against hostile servers, over real sockets, plain and with TLS.

Every case of `tests.net.hostile.table` is a test of its own over each way, so a failure names what
the server did.  A battery is only believed if it can fail: the controls at the end are clients that
are broken on purpose, each in one way, and each must be found out.
"""

from __future__ import annotations

import gc
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

import txtlsmc
from tests.hostile import PLAIN, Way, changed, good, tls
from tests.net.hostile.case import DEADLINE, Case, Connect, Fails, verdict
from tests.net.hostile.table import all_cases
from tests.net.hostile.texts import LONGEST, leaks, password, unfit
from txtlsmc.errors import SERVER_ERRORS, CredentialsRefused, MemcacheError, RemoteProtocolError
from txtlsmc.net.endpoints import ReadyEndpoint
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.settings import TLS, Credentials, InsecurePlaintext, Limits, Server
from txtlsmc.wire.frames import HEADER, HEADER_SIZE, Request, Response
from txtlsmc.wire.handshake import Handshake
from txtlsmc.wire.operations import Operation, RawItem
from txtlsmc.wire.session import Session

reactor = IReactorTime(the_reactor)
CASES: Final = {case.name: case for case in all_cases()}
MIB: Final = 2**20
#: The deadline where a client is broken so that it hangs.
SOON: Final = 0.5

C = TypeVar("C", bound=type[TestCase])
T = TypeVar("T")


def slug(name: str) -> str:
    """Return *name* as it can stand in the name of a method."""
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")


def applies(case: Case, way: Way) -> bool:
    """Return whether *case* can be had over *way*."""
    return way is not PLAIN or not case.tls


def with_cases(way: Callable[[], Way], *, is_tls: bool) -> Callable[[C], C]:
    """Give a test class one test for each case that there is over *way*."""

    def decorate(cls: C) -> C:
        for case in CASES.values():
            if is_tls or not case.tls:

                def test(self: TestCase, case: Case = case) -> Deferred[None]:
                    return verdict(reactor, case, way()).addCallback(self.assertEqual, [])

                expected = [case.connects] if case.connects else list(case.expects)
                test.__name__ = f"test_{slug(case.name)}"
                test.__doc__ = f"{case.name.capitalize()}: what comes of it is {expected}."
                setattr(cls, test.__name__, test)
        return cls

    return decorate


@with_cases(lambda: PLAIN, is_tls=False)
class PlainTests(TestCase):
    """Every case over plaintext."""

    timeout = 60


@with_cases(tls, is_tls=True)
class TLSTests(TestCase):
    """Every case over TLS, with a certificate that is verified."""

    timeout = 60


class TableTests(SynchronousTestCase):
    def test_names(self) -> None:
        """Every case has a test of its own."""
        cases = list(all_cases())
        self.assertEqual(
            [name for name, count in Counter(slug(c.name) for c in cases).items() if count > 1], []
        )
        for cls, ways in ((PlainTests, [c for c in cases if not c.tls]), (TLSTests, cases)):
            tests = {name for name in vars(cls) if name.startswith("test_")}
            self.assertEqual(tests, {f"test_{slug(case.name)}" for case in ways})

    def test_field(self) -> None:
        """Whoever breaks the protocol is told in which field, and every field is broken."""
        fields = set()
        for case in CASES.values():
            for expected in (case.connects, *case.expects):
                if isinstance(expected, Fails) and expected.kind is RemoteProtocolError:
                    self.assertIn("field", expected.attributes, case.name)
                    fields.add(expected.attributes["field"])
        header = {"magic", "opcode", "key length", "extras length", "data type", "status", "opaque"}
        self.assertEqual(fields, header | {"body length", "key", "value", "sasl"})

    def test_errors(self) -> None:
        """Every class of errors that a server alone can cause is expected somewhere."""
        expected = {
            outcome.kind
            for case in CASES.values()
            for outcome in (case.connects, *case.expects)
            if isinstance(outcome, Fails)
        }
        names = {kind.__name__ for kind in expected}
        for name in (
            *("RemoteProtocolError", "ConnectionClosed", "RequestTimeout", "ServerSilent"),
            *("ConnectFailed", "ConnectTimedOut", "TLSFailed", "PlaintextServer"),
            *("AuthenticationError", "CredentialsRefused", "CredentialsRequired"),
            *("SASLUnavailable", "MechanismNotOffered", "ServerNotProven"),
            *("ServerError", *(kind.__name__ for kind in SERVER_ERRORS.values())),
        ):
            self.assertIn(name, names)


# Memory -------------------------------------------------------------------------------------

_STATUS: Final = Path("/proc/self/status")


def memory(what: str) -> int:
    """Return a line of the process's status, ``VmRSS`` or ``VmHWM``, in bytes."""
    if not _STATUS.exists():
        raise SkipTest("the system does not tell a process in /proc how much memory it has")
    for line in _STATUS.read_text().splitlines():
        name, _, size = line.partition(":")
        if name == what:
            return int(size.split()[0]) * 1024
    raise SkipTest(f"there is no {what} in {_STATUS}")


async def run_all(way: Way) -> list[str]:
    """Run every case over *way*, those about time at once, and return the complaints."""
    cases = [case for case in CASES.values() if applies(case, way)]
    timed = [verdict(reactor, case, way) for case in cases if case.timed]
    complaints = [c for found in await gatherResults(timed) for c in found]
    for case in cases:
        if not case.timed:
            complaints += await verdict(reactor, case, way)
    return complaints


async def growth(connect: Connect, case: Case) -> int:
    """Return by how much the process grew at the most while *case* ran, and be it for a moment."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # makes VmHWM what VmRSS is
    except OSError:
        raise SkipTest("the system does not let a process reset its highest mark") from None
    before = memory("VmHWM")
    await verdict(reactor, case, PLAIN, connect=connect)
    return memory("VmHWM") - before


class MemoryTests(TestCase):
    timeout = 120

    def test_battery(self) -> Deferred[None]:
        """All of it, over both ways, leaves the process as large as it was."""

        async def run() -> None:
            self.assertEqual(await run_all(PLAIN), [])  # until everything is warm
            self.assertEqual(await verdict(reactor, CASES["records of one byte"], tls()), [])
            gc.collect()
            before = memory("VmRSS")
            for way in (PLAIN, tls()):
                self.assertEqual(await run_all(way), [])
            gc.collect()
            self.assertLess(memory("VmRSS") - before, 16 * MIB)

        return Deferred.fromCoroutine(run())

    def test_announced(self) -> Deferred[None]:
        """What a server announces takes no memory until it comes, be it 4 GiB."""

        async def run() -> None:
            for name, case in CASES.items():
                if "announced" in name:
                    self.assertLess(await growth(txtlsmc.connect, case), 16 * MIB, name)

        return Deferred.fromCoroutine(run())

    def test_announced_control(self) -> Deferred[None]:
        """A client that makes room for what is announced is found out."""

        async def run() -> None:
            case = CASES["4 GiB announced, a trickle and the end"]
            self.assertGreater(await growth(connecting(Greedy), case), 48 * MIB)

        return Deferred.fromCoroutine(run())

    def test_left(self) -> Deferred[None]:
        """Of a connection that is over nothing is left, neither its requests nor its password."""

        async def run() -> None:
            names = (
                "two answers swapped",
                "PLAIN: accepted",
                "PLAIN: refused",
                "SCRAM-SHA-256: no signature with success",
            )
            for way in (PLAIN, tls()):
                for _ in range(5):
                    for name in names:
                        self.assertEqual(await verdict(reactor, CASES[name], way), [])

        def living() -> Counter[str]:
            gc.collect()
            kinds = (MemcacheProtocol, Handshake, Credentials)
            return Counter(type(o).__name__ for o in gc.get_objects() if isinstance(o, kinds))

        before = living()  # other tests keep some in their tables

        def look(_: object) -> None:
            for name, count in (living() - before).items():
                # One of each may hang on what the reactor handled last.
                self.assertLessEqual(count, 2, name)

        return Deferred.fromCoroutine(run()).addCallback(look)


# Controls -----------------------------------------------------------------------------------


def connecting(kind: type[MemcacheProtocol]) -> Connect:
    """Return what connects as the product does, and then uses *kind*."""

    def connect(
        reactor: IReactorTime,
        server: Server | str,
        *,
        tls: TLS | InsecurePlaintext,
        credentials: Credentials | None,
        limits: Limits,
    ) -> Deferred[MemcacheProtocol]:
        endpoint = ReadyEndpoint(
            reactor, Server.parse(str(server)), tls=tls, credentials=credentials, limits=limits
        )
        return endpoint.connect(  # type: ignore[return-value]  # the factory builds these
            Factory.forProtocol(lambda: kind(reactor, limits=limits))
        )

    return connect


def failing(make: Callable[[], Exception]) -> Connect:
    """Return what connects, and fails with what *make* makes instead of the product's errors."""

    def connect(*arguments: Any, **keywords: Any) -> Deferred[MemcacheProtocol]:
        def replace(failure: Failure) -> Failure:
            return Failure(make())

        return txtlsmc.connect(*arguments, **keywords).addErrback(replace)

    return connect


class _Unchecked(Session[T]):
    """Gives whatever comes to whoever is first."""

    def receive(self, data: bytes) -> list[tuple[T, list[Response]]]:
        ended: list[tuple[T, list[Response]]] = []
        for response in self._reader.feed(data) if self._reader.error is None else ():
            if self._places:
                token = self._places.popleft().token
                ended += [] if token is None else [(token, [response])]
        return ended


class Careless(MemcacheProtocol):
    """Looks at no opaque, opcode or shape."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._session = _Unchecked(max_pending=99, max_pending_bytes=10**6, max_body=10**6)


class Optimistic(MemcacheProtocol):
    """Says that nothing is stored where it does not know."""

    def get(self, key: str | bytes, *, timeout: float | None = None) -> Deferred[RawItem | None]:
        return super().get(key, timeout=timeout).addErrback(lambda reason: None)


class Hanging(MemcacheProtocol):
    """Does nothing when the peer breaks the protocol."""

    def _give_up(self, reason: str, error: Callable[[bool], MemcacheError]) -> None:
        pass


class Clinging(MemcacheProtocol):
    """Fails what is pending, and keeps the connection."""

    def _give_up(self, reason: str, error: Callable[[bool], MemcacheError]) -> None:
        self._end(reason, error)


class Vague(MemcacheProtocol):
    """Says that the connection was lost when the peer broke the protocol."""

    def _give_up(self, reason: str, error: Callable[[bool], MemcacheError]) -> None:
        super()._give_up(
            reason, lambda sent: txtlsmc.ConnectionClosed("the connection was lost", sent=sent)
        )


class Timid(MemcacheProtocol):
    """Ends the connection for every error."""

    def perform(self, operation: Operation[T], timeout: float | None = None) -> Deferred[T]:
        def refused(failure: Failure) -> Failure:
            self.abort()
            return failure

        return super().perform(operation, timeout).addErrback(refused)


class Greedy(MemcacheProtocol):
    """Makes room for what is announced, up to 64 MiB."""

    room = b""

    def dataReceived(self, data: bytes) -> None:
        if len(data) >= HEADER_SIZE:
            self.room = b"\xff" * min(HEADER.unpack_from(data)[6], 64 * MIB)
        super().dataReceived(data)


class ControlTests(TestCase):
    timeout = 60

    def found_out(
        self, connect: Connect, *cases: tuple[str, ...], deadline: float = DEADLINE
    ) -> Deferred[None]:
        """Run *cases* with a broken client; of each the verdict must complain in these words."""
        ways = [(way, name, words) for way in (PLAIN, tls()) for name, *words in cases]

        def look(verdicts: list[list[str]]) -> None:
            for (way, name, words), complaints in zip(ways, verdicts, strict=True):
                for each in words:
                    found = any(each in complaint for complaint in complaints)
                    self.assertTrue(found, f"{way.name}, {name}: no {each!r} in {complaints}")

        return gatherResults(
            verdict(reactor, CASES[name], way, connect=connect, deadline=deadline)
            for way, name, _ in ways
        ).addCallback(look)

    def test_crossed(self) -> Deferred[None]:
        """A client that takes answers in the order in which they come crosses them."""
        return self.found_out(
            connecting(Careless),
            ("two answers swapped", "request 0: RawItem(value=b'value of b'"),
            ("answers in reverse", "request 2: RawItem(value=b'value of a'"),
            ("the first answer twice", "request 1: RawItem(value=b'value of a'"),
            ("the opaques of two answers swapped", "request 0: RawItem"),
            ("a getk with another key", "request 1: KeyedItem(key=b'c'"),
            ("opcode largest", "request 1: RawItem"),
            ("a set with a value", "request 1: True"),
            ("an answer before anything was asked", "the client keeps the connection"),
            deadline=SOON,
        )

    def test_missed(self) -> Deferred[None]:
        """A client that takes a failure for a miss is found out."""
        return self.found_out(
            connecting(Optimistic),
            ("magic zero", "request 1: None instead of RemoteProtocolError"),
            ("silence after 0 of 38 bytes", "None instead of RequestTimeout"),
            ("the connection is closed after 24 of 38 bytes", "request 1: None"),
            ("a get that is out of memory with status 0x82 is no miss", "request 1: None"),
        )

    def test_hanging(self) -> Deferred[None]:
        """A client that lets a request hang is found out."""
        return self.found_out(
            connecting(Hanging),
            ("magic zero", "request 1 hangs", "the client keeps the connection"),
            ("a number of 7 bytes", "request 2 hangs"),
            deadline=SOON,
        )

    def test_clinging(self) -> Deferred[None]:
        """A client that keeps a connection on which nobody knows the place is found out."""
        return self.found_out(
            connecting(Clinging),
            ("magic zero", "the client keeps the connection"),
            ("two answers swapped", "the client keeps the connection"),
            deadline=SOON,
        )

    def test_vague(self) -> Deferred[None]:
        """A client that takes a broken protocol for a lost connection is found out."""
        return self.found_out(
            connecting(Vague),
            ("magic zero", "request 1: ConnectionClosed"),
            ("opcode of the quiet twin", "request 1: ConnectionClosed"),
        )

    def test_timid(self) -> Deferred[None]:
        """A client that ends the connection for an answer that is an error is found out."""
        return self.found_out(
            connecting(Timid),
            ("status 0x0082 for a set", "a request afterwards: ConnectionClosed"),
        )

    def test_raw_texts(self) -> Deferred[None]:
        """An error with the server's words as they came is found out."""
        name = "PLAIN: refused with a text"
        raw = "refused: \x1b[2J\x07"
        long = "refused " * LONGEST

        async def run() -> None:
            for text, words in ((raw, "control characters"), (long, "characters")):
                error = partial(CredentialsRefused, "server", text)
                await self.found_out(failing(error), (name, words))

        return Deferred.fromCoroutine(run())

    def test_secrets(self) -> Deferred[None]:
        """A password in an error or in the log is found out, as it is and in base64."""
        log = Logger()

        def plain() -> Exception:
            return CredentialsRefused("server", f"refuses {password()}")

        def encoded() -> Exception:
            blob = b64encode(b"\0alice\0" + password().encode()).decode()
            return CredentialsRefused("server", f"refuses {blob}")

        def hidden() -> Exception:
            def careless(word: str) -> None:
                raise CredentialsRefused("server", f"refuses {len(word)} characters")

            try:
                careless(password())
            except CredentialsRefused as error:
                return error
            raise AssertionError

        def logged() -> Exception:
            log.info("refused: {word}", word=password())
            return CredentialsRefused("server", "refuses")

        async def run() -> None:
            for make in (plain, encoded, hidden):
                await self.found_out(failing(make), ("PLAIN: refused", "shows a secret"))
            await self.found_out(failing(logged), ("PLAIN: refused", "the log shows a secret"))

        return Deferred.fromCoroutine(run())

    def test_proofs(self) -> None:
        """What a password was made into is looked for as the password is."""
        proof = b64encode(bytes(range(32)))
        for said, secret in (
            (b"\0alice\0" + password().encode(), b"\0alice\0" + password().encode()),
            (b"c=biws,r=1,p=" + proof, proof),
            (b"alice 0123456789abcdef", b"0123456789abcdef"),
        ):
            for text in (repr(secret), secret.hex(), b64encode(b"x" + secret + b"y").decode()):
                self.assertTrue(leaks(f"so {text} it is", [said]), said)
        self.assertFalse(leaks("n,,n=alice,r=abc", [b"n,,n=alice,r=abc"]))

    def test_fit_texts(self) -> None:
        """The product's own errors pass for fit, whatever the server said."""
        error = txtlsmc.ServerError(1, 0x99, b"\x1b[2J" * 1000)
        self.assertEqual(unfit(error), [])

    def test_changed(self) -> None:
        """A good frame is changed in the fields that are named, and in no other."""
        frame = changed(good(Request(0x0A, opaque=7)), magic=0x80, status=1, opaque=8)
        self.assertEqual(frame, Request(0x0A, opaque=8, vbucket=1).encode())
