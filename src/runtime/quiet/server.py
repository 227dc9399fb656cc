# HTTP/1.1 with keep-alive and no shutdown code: a thread for each connection. `/N` is answered after N milliseconds.
# Says its port, and for each request a line when it begins.
import http.server, os, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        wait, _, name = self.path[1:].partition("/")
        if name:
            os.write(1, b"%s\n" % name.encode())
        time.sleep(int(wait) / 1000)
        body = b"x" * 100
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

server = Server((sys.argv[1], 0), Handler)
os.write(1, b"%d\n" % server.server_address[1])
server.serve_forever()
