"""Tests of `txtlsmc.settings`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from traceback import walk_tb
from types import FunctionType
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import (
    CODECS,
    TLS,
    Address,
    ClientSettings,
    Credentials,
    InsecurePlaintext,
    Limits,
    Routing,
    Server,
    password_risk,
)
from txtlsmc.wire.codecs import CODEC_NAMES

PASSWORD = "correct horse 7"
PRIVATE_KEY = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIB\n-----END PRIVATE KEY-----"
PIN = "0123456789abcdef" * 4


class _Tests(SynchronousTestCase):
    def refused(self, call: Callable[..., object], *arguments: Any, **named: Any) -> str:
        """Return in which words *call* is refused."""
        return str(self.assertRaises(InvalidSetting, call, *arguments, **named))


class TLSTests(_Tests):
    def test_default(self) -> None:
        """Nothing said means verified, by what the platform trusts, TLS 1.2 at least."""
        tls = TLS()
        self.assertEqual((tls.ca, tls.client_certificate, tls.pins), (None, None, ()))
        self.assertEqual((tls.server_name, tls.minimum_version), (None, "1.2"))
        self.assertIs(tls.insecure_no_verify, False)

    def test_all(self) -> None:
        """All that can be set is kept."""
        tls = TLS("ca.pem", b"client.pem", (PIN,), "mc1.example", "1.3", True)
        self.assertEqual(
            (tls.ca, tls.client_certificate, tls.pins), ("ca.pem", b"client.pem", (PIN,))
        )
        self.assertEqual((tls.server_name, tls.minimum_version), ("mc1.example", "1.3"))
        self.assertIs(tls.insecure_no_verify, True)
        self.assertEqual(replace(TLS(ca="x"), server_name="::1"), TLS(ca="x", server_name="::1"))

    def test_minimum_version(self) -> None:
        """Older versions than 1.2 can not be had."""
        for version in ("1.1", "1.0", "1.4", "TLSv1.2", "", None, 1.2, ["1.2"]):
            said = self.refused(TLS, minimum_version=version)
            self.assertIn("one of 1.2, 1.3", said)

    def test_pins(self) -> None:
        """A pin may be written with colons and in capitals."""
        pairs = ":".join(PIN[i : i + 2].upper() for i in range(0, 64, 2))
        self.assertEqual(TLS(pins=(pairs, PIN)).pins, (PIN, PIN))
        self.assertEqual(TLS(pins=[PIN]).pins, (PIN,))  # type: ignore[arg-type] # lists are common

    def test_bad_pins(self) -> None:
        """A pin that can never match is refused, and so is one string for the tuple."""
        for pin in (
            "",
            PIN[:-1],
            PIN + "0",
            "g" + PIN[1:],
            PIN + "\n",
            " " + PIN,
            b"00" * 32,
            None,
        ):
            self.assertIn("64 hexadecimal digits", self.refused(TLS, pins=(PIN, pin)))
        for pins in (PIN, None, 5, {PIN: 1}, PIN.encode()):
            self.assertIn("a tuple of strings", self.refused(TLS, pins=pins))

    def test_sources(self) -> None:
        """An empty variable does not silently mean another trust, or no certificate."""
        for name in ("ca", "client_certificate"):
            for source in ("", b"", 5, True, object()):
                self.assertIn(f"{name} is a path or PEM text", self.refused(TLS, **{name: source}))

    def test_server_name(self) -> None:
        """The name to verify is one name, or one IP address, without a port."""
        for name in ("mc1.example", "192.0.2.1", "2001:db8::1", "bücher.example"):
            self.assertEqual(TLS(server_name=name).server_name, name)
        for bad in ("", " ", "mc1:11211", "[::1]", "a\0.example", "a b", "*.example", b"mc1", 5):
            self.assertIn("the server name", self.refused(TLS, server_name=bad))

    def test_insecure(self) -> None:
        """Verification is switched off by True, and by nothing that only looks like it."""
        for word in ("false", "no", "0", 1, 0, None, "True"):
            self.assertIn("must be True or False", self.refused(TLS, insecure_no_verify=word))

    def test_repr(self) -> None:
        """The private key is not shown."""
        self.assertNotIn("PRIVATE", repr(TLS(client_certificate=PRIVATE_KEY)))
        self.assertIn("ca.pem", repr(TLS(ca="ca.pem")))

    def test_plaintext(self) -> None:
        """No TLS is a word of its own."""
        self.assertEqual(InsecurePlaintext(), InsecurePlaintext())
        self.assertNotIsInstance(InsecurePlaintext(), TLS)


class CredentialsTests(_Tests):
    def test_all(self) -> None:
        """All that can be set is kept; PLAIN is the default, an open connection is not."""
        credentials = Credentials("alice", PASSWORD)
        self.assertEqual((credentials.username, credentials.password), ("alice", PASSWORD))
        self.assertEqual(credentials.mechanism, "PLAIN")
        self.assertIs(credentials.insecure_password, False)
        for mechanism in ("PLAIN", "CRAM-MD5", "SCRAM-SHA-256"):
            self.assertEqual(Credentials("a", "b", mechanism).mechanism, mechanism)
        self.assertIs(Credentials("a", "b", insecure_password=True).insecure_password, True)
        self.assertEqual(Credentials("bjørn", "пароль 🙂").password, "пароль 🙂")

    def test_mechanism(self) -> None:
        """A mechanism that is not there is refused, and those that are get listed."""
        for mechanism in ("plain", "", "LOGIN", "SCRAM-SHA-1", None, b"PLAIN", ["PLAIN"]):
            said = self.refused(Credentials, "alice", PASSWORD, mechanism)
            self.assertIn("one of PLAIN, CRAM-MD5, SCRAM-SHA-256", said)

    def test_user_name_and_password(self) -> None:
        """Both are text that can travel: an empty or half-read variable is found at once."""
        for bad in ("", "a\0b", "\udcff", "x\ud800y", "\udfff", None, b"secret", 5, ["x"]):
            self.assertIn("the user name must be text", self.refused(Credentials, bad, PASSWORD))
            self.assertIn("the password must be text", self.refused(Credentials, "alice", bad))

    def test_insecure(self) -> None:
        """The password goes over an open connection by True, and by nothing that looks like it."""
        for word in ("false", 1, None):
            said = self.refused(Credentials, "alice", PASSWORD, insecure_password=word)
            self.assertIn("must be True or False", said)

    def test_value(self) -> None:
        """Credentials are a value that can not be changed."""
        self.assertEqual(Credentials("a", "b"), Credentials("a", "b"))
        self.assertNotEqual(Credentials("a", "b"), Credentials("a", "c"))
        self.assertEqual(
            replace(Credentials("a", "b"), mechanism="CRAM-MD5"), Credentials("a", "b", "CRAM-MD5")
        )
        with self.assertRaises(FrozenInstanceError):
            Credentials("a", "b").password = "c"  # type: ignore[misc] # that is what this shows

    def test_repr(self) -> None:
        """The password is not shown, whatever shows the credentials."""
        credentials = Credentials("alice", PASSWORD)
        for text in (repr(credentials), str(credentials), f"{credentials}", repr([credentials])):
            self.assertNotIn(PASSWORD, text)
            self.assertIn("alice", text)


class SecretTests(_Tests):
    """No refusal tells a secret, not even in a traceback that shows the local variables."""

    def assert_untold(self, secret: str, call: Callable[[], object]) -> None:
        assert isinstance(call, FunctionType)
        error = self.assertRaises(InvalidSetting, call)
        frames = [frame for frame, _ in walk_tb(error.__traceback__)]
        ours = frames[[frame.f_code for frame in frames].index(call.__code__) + 1 :]
        self.assertTrue(ours)
        said = [str(error), repr(error), repr(error.__context__), repr(error.__cause__)]
        said += [repr(value) for frame in ours for value in frame.f_locals.values()]
        for text in said:
            for told in (secret, repr(secret)[1:-1]):
                self.assertNotIn(told, text)

    def test_other_settings(self) -> None:
        """The password stays unsaid when it is another setting that is wrong."""
        self.assert_untold(PASSWORD, lambda: Credentials("alice", PASSWORD, "LOGIN"))
        self.assert_untold(PASSWORD, lambda: Credentials("", PASSWORD))
        insecure: Any = "yes"
        self.assert_untold(
            PASSWORD, lambda: Credentials("alice", PASSWORD, insecure_password=insecure)
        )

    def test_bad_password(self) -> None:
        """The password stays unsaid when it is itself what is wrong."""
        for unfit in ("\0", "\udcff"):
            self.assert_untold(PASSWORD, self._made_with(PASSWORD + unfit))

    def _made_with(self, password: str) -> Callable[[], Credentials]:
        return lambda: Credentials("alice", password)

    def test_private_key(self) -> None:
        """The private key stays unsaid when another setting of TLS is wrong."""
        self.assert_untold(
            PRIVATE_KEY, lambda: TLS(client_certificate=PRIVATE_KEY, minimum_version="1.1")
        )
        self.assert_untold(PRIVATE_KEY, lambda: TLS(client_certificate=PRIVATE_KEY, ca=""))


class FrozenTests(_Tests):
    def test_frozen(self) -> None:
        """No setting changes once it was checked, and none takes a misspelled one."""
        for made, name in (
            (Address("mc1", 1), "port"),
            (Server("mc1"), "weight"),
            (TLS(), "insecure_no_verify"),
            (Credentials("a", "b"), "password"),
            (Limits(), "timeout"),
            (Routing(), "scheme"),
        ):
            self.assertRaises(FrozenInstanceError, setattr, made, name, 2)
            self.assertFalse(hasattr(made, "__dict__"))
            self.assertEqual(len({made, replace(made)}), 1)


class LimitsTests(_Tests):
    def test_default(self) -> None:
        """Every bound is set, to what the documentation says."""
        limits = Limits()
        self.assertEqual((limits.timeout, limits.connect_timeout), (2.0, 5.0))
        self.assertEqual((limits.max_pending, limits.max_pending_bytes), (65_536, 64 * 2**20))
        self.assertEqual(limits.max_body, 32 * 2**20)

    def test_seconds(self) -> None:
        """Times are above 0 and end."""
        for name in ("timeout", "connect_timeout"):
            for seconds in (0.001, 1, 3600.0):
                named: dict[str, Any] = {name: seconds}
                self.assertEqual(getattr(Limits(**named), name), seconds)
            for bad in (0, 0.0, -1, -0.1, float("nan"), float("inf"), "2", None, True, [2], 2j):
                said = self.refused(Limits, **{name: bad})
                self.assertTrue(re.match(f"{name} must be seconds, above 0", said), said)

    def test_sizes(self) -> None:
        """Counts and sizes are whole numbers above 0."""
        for name in ("max_pending", "max_pending_bytes", "max_body"):
            self.assertEqual(getattr(replace(Limits(), **{name: 1}), name), 1)
            for bad in (0, -1, 1.5, 1.0, float("nan"), float("inf"), "9", None, True, b"9"):
                said = self.refused(Limits, **{name: bad})
                self.assertTrue(re.match(f"{name} must be a whole number above 0", said), said)


class ClientSettingsTests(_Tests):
    def test_default(self) -> None:
        """Servers are enough: verified TLS, no credentials, libmemcached's ring."""
        made = ClientSettings((Server("mc1"),))
        self.assertEqual((made.tls, made.credentials), (TLS(), None))
        self.assertEqual((made.routing, made.limits), (Routing(), Limits()))
        self.assertEqual((made.namespace, made.codec), (b"", "pylibmc"))

    def test_servers(self) -> None:
        """Servers may be text, and there is one at least."""
        text: Any = "mc1,mc2:5"
        self.assertEqual(ClientSettings(text).servers, (Server("mc1"), Server("mc2:5")))
        self.assertEqual(ClientSettings(text).servers[1].address, Address("mc2", 5))
        self.assertIn("no server", self.refused(ClientSettings, ()))

    def test_parts(self) -> None:
        """Each part is of its own class."""
        for name, class_name in (
            ("tls", "TLS"),
            ("credentials", "Credentials"),
            ("routing", "Routing"),
            ("limits", "Limits"),
        ):
            for thing in ("x", object(), True):
                said = self.refused(ClientSettings, "mc1", **{name: thing})
                self.assertEqual(said, f"{name} is a {class_name}, not {type(thing).__name__}")
        plain = ClientSettings((Server("mc1"),), tls=InsecurePlaintext())
        self.assertEqual(plain.tls, InsecurePlaintext())

    def test_namespace(self) -> None:
        """A namespace is what a key may begin with, with room for one byte more."""
        for text, namespace in {
            "app:": b"app:",
            "": b"",
            "bücher:": "bücher:".encode(),
            "x" * 249: b"x" * 249,
            b"\xff": b"\xff",
        }.items():
            given: Any = text
            self.assertEqual(ClientSettings((Server("mc1"),), namespace=given).namespace, namespace)
        for bad in ("a b", "a\n", "\x7f", b"\0", "x" * 250, "ü" * 125, "\udcff"):
            said = self.refused(ClientSettings, "mc1", namespace=bad)
            self.assertIn("the namespace is at most 249 bytes", said)
        for thing in (None, 5, ["app:"]):
            self.assertIn("is str or bytes", self.refused(ClientSettings, "mc1", namespace=thing))

    def test_codec(self) -> None:
        """A codec is one of those that there are."""
        self.assertEqual(sorted(CODECS), sorted(CODEC_NAMES))
        for name in CODECS:
            self.assertEqual(ClientSettings((Server("mc1"),), codec=name).codec, name)
        for bad in ("", "pickle", None, 5, ["raw"]):
            said = self.refused(ClientSettings, "mc1", codec=bad)
            self.assertIn("the codec is one of pylibmc, ", said)

    def test_repr(self) -> None:
        """Neither the password nor the private key is shown."""
        shown = repr(
            ClientSettings(
                (Server("mc1"),),
                tls=TLS(client_certificate=PRIVATE_KEY),
                credentials=Credentials("alice", PASSWORD),
            )
        )
        self.assertNotIn(PASSWORD, shown)
        self.assertNotIn("PRIVATE", shown)
        self.assertIn("alice", shown)

    def test_value(self) -> None:
        """Settings are a value that can not be changed, and a part can be replaced."""
        made = ClientSettings((Server("mc1"),))
        self.assertEqual(replace(made, codec="raw").codec, "raw")
        self.assertEqual(len({made, ClientSettings((Server("mc1"),))}), 1)
        with self.assertRaises(FrozenInstanceError):
            made.codec = "raw"  # type: ignore[misc] # that it is frozen is what this shows


class PasswordRiskTests(_Tests):
    def test_table(self) -> None:
        """A password is at risk wherever nobody was verified, unless that is allowed by name."""
        meek = Credentials("alice", PASSWORD)
        bold = replace(meek, insecure_password=True)
        for tls, credentials, risk in (
            (TLS(), meek, None),
            (TLS(insecure_no_verify=True), meek, "over TLS that verifies nobody"),
            (InsecurePlaintext(), meek, "without TLS"),
            (TLS(insecure_no_verify=True), bold, None),
            (InsecurePlaintext(), bold, None),
            (InsecurePlaintext(), None, None),
        ):
            self.assertEqual(password_risk(tls, credentials), risk)
