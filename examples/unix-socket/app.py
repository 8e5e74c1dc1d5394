"""A web app on a unix socket, of the standard library alone."""

import http.server
import os
import socketserver

PATH = "/tmp/lockgate-app.sock"


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"from a unix socket\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return self.headers.get("X-Forwarded-For", "-")


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


if os.path.exists(PATH):
    os.remove(PATH)
Server(PATH, App).serve_forever()
