"""Tests of `txtlsmc.sources`."""

from __future__ import annotations

from dataclasses import fields

from twisted.trial.unittest import SynchronousTestCase

from tests.refusals import RefusalTestCase
from tests.secrecy import leaks, password
from txtlsmc.settings import TLS, Backoff, ClientSettings, Credentials, Limits, Routing
from txtlsmc.sources import SETTINGS, Given, check, read_text


class GivenTests(SynchronousTestCase):
    def test_repr(self) -> None:
        """What was given is not shown, only where."""
        given = Given(password(), "TXTLSMC_PASSWORD", "TXTLSMC_USERNAME")
        for text in (repr(given), str(given), repr({"password": given})):
            self.assertEqual(leaks(text), [])
            self.assertIn("TXTLSMC_PASSWORD", text)
        self.assertFalse(hasattr(given, "__dict__"))


class SettingsTests(SynchronousTestCase):
    def test_nothing_is_forgotten(self) -> None:
        """Whatever is an attribute of the settings can be set by name."""
        parts = {
            "tls.": TLS,
            "credentials.": Credentials,
            "routing.": Routing,
            "routing.backoff.": Backoff,
            "limits.": Limits,
        }
        attributes = {
            prefix + attribute.name
            for prefix, part in {"": ClientSettings, **parts}.items()
            for attribute in fields(part)
        } - {prefix[:-1] for prefix in parts}
        self.assertEqual(
            {setting.key for setting in SETTINGS.values()},
            attributes | {"tls_port", "insecure_plaintext"},
        )

    def test_names(self) -> None:
        """A name is that of the attribute, and fits a URL and an option."""
        for name, setting in SETTINGS.items():
            self.assertEqual(name, setting.name)
            self.assertRegex(name, "^[a-z_]+$")
            attribute = setting.key.rpartition(".")[2]
            self.assertTrue(name.endswith(attribute) or (name, attribute) == ("routing", "scheme"))

    def test_insecure(self) -> None:
        """What takes a protection away says so in its name."""
        insecure = {name for name in SETTINGS if "insecure" in name}
        self.assertEqual(
            insecure, {"insecure_plaintext", "insecure_no_verify", "insecure_password"}
        )


class ReadTextTests(RefusalTestCase):
    def test_values(self) -> None:
        """Text becomes what the setting is made of."""
        for name, text, value in (
            ("timeout", "2", 2.0),
            ("timeout", "0.5", 0.5),
            ("timeout", "007", 7.0),
            ("max_pending", "65536", 65536),
            ("max_pending_bytes", "999999999999999", 999_999_999_999_999),
            ("tls_port", "11219", 11219),
            *(("retry", word, True) for word in ("1", "true", "yes")),
            *(("retry", word, False) for word in ("0", "false", "no")),
            ("pins", "a,b", ("a", "b")),
            ("pins", "a", ("a",)),
            ("ca", " a,b ", " a,b "),
        ):
            given = read_text(name, Given(text, "--x", "--y"))
            self.assertEqual(given, Given(value, "--x", "--y"))
            self.assertIs(type(given.value), type(value))

    def test_no_values(self) -> None:
        """Text that only a program could take for a number or a truth is refused."""
        for name, said, texts in (
            (
                "timeout",
                "must be seconds, such as 2 or 0.5",
                (
                    "",
                    "x",
                    "-1",
                    "+1",
                    "1e3",
                    ".5",
                    "5.",
                    "nan",
                    "inf",
                    "1_0",
                    " 1",
                    "1\n",
                    "\u0661",
                ),
            ),
            ("eject_after", "must be a whole number", ("", "1.0", "-1", "0x1", "9" * 5000, "1\n")),
            ("retry", "must be 1, true or yes", ("", "on", "True", "2", "1 ")),
        ):
            for text in texts:
                refusal = self.refused(read_text, name, Given(text, "--x"))
                self.assertTrue(refusal.startswith(f"--x: {said}"), refusal)
                self.assertTrue(refusal.endswith(f"not {text!r}"))


class CheckTests(RefusalTestCase):
    def test_origin(self) -> None:
        """A value that can not be right is refused by where it stood."""
        for name, value, said in (
            ("servers", "mc1:x", "the port of 'mc1:x' must be"),
            ("servers", [], "there is no server"),
            ("tls_port", 0, "tls_port must be a number"),
            ("insecure_plaintext", "yes", "insecure_plaintext must be True or False"),
            ("namespace", "a b", "the namespace is"),
            ("codec", "x", "the codec is one of"),
            ("ca", "", "ca is a path or PEM text"),
            ("pins", ["x"], "a pin has 64"),
            ("mechanism", "x", "the SASL mechanism is one of"),
            ("username", "", "the user name must be text"),
            ("routing", "x", "a routing scheme is one of"),
            ("connections", 0, "connections must be"),
            ("backoff_first", 0, "first must be seconds"),
            ("timeout", -1, "timeout must be seconds"),
        ):
            refusal = self.refused(check, name, Given(value, "--x"))
            self.assertTrue(refusal.startswith(f"--x: {said}"), refusal)

    def test_fine(self) -> None:
        """What can be right passes, and what stands beside it has no part in that."""
        for name, value in (
            ("servers", ["mc1", "unix:/x"]),
            ("password", password()),
            ("mechanism", "CRAM-MD5"),
            ("insecure_password", True),
            ("backoff_first", 60),
            ("tls_port", 11219),
            ("insecure_plaintext", False),
        ):
            check(name, Given(value, "--x"))

    def test_secret(self) -> None:
        """A password that can not travel is refused without being told."""
        said = self.refused(lambda: check("password", Given(password() + "\0", "--x")))
        self.assertTrue(said.startswith("--x: the password must be text"))
