"""Tests of `txtlsmc.errors`."""

from __future__ import annotations

import inspect

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc import errors
from txtlsmc.errors import (
    SERVER_ERRORS,
    AuthenticationError,
    CertificateError,
    CertificateExpired,
    CertificateNotYetValid,
    CertificateUntrusted,
    CertificateWrongHost,
    ClientCertificateRefused,
    CodecError,
    ConnectFailed,
    ConnectionClosed,
    ConnectRefused,
    ConnectTimedOut,
    CredentialsRefused,
    CredentialsRequired,
    InsecurePassword,
    InvalidArgument,
    InvalidArguments,
    InvalidKey,
    InvalidSetting,
    KeyExists,
    KeyNotFound,
    MechanismNotOffered,
    MemcacheError,
    NameNotFound,
    NodeDown,
    NonNumericValue,
    NotPermitted,
    NotReady,
    NotStored,
    NotSupported,
    PartialResult,
    PendingLimit,
    PinMismatch,
    PlaintextServer,
    RemoteProtocolError,
    RequestTimeout,
    SASLUnavailable,
    ServerBusy,
    ServerError,
    ServerInternalError,
    ServerNotProven,
    ServerOutOfMemory,
    ServerSilent,
    TemporaryFailure,
    TLSFailed,
    TLSVersionRefused,
    UnknownCommand,
    ValueTooLarge,
    WrongProcess,
    shown,
)

EXIT_CODES: dict[type[MemcacheError], int] = {
    MemcacheError: 1,
    PendingLimit: 1,
    CodecError: 1,
    WrongProcess: 1,
    # many servers: an instance has the code of its cause
    NodeDown: 1,
    NotReady: 1,
    PartialResult: 1,
    # usage
    InvalidArgument: 64,
    InvalidKey: 64,
    InvalidSetting: 64,
    InsecurePassword: 64,
    # the way there
    NameNotFound: 80,
    ConnectFailed: 81,
    ConnectRefused: 81,
    ConnectionClosed: 81,
    ConnectTimedOut: 82,
    RequestTimeout: 82,
    ServerSilent: 82,
    TLSFailed: 83,
    CertificateError: 83,
    CertificateUntrusted: 83,
    CertificateWrongHost: 84,
    CertificateExpired: 85,
    CertificateNotYetValid: 86,
    TLSVersionRefused: 88,
    PlaintextServer: 88,
    PinMismatch: 89,
    ClientCertificateRefused: 90,
    # the credentials
    AuthenticationError: 91,
    CredentialsRefused: 91,
    CredentialsRequired: 91,
    ServerNotProven: 91,
    SASLUnavailable: 92,
    MechanismNotOffered: 92,
    # the protocol and its answers
    RemoteProtocolError: 93,
    NotPermitted: 94,
    ServerError: 1,
    KeyNotFound: 1,
    KeyExists: 1,
    ValueTooLarge: 1,
    InvalidArguments: 1,
    NotStored: 1,
    NonNumericValue: 1,
    UnknownCommand: 1,
    ServerOutOfMemory: 1,
    NotSupported: 1,
    ServerInternalError: 1,
    ServerBusy: 1,
    TemporaryFailure: 1,
}

quickly = settings(deadline=None, database=None, max_examples=200)


class ShownTests(SynchronousTestCase):
    def test_readable(self) -> None:
        """Text that people can read stays as it is."""
        for text in ("", "Not found", "grüße, 世界 🙂", 'a "quoted" \\ word'):
            self.assertEqual(shown(text), text)
            self.assertEqual(shown(text.encode()), text)

    def test_control_characters(self) -> None:
        """No line break, terminal sequence or invisible character gets through."""
        self.assertEqual(shown(b"a\r\nb"), "a\\r\\nb")
        self.assertEqual(shown("\x1b[31mred\x00"), "\\x1b[31mred\\x00")
        self.assertEqual(shown("\x85 \u2028 \u202e"), "\\x85 \\u2028 \\u202e")
        self.assertEqual(shown("half a pair: \ud800"), "half a pair: \\ud800")

    def test_not_utf8(self) -> None:
        """Bytes that are no UTF-8 are written as numbers."""
        self.assertEqual(shown(b"caf\xe9 \xff"), "caf\\xe9 \\xff")

    def test_cut(self) -> None:
        """Two hundred characters are shown whole; of more the last one says that it was cut."""
        for letter in ("a", "é", "世", "🙂"):
            for sent in (letter * 200, (letter * 200).encode()):
                self.assertEqual(shown(sent), letter * 200)
            for longer in (letter * 201, (letter * 201).encode(), letter * 5000):
                self.assertEqual(shown(longer), letter * 199 + "…")

    def test_cut_counts_escapes(self) -> None:
        """The limit holds for what is shown, not for what was sent."""
        self.assertEqual(shown(b"\0" * 50), "\\x00" * 50)
        self.assertEqual(shown(b"\0" * 51), ("\\x00" * 50)[:199] + "…")
        self.assertEqual(len(shown(b"\xff" * 10_000)), 200)

    @quickly
    @given(st.one_of(st.text(max_size=400), st.binary(max_size=1000)))
    def test_always_fit_to_read(self, sent: str | bytes) -> None:
        """Whatever a peer sends, what is shown is short and printable, and stays as it is."""
        text = shown(sent)
        self.assertLessEqual(len(text), 200)
        self.assertTrue(text.isprintable())
        self.assertEqual(shown(text), text)


