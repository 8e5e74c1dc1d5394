"""A WSGI app on the server of Python's library: HTTP/1.0, a connection for each request."""

import hashlib
import json
from wsgiref.simple_server import WSGIRequestHandler, make_server


def app(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    seen = json.dumps({
        "server": "python",
        "method": environ["REQUEST_METHOD"],
        "proto": environ.get("HTTP_X_FORWARDED_PROTO"),
        "length": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    })
    start_response("200 OK", [("content-type", "application/json")])
    return [seen.encode(), b"\n"]


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
    print("port", server.server_port, flush=True)
    server.serve_forever()
