"""Use a client for several servers: python client.py SERVERS CA-FILE."""

import os
import sys

from twisted.internet.task import react

from txtlsmc import TLS, Credentials, MemcacheClient


async def main(reactor, servers, ca):
    alice = Credentials("alice", os.environ["TXTLSMC_PASSWORD"])
    client = MemcacheClient(reactor, servers, tls=TLS(ca=ca), credentials=alice)
    await client.set_multi({"fruit": "apple", "count": 3}, exptime=60)
    print(await client.get("fruit"), await client.incr("count"))
    print(await client.get_multi(["fruit", "count", "nothing"]))
    print(client.node_for("fruit").server, "has the fruit")
    await client.close()


react(main, sys.argv[1:])
