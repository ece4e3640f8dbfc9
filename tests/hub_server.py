"""A stand-in of the Hugging Face Hub on this machine: as much of its protocol as the real client needs to download."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """Serves the folders in `repositories`; names in `gated` are there but may not be seen."""

    repositories: dict[str, Path]
    gated: set[str]
    requests: list[str]

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.split("?")[0].strip("/")
        self.requests.append(f"{self.command} /{path}")
        parts = path.split("/")
        name = "/".join(parts[2:4] if parts[:2] == ["api", "models"] else parts[:2])
        if name in self.gated:
            self.refuse(403, "GatedRepo")
        elif name not in self.repositories:
            self.refuse(401, "RepoNotFound")
        elif parts[:2] == ["api", "models"]:
            self.api(self.repositories[name], name, parts[4:])
        else:
            self.resolve(self.repositories[name], parts[3], "/".join(parts[4:]))

    def api(self, folder: Path, name: str, rest: list[str]) -> None:
        if rest and rest[-1] not in ("main", COMMIT):
            self.refuse(404, "RevisionNotFound")
            return
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        if rest and rest[0] == "tree":
            self.send(json.dumps([self.entry(path, name) for path, name in zip(files, names, strict=True)]).encode())
        else:
            info = {"id": name, "modelId": name, "sha": COMMIT, "private": False, "gated": False, "tags": []}
            self.send(json.dumps(info | {"siblings": [{"rfilename": name} for name in names]}).encode())

    def entry(self, path: Path, name: str) -> dict[str, object]:
        return {"type": "file", "path": name, "size": path.stat().st_size, "oid": etag(path)}

    def resolve(self, folder: Path, revision: str, name: str) -> None:
        path = folder / name
        if revision not in ("main", COMMIT):
            self.refuse(404, "RevisionNotFound")
        elif not path.is_file():
            self.refuse(404, "EntryNotFound")
        else:
            self.send(path.read_bytes(), {"ETag": f'"{etag(path)}"', "X-Repo-Commit": COMMIT})

    def refuse(self, status: int, code: str) -> None:
        self.send(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status)

    def send(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def serve(repositories: dict[str, Path], gated: set[str] = frozenset()) -> Iterator[tuple[str, list[str]]]:
    """Serve until the block ends. Yields the address and the list of requests so far."""
    handler = type("Handler", (Hub,), {"repositories": repositories, "gated": gated, "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.requests
    finally:
        server.shutdown()
        server.server_close()
