"""What holds for the exchanges of every mechanism: their order, and what they never show."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import InvalidArgument, MemcacheError, RemoteProtocolError, ServerNotProven
from txtlsmc.settings import MECHANISMS, Credentials
from txtlsmc.wire.exchange import (
    MAX_DATA,
    Accounts,
    Call,
    ClientExchange,
    Outcome,
    Secret,
    ServerExchange,
    State,
    require_nonce,
    strict_b64decode,
)
from txtlsmc.wire.sasl import client_exchange, server_exchange

PLAIN, CRAM, SCRAM = MECHANISMS

#: What each call comes to in each state: the state behind it, or the error.
Result = State | type[MemcacheError]
TABLE: dict[str, dict[State, tuple[Result, Result, Result]]] = {
    # start, step, finish
    PLAIN: {
        State.NEW: (State.STARTED, InvalidArgument, InvalidArgument),
        State.STARTED: (InvalidArgument, RemoteProtocolError, State.ENDED),
        State.ENDED: (InvalidArgument, RemoteProtocolError, RemoteProtocolError),
    },
    CRAM: {
        State.NEW: (State.STARTED, InvalidArgument, InvalidArgument),
        State.STARTED: (InvalidArgument, State.ANSWERED, RemoteProtocolError),
        State.ANSWERED: (InvalidArgument, RemoteProtocolError, State.ENDED),
        State.ENDED: (InvalidArgument, RemoteProtocolError, RemoteProtocolError),
    },
    SCRAM: {
        State.NEW: (State.STARTED, InvalidArgument, InvalidArgument),
        State.STARTED: (InvalidArgument, State.ANSWERED, ServerNotProven),
        State.ANSWERED: (InvalidArgument, State.PROVEN, State.ENDED),
        State.PROVEN: (InvalidArgument, RemoteProtocolError, State.ENDED),
        State.ENDED: (InvalidArgument, RemoteProtocolError, RemoteProtocolError),
    },
}
#: The calls that lead to each state.
WAYS = {
    State.NEW: (),
    State.STARTED: (Call.START,),
    State.ANSWERED: (Call.START, Call.STEP),
    State.PROVEN: (Call.START, Call.STEP, Call.STEP),
    State.ENDED: (Call.START, Call.STEP, Call.FINISH),
}


class Run:
    """A client's exchange with the server that answers it."""

    def __init__(self, mechanism: str) -> None:
        credentials = Credentials("user", "pencil", mechanism)
        self.client = client_exchange(credentials, "ours")
        self.server = server_exchange(mechanism, {"user": "pencil"}, "theirs")
        self.said = b""

    def make(self, call: Call) -> None:
        """Make *call*, with the words of a server that does all it should."""
        if call is Call.START:
            self.said = self.server.step(self.client.start()).data
        elif call is Call.STEP:
            self.said = self.server.step(self.client.step(self.said)).data
        else:
            self.client.finish(self.said)


class OrderTests(SynchronousTestCase):
    def brought_to(self, mechanism: str, state: State) -> Run:
        run = Run(mechanism)
        for call in WAYS[state]:
            if mechanism != PLAIN or call is not Call.STEP:
                run.make(call)
        return run

    def test_complete(self) -> None:
        """The table below has each mechanism, and each state it can come to."""
        self.assertEqual(set(TABLE), set(MECHANISMS))
        for mechanism, rows in TABLE.items():
            results = {result for row in rows.values() for result in row}
            reached = {State.NEW} | {result for result in results if isinstance(result, State)}
            self.assertEqual(set(rows), reached, mechanism)

    def test_every_call_in_every_state(self) -> None:
        """A call in its turn is followed, and one out of turn is an error, never silence."""
        for mechanism, rows in TABLE.items():
            for state, row in rows.items():
                for call, expected in zip(Call, row, strict=True):
                    after = expected if isinstance(expected, State) else State.ENDED
                    # Where it is now shows in what each next call comes to.
                    for then, expected_then in zip(Call, rows[after], strict=True):
                        run = self.brought_to(mechanism, state)
                        self.assert_result(run, call, expected)
                        self.assert_result(run, then, expected_then)

    def assert_result(self, run: Run, call: Call, expected: Result) -> None:
        if isinstance(expected, State):
            run.make(call)
        else:
            error = self.assertRaises(expected, run.make, call)
            self.assertIs(type(error), expected)

    def test_every_error_ends_it(self) -> None:
        """After an error nothing more is said, and nothing is accepted."""
        for mechanism in (CRAM, SCRAM):
            run = self.brought_to(mechanism, State.STARTED)
            right = run.said
            self.assertRaises(RemoteProtocolError, run.client.step, b"garbage")
            self.assertRaises(RemoteProtocolError, run.client.step, right)
            self.assertRaises(RemoteProtocolError, run.client.finish, b"")

    def test_words(self) -> None:
        """The error of a server out of turn says what came, when, and in which mechanism."""
        run = self.brought_to(SCRAM, State.PROVEN)
        error = self.assertRaises(RemoteProtocolError, run.client.step, b"")
        self.assertEqual(error.field, "sasl")
        self.assertEqual(
            str(error),
            "the peer broke the protocol: a challenge came to an exchange of SCRAM-SHA-256 that is"
            " waiting for the success that the server announced (field: sasl)",
        )


