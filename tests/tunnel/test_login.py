"""SASL between a local client and the gateway, and that no password is seen anywhere."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.net.fakes import answer
from tests.secrecy import (
    USER,
    Witness,
    credentials,
    leaks,
    password,
    shown_by,
    wrong_credentials,
    wrong_password,
)
from tests.tunnel.fakes import GatewayTestCase, found, get, plain
from txtlsmc.tunnel.login import Login
from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import Opcode, Status

RIGHT, WRONG, NONE = Status.OK, Status.AUTHENTICATION_ERROR, Status.UNKNOWN_COMMAND


class LoginTests(SynchronousTestCase):
    def test_plain(self) -> None:
        """Just the configured user name and password are right, whoever they act for."""
        login = Login(lambda: credentials())
        for request, status in (
            (plain(password()), RIGHT),
            (plain(password(), acting_for=USER), RIGHT),
            (plain(password(), acting_for="bob"), WRONG),
            (plain(password(), "bob"), WRONG),
            (plain(wrong_password()), WRONG),
            (plain(password() + "x"), WRONG),
            (plain(password()[:-1]), WRONG),
            (plain(""), WRONG),
            (plain(password() + "\0"), WRONG),
            (plain("x" * 5000), WRONG),
            (Request(Opcode.SASL_AUTH, b"PLAIN", b"", b""), WRONG),
            (Request(Opcode.SASL_AUTH, b"PLAIN", b"", b"\xff\0\xfe\0\xfd"), WRONG),
            (Request(Opcode.SASL_AUTH, b"plain", b"", plain(password()).value), RIGHT),
            (Request(Opcode.SASL_AUTH, b"SCRAM-SHA-256", b"", plain(password()).value), WRONG),
            (Request(Opcode.SASL_STEP, b"PLAIN", b"", plain(password()).value), WRONG),
        ):
            request.opaque = 5
            answer = login.answer(request)
            self.assertEqual(
                (answer.status, answer.opaque, answer.opcode), (status, 5, request.opcode)
            )
            self.assertEqual(login.refused, status == WRONG)

    def test_mechanisms(self) -> None:
        """PLAIN is what is offered."""
        answer = Login(lambda: credentials()).answer(Request(Opcode.SASL_LIST))
        self.assertEqual((answer.status, answer.value), (RIGHT, b"PLAIN"))

    def test_no_credentials(self) -> None:
        """Where the server is used without credentials it is as a server without SASL."""
        login = Login(lambda: None)
        for request in (Request(Opcode.SASL_LIST), plain(password())):
            self.assertEqual(login.answer(request).status, NONE)
            self.assertFalse(login.refused)


class GatewayLoginTests(GatewayTestCase):
    def setUp(self) -> None:
        self.witness = Witness(self)

    def test_not_needed(self) -> None:
        """Unless it is required, a client may log in or leave it out; who fails is not served."""
        line = self.served(credentials=credentials(insecure=True))
        silent, right, wrong = self.client(get()), self.client(), self.client()
        right.say(plain(password()), get())
        wrong.say(plain(wrong_password()), get())
        self.world.settle()
        for request in line.requests():
            self.assertEqual(request.opcode, Opcode.GET)
            line.say(found(request))
        self.assertEqual([told.status for told in silent.hear()], [0])
        self.assertEqual([told.status for told in right.hear()], [RIGHT, 0])
        self.assertEqual([told.status for told in wrong.hear()], [WRONG, WRONG])
        self.assertEqual(self.counters.refused_login, 1)
        self.assertEqual(len(self.lines("another user name or password")), 1)

    def test_required(self) -> None:
        """Where it is required, nothing but SASL and VERSION is for who has not logged in."""
        line = self.served(credentials=credentials(insecure=True), local_auth="required")
        client = self.client(Request(Opcode.VERSION))
        line.say(answer(line.request(), b"1.6.18"))
        client.say(plain(password()), get())
        line.say(found(line.request()))
        self.assertEqual([told.status for told in client.hear()], [0, RIGHT, 0])
        for wrong in ([get()], [plain(wrong_password()), get()], [Request(Opcode.NOOP)]):
            client = self.client(*wrong)
            self.world.settle()
            self.assertEqual([told.status for told in client.hear()], [WRONG] * len(wrong))
            self.assertTrue(client.lost)
        self.assertEqual(line.requests(), [])

    def test_behind_gets(self) -> None:
        """A login waits for the answers before it, and what is behind waits for the login."""
        line = self.served(credentials=credentials(insecure=True))
        client = self.client(
            get(b"a"), get(b"b"), plain(password()), get(b"c"), Request(Opcode.QUIT)
        )
        asked = line.requests()
        self.assertEqual([each.key for each in asked], [b"a", b"b"])
        line.say(found(asked[0]))
        self.assertEqual(line.requests(), [])
        line.say(found(asked[1]))
        line.say(found(line.request()))
        self.world.settle()
        self.assertEqual(
            [told.opcode for told in client.hear()],
            [Opcode.GET, Opcode.GET, Opcode.SASL_AUTH, Opcode.GET, Opcode.QUIT],
        )
        self.assertTrue(client.lost)

    def test_secrets(self) -> None:
        """No password is in the log, in a repr, or in a traceback with its variables."""
        self.served(credentials=credentials(insecure=True))
        client = self.client(plain(password()), plain(wrong_password()))
        half = self.client(get(), plain(password()))
        login = Login(lambda: wrong_credentials())
        for shown in (client.protocol, half.protocol.conversation.here, half.protocol, login):
            self.assertEqual(leaks(repr(shown)), [])
        self.assertEqual(leaks(repr(self.gateway) + repr(self.settings)), [])

        def broken() -> None:
            raise ZeroDivisionError

        try:
            Login(broken).answer(plain(password()))
        except ZeroDivisionError as error:
            self.assertEqual(leaks(shown_by(error)), [])
