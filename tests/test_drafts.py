"""Tests of `txtlsmc.drafts`."""

from __future__ import annotations

from typing import Any

from tests.refusals import RefusalTestCase
from tests.secrecy import USER, password, wrong_password
from txtlsmc.drafts import Draft
from txtlsmc.errors import InsecurePassword
from txtlsmc.settings import (
    TLS,
    Backoff,
    ClientSettings,
    Credentials,
    InsecurePlaintext,
    Limits,
    Routing,
    Server,
)
from txtlsmc.sources import SETTINGS, Given, Layer

PIN = "0123456789abcdef" * 4


def layer(**values: Any) -> Layer:
    """Return a layer whose origins end with the name of the setting."""
    return {
        name: Given(value, f"its {name}", "the rest" if name in ("username", "password") else "")
        for name, value in values.items()
    }


def login(**changes: Any) -> Layer:
    """Return a layer with credentials."""
    return layer(**{"username": USER, "password": password(), **changes})


def made(*layers: Layer, servers: Any = "mc1") -> ClientSettings:
    """Return what the layers come to."""
    draft = Draft()
    for one in (layer(servers=servers), *layers):
        draft.add(one)
    return draft.settings("nowhere")


def with_login(other: Layer) -> ClientSettings:
    """Return what credentials and another layer come to."""
    return made(login(), other)


class DraftTests(RefusalTestCase):
    def test_defaults(self) -> None:
        """What nobody says is as in the settings themselves."""
        self.assertEqual(made(), ClientSettings((Server("mc1"),)))

    def test_every_setting(self) -> None:
        """Each setting arrives at its place."""
        values: dict[str, Any] = {
            "servers": ["mc1", "mc2"],
            "tls_port": 11219,
            "insecure_plaintext": False,
            "namespace": "app:",
            "codec": "raw",
            "ca": "ca.pem",
            "client_certificate": "client.pem",
            "pins": [PIN],
            "server_name": "mc.example",
            "minimum_version": "1.3",
            "insecure_no_verify": True,
            "username": USER,
            "mechanism": "CRAM-MD5",
            "insecure_password": True,
            "routing": "modula",
            "on_failure": "rehash",
            "partial": "return",
            "eject_after": 3,
            "connections": 4,
            "handshakes": 5,
            "retry": False,
            "hash_namespace": True,
            "backoff_first": 6,
            "backoff_longest": 7,
            "backoff_wake_every": 8,
            "backoff_credentials": 9,
            "timeout": 10,
            "connect_timeout": 11,
            "max_pending": 12,
            "max_pending_bytes": 13,
            "max_body": 14,
        }
        self.assertEqual({*values, "password"}, set(SETTINGS))
        self.assertEqual(
            made(layer(**values), layer(password=password())),
            ClientSettings(
                servers=(Server("mc1", "mc1:11219"), Server("mc2", "mc2:11219")),
                tls=TLS("ca.pem", "client.pem", (PIN,), "mc.example", "1.3", True),
                credentials=Credentials(USER, password(), "CRAM-MD5", True),
                routing=Routing(
                    "modula", "rehash", "return", 3, 4, 5, False, True, Backoff(6, 7, 8, 9)
                ),
                namespace=b"app:",
                codec="raw",
                limits=Limits(10, 11, 12, 13, 14),
            ),
        )

    def test_later_wins(self) -> None:
        """What is said later wins, setting by setting."""
        settings = made(
            layer(timeout=1, connect_timeout=2, servers="mc2"), layer(timeout=3, routing="modula")
        )
        self.assertEqual(settings.limits, Limits(3, 2))
        self.assertEqual(settings.routing, Routing("modula"))
        self.assertEqual(settings.servers, (Server("mc2"),))
        settings = made(login(password=wrong_password()), login())
        self.assertEqual(settings.credentials, Credentials(USER, password()))

    def test_bad_value(self) -> None:
        """A value that can not be right is refused, also where a later one would win."""
        said = self.refused(lambda: made(layer(timeout=0), layer(timeout=1)))
        self.assertTrue(said.startswith("its timeout: timeout must be seconds"))

    def test_nowhere(self) -> None:
        """Without a server there is no client, and the words say where to name one."""
        said = self.refused(lambda: Draft().settings("write some"))
        self.assertEqual(said, "no server is named: write some")

    def test_halves(self) -> None:
        """Half of the credentials is refused, and the missing half is named."""
        self.assertEqual(
            self.refused(lambda: made(layer(username=USER))),
            "its username is given without a password: set the rest",
        )
        self.assertEqual(
            self.refused(lambda: made(layer(password=password()))),
            "its password is given without a user name: set the rest",
        )
        self.assertEqual(
            self.refused(lambda: made(layer(mechanism="CRAM-MD5"))),
            "its mechanism is given without a user name",
        )
        self.assertIsNone(made(layer(insecure_password=True)).credentials)

    def test_servers_that_want_a_user(self) -> None:
        """Servers that are known to want credentials are refused without."""

        def named(*layers: Layer) -> ClientSettings:
            draft = Draft()
            for one in ({"servers": Given("mc1", "X_SERVERS", "X_USERNAME")}, *layers):
                draft.add(one)
            return draft.settings("nowhere")

        self.assertEqual(
            self.refused(named), "X_SERVERS is given without a user name: set X_USERNAME"
        )
        self.assertIsNotNone(named(login()).credentials)


