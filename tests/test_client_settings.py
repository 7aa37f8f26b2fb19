"""`MemcacheClient.from_url` and its like: what was set elsewhere comes to a client."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.secrecy import USER, leaks, password, shown_by
from txtlsmc import (
    ClientSettings,
    CodecError,
    InsecurePassword,
    InvalidSetting,
    Limits,
    MemcacheClient,
    Routing,
    Server,
)


class FromSettingsTests(SynchronousTestCase):
    def test_all_of_them(self) -> None:
        """The client has the servers, the routing, the limits, the codec and the namespace."""
        routing, limits = Routing("modula", on_failure="miss"), Limits(timeout=7)
        client = MemcacheClient.from_settings(
            Clock(),
            ClientSettings(
                (Server("mc1"), Server("mc2")), routing=routing, limits=limits, namespace=b"app:"
            ),
        )
        self.assertEqual(client.factory.ring.servers, (Server("mc1"), Server("mc2")))
        self.assertEqual(client.factory.ring.scheme, "modula")
        self.assertEqual((client.factory.routing, client.factory.limits), (routing, limits))
        # 246 and the four of the namespace are 250.
        self.assertRaises(ValueError, client.get, "k" * 247)

    def test_codec(self) -> None:
        """The codec is the one that is named: raw takes no text."""
        client = MemcacheClient.from_settings(
            Clock(), ClientSettings((Server("mc1"),), codec="raw")
        )
        self.assertIn("raw", str(self.assertRaises(CodecError, client.set, "key", "text")))


class FromURLTests(SynchronousTestCase):
    def test_url(self) -> None:
        """A URL names servers, routing and limits."""
        client = MemcacheClient.from_url(
            Clock(), "memcaches://mc1:11212,mc2/?routing=ketama_md5&timeout=3", environ={}
        )
        self.assertEqual(client.factory.ring.servers, (Server("mc1:11212"), Server("mc2")))
        self.assertEqual(client.factory.ring.scheme, "ketama_md5")
        self.assertEqual(client.factory.limits.timeout, 3)

    def test_password_of_the_environment(self) -> None:
        """A user name without a password has that of TXTLSMC_PASSWORD; without, it is an error."""
        url = f"memcaches://{USER}@mc1"
        MemcacheClient.from_url(Clock(), url, environ={"TXTLSMC_PASSWORD": password()})
        with self.assertRaises(InvalidSetting) as caught:
            MemcacheClient.from_url(Clock(), url, environ={})
        self.assertIn("TXTLSMC_PASSWORD", str(caught.exception))

    def test_password_is_not_shown(self) -> None:
        """No traceback shows the password of a URL, or of the environment, that is refused."""
        try:
            MemcacheClient.from_url(
                Clock(), f"memcache://{USER}:{password()}@mc1", environ={"OTHER": password()}
            )
        except InsecurePassword as error:
            self.assertEqual(leaks(shown_by(error)), [])
        else:
            self.fail("a password without TLS was taken")


class FromEnvironTests(SynchronousTestCase):
    def test_provider(self) -> None:
        """A provider's variables make a client, whose names are the provider's."""
        client = MemcacheClient.from_environ(
            Clock(),
            environ={
                "MEMCACHIER_SERVERS": "mc1.example:11211,mc2.example:11211",
                "MEMCACHIER_USERNAME": USER,
                "MEMCACHIER_PASSWORD": password(),
            },
        )
        self.assertEqual(
            [(server.name, server.address.port) for server in client.factory.ring.servers],
            [("mc1.example:11211", 11219), ("mc2.example:11211", 11219)],
        )

    def test_one_of_two_providers(self) -> None:
        """Where two have set their variables, the caller chooses."""
        environ = {
            "MEMCACHEDCLOUD_SERVERS": "cloud.example:1",
            "MEMCACHE_SERVERS": "plain.example:2",
            **{
                f"{prefix}_{name}": value
                for prefix in ("MEMCACHEDCLOUD", "MEMCACHE")
                for name, value in (("USERNAME", USER), ("PASSWORD", password()))
            },
        }
        client = MemcacheClient.from_environ(
            Clock(), provider="memcachedcloud", environ=dict(environ)
        )
        self.assertEqual(client.factory.ring.servers[0].name, "cloud.example:1")
        with self.assertRaises(InvalidSetting) as caught:
            MemcacheClient.from_environ(Clock(), environ=dict(environ))
        self.assertIn("provider='memcachedcloud'", str(caught.exception))

    def test_password_is_not_shown(self) -> None:
        """No traceback shows what was in the environment."""
        try:
            MemcacheClient.from_environ(
                Clock(), environ={"TXTLSMC_URL": "nonsense", "TXTLSMC_PASSWORD": password()}
            )
        except InvalidSetting as error:
            self.assertEqual(leaks(shown_by(error)), [])
        else:
            self.fail("nonsense was taken for a URL")
