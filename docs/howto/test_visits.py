"""Tests of an application that counts visits, against a memcached of their own."""

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from txtlsmc import TLS, Credentials, connect
from txtlsmc.testing import Authority, MemoryServer


async def count_visit(memcached, user):
    return await memcached.incr(f"visits:{user}", initial=1)


class VisitsTests(TestCase):
    async def setUp(self):
        authority = Authority()
        server = MemoryServer(reactor, users={"app": "a password"}, certificate=authority.issue())
        await server.listen()
        self.addCleanup(server.stop)
        self.memcached = await connect(
            reactor,
            server.server,
            tls=TLS(ca=authority.pem),
            credentials=Credentials("app", "a password"),
        )
        self.addCleanup(self.memcached.close)

    async def test_counts(self):
        """Every visit of a user is one more."""
        self.assertEqual(await count_visit(self.memcached, "alice"), 1)
        self.assertEqual(await count_visit(self.memcached, "alice"), 2)
        self.assertEqual(await count_visit(self.memcached, "bob"), 1)
