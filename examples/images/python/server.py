"""A server without any shutdown code, as most are; each worker runs it, and all share the port."""
import http.server
import os

BODY = b'{"worker":%s,"pid":%d}\n' % (os.environ.get("CLUSTERINIT_WORKER_ID", "0").encode(), os.getpid())


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # The whole answer in one write.

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024


Server(("", int(os.environ.get("PORT", "8080"))), Handler).serve_forever()
