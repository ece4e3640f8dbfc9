"""A file server on this machine that misbehaves as it is told to."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONFIRMATION = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<p class="uc-warning-caption">Google Drive can't scan this file for viruses.</p>
<form id="download-form" action="/confirmed" method="get">
<input type="submit" id="uc-download-link" value="Download anyway"/>
<input type="hidden" name="id" value="abc"><input type="hidden" name="export" value="download">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="1-2&amp;3">
</form></body></html>"""

QUOTA = "<html><head><title>Google Drive - Quota exceeded</title></head><body>Too many users</body></html>"

STALL = 30.0
"""Seconds for which a stalled answer is held open, unless the client goes away; tests wait for less."""


class FileServer(BaseHTTPRequestHandler):
    """Serves one file at every path; what it does wrong is taken from `misdeeds`, one a request, then nothing."""

    content: bytes
    misdeeds: list[str]
    requests: list[str]
    stopped: threading.Event
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.requests.append(f"{self.path} {self.headers.get('Range', '')}".strip())
        misdeed = self.misdeeds.pop(0) if self.misdeeds else ""
        if misdeed.isdecimal():
            self.send_error(int(misdeed))
        elif misdeed == "quota":
            self.page(QUOTA)
        elif misdeed == "confirm":
            self.page(CONFIRMATION)
        elif misdeed == "drop":
            self.close_connection = True
        else:
            self.file(misdeed)

    def file(self, misdeed: str) -> None:
        content = self.content[::-1] if misdeed == "wrong" else self.content
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        offset = int(start[1]) if start and misdeed not in ("no range", "no range, break") else 0
        if offset >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if misdeed == "other range":
            offset //= 2
        self.send_response(206 if offset else 200)
        if offset:
            whole = "*" if misdeed == "unknown size" else len(content)
            self.send_header("Content-Range", f"bytes {offset}-{len(content) - 1}/{whole}")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(content) - offset))
        self.end_headers()
        rest = content[offset:]
        if misdeed in ("break", "no range, break", "stall"):
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            if misdeed == "stall":
                self.stopped.wait(STALL)
            self.close_connection = True
        elif misdeed == "slow":
            for position in range(0, len(rest), 1000):
                self.wfile.write(rest[position : position + 1000])
                time.sleep(0.01)
        else:
            self.wfile.write(rest)

    def page(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


class Served:
    """One file that is served: its address, its MD5, what went wrong is to be told, and the requests so far."""

    def __init__(self, address: str, handler: type[FileServer]) -> None:
        self.address = address
        self.md5 = hashlib.md5(handler.content).hexdigest()
        self.misdeeds = handler.misdeeds
        self.requests = handler.requests


@contextmanager
def serve_file(content: bytes, *misdeeds: str) -> Iterator[Served]:
    """Serve `content` until the block ends."""
    stopped = threading.Event()
    members = {"content": content, "misdeeds": [*misdeeds], "requests": [], "stopped": stopped}
    handler = type("Handler", (FileServer,), members)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield Served(f"http://127.0.0.1:{server.server_port}/file", handler)
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
