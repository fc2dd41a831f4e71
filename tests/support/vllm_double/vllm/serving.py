"""What stands for vLLM's HTTP server: GET /identity says how this process came to serve, every other path 200."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

NONCE = os.urandom(8).hex()


class Server(ThreadingHTTPServer):
    def server_bind(self):
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]


class Handler(BaseHTTPRequestHandler):
    was_paused = False

    def do_GET(self):
        body = json.dumps({"was_paused": self.was_paused, "nonce": NONCE}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def serve(host, port, *, was_paused):
    Handler.was_paused = was_paused
    Server((host or "", port), Handler).serve_forever()
