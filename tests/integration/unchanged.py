"""
What clients of others do at some addresses, as a process of its own, and what comes of it.

A process, because the SASL that comes with pylibmc looks for its plugins once, where an
environment variable says.  It reads which script, addresses and login as JSON from standard input,
and prints what came of each call as a Python literal.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from glob import glob
from typing import Any, Final

Addresses = Sequence[tuple[str, int]]
Login = Sequence[str]  # user name and password, or nothing

_SECONDS: Final = 30
#: For calls of which libmemcached awaits more than the server has to say.
_FAILING_MS: Final = 500
#: Under the server's limit of 1 MiB; no client that compresses is asked to.
LARGE: Final = bytes(range(256)) * 3600
KEYS: Final = [f"key-{number}" for number in range(60)]
_KINDS: Final = [1, -17, 2**40, True, b"\0\xff", "grüße", 1.5, ["a", {"b": None}]]


class Notes(dict[str, Any]):
    """What came of each call, by a name."""

    def note(self, name: str, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Call, and keep what it returns or raises; return that too."""
        try:
            came = call(*given, **named)
        except Exception as error:  # whatever the library has
            came = type(error).__name__
        self[name] = came if came != LARGE else "the large value"
        return came


def pylibmc_client(addresses: Addresses, login: Login, **behaviors: Any) -> Any:
    """Return a client with a ketama ring, and patience."""
    pylibmc: Any = importlib.import_module("pylibmc")

    waits = {"connect_timeout": _SECONDS * 1000, "_poll_timeout": _SECONDS * 1000}
    servers = [f"{host}:{port}" for host, port in addresses]
    given = {"username": login[0], "password": login[1]} if login else {}
    behaviors = {"ketama": True, **waits, **behaviors}
    return pylibmc.Client(servers, binary=True, behaviors=behaviors, **given)


def bmemcached_client(addresses: Addresses, login: Login) -> Any:
    """Return a client, which is patient too."""
    bmemcached: Any = importlib.import_module("bmemcached")

    servers = tuple(f"{host}:{port}" for host, port in addresses)
    return bmemcached.Client(servers, *login, socket_timeout=_SECONDS)


def pylibmc_calls(addresses: Addresses, login: Login) -> Notes:
    """Make every call that it has."""
    notes, client = Notes(), pylibmc_client(addresses, login, cas=True)
    note = notes.note
    note("set_multi", client.set_multi, dict.fromkeys(KEYS, "value"))
    note("get_multi", client.get_multi, [*KEYS, "missing"])
    note("missing", client.get, "missing", "default")
    note("set", client.set, "key", "value")
    note("add", client.add, "added", "new")
    note("add again", client.add, "added", "newer")
    note("replace", client.replace, "key", "replaced")
    note("replace nothing", client.replace, "missing", "value")
    note("append", client.append, "key", " and on")
    note("prepend", client.prepend, "key", "on and ")
    value, version = client.gets("key")
    notes["gets"] = value
    note("cas", client.cas, "key", "swapped", version)
    note("cas again", client.cas, "key", "lost", version)
    note("get", client.get, "key")
    note("counter", client.set, "counter", 10)
    note("incr", client.incr, "counter", 20)
    note("decr", client.decr, "counter", 5)
    note("decr below 0", client.decr, "counter", 500)
    note("no counter", client.incr, "missing")
    note("set large", client.set, "large", LARGE)
    note("get large", client.get, "large")
    for kind in _KINDS:
        note(f"set {kind!r}", client.set, "kind", kind)
        note(f"get {kind!r}", client.get, "kind")
    note("set compressed", client.set, "long", "a" * 5000, min_compress_len=100)
    note("get compressed", client.get, "long")
    note("delete", client.delete, "key")
    note("delete nothing", client.delete, "key")
    note("delete_multi", client.delete_multi, KEYS)
    note("deleted", client.get_multi, KEYS)
    note("stats", lambda: ["pid" in _text(numbers) for _, numbers in client.get_stats()])
    note("flush_all", client.flush_all)
    note("flushed", client.get, "large")
    # Each with a client of its own: libmemcached waits for more than the server has to say, or
    # takes it for a dead one then.
    for name, failing in (
        ("set too large", lambda client: client.set("larger", LARGE * 2)),
        ("touch", lambda client: client.set("word", "text") and client.touch("word", 100)),
        ("touch nothing", lambda client: client.touch("missing", 100)),
        ("no number", lambda client: client.set("word", "text") and client.incr("word")),
    ):
        note(name, failing, pylibmc_client(addresses, login, _poll_timeout=_FAILING_MS))
    return notes


