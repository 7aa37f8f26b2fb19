"""Answers with a wrong field in the header, and parts that disagree, as a table of cases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.hostile import changed, good, value_of
from tests.net.hostile.case import (
    ROOMY,
    Case,
    broken,
    item,
)
from tests.net.hostile.making import (
    LARGEST,
    Build,
    add,
    append,
    case,
    delete,
    flush_all,
    get,
    getk,
    header,
    incr,
    noop,
    parts,
    refusal,
    set_,
    several,
    touch,
    version,
)

# The header, field by field -----------------------------------------------------------------

#: The body of a good answer to get("b"): four bytes of flags and the value.
_BODY: Final = 4 + len(value_of(b"b"))
_VALUE: Final = _BODY - 4


def _neighbour(offset: int) -> Build:
    return lambda r: good(r, opaque=(r.opaque + offset) & LARGEST[32])


def header_cases() -> Iterator[Case]:
    """Yield the cases about one field: zero, one too small, one too large, the largest."""
    yield header("magic zero", "magic", magic=0)
    yield header("magic one too small that of requests", "magic", magic=0x80)
    yield header("magic one too large", "magic", magic=0x82)
    yield header("magic largest", "magic", magic=LARGEST[8])

    yield header("opcode zero for a set", "opcode", set_, opcode=0)
    yield header("opcode one too small", "opcode", add, opcode=1)
    yield header("opcode one too large", "opcode", opcode=1)
    yield header("opcode largest", "opcode", opcode=LARGEST[8])
    yield header("opcode of the quiet twin", "opcode", opcode=9)
    yield header("opcode with a key where none was asked for", "opcode", opcode=0x0C)

    yield header("key length one where there is no key", "key length", key_length=1)
    yield header("key length that takes the whole value", "key length", key_length=_VALUE)
    yield header("key length one too large for the body", "body length", key_length=_VALUE + 1)
    yield header("key length largest", "body length", key_length=LARGEST[16])
    yield header("key length zero for a getk", "key", getk, key_length=0)
    yield header("key length one too large for a getk", "key", getk, key_length=2)
    yield header("key length one for a noop", "body length", noop, key_length=1)
    yield parts("key length of 64 KiB and as much body", "key length", get("b"), key=bytes(65535))
    yield parts("key length of 64 KiB and as much body for a getk", "key", getk, key=bytes(65535))

    yield header("extras length zero", "extras length", extras_length=0)
    yield header("extras length one too small", "extras length", extras_length=3)
    yield header("extras length one too large", "extras length", extras_length=5)
    yield header("extras length of the body", "extras length", extras_length=_BODY)
    yield header("extras length one larger than the body", "body length", extras_length=_BODY + 1)
    yield header("extras length largest", "body length", extras_length=LARGEST[8])
    yield parts(
        "extras length largest and as much body", "extras length", get("b"), extras=bytes(255)
    )

    yield header("data type one", "data type", data_type=1)
    yield header("data type largest", "data type", data_type=LARGEST[8])

    yield header("status of a failure with the extras of a hit", "extras length", status=1)
    yield header("status authentication continues", "status", status=0x21)

    yield header("body length zero", "body length", body_length=0)
    yield header("body length one too small for the extras", "body length", body_length=3)
    yield header("body length zero for a number", "value", incr, body_length=0)
    yield header("body length one too small for a number", "value", incr, body_length=7)
    yield header("body length one too large for a number", "value", incr, body_length=9)
    yield header("body length one over max_body", "body length", body_length=ROOMY.max_body + 1)
    yield header("body length of 2 GiB", "body length", body_length=2**31)
    yield header("body length largest 4 GiB", "body length", body_length=LARGEST[32])

    yield case("opaque one too small a neighbour's", get("b"), _neighbour(-1), broken("opaque"))
    yield case("opaque one too large a neighbour's", get("b"), _neighbour(1), broken("opaque"))
    yield case("opaque never asked for", get("b"), _neighbour(1000), broken("opaque"))
    yield header("opaque largest", "opaque", opaque=LARGEST[32])
    yield header("opaque of the middle", "opaque", opaque=2**31)
    yield several(
        "opaque zero long after it was used",
        tuple(get(key) for key in "abc"),
        lambda r: [good(r[0]), good(r[1]), good(r[2], opaque=0)],
        (item("a"), item("b"), broken("opaque")),
    )


def undecidable_cases() -> Iterator[Case]:
    """
    Yield the cases of a body length that is a lie, and a frame that is right in itself.

    Nobody can tell such a frame from a right one: that it was wrong shows in the one behind it.
    """

    def lying(name: str, length: int, value: bytes) -> Case:
        return several(
            f"body length one too {name}",
            tuple(get(key) for key in "abc"),
            lambda r: [good(r[0]), changed(good(r[1]), body_length=length), good(r[2])],
            (item("a"), item("b", value), broken("magic")),
        )

    yield lying("small", _BODY - 1, value_of(b"b")[:-1])
    yield lying("large", _BODY + 1, value_of(b"b") + b"\x81")


# Fields and parts that must agree -----------------------------------------------------------


def pair_cases() -> Iterator[Case]:
    """Yield the cases in which two parts of an answer, or of it and the request, disagree."""
    yield parts("a getk with another key", "key", getk, key=b"c")
    yield parts("a getk with the key in another case", "key", getk, key=b"B")
    yield parts("a getk with a longer key", "key", getk, key=b"bb")
    yield parts("a getk without the key", "key", getk, key=b"")
    yield parts("a get with a key", "key length", get("b"), key=b"b")
    yield parts("a get without flags", "extras length", get("b"), extras=b"")
    yield parts("a get with flags of 8 bytes", "extras length", get("b"), extras=bytes(8))
    yield parts("a set with extras", "extras length", set_, extras=bytes(4))
    yield parts("a set with a key", "key length", set_, key=b"b")
    yield parts("a set with a value", "value", set_, value=b"x")
    yield parts("a delete with a value", "value", delete, value=b"x")
    yield parts("an append with the new value", "value", append, value=b"more")
    yield parts("a noop with a value", "value", noop, value=b"x")
    yield parts("a noop with extras", "extras length", noop, extras=b"x")
    yield parts("a flush with extras", "extras length", flush_all, extras=bytes(4))
    yield parts("a version with extras", "extras length", version, extras=bytes(4))
    yield parts("a version with a key", "key length", version, key=b"version")
    yield parts("a touch with 3 bytes of extras", "extras length", touch, extras=bytes(3))
    yield parts("a touch with 5 bytes of extras", "extras length", touch, extras=bytes(5))
    yield parts("a touch with a value", "value", touch, value=b"x")
    yield parts("a number without a value", "value", incr, value=b"")
    yield parts("a number of 7 bytes", "value", incr, value=bytes(7))
    yield parts("a number of 9 bytes", "value", incr, value=bytes(9))
    yield parts("a number in digits", "value", incr, value=b"42")
    yield parts("a number with extras", "extras length", incr, extras=bytes(4))
    yield parts("a number with a key", "key length", incr, key=b"b")
    yield case(
        "an error with another key",
        set_,
        lambda r: refusal(r, 0x82, key=b"c"),
        broken("key"),
    )
    yield case(
        "an error with a key of 64 KiB",
        set_,
        lambda r: refusal(r, 0x82, key=bytes(65535)),
        broken("key"),
    )
    yield case(
        "an error with extras",
        set_,
        lambda r: refusal(r, 0x82, extras=bytes(4)),
        broken("extras length"),
    )
    yield case(
        "a miss with extras",
        get("b"),
        lambda r: refusal(r, 1, extras=bytes(4)),
        broken("extras length"),
    )
    yield case(
        "the opcode of one request with the opaque of another",
        set_,
        lambda r: good(r, opcode=0, opaque=r.opaque + 1),
        broken("opaque"),
    )
