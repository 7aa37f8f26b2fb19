"""Tests of `txtlsmc.urls`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.refusals import RefusalTestCase
from tests.secrecy import USER, leaks, password
from txtlsmc.errors import InsecurePassword, InvalidArgument, InvalidSetting
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
from txtlsmc.sources import SETTINGS, Given
from txtlsmc.urls import settings_from_url, url_layer

PIN = "0123456789abcdef" * 4

quickly = settings(deadline=None, database=None, max_examples=500)

#: Text that looks like a URL every now and then.
url_like = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *("memcaches://", "memcache://", "MEMCACHES://", "http://", "://", "unix:%2F"),
                *("mc1", "mc2.example:11219", "[::1]:1:2", "alice", "alice:pw@", "@"),
                *("/", "?", "&", "#", "=", ":", ",", ";", "%", "%40", "%zz", "%ff", "%00", " "),
                *("timeout=2", "timeout=", "routing=modula", "pins=", "password=x", "retry=no"),
                *("insecure_password=1", "ca=/x", "tls_port=11219", "namespace=%20", "\ud800"),
            ]
        ),
        st.text(max_size=3),
    ),
    max_size=10,
).map("".join)


def escaped() -> str:
    """Return the password as a URL has it."""
    return quote(password(), safe="")


def with_password(scheme: str, secret: Callable[[], str], rest: str) -> str:
    """Return a URL with the password in it."""
    return f"{scheme}://{USER}:{secret()}@{rest}"


class SchemeTests(RefusalTestCase):
    def test_tls(self) -> None:
        """The scheme memcaches is verified TLS, and all else is by default."""
        for url in (
            "memcaches://mc1",
            "memcaches://mc1/",
            "MemCaches://mc1/?",
            " memcaches://mc1\n",
        ):
            self.assertEqual(settings_from_url(url), ClientSettings((Server("mc1"),)))

    def test_plaintext(self) -> None:
        """The scheme memcache is no TLS."""
        self.assertEqual(settings_from_url("memcache://mc1").tls, InsecurePlaintext())

    def test_others(self) -> None:
        """Another scheme is refused, and both are named."""
        for url in ("", "mc1:11211", "http://mc1", "memcached://mc1", "memcaches:mc1", "://mc1"):
            said = self.refused(settings_from_url, url)
            self.assertEqual(
                said, "the URL: it begins with memcaches:// (TLS) or with memcache:// (no TLS)"
            )

    def test_no_text(self) -> None:
        """What is no text is no URL."""
        things: tuple[Any, ...] = (None, 5, b"memcaches://mc1", ["memcaches://mc1"])
        for thing in things:
            said = self.refused(settings_from_url, thing)
            self.assertEqual(said, f"the URL: a URL is text, not {type(thing).__name__}")

    def test_tls_without_tls(self) -> None:
        """What is about TLS has no place behind memcache://."""
        said = self.refused(lambda: settings_from_url("memcache://mc1/?ca=x"))
        self.assertEqual(
            said,
            "'ca' in the URL is about TLS, and the scheme of the URL says that there is none:"
            " leave one of them out",
        )

    def test_origin(self) -> None:
        """The URL is called by where it stood."""
        said = self.refused(lambda: settings_from_url(Given("mc1", "TXTLSMC_URL")))
        self.assertTrue(said.startswith("TXTLSMC_URL: it begins with"))


class ServerTests(RefusalTestCase):
    def test_list(self) -> None:
        """Servers stand between commas, in ring order, in all their forms."""
        for authority, servers in {
            "mc1,mc2:11219;mc3:1:2": ("mc1", "mc2:11219", "mc3:1:2"),
            "mc1,mc1": ("mc1", "mc1"),
            "[::1],[fe80::1%25eth0]:5": ("[::1]", "[fe80::1%eth0]:5"),
            "unix:%2Frun%2Fx.sock": ("unix:/run/x.sock",),
            "b%C3%BCcher.example": ("bücher.example",),
            "bücher.example": ("bücher.example",),
            "mc1,": ("mc1",),
        }.items():
            self.assertEqual(
                settings_from_url(f"memcaches://{authority}/").servers,
                tuple(map(Server, servers)),
            )

    def test_address(self) -> None:
        """An entry may say what to dial."""
        self.assertEqual(
            settings_from_url("memcaches://mc1:1=127.0.0.1:5,mc2/?tls_port=7").servers,
            (Server("mc1:1", "127.0.0.1:5"), Server("mc2", "mc2:7")),
        )

    def test_none(self) -> None:
        """A URL without a server is refused."""
        for url in ("memcaches://", "memcaches:///", "memcaches://,;/", f"memcaches://{USER}@"):
            self.assertEqual(
                self.refused(settings_from_url, url),
                "the URL: there is no server in it",
            )

    def test_bad(self) -> None:
        """A bad entry is refused by its number; it may be a password, so it is not repeated."""
        for entry in (
            "alice:s3cret",
            "mc1:65536",
            "mc1:1:0",
            "a%20b",
            "a%2Cb",
            "[s3cret]",
            "x=",
            " ",
        ):
            said = self.refused(settings_from_url, f"memcaches://mc1,{entry}/")
            self.assertTrue(said.startswith("the URL: server 2 is not HOST, HOST:PORT, "), said)
            self.assertNotIn("s3cret", said)
            self.assertNotIn("65536", said)

    def test_path(self) -> None:
        """There is no path, and no fragment."""
        for url in (
            "memcaches://mc1/x",
            "memcaches://mc1//",
            "memcaches://mc1/#x",
            "memcaches://mc1#",
        ):
            said = self.refused(settings_from_url, url)
            self.assertTrue(said.startswith("the URL: it is SCHEME://USER:PASSWORD@HOST:PORT"))


