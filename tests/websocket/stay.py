"""Holds WebSockets and sends on each of them, one after the other, until standard input is closed: `stay.py HOST COUNT`.

Says `begun` after the first round, and in the end how many messages came back, and what the longest one took.
Then it closes each connection and wants to hear so.
"""

import asyncio
import sys
import time

import websockets


async def main():
    host, count = sys.argv[1], int(sys.argv[2])
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    connections = [await websockets.connect(f"ws://{host}/echo", ping_interval=None) for _ in range(count)]
    sent, longest = 0, 0
    while not over.done():
        for connection in connections:
            begun, message = time.monotonic(), f"message {sent} of many"
            await connection.send(message)
            assert await asyncio.wait_for(connection.recv(), 10) == message
            longest = max(longest, time.monotonic() - begun)
            sent += 1
            await asyncio.sleep(0.005)
        if sent == count:
            print("begun", flush=True)
    for connection in connections:
        await connection.close()
        assert connection.close_code == 1000, connection.close_code
    print(f"{sent} messages, the longest took {longest * 1000:.0f} ms")


asyncio.run(main())
