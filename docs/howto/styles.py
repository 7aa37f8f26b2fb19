"""The same client from a coroutine, a generator and a thread: python styles.py SERVERS CA-FILE."""

import sys

from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import react
from twisted.internet.threads import blockingCallFromThread, deferToThread

from txtlsmc import TLS, MemcacheClient


async def from_a_coroutine(client):
    await client.set("style", "coroutine")
    return await client.get("style")


@inlineCallbacks
def from_a_generator(client):
    yield client.set("style", "generator")
    return (yield client.get("style"))


def from_a_thread(reactor, client):
    blockingCallFromThread(reactor, client.set, "style", "thread")
    return blockingCallFromThread(reactor, client.get, "style")


async def main(reactor, servers, ca):
    client = MemcacheClient(reactor, servers, tls=TLS(ca=ca))
    print(await from_a_coroutine(client))
    print(await from_a_generator(client))
    print(await deferToThread(from_a_thread, reactor, client))
    await client.close()


react(main, sys.argv[1:])
