"""
Opcodes and statuses, one table each: what is legal to ask and what is legal to answer.

The rows of `OPCODES` were read off memcached 1.6.18 (``protocol_binary.h`` and ``proto_bin.c``) and
are held against the real server by the tests.  Client, gateway and embedded server share them, so
a request that one of them finds well formed is well formed for all.

Opcode and status stay the `int` that came; the enumerations only give them names.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final, NamedTuple

MAX_KEY: Final = 250
#: memcached's longest mechanism name.
MAX_MECHANISM: Final = 32


class Opcode(IntEnum):
    """What a request asks for."""

    GET = 0x00
    SET = 0x01
    ADD = 0x02
    REPLACE = 0x03
    DELETE = 0x04
    INCREMENT = 0x05
    DECREMENT = 0x06
    QUIT = 0x07
    FLUSH = 0x08
    GETQ = 0x09
    NOOP = 0x0A
    VERSION = 0x0B
    GETK = 0x0C
    GETKQ = 0x0D
    APPEND = 0x0E
    PREPEND = 0x0F
    STAT = 0x10
    SETQ = 0x11
    ADDQ = 0x12
    REPLACEQ = 0x13
    DELETEQ = 0x14
    INCREMENTQ = 0x15
    DECREMENTQ = 0x16
    QUITQ = 0x17
    FLUSHQ = 0x18
    APPENDQ = 0x19
    PREPENDQ = 0x1A
    TOUCH = 0x1C
    GAT = 0x1D
    GATQ = 0x1E
    SASL_LIST = 0x20
    SASL_AUTH = 0x21
    SASL_STEP = 0x22
    GATK = 0x23
    GATKQ = 0x24


class Status(IntEnum):
    """How it went; `txtlsmc.errors.SERVER_ERRORS` has the class for each that is a failure."""

    OK = 0x00
    KEY_NOT_FOUND = 0x01
    KEY_EXISTS = 0x02
    VALUE_TOO_LARGE = 0x03
    INVALID_ARGUMENTS = 0x04
    NOT_STORED = 0x05
    NON_NUMERIC_VALUE = 0x06
    AUTHENTICATION_ERROR = 0x20
    AUTHENTICATION_CONTINUE = 0x21
    UNKNOWN_COMMAND = 0x81
    OUT_OF_MEMORY = 0x82
    NOT_SUPPORTED = 0x83
    INTERNAL_ERROR = 0x84
    BUSY = 0x85
    TEMPORARY_FAILURE = 0x86


#: What memcached says beside an error, as the value of the answer.
STATUS_TEXTS: Final[dict[int, bytes]] = {
    Status.KEY_NOT_FOUND: b"Not found",
    Status.KEY_EXISTS: b"Data exists for key.",
    Status.VALUE_TOO_LARGE: b"Too large.",
    Status.INVALID_ARGUMENTS: b"Invalid arguments",
    Status.NOT_STORED: b"Not stored.",
    Status.NON_NUMERIC_VALUE: b"Non-numeric server-side value for incr or decr",
    Status.AUTHENTICATION_ERROR: b"Auth failure.",
    Status.UNKNOWN_COMMAND: b"Unknown command",
    Status.OUT_OF_MEMORY: b"Out of memory",
}


class Quiet(Enum):
    """When the server keeps silent; it never does about an error."""

    NEVER = "never"
    ON_MISS = "on a miss"
    ON_SUCCESS = "on success"


class Key(Enum):
    """Whether a frame has a key."""

    NONE = "none"
    REQUIRED = "required"
    OPTIONAL = "optional"
    #: In an answer: the key of the request again.
    ECHOED = "echoed"


class Shape(NamedTuple):
    """
    The legal lengths of a frame's parts.

    Attributes:
        extras: the legal lengths of the extras.
        key: whether there is a key (of 1 to 250 bytes).
        value: the legal length of the value, or None for any.
    """

    extras: tuple[int, ...]
    key: Key
    value: int | None


class OpcodeRow(NamedTuple):
    """
    What the protocol says of one opcode.

    Attributes:
        opcode: which one.
        loud: its twin that is always answered; itself when it is that.
        quiet: when the answer is suppressed.
        request: the legal shape of the request; memcached closes the connection behind another.
        answer: the legal shape of an answer with status 0.
    """

    opcode: Opcode
    loud: Opcode
    quiet: Quiet
    request: Shape
    answer: Shape


_BARE = Shape((0,), Key.NONE, 0)
_KEY = Shape((0,), Key.REQUIRED, 0)
_KEY_EXPTIME = Shape((4,), Key.REQUIRED, 0)
_STORE = Shape((8,), Key.REQUIRED, None)  # flags, exptime
_CONCATENATE = Shape((0,), Key.REQUIRED, None)
_COUNT = Shape((20,), Key.REQUIRED, 0)  # delta, initial, exptime
_FLUSH = Shape((0, 4), Key.NONE, 0)  # when
_SASL = Shape((0,), Key.REQUIRED, None)  # key: the mechanism
_STAT = Shape((0,), Key.OPTIONAL, 0)

_TEXT = Shape((0,), Key.NONE, None)
_NUMBER = Shape((0,), Key.NONE, 8)
_ITEM = Shape((4,), Key.NONE, None)  # flags
_KEYED_ITEM = Shape((4,), Key.ECHOED, None)
_TOUCHED = Shape((0, 4), Key.NONE, 0)  # memcached sends the flags, the specification has none
_STATISTIC = Shape((0,), Key.OPTIONAL, None)


def _rows() -> dict[int, OpcodeRow]:
    op = Opcode
    table: list[tuple[Opcode, Opcode | None, Quiet, Shape, Shape]] = [
        # loud             its quiet twin  silent            request       answer
        (op.GET, op.GETQ, Quiet.ON_MISS, _KEY, _ITEM),
        (op.GETK, op.GETKQ, Quiet.ON_MISS, _KEY, _KEYED_ITEM),
        (op.GAT, op.GATQ, Quiet.ON_MISS, _KEY_EXPTIME, _ITEM),
        (op.GATK, op.GATKQ, Quiet.ON_MISS, _KEY_EXPTIME, _KEYED_ITEM),
        (op.SET, op.SETQ, Quiet.ON_SUCCESS, _STORE, _BARE),
        (op.ADD, op.ADDQ, Quiet.ON_SUCCESS, _STORE, _BARE),
        (op.REPLACE, op.REPLACEQ, Quiet.ON_SUCCESS, _STORE, _BARE),
        (op.APPEND, op.APPENDQ, Quiet.ON_SUCCESS, _CONCATENATE, _BARE),
        (op.PREPEND, op.PREPENDQ, Quiet.ON_SUCCESS, _CONCATENATE, _BARE),
        (op.DELETE, op.DELETEQ, Quiet.ON_SUCCESS, _KEY, _BARE),
        (op.INCREMENT, op.INCREMENTQ, Quiet.ON_SUCCESS, _COUNT, _NUMBER),
        (op.DECREMENT, op.DECREMENTQ, Quiet.ON_SUCCESS, _COUNT, _NUMBER),
        (op.FLUSH, op.FLUSHQ, Quiet.ON_SUCCESS, _FLUSH, _BARE),
        (op.QUIT, op.QUITQ, Quiet.ON_SUCCESS, _BARE, _BARE),
        (op.TOUCH, None, Quiet.NEVER, _KEY_EXPTIME, _TOUCHED),
        (op.NOOP, None, Quiet.NEVER, _BARE, _BARE),
        (op.VERSION, None, Quiet.NEVER, _BARE, _TEXT),
        (op.STAT, None, Quiet.NEVER, _STAT, _STATISTIC),
        (op.SASL_LIST, None, Quiet.NEVER, _BARE, _TEXT),
        (op.SASL_AUTH, None, Quiet.NEVER, _SASL, _TEXT),
        (op.SASL_STEP, None, Quiet.NEVER, _SASL, _TEXT),
    ]
    rows = {}
    for loud, twin, quiet, request, answer in table:
        rows[int(loud)] = OpcodeRow(loud, loud, Quiet.NEVER, request, answer)
        if twin is not None:
            rows[int(twin)] = OpcodeRow(twin, loud, quiet, request, answer)
    return rows


#: Everything memcached knows, by opcode.
OPCODES: Final = _rows()

#: The quiet twin of each loud opcode that has one.
QUIET_TWIN: Final = {
    int(row.loud): int(row.opcode) for row in OPCODES.values() if row.quiet is not Quiet.NEVER
}


def opcode_name(opcode: int) -> str:
    """Return the name of *opcode*, or its number when nobody knows it."""
    row = OPCODES.get(opcode)
    return f"0x{opcode:02x}" if row is None else row.opcode.name
