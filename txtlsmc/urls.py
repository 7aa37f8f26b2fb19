"""
Settings that are written as a URL.

    memcaches://USER:PASSWORD@HOST:PORT,HOST:PORT/?ca=FILE&routing=ketama&timeout=2

``memcaches`` is TLS.  ``memcache`` is none: the scheme is itself the word for that, and since it is
one letter away from the other, a password needs ``insecure_password=1`` besides.

The query has the settings by the names in `txtlsmc.sources.SETTINGS`, each once; ``%`` escapes
what has a meaning in a URL.  What is malformed is not repeated in an error: it may be a password
with an unescaped character in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from txtlsmc.drafts import Draft
from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import ClientSettings, Server
from txtlsmc.sources import SETTINGS, Given, Layer, read_text

#: By scheme, whether there is no TLS.
_PLAINTEXT: Final = {"memcaches": False, "memcache": True}

#: What has another place in a URL than the query.
_ELSEWHERE: Final = {
    "servers": "the servers stand behind the '://'",
    "username": "a user name stands before the '@'",
    "password": "a password stands before the '@', if it has to be in the URL",
    "insecure_plaintext": "the scheme memcache:// says it",
}

_URL = re.compile(
    "(?P<scheme>[A-Za-z]+)://(?:(?P<user>[^@/?#]*)@)?(?P<servers>[^@/?#]*)/?(?:[?](?P<query>[^@#]*))?"
)
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_NOT_SHOWN: Final = "it is not repeated, as it may be a password"


def settings_from_url(
    url: str | Given,
    *,
    environ: Mapping[str, str] | None = None,
    from_command_line: bool = False,
) -> ClientSettings:
    """
    Read settings from a URL; see the module.

    Args:
        url: the URL.  Whoever calls with a password in it, from a function that an error passes
            through, wraps it in a `Given` and forgets the text, so that no traceback shows it.
        environ: where to find ``TXTLSMC_PASSWORD``, for a user name without a password.
        from_command_line: refuse a password in the URL, since others can read it there.

    Raises:
        InvalidSetting: it is no such URL, or a setting in it can not be right.
        InsecurePassword: the password could be stolen on the way.
    """
    given = url if isinstance(url, Given) else Given(url, "the URL")
    password = None if environ is None else environ.get("TXTLSMC_PASSWORD")
    besides = Given(password, "TXTLSMC_PASSWORD")
    del url, environ, password  # or a traceback with locals would show the password
    layer = url_layer(given, from_command_line=from_command_line)
    if besides.value and "username" in layer:
        layer.setdefault("password", besides)
    draft = Draft()
    draft.add(layer)
    return draft.settings("write one behind the '://'")


def url_layer(url: Given, *, from_command_line: bool = False) -> Layer:
    """
    Return what a URL sets.

    Raises:
        InvalidSetting: it is no URL of ours.
    """
    parts = _Parts(url)
    if parts.problem:
        raise InvalidSetting(f"{url.origin}: {parts.problem}")
    layer = dict(parts.layer)
    if from_command_line and "password" in layer:
        raise InvalidSetting(
            f"{url.origin}: a password on a command line can be read by others; leave it out, and"
            " set TXTLSMC_PASSWORD"
        )
    for key, text in parts.query:
        if key in _ELSEWHERE:
            raise InvalidSetting(f"{url.origin}: {key!r} is no key of the query: {_ELSEWHERE[key]}")
        if key not in SETTINGS:
            known = ", ".join(name for name in SETTINGS if name not in _ELSEWHERE)
            raise InvalidSetting(f"{url.origin}: unknown key {key!r}; there are {known}")
        if key in layer:
            raise InvalidSetting(f"{url.origin}: the key {key!r} stands there twice")
        layer[key] = read_text(key, text)
    return layer


class _Parts:
    """
    The parts of a URL; nothing in here raises while it has a password in its hands.

    Attributes:
        problem: why it is no URL, or nothing.
        layer: what stands outside of the query.
        query: its keys and what they are set to, in order.
    """

    __slots__ = ("_origin", "layer", "problem", "query")

    def __init__(self, url: Given) -> None:
        self._origin = url.origin
        self.layer: Layer = {}
        self.query: list[tuple[str, Given]] = []
        self.problem = self._cut(url.value)

    def _cut(self, url: object) -> str:
        if not isinstance(url, str):
            return f"a URL is text, not {type(url).__name__}"
        url = url.strip()
        scheme = url.partition("://")[0].lower()
        if scheme not in _PLAINTEXT or "://" not in url:
            return "it begins with memcaches:// (TLS) or with memcache:// (no TLS)"
        if _BAD_ESCAPE.search(url) or _decoded(url) is None:
            return "a '%' begins an escape, such as %25 for itself, and escapes are of UTF-8"
        parts = _URL.fullmatch(url)
        if parts is None:
            return (
                "it is SCHEME://USER:PASSWORD@HOST:PORT,HOST:PORT/?KEY=VALUE&KEY=VALUE; write"
                " '@', '/', '?', '#' and '%' inside of these parts as %40, %2F, %3F, %23 and %25"
            )
        self.layer["insecure_plaintext"] = Given(
            _PLAINTEXT[scheme], f"the scheme of {self._origin}"
        )
        return (
            self._cut_user(parts["user"])
            or self._cut_servers(parts["servers"])
            or self._cut_query(parts["query"] or "")
        )

    def _cut_user(self, user: str | None) -> str:
        if user is None:
            return ""
        username, colon, password = user.partition(":")
        if not username:
            return "there is no user name before the '@'"
        self.layer["username"] = Given(
            _decoded(username), f"the user name in {self._origin}", "TXTLSMC_PASSWORD"
        )
        if colon and not password:
            return "the password before the '@' is empty: write one, or leave out the ':'"
        if colon:
            self.layer["password"] = Given(_decoded(password), f"the password in {self._origin}")
        return ""

    def _cut_servers(self, servers: str) -> str:
        entries = [_decoded(entry) or "" for entry in re.split("[,;]", servers) if entry]
        for number, entry in enumerate(entries, 1):
            try:
                Server.parse(entry)
            except InvalidSetting:
                return (
                    f"server {number} is not HOST, HOST:PORT, HOST:PORT:WEIGHT, [IPV6]:PORT or one"
                    f" of these with =ADDRESS behind; {_NOT_SHOWN}"
                )
        if not entries:
            return "there is no server in it"
        self.layer["servers"] = Given(entries, f"the servers of {self._origin}")
        return ""

    def _cut_query(self, query: str) -> str:
        for pair in filter(None, query.split("&")):
            key, given, value = pair.partition("=")
            name = _decoded(key) or ""
            if not given:
                return f"the key {name!r} has no value: write {name}=…"
            self.query.append((name, Given(_decoded(value), f"{name!r} in {self._origin}")))
        return ""


def _decoded(text: str) -> str | None:
    """Return *text* with its escapes replaced; None if they do not make UTF-8."""
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:  # the error carries the text
        return None
