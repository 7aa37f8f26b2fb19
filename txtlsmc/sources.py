"""
What can be set, by name, and where it was.

Each source (a URL, a TOML file, the environment, a command line) makes a *layer*: values by the
names in `SETTINGS`, each with the words for where it stood, so that every error can name that.  A
`txtlsmc.drafts.Draft` takes the layers in order and makes `ClientSettings` of them.

A value may be a password, so functions that raise hold values only as `Given`, whose repr does not
show them: a report with the locals of all functions on the way has nothing to tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from txtlsmc.checks import require_bool
from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import (
    TLS,
    Backoff,
    ClientSettings,
    Credentials,
    Limits,
    Routing,
    parse_servers,
)


@dataclass(frozen=True, slots=True)
class Given:
    """
    A value and where it was given; only the latter is shown.

    Attributes:
        value: text as it was written, or what a setting is made of.
        origin: such as ``"--timeout"`` or ``"TXTLSMC_PASSWORD"``.
        beside: where the missing half would be given: the password for a user name, the user name
            for a password, and for servers that always want one.
        tls_port: for servers, where they are known to speak TLS.
    """

    value: Any = field(repr=False)
    origin: str
    beside: str = ""
    tls_port: int | None = None


Layer = dict[str, Given]


# Values that are written as text ------------------------------------------------------------


def _text(text: str) -> str:
    return text


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise InvalidSetting(f"must be seconds, such as 2 or 0.5, not {text!r}")
    return float(text)


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,15}", text):
        raise InvalidSetting(f"must be a whole number, not {text!r}")
    return int(text)


def _flag(text: str) -> bool:
    if text not in ("1", "true", "yes", "0", "false", "no"):
        raise InvalidSetting(f"must be 1, true or yes, or else 0, false or no, not {text!r}")
    return text in ("1", "true", "yes")


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


# What there is to be set --------------------------------------------------------------------


class Setting(NamedTuple):
    """
    One thing that can be set.

    Attributes:
        name: in the query of a URL; with hyphens, the option of a command.
        key: in a TOML file: the object of `txtlsmc.settings` and its attribute.
        read: makes the value of text; raises `InvalidSetting`.
        summary: for the help of a command: in capitals what stands behind the option.
    """

    name: str
    key: str
    read: Callable[[str], object]
    summary: str


SETTINGS: Final = {
    setting.name: setting
    for setting in (
        Setting("servers", "servers", _text, "HOST:PORT,… in ring order"),
        Setting("tls_port", "tls_port", _number, "PORT to dial instead, of the same hosts"),
        Setting("insecure_plaintext", "insecure_plaintext", _flag, "No TLS: all can be read."),
        Setting("namespace", "namespace", _text, "TEXT before every key"),
        Setting("codec", "codec", _text, "NAME of how values are marked: pylibmc"),
        Setting("ca", "tls.ca", _text, "FILE or FOLDER of what to trust (PEM)"),
        Setting(
            "client_certificate",
            "tls.client_certificate",
            _text,
            "FILE with our certificate and its private key (PEM)",
        ),
        Setting("pins", "tls.pins", _list, "SHA256,… of acceptable public keys"),
        Setting("server_name", "tls.server_name", _text, "NAME that the certificate must be for"),
        Setting("minimum_version", "tls.minimum_version", _text, "VERSION of TLS: 1.2 or 1.3"),
        Setting("insecure_no_verify", "tls.insecure_no_verify", _flag, "TLS with whoever answers."),
        Setting("username", "credentials.username", _text, "NAME to authenticate as"),
        Setting("password", "credentials.password", _text, "TEXT that proves it"),
        Setting("mechanism", "credentials.mechanism", _text, "NAME of the SASL mechanism"),
        Setting(
            "insecure_password",
            "credentials.insecure_password",
            _flag,
            "Send the password where it can be stolen.",
        ),
        Setting("routing", "routing.scheme", _text, "SCHEME that shares out the keys: ketama"),
        Setting(
            "on_failure",
            "routing.on_failure",
            _text,
            "WORD: fail, rehash or miss, when one is down",
        ),
        Setting("partial", "routing.partial", _text, "WORD: fail or return, when some are down"),
        Setting("eject_after", "routing.eject_after", _number, "FAILURES until a server is down"),
        Setting(
            "connections", "routing.connections", _number, "NUMBER of connections to each server"
        ),
        Setting("handshakes", "routing.handshakes", _number, "NUMBER of these to be made at once"),
        Setting("retry", "routing.retry", _flag, "Ask again when a connection was lost."),
        Setting("hash_namespace", "routing.hash_namespace", _flag, "Route by the namespace too."),
        Setting(
            "backoff_first",
            "routing.backoff.first",
            _seconds,
            "SECONDS before the second attempt to connect",
        ),
        Setting(
            "backoff_longest",
            "routing.backoff.longest",
            _seconds,
            "SECONDS between two attempts at most",
        ),
        Setting(
            "backoff_wake_every",
            "routing.backoff.wake_every",
            _seconds,
            "SECONDS until a call may hasten the next",
        ),
        Setting(
            "backoff_credentials",
            "routing.backoff.credentials",
            _seconds,
            "SECONDS between two with refused credentials",
        ),
        Setting("timeout", "limits.timeout", _seconds, "SECONDS until a request fails"),
        Setting(
            "connect_timeout", "limits.connect_timeout", _seconds, "SECONDS to become ready in"
        ),
        Setting("max_pending", "limits.max_pending", _number, "REQUESTS unanswered at most"),
        Setting(
            "max_pending_bytes",
            "limits.max_pending_bytes",
            _number,
            "BYTES of requests unanswered at most",
        ),
        Setting("max_body", "limits.max_body", _number, "BYTES of an answer at most"),
    )
}


def read_text(name: str, text: Given) -> Given:
    """
    Return the setting *name* that is written as *text*.

    Raises:
        InvalidSetting: it can not be that.
    """
    try:
        return Given(SETTINGS[name].read(text.value), text.origin, text.beside)
    except InvalidSetting as error:
        problem = str(error)
    raise InvalidSetting(f"{text.origin}: {problem}")


# Each value is tried alone, in an object that is right otherwise, so that its origin can be named.


def _try_top(name: str, given: Given) -> None:
    if name == "insecure_plaintext":
        require_bool(name, given.value)
    elif name == "tls_port":
        parse_servers("localhost", tls_port=given.value)
    else:
        ClientSettings(**{"servers": ("localhost",), name: given.value})


_TRIALS: Final[dict[str, Callable[[str, Given], object]]] = {
    "": _try_top,
    "tls": lambda name, given: TLS(**{name: given.value}),
    "credentials": lambda name, given: Credentials(
        **{"username": "-", "password": "-", name: given.value}
    ),
    "routing": lambda name, given: Routing(**{name: given.value}),
    "routing.backoff": lambda name, given: Backoff(**{name: given.value}),
    "limits": lambda name, given: Limits(**{name: given.value}),
}


def check(name: str, given: Given) -> None:
    """
    Refuse what the setting *name* can not be.

    Raises:
        InvalidSetting: with its origin.
    """
    part, _, attribute = SETTINGS[name].key.rpartition(".")
    try:
        _TRIALS[part](attribute, given)
    except InvalidSetting as error:
        problem = str(error)
    else:
        return
    raise InvalidSetting(f"{given.origin}: {problem}")
