"""A small web server on this machine that does what it is told, faults included."""

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
    length: int | None = None  # what Content-Length claims; None is the truth
    before: object = None  # called before anything is sent


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
    def do_GET(self):
        server = self.server
        server.asked.append(Asked(self.path, time.monotonic(), dict(self.headers)))
        script = server.scripts.get(self.path) or [Reply(b"<title>not Found</title>", 404)]
        reply = script.pop(0) if len(script) > 1 else script[0]
        if reply.before:
            reply.before()
        try:
            self.send_response(reply.status)
            for name, value in ({"Content-Type": "text/html"} | reply.headers).items():
                self.send_header(name, value)
            length = len(reply.body) if reply.length is None else reply.length
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(reply.body)
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
