"""WebSockets: `serve` echoes; `talk URL CA COUNT SECONDS PAUSE` keeps COUNT open and says something on each after each PAUSE."""

import asyncio
import ssl
import sys

import websockets


async def echo(socket, _path=None):
    async for message in socket:
        await socket.send(message)


async def serve():
    async with websockets.serve(echo, "127.0.0.1", 0, ping_interval=None) as server:
        print("port", server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


async def one(url, context, number, seconds, pause):
    """Whether it lived to the end, and how many echoes came back."""
    async with websockets.connect(url, ssl=context, compression=None, ping_interval=None, open_timeout=30) as socket:
        loop = asyncio.get_running_loop()
        end, said = loop.time() + seconds, 0
        print("open", number, flush=True)
        while True:
            # Text and bytes in turn, now and then a large one.
            size = 100_000 if said % 10 == 9 else 10
            message = f"{number} {said} " + "x" * size
            if said % 2:
                message = message.encode()
            await socket.send(message)
            answer = await asyncio.wait_for(socket.recv(), 30)
            assert answer == message, "another echo"
            said += 1
            if loop.time() > end:
                return said
            await asyncio.sleep(pause)


async def talk(url, ca, count, seconds, pause):
    context = ssl.create_default_context(cafile=ca) if url.startswith("wss:") else None
    sockets = [one(url, context, number, seconds, pause) for number in range(count)]
    ends = await asyncio.gather(*sockets, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            print("failed", repr(end))
    lived = [end for end in ends if isinstance(end, int)]
    print("alive", len(lived), "echoes", sum(lived))


if sys.argv[1] == "serve":
    asyncio.run(serve())
else:
    asyncio.run(talk(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]), float(sys.argv[6])))
