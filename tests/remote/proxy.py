"""A server between a client and a bucket that lets some requests fail."""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

ONE_HOP = {"connection", "transfer-encoding", "content-length", "server", "date"}


class Proxy:
    """Passes requests on; the first ``failures`` of one method are answered with HTTP 500 instead.

    Args:
        target: address of the server.
    """

    def __init__(self, target):
        self.method, self.failures = "", 0
        self.failed = []
        """Paths of the requests that failed."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(urlsplit(target).netloc))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail(self, method, failures):
        """Let the next requests of this method fail, so many of them."""
        self.method, self.failures = method, failures

    def _handler(self, netloc):
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.command == proxy.method and proxy.failures > 0:
                    proxy.failures -= 1
                    proxy.failed.append(self.path)
                    self._answer(500, {}, b"")
                    return
                connection = http.client.HTTPConnection(netloc, timeout=30)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                self._answer(answer.status, dict(answer.getheaders()), answer.read())
                connection.close()

            def _answer(self, status, headers, body):
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ONE_HOP:
                        self.send_header(name, value)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
                self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815 - names that the class asks for

            def log_message(self, *args):
                """Say nothing."""

        return Handler

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *details):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
