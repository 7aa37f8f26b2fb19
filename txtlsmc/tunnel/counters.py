"""What the tunnel counts, as plain ints, since counting is on every request's way."""

from __future__ import annotations


class Counters:
    """
    One number for each thing that is counted; all begin at 0, and all but the first only grow.

    Attributes:
        local_connections: open now; `Admission` counts these, and the next.
        local_connections_total: admitted so far.
        requests: whole ones that local clients sent.
        answers: those that went to local clients.
        answered_here: requests answered by the gateway itself: wrong shapes, SASL, QUIT.
        forwarded: requests that went upstream.
        dropped_answers: those to somebody who had gone.
        bytes_to_upstream, bytes_from_upstream: carried; of the gateway: frames, of a relay: all.
        refused_max_connections: local connections over `max_connections`.
        refused_descriptors: local connections for which no file descriptor was to spare.
        refused_down: local connections while the server was down.
        refused_first_byte: local connections that do not speak the protocol.
        refused_shape: requests of a wrong shape.
        refused_login: local logins that failed.
        refused_max_request: requests larger than `max_request`.
        closed_stalled, closed_unread, closed_request_seconds, closed_idle:
            local connections closed at a limit of about that name.
        closed_upstream_lost: local connections that may have lost an answer.
        closed_drain: local connections that were still busy when the time to drain was over.
        pending_full: times that an upstream connection had all it may have unanswered.
        upstream_ready: times that an upstream connection became ready.
        upstream_lost: times that a ready one was lost.
        upstream_failed: times that one could not be made.
        upstream_silent: times that one was given up as it did not answer.
        sessions_resumed: TLS handshakes that resumed a session.
        reloads: of the settings.
    """

    __slots__ = (
        *("local_connections", "local_connections_total", "requests", "answers"),
        *("answered_here", "forwarded", "dropped_answers"),
        *("bytes_to_upstream", "bytes_from_upstream"),
        *("refused_max_connections", "refused_descriptors", "refused_down"),
        *("refused_first_byte", "refused_shape", "refused_login"),
        *("closed_stalled", "closed_unread", "closed_request_seconds", "closed_idle"),
        *("refused_max_request", "closed_upstream_lost", "closed_drain", "pending_full"),
        *("upstream_ready", "upstream_lost", "upstream_failed", "upstream_silent"),
        *("sessions_resumed", "reloads"),
    )

    local_connections: int
    local_connections_total: int
    requests: int
    answers: int
    answered_here: int
    forwarded: int
    dropped_answers: int
    bytes_to_upstream: int
    bytes_from_upstream: int
    refused_max_connections: int
    refused_descriptors: int
    refused_down: int
    refused_first_byte: int
    refused_shape: int
    refused_login: int
    closed_stalled: int
    closed_unread: int
    closed_request_seconds: int
    closed_idle: int
    refused_max_request: int
    closed_upstream_lost: int
    closed_drain: int
    pending_full: int
    upstream_ready: int
    upstream_lost: int
    upstream_failed: int
    upstream_silent: int
    sessions_resumed: int
    reloads: int

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    def as_dict(self) -> dict[str, int]:
        """Return all of them by name."""
        return {name: getattr(self, name) for name in self.__slots__}
