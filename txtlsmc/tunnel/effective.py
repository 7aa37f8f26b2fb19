"""The settings that are in effect, as lines of TOML; what is secret is not among them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from txtlsmc.servers import Server
from txtlsmc.settings import InsecurePlaintext
from txtlsmc.sources import SETTINGS as CLIENT
from txtlsmc.tunnel.settings import SETTINGS, TunnelSettings

HIDDEN: Final = "(hidden)"
#: What a client does with it, and the tunnel does not: keys and values pass as they are.
OF_CLIENTS: Final = frozenset(
    {
        *("namespace", "codec", "routing", "on_failure", "partial", "eject_after"),
        *("connections", "retry", "hash_namespace", "max_pending", "max_pending_bytes"),
    }
)


def effective_lines(settings: TunnelSettings, origins: Mapping[str, str]) -> list[str]:
    """
    Return *settings* as lines of TOML, each with where it was given.

    Args:
        settings: all of them.
        origins: where a setting was given, by its key in a TOML file; the rest are defaults.
    """
    lines: list[str] = []
    table = ""
    for key, value in _values(settings):
        of, _, word = key.rpartition(".")
        if of != table:
            lines += ["", f"[{of}]"]
            table = of
        # What has no value can not be written in TOML; as a comment it shows what could be set.
        said = f"# {word}: not set" if value is None else f"{word} = {_written(value)}"
        origin = f"from {origins[key]}" if key in origins else "default"
        lines.append(said if value is None else f"{said}  # {origin}")
    return lines


def _values(settings: TunnelSettings) -> Iterator[tuple[str, Any]]:
    client = settings.client
    plaintext = isinstance(client.tls, InsecurePlaintext)
    absent = (None, InsecurePlaintext())
    for name, setting in CLIENT.items():
        if name in OF_CLIENTS:
            continue
        part, _, attribute = setting.key.rpartition(".")
        if name in ("tls_port", "insecure_plaintext"):
            if name == "insecure_plaintext":
                yield setting.key, plaintext
        elif getattr(client, part.partition(".")[0] or "servers", None) not in absent:
            owner: Any = client
            for step in filter(None, part.split(".")):
                owner = getattr(owner, step)
            yield setting.key, _shown(name, getattr(owner, attribute))
    for name, row in SETTINGS.items():
        in_limits = row.key.startswith("tunnel.limits.")
        yield row.key, getattr(settings.limits if in_limits else settings, name)


def _shown(name: str, value: Any) -> Any:
    if name == "password" or (name == "client_certificate" and "-----BEGIN" in str(value)):
        return HIDDEN
    return value


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_written(one) for one in value)}]"
    if isinstance(value, Server):
        return json.dumps(_server(value), ensure_ascii=False)
    if isinstance(value, bytes):
        return json.dumps(value.decode("utf-8", "backslashreplace"), ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def _server(server: Server) -> str:
    text = server.name
    if server.weight != 1:
        text = f"{server.identity}:{server.weight}"
    return text if server.address == server.identity else f"{text}={server.address}"
