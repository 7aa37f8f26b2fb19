"""What a client may say at once when it is asked who it is: right, wrong, and odd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.integration.parity.exchange import Piece
from tests.integration.parity.operations import NOOP
from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import MAX_KEY, MAX_MECHANISM, Opcode

PLAIN: Final = b"PLAIN"
CRAM: Final = b"CRAM-MD5"
SCRAM: Final = b"SCRAM-SHA-256"

LIST: Final = Request(Opcode.SASL_LIST)
VERSION: Final = Request(Opcode.VERSION)


def auth(mechanism: bytes, value: bytes = b"") -> Request:
    """Return the first words of a dialogue."""
    return Request(Opcode.SASL_AUTH, mechanism, value=value)


def step(mechanism: bytes, value: bytes = b"") -> Request:
    """Return further words of a dialogue."""
    return Request(Opcode.SASL_STEP, mechanism, value=value)


def plain(user: str = "alice", password: str = "secret", authority: str = "") -> bytes:
    """Return what PLAIN says."""
    return f"{authority}\0{user}\0{password}".encode()


def scram(words: bytes) -> Request:
    """Return the first words of a dialogue of SCRAM-SHA-256."""
    return auth(SCRAM, words)


SCRAM_FIRST: Final = b"n,,n=alice,r=clientnonce"
RIGHT: Final = auth(PLAIN, plain())
WRONG: Final = auth(PLAIN, plain(password="wrong"))

#: The name, what it is, and the pieces of one flight.
WORDS: Final[Sequence[tuple[str, str, tuple[Piece, ...]]]] = (
    ("list", "LIST", (LIST,)),
    ("list_twice", "LIST, twice", (LIST, LIST)),
    ("version", "VERSION", (VERSION,)),
    ("right", "the right password", (RIGHT,)),
    ("list_and_right", "LIST and the right password", (LIST, RIGHT)),
    ("right_and_noop", "the right password and NOOP", (RIGHT, NOOP)),
    ("right_and_list", "the right password and LIST", (RIGHT, LIST)),
    ("right_and_right", "the right password twice at once", (RIGHT, RIGHT)),
    ("right_and_wrong", "the right password and a wrong one at once", (RIGHT, WRONG)),
    ("right_and_step", "the right password and STEP", (RIGHT, step(PLAIN))),
    ("wrong", "a wrong password", (WRONG,)),
    ("wrong_and_right", "a wrong password and the right one", (WRONG, RIGHT)),
    ("wrong_and_noop", "a wrong password and NOOP", (WRONG, NOOP)),
    ("wrong_and_list", "a wrong password and LIST", (WRONG, LIST)),
    ("wrong_and_step", "a wrong password and STEP", (WRONG, step(PLAIN, plain()))),
    ("unknown_user", "an unknown user", (auth(PLAIN, plain("bob")),)),
    ("no_user", "no user", (auth(PLAIN, plain("")),)),
    ("no_password", "no password", (auth(PLAIN, plain(password="")),)),
    ("own_authority", "acting as oneself", (auth(PLAIN, plain(authority="alice")),)),
    ("other_authority", "acting as another", (auth(PLAIN, plain(authority="bob")),)),
    ("no_nul", "PLAIN without a NUL", (auth(PLAIN, b"alice secret"),)),
    ("one_nul", "PLAIN with one NUL", (auth(PLAIN, b"alice\0secret"),)),
    ("three_nuls", "PLAIN with three NULs", (auth(PLAIN, plain() + b"\0"),)),
    ("only_nuls", "PLAIN of NULs", (auth(PLAIN, b"\0\0"),)),
    ("no_utf_8", "PLAIN with what is no UTF-8", (auth(PLAIN, b"\0alice\0\xff\xfe"),)),
    ("empty", "PLAIN without words", (auth(PLAIN),)),
    ("empty_and_step", "PLAIN in a STEP", (auth(PLAIN), step(PLAIN, plain()))),
    (
        "empty_and_wrong",
        "PLAIN in a STEP, wrong",
        (auth(PLAIN), step(PLAIN, plain(password="x"))),
    ),
    ("empty_and_empty", "PLAIN without words, twice", (auth(PLAIN), step(PLAIN))),
    ("empty_and_other", "a STEP of another mechanism", (auth(PLAIN), step(b"NOSUCH", plain()))),
    ("step", "STEP without AUTH", (step(PLAIN, plain()),)),
    ("step_empty", "STEP without AUTH and words", (step(PLAIN),)),
    ("lower_case", "a mechanism in small letters", (auth(b"plain", plain()),)),
    ("mixed_case", "a mechanism in mixed letters", (auth(b"pLaIn", plain()),)),
    ("unknown", "an unknown mechanism", (auth(b"NOSUCH", b"x"),)),
    ("unknown_empty", "an unknown mechanism without words", (auth(b"NOSUCH"),)),
    ("not_offered", "a mechanism that is not offered", (auth(b"DIGEST-MD5", b"x"),)),
    ("anonymous", "ANONYMOUS", (auth(b"ANONYMOUS", b"x"),)),
    ("longer_name", "a mechanism with more behind its name", (auth(b"PLAINER", plain()),)),
    ("shorter_name", "a mechanism with less of its name", (auth(b"PLAI", plain()),)),
    ("name_with_space", "a mechanism with a space", (auth(b"PLAIN ", plain()),)),
    ("name_with_nul", "a mechanism with a NUL", (auth(b"PLAIN\0X", plain()),)),
    ("name_of_nul", "a mechanism of a NUL", (auth(b"\0", plain()),)),
    ("name_odd", "a mechanism of odd bytes", (auth(b"\xff\xdf", plain()),)),
    ("name_list", "a list of mechanisms", (auth(b"PLAIN CRAM-MD5", plain()),)),
    ("name_32", "a mechanism of 32 bytes", (auth(b"M" * MAX_MECHANISM, b"x"),)),
    ("name_33", "a mechanism of 33 bytes", (auth(b"M" * (MAX_MECHANISM + 1), b"x"),)),
    ("name_33_empty", "a mechanism of 33 bytes without words", (auth(b"M" * (MAX_MECHANISM + 1)),)),
    ("name_250", "a mechanism of 250 bytes", (auth(b"M" * MAX_KEY, b"x"),)),
    (
        "step_name_33",
        "a STEP of a mechanism of 33 bytes",
        (step(b"M" * (MAX_MECHANISM + 1), b"x"),),
    ),
    ("scram_empty", "SCRAM-SHA-256 without words", (auth(SCRAM),)),
    ("scram_text", "SCRAM-SHA-256 with no SCRAM", (scram(b"hello"),)),
    (
        "scram_unknown_user",
        "SCRAM-SHA-256 of an unknown user",
        (scram(b"n,,n=bob,r=clientnonce"),),
    ),
    (
        "scram_authority",
        "SCRAM-SHA-256 acting as oneself",
        (scram(b"n,a=alice,n=alice,r=clientnonce"),),
    ),
    (
        "scram_other",
        "SCRAM-SHA-256 acting as another",
        (scram(b"n,a=bob,n=alice,r=clientnonce"),),
    ),
    (
        "scram_binding_no",
        "SCRAM-SHA-256 with the channel binding y",
        (scram(b"y,,n=alice,r=clientnonce"),),
    ),
    (
        "scram_binding",
        "SCRAM-SHA-256 with a channel binding",
        (scram(b"p=tls-unique,,n=alice,r=clientnonce"),),
    ),
    ("scram_no_nonce", "SCRAM-SHA-256 without a nonce", (scram(b"n,,n=alice"),)),
    (
        "scram_extension",
        "SCRAM-SHA-256 with an extension",
        (scram(b"n,,m=x,n=alice,r=clientnonce"),),
    ),
    (
        "scram_more",
        "SCRAM-SHA-256 with an attribute more",
        (scram(b"n,,n=alice,r=clientnonce,x=y"),),
    ),
    (
        "scram_bad_name",
        "SCRAM-SHA-256 with a wrong escape",
        (scram(b"n,,n=al=ice,r=clientnonce"),),
    ),
    (
        "scram_step_text",
        "SCRAM-SHA-256 with no proof",
        (scram(SCRAM_FIRST), step(SCRAM, b"c=biws")),
    ),
    (
        "scram_step_empty",
        "SCRAM-SHA-256 with an empty proof",
        (scram(SCRAM_FIRST), step(SCRAM)),
    ),
    (
        "scram_lower_case",
        "SCRAM-SHA-256 in small letters",
        (auth(b"scram-sha-256", SCRAM_FIRST),),
    ),
    ("cram_words", "CRAM-MD5 with words at once", (auth(CRAM, b"alice 0123"),)),
    ("cram", "CRAM-MD5", (auth(CRAM),)),
    ("cram_text", "CRAM-MD5 with no digest", (auth(CRAM), step(CRAM, b"hello"))),
    ("cram_empty", "CRAM-MD5 with an empty digest", (auth(CRAM), step(CRAM))),
    (
        "cram_short",
        "CRAM-MD5 with a short digest",
        (auth(CRAM), step(CRAM, b"alice 0123")),
    ),
)
