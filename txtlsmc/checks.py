"""What the settings have in common: how a value is checked, and in which words it is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import inf

from txtlsmc.errors import InvalidSetting


def is_whole(number: object, least: int, most: float) -> bool:
    """Return whether *number* is a whole number from *least* to *most*."""
    # True is an int to Python; in a setting it is a mistake.
    return isinstance(number, int) and not isinstance(number, bool) and least <= number <= most


def whole_number(text: str, least: int, most: int, what: str) -> int:
    """
    Return the number that *text* is.

    Raises:
        InvalidSetting: it is none from *least* to *most*; *what* says of what.
    """
    # Ten digits are enough; of thousands int() would make a ValueError of its own.
    if not re.fullmatch("[0-9]{1,10}", text) or not least <= int(text) <= most:
        raise InvalidSetting(f"{what} must be a number from {least} to {most}, not {text!r}")
    return int(text)


def require_whole(name: str, value: object) -> None:
    """Refuse what is no whole number above 0."""
    if not is_whole(value, 1, inf):
        raise InvalidSetting(f"{name} must be a whole number above 0, not {value!r}")


def require_seconds(name: str, value: object) -> None:
    """Refuse what is no time that ends."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < inf:  # type: ignore[operator] # is_number
        raise InvalidSetting(f"{name} must be seconds, above 0, not {value!r}")


def require_bool(name: str, value: object) -> None:
    """Refuse what only looks like True or False."""
    # "false" is true to Python, and some of these words switch protection off.
    if not isinstance(value, bool):
        raise InvalidSetting(f"{name} must be True or False, not {value!r}")


def require_choice(what: str, value: object, choices: Sequence[str]) -> None:
    """Refuse what is none of *choices*."""
    if value not in choices:
        raise InvalidSetting(f"{what} is one of {', '.join(choices)}, not {value!r}")
