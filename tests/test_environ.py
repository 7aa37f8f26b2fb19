"""Tests of `txtlsmc.environ`."""

from __future__ import annotations

from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.refusals import RefusalTestCase
from tests.secrecy import USER, leaks, password, wrong_password
from txtlsmc.environ import PROVIDERS, Variables, settings_from_environ
from txtlsmc.errors import InsecurePassword, InvalidSetting
from txtlsmc.settings import TLS, ClientSettings, Credentials, InsecurePlaintext, Server

quickly = settings(deadline=None, database=None, max_examples=300)

VARIABLES = (
    *("TXTLSMC_URL", "TXTLSMC_USERNAME", "TXTLSMC_PASSWORD", "TXTLSMC_CA"),
    *(
        f"{provider.prefix}_{word}"
        for provider in PROVIDERS.values()
        for word in ("SERVERS", "USERNAME", "PASSWORD")
    ),
)


def provided(prefix: str = "MEMCACHIER", **others: str | None) -> dict[str, str]:
    """Return what a provider sets, and *others*; None takes one away."""
    environ: dict[str, str | None] = {
        "PATH": "/bin",
        f"{prefix}_SERVERS": "mc1.example:11211,mc2.example:11211",
        f"{prefix}_USERNAME": USER,
        f"{prefix}_PASSWORD": password(),
        **others,
    }
    return {name: value for name, value in environ.items() if value is not None}


def without(prefix: str, missing: list[str], blank: str | None) -> dict[str, str]:
    """Return what a provider sets, without or with a *blank* for some of it."""
    return provided(prefix, **dict.fromkeys(missing, blank))


def url() -> str:
    """Return a URL with a password in it."""
    return f"memcaches://{USER}:{quote(password(), safe='')}@mc9"


class ProviderTests(RefusalTestCase):
    def test_memcachier(self) -> None:
        """MemCachier's servers keep their names, and are dialled where they speak TLS."""
        self.assertEqual(
            settings_from_environ(provided()),
            ClientSettings(
                (
                    Server("mc1.example:11211", "mc1.example:11219"),
                    Server("mc2.example:11211", "mc2.example:11219"),
                ),
                credentials=Credentials(USER, password()),
            ),
        )

    def test_others(self) -> None:
        """Other providers' servers are dialled where they say; TLS is verified all the same."""
        for prefix in ("MEMCACHEDCLOUD", "MEMCACHE"):
            self.assertEqual(
                settings_from_environ(provided(prefix)),
                ClientSettings(
                    (Server("mc1.example:11211"), Server("mc2.example:11211")),
                    credentials=Credentials(USER, password()),
                ),
            )

    def test_lists(self) -> None:
        """Commas, semicolons and spaces separate, and a missing port is 11211."""
        for text in ("mc1,mc2:5", "mc1;mc2:5", "mc1 mc2:5\n"):
            environ = provided("MEMCACHE", MEMCACHE_SERVERS=text)
            self.assertEqual(
                settings_from_environ(environ).servers, (Server("mc1"), Server("mc2:5"))
            )

    def test_authority(self) -> None:
        """A provider's own authority is given beside its variables."""
        made = settings_from_environ(provided(TXTLSMC_CA="memcachier.pem"))
        self.assertEqual(made.tls, TLS("memcachier.pem"))

    def test_missing(self) -> None:
        """A variable that is missing or blank is named."""
        for prefix in ("MEMCACHIER", "MEMCACHEDCLOUD", "MEMCACHE"):
            servers, username, user_password = (
                f"{prefix}_{word}" for word in ("SERVERS", "USERNAME", "PASSWORD")
            )
            for missing, said in (
                ([servers], f"{username} is set without servers: set {servers}"),
                ([servers, username], f"{user_password} is set without servers: set {servers}"),
                ([username], f"{user_password} is given without a user name: set {username}"),
                ([user_password], f"{username} is given without a password: set {user_password}"),
                (
                    [username, user_password],
                    f"{servers} is given without a user name: set {username}",
                ),
            ):
                for blank in (None, ""):
                    refusal = self.refused(
                        lambda *words: settings_from_environ(without(*words)),
                        *(prefix, missing, blank),
                    )
                    self.assertEqual(refusal, said)

    def test_bad_servers(self) -> None:
        """A list that can not be right is refused by its variable."""
        for text, said in (
            ("mc1:x", "the port of 'mc1:x' must be"),
            (" , ", "there is no server in the list"),
        ):
            refusal = self.refused(
                lambda text: settings_from_environ(provided(MEMCACHIER_SERVERS=text)), text
            )
            self.assertTrue(refusal.startswith(f"MEMCACHIER_SERVERS: {said}"), refusal)
        self.refused(
            lambda: settings_from_environ(
                provided(MEMCACHIER_SERVERS=f"{USER}:{password()}@mc1", MEMCACHIER_PASSWORD=None)
            )
        )

    def test_two(self) -> None:
        """Two providers are refused with a variable of each, and how to choose."""
        both = {"MEMCACHEDCLOUD_SERVERS": "mc7"}
        self.assertEqual(
            self.refused(lambda: settings_from_environ(provided(**both))),
            "MEMCACHIER_SERVERS and MEMCACHEDCLOUD_SERVERS are set: choose by"
            " provider='memcachier' or provider='memcachedcloud'",
        )
        said = self.refused(
            lambda: settings_from_environ(provided("MEMCACHE", MEMCACHIER_USERNAME=USER))
        )
        self.assertTrue(said.startswith("MEMCACHIER_USERNAME and MEMCACHE_SERVERS are set:"), said)
        said = self.refused(lambda: settings_from_environ(provided(MEMCACHE_SERVERS="x", **both)))
        self.assertIn("provider='memcachier' or provider='memcachedcloud' or", said)

    def test_choose(self) -> None:
        """The one that is chosen is read, and the others are not looked at."""
        environ = {**provided(), **provided("MEMCACHE"), "MEMCACHEDCLOUD_SERVERS": "mc:x"}
        made = settings_from_environ(environ, provider="memcachier")
        self.assertEqual(made.servers[0].address.port, 11219)
        made = settings_from_environ(environ, provider="memcache")
        self.assertEqual(made.servers[0].address.port, 11211)

    def test_blank(self) -> None:
        """A provider whose variables are all blank is as if it were not there."""
        environ = provided(MEMCACHE_SERVERS="", MEMCACHE_USERNAME="", MEMCACHE_PASSWORD="")
        self.assertEqual(settings_from_environ(environ), settings_from_environ(provided()))

    def test_chosen_and_absent(self) -> None:
        """One that is chosen and has set nothing is refused by the missing variable."""
        self.assertEqual(
            self.refused(lambda: settings_from_environ(provided(), provider="memcache")),
            "provider='memcache' is asked for, and MEMCACHE_SERVERS is not set",
        )

    def test_unknown(self) -> None:
        """A provider that is not known is refused, and those that are get listed."""
        self.assertEqual(
            self.refused(lambda: settings_from_environ(provided(), provider="heroku")),
            "provider='heroku': there is no such provider, but memcachier, memcachedcloud,"
            " memcache",
        )

    def test_none(self) -> None:
        """Where nothing is set the variables are named that would do."""
        self.assertEqual(
            self.refused(lambda: settings_from_environ({"PATH": "/bin"})),
            "no server is named: set TXTLSMC_URL, or one of MEMCACHIER_SERVERS,"
            " MEMCACHEDCLOUD_SERVERS, MEMCACHE_SERVERS",
        )


