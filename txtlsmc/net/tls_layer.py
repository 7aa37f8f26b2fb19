"""
TLS between a connection and its protocol, with less to do for each record than Twisted's own.

The verification, the handshake, the shutdown and what a lost connection is told with are all
Twisted's.  Two things are not: what OpenSSL has encrypted goes to the socket at once, and it is
asked for data only as often as records came, as each time that it has none costs an exception.
"""

from __future__ import annotations

from typing import Final

from OpenSSL.SSL import RECEIVED_SHUTDOWN, Error, WantReadError, ZeroReturnError
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProducer,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from txtlsmc.net.direct import DirectWriter

_HEADER: Final = 5  # bytes before the body of a record, the last two of which tell its length
_MOST: Final = 2**15  # more than a record holds, encrypted or not
_RECORD: Final = 2**14  # what one record holds at most
_GATHERED: Final = 4  # records of a large write that go to the socket in one go


class RecordCounter:
    """Counts the records of a stream of TLS, whatever pieces it comes in."""

    def __init__(self) -> None:
        self._head = b""  # of a header that is not complete
        self._missing = 0  # bytes until the record under way is complete

    def completed(self, data: bytes) -> int:
        """Return how many records end within *data*, the next piece of the stream."""
        if self._head:
            data = self._head + data
            self._head = b""
        size, end = len(data), self._missing
        count = 1 if 0 < end <= size else 0
        while end + _HEADER <= size:
            end += _HEADER + (data[end + 3] << 8 | data[end + 4])
            if end <= size:
                count += 1
        if end > size:
            self._missing = end - size
        else:
            self._missing = 0
            self._head = data[end:]
        return count


class TLSLayer(TLSMemoryBIOProtocol):
    """
    Twisted's TLS layer, leaner.

    Each write of at most 16 KiB is one record, as it is with Twisted's.
    """

    # Of Twisted's underscored names we use, and a test looks for, `_flushSendBIO` and
    # `_flushReceiveBIO`, which we replace, and `_tlsConnection`, `_lostTLSConnection`, `_aborted`
    # and `_tlsShutdownFinished`, which they need.

    @property
    def writer(self) -> DirectWriter:
        """What writes below TLS, and knows whether anything of it waits."""
        return self._writer

    def makeConnection(self, transport: ITransport) -> None:
        """Begin the handshake."""
        self._writer = DirectWriter(transport)
        self._records = RecordCounter()
        self._unread = 0  # records that came and were not asked for: an upper bound
        self._gathering = False  # whether a large write is being encrypted …
        self._gathered = 0  # … and how many of its records wait to be sent
        super().makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        """Decrypt what came, and hand it on."""
        self._unread += self._records.completed(data)
        super().dataReceived(data)

    def _flushReceiveBIO(self) -> None:  # noqa: N802 - Twisted's name
        connection = self._tlsConnection
        pieces: list[bytes] = []  # the protocol gets them as one, as it does over TCP
        failure, all_data = None, True
        while self._unread and not self._lostTLSConnection:
            self._unread -= 1
            try:
                pieces.append(connection.recv(_MOST))
            except (WantReadError, ZeroReturnError):
                all_data = False  # and all that can mean is for the usual way
                break
            except Error:
                failure = Failure()
                break
        if pieces and not self._aborted:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self.wrappedProtocol.dataReceived(data)
        if failure is not None:
            self._tlsShutdownFinished(failure)
            return
        if all_data and not self._lostTLSConnection:
            return  # as many records as came: OpenSSL has nothing left, and nothing to answer
        self._unread = 0
        super()._flushReceiveBIO()

    def write(self, data: bytes) -> None:
        """Encrypt *data* and send it, as far as the socket takes it at once."""
        if len(data) <= _RECORD:
            super().write(data)
            return
        self._gathering = True
        super().write(data)
        self._gathering = False
        if self._gathered:
            self._flushSendBIO()

    def _flushSendBIO(self) -> None:  # noqa: N802 - Twisted's name
        most = _MOST
        if self._gathering or self._gathered:
            self._gathered += 1
            if self._gathering and self._gathered < _GATHERED:
                return
            self._gathered, most = 0, _GATHERED * _MOST
        try:
            data = self._tlsConnection.bio_read(most)
        except WantReadError:  # there is nothing
            return
        self._writer.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the protocol, in the way of Twisted's layer."""
        connection = self._tlsConnection
        goodbye = connection is not None and connection.get_shutdown() & RECEIVED_SHUTDOWN
        if goodbye and not self._aborted:
            # The peer has said goodbye.  That it would not wait for ours, and TCP was reset, does
            # not make it a torn stream.  (memcached closes so behind QUIT.)
            reason = Failure(ConnectionDone())
        self._unread = -1  # as often as it takes until OpenSSL says how the stream ended
        super().connectionLost(reason)

    def abortConnection(self) -> None:
        """End the connection at once."""
        # The goodbye that OpenSSL says then must not get out: the peer is to see that it is torn.
        self._writer.stop()
        super().abortConnection()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Let *producer* be paused and resumed as there is room."""
        self._writer.step_aside()
        super().registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Forget the producer."""
        super().unregisterProducer()
        self._writer.step_back()


class TLSFactory(TLSMemoryBIOFactory):
    """Makes connections with a `TLSLayer`, which does not gather small writes for a turn."""

    protocol = TLSLayer


@implementer(IStreamClientEndpoint)
class TLSEndpoint:
    """Puts TLS between an endpoint and its protocol; connected means that TLS can begin."""

    def __init__(
        self,
        creator: IOpenSSLClientConnectionCreator,
        dial: IStreamClientEndpoint,
        clock: IReactorTime,
    ) -> None:
        """
        Args:
            creator: makes the OpenSSL connections, and verifies.
            dial: connects what TLS runs over.
            clock: the reactor.
        """
        self._creator, self._dial, self._clock = creator, dial, clock

    def connect(
        self,
        protocolFactory: IProtocolFactory,  # noqa: N803 - the interface's name for it
    ) -> Deferred[IProtocol]:
        """
        Connect, and begin TLS.

        Returns:
            A Deferred that fires with the protocol, as soon as there is a connection to speak TLS
            on.  Cancelling it ends the attempt.

        Fails:
            Exception: as *dial*.
        """
        wrapped = TLSFactory(self._creator, True, protocolFactory, self._clock)
        connecting: Deferred[IProtocol] = self._dial.connect(wrapped)
        return connecting.addCallback(_unwrapped)


def _unwrapped(protocol: IProtocol) -> IProtocol:
    assert isinstance(protocol, TLSMemoryBIOProtocol)
    inner: IProtocol = protocol.wrappedProtocol
    return inner