def bmemcached_calls(addresses: Addresses, login: Login) -> Notes:
    """Make every call that it has; it stores each key on every server, so it gets one."""
    notes, client = Notes(), bmemcached_client(addresses[:1], login)
    note = notes.note
    note("set_multi", client.set_multi, dict.fromkeys(KEYS, "value"))
    note("get_multi", client.get_multi, [*KEYS, "missing"])
    note("missing", client.get, "missing")
    note("set", client.set, "key", "value")
    note("add", client.add, "added", "new")
    note("add again", client.add, "added", "newer")
    note("replace", client.replace, "key", "replaced")
    note("replace nothing", client.replace, "missing", "value")
    value, version = client.gets("key")
    notes["gets"] = value
    note("cas", client.cas, "key", "swapped", version)
    note("cas again", client.cas, "key", "lost", version)
    note("get", client.get, "key")
    note("no counter", client.incr, "counter", 5)
    note("incr", client.incr, "counter", 20)
    note("decr", client.decr, "counter", 5)
    note("decr below 0", client.decr, "counter", 500)
    note("no number", client.incr, "key", 1)
    note("set large", client.set, "large", LARGE, compress_level=0)
    note("get large", client.get, "large")
    note("set too large", client.set, "larger", LARGE * 2, compress_level=0)
    for kind in _KINDS:
        note(f"set {kind!r}", client.set, "kind", kind)
        note(f"get {kind!r}", client.get, "kind")
    note("delete", client.delete, "key")
    note("delete nothing", client.delete, "key")
    note("delete_multi", client.delete_multi, KEYS)
    note("deleted", client.get_multi, KEYS)
    notes["stats"] = ["pid" in _text(numbers) for numbers in client.stats().values()]
    note("flush_all", client.flush_all)
    note("flushed", client.get, "large")
    return notes


def pylibmc_tries(addresses: Addresses, login: Login) -> Notes:
    """Set and get, with a login that may be wrong."""
    notes, client = Notes(), pylibmc_client(addresses[:1], login)
    notes.note("set", client.set, "key", "value")
    notes.note("get", client.get, "key")
    return notes


def bmemcached_tries(addresses: Addresses, login: Login) -> Notes:
    """Set and get, with a login that may be wrong."""
    notes, client = Notes(), bmemcached_client(addresses[:1], login)
    notes.note("set", client.set, "key", "value")
    notes.note("get", client.get, "key")
    return notes


_SCRIPTS: Final = {
    each.__name__: each
    for each in (pylibmc_calls, bmemcached_calls, pylibmc_tries, bmemcached_tries)
}


def _text(numbers: dict[Any, Any]) -> set[str]:
    return {name.decode() if isinstance(name, bytes) else name for name in numbers}


def run(script: str, addresses: Addresses, login: Callable[[], Login]) -> Any:
    """
    Run one of the scripts, and wait for it: for a thread.

    Args:
        script: its name.
        addresses: of the servers.
        login: a function, as what holds a password must be in no variable of a test.

    Returns:
        What came of each call, by name.
    """
    # The plugins that the system has, for the libsasl2 inside pylibmc's wheel.
    plugins = ":".join([*glob("/usr/lib/*/sasl2"), "/usr/lib/sasl2", "/usr/lib64/sasl2"])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.integration.unchanged"],
        input=json.dumps((script, addresses, login())).encode(),
        capture_output=True,
        env={"SASL_PATH": plugins} | os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=100,
    )
    if done.returncode:
        raise AssertionError(f"{script} ended with {done.returncode}: {done.stderr.decode()}")
    return ast.literal_eval(done.stdout.decode())


if __name__ == "__main__":
    _script, _addresses, _login = json.load(sys.stdin)
    print(repr(dict(_SCRIPTS[_script](_addresses, _login))))
