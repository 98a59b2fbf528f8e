"""Echoes WebSocket messages on $SOCKET, or on 127.0.0.1:$PORT; remembers how connections ended, for who asks by HTTP.

    /echo             echoes each message as it came
    /close/CODE       closes with this code and a reason, after a first message
    /abort            cuts the connection after a first message, without a close frame
    /burst            answers each message with four of 256 KiB
    /ended/NAME       (HTTP) the close code of the connection to /echo/NAME, 1006 if it had none
"""

import asyncio
import http
import os

import websockets
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

ended = {}


async def serve(connection, path):
    kind, _, rest = path.strip("/").partition("/")
    try:
        async for message in connection:
            if kind == "close":
                return await connection.close(int(rest), "as asked")
            if kind == "abort":
                return connection.transport.abort()
            if kind == "burst":
                for letter in "abcd":
                    await connection.send(letter * (256 * 1024))
            else:
                await connection.send(message)
    except websockets.ConnectionClosed:
        pass
    finally:
        await connection.wait_closed()
        ended[rest] = connection.close_code


async def answer(path, headers):
    if headers.get("Upgrade", "").lower() == "websocket":
        return None
    text = str(ended.get(path.removeprefix("/ended/"), "open")) if path.startswith("/ended/") else "ready"
    return http.HTTPStatus.OK, [("Content-Type", "text/plain")], text.encode() + b"\n"


def preferred(offered, known):
    return next((name for name in known if name in offered), None)


async def main():
    options = dict(
        process_request=answer,
        select_subprotocol=preferred,
        subprotocols=["chat.v2", "chat.v1"],
        extensions=[ServerPerMessageDeflateFactory()],
        compression=None,
        max_size=4 * 1024 * 1024,
        ping_interval=None,
        close_timeout=2,
    )
    if path := os.environ.get("SOCKET"):
        server = await websockets.unix_serve(serve, path, **options)
    else:
        server = await websockets.serve(serve, "127.0.0.1", int(os.environ["PORT"]), **options)
    await server.wait_closed()


asyncio.run(main())
