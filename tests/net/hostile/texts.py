"""What no text may show: the password in any form, and what a terminal would obey."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from traceback import TracebackException
from typing import Final

from twisted.python.failure import Failure

#: The longest text of an error; 200 characters of it may be the server's.
LONGEST: Final = 400


def password() -> str:
    """Return the password; in no variable, as the tracebacks that are searched show those."""
    return "".join(("Tr0ub", "4dor&3"))


def forms(secret: bytes) -> Iterator[str]:
    """Yield what *secret* looks like in a text, also in the midst of something in base64."""
    yield secret.decode("latin-1")
    yield repr(secret)[2:-1]
    yield secret.hex()
    for shift, skipped in ((0, 0), (1, 2), (2, 3)):
        whole = (shift + len(secret)) * 8 // 6
        yield b64encode(bytes(shift) + secret).decode()[skipped:whole]


def leaks(text: str, words: list[bytes]) -> bool:
    """Return whether *text* shows the password, or a proof of it among the *words* of SASL."""
    secrets = [password().encode()]
    for said in words:
        # PLAIN: all of it; CRAM-MD5: the hash behind the name; SCRAM: the proof of its last words.
        if said.startswith(b"\0"):
            secrets.append(said)
        elif b",p=" in said:
            secrets.append(said.rpartition(b",p=")[2])
        elif said.startswith(b"alice "):
            secrets.append(said.rpartition(b" ")[2])
    return any(form in text for secret in secrets for form in forms(secret))


def error_of(failure: Failure) -> BaseException:
    """Return the error in *failure*."""
    assert failure.value is not None
    return failure.value


def told(failure: Failure) -> str:
    """Return all that may be printed of *failure*, with the variables of its frames."""
    error = error_of(failure)
    again = Failure(error, type(error), error.__traceback__, captureVars=True)
    lines = [str(error), repr(error), repr(vars(error)), repr(failure)]
    lines += [failure.getTraceback(), failure.getTraceback(detail="verbose")]
    lines += [again.getTraceback(detail="verbose")]
    lines += TracebackException.from_exception(error, capture_locals=True).format()
    return "\n".join(lines)


def unfit(error: BaseException) -> list[str]:
    """Return which texts of *error* no terminal should get."""
    texts = {"the text": str(error), "the repr": repr(error)}
    for name, value in vars(error).items():
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, str):
                texts[name] = each
    wrong = []
    for name, text in texts.items():
        if not text.isprintable():
            wrong.append(f"{name} of {type(error).__name__} has control characters: {text!r}")
        if len(text) > LONGEST:
            wrong.append(f"{name} of {type(error).__name__} has {len(text)} characters")
    return wrong
