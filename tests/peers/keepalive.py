"""Keeps COUNT connections of HTTP/1.1 over TLS busy for SECONDS, and none of them may be closed or replaced.

keepalive.py PORT CA COUNT SECONDS
"""

import http.client
import ssl
import sys
import threading
import time

port, ca, count, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
context = ssl.create_default_context(cafile=ca)
end = time.monotonic() + seconds
outcomes = []


def keep():
    answered = 0
    try:
        connection = http.client.HTTPSConnection("localhost", int(port), timeout=10, context=context)
        connection.connect()
        # A connection that was closed is an error from now on, not opened again.
        connection.auto_open = 0
        while time.monotonic() < end:
            connection.request("GET", "/")
            response = connection.getresponse()
            response.read()
            assert response.status == 200, response.status
            assert not response.will_close, "the answer announces a close"
            answered += 1
            # Idle for a moment, which is when a proxy would close it.
            time.sleep(0.05)
        outcomes.append(answered)
    except Exception as error:
        print("failed", answered, repr(error))


threads = [threading.Thread(target=keep) for _ in range(count)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("kept", len(outcomes), "answers", sum(outcomes))
