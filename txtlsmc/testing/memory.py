"""The endpoint that connects to an embedded server without a socket."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.error import (
    ConnectingCancelledError,
    ConnectionRefusedError,
    NoProtocol,
)
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from txtlsmc.testing.pipe import SERVER_ADDRESS, MemoryPipe
from txtlsmc.testing.registry import Registry


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """Connects to a server's factory in the same process, without a socket."""

    def __init__(
        self,
        reactor: IReactorTime,
        factory: IProtocolFactory,
        registry: Registry,
    ) -> None:
        """
        Args:
            reactor: moves the bytes.
            factory: builds the protocols of the server's side.
            registry: knows whether there is a server, and is told what is open.
        """
        self._reactor, self._factory, self._registry = reactor, factory, registry

    def connect(
        self,
        protocolFactory: IProtocolFactory,  # noqa: N803 - the interface's name for it
    ) -> Deferred[IProtocol]:
        """
        Connect, as any endpoint does.

        Returns:
            A Deferred that fires with the protocol.  Cancelling it ends the attempt.

        Fails:
            ConnectionRefusedError: the server was stopped.
        """

        def cancelled(done: Deferred[IProtocol]) -> None:
            call.cancel()
            over(pipe)
            done.errback(ConnectingCancelledError(SERVER_ADDRESS))

        def over(pipe: object) -> None:
            self._registry.forget(pipe)
            protocolFactory.doStop()

        def connected() -> None:
            try:
                client = self._join(pipe, protocolFactory)
            except Exception:
                over(pipe)
                done.errback()
            else:
                done.callback(client)

        done: Deferred[IProtocol] = Deferred(cancelled)
        pipe = MemoryPipe(self._reactor, over)
        self._registry.note(pipe)
        protocolFactory.doStart()
        call = self._reactor.callLater(0, connected)
        return done

    def _join(self, pipe: MemoryPipe, factory: IProtocolFactory) -> IProtocol:
        if not self._registry.accepting:
            raise ConnectionRefusedError()
        server = self._factory.buildProtocol(pipe.server.getPeer())
        client = factory.buildProtocol(pipe.client.getPeer())
        if server is None:
            raise ConnectionRefusedError()
        if client is None:
            raise NoProtocol()
        pipe.server.make_connection(server)
        pipe.client.make_connection(client)
        return client
