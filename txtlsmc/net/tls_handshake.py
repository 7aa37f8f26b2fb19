"""
What it means that a TLS connection ended before it was ready.

That is, where the server's certificate is not to blame: see `txtlsmc.net.certificates`.
"""

from __future__ import annotations

from OpenSSL import SSL, crypto

from txtlsmc.errors import (
    CertificateError,
    ClientCertificateRefused,
    ConnectFailed,
    PlaintextServer,
    TLSFailed,
    TLSVersionRefused,
    shown,
)

# OpenSSL's words for a first answer that is not TLS.
_NOT_TLS = frozenset(
    {
        "wrong version number",
        "http request",
        "https proxy request",
        "unknown protocol",
        "packet length too long",
        "record length mismatch",
        "data length too long",
        "bad record type",
    }
)
# OpenSSL's words for versions that do not meet.
_VERSION = frozenset(
    {
        "unsupported protocol",
        "no protocols available",
        "wrong ssl version",
        "version too low",
        "inappropriate fallback",
    }
)
# What a server says of a client's certificate; it has no other certificate to speak about.
_ABOUT_OUR_CERTIFICATE = frozenset(
    {
        "no certificate",
        "bad certificate",
        "unsupported certificate",
        "certificate revoked",
        "certificate expired",
        "certificate unknown",
        "unknown ca",
        "access denied",
        "certificate required",
        "bad certificate hash value",
    }
)


def handshake_failure(
    server: str,
    error: BaseException | None,
    *,
    peer_seen: bool,
    client_certificate: bool,
    minimum_version: str,
) -> ConnectFailed:
    """
    Return what it means that a connection ended before it was ready.

    Args:
        server: its name, as configured.
        error: what it ended with; other than OpenSSL's, it is an end without a word.
        peer_seen: whether the server's certificate had come, and was accepted.
        client_certificate: whether we had one to show.
        minimum_version: of TLS, that we accept.
    """
    reasons = openssl_reasons(error)
    if not reasons:
        return _closed(server, peer_seen=peer_seen)
    # Without the first words of an alert ("tlsv1 alert unknown ca"), which differ by release.
    alerts = {reason.partition("alert ")[2] for reason in reasons}
    said = shown(", ".join(reasons))
    if not peer_seen and not _NOT_TLS.isdisjoint(reasons):
        return PlaintextServer(
            server,
            f"what listens there does not speak TLS ({said}): a plaintext port?"
            " Correct the port, or set tls_port if TLS has one of its own",
        )
    if "protocol version" in alerts or not _VERSION.isdisjoint(reasons):
        return TLSVersionRefused(
            server, f"speaks no version of TLS that we accept, {minimum_version} at least ({said})"
        )
    # A server that misses a certificate under TLS 1.2 says no more than "handshake failure".  So
    # does one that has no cipher suite in common, but then its own certificate never came.
    if alerts & _ABOUT_OUR_CERTIFICATE or (peer_seen and "handshake failure" in alerts):
        return ClientCertificateRefused(
            server,
            f"does not accept our client certificate ({said}); it must be valid, made for client"
            " authentication, and issued by an authority that the server trusts"
            if client_certificate
            else f"wants a client certificate ({said}); set client_certificate",
        )
    if any("unrecognized name" in reason for reason in reasons):
        return TLSFailed(server, f"does not go by the name we sent ({said}); set server_name")
    if "certificate verify failed" in reasons:
        return CertificateError(server, f"its certificate was not accepted ({said})")
    return TLSFailed(server, f"the TLS handshake failed ({said})")


def _closed(server: str, *, peer_seen: bool) -> ConnectFailed:
    if peer_seen:
        return ConnectFailed(
            server,
            "closed the connection after it had shown its certificate, and before it was ready:"
            " it may want a client certificate, or have too many connections",
        )
    return TLSFailed(
        server,
        "the connection was closed during the TLS handshake: often a plaintext port, a proxy or"
        " firewall on the way, or a server that has too many connections",
    )


def openssl_reasons(error: BaseException | None) -> list[str]:
    """Return OpenSSL's own words, in lower case; none where *error* is of another kind."""
    # Exactly these have the queue of errors: those below `SSL.Error` tell the end of the stream.
    if error is None or type(error) not in (SSL.Error, crypto.Error) or not error.args:
        return []
    reasons = [str(entry[-1]).lower() for entry in error.args[0]]
    return [reason for reason in reasons if "unexpected eof" not in reason]
