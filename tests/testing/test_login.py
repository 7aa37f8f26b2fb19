"""SASL at the embedded server goes as it goes at memcached with Cyrus SASL."""

from __future__ import annotations

from tests.testing.asking import Asking, MemoryServerTestCase, short
from txtlsmc.errors import MemcacheError
from txtlsmc.settings import MECHANISMS, Credentials
from txtlsmc.testing import MemoryServer
from txtlsmc.wire.frames import HEADER, Request
from txtlsmc.wire.opcodes import OPCODES, Opcode, Status
from txtlsmc.wire.sasl import client_exchange

ALICE = b"\0alice\0secret"
WRONG = b"\0alice\0wrong"
OPEN = (Opcode.VERSION, Opcode.SASL_LIST, Opcode.SASL_AUTH, Opcode.SASL_STEP)

NOOP = Request(Opcode.NOOP)
LIST = Request(Opcode.SASL_LIST)
#: AUTH with the right password, with a wrong one, and without one; STEP with the right one.
RIGHT = Request(Opcode.SASL_AUTH, b"PLAIN", value=ALICE)
BAD = Request(Opcode.SASL_AUTH, b"PLAIN", value=WRONG)
EMPTY = Request(Opcode.SASL_AUTH, b"PLAIN")
STEP = Request(Opcode.SASL_STEP, b"PLAIN", value=ALICE)
CRAM = Request(Opcode.SASL_AUTH, b"CRAM-MD5")
SCRAM = Request(Opcode.SASL_AUTH, b"SCRAM-SHA-256")
NO_SUCH = Request(Opcode.SASL_AUTH, b"NOSUCH", value=b"x")

OK, CONTINUE, FAILED = 0, Status.AUTHENTICATION_CONTINUE, Status.AUTHENTICATION_ERROR