class OwnTests(RefusalTestCase):
    def test_url(self) -> None:
        """TXTLSMC_URL alone is enough."""
        made = settings_from_environ({"TXTLSMC_URL": url() + "?timeout=7"})
        self.assertEqual(made.servers, (Server("mc9"),))
        self.assertEqual(made.credentials, Credentials(USER, password()))
        self.assertEqual(made.limits.timeout, 7)
        made = settings_from_environ({"TXTLSMC_URL": "memcache://mc9"})
        self.assertEqual((made.tls, made.credentials), (InsecurePlaintext(), None))

    def test_beside_the_url(self) -> None:
        """What the URL does not say, the other variables do."""
        made = settings_from_environ(
            {
                "TXTLSMC_URL": "memcaches://mc9",
                "TXTLSMC_USERNAME": USER,
                "TXTLSMC_PASSWORD": password(),
                "TXTLSMC_CA": "ca.pem",
            }
        )
        self.assertEqual(made.credentials, Credentials(USER, password()))
        self.assertEqual(made.tls, TLS("ca.pem"))
        made = settings_from_environ(
            {"TXTLSMC_URL": f"memcaches://{USER}@mc9", "TXTLSMC_PASSWORD": password()}
        )
        self.assertEqual(made.credentials, Credentials(USER, password()))

    def test_against_the_url(self) -> None:
        """Two that say different things are refused; the same thing twice is not."""
        for variable, value, place in (
            ("TXTLSMC_USERNAME", "bob", "the user name in TXTLSMC_URL"),
            ("TXTLSMC_PASSWORD", "another", "the password in TXTLSMC_URL"),
            ("TXTLSMC_CA", "other.pem", "'ca' in TXTLSMC_URL"),
        ):
            said = self.refused(
                lambda variable, value: settings_from_environ(
                    {"TXTLSMC_URL": url() + "?ca=x", variable: value}
                ),
                *(variable, value),
            )
            self.assertEqual(said, f"{variable} and {place} differ: leave one of them out")
        same = {"TXTLSMC_USERNAME": USER, "TXTLSMC_PASSWORD": password(), "TXTLSMC_CA": "x"}
        made = settings_from_environ({"TXTLSMC_URL": url() + "?ca=x", **same})
        self.assertEqual(made.credentials, Credentials(USER, password()))

    def test_over_the_provider(self) -> None:
        """Our own variables win over a provider's, one by one."""
        made = settings_from_environ(
            provided(TXTLSMC_PASSWORD=wrong_password(), TXTLSMC_USERNAME="bob")
        )
        self.assertEqual(made.credentials, Credentials("bob", wrong_password()))
        self.assertEqual(made.servers[0].name, "mc1.example:11211")
        made = settings_from_environ(provided(MEMCACHIER_USERNAME=None, TXTLSMC_USERNAME="bob"))
        self.assertEqual(made.credentials, Credentials("bob", password()))

    def test_provider_unread(self) -> None:
        """With servers of our own a provider's password goes nowhere, even if two are set."""
        environ = {**provided(), **provided("MEMCACHE"), "TXTLSMC_URL": "memcaches://mc9"}
        self.assertEqual(settings_from_environ(environ), ClientSettings((Server("mc9"),)))

    def test_provider_asked_for(self) -> None:
        """Who names the provider has its variables read as well; ours still win."""
        made = settings_from_environ(provided(TXTLSMC_URL="memcaches://mc9"), provider="memcachier")
        self.assertEqual(made.servers, (Server("mc9"),))
        self.assertEqual(made.credentials, Credentials(USER, password()))

    def test_halves(self) -> None:
        """Half of the credentials is refused, and the missing half is named."""
        for name, value, said in (
            (
                "TXTLSMC_USERNAME",
                USER,
                "TXTLSMC_USERNAME is given without a password: set TXTLSMC_PASSWORD",
            ),
            (
                "TXTLSMC_PASSWORD",
                "secret",
                "TXTLSMC_PASSWORD is given without a user name: set TXTLSMC_USERNAME",
            ),
        ):
            environ = {"TXTLSMC_URL": "memcaches://mc9", name: value}
            self.assertEqual(self.refused(settings_from_environ, environ), said)

    def test_empty(self) -> None:
        """A variable of ours that is empty is a mistake, and not as if it were not there."""
        for name in ("TXTLSMC_URL", "TXTLSMC_USERNAME", "TXTLSMC_PASSWORD", "TXTLSMC_CA"):
            self.assertEqual(
                self.refused(lambda name: settings_from_environ(provided(**{name: ""})), name),
                f"{name} is set and empty: give it a value, or unset it",
            )

    def test_bad_url(self) -> None:
        """A URL that can not be right is refused by its variable, without its password."""
        for behind, said in (
            ("/x", "TXTLSMC_URL: it is SCHEME://"),
            ("?timeout=x", "'timeout' in TXTLSMC_URL: must be seconds"),
            ("?timeout=0", "'timeout' in TXTLSMC_URL: timeout must be"),
            ("?x=1", "TXTLSMC_URL: unknown key 'x'"),
        ):
            refusal = self.refused(
                lambda behind: settings_from_environ(provided(TXTLSMC_URL=url() + behind)), behind
            )
            self.assertTrue(refusal.startswith(said), refusal)

    def test_risk(self) -> None:
        """A password is not for a server without TLS, wherever either of them was set."""
        said = self.refused(
            lambda: settings_from_environ({"TXTLSMC_URL": url().replace("caches", "cache")}),
            by=InsecurePassword,
        )
        self.assertTrue(said.startswith("the password in TXTLSMC_URL: a password without TLS"))
        said = self.refused(
            lambda: settings_from_environ(
                {"TXTLSMC_URL": f"memcache://{USER}@mc9", "TXTLSMC_PASSWORD": password()}
            ),
            by=InsecurePassword,
        )
        self.assertTrue(said.startswith("TXTLSMC_PASSWORD: a password without TLS"))


class SecretTests(RefusalTestCase):
    def test_variables(self) -> None:
        """The environment is not shown by what holds it."""
        variables = Variables(provided())
        self.assertEqual(leaks(repr(variables)), [])
        self.assertFalse(hasattr(variables, "__dict__"))

    def test_unread_password(self) -> None:
        """A password that is not even looked at stays unsaid, too."""
        self.refused(
            lambda: settings_from_environ(
                {"TXTLSMC_URL": "memcaches://mc1?x=1", "DATABASE_PASSWORD": password()}
            )
        )

    @quickly
    @given(
        st.dictionaries(
            st.sampled_from(VARIABLES),
            st.one_of(
                st.sampled_from(["", "mc1", "mc1:x", "memcaches://mc1", "memcache://a:b@mc1", "x"]),
                st.text(max_size=5),
            ),
        ),
        st.sampled_from([None, *PROVIDERS]),
    )
    def test_anything(self, environ: dict[str, str], provider: str | None) -> None:
        """Whatever the variables hold, they are settings, or refused in words."""
        try:
            made = settings_from_environ(environ, provider=provider)
        except (InvalidSetting, InsecurePassword) as error:
            self.assertTrue(str(error))
        else:
            self.assertTrue(made.servers)
