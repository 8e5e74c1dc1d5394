"""A WebSocket server that echoes whatever it is sent, of any size and with compression: `port N` says where."""

import asyncio

import websockets


async def echo(socket, _path=None):
    try:
        async for message in socket:
            await socket.send(message)
    except websockets.ConnectionClosed:
        pass  # most cases end so


async def serve():
    async with websockets.serve(echo, "127.0.0.1", 0, ping_interval=None, max_size=None, max_queue=None) as server:
        print("port", server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


asyncio.run(serve())
