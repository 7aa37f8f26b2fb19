"""
Every exception of txtlsmc, under one root, sorted by whose fault it is.

===================== ==============================================================
the caller's          `InvalidArgument`, `InvalidKey`, `InvalidSetting`, `InsecurePassword`
a value               `CodecError`
the server's answer   `ServerError`, one class for each status, from one table
the peer's protocol   `RemoteProtocolError`
the credentials       `AuthenticationError` and its causes
the way there         `ConnectFailed` and its causes, `CertificateError` among them
the wire              `ConnectionClosed`, `ServerSilent`, `RequestTimeout`, `PendingLimit`
many servers          `NodeDown`, `NotReady`, `PartialResult`
===================== ==============================================================

Errors hold data and read as a sentence.  What came from a server is escaped and cut before it
gets into one (see `shown`), and nothing secret ever does.  `MemcacheError.exit_code` is what a
command ends with when this error is what went wrong.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

_SHOWN = 200


def shown(text: bytes | str) -> str:
    """
    Return *text*, which a peer sent, made fit to be read by a person.

    Args:
        text: anything; bytes need not be UTF-8.

    Returns:
        At most 200 characters, without control characters.
    """
    if isinstance(text, bytes):
        # A character has at most four bytes; one more than is shown tells that something was cut.
        text = text[: _SHOWN * 4 + 4].decode("utf-8", "backslashreplace")
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:_SHOWN])
    return (
        escaped if len(escaped) <= _SHOWN and len(text) <= _SHOWN else escaped[: _SHOWN - 1] + "…"
    )


class MemcacheError(Exception):
    """The root of all that txtlsmc raises or fails with."""

    exit_code: int = 1


# The caller's -------------------------------------------------------------------------------


class InvalidArgument(MemcacheError, ValueError):
    """The call can not be right, whatever the server; nothing was sent."""

    exit_code = 64


class InvalidKey(InvalidArgument):
    """A key that is empty, too long, or that text clients of the same cache could not read."""


class InvalidSetting(InvalidArgument):
    """A server, TLS or other setting that can not be right."""


class InsecurePassword(InvalidArgument):
    """Credentials were given for a connection on which anybody could read or steal them."""


class WrongProcess(MemcacheError):
    """A client was used in a process that was forked off after it had connected."""


class PendingLimit(MemcacheError):
    """
    Too much is unanswered on this connection already; nothing of this request was sent.

    Attributes:
        limit: which one, by the name of its setting: ``max_pending`` or ``max_pending_bytes``.
        value: what it is set to.
    """

    def __init__(self, limit: str, value: int) -> None:
        super().__init__(f"the connection has its {limit} of {value} unanswered")
        self.limit, self.value = limit, value


# A value ------------------------------------------------------------------------------------


class CodecError(MemcacheError):
    """
    A value can not be stored, or what is stored can not be read, by this codec.

    Attributes:
        codec: the name of the codec.
        flags: what the stored value is marked with; None when it was to be stored.
        reason: what is wrong, in words; the value is not shown.
    """

    def __init__(self, codec: str, reason: str, *, flags: int | None = None) -> None:
        where = f"codec {codec}" if flags is None else f"codec {codec}, flags {flags}"
        super().__init__(f"{where}: {reason}")
        self.codec, self.flags, self.reason = codec, flags, reason


# The server's answer ------------------------------------------------------------------------


class ServerError(MemcacheError):
    """
    The server answered, and the answer is no.

    Attributes:
        opcode: of the request.
        status: as it came.
        text: what the server said, made fit to be read.
    """

    summary: ClassVar[str] = "the server refused the request"

    def __init__(self, opcode: int, status: int, text: bytes = b"") -> None:
        self.opcode, self.status, self.text = opcode, status, shown(text)
        said = f": {self.text}" if self.text else ""
        super().__init__(f"{self.summary} (opcode 0x{opcode:02x}, status 0x{status:02x}){said}")


class KeyNotFound(ServerError):
    """Status 0x01."""

    summary = "nothing is stored under the key"


class KeyExists(ServerError):
    """Status 0x02."""

    summary = "the key exists, or its item has changed"


class ValueTooLarge(ServerError):
    """Status 0x03: the largest item is the server's own setting (``-I``, 1 MiB by default)."""

    summary = "the value is larger than the server takes"


