"""leaky.py: a Python server on PORT that keeps LEAK_KIB (default 64) of each request, and LEAK_MIB_PER_SECOND (default 0) besides."""
import http.server
import os
import threading
import time

KIB = int(os.environ.get("LEAK_KIB", "64"))
PER_SECOND = float(os.environ.get("LEAK_MIB_PER_SECOND", "0"))
BODY = b'{"worker":%s,"pid":%d}\n' % (os.environ.get("CLUSTERINIT_WORKER_ID", "null").encode(), os.getpid())
kept = []


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self):
        kept.append(b"1" * (KIB * 1024))
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024

    def handle_error(self, *_):
        pass  # Clients come and go.


def drip():
    while PER_SECOND:
        kept.append(b"1" * int(PER_SECOND * 104858))
        time.sleep(0.1)


threading.Thread(target=drip, daemon=True).start()
Server(("", int(os.environ.get("PORT", "8080"))), Handler).serve_forever()
