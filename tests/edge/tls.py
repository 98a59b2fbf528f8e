"""A server of TLS on port 8443 with a certificate of its own, which tells its name, and the name that it was asked for."""

import http.server
import ssl
import subprocess
import sys
import tempfile

name = sys.argv[1]
folder = tempfile.mkdtemp()
subprocess.run(
    ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    + ["-subj", f"/CN={name}.foobar.com", "-addext", f"subjectAltName=DNS:{name}.foobar.com"]
    + ["-keyout", "key.pem", "-out", "chain.pem"],
    cwd=folder,
    check=True,
    capture_output=True,
)


class Name(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{name} {self.client_address[0]}\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{folder}/chain.pem", f"{folder}/key.pem")
server = http.server.ThreadingHTTPServer(("0.0.0.0", 8443), Name)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