class InvalidArguments(ServerError):
    """Status 0x04: memcached closes the connection behind it."""

    summary = "the server found the request malformed"


class NotStored(ServerError):
    """Status 0x05."""

    summary = "the item was not stored"


class NonNumericValue(ServerError):
    """Status 0x06: increment or decrement of a value that is no decimal number of 64 bits."""

    summary = "the value is not a number"


class NotPermitted(ServerError):
    """
    Status 0x20 in an authenticated session.

    The credentials may not do this (read-only, or no flush): logging in anew would change nothing.
    """

    exit_code = 94
    summary = "these credentials may not do this"


class UnknownCommand(ServerError):
    """Status 0x81."""

    summary = "the server does not know the command"


class ServerOutOfMemory(ServerError):
    """Status 0x82."""

    summary = "the server is out of memory"


class NotSupported(ServerError):
    """Status 0x83."""

    summary = "the server does not support the command"


class ServerInternalError(ServerError):
    """Status 0x84."""

    summary = "the server failed inside"


class ServerBusy(ServerError):
    """Status 0x85."""

    summary = "the server is busy"


class TemporaryFailure(ServerError):
    """Status 0x86."""

    summary = "the server failed for now"


#: The class for each status of an answer; a status that is not here is a plain `ServerError`.
SERVER_ERRORS: dict[int, type[ServerError]] = {
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
}


# The peer's protocol ------------------------------------------------------------------------


class RemoteProtocolError(MemcacheError):
    """
    What came is not the binary memcache protocol, or no answer to what was asked.

    The connection is aborted and everything pending on it fails with this: after a broken frame
    nobody can tell where the next one starts.

    Attributes:
        field: the field of the header, or the part of the frame or exchange, that was wrong.
        reason: what was wrong with it, in words.
    """

    exit_code = 93

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"the peer broke the protocol: {reason} (field: {field})")
        self.field, self.reason = field, reason


# The way there ------------------------------------------------------------------------------


class ConnectFailed(MemcacheError):
    """
    There is no ready connection to the server.

    Attributes:
        server: its name, as configured.
        reason: why, in words.
    """

    exit_code = 81

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"{server}: {reason}")
        self.server, self.reason = server, reason


class NameNotFound(ConnectFailed):
    """The host name has no address."""

    exit_code = 80


class ConnectRefused(ConnectFailed):
    """Nobody listens there, or the way there is closed."""

    exit_code = 81


class ConnectTimedOut(ConnectFailed):
    """The connection was not ready in time."""

    exit_code = 82


class TLSFailed(ConnectFailed):
    """The TLS handshake failed, and the cause has no class of its own."""

    exit_code = 83


class TLSVersionRefused(TLSFailed):
    """The peer speaks no version of TLS that we accept."""

    exit_code = 88


class PlaintextServer(TLSFailed):
    """The peer answered with something that is not TLS: often it is a plaintext port."""

    exit_code = 88


class ClientCertificateRefused(TLSFailed):
    """The server wants a client certificate, or another one than ours."""

    exit_code = 90


