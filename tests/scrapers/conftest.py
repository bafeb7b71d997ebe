"""A small web server on this machine that does what it is told, faults included."""

import socket
import struct
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


@dataclass
class Reply:
    body: bytes = b""
    status: int = 200
    headers: dict = field(default_factory=dict)
    length: int | None = None  # what Content-Length claims; None is the truth, -1 claims nothing
    before: object = None  # called before anything is sent
    reset: bool = False  # the connection is torn down after the body
    drip_s: float = 0.0  # seconds between two bytes
    chunked: bool = False  # in pieces that say their length; the last one is missing


@dataclass
class Asked:
    path: str
    at: float  # by the server's clock
    headers: dict


class ScriptedServer(ThreadingHTTPServer):
    """Gives each path its scripted replies in order; the last one again and again."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.scripts = defaultdict(list)
        self.asked = []
        self.page = {}.get  # path -> text, for what has no script
        self.address = f"http://127.0.0.1:{self.server_port}/"

    def answer(self, path, body=b"", **how):
        """Append a reply to the script of a path; returns the server, to chain."""
        body = body.encode() if isinstance(body, str) else body
        self.scripts[path].append(Reply(body, **how))
        return self

    def paths(self):
        """What was asked for so far, robots.txt aside."""
        return [asked.path for asked in self.asked if asked.path != "/robots.txt"]

    def forget(self):
        self.asked.clear()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as sites keep them
    disable_nagle_algorithm = True

    def do_GET(self):
        server = self.server
        server.asked.append(Asked(self.path, time.monotonic(), dict(self.headers)))
        found = server.page(self.path) if self.path not in server.scripts else None
        missing = Reply(b"<title>not Found</title>", 404)
        script = server.scripts.get(self.path) or [Reply(found.encode()) if found else missing]
        reply = script.pop(0) if len(script) > 1 else script[0]
        if reply.before:
            reply.before()
        headers = {"Content-Type": "text/html"} | reply.headers
        # As a site does that has seen the page unchanged.
        if (tag := headers.get("ETag")) and self.headers.get("If-None-Match") == tag:
            reply = Reply(status=304)
        try:
            self.send_response(reply.status)
            for name, value in headers.items():
                self.send_header(name, value)
            length = len(reply.body) if reply.length is None else reply.length
            body = reply.body
            if reply.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                body = f"{len(body):x}\r\n".encode() + body + b"\r\n"
            elif length >= 0:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            if reply.drip_s:
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(reply.drip_s)
            self.wfile.write(b"" if reply.drip_s else body)
            if reply.reset:  # no farewell: the other side finds its connection gone
                self.wfile.flush()
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.close_connection = True
            if length == -1 or reply.chunked or reply.length is not None:
                self.close_connection = True
        except ConnectionError:
            self.close_connection = True  # the other side left, as it does over the size limit

    def log_message(self, *_):
        """Silent."""


@pytest.fixture
def server():
    with ScriptedServer() as it:
        thread = threading.Thread(target=it.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield it
        it.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch):
    """No proxy of the developer's own, no contact of theirs."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("CRAWL_CONTACT", raising=False)


@pytest.fixture
def tmp_path(tmp_path):
    """In memory where there is such a place: every page is a transaction that a disk must sync."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="lyrics-test-") as folder:
        yield Path(folder)