class TableTests(SynchronousTestCase):
    def test_exit_codes(self) -> None:
        """A command ends with the code of what went wrong."""
        classes = {
            thing
            for _, thing in inspect.getmembers(errors, inspect.isclass)
            if issubclass(thing, MemcacheError)
        }
        self.assertEqual({cls: cls.exit_code for cls in classes}, EXIT_CODES)

    def test_statuses(self) -> None:
        """Each status that is a failure has a class of its own."""
        self.assertEqual(
            SERVER_ERRORS,
            {
                0x01: KeyNotFound,
                0x02: KeyExists,
                0x03: ValueTooLarge,
                0x04: InvalidArguments,
                0x05: NotStored,
                0x06: NonNumericValue,
                0x20: NotPermitted,
                0x81: UnknownCommand,
                0x82: ServerOutOfMemory,
                0x83: NotSupported,
                0x84: ServerInternalError,
                0x85: ServerBusy,
                0x86: TemporaryFailure,
            },
        )
        for status, cls in SERVER_ERRORS.items():
            self.assertTrue(issubclass(cls, ServerError))
            self.assertIn(f"Status 0x{status:02x}", inspect.getdoc(cls) or "")

    def test_summaries(self) -> None:
        """No two statuses read the same."""
        summaries = [ServerError.summary, *(cls.summary for cls in SERVER_ERRORS.values())]
        self.assertEqual(len(set(summaries)), len(summaries))

    def test_branches(self) -> None:
        """Whoever catches a branch catches its causes, and bad arguments are a ValueError too."""
        branches: dict[type[Exception], tuple[type[MemcacheError], ...]] = {
            InvalidArgument: (InvalidKey, InvalidSetting, InsecurePassword),
            ValueError: (InvalidArgument, InvalidKey, InvalidSetting, InsecurePassword),
            ConnectFailed: (NameNotFound, ConnectRefused, ConnectTimedOut, TLSFailed),
            TLSFailed: (TLSVersionRefused, PlaintextServer, ClientCertificateRefused),
            CertificateError: (
                CertificateUntrusted,
                CertificateWrongHost,
                CertificateExpired,
                CertificateNotYetValid,
                PinMismatch,
            ),
            AuthenticationError: (
                CredentialsRefused,
                CredentialsRequired,
                SASLUnavailable,
                MechanismNotOffered,
                ServerNotProven,
            ),
        }
        self.assertTrue(issubclass(CertificateError, TLSFailed))
        self.assertTrue(issubclass(AuthenticationError, ConnectFailed))
        for branch, causes in branches.items():
            for cause in causes:
                self.assertTrue(issubclass(cause, branch), f"{cause} is no {branch}")