class LoginTestCase(MemoryServerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.server = self.make_server(users={"alice": "secret"}, mechanisms=MECHANISMS)
        self.client = self.connect(self.server)

    def statuses(self, client: Asking, *requests: Request) -> list[int]:
        """Ask one after the other, and return the status of each answer."""
        return [r.status for request in requests for r in self.ask(client, request)]

    def log_in(self, client: Asking, mechanism: str, password: str = "secret") -> list[int]:
        """Go through *mechanism*, and return the statuses of the answers."""
        exchange = client_exchange(Credentials("alice", password, mechanism), "clientnonce")
        statuses = []
        value, opcode = exchange.start(), Opcode.SASL_AUTH
        while True:
            (response,) = self.ask(client, Request(opcode, mechanism.encode(), value=value))
            statuses.append(response.status)
            if response.status == FAILED:
                return statuses
            if response.status == OK:
                exchange.finish(response.value)
                return statuses
            value, opcode = exchange.step(response.value), Opcode.SASL_STEP


class MechanismTests(LoginTestCase):
    def test_list(self) -> None:
        """LIST names the mechanisms, in the order that was given."""
        (response,) = self.ask(self.client, LIST)
        self.assertEqual(response.value, b"PLAIN CRAM-MD5 SCRAM-SHA-256")

    def test_default(self) -> None:
        """PLAIN and SCRAM-SHA-256 are on unless something else is asked for."""
        (response,) = self.ask(self.connect(self.make_server(users={})), LIST)
        self.assertEqual(response.value, b"PLAIN SCRAM-SHA-256")

    def test_right(self) -> None:
        """Each mechanism lets in who knows the password, and proves what it has to prove."""
        for mechanism, statuses in (
            ("PLAIN", [OK]),
            ("CRAM-MD5", [CONTINUE, OK]),
            ("SCRAM-SHA-256", [CONTINUE, CONTINUE, OK]),
        ):
            client = self.connect(self.server)
            self.assertEqual(self.log_in(client, mechanism), statuses)
            self.assert_open(client)

    def test_wrong(self) -> None:
        """Each mechanism refuses a wrong password; the connection stays, for SASL only."""
        for mechanism, statuses in (
            ("PLAIN", [FAILED]),
            ("CRAM-MD5", [CONTINUE, FAILED]),
            ("SCRAM-SHA-256", [CONTINUE, FAILED]),
        ):
            client = self.connect(self.server)
            self.assertEqual(self.log_in(client, mechanism, "wrong"), statuses)
            self.assertEqual(self.log_in(client, "PLAIN"), [OK])
            self.assert_open(client)

    def test_texts(self) -> None:
        """Success and failure are told in memcached's words."""
        self.assertEqual(
            short(self.ask(self.client, BAD, RIGHT)),
            [
                (Opcode.SASL_AUTH, FAILED, b"Auth failure."),
                (Opcode.SASL_AUTH, OK, b"Authenticated"),
            ],
        )

    def test_letter_case(self) -> None:
        """A mechanism may be written in small letters."""
        small = Request(Opcode.SASL_AUTH, b"plain", value=ALICE)
        self.assertEqual(self.statuses(self.client, small), [OK])

    def test_nul(self) -> None:
        """The name of a mechanism ends at a NUL, as it does in C."""
        longer = Request(Opcode.SASL_AUTH, b"PLAIN\0CRAM-MD5", value=ALICE)
        self.assertEqual(self.statuses(self.client, longer), [OK])

    def test_not_offered(self) -> None:
        """A mechanism that is not offered fails, whether it exists or not."""
        client = self.connect(self.make_server(users={"alice": "secret"}, mechanisms=["PLAIN"]))
        self.assertEqual(
            self.statuses(client, CRAM, NO_SUCH, RIGHT, NOOP), [FAILED, FAILED, OK, OK]
        )

    def test_changed_password(self) -> None:
        """A password that is changed meanwhile counts from the next login on."""
        users = {"alice": "old"}
        server = self.make_server(users=users)
        self.assertEqual(self.log_in(self.connect(server), "PLAIN"), [FAILED])
        users["alice"] = "secret"
        self.assertEqual(self.log_in(self.connect(server), "PLAIN"), [OK])


class BeforeTests(LoginTestCase):
    def test_refused(self) -> None:
        """Before authentication all but VERSION and SASL is refused, and the connection closed."""
        for opcode in (*OPCODES, 0x1B, 0xFF):
            if opcode not in OPEN:
                client = self.connect(self.server)
                self.assert_closed(client, opcode, FAILED, Request(opcode, b"key"), NOOP)

    def test_refused_shapes(self) -> None:
        """A wrong shape is refused as all else is; only lengths that lie are found out first."""
        for key, extras, body, status in (
            (0, 0, 0, FAILED),
            (251, 0, 251, FAILED),
            (3, 5, 8, FAILED),
            (3, 0, 2**32 - 1, FAILED),
            (3, 0, 2, Status.UNKNOWN_COMMAND),
        ):
            client = self.connect(self.server)
            client.send(HEADER.pack(0x80, Opcode.SET, key, extras, 0, 0, body, 0, 0))
            self.clock.advance(0)
            self.assertEqual([r.status for r in client.take()], [status])
            self.assertIsNotNone(client.lost)

    def test_open(self) -> None:
        """VERSION and SASL are answered, and close only for a wrong shape."""
        (version,) = self.ask(self.client, Request(Opcode.VERSION))
        self.assertEqual(version.value, b"1.6.18")
        for opcode in OPEN:
            client = self.connect(self.server)
            wrong = Request(opcode, b"k" * 251)
            self.assert_closed(client, opcode, Status.INVALID_ARGUMENTS, wrong)

    def test_behind_a_failure(self) -> None:
        """An ordinary request behind a failed AUTH is refused, and closes the connection."""
        self.assertEqual(
            [r.status for r in self.ask(self.client, BAD, NOOP, RIGHT)], [FAILED, FAILED]
        )
        self.assertIsNotNone(self.client.lost)

    def test_one_flight(self) -> None:
        """LIST, AUTH and ordinary requests may travel in one piece."""
        self.assertEqual([r.status for r in self.ask(self.client, LIST, RIGHT, NOOP)], [OK] * 3)

    def test_long_mechanism(self) -> None:
        """A mechanism of more than 32 bytes is an invalid argument, and that is all."""
        long = Request(Opcode.SASL_AUTH, b"P" * 33, value=ALICE)
        self.assertEqual(
            self.statuses(self.client, long, RIGHT, NOOP), [Status.INVALID_ARGUMENTS, OK, OK]
        )

    def test_long_words(self) -> None:
        """Words that memcached has no memory for are told so, and the connection lives."""
        for length in (600_000, 10_000_000):
            long = Request(Opcode.SASL_AUTH, b"PLAIN", value=bytes(length))
            (response,) = self.ask(self.client, long)
            self.assertEqual(
                (response.status, response.value), (Status.OUT_OF_MEMORY, b"Out of memory")
            )
        self.assertEqual(self.statuses(self.client, RIGHT, NOOP), [OK, OK])


class SessionTests(LoginTestCase):
    def assert_run(self, *pairs: tuple[Request, int]) -> None:
        """On a new connection the requests are answered with these statuses."""
        client = self.connect(self.server)
        requests = [request for request, _ in pairs]
        self.assertEqual(self.statuses(client, *requests), [status for _, status in pairs])

    def test_list_logs_out(self) -> None:
        """LIST behind a login ends it."""
        self.assert_run((RIGHT, OK), (NOOP, OK), (LIST, OK), (NOOP, FAILED))

    def test_second_login(self) -> None:
        """A second AUTH logs out, with the right password too; the one behind that counts again."""
        for second in (RIGHT, BAD, NO_SUCH, CRAM, SCRAM):
            self.assert_run((RIGHT, OK), (second, FAILED), (NOOP, FAILED))
            self.assert_run((RIGHT, OK), (second, FAILED), (RIGHT, OK), (NOOP, OK))
            self.assert_run((RIGHT, OK), (second, FAILED), (BAD, FAILED))

    def test_step_out_of_order(self) -> None:
        """STEP counts only where it was asked for."""
        self.assert_run((STEP, FAILED), (RIGHT, OK), (NOOP, OK))
        self.assert_run((BAD, FAILED), (STEP, FAILED))
        self.assert_run((RIGHT, OK), (STEP, FAILED), (NOOP, FAILED))
        self.assert_run((CRAM, CONTINUE), (STEP, FAILED), (STEP, FAILED))
        self.assert_run((EMPTY, CONTINUE), (NO_SUCH, FAILED), (STEP, FAILED))

    def test_late_words(self) -> None:
        """PLAIN may be begun without words, and then wants them in a STEP."""
        self.assert_run((EMPTY, CONTINUE), (STEP, OK), (NOOP, OK))
        self.assert_run((EMPTY, CONTINUE), (LIST, OK), (STEP, OK), (NOOP, OK))
        self.assert_run((EMPTY, CONTINUE), (NOOP, FAILED))
        self.assert_run((RIGHT, OK), (EMPTY, CONTINUE), (STEP, FAILED))

    def test_early_words(self) -> None:
        """Of CRAM-MD5 the first word is the server's."""
        early = Request(Opcode.SASL_AUTH, b"CRAM-MD5", value=b"x")
        self.assert_run((early, FAILED), (RIGHT, OK), (NOOP, OK))

    def test_begun_anew(self) -> None:
        """AUTH begins anew, whatever was begun before."""
        self.assert_run((CRAM, CONTINUE), (RIGHT, OK), (NOOP, OK))
        self.assert_run((EMPTY, CONTINUE), (CRAM, CONTINUE), (STEP, FAILED))
        self.assert_run((CRAM, CONTINUE), (EMPTY, CONTINUE), (STEP, OK), (NOOP, OK))

    def test_scram_consent(self) -> None:
        """Until the client took the server's proof it is not logged in; any STEP takes it."""
        for last, status in (
            (NOOP, FAILED),
            (Request(Opcode.SASL_STEP, b"SCRAM-SHA-256"), OK),
            (Request(Opcode.SASL_STEP, b"SCRAM-SHA-256", value=b"whatever"), OK),
        ):
            client = self.connect(self.server)
            exchange = client_exchange(Credentials("alice", "secret", "SCRAM-SHA-256"), "nonce")
            (challenge,) = self.ask(
                client, Request(Opcode.SASL_AUTH, b"SCRAM-SHA-256", value=exchange.start())
            )
            proof = exchange.step(challenge.value)
            (proven,) = self.ask(client, Request(Opcode.SASL_STEP, b"SCRAM-SHA-256", value=proof))
            self.assertEqual((proven.status, proven.value[:2]), (CONTINUE, b"v="))
            self.assertEqual(self.statuses(client, last), [status])

    def test_after_scram(self) -> None:
        """After SCRAM's proof was right, memcached with Cyrus takes any words of an offered one."""
        for later, status in ((BAD, OK), (RIGHT, OK), (STEP, OK), (NO_SUCH, FAILED)):
            client = self.connect(self.server)
            self.log_in(client, "SCRAM-SHA-256")
            self.assertEqual(self.statuses(client, later, NOOP), [status, status])

    def test_counted(self) -> None:
        """Logins and failures are counted, and their steps are not."""
        self.log_in(self.client, "SCRAM-SHA-256", "wrong")
        self.log_in(self.client, "SCRAM-SHA-256")
        stats = self.server.stats
        self.assertEqual((stats["auth_cmds"], stats["auth_errors"]), (2, 1))

    def test_own_session(self) -> None:
        """A login is of one connection."""
        self.assertEqual(self.statuses(self.client, RIGHT), [OK])
        self.assert_closed(self.connect(self.server), Opcode.NOOP, FAILED, NOOP)


class SecretTests(LoginTestCase):
    def test_repr(self) -> None:
        """No password shows where a server is shown, nor where its options are."""
        server: MemoryServer = self.server
        shown = repr(server) + repr(vars(server))
        self.assertNotIn("secret", shown)
        self.assertIn("PLAIN", shown)

    def test_bad_settings(self) -> None:
        """Mechanisms that do not exist are refused when the server is made."""
        for mechanisms in (["LOGIN"], ["plain"], []):
            self.assertRaises(MemcacheError, self.make_server, users={}, mechanisms=mechanisms)
