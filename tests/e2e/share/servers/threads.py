"""threads.py PORT [serial] [wait=4] [log=FILE]: a server of Python's standard library, a thread for each connection or (serial) none.

It has no shutdown code. wait: ms that an answer takes. log: the number in ?id=N of each request is noted when its handler begins.
"""
import http.server
import os
import sys
import time

port, *words = sys.argv[1:]
options = dict(word.partition("=")[::2] for word in words)
wait = float(options.get("wait", 0)) / 1000
log = os.open(options["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666) if "log" in options else None
body = b'{"worker":%s,"pid":%d}\n' % (os.environ.get("CLUSTERINIT_WORKER_ID", "null").encode(), os.getpid())


class Handler(http.server.BaseHTTPRequestHandler):
    # A serial server that keeps connections would serve one client for ever.
    protocol_version = "HTTP/1.0" if "serial" in options else "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self):
        if log is not None:
            os.write(log, self.path.partition("=")[2].encode() + b"\n")
        if wait:
            time.sleep(wait)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.HTTPServer if "serial" in options else http.server.ThreadingHTTPServer):
    request_queue_size = 1024

    def handle_error(self, *_):
        pass  # Clients come and go.


Server(("127.0.0.1", int(port)), Handler).serve_forever()