class CertificateError(TLSFailed):
    """
    The server's certificate was not accepted; nothing was sent, no password either.

    Attributes:
        subject: of the certificate in question.
        names: the DNS names and IP addresses the server's certificate is for.
        depth: 0 is the server's own certificate, 1 the one that signed it, and so on.
        not_before: the start of its validity, in UTC.
        not_after: the end of its validity, in UTC.
    """

    def __init__(
        self,
        server: str,
        reason: str,
        *,
        subject: str = "",
        names: tuple[str, ...] = (),
        depth: int = 0,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> None:
        super().__init__(server, reason)
        self.subject, self.names, self.depth = subject, names, depth
        self.not_before, self.not_after = not_before, not_after


class CertificateUntrusted(CertificateError):
    """Nobody we trust signed it."""

    exit_code = 83


class CertificateWrongHost(CertificateError):
    """It is for other names than the one we want to reach."""

    exit_code = 84


class CertificateExpired(CertificateError):
    """Its time is over."""

    exit_code = 85


class CertificateNotYetValid(CertificateError):
    """Its time has not begun."""

    exit_code = 86


class PinMismatch(CertificateError):
    """Its public key is none of the pinned ones."""

    exit_code = 89


# The credentials ----------------------------------------------------------------------------


class AuthenticationError(ConnectFailed):
    """The server and our credentials do not get along."""

    exit_code = 91


class CredentialsRefused(AuthenticationError):
    """The user name or the password is wrong, or the mechanism can not use them."""

    exit_code = 91


class CredentialsRequired(AuthenticationError):
    """The server wants SASL authentication and no credentials were given."""

    exit_code = 91


class SASLUnavailable(AuthenticationError):
    """Credentials were given, and the server has no SASL: to go on would be to trust anybody."""

    exit_code = 92


class MechanismNotOffered(AuthenticationError):
    """
    The server has SASL, but not the mechanism that was asked for.

    Attributes:
        mechanism: what was asked for.
        offered: what the server has, made fit to be read.
    """

    exit_code = 92

    def __init__(self, server: str, mechanism: str, offered: tuple[str, ...]) -> None:
        listed = shown(", ".join(offered)) or "none"
        super().__init__(server, f"does not offer the SASL mechanism {mechanism}, but {listed}")
        self.mechanism, self.offered = mechanism, tuple(shown(name) for name in offered)


class ServerNotProven(AuthenticationError):
    """The server accepted us, and could not prove that it knows the password itself."""

    exit_code = 91


# The wire -----------------------------------------------------------------------------------


class ConnectionClosed(MemcacheError):
    """
    The connection ended with the request unanswered.

    Attributes:
        reason: why it ended.
        sent: whether the server may have seen the request; when False, nothing has happened.
    """

    exit_code = 81

    def __init__(self, reason: str = "the connection was lost", *, sent: bool) -> None:
        seen = "the server may have seen the request" if sent else "the request was not sent"
        super().__init__(f"{reason}; {seen}")
        self.reason, self.sent = reason, sent


class ServerSilent(ConnectionClosed):
    """Nothing came for the connection's timeout while something was pending, so it was given up."""

    exit_code = 82


class RequestTimeout(MemcacheError):
    """
    No answer within the deadline.

    Attributes:
        timeout: what the deadline was, in seconds.
        sent: whether the server may have seen the request.
    """

    exit_code = 82

    def __init__(self, timeout: float, *, sent: bool) -> None:
        super().__init__(f"no answer within {timeout:g} s")
        self.timeout, self.sent = timeout, sent


# Many servers -------------------------------------------------------------------------------


class NodeDown(MemcacheError):
    """
    The server of the key has failed too often, and is not waited for; nothing was sent.

    Attributes:
        node: the name of the server.
        cause: its latest failure.
        exit_code: that of the cause.
    """

    def __init__(self, node: str, cause: MemcacheError | None = None) -> None:
        why = "" if cause is None else f": {str(cause).removeprefix(f'{node}: ')}"
        super().__init__(f"{node} is down{why}")
        self.node, self.cause = node, cause
        self.exit_code = 81 if cause is None else cause.exit_code


class NotReady(MemcacheError):
    """
    Not so many servers became ready as were asked for.

    Attributes:
        errors: why, by the name of the server.
        exit_code: that of the first.
    """

    def __init__(self, errors: dict[str, MemcacheError]) -> None:
        super().__init__("not enough servers are ready: " + _joined(errors))
        self.errors = errors
        self.exit_code = next((e.exit_code for e in errors.values()), 81)


class PartialResult(MemcacheError):
    """
    Some servers could not do their part of it.

    Attributes:
        found: what the others answered, in the form that the whole would have had.
        errors: what was wrong, by the name of the server; the first error of each.
        exit_code: that of the first.
    """

    def __init__(self, found: object, errors: dict[str, MemcacheError]) -> None:
        super().__init__("some servers could not do it: " + _joined(errors))
        self.found, self.errors = found, errors
        self.exit_code = next((e.exit_code for e in errors.values()), 1)


def _joined(errors: dict[str, MemcacheError]) -> str:
    said = [
        str(error) if name in str(error) else f"{name}: {error}" for name, error in errors.items()
    ]
    shortened = said[:4] + ([f"and {len(said) - 4} more"] if len(said) > 4 else [])
    return "; ".join(shortened)
