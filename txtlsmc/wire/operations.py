"""
Operations: a request together with the reader of its answer.

Each function here builds one; the argument checks are made in it, so that a call that can not be
right raises before anything is sent.  A reader takes the list of answers that `Session` hands over
(none for a quiet request that stayed silent, one for most, many for ``stat``) and returns the
result, or raises the `ServerError` of the status.

What counts as a result and not as a failure: a miss on a read, and a condition that did not hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import ceil
from struct import Struct
from typing import Final, Generic, NamedTuple, TypeVar

from txtlsmc.errors import SERVER_ERRORS, InvalidArgument, InvalidKey, ServerError
from txtlsmc.wire.frames import Request, Response
from txtlsmc.wire.opcodes import MAX_KEY, QUIET_TWIN, Opcode, Status

T = TypeVar("T")

_FLAGS: Final = Struct(">I")
_EXPTIME: Final = Struct(">I")
_STORE: Final = Struct(">II")  # flags, exptime
_COUNT: Final = Struct(">QQI")  # delta, initial, exptime
_NUMBER: Final = Struct(">Q")

#: Above this many seconds the server takes an exptime for a Unix time (``protocol.txt``, 30 days).
LONGEST_RELATIVE: Final = 60 * 60 * 24 * 30
#: The smallest Unix time that the server takes for one: long over.
_PAST: Final = LONGEST_RELATIVE + 1
#: As the exptime of increment and decrement: do not create the item.
_DO_NOT_CREATE: Final = 0xFFFFFFFF
_MAX_32: Final = 0xFFFFFFFF
# To look up a member of an enumeration takes as long as to compare ten numbers.
_OK: Final = int(Status.OK)
_NOT_FOUND: Final = int(Status.KEY_NOT_FOUND)
_MAX_64: Final = 0xFFFFFFFFFFFFFFFF

_NOT_IN_KEYS: Final = bytes([*range(0x21), 0x7F])
_LEGAL_KEY = re.compile(rb"[^\x00-\x20\x7f]{1,%d}" % MAX_KEY)


class Operation(NamedTuple, Generic[T]):
    """
    A request, and what its answer means.

    Attributes:
        request: without an opaque yet.
        read: turns the answers into the result, or raises a `ServerError`.
    """

    request: Request
    read: Callable[[list[Response]], T]


class RawItem(NamedTuple):
    """
    What the server holds under a key.

    Attributes:
        value: the bytes, as stored.
        flags: the 32 bits that clients mark values with.
        cas: the version of the item.
    """

    value: bytes
    flags: int
    cas: int


class KeyedItem(NamedTuple):
    """A `RawItem` that came with its key."""

    key: bytes
    value: bytes
    flags: int
    cas: int


def copy_request(request: Request) -> Request:
    """Return the same request again: each that is sent gets a number of its own."""
    return Request(request.opcode, request.key, request.extras, request.value, request.cas)


# Arguments ----------------------------------------------------------------------------------


def encode_key(key: str | bytes) -> bytes:
    """
    Return *key* as it travels.

    Args:
        key: 1 to 250 bytes; text is encoded as UTF-8.  No white space and no control characters:
            the binary protocol could carry them, text clients of the same cache could not.

    Raises:
        InvalidKey: it is not so.
    """
    try:
        encoded = key.encode() if isinstance(key, str) else key
        if _LEGAL_KEY.fullmatch(encoded):
            return encoded if type(encoded) is bytes else bytes(encoded)
    except (AttributeError, TypeError):
        raise InvalidKey(f"a key is str or bytes, not {type(key).__name__}") from None
    except UnicodeEncodeError as error:
        raise InvalidKey(f"a key that UTF-8 can not encode: {error.reason}") from None
    if not encoded:
        raise InvalidKey("the key is empty")
    if len(encoded) > MAX_KEY:
        raise InvalidKey(f"a key of {len(encoded)} bytes; at most {MAX_KEY} are allowed")
    bad = next(i for i, byte in enumerate(encoded) if byte <= 0x20 or byte == 0x7F)
    raise InvalidKey(
        f"byte {bad} of the key is 0x{encoded[bad]:02x}; white space and control characters"
        " are not allowed"
    )


def encode_keys(keys: Sequence[str | bytes]) -> list[bytes]:
    """
    Return *keys* as they travel; as `encode_key` for each, and several times faster for many.

    Raises:
        InvalidKey: one of them is not so.
    """
    try:
        encoded = [key.encode() if type(key) is str else key for key in keys]
        together = b"".join(encoded)  # type: ignore[arg-type]  # or it raises, for what is no bytes
        sizes = {*map(len, encoded)}
        plain = not sizes or (min(sizes) > 0 and max(sizes) <= MAX_KEY)
        plain = plain and len(together.translate(None, _NOT_IN_KEYS)) == len(together)
        if plain and {*map(type, encoded)} <= {bytes}:
            return encoded  # type: ignore[return-value]  # which was just looked at
    except (TypeError, ValueError):
        pass  # and `encode_key` says why
    return [encode_key(key) for key in keys]


def absolute_exptime(exptime: float, now: float) -> int:
    """
    Return *exptime* as the server wants it.

    Args:
        exptime: seconds from *now*, however many; 0 is never, below 0 is over at once.
        now: the Unix time.

    Returns:
        Seconds up to 30 days, a Unix time above: to the server "31 days" would be 1970.  Fractions
        are rounded up, so that an item never lives for less than was asked.

    Raises:
        InvalidArgument: no number, or beyond 32 bits.
    """
    try:
        seconds = ceil(exptime)
    except (TypeError, ValueError, OverflowError):
        raise InvalidArgument(f"exptime is a number of seconds, not {exptime!r}") from None
    if exptime < 0:  # and not `seconds`: -0.5 rounds up to 0, which is never
        return _PAST
    if seconds <= LONGEST_RELATIVE:
        return seconds
    absolute = ceil(now) + seconds
    if absolute >= _MAX_32:
        raise InvalidArgument(f"an exptime of {exptime!r} seconds is beyond what 32 bits can hold")
    return absolute


def _within(number: int, most: int, what: str, least: int = 0) -> int:
    if not isinstance(number, int):
        raise InvalidArgument(f"{what} is an int, not {type(number).__name__}")
    if not least <= number <= most:
        raise InvalidArgument(f"{what} is from {least} to {most}, not {number}")
    return number


def store_extras(flags: int, exptime: int) -> bytes:
    """
    Return the extras of a request that stores.

    Raises:
        InvalidArgument: one of them is no number of 32 bits.
    """
    return _STORE.pack(_within(flags, _MAX_32, "flags"), _within(exptime, _MAX_32, "exptime"))


def encode_value(value: bytes) -> bytes:
    """
    Return *value* as it travels.

    Raises:
        InvalidArgument: it is not bytes.
    """
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise InvalidArgument(f"a value is bytes here, not {type(value).__name__}")
    return bytes(value)


def _opcode(loud: Opcode, quiet: bool) -> int:
    return QUIET_TWIN[loud] if quiet else loud


# Answers ------------------------------------------------------------------------------------


def server_error(response: Response) -> ServerError:
    """Return the error for *response*, which is no success."""
    error = SERVER_ERRORS.get(response.status, ServerError)
    return error(response.opcode, response.status, response.value)


def item_reader(read: Callable[[bytes, int, int], T], miss: T) -> Callable[[list[Response]], T]:
    """Return a reader of the answer to a get, with *read* for value, flags and cas of an item."""

    def item(responses: list[Response]) -> T:
        if not responses:
            return miss
        response = responses[0]
        if response.status == _OK:
            return read(response.value, _FLAGS.unpack(response.extras)[0], response.cas)
        if response.status == _NOT_FOUND:
            return miss
        raise server_error(response)

    return item


#: The item that the answer to a get carries, or None for a miss.
read_item: Callable[[list[Response]], RawItem | None] = item_reader(RawItem, None)


def _read_keyed_item(responses: list[Response]) -> KeyedItem | None:
    item = read_item(responses)
    return None if item is None else KeyedItem(responses[0].key, *item)


def _read_done(responses: list[Response]) -> bool:
    if responses and responses[0].status != _OK:
        raise server_error(responses[0])
    return True


def _read_condition(*unmet: Status) -> Callable[[list[Response]], bool]:
    def read(responses: list[Response]) -> bool:
        if not responses or responses[0].status == Status.OK:
            return True
        if responses[0].status in unmet:
            return False
        raise server_error(responses[0])

    return read


_read_added = _read_condition(Status.KEY_EXISTS)
_read_replaced = _read_condition(Status.KEY_NOT_FOUND)
_read_compared = _read_condition(Status.KEY_EXISTS, Status.KEY_NOT_FOUND)
_read_concatenated = _read_condition(Status.NOT_STORED, Status.KEY_NOT_FOUND)
_read_concatenated_version = _read_condition(
    Status.NOT_STORED, Status.KEY_NOT_FOUND, Status.KEY_EXISTS
)


def _read_number(responses: list[Response]) -> int | None:
    if not responses:
        return None
    response = responses[0]
    if response.status == Status.OK:
        number: int = _NUMBER.unpack(response.value)[0]
        return number
    if response.status == Status.KEY_NOT_FOUND:
        return None
    raise server_error(response)


def _read_text(responses: list[Response]) -> bytes:
    if responses[0].status != Status.OK:
        raise server_error(responses[0])
    return responses[0].value


def _read_statistics(responses: list[Response]) -> dict[bytes, bytes]:
    if responses[-1].status != Status.OK:
        raise server_error(responses[-1])
    return {response.key: response.value for response in responses[:-1]}


# Reading ------------------------------------------------------------------------------------


def get(key: str | bytes, *, quiet: bool = False) -> Operation[RawItem | None]:
    """GET, GETQ: the item under *key*, or None on a miss."""
    return Operation(Request(_opcode(Opcode.GET, quiet), encode_key(key)), read_item)


def gets(key: str | bytes, *, quiet: bool = False) -> Operation[RawItem | None]:
    """The same as `get`: in the binary protocol every answer carries the cas."""
    return get(key, quiet=quiet)


def getk(key: str | bytes, *, quiet: bool = False) -> Operation[KeyedItem | None]:
    """GETK, GETKQ: the same with the key in the answer."""
    return Operation(Request(_opcode(Opcode.GETK, quiet), encode_key(key)), _read_keyed_item)


def gat(key: str | bytes, exptime: int, *, quiet: bool = False) -> Operation[RawItem | None]:
    """GAT, GATQ: the item under *key*, which gets a new *exptime* (as the server counts it)."""
    extras = _EXPTIME.pack(_within(exptime, _MAX_32, "exptime"))
    return Operation(Request(_opcode(Opcode.GAT, quiet), encode_key(key), extras), read_item)


def gatk(key: str | bytes, exptime: int, *, quiet: bool = False) -> Operation[KeyedItem | None]:
    """GATK, GATKQ: the same with the key in the answer."""
    extras = _EXPTIME.pack(_within(exptime, _MAX_32, "exptime"))
    request = Request(_opcode(Opcode.GATK, quiet), encode_key(key), extras)
    return Operation(request, _read_keyed_item)


def touch(key: str | bytes, exptime: int) -> Operation[bool]:
    """TOUCH: a new *exptime*; False when nothing is stored under *key*.  It has no quiet form."""
    extras = _EXPTIME.pack(_within(exptime, _MAX_32, "exptime"))
    return Operation(Request(Opcode.TOUCH, encode_key(key), extras), _read_replaced)


# Writing ------------------------------------------------------------------------------------


def _store(
    opcode: int,
    key: str | bytes,
    value: bytes,
    flags: int,
    exptime: int,
    read: Callable[[list[Response]], bool],
    cas: int = 0,
) -> Operation[bool]:
    extras = store_extras(flags, exptime)
    return Operation(Request(opcode, encode_key(key), extras, encode_value(value), cas), read)


def set(
    key: str | bytes, value: bytes, *, flags: int = 0, exptime: int = 0, quiet: bool = False
) -> Operation[bool]:
    """SET, SETQ: store it, whatever there was."""
    return _store(_opcode(Opcode.SET, quiet), key, value, flags, exptime, _read_done)


def add(
    key: str | bytes, value: bytes, *, flags: int = 0, exptime: int = 0, quiet: bool = False
) -> Operation[bool]:
    """ADD, ADDQ: store it where there was nothing; False where there was."""
    return _store(_opcode(Opcode.ADD, quiet), key, value, flags, exptime, _read_added)


def replace(
    key: str | bytes, value: bytes, *, flags: int = 0, exptime: int = 0, quiet: bool = False
) -> Operation[bool]:
    """REPLACE, REPLACEQ: store it where there was something; False where there was nothing."""
    return _store(_opcode(Opcode.REPLACE, quiet), key, value, flags, exptime, _read_replaced)


def cas(
    key: str | bytes,
    value: bytes,
    cas: int,
    *,
    flags: int = 0,
    exptime: int = 0,
    quiet: bool = False,
) -> Operation[bool]:
    """
    SET, SETQ with a cas: store it where the item still is the version *cas*.

    Raises:
        InvalidArgument: *cas* is 0, which would mean any version.
    """
    version = _within(cas, _MAX_64, "cas", least=1)
    opcode = _opcode(Opcode.SET, quiet)
    return _store(opcode, key, value, flags, exptime, _read_compared, version)


def append(key: str | bytes, value: bytes, *, cas: int = 0, quiet: bool = False) -> Operation[bool]:
    """
    APPEND, APPENDQ: put *value* behind what there is.

    False where there is nothing, or (with *cas*) another version.
    """
    version = _within(cas, _MAX_64, "cas")
    opcode = _opcode(Opcode.APPEND, quiet)
    request = Request(opcode, encode_key(key), value=encode_value(value), cas=version)
    return Operation(request, _read_concatenated_version if version else _read_concatenated)


def prepend(
    key: str | bytes, value: bytes, *, cas: int = 0, quiet: bool = False
) -> Operation[bool]:
    """PREPEND, PREPENDQ: put *value* before what there is; the result is that of `append`."""
    appended = append(key, value, cas=cas)
    appended.request.opcode = _opcode(Opcode.PREPEND, quiet)
    return appended


def delete(key: str | bytes, *, cas: int = 0, quiet: bool = False) -> Operation[bool]:
    """DELETE, DELETEQ: False when nothing was there, or (with *cas*) another version."""
    version = _within(cas, _MAX_64, "cas")
    request = Request(_opcode(Opcode.DELETE, quiet), encode_key(key), cas=version)
    return Operation(request, _read_compared if version else _read_replaced)


def _count(
    loud: Opcode,
    key: str | bytes,
    delta: int,
    initial: int | None,
    exptime: int,
    quiet: bool,
) -> Operation[int | None]:
    _within(exptime, _MAX_32 - 1, "exptime")
    extras = _COUNT.pack(
        _within(delta, _MAX_64, "delta"),
        0 if initial is None else _within(initial, _MAX_64, "initial"),
        _DO_NOT_CREATE if initial is None else exptime,
    )
    return Operation(Request(_opcode(loud, quiet), encode_key(key), extras), _read_number)


def incr(
    key: str | bytes,
    delta: int = 1,
    *,
    initial: int | None = None,
    exptime: int = 0,
    quiet: bool = False,
) -> Operation[int | None]:
    """
    INCREMENT, INCREMENTQ: add *delta* to the decimal number stored there, modulo 2**64.

    Where there is nothing, *initial* is stored with *exptime*, or nothing when it is None.  The
    result is the number that is now there; None when there is none, or when the quiet form
    stayed silent.
    """
    return _count(Opcode.INCREMENT, key, delta, initial, exptime, quiet)


def decr(
    key: str | bytes,
    delta: int = 1,
    *,
    initial: int | None = None,
    exptime: int = 0,
    quiet: bool = False,
) -> Operation[int | None]:
    """DECREMENT, DECREMENTQ: the same downwards; it stops at 0."""
    return _count(Opcode.DECREMENT, key, delta, initial, exptime, quiet)


# The server ---------------------------------------------------------------------------------


def flush_all(delay: int = 0, *, quiet: bool = False) -> Operation[bool]:
    """FLUSH, FLUSHQ: forget everything, *delay* seconds from now (as the server counts it)."""
    _within(delay, _MAX_32, "delay")
    extras = _EXPTIME.pack(delay) if delay else b""
    return Operation(Request(_opcode(Opcode.FLUSH, quiet), extras=extras), _read_done)


def noop() -> Operation[bool]:
    """NOOP: answered after all that came before it on the connection."""
    return Operation(Request(Opcode.NOOP), _read_done)


def version() -> Operation[bytes]:
    """VERSION: the server's; it answers this before authentication too."""
    return Operation(Request(Opcode.VERSION), _read_text)


def stats(argument: str | bytes = b"") -> Operation[dict[bytes, bytes]]:
    """
    STAT: numbers by name; *argument* picks a group (``items``, ``slabs``, ``settings`` …).

    Raises:
        InvalidArgument: *argument* is over 250 bytes, or no text.
    """
    try:
        key = argument.encode() if isinstance(argument, str) else b"".join((argument,))
    except (TypeError, UnicodeEncodeError):
        reason = "the argument of stats is bytes, or text that UTF-8 can encode"
        raise InvalidArgument(reason) from None
    if len(key) > MAX_KEY:
        raise InvalidArgument(f"the argument of stats has {len(key)} bytes; at most {MAX_KEY}")
    return Operation(Request(Opcode.STAT, key), _read_statistics)


def quit(*, quiet: bool = False) -> Operation[bool]:
    """QUIT, QUITQ: the server closes the connection; QUITQ is never answered."""
    return Operation(Request(_opcode(Opcode.QUIT, quiet)), _read_done)
