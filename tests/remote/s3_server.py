"""A real S3 server in a process of its own, and a proxy in front of it that fails on purpose."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "wJalrXUtnFEMI-of-no-account"  # noqa: S105
SIGNED = "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """moto's S3 server on the loopback interface."""

    def __init__(self):
        self.port = free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        raise RuntimeError("the S3 server did not start")

    def close(self):
        self._process.terminate()
        self._process.wait(30)

    def ask(self, method, path, body=b""):
        """Status and body of the answer to a plain request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, {"Authorization": SIGNED, "x-amz-acl": "public-read"})
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    def put(self, name, content):
        """Make ``content`` the object ``bucket/key``."""
        status, _ = self.ask("PUT", f"/{name}", content)
        assert status == 200, status

    def remove(self, name):
        self.ask("DELETE", f"/{name}")


@dataclass
class Faults:
    """What the proxy does wrong from now on."""

    fail: int = 0
    """GET requests that are answered with `status`."""
    status: int = 500
    fail_put: int = 0
    """The same for PUT."""
    cut: int = 0
    """Bodies of GET requests that end after `cut_after` bytes, though more are promised."""
    cut_after: int = 1000
    drop: int = 0
    """Requests whose connection is closed without an answer."""
    delay_s: float = 0
    """Before each answer to a GET request."""
    then: object = None
    """Called once, after the next GET request for a range."""
    seen: list = field(default_factory=list)
    """(method, path, Range header) of every request, in order."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ranges(self):
        """(start, size) of every range that was asked for."""
        asked = [asked.removeprefix("bytes=").split("-") for _, _, asked in self.seen if asked]
        return [(int(first), int(last) + 1 - int(first)) for first, last in asked]

    def take(self, name):
        """True if this kind of fault is due once more."""
        with self.lock:
            left = getattr(self, name)
            setattr(self, name, max(left - 1, 0))
            return left > 0


class Proxy:
    """Passes requests on to the server, with faults."""

    def __init__(self, server):
        self.faults = Faults()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *details):
                pass

            def handle_any(self):
                proxy.pass_on(self, server)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def pass_on(self, handler, server):
        faults, get = self.faults, handler.command == "GET"
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        with faults.lock:
            faults.seen.append((handler.command, handler.path, handler.headers.get("Range")))
        handler.close_connection = faults.take("drop")
        if handler.close_connection:
            return
        if get and faults.delay_s:
            time.sleep(faults.delay_s)
        if (get and faults.take("fail")) or (handler.command == "PUT" and faults.take("fail_put")):
            handler.send_response(faults.status)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        with suppress(ConnectionError):
            self._forward(handler, server, body)
        if get and handler.headers.get("Range") and faults.then is not None:
            then, faults.then = faults.then, None
            then()

    def _forward(self, handler, server, body):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request(handler.command, handler.path, body, dict(handler.headers))
        answer = connection.getresponse()
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"connection", "transfer-encoding", "server", "date"}:
                handler.send_header(name, value)
        content = b"" if handler.command == "HEAD" else answer.read()
        if handler.command != "HEAD" and answer.getheader("Content-Length") is None:
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        connection.close()
        cut = handler.command == "GET" and len(content) > self.faults.cut_after and self.faults.take("cut")
        handler.close_connection = cut
        handler.wfile.write(content[: self.faults.cut_after] if cut else content)
