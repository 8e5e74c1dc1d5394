"""A WSGI app for gunicorn that answers 1 KiB, and misbehaves while a file tells it to: `errors`."""

import os
import random

BODY = b"x" * 1024


def app(environ, start_response):
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    if environ["REQUEST_METHOD"] == "POST":
        with open(os.environ["POSTS"], "a") as file:
            file.write(f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}\n")
    fails = os.path.exists("errors") and random.random() < 0.3
    status = "503 Service Unavailable" if fails else "200 OK"
    start_response(status, [("content-length", str(len(BODY)))])
    return [BODY]
