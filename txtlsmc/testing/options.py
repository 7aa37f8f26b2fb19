"""What a `MemoryServer` was made with, as one frozen object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import MECHANISMS

#: memcached takes no smaller one.
_LEAST_ITEM = 1024


@dataclass(frozen=True)
class ServerOptions:
    """
    The arguments of `MemoryServer` that its parts share; it says what they are.

    Raises:
        InvalidSetting: one of them can not be right.
    """

    users: Mapping[str, str] | None = field(repr=False)
    mechanisms: tuple[str, ...]
    tls: bool
    max_bytes: int
    max_item: int
    max_body: int
    max_connections: int
    flush_enabled: bool
    version: str
    wall_clock: Callable[[], float]
    nonce: Callable[[], str]

    def __post_init__(self) -> None:
        unknown = [name for name in self.mechanisms if name not in MECHANISMS]
        if unknown or not self.mechanisms:
            raise InvalidSetting(
                f"the SASL mechanisms are of {', '.join(MECHANISMS)}, in any order,"
                f" not {', '.join(map(repr, unknown)) or 'none'}"
            )
        for name, least in (
            ("max_bytes", 1),
            ("max_item", _LEAST_ITEM),
            ("max_body", self.max_item),
            ("max_connections", 1),
        ):
            if getattr(self, name) < least:
                raise InvalidSetting(f"{name} must be {least} or more, not {getattr(self, name)!r}")
