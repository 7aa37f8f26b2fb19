"""
SASLprep (RFC 4013): make what people type for one name, or one password, the same characters.

An "é" may be one character or two, and a space may be one of a dozen; to the hash of a password
these are different.  The tables are those of Unicode 3.2, which the RFC names and the standard
library carries.

Nothing here raises, because the text may be a password, and a traceback shows what was in hand.
"""

from __future__ import annotations

import stringprep
from collections.abc import Callable
from enum import Enum
from typing import Final
from unicodedata import ucd_3_2_0

#: Section 2.3, without table C.1.2: `prepare` makes spaces of these.
_PROHIBITED: Final[tuple[Callable[[str], bool], ...]] = (
    stringprep.in_table_c21_c22,  # control characters
    stringprep.in_table_c3,  # private use
    stringprep.in_table_c4,  # no characters at all
    stringprep.in_table_c5,  # surrogates
    stringprep.in_table_c6,  # not for plain text
    stringprep.in_table_c7,  # not for canonical representation
    stringprep.in_table_c8,  # change of display, or deprecated
    stringprep.in_table_c9,  # tags
)


class Unprepared(Enum):
    """Why a text has no prepared form, in words that continue "the password …"."""

    EMPTY = "is empty, or has only characters that are ignored"
    PROHIBITED = "holds a control character, or another one that is prohibited"
    BIDIRECTIONAL = "mixes text that runs from right to left with text that does not"
    UNASSIGNED = "holds a character that is not in Unicode 3.2, an emoji for instance"


def prepare(text: str, *, stored: bool) -> str | Unprepared:
    """
    Return the prepared form of *text*.

    Args:
        text: a user name or a password.
        stored: whether it is a "stored string", in which characters that Unicode 3.2 had not
            assigned are refused, or a "query", in which they pass as they are (section 2.5).  In
            SCRAM the password is a stored string, for both sides, and the user name a query (RFC
            5802, sections 2.2 and 5.1).

    Returns:
        The prepared text, never empty, or why there is none.
    """
    # U+200B is in both tables.  A space it is for libidn and for PostgreSQL too.
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in text
        if stringprep.in_table_c12(character) or not stringprep.in_table_b1(character)
    )
    prepared = ucd_3_2_0.normalize("NFKC", mapped)
    if not prepared:
        return Unprepared.EMPTY
    if any(prohibited(character) for character in prepared for prohibited in _PROHIBITED):
        return Unprepared.PROHIBITED
    if any(map(stringprep.in_table_d1, prepared)) and not _runs_right_to_left(prepared):
        return Unprepared.BIDIRECTIONAL
    if stored and any(map(stringprep.in_table_a1, prepared)):
        return Unprepared.UNASSIGNED
    return prepared


def _runs_right_to_left(text: str) -> bool:
    # RFC 3454, section 6, for a text that has a character of table D.1.
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(map(stringprep.in_table_d2, text))