class UserTests(RefusalTestCase):
    def test_user_and_password(self) -> None:
        """User name and password stand before the '@', with escapes."""
        settings = settings_from_url(f"memcaches://{USER}%40home:{escaped()}@mc1/")
        self.assertEqual(settings.credentials, Credentials(f"{USER}@home", password()))
        self.assertEqual(leaks(repr(settings)), [])
        settings = settings_from_url("memcaches://bjørn:p:ä%C3%A4+%25@mc1?mechanism=CRAM-MD5")
        self.assertEqual(settings.credentials, Credentials("bjørn", "p:ää+%", "CRAM-MD5"))

    def test_password_elsewhere(self) -> None:
        """A user name alone takes the password of TXTLSMC_PASSWORD, if it is told of it."""
        url = f"memcaches://{USER}@mc1"
        settings = settings_from_url(url, environ={"TXTLSMC_PASSWORD": password()})
        self.assertEqual(settings.credentials, Credentials(USER, password()))
        environs: tuple[dict[str, str] | None, ...] = (None, {}, {"TXTLSMC_PASSWORD": ""})
        for environ in environs:
            self.assertEqual(
                self.refused(partial(settings_from_url, url, environ=environ)),
                "the user name in the URL is given without a password: set TXTLSMC_PASSWORD",
            )

    def test_password_not_wanted(self) -> None:
        """TXTLSMC_PASSWORD is for a user name without a password, and for nothing else."""
        settings = settings_from_url(
            f"memcaches://{USER}:{escaped()}@mc1", environ={"TXTLSMC_PASSWORD": "another"}
        )
        self.assertEqual(settings.credentials, Credentials(USER, password()))
        settings = settings_from_url("memcaches://mc1", environ={"TXTLSMC_PASSWORD": password()})
        self.assertIsNone(settings.credentials)

    def test_halves(self) -> None:
        """An empty half is refused."""
        for user, said in (
            ("", "there is no user name"),
            (":", "there is no user name"),
            (":secret", "there is no user name"),
            (f"{USER}:", "the password before the '@' is empty"),
        ):
            refusal = self.refused(settings_from_url, f"memcaches://{user}@mc1")
            self.assertTrue(refusal.startswith(f"the URL: {said}"), refusal)

    def test_command_line(self) -> None:
        """On a command line a password is refused, and a user name is not."""
        self.assertEqual(
            self.refused(
                lambda: settings_from_url(
                    f"memcaches://{USER}:{escaped()}@mc1", from_command_line=True
                )
            ),
            "the URL: a password on a command line can be read by others; leave it out, and set"
            " TXTLSMC_PASSWORD",
        )
        settings = settings_from_url(
            f"memcaches://{USER}@mc1",
            environ={"TXTLSMC_PASSWORD": password()},
            from_command_line=True,
        )
        self.assertEqual(settings.credentials, Credentials(USER, password()))

    def test_risk(self) -> None:
        """A password wants verified TLS, or a word of its own."""
        for scheme, query, way in (
            ("memcache", "", "without TLS"),
            ("memcaches", "insecure_no_verify=1&", "over TLS that verifies nobody"),
        ):
            said = self.refused(
                lambda *words: settings_from_url(with_password(*words)),
                *(scheme, escaped, f"mc1/?{query}"),
                by=InsecurePassword,
            )
            self.assertTrue(said.startswith(f"the password in the URL: a password {way} can be"))
            settings = settings_from_url(
                f"{scheme}://{USER}:{escaped()}@mc1/?{query}insecure_password=1"
            )
            self.assertEqual(
                settings.credentials, Credentials(USER, password(), insecure_password=True)
            )


