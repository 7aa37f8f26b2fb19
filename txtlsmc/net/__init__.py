"""One connection: TLS, certificates, the handshake, and the protocol that speaks to a server."""
