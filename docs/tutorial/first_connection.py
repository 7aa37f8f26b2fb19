"""Store a value and read it back: python first_connection.py SERVER CA-FILE."""

import os
import sys

from twisted.internet.task import react

from txtlsmc import TLS, Credentials, connect


async def main(reactor, server, ca):
    alice = Credentials("alice", os.environ["TXTLSMC_PASSWORD"])
    connection = await connect(reactor, server, tls=TLS(ca=ca), credentials=alice)
    await connection.set("greeting", b"hello", exptime=60)
    item = await connection.get("greeting")
    print(item.value.decode())
    await connection.close()


react(main, sys.argv[1:])