class QueryTests(RefusalTestCase):
    def test_every_key(self) -> None:
        """All that can be set is a key of the query, but for what has a place of its own."""
        query = {
            "tls_port": "11219",
            "namespace": "app:",
            "codec": "raw",
            "ca": "ca.pem",
            "client_certificate": "client.pem",
            "pins": f"{PIN},{PIN}",
            "server_name": "mc.example",
            "minimum_version": "1.3",
            "insecure_no_verify": "no",
            "mechanism": "CRAM-MD5",
            "insecure_password": "no",
            "routing": "modula",
            "on_failure": "rehash",
            "partial": "return",
            "eject_after": "3",
            "connections": "4",
            "handshakes": "5",
            "retry": "false",
            "hash_namespace": "true",
            "backoff_first": "6",
            "backoff_longest": "7",
            "backoff_wake_every": "8",
            "backoff_credentials": "9",
            "timeout": "10.5",
            "connect_timeout": "11",
            "max_pending": "12",
            "max_pending_bytes": "13",
            "max_body": "14",
        }
        elsewhere = {"servers", "username", "password", "insecure_plaintext"}
        self.assertEqual({*query} | elsewhere, set(SETTINGS))
        keys = "&".join(f"{key}={value}" for key, value in query.items())
        self.assertEqual(
            settings_from_url(f"memcaches://{USER}:{escaped()}@mc1/?{keys}"),
            ClientSettings(
                servers=(Server("mc1", "mc1:11219"),),
                tls=TLS("ca.pem", "client.pem", (PIN, PIN), "mc.example", "1.3"),
                credentials=Credentials(USER, password(), "CRAM-MD5"),
                routing=Routing(
                    "modula", "rehash", "return", 3, 4, 5, False, True, Backoff(6, 7, 8, 9)
                ),
                namespace=b"app:",
                codec="raw",
                limits=Limits(10.5, 11, 12, 13, 14),
            ),
        )

    def test_escapes(self) -> None:
        """What has a meaning in a URL is escaped; '+' has none."""
        settings = settings_from_url(
            "memcaches://mc1/?ca=%2Fa%20b%26c%3D%C3%BC+d/e&names%70ace=%25%40=x&"
        )
        self.assertEqual(settings.tls, TLS("/a b&c=ü+d/e"))
        self.assertEqual(settings.namespace, b"%@=x")

    def test_bad_escapes(self) -> None:
        """Half an escape, or one of no UTF-8, is refused wherever it stands."""
        for url in (
            "memcaches://mc1/?ca=100%",
            "memcaches://mc1/?ca=%4",
            "memcaches://mc1/?ca=%zz",
            "memcaches://mc1/?ca=%ff",
            "memcaches://mc1/?ca=\ud800",
            "memcaches://mc1/?%ff=1",
            "memcaches://a:50%off@mc1",
            "memcaches://a:%E4@mc1",
            "memcaches://mc%ff",
        ):
            said = self.refused(settings_from_url, url)
            self.assertEqual(
                said,
                "the URL: a '%' begins an escape, such as %25 for itself, and escapes are of UTF-8",
            )

    def test_unknown(self) -> None:
        """An unknown key is named, and so are those that there are."""
        for key in ("time_out", "Timeout", "", "scheme", "pin", "limits.timeout", " timeout"):
            said = self.refused(settings_from_url, f"memcaches://mc1?{key}=1")
            self.assertTrue(said.startswith(f"the URL: unknown key {key!r}; there are tls_port, "))
            self.assertIn(" timeout, ", said)
            self.assertNotIn("password,", said.replace("insecure_password,", ""))

    def test_elsewhere(self) -> None:
        """A key for what has a place of its own is refused, and the place is named."""
        for key, place in {
            "servers": "behind the '://'",
            "username": "before the '@'",
            "password": "before the '@'",
            "insecure_plaintext": "the scheme memcache://",
        }.items():
            said = self.refused(
                lambda key: settings_from_url(f"memcache://mc1?{key}={escaped()}"), key
            )
            self.assertIn(f"{key!r} is no key of the query", said)
            self.assertIn(place, said)

    def test_twice(self) -> None:
        """A key stands there once."""
        for again in ("timeout=1", "timeout=2", "%74imeout=1"):
            self.assertEqual(
                self.refused(settings_from_url, f"memcaches://mc1?timeout=1&{again}"),
                "the URL: the key 'timeout' stands there twice",
            )

    def test_no_value(self) -> None:
        """A key without a value is refused: nothing is switched on by its name alone."""
        for url in (
            "memcaches://mc1?insecure_no_verify",
            "memcaches://mc1?insecure_no_verify&ca=x",
        ):
            self.assertEqual(
                self.refused(settings_from_url, url),
                "the URL: the key 'insecure_no_verify' has no value: write insecure_no_verify=…",
            )

    def test_bad_values(self) -> None:
        """A value that can not be right is refused by its key."""
        for pair, said in (
            ("timeout=fast", "must be seconds, such as 2 or 0.5, not 'fast'"),
            ("timeout=0", "timeout must be seconds, above 0, not 0.0"),
            ("tls_port=65536", "tls_port must be a number from 1 to 65535, not 65536"),
            ("ca=", "ca is a path or PEM text, and not empty"),
            ("pins=", "a pin has 64 hexadecimal digits (SHA-256), not ''"),
            ("insecure_no_verify=on", "must be 1, true or yes, or else 0, false or no, not 'on'"),
            ("namespace=a%20b", "the namespace is at most 249 bytes"),
        ):
            refusal = self.refused(settings_from_url, f"memcaches://mc1?{pair}")
            key = pair.partition("=")[0]
            self.assertTrue(refusal.startswith(f"{key!r} in the URL: {said}"), refusal)