class SentenceTests(SynchronousTestCase):
    def assert_reads(self, error: MemcacheError, sentence: str) -> None:
        self.assertEqual(str(error), sentence)

    def test_server_error(self) -> None:
        """The server's no says what it means, the numbers, and what the server said."""
        error = ValueTooLarge(0x01, 0x03, b"Too big.\r\n")
        self.assert_reads(
            error,
            "the value is larger than the server takes (opcode 0x01, status 0x03): Too big.\\r\\n",
        )
        self.assertEqual((error.opcode, error.status, error.text), (1, 3, "Too big.\\r\\n"))
        self.assert_reads(
            ServerError(0x0A, 0x1234), "the server refused the request (opcode 0x0a, status 0x1234)"
        )

    def test_server_error_is_cut(self) -> None:
        """A server can not fill the log."""
        self.assertLess(len(str(ServerBusy(0, 0x85, b"\x1b" * 2**20))), 300)

    def test_pending_limit(self) -> None:
        """It names the setting to raise."""
        error = PendingLimit("max_pending", 7)
        self.assert_reads(error, "the connection has its max_pending of 7 unanswered")
        self.assertEqual((error.limit, error.value), ("max_pending", 7))

    def test_codec_error(self) -> None:
        """It names the codec, and what is stored by its flags."""
        error = CodecError("pylibmc", "it is marked as text and is not UTF-8", flags=16)
        self.assert_reads(error, "codec pylibmc, flags 16: it is marked as text and is not UTF-8")
        self.assertEqual((error.codec, error.flags), ("pylibmc", 16))
        self.assertEqual(error.reason, "it is marked as text and is not UTF-8")
        error = CodecError("raw", "it takes bytes only")
        self.assert_reads(error, "codec raw: it takes bytes only")
        self.assertIsNone(error.flags)

    def test_node_down(self) -> None:
        """It names the server and the cause, whose exit code it has."""
        error = NodeDown("mc1:11211", ConnectTimedOut("mc1:11211", "not ready within 5 s"))
        self.assert_reads(error, "mc1:11211 is down: not ready within 5 s")
        self.assertEqual((error.node, type(error.cause)), ("mc1:11211", ConnectTimedOut))
        self.assertEqual(error.exit_code, 82)
        error = NodeDown("mc1:11211")
        self.assert_reads(error, "mc1:11211 is down")
        self.assertEqual(error.exit_code, 81)

    def test_many_servers(self) -> None:
        """What concerns many servers holds the error of each, and tells the first few."""
        causes: dict[str, MemcacheError] = {
            f"mc{number}:11211": ConnectRefused(f"mc{number}:11211", "nobody listens")
            for number in range(6)
        }
        for error in (NotReady(causes), PartialResult({"a": 1}, causes)):
            said = str(error)
            self.assertIn("mc0:11211: nobody listens; mc1:11211: nobody listens", said)
            self.assertTrue(said.endswith("; and 2 more"), said)
            self.assertEqual((error.errors, error.exit_code), (causes, 81))
        self.assertEqual(PartialResult({"a": 1}, causes).found, {"a": 1})
        silent = PartialResult([], {"mc1:11211": RequestTimeout(2, sent=True)})
        self.assertIn("mc1:11211: no answer within 2 s", str(silent))
        self.assertEqual(silent.exit_code, 82)

    def test_remote_protocol_error(self) -> None:
        """It names the field that was wrong."""
        error = RemoteProtocolError("magic", "an answer starts with 0x48")
        self.assert_reads(
            error, "the peer broke the protocol: an answer starts with 0x48 (field: magic)"
        )
        self.assertEqual((error.field, error.reason), ("magic", "an answer starts with 0x48"))

    def test_connect_failed(self) -> None:
        """It names the server."""
        error = ConnectRefused("mc1.example:11211", "nobody listens on 192.0.2.1")
        self.assert_reads(error, "mc1.example:11211: nobody listens on 192.0.2.1")
        self.assertEqual(error.server, "mc1.example:11211")
        self.assertEqual(error.reason, "nobody listens on 192.0.2.1")

    def test_certificate_error(self) -> None:
        """It carries the facts about the certificate; those that are not known are empty."""
        error = CertificateWrongHost("mc1", "is for mc2", subject="CN=mc2", names=("mc2",), depth=1)
        self.assertEqual((error.subject, error.names, error.depth), ("CN=mc2", ("mc2",), 1))
        self.assertEqual((error.not_before, error.not_after), (None, None))
        bare = CertificateUntrusted("mc1", "self-signed")
        self.assertEqual((bare.subject, bare.names, bare.depth), ("", (), 0))
        self.assert_reads(error, "mc1: is for mc2")

    def test_mechanism_not_offered(self) -> None:
        """It says what there is instead, and shows nothing raw of it."""
        error = MechanismNotOffered("mc1", "SCRAM-SHA-256", ("PLAIN", "CRAM-MD5"))
        self.assert_reads(
            error, "mc1: does not offer the SASL mechanism SCRAM-SHA-256, but PLAIN, CRAM-MD5"
        )
        self.assertEqual(error.mechanism, "SCRAM-SHA-256")
        self.assertEqual(error.offered, ("PLAIN", "CRAM-MD5"))
        error = MechanismNotOffered("mc1", "PLAIN", ())
        self.assert_reads(error, "mc1: does not offer the SASL mechanism PLAIN, but none")
        error = MechanismNotOffered("mc1", "PLAIN", ("\x1b[2J", "X" * 1000))
        self.assertTrue(str(error).isprintable())
        self.assertLess(len(str(error)), 300)
        self.assertEqual(error.offered, ("\\x1b[2J", "X" * 199 + "…"))

    def test_connection_closed(self) -> None:
        """It tells whether a repetition could repeat the effect."""
        self.assert_reads(
            ConnectionClosed(sent=True),
            "the connection was lost; the server may have seen the request",
        )
        error = ConnectionClosed("closed by us", sent=False)
        self.assert_reads(error, "closed by us; the request was not sent")
        self.assertFalse(error.sent)
        self.assertTrue(ConnectionClosed(sent=True).sent)

    def test_request_timeout(self) -> None:
        """It tells the deadline."""
        error = RequestTimeout(2.0, sent=True)
        self.assert_reads(error, "no answer within 2 s")
        self.assertEqual((error.timeout, error.sent), (2.0, True))
        self.assertFalse(RequestTimeout(0.25, sent=False).sent)