class PlaintextTests(RefusalTestCase):
    def test_plaintext(self) -> None:
        """No TLS has to be said."""
        self.assertEqual(made(layer(insecure_plaintext=True)).tls, InsecurePlaintext())
        self.assertEqual(made(layer(insecure_plaintext=False)).tls, TLS())

    def test_contradiction(self) -> None:
        """Who says no TLS, and in the same breath or later how, has to leave one of them out."""
        values: dict[str, Any] = {
            "tls_port": 11219,
            "ca": "ca.pem",
            "client_certificate": "client.pem",
            "pins": [PIN],
            "server_name": "mc.example",
            "minimum_version": "1.3",
            "insecure_no_verify": True,
        }
        for name, value in values.items():
            both: dict[str, Any] = {name: value, "insecure_plaintext": True}
            for layers in (
                (layer(**both),),
                (layer(insecure_plaintext=True), layer(**{name: value})),
            ):
                said = self.refused(made, *layers)
                self.assertEqual(
                    said,
                    f"its {name} is about TLS, and its insecure_plaintext says that there is"
                    " none: leave one of them out",
                )

    def test_later(self) -> None:
        """Who says no TLS later wins over all that was said of it; and the other way round."""
        secure, plain = layer(ca="ca.pem", tls_port=11219), layer(insecure_plaintext=True)
        self.assertEqual(made(secure, plain).tls, InsecurePlaintext())
        self.assertEqual(made(secure, plain).servers, (Server("mc1"),))
        again = layer(insecure_plaintext=False, ca="other.pem")
        self.assertEqual(made(secure, plain, again).tls, TLS("other.pem"))


class PasswordTests(RefusalTestCase):
    def test_risk(self) -> None:
        """A password that could be stolen is refused, unless that is allowed by name."""
        for name, way in (
            ("insecure_plaintext", "without TLS"),
            ("insecure_no_verify", "over TLS that verifies nobody"),
        ):
            insecure = layer(**{name: True})
            said = self.refused(with_login, insecure, by=InsecurePassword)
            self.assertTrue(said.startswith(f"its password: a password {way} can be stolen"))
            self.assertIn("insecure_password", said)
            allowed = made(login(), insecure, layer(insecure_password=True)).credentials
            self.assertEqual(allowed, Credentials(USER, password(), insecure_password=True))

    def test_other_errors(self) -> None:
        """The password stays unsaid when it is something else that is wrong."""
        for wrong in (
            layer(timeout=-1),
            layer(tls_port=5, servers="unix:/x"),
            layer(ca="x", insecure_plaintext=True),
        ):
            self.refused(with_login, wrong)
        self.refused(lambda: made(login(username="")))
        self.refused(lambda: made(login(password=password() + "\0")))
        self.refused(lambda: made(login(mechanism="LOGIN")))


class TLSPortTests(RefusalTestCase):
    def addresses(self, *layers: Layer) -> list[str]:
        return [str(server.address) for server in made(*layers).servers]

    def usual(self, servers: Any) -> Layer:
        return {"servers": Given(servers, "X_SERVERS", tls_port=11219)}

    def test_dialled(self) -> None:
        """Another port is dialled, except where the entry says what to dial."""
        port = layer(tls_port=5)
        servers = ["mc1", "mc2:11211", "mc3=mc9:7"]
        self.assertEqual(self.addresses(port, layer(servers=servers)), ["mc1:5", "mc2:5", "mc9:7"])
        self.assertEqual([server.name for server in made(port, servers="mc1").servers], ["mc1"])

    def test_socket(self) -> None:
        """For a Unix socket it is refused by where the port was said."""
        said = self.refused(lambda: made(layer(tls_port=5), servers=["mc1", "unix:/x"]))
        self.assertEqual(
            said, "its tls_port: tls_port is for hosts, and 'unix:/x' is a Unix socket"
        )

    def test_known(self) -> None:
        """Where servers are known to speak TLS is dialled, unless something else is said."""
        self.assertEqual(self.addresses(self.usual("mc1")), ["mc1:11219"])
        self.assertEqual(self.addresses(self.usual("mc1"), layer(tls_port=5)), ["mc1:5"])
        self.assertEqual(self.addresses(layer(tls_port=5), self.usual("mc1")), ["mc1:5"])
        self.assertEqual(
            self.addresses(self.usual("mc1"), layer(insecure_plaintext=True)), ["mc1:11211"]
        )
        self.assertEqual(self.addresses(self.usual("mc1"), layer(servers="mc2")), ["mc2:11211"])
