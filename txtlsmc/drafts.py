"""How settings of several sources are put together: what is said later wins."""

from __future__ import annotations

from typing import Any, Final

from txtlsmc.errors import InsecurePassword, InvalidSetting
from txtlsmc.settings import (
    TLS,
    Backoff,
    ClientSettings,
    Credentials,
    InsecurePlaintext,
    Limits,
    Routing,
    Server,
    parse_servers,
    password_risk,
)
from txtlsmc.sources import SETTINGS, Layer, check

#: What has no meaning without TLS.
_OF_TLS: Final = (
    "tls_port",
    *(setting.name for setting in SETTINGS.values() if setting.key.startswith("tls.")),
)

#: What is no attribute of the settings, but changes how they are made.
_NO_ATTRIBUTES: Final = ("insecure_plaintext", "tls_port")


class Draft:
    """Settings on their way to being complete."""

    def __init__(self) -> None:
        """Make one in which nothing is set."""
        self._given: Layer = {}

    def add(self, layer: Layer) -> None:
        """
        Take a layer; what it says wins over what was said before.

        Raises:
            InvalidSetting: a value in it can not be right.
        """
        for name, given in layer.items():
            check(name, given)
        plaintext = layer.get("insecure_plaintext")
        if plaintext is not None and plaintext.value:
            for name in _OF_TLS:  # how to do what is not wanted any more
                self._given.pop(name, None)
        self._given.update(layer)

    def origins(self) -> dict[str, str]:
        """Return where each setting was given, by its name."""
        return {name: given.origin for name, given in self._given.items()}

    def settings(self, nowhere: str) -> ClientSettings:
        """
        Return what it comes to.

        Args:
            nowhere: the words for where servers could have been named.

        Raises:
            InvalidSetting: something is missing, or does not go with something else.
            InsecurePassword: the password could be stolen on the way.
        """
        if "servers" not in self._given:
            raise InvalidSetting(f"no server is named: {nowhere}")
        self._require_both_halves()
        tls = self._tls()
        credentials = None
        if "username" in self._given:
            credentials = Credentials(**self._part("credentials"))
        risk = password_risk(tls, credentials)
        if risk is not None:
            raise InsecurePassword(
                f"{self._given['password'].origin}: a password {risk} can be stolen on the way;"
                " use verified TLS, or set insecure_password if that is what you want"
            )
        return ClientSettings(
            tls=tls,
            credentials=credentials,
            routing=Routing(
                backoff=Backoff(**self._part("routing.backoff")), **self._part("routing")
            ),
            limits=Limits(**self._part("limits")),
            **{**self._part(""), "servers": self._servers(tls)},
        )

    def _part(self, part: str) -> dict[str, Any]:
        # Never to be kept in a variable: it may have the password.
        found = {}
        for name, given in self._given.items():
            prefix, _, attribute = SETTINGS[name].key.rpartition(".")
            if prefix == part and name not in _NO_ATTRIBUTES:
                found[attribute] = given.value
        return found

    def _require_both_halves(self) -> None:
        username, password = self._given.get("username"), self._given.get("password")
        servers, mechanism = self._given["servers"], self._given.get("mechanism")
        if username is not None and password is None:
            raise InvalidSetting(
                f"{username.origin} is given without a password: set {username.beside}"
            )
        if username is None:
            if password is not None:
                raise InvalidSetting(
                    f"{password.origin} is given without a user name: set {password.beside}"
                )
            if servers.beside:
                raise InvalidSetting(
                    f"{servers.origin} is given without a user name: set {servers.beside}"
                )
            if mechanism is not None:
                raise InvalidSetting(f"{mechanism.origin} is given without a user name")

    def _tls(self) -> TLS | InsecurePlaintext:
        plaintext = self._given.get("insecure_plaintext")
        if plaintext is None or not plaintext.value:
            return TLS(**self._part("tls"))
        for name in _OF_TLS:
            if name in self._given:
                raise InvalidSetting(
                    f"{self._given[name].origin} is about TLS, and {plaintext.origin} says that"
                    " there is none: leave one of them out"
                )
        return InsecurePlaintext()

    def _servers(self, tls: TLS | InsecurePlaintext) -> tuple[Server, ...]:
        servers, port = self._given["servers"], self._given.get("tls_port")
        if port is None:
            usual = servers.tls_port if isinstance(tls, TLS) else None
            return parse_servers(servers.value, tls_port=usual)
        try:
            return parse_servers(servers.value, tls_port=port.value)
        except InvalidSetting as error:
            problem = str(error)
        raise InvalidSetting(f"{port.origin}: {problem}")
