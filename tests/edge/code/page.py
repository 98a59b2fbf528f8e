"""Counts its answers; /short and /long may be kept, for a second (and longer when there is nothing else) and for an hour."""

import http.server
import itertools
import os
import socket
import socketserver

numbers = itertools.count(1)
KEPT = {"/short": "max-age=1, stale-if-error=600", "/long": "max-age=3600"}


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"{os.environ['MAINSTAY_SERVER']} {next(numbers)}\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", KEPT.get(self.path.split("?")[0], "no-store"))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


Server(os.environ["SOCKET"], Page).serve_forever()