class BoundTests(SynchronousTestCase):
    def test_client(self) -> None:
        """Words of a server that are too long are a broken protocol."""
        calls: list[tuple[str, Callable[[ClientExchange], Callable[[bytes], object]]]] = [
            (PLAIN, lambda client: client.finish),
            (CRAM, lambda client: client.step),
            (SCRAM, lambda client: client.step),
        ]
        for mechanism, method in calls:
            run = Run(mechanism)
            run.make(Call.START)
            error = self.assertRaises(RemoteProtocolError, method(run.client), bytes(MAX_DATA + 1))
            self.assertIn(f"with {MAX_DATA + 1} bytes", str(error))
        run = Run(PLAIN)
        run.make(Call.START)
        run.client.finish(bytes(MAX_DATA))

    def test_server(self) -> None:
        """Words of a client that are too long are refused, and end the exchange."""
        for mechanism in MECHANISMS:
            run = Run(mechanism)
            self.assertIs(run.server.step(bytes(MAX_DATA + 1)).outcome, Outcome.FAILURE)
            self.assertIs(run.server.step(run.client.start()).outcome, Outcome.FAILURE)


class ServerOrderTests(SynchronousTestCase):
    def test_after_the_end(self) -> None:
        """A server's exchange that ended answers everything with failure."""
        for mechanism in MECHANISMS:
            run = Run(mechanism)
            step = run.server.step(run.client.start())
            while step.outcome is Outcome.CONTINUE:
                step = run.server.step(run.client.step(step.data))
            self.assertIs(step.outcome, Outcome.SUCCESS, mechanism)
            for data in (b"", Run(mechanism).client.start(), b"x"):
                self.assertIs(run.server.step(data).outcome, Outcome.FAILURE, mechanism)


class ReprTests(SynchronousTestCase):
    def test_no_secret(self) -> None:
        """Nothing of an exchange shows a password or what is made from it."""
        secret = Secret(b"pencil")
        accounts = Accounts({"user": "pencil"})
        self.assertEqual((repr(secret), str(secret)), ("<secret>", "<secret>"))
        self.assertEqual(repr(accounts), "<1 accounts>")
        for mechanism in MECHANISMS:
            run = Run(mechanism)
            run.make(Call.START)
            shown: list[ClientExchange | ServerExchange] = [run.client, run.server]
            for exchange in shown:
                # The values as a debugger, or a traceback that looks into objects, prints them.
                self.assertNotIn("pencil", f"{exchange!r} {vars(exchange)!r}")


class HelperTests(SynchronousTestCase):
    def test_base64(self) -> None:
        """Base64 has one form for each value, and nothing else is read."""
        for text, value in ((b"", b""), (b"QQ==", b"A"), (b"+/+/", b"\xfb\xff\xbf")):
            self.assertEqual(strict_b64decode(text), value)
        for text in (
            b"QQ",
            b"QQ=",
            b"QQ===",
            b"QR==",
            b"Q Q=",
            b"QQ==\n",
            b"-_-_",
            b"=",
            b"\xff",
            b"QQ==QQ==",
        ):
            self.assertIsNone(strict_b64decode(text), text)

    def test_nonce(self) -> None:
        """A nonce is printable ASCII without comma and space."""
        require_nonce("!+-~aZ09/=")
        for nonce in ("", ",", "a,b", " ", "a b", "\n", "a\n", "\x7f", "\u00e9"):
            self.assertRaises(InvalidArgument, require_nonce, nonce)
