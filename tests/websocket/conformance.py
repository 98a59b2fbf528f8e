"""Runs the cases of WebSocket that a proxy can break, against two addresses, and tells where their outcomes differ.

    conformance.py HOST:PORT CODE-FOLDER     the proxy, and the folder of the backend that is run here without one

The groups are those of Autobahn's test suite. An outcome is every frame that came back, and how the connection ended.
Frames are written by hand, so that they can be wrong and can be cut anywhere.
"""

import concurrent.futures
import hashlib
import itertools
import os
import socket
import struct
import subprocess
import sys
import time
import urllib.request
import zlib

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
PATIENCE_S = 10


def frame(opcode, payload=b"", fin=True, reserved=0, masked=True):
    head = bytes([fin << 7 | reserved << 4 | opcode])
    length, mask_bit = len(payload), masked << 7
    if length < 126:
        head += bytes([mask_bit | length])
    elif length < 65536:
        head += bytes([mask_bit | 126]) + struct.pack("!H", length)
    else:
        head += bytes([mask_bit | 127]) + struct.pack("!Q", length)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    key = (mask * (length // 4 + 1))[:length]
    return head + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")


def close(code, reason=b""):
    return frame(CLOSE, struct.pack("!H", code) + reason)


class Pause(float):
    """Seconds of silence between two writes."""


class Reset:
    """The client is gone, without a close frame and with a RST."""


class Leave:
    """The client is gone, without a close frame and with a FIN."""


class Await(int):
    """Wait until so many frames have come before the next write."""


class Connection:
    def __init__(self, address, path, fields="", early=b""):
        self.stream = socket.create_connection(address, timeout=PATIENCE_S)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream.sendall((
            f"GET {path} HTTP/1.1\r\nHost: www.foobar.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n").encode() + early)
        self.reader = self.stream.makefile("rb")
        self.status = self.reader.readline().split(b" ")[1].decode()
        self.fields = {}
        while line := self.reader.readline().strip():
            name, _, value = line.decode().partition(":")
            self.fields[name.lower()] = value.strip()
        self.frames = []
        self.end = None

    def read_frame(self):
        """One more frame, or how the connection ended."""
        try:
            head = self.reader.read(2)
            if len(head) < 2:
                self.end = "end" if not head else "cut"
                return False
            length = head[1] & 127
            if length == 126:
                length = struct.unpack("!H", self.reader.read(2))[0]
            elif length == 127:
                length = struct.unpack("!Q", self.reader.read(8))[0]
            payload = self.reader.read(length)
        except ConnectionResetError:
            # Whether the bytes of an aborted connection end in FIN or RST is the kernel's matter.
            self.end = "end"
            return False
        except TimeoutError:
            self.end = "silence"
            return False
        told = payload.hex() if length <= 40 else hashlib.sha256(payload).hexdigest()[:16]
        self.frames.append(f"{head[0]:02x} {length} {told}")
        return True


def run(address, name, path, steps, fields="", early=b""):
    connection = Connection(address, path, fields, early)
    if connection.status != "101":
        return [connection.status]
    outcome = [connection.status] + [
        f"{name}: {connection.fields.get(name)}"
        for name in ("sec-websocket-accept", "sec-websocket-protocol", "sec-websocket-extensions", "upgrade")]
    for step in steps:
        try:
            if isinstance(step, Pause):
                time.sleep(step)
            elif isinstance(step, Await):
                while connection.end is None and len(connection.frames) < step:
                    connection.read_frame()
            elif step is Leave:
                connection.stream.shutdown(socket.SHUT_WR)
            elif step is Reset:
                connection.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.reader.close()
                connection.stream.close()
                return outcome + connection.frames
            else:
                connection.stream.sendall(step)
        except (BrokenPipeError, ConnectionResetError):
            break
    while connection.end is None:
        connection.read_frame()
    connection.stream.close()
    return outcome + connection.frames + [connection.end]


def chopped(data, size, pause=0.0):
    for at in range(0, len(data), size):
        yield data[at:at + size]
        if pause:
            yield Pause(pause)


def cases():
    bye = [close(1000)]
    # 1: sizes around each form of the length, whole and in pieces.
    for size in (0, 1, 125, 126, 127, 128, 65535, 65536, 1 << 20):
        yield f"1.1 text of {size} bytes", "/echo", [frame(TEXT, b"*" * size), Await(1), *bye]
        yield f"1.2 binary of {size} bytes", "/echo", [frame(BINARY, b"\xfe" * size), Await(1), *bye]
    yield "1.1.8 text of 65536 bytes in chops of 997", "/echo", [*chopped(frame(TEXT, b"*" * 65536), 997), Await(1), *bye]
    yield "1.1.9 a short text byte by byte", "/echo", [*chopped(frame(TEXT, b"one by one"), 1, 0.01), Await(1), *bye]
    # 2: pings and pongs.
    for size in (0, 5, 125, 126):
        yield f"2 ping of {size} bytes", "/echo", [frame(PING, b"\xff" * size), Await(1), *bye]
    yield "2.6 a ping byte by byte", "/echo", [*chopped(frame(PING, b"ping" * 20), 1, 0.001), Await(1), *bye]
    yield "2.7 a pong that nobody asked for", "/echo", [frame(PONG, b"?"), frame(TEXT, b"a"), Await(1), *bye]
    yield "2.10 ten pings at once", "/echo", [b"".join(frame(PING, b"%d" % n) for n in range(10)), Await(10), *bye]
    yield "2.11 ten pings in chops of 3", "/echo", [*chopped(b"".join(frame(PING, b"%d" % n) for n in range(10)), 3), Await(10), *bye]
    # 3, 4: reserved bits and opcodes.
    for bits in range(1, 8):
        yield f"3 reserved bits {bits}", "/echo", [frame(TEXT, b"a"), Await(1), frame(TEXT, b"b", reserved=bits), frame(PING)]
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        yield f"4 reserved opcode {opcode}", "/echo", [frame(TEXT, b"a"), Await(1), frame(opcode, b"b"), frame(PING)]
    # 5: fragments.
    yield "5.1 a fragmented ping", "/echo", [frame(PING, b"a", fin=False), frame(0, b"b")]
    yield "5.3 text in two fragments", "/echo", [frame(TEXT, b"frag1", fin=False), frame(0, b"frag2"), Await(1), *bye]
    yield "5.6 a ping between two fragments", "/echo", [frame(TEXT, b"1", fin=False), frame(PING, b"p"), Await(1), frame(0, b"2"), Await(2), *bye]
    yield "5.8 the same in chops of 1", "/echo", [*chopped(frame(TEXT, b"1", fin=False) + frame(PING, b"p") + frame(0, b"2"), 1), Await(2), *bye]
    yield "5.9 a continuation of nothing", "/echo", [frame(0, b"?"), frame(TEXT, b"a")]
    yield "5.10 a continuation of nothing, not final", "/echo", [frame(0, b"?", fin=False), frame(TEXT, b"a")]
    yield "5.18 a text inside a text", "/echo", [frame(TEXT, b"1", fin=False), frame(TEXT, b"2")]
    many = [frame(TEXT if n == 0 else 0, b"%d," % n, fin=False) + frame(PING, b"%d" % n) for n in range(20)]
    yield "5.19 twenty fragments with pings, and a rest", "/echo", [*many[:10], Pause(0.3), *many[10:], frame(0, b"."), Await(21), *bye]
    yield "5.20 empty fragments", "/echo", [frame(TEXT, fin=False), frame(0, fin=False), frame(0, b"x"), Await(1), *bye]
    # 6: UTF-8.
    word = "κόσμε 🏠".encode()
    yield "6.2 UTF-8 in two fragments inside a code point", "/echo", [frame(TEXT, word[:3], fin=False), frame(0, word[3:]), Await(1), *bye]
    yield "6.2 UTF-8 with a fragment per byte", "/echo", [b"".join(
        frame(0 if n else TEXT, word[n:n + 1], fin=n == len(word) - 1) for n in range(len(word))), Await(1), *bye]
    yield "6.2 UTF-8 cut on the wire inside a code point", "/echo", [*chopped(frame(TEXT, word), 1, 0.005), Await(1), *bye]
    for wrong in (b"\xce\xba\xed\xa0\x80edited", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xff", b"\xf0\x9f\x8f"):
        yield f"6.3 no UTF-8: {wrong.hex()}", "/echo", [frame(TEXT, wrong)]
    yield "6.4 no UTF-8 in a later fragment", "/echo", [frame(TEXT, b"good", fin=False), Pause(0.1), frame(0, b"\xff"), frame(0)]
    # 7: closing.
    yield "7.1.2 two close frames", "/echo", [close(1000) + close(1000)]
    yield "7.1.3 a ping after the close", "/echo", [close(1000) + frame(PING)]
    yield "7.1.4 a text after the close", "/echo", [close(1000) + frame(TEXT, b"late")]
    yield "7.1.6 much data, then a close and a ping", "/echo", [frame(TEXT, b"B" * 262144), Await(1), close(1000) + frame(PING)]
    yield "7.3.1 a close without a code", "/echo", [frame(CLOSE)]
    yield "7.3.2 a close with half a code", "/echo", [frame(CLOSE, b"\x03")]
    yield "7.3.4 a close with a reason", "/echo", [close(1000, b"done")]
    yield "7.3.5 the longest reason", "/echo", [close(1000, b"*" * 123)]
    yield "7.3.6 a reason that is too long", "/echo", [close(1000, b"*" * 124)]
    yield "7.5.1 a reason that is no UTF-8", "/echo", [close(1000, b"\xff")]
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
        yield f"7.7 close with {code}", "/echo", [close(code)]
    for code in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535):
        yield f"7.9 close with {code}, which is none", "/echo", [close(code)]
    for code in (1000, 1001, 1011, 1012, 4321):
        yield f"7.14 the server closes with {code}", f"/close/{code}", [frame(TEXT, b"go"), Await(1), close(code)]
    yield "7.15 the server is gone", "/abort", [frame(TEXT, b"go")]
    # 9: much.
    mebibyte = b"M" * (1 << 20)
    yield "9.1 1 MiB in fragments of 64 KiB", "/echo", [*(
        frame(0 if at else TEXT, mebibyte[at:at + 65536], fin=at + 65536 == len(mebibyte))
        for at in range(0, len(mebibyte), 65536)), Await(1), *bye]
    yield "9.1 1 MiB in fragments of 64 bytes", "/echo", [b"".join(
        frame(0 if at else BINARY, mebibyte[at:at + 64], fin=at + 64 == len(mebibyte))
        for at in range(0, len(mebibyte), 64)), Await(1), *bye]
    yield "9.2 more than the server takes", "/echo", [frame(BINARY, b"\x00" * (5 << 20))]
    yield "9.5 1 MiB in chops of 1024", "/echo", [*chopped(frame(TEXT, mebibyte), 1024), Await(1), *bye]
    yield "9.7 a thousand short messages at once", "/echo", [b"".join(frame(TEXT, b"%d" % n) for n in range(1000)), Await(1000), *bye]
    yield "9.8 a client that reads late", "/burst", [frame(TEXT, b"go") * 4, Pause(1.0), Await(16), *bye]
    # Beyond the suite: what meets a proxy.
    yield "10.1 silence for two seconds", "/echo", [Pause(2.0), frame(TEXT, b"still here"), Await(1), *bye]
    yield "10.2 a client that leaves with a FIN", "/echo/NAME", [frame(TEXT, b"a"), Await(1), Leave]
    yield "10.3 a client that leaves with a RST", "/echo/NAME", [frame(TEXT, b"a"), Await(1), Reset]
    yield "10.4 a client that leaves within a message", "/echo/NAME", [frame(TEXT, b"a" * 2000)[:1000], Leave]
    yield "10.5 a frame without a mask", "/echo", [frame(TEXT, b"bare", masked=False)]
    yield "10.6 HTTP after the upgrade", "/echo", [b"GET / HTTP/1.1\r\nHost: www.foobar.com\r\n\r\n"]
    yield "10.7 a close that was understood is remembered as such", "/echo/NAME", [close(4000, b"understood")]


def fields_of_handshakes():
    """Cases that differ in the handshake: fields, and bytes that come right behind it."""
    hello, bye = frame(TEXT, b"hello"), close(1000)
    yield "11.1 a frame right behind the handshake", "", hello, [Await(1), bye]
    yield "11.2 64 KiB right behind the handshake", "", frame(TEXT, b"h" * 65536), [Await(1), bye]
    yield "11.3 subprotocols", "Sec-WebSocket-Protocol: chat.v1, chat.v2\r\n", b"", [hello, Await(1), bye]
    yield "11.4 an unknown subprotocol", "Sec-WebSocket-Protocol: chat.v9\r\n", b"", [hello, Await(1), bye]
    deflate = zlib.compressobj(wbits=-15)
    packed = (deflate.compress(b"squeezed " * 100) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    extension = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    yield "12.1 a compressed message", extension, b"", [frame(TEXT, packed, reserved=4), Await(1), bye]
    yield "12.2 a compressed message in fragments", extension, b"", [
        frame(TEXT, packed[:5], fin=False, reserved=4), frame(0, packed[5:]), Await(1), bye]
    yield "12.3 no message in spite of the extension's bit", extension, b"", [frame(TEXT, b"\xff\xff\xff", reserved=4)]


def remembered(address, name):
    """How the backend saw the connection end."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        request = urllib.request.Request(f"http://{address[0]}:{address[1]}/ended/{name}", headers={"Host": "www.foobar.com"})
        told = urllib.request.urlopen(request, timeout=PATIENCE_S).read().decode().strip()
        if told != "open":
            return told
        time.sleep(0.02)
    return "open"


def main():
    host, _, port = sys.argv[1].partition(":")
    folder = sys.argv[2]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own = free.getsockname()[1]
    backend = subprocess.Popen(
        ["/usr/bin/python3", os.path.join(folder, "echo.py")],
        env={"PORT": str(own), "PATH": os.environ["PATH"]}, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1000):
            try:
                socket.create_connection(("127.0.0.1", own)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        ways = {"direct": ("127.0.0.1", own), "proxied": (host, int(port or 80))}
        every = [(name, path, steps, "", b"") for name, path, steps in cases()]
        every += [(name, "/echo", steps, fields, early) for name, fields, early, steps in fields_of_handshakes()]

        def judge(case):
            number, (name, path, steps, fields, early) = case
            steps, seen = list(steps), {}
            for way, address in ways.items():
                here = path.replace("NAME", f"{way}-{number}")
                try:
                    seen[way] = run(address, name, here, steps, fields, early)
                    if here != path:
                        seen[way].append("the backend saw " + remembered(address, f"{way}-{number}"))
                except Exception as error:
                    seen[way] = [f"{type(error).__name__}: {error}"]
            return name, seen

        different = silent = 0
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for name, seen in pool.map(judge, enumerate(every)):
                if "silence" in seen["direct"]:
                    silent += 1
                    print(f"{name}: the backend itself says nothing: {seen['direct']}")
                if seen["direct"] != seen["proxied"]:
                    different += 1
                    print(f"{name}:\n  direct  {seen['direct'][-6:]}\n  proxied {seen['proxied'][-6:]}")
                elif os.environ.get("VERBOSE"):
                    print(f"{name}: {' | '.join(itertools.chain(seen['direct'][:1], seen['direct'][-3:]))}")
        print(f"{len(every)} cases, {different} different, {silent} without an outcome")
    finally:
        backend.terminate()
        backend.wait()


main()