class SecretTests(RefusalTestCase):
    def test_every_error(self) -> None:
        """Whatever is wrong with a URL, the password in it stays unsaid."""
        for before, behind in (
            ("memcached", "mc1"),
            ("memcaches", ""),
            ("memcaches", "mc1:x"),
            ("memcaches", "mc1/path"),
            ("memcaches", "mc1#"),
            ("memcaches", "mc1?x=%"),
            ("memcaches", "mc1?x"),
            ("memcaches", "mc1?x=1"),
            ("memcaches", "mc1?timeout=1&timeout=1"),
            ("memcaches", "mc1?timeout=x"),
            ("memcaches", "mc1?timeout=0"),
            ("memcaches", "mc1?mechanism=x"),
            ("memcaches", "mc1?ca="),
            ("memcaches", "unix:%2Fx?tls_port=5"),
            ("memcache", "mc1?insecure_password=1&ca=x"),
        ):
            for secret in (password, escaped):
                self.refused(
                    lambda *words: settings_from_url(with_password(*words)), before, secret, behind
                )
        self.refused(lambda: settings_from_url(f"{USER}:{escaped()}@mc1"))
        self.refused(lambda: settings_from_url(f"memcaches://{USER}:{escaped()}%00@mc1"))
        self.refused(lambda: settings_from_url(f"memcaches://{USER}:{escaped()}@{USER}@mc1"))
        self.refused(
            lambda: settings_from_url(
                f"memcaches://{USER}@mc1?ca=", environ={"TXTLSMC_PASSWORD": password()}
            )
        )

    def test_unescaped(self) -> None:
        """A password with an unescaped character is refused, or read as it is; no part is told."""
        for odd in "@/?#%:&=;, \n\\[]'\"\x00ü\ud800":
            for around in ("{}@mc1", "{}@mc1/?timeout=x", "{}", "{}/", "{}@", "{}@mc1:x"):
                secret = f"Qz7{odd}Wk9"
                try:
                    made = settings_from_url(f"memcaches://alice:{around.format(secret)}")
                except InvalidArgument as error:
                    self.assertNotIn("Qz7", str(error))
                    self.assertNotIn("Wk9", str(error))
                else:
                    if odd == "@" and around.startswith("{}"):
                        continue  # without another '@' it is what ends the password
                    assert made.credentials is not None
                    self.assertEqual(made.credentials.password, secret)

    def test_wrapped(self) -> None:
        """A caller that wraps the URL and forgets its text shows nothing of it either."""

        def careful(url: str) -> object:
            given = Given(url, "the URL")
            del url
            return settings_from_url(given)

        self.refused(lambda: careful(f"memcaches://{USER}:{password()}@mc1?x=1"))


class AnyTextTests(RefusalTestCase):
    @quickly
    @given(url_like, st.booleans())
    def test_any_text(self, text: str, from_command_line: bool) -> None:
        """Any text is settings, or refused in words."""
        try:
            made = settings_from_url(text, from_command_line=from_command_line)
        except (InvalidSetting, InsecurePassword) as error:
            self.assertTrue(str(error))
            return
        self.assertTrue(made.servers)
        self.assertNotIn("pw", str(made))

    @quickly
    @given(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    )
    def test_any_credentials(self, username: str, secret: str) -> None:
        """Any user name and password come through a URL unharmed once they are escaped."""
        url = f"memcaches://{quote(username, safe='')}:{quote(secret, safe='')}@mc1"
        self.assertEqual(settings_from_url(url).credentials, Credentials(username, secret))


class LayerTests(RefusalTestCase):
    def test_origins(self) -> None:
        """Each value knows where it stood."""
        layer = url_layer(Given(f"memcaches://{USER}:{escaped()}@mc1/?timeout=2", "X"))
        self.assertEqual(
            {name: given.origin for name, given in layer.items()},
            {
                "insecure_plaintext": "the scheme of X",
                "username": "the user name in X",
                "password": "the password in X",
                "servers": "the servers of X",
                "timeout": "'timeout' in X",
            },
        )
        self.assertEqual(leaks(repr(layer)), [])
