"""
Imports point down, floor by floor, and the pure modules touch nothing of the outside.

The picture is in docs/explanation/architecture.rst.  A new module goes into `ORDER`, at the lowest
place from which it can import what it needs.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import txtlsmc

#: Each module may import those before it, and none behind it.  A blank name is the package itself.
ORDER = (
    # the ground: plain values
    "_version",
    "errors",
    "checks",
    "servers",
    "routing",
    "settings",
    # where settings come from
    "sources",
    "drafts",
    "urls",
    "environ",
    "tables",
    # bytes and their meaning
    "wire.opcodes",
    "wire.frames",
    "wire.operations",
    "wire.runs",
    "wire.places",
    "wire.session",
    "wire.conversation",
    "wire.shared",
    "wire.exchange",
    "wire.saslprep",
    "wire.scram",
    "wire.sasl",
    "wire.handshake",
    "wire.text",
    "wire.compression",
    "wire.codecs",
    "wire",
    # one connection
    "net.certificates",
    "net.pem",
    "net.tls_handshake",
    "net.resumption",
    "net.tls",
    "net.kept",
    "net.direct",
    "net.tls_layer",
    "net.dialling",
    "net.attempt",
    "net.secure",
    "net.pending",
    "net.pipeline",
    "net.protocol",
    "net.endpoints",
    "net",
    # many servers
    "cluster.ring",
    "cluster.redial",
    "cluster.link",
    "cluster.node",
    "cluster.factory",
    "cluster.dispatch",
    "cluster.discovery",
    "cluster",
    "client",
    "",
    # the commands
    "files",
    "options",
    "check",
    "tunnel.addresses",
    "tunnel.settings",
    "tunnel.counters",
    "tunnel.journal",
    "tunnel.admission",
    "tunnel.memory",
    "tunnel.effective",
    "tunnel.json_lines",
    "tunnel.expiry",
    "tunnel.hub",
    "tunnel.passage",
    "tunnel.pair",
    "tunnel.relay",
    "tunnel.login",
    "tunnel.upstream",
    "tunnel.unread",
    "tunnel.local",
    "tunnel.gateway",
    "tunnel.status",
    "tunnel.certificates",
    "tunnel.listeners",
    "tunnel.signals",
    "tunnel.service",
    "tunnel",
    "wrapper",
    "tap",
    "cli.running",
    "cli.command",
    "cli.server_options",
    "cli.asking",
    "cli.printing",
    "cli.operations",
    "cli.ring",
    "cli.show",
    "cli.demo_cluster",
    "cli.demo_tunnel",
    "cli.demo",
    "cli.serve",
    "cli",
)

#: The embedded server stands beside the floors: what it may import of them, and in which order its
#: own modules go.  Of all the floors only `cli` imports it.
TESTING_USES = ("errors", "settings", "wire", "net.certificates", "net.tls")
TESTING_ORDER = (
    "testing.issued",
    "testing.authority",
    "testing.options",
    "testing.items",
    "testing.store",
    "testing.statistics",
    "testing.login",
    "testing.answers",
    "testing.registry",
    "testing.connection",
    "testing.pipe",
    "testing.memory",
    "testing.server",
    "testing",
)

#: The standard library only.
PURE = (
    *("_version", "errors", "checks", "servers", "routing", "settings"),
    *("sources", "drafts", "urls", "environ", "tables"),
    *("wire", "cluster.ring"),
)

#: Input and output, the clock, randomness and the log are handed in to the pure modules.
OUTSIDE = (
    *("asyncio", "select", "selectors", "socket", "ssl"),
    *("logging", "os", "pathlib", "shutil", "sys", "tempfile"),
    *("multiprocessing", "signal", "subprocess", "threading"),
    *("random", "secrets", "time", "uuid"),
)


def within(module: str, packages: tuple[str, ...]) -> bool:
    """Return whether *module* is one of *packages*, or inside of one."""
    return any(module == name or module.startswith(f"{name}.") for name in packages)


def imported_names(module: str, tree: ast.AST, *, package: bool = False) -> Iterator[str]:
    """Yield the full name of all that *tree* imports, at its top or deep inside of a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                here = f"txtlsmc.{module}".strip(".").split(".")
                parents = here[: len(here) - node.level + package]
                origin = ".".join([*parents, *filter(None, [node.module])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def module_of(name: str) -> str:
    """Return the module of txtlsmc that the imported *name* is, or is defined in."""
    inside = name.removeprefix("txtlsmc").removeprefix(".")
    while inside and inside not in ORDER + TESTING_ORDER:
        inside = inside.rpartition(".")[0]
    return inside


def reactor_at_import(tree: ast.AST) -> bool:
    """Return whether to import a module with this *tree* is to install a reactor."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue  # its body runs later, by when somebody has chosen the reactor
        if "twisted.internet.reactor" in {
            ".".join(name.split(".")[:3]) for name in imported_names("", node)
        } and isinstance(node, ast.Import | ast.ImportFrom):
            return True
        if reactor_at_import(node):
            return True
    return False


def violations(module: str, source: str, *, package: bool = False) -> list[str]:
    """
    Say what is wrong with the imports of a module.

    Args:
        module: its name, without ``txtlsmc.``.
        source: its text.
        package: whether it is the ``__init__.py`` of a package.

    Returns:
        One sentence for each violation.
    """
    if module not in ORDER + TESTING_ORDER:
        return [f"txtlsmc.{module} has no place yet: add it to ORDER in tests/test_floors.py"]
    tree = ast.parse(source)
    found = []
    for name in imported_names(module, tree, package=package):
        top = name.partition(".")[0]
        if top == "txtlsmc":
            if not _may_import(module, module_of(name)):
                found.append(f"txtlsmc.{module} imports {name}, which is not below it")
        elif within(module, PURE):
            if top not in sys.stdlib_module_names:
                found.append(f"txtlsmc.{module} imports {name}, which is not standard library")
            elif top in OUTSIDE:
                found.append(f"txtlsmc.{module} imports {name}: hand in what it needs from there")
    if not within(module, ("cli",)) and reactor_at_import(tree):
        found.append(f"txtlsmc.{module} imports the reactor at module level: hand it in")
    return found


def _may_import(module: str, other: str) -> bool:
    if module in TESTING_ORDER:
        if other in TESTING_ORDER:
            return TESTING_ORDER.index(other) < TESTING_ORDER.index(module)
        return within(other, TESTING_USES)
    if other in TESTING_ORDER:
        return within(module, ("cli",))
    return ORDER.index(other) < ORDER.index(module)


class FloorTests(SynchronousTestCase):
    def test_every_module(self) -> None:
        """The package is what the picture shows: nothing imports upwards or sideways."""
        root = Path(txtlsmc.__file__).parent
        found, seen = [], 0
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if package else parts)
            found += violations(module, path.read_text("utf-8"), package=package)
            seen += 1
        self.assertEqual("\n".join(found), "")
        self.assertGreater(seen, 10)


class ViolationTests(SynchronousTestCase):
    """The check itself: it finds what it is for, and nothing else."""

    def assert_refused(self, module: str, source: str, *, package: bool = False) -> None:
        found = violations(module, source, package=package)
        self.assertEqual(len(found), 1, f"{module}: {source!r} gave {found}")

    def assert_fine(self, module: str, source: str, *, package: bool = False) -> None:
        self.assertEqual(violations(module, source, package=package), [])

    def test_down(self) -> None:
        """A module may import what is below it, and to its left."""
        self.assert_fine("net.tls", "from txtlsmc.wire.frames import FrameReader")
        self.assert_fine("net.tls", "from txtlsmc.net import certificates")
        self.assert_fine("wire.session", "import txtlsmc.errors")
        self.assert_fine("client", "from .cluster.factory import MemcacheClientFactory")
        self.assert_fine("", "from txtlsmc.errors import MemcacheError", package=True)
        self.assert_fine("", "from .errors import MemcacheError", package=True)

    def test_up(self) -> None:
        """To import from a higher floor is refused, however it is written."""
        for source in (
            "from txtlsmc.net.tls import anything",
            "from txtlsmc.net import tls",
            "from txtlsmc import net",
            "import txtlsmc.net.tls as tls",
            "from ..net.tls import anything",
            "from .. import client",
            "def later():\n    from txtlsmc.client import MemcacheClient",
            "if TYPE_CHECKING:\n    from txtlsmc.client import MemcacheClient",
        ):
            self.assert_refused("wire.frames", source)

    def test_sideways(self) -> None:
        """Within a floor a module imports only what is left of it."""
        self.assert_refused("wire.opcodes", "from txtlsmc.wire.frames import FrameReader")
        self.assert_refused("wire.opcodes", "from .frames import FrameReader")
        self.assert_refused("net.tls", "from txtlsmc.net.endpoints import ReadyEndpoint")
        self.assert_refused("net.tls", "from .endpoints import ReadyEndpoint")
        self.assert_refused("net.tls", "from . import endpoints")

    def test_public_names(self) -> None:
        """What the package exports is for users: a module imports from where it is defined."""
        self.assert_refused("net.protocol", "from txtlsmc import MemcacheError")
        self.assert_refused("net.protocol", "import txtlsmc")
        self.assert_refused("", "from .testing import MemoryServer", package=True)
        self.assert_refused("", "from . import cli", package=True)

    def test_pure(self) -> None:
        """The pure modules import the standard library only, and nothing of the outside from it."""
        self.assert_fine("wire.frames", "import struct\nfrom collections.abc import Callable")
        for module in ("errors", "settings", "wire.session", "cluster.ring"):
            for name in ("twisted", "OpenSSL", "time", "random", "secrets", "socket", "logging"):
                self.assert_refused(module, f"import {name}")
            self.assert_refused(module, "from os import environ")
            self.assert_refused(module, "from twisted.internet.defer import Deferred")
        self.assert_fine("cluster.node", "import time")

    def test_testing(self) -> None:
        """The embedded server uses wire and the TLS settings; of the rest only the cli uses it."""
        self.assert_fine("testing.server", "from txtlsmc.wire.frames import FrameReader")
        self.assert_fine("testing.server", "from txtlsmc.net.tls import anything")
        self.assert_fine("testing", "from txtlsmc.testing.server import anything", package=True)
        self.assert_refused("testing.server", "from txtlsmc.net.protocol import MemcacheProtocol")
        self.assert_refused("testing.server", "from txtlsmc import testing")
        self.assert_fine("cli.demo", "from txtlsmc.testing import MemoryServer")
        self.assert_refused("check", "from txtlsmc.testing import MemoryServer")
        self.assert_refused("tap", "from txtlsmc import testing")

    def test_reactor(self) -> None:
        """Only the cli imports the reactor when it is imported itself."""
        for source in (
            "from twisted.internet import reactor",
            "import twisted.internet.reactor",
            "from twisted.internet.reactor import callLater",
            "try:\n    from twisted.internet import reactor\nexcept ImportError:\n    pass",
        ):
            self.assert_refused("net.tls", source)
            self.assert_fine("cli", source)
        self.assert_fine("net.tls", "def main():\n    from twisted.internet import reactor")

    def test_no_place(self) -> None:
        """A module that nobody gave a place is refused, and the test says where to give it one."""
        self.assertEqual(
            violations("wire.helpers", ""),
            ["txtlsmc.wire.helpers has no place yet: add it to ORDER in tests/test_floors.py"],
        )
