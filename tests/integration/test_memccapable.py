"""libmemcached's own check of servers finds no fault in the embedded one, as in the real one."""

from __future__ import annotations

import os
import re
import shutil

from twisted.internet import reactor
from twisted.internet.interfaces import IReactorTime
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SkipTest, TestCase

from tests.memcached import MemcachedTestCase
from txtlsmc.testing import MemoryServer

PASSED = re.compile(r"^binary \w+ +\[pass\]$", re.MULTILINE)
TESTS = 27


def memccapable() -> str:
    """
    Return the path of memccapable.

    Raises:
        SkipTest: it is not installed.
    """
    found = shutil.which("memccapable")
    if found is None:
        raise SkipTest("memccapable is not installed (apt-get install libmemcached-tools)")
    return found


async def assert_capable(case: TestCase, host: str, port: int) -> None:
    """All of memccapable's tests of the binary protocol pass at this address."""
    printed, errors, status = await getProcessOutputAndValue(
        memccapable(), ["-h", host, "-p", str(port), "-b"], env=os.environ, reactor=reactor
    )
    output = printed.decode("utf-8", "replace")
    shown = output + errors.decode("utf-8", "replace")
    case.assertEqual((status, "FAIL" in shown.upper()), (0, False), shown)
    case.assertEqual(len(PASSED.findall(output)), TESTS, shown)


class RealTests(MemcachedTestCase):
    async def test_real(self) -> None:
        """The real memcached passes them all: so it is the server that is checked below."""
        await assert_capable(self, *self.memcached.address)


class MemoryTests(TestCase):
    async def test_memory(self) -> None:
        """The embedded server passes them all."""
        server = MemoryServer(IReactorTime(reactor))
        self.addCleanup(server.stop)
        await server.listen()
        await assert_capable(self, server.server.address.host, server.server.address.port)
