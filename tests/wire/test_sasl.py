"""PLAIN and CRAM-MD5, and how a mechanism is chosen.  (SCRAM: test_scram.)"""

from __future__ import annotations

import hmac

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import InvalidArgument, RemoteProtocolError
from txtlsmc.settings import MECHANISMS, Credentials
from txtlsmc.wire.exchange import MAX_DATA
from txtlsmc.wire.sasl import (
    ClientExchange,
    Outcome,
    ServerExchange,
    ServerStep,
    client_exchange,
    server_exchange,
)

# RFC 4616, section 4, and RFC 2195, section 2, have the same user.
USERS = {"tim": "tanstaaftanstaaf"}
FAILURE, SUCCESS = ServerStep(Outcome.FAILURE), ServerStep(Outcome.SUCCESS)

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


def client(mechanism: str, username: str = "tim", password: str = USERS["tim"]) -> ClientExchange:
    return client_exchange(Credentials(username, password, mechanism), "unused")


class MechanismTests(SynchronousTestCase):
    def test_every_mechanism(self) -> None:
        """Every mechanism of the settings has both sides, and they understand each other."""
        for mechanism in MECHANISMS:
            ours, theirs = client(mechanism), server_exchange(mechanism, USERS, "theirs")
            self.assertEqual((ours.mechanism, theirs.mechanism), (mechanism, mechanism))
            self.assertIsNone(theirs.username)
            step = theirs.step(ours.start())
            while step.outcome is Outcome.CONTINUE:
                step = theirs.step(ours.step(step.data))
            self.assertEqual(step, SUCCESS, mechanism)
            ours.finish(step.data)
            self.assertEqual(theirs.username, "tim")

    def test_letter_case(self) -> None:
        """A server takes the name of a mechanism in any letter case, as memcached does."""
        for name in ("plain", "Cram-MD5", "scram-sha-256"):
            self.assertEqual(server_exchange(name, USERS, "nonce").mechanism, name.upper())

    def test_unknown(self) -> None:
        """A mechanism that there is not is an error, which shows its name made fit to be read."""
        for name in ("", "PLAINER", "GSSAPI", "\x1b[2J"):
            error = self.assertRaises(InvalidArgument, server_exchange, name, USERS, "nonce")
            self.assertNotIn("\x1b", str(error))


class PlainTests(SynchronousTestCase):
    def server(self, users: dict[str, str] = USERS) -> ServerExchange:
        return server_exchange("PLAIN", users, "")

    def test_rfc_4616(self) -> None:
        """The first example of the RFC comes out as it says."""
        ours = client("PLAIN")
        self.assertEqual(ours.start(), b"\0tim\0tanstaaftanstaaf")
        ours.finish(b"Authenticated")

    def test_rfc_4616_other_name(self) -> None:
        """To act under another's name, as in the RFC's second example, is refused."""
        users = {"Kurt": "xipj3plmq", "Ursel": "x"}
        self.assertEqual(self.server(users).step(b"Ursel\0Kurt\0xipj3plmq"), FAILURE)
        self.assertEqual(self.server(users).step(b"Kurt\0Kurt\0xipj3plmq"), SUCCESS)

    def test_success(self) -> None:
        """Whatever words come with the success, it is one."""
        for data in (b"", b"Authenticated", b"\xff\0", b"v=x", b"e=x"):
            ours = client("PLAIN")
            ours.start()
            ours.finish(data)

    def test_challenge(self) -> None:
        """PLAIN has no challenge, not even an empty one, and no second password is sent for it."""
        for challenge in (b"", b"Password:", b"r=x"):
            ours = client("PLAIN")
            ours.start()
            error = self.assertRaises(RemoteProtocolError, ours.step, challenge)
            self.assertEqual(error.field, "sasl")
            self.assertIn("a challenge came to an exchange of PLAIN", str(error))
            self.assertRaises(RemoteProtocolError, ours.step, challenge)
            self.assertRaises(RemoteProtocolError, ours.finish, b"")

    @given(TEXT, TEXT)
    def test_any_text(self, username: str, password: str) -> None:
        """Any name and password arrive as they were given."""
        theirs = self.server({username: password})
        self.assertEqual(theirs.step(client("PLAIN", username, password).start()), SUCCESS)
        self.assertEqual(theirs.username, username)

    def test_as_given(self) -> None:
        """Another spelling of an accent is another password, as with memcached."""
        for known, given_ in (("\u00e9", "e\u0301"), ("e\u0301", "\u00e9"), ("ab", "a\u00adb")):
            theirs = self.server({"tim": known})
            self.assertEqual(theirs.step(client("PLAIN", "tim", given_).start()), FAILURE)

    def test_asked(self) -> None:
        """A server asks once for a password that did not come with AUTH, as memcached does."""
        theirs = self.server()
        self.assertEqual(theirs.step(b""), ServerStep(Outcome.CONTINUE))
        self.assertEqual(theirs.step(client("PLAIN").start()), SUCCESS)
        theirs = self.server()
        theirs.step(b"")
        self.assertEqual(theirs.step(b""), FAILURE)

    def test_refused(self) -> None:
        """What is not exactly a known name and its password is refused, and ends the exchange."""
        right = b"\0tim\0tanstaaftanstaaf"
        for data in (
            b"garbage",
            b"\0tim",
            b"\0tim\0",
            b"\0tim\0wrong",
            b"\0tim\0tanstaaftanstaa",
            b"\0Tim\0tanstaaftanstaaf",
            b"\0nobody\0tanstaaftanstaaf",
            b"\0nobody\0",
            b"\0\0tanstaaftanstaaf",
            b"\0\0",
            b"\0\xff\0tanstaaftanstaaf",
            b"\0tim\0\xff",
            b"\xff\0tim\0tanstaaftanstaaf",
            b"other\0tim\0tanstaaftanstaaf",
            b"tim\0tanstaaftanstaaf",
            right + b"\0",
            right + b"\0x",
            b"\0" + right,
            b"\0tim\0" + b"x" * MAX_DATA,
        ):
            theirs = self.server()
            self.assertEqual(theirs.step(data), FAILURE, data[:40])
            self.assertEqual(theirs.step(right), FAILURE, data[:40])

    def test_unusable_accounts(self) -> None:
        """An account without a name, or without a password that can travel, is for nobody."""
        users = {"empty": "", "": "password", "half": "\ud800"}
        for data in (b"\0empty\0", b"\0\0password", b"\0half\0\xed\xa0\x80", b"\0half\0"):
            self.assertEqual(self.server(users).step(data), FAILURE, data)

    def test_once(self) -> None:
        """An exchange that succeeded is over."""
        theirs = self.server()
        right = client("PLAIN").start()
        self.assertEqual([theirs.step(right), theirs.step(right)], [SUCCESS, FAILURE])

    def test_new_password(self) -> None:
        """The users are looked up when somebody logs in: a new password counts at once."""
        users = {"tim": "old"}
        theirs = self.server(users)
        users["tim"] = "new"
        self.assertEqual(theirs.step(b"\0tim\0new"), SUCCESS)


