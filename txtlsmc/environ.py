"""
Settings that stand in the environment: ours, and those that providers of memcached set.

``TXTLSMC_URL`` (see `txtlsmc.urls`), ``TXTLSMC_USERNAME``, ``TXTLSMC_PASSWORD`` and ``TXTLSMC_CA``
(a file, a folder or PEM text) are ours.  Of a provider's three variables the servers are read only
where none are named otherwise, so that its password goes nowhere else unasked.

MemCachier's servers have certificates of its own authority: give it as ``TXTLSMC_CA``.  They speak
TLS on port 11219, which is dialled unless a *tls_port* says otherwise; their names, and so the keys
they have, stay those of ``MEMCACHIER_SERVERS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from txtlsmc.drafts import Draft
from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import ClientSettings
from txtlsmc.sources import Given, Layer
from txtlsmc.urls import url_layer


class Provider(NamedTuple):
    """
    Who runs memcached for others.

    Attributes:
        prefix: of its variables.
        tls_port: where all its servers speak TLS, if that is another port than they are named with.
    """

    prefix: str
    tls_port: int | None = None


PROVIDERS: Final = {
    "memcachier": Provider("MEMCACHIER", 11219),
    "memcachedcloud": Provider("MEMCACHEDCLOUD"),
    "memcache": Provider("MEMCACHE"),
}

_OURS: Final = {
    "username": ("TXTLSMC_USERNAME", "TXTLSMC_PASSWORD"),
    "password": ("TXTLSMC_PASSWORD", "TXTLSMC_USERNAME"),
    "ca": ("TXTLSMC_CA", ""),
}

NOWHERE: Final = "set TXTLSMC_URL, or one of " + ", ".join(
    f"{provider.prefix}_SERVERS" for provider in PROVIDERS.values()
)


class Variables:
    """The environment, in an object that does not show it."""

    __slots__ = ("_environ",)

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Keep *environ*; it is looked at and never changed."""
        self._environ = environ

    def find(self, name: str, beside: str = "", tls_port: int | None = None) -> Given | None:
        """Return the variable *name*, or None if it is not set; see `Given` for the rest."""
        value = self._environ.get(name)
        return None if value is None else Given(value, name, beside, tls_port)


def settings_from_environ(
    environ: Mapping[str, str], *, provider: str | None = None
) -> ClientSettings:
    """
    Read settings from the environment; see the module.

    Args:
        environ: ``os.environ``, or its like.
        provider: ``"memcachier"``, ``"memcachedcloud"`` or ``"memcache"``: whose variables to read,
            where several have set theirs.

    Raises:
        InvalidSetting: a variable can not be right, is missing, or contradicts another.
        InsecurePassword: the password could be stolen on the way.
    """
    variables = Variables(environ)
    del environ  # or a traceback with locals would show all of it
    ours = own_layer(variables)
    draft = Draft()
    if provider is not None or "servers" not in ours:
        draft.add(provider_layer(variables, provider))
    draft.add(ours)
    return draft.settings(NOWHERE)


def own_layer(variables: Variables) -> Layer:
    """
    Return what our own variables set.

    Raises:
        InvalidSetting: one is empty or can not be right, or two say different things.
    """
    layer: Layer = {}
    url = _not_empty(variables.find("TXTLSMC_URL"))
    if url is not None:
        layer = url_layer(url)
    for name, (variable, beside) in _OURS.items():
        given = _not_empty(variables.find(variable, beside))
        if given is None:
            continue
        other = layer.get(name)
        if other is not None and other.value != given.value:
            raise InvalidSetting(f"{variable} and {other.origin} differ: leave one of them out")
        layer[name] = given
    return layer


def _not_empty(given: Given | None) -> Given | None:
    # Whoever wrote one of our names meant something by it; a provider may leave its own blank.
    if given is not None and not given.value:
        raise InvalidSetting(f"{given.origin} is set and empty: give it a value, or unset it")
    return given


def provider_layer(
    variables: Variables, provider: str | None = None, *, choose: str = "provider={!r}"
) -> Layer:
    """
    Return what a provider's variables set; nothing, if none has.

    Args:
        variables: the environment.
        provider: whose; None: that of the only one that has set any.
        choose: how the user says whose: a template for its name.

    Raises:
        InvalidSetting: several have, that one has not, or its servers are missing.
    """
    if provider is not None and provider not in PROVIDERS:
        raise InvalidSetting(
            f"{choose.format(provider)}: there is no such provider, but {', '.join(PROVIDERS)}"
        )
    found = {name: _layer_of(variables, one) for name, one in PROVIDERS.items()}
    present = [name for name, layer in found.items() if layer]
    if provider is not None:
        if not found[provider]:
            raise InvalidSetting(
                f"{choose.format(provider)} is asked for, and"
                f" {PROVIDERS[provider].prefix}_SERVERS is not set"
            )
        return _with_servers(provider, found[provider])
    if len(present) > 1:
        named = [next(iter(found[name].values())).origin for name in present]
        raise InvalidSetting(
            f"{' and '.join(named)} are set: choose by"
            f" {' or '.join(choose.format(name) for name in present)}"
        )
    return _with_servers(present[0], found[present[0]]) if present else {}


def _layer_of(variables: Variables, provider: Provider) -> Layer:
    servers, username, password = (
        f"{provider.prefix}_{word}" for word in ("SERVERS", "USERNAME", "PASSWORD")
    )
    layer = {
        "servers": variables.find(servers, username, provider.tls_port),
        "username": variables.find(username, password),
        "password": variables.find(password, username),
    }
    return {name: given for name, given in layer.items() if given is not None and given.value}


def _with_servers(provider: str, layer: Layer) -> Layer:
    if "servers" not in layer:
        first = next(iter(layer.values()))
        raise InvalidSetting(
            f"{first.origin} is set without servers: set {PROVIDERS[provider].prefix}_SERVERS"
        )
    return layer