class CramMD5Tests(SynchronousTestCase):
    CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"
    ANSWER = b"tim b913a602c7eda7a495b4e6e7334d3890"

    def server(self, users: dict[str, str] = USERS) -> ServerExchange:
        return server_exchange(
            "CRAM-MD5", users, "1896.697170952", host="postoffice.reston.mci.net"
        )

    def test_rfc_2195(self) -> None:
        """The example of the RFC comes out as it says, on both sides."""
        ours, theirs = client("CRAM-MD5"), self.server()
        self.assertEqual(ours.start(), b"")
        self.assertEqual(theirs.step(b""), ServerStep(Outcome.CONTINUE, self.CHALLENGE))
        self.assertEqual(ours.step(self.CHALLENGE), self.ANSWER)
        self.assertEqual(theirs.step(self.ANSWER), SUCCESS)
        ours.finish(b"Authenticated")

    @given(TEXT, TEXT)
    def test_any_text(self, username: str, password: str) -> None:
        """Any name and password will do, as they were given: spaces in the name, too."""
        ours, theirs = client("CRAM-MD5", username, password), self.server({username: password})
        self.assertEqual(theirs.step(ours.step(theirs.step(ours.start()).data)), SUCCESS)
        self.assertEqual(theirs.username, username)

    def test_malformed(self) -> None:
        """A challenge that is no message identifier is a broken protocol, and is not answered."""
        for challenge in (
            b"",
            b"<>",
            b"garbage",
            b"1896.697170952@postoffice.reston.mci.net",
            b"<1896@post office>",
            b"<1896@host>\n",
            b"<1896@host\0>",
            b"<1896@h\xc3\xb6st>",
            b"<" + b"x" * MAX_DATA + b">",
        ):
            ours = client("CRAM-MD5")
            ours.start()
            error = self.assertRaises(RemoteProtocolError, ours.step, challenge)
            self.assertEqual(error.field, "sasl")
            self.assertLess(len(str(error)), 350)
            self.assertRaises(RemoteProtocolError, ours.step, self.CHALLENGE)

    def test_second_challenge(self) -> None:
        """There is one challenge: a second one is not answered."""
        ours = client("CRAM-MD5")
        ours.start()
        ours.step(self.CHALLENGE)
        error = self.assertRaises(RemoteProtocolError, ours.step, self.CHALLENGE)
        self.assertIn("a challenge came to an exchange of CRAM-MD5", str(error))

    def test_success_at_once(self) -> None:
        """A server that accepts us without a challenge has broken the protocol."""
        ours = client("CRAM-MD5")
        ours.start()
        error = self.assertRaises(RemoteProtocolError, ours.finish, b"Authenticated")
        self.assertIn("success came to an exchange of CRAM-MD5", str(error))

    def test_refused(self) -> None:
        """What is not a known name and the one right hash is refused, and ends the exchange."""
        nobody = hmac.new(b"", self.CHALLENGE, "md5").hexdigest().encode()
        for data in (
            b"",
            b"garbage",
            b"tim",
            b"tim ",
            b" " + self.ANSWER[4:],
            self.ANSWER[4:],
            self.ANSWER[:-1],
            self.ANSWER + b"0",
            self.ANSWER.replace(b"tim", b"Tim"),
            self.ANSWER.replace(b"b913", b"B913"),
            self.ANSWER.replace(b"b913", b"c913"),
            self.ANSWER.replace(b"b913", b"\xc3\xa9"),
            self.ANSWER.replace(b"tim", b"t\xffm"),
            b"nobody " + nobody,
            b"tim " + nobody,
        ):
            theirs = self.server()
            theirs.step(b"")
            self.assertEqual(theirs.step(data), FAILURE, data)
            self.assertEqual(theirs.step(self.ANSWER), FAILURE, data)

    def test_first_words(self) -> None:
        """The first word is the server's: a client that begins with one is refused."""
        theirs = self.server()
        self.assertEqual(theirs.step(self.ANSWER), FAILURE)
        self.assertEqual(theirs.step(b""), FAILURE)

    def test_settings(self) -> None:
        """A nonce or a host that can not be in a challenge is refused."""
        for nonce, host in (("", "host"), ("a b", "host"), ("1", "ho st"), ("1", "h\u00f6st")):
            self.assertRaises(InvalidArgument, server_exchange, "CRAM-MD5", USERS, nonce, host=host)
