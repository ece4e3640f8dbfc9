"""A stand-in of the Hugging Face Hub on this machine: as much of its protocol as the real client needs.

Downloads are resolved as on the Hub: small files are sent at once, large ones (here every .safetensors) by a redirect
to another host, which takes Range requests. Uploads go through preupload, LFS batch or Xet, and commit. Faults can be
ordered.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import yaml
from xet_storage import XetStorage

COMMIT = "a" * 40
"""The first commit of every repository that is served from a folder."""

WRITE_TOKEN, READ_TOKEN = "hf_write", "hf_read"
LICENCES = {"mit", "apache-2.0", "cc-by-4.0", "cc0-1.0", "other"}
LFS = ".safetensors"
XET_HEADERS = {"Cas-Url": "casUrl", "Access-Token": "accessToken", "Token-Expiration": "exp"}


@dataclass
class Repository:
    """Branches, commits, and the files of each commit."""

    commits: dict[str, dict[str, Path]] = field(default_factory=lambda: {"0" * 40: {}})
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    private: bool = False
    gated: bool = False

    @classmethod
    def of(cls, folder: Path) -> Repository:
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        return cls(commits={COMMIT: files}, branches={"main": COMMIT})

    def commit_of(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose "METHOD /path" matches `pattern`."""

    pattern: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Close the connection after so many bytes of the body."""
    corrupt: bool = False
    """Send other bytes, as many."""
    times: int = 1


class HubServer:
    """The state of the Hub: change it while it serves."""

    def __init__(self, repositories: Mapping[str, Path], store: Path) -> None:
        self.repositories = {name: Repository.of(folder) for name, folder in repositories.items()}
        self.store = store
        self.xet = XetStorage()
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        """METHOD /path, then the range asked for."""
        self.leaked: list[str] = []
        """Paths of the other host that were asked for with a token."""
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage(self) -> str:
        """The host that large files are sent from."""
        return f"http://localhost:{self.port}"

    def downloads(self) -> list[str]:
        return [request for request in self.requests if request.startswith("GET") and re.search("resolve|cdn", request)]

    def content(self, digest: str) -> Path | None:
        """The file of that SHA-256, in a repository or uploaded."""
        commits = (files for repository in self.repositories.values() for files in repository.commits.values())
        known = [path for files in commits for path in files.values()] + list(self.store.iterdir())
        return next((path for path in known if path.exists() and sha256(path) == digest), None)

    def file(self, repository: str, name: str, revision: str = "main") -> bytes:
        found = self.repositories[repository]
        return found.commits[found.branches[revision]][name].read_bytes()


class Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.split("?")[0]
        self.fault = Fault("")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".rstrip())
        for fault in self.hub.faults:
            if fault.times and re.search(fault.pattern, f"{self.command} {path}"):
                fault.times -= 1
                self.fault = fault
                if fault.status != 200:
                    self.send(b"{}", fault.headers, fault.status)
                    return
        if self.headers.get("Authorization") and path.startswith(("/cdn/", "/lfs/")):
            self.hub.leaked.append(path)
        self.route(unquote(path))

    def route(self, path: str) -> None:
        """Find the first route that fits; its method gets the groups of the pattern."""
        for method, pattern, handle in (
            ("GET|HEAD", r"/cdn/(\w+)", self.cdn),
            ("PUT", r"/lfs/(\w+)", self.lfs_upload),
            ("POST", r"/api/validate-yaml", self.validate_yaml),
            ("POST", r"/api/repos/create", self.create_repo),
            ("POST", r"/api/models/([^/]+/[^/]+)/branch/(.+)", self.create_branch),
            ("POST", r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self.preupload),
            ("POST", r"/api/models/([^/]+/[^/]+)/commit/(.+)", self.commit),
            ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.lfs_batch),
            ("GET", r"/api/models/([^/]+/[^/]+)/xet-(?:read|write)-token/(.+)", self.xet_token),
            ("POST", r"/v1/xorbs/default/(\w+)", self.xorb_upload),
            ("POST", r"/(?:v1/)?shards?", self.shard_upload),
            ("GET", r"/v1/reconstructions/(\w+)", self.reconstruction),
            ("GET", r"/xorb/(\w+)", self.xorb),
            ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self.tree),
            ("GET", r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", self.tree_of_data),
            ("POST", r"/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)", self.paths_info),
            ("GET", r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/revision/(.+))?", self.info),
            ("GET|HEAD", r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
        ):
            found = re.fullmatch(pattern, path)
            if found and re.fullmatch(method, self.command):
                handle(*found.groups())
                return
        self.refuse(404, "NotFound")

    # Reading

    def readable(self, name: str) -> Repository | None:
        """The repository, or None where the request was refused."""
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and self.token() is None):
            self.refuse(404 if self.token() else 401, "RepoNotFound")
        elif repository.gated:
            self.refuse(403, "GatedRepo")
        elif self.headers.get("Authorization") and self.token() is None:
            self.refuse(401, "", "Invalid credentials in Authorization header")
        else:
            return repository
        return None

    def files_of(self, repository: Repository, revision: str) -> tuple[str, dict[str, Path]] | None:
        commit = repository.commit_of(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound")
            return None
        return commit, repository.commits[commit]

    def info(self, name: str, revision: str | None) -> None:
        if (repository := self.readable(name)) and (found := self.files_of(repository, revision or "main")):
            self.send_json(
                {
                    **{"id": name, "modelId": name, "sha": found[0], "private": repository.private, "gated": False},
                    **{"tags": [], "siblings": [{"rfilename": file} for file in sorted(found[1])]},
                }
            )

    def tree(self, name: str, revision: str) -> None:
        if (repository := self.readable(name)) and (found := self.files_of(repository, revision)):
            self.send_json([entry(file, path) for file, path in sorted(found[1].items())])

    def tree_of_data(self, name: str, revision: str, folder: str | None) -> None:
        """What lies in a folder, or below it where that is asked for."""
        if not ((repository := self.readable(name)) and (found := self.files_of(repository, revision))):
            return
        start = f"{folder}/" if folder else ""
        below = {file: path for file, path in sorted(found[1].items()) if file.startswith(start)}
        listed = [entry(file, path) for file, path in below.items()]
        if "recursive=true" not in self.path.lower():
            folders = {start + file[len(start) :].split("/")[0] for file in below if "/" in file[len(start) :]}
            listed = [item for item in listed if "/" not in str(item["path"])[len(start) :]]
            listed += [{"type": "directory", "path": inner, "oid": "0" * 40} for inner in sorted(folders)]
        if below:
            self.send_json(listed)
        else:
            self.refuse(404, "EntryNotFound")

    def paths_info(self, name: str, revision: str) -> None:
        if (repository := self.readable(name)) and (found := self.files_of(repository, revision)):
            asked = json.loads(self.body)["paths"]
            self.send_json([entry(file, found[1][file]) for file in asked if file in found[1]])

    def resolve(self, name: str, revision: str, file: str) -> None:
        if not ((repository := self.readable(name)) and (found := self.files_of(repository, revision))):
            return
        commit, files = found
        if file not in files:
            self.refuse(404, "EntryNotFound", headers={"X-Repo-Commit": commit})
        elif file.endswith(LFS):
            linked = {"X-Linked-Etag": f'"{sha256(files[file])}"', "X-Linked-Size": str(files[file].stat().st_size)}
            if xet_hash := self.hub.xet.hashes.get(sha256(files[file])):
                route = f"{self.hub.endpoint}/api/models/{name}/xet-read-token/{commit}"
                linked |= {"X-Xet-Hash": xet_hash, "X-Xet-Refresh-Route": route}
            where = f"{self.hub.storage}/cdn/{sha256(files[file])}"
            self.send(b"", {"Location": where, "X-Repo-Commit": commit, **linked}, 302)
        elif part := re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            content = files[file].read_bytes()
            first, last = int(part[1]), min(int(part[2]), len(content) - 1)
            ranged = {"Content-Range": f"bytes {first}-{last}/{len(content)}", "X-Repo-Commit": commit}
            self.send(content[first : last + 1], ranged, 206)
        else:
            self.send_file(files[file], {"ETag": f'"{git_sha1(files[file])}"', "X-Repo-Commit": commit})

    def cdn(self, digest: str) -> None:
        path = self.hub.content(digest)
        if path is None:
            self.refuse(404, "")
            return
        size = path.stat().st_size
        start = int(found[1]) if (found := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        headers = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {}
        self.send_file(path, {"ETag": f'"{digest}"', **headers}, 206 if start else 200, start)

    # Writing

    def writable(self, name: str) -> Repository | None:
        """The repository, or None where the request was refused."""
        if self.token() is None:
            self.refuse(401, "")
        elif self.token() != WRITE_TOKEN:
            self.refuse(403, "", "You do not have write permission")
        elif name not in self.hub.repositories:
            self.refuse(404, "RepoNotFound")
        else:
            return self.hub.repositories[name]
        return None

    def create_repo(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repositories:
            self.send_json({"error": "You already created this model repo", "url": f"{self.hub.endpoint}/{name}"}, 409)
        elif self.token() != WRITE_TOKEN:
            self.refuse(403 if self.token() else 401, "")
        else:
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.hub.repositories[name] = Repository(private=private)
            self.send_json({"url": f"{self.hub.endpoint}/{name}"})

    def create_branch(self, name: str, branch: str) -> None:
        if repository := self.writable(name):
            there = branch in repository.branches
            repository.branches.setdefault(branch, repository.branches["main"])
            self.send_json({}, 409 if there else 200)

    def validate_yaml(self) -> None:
        card = json.loads(self.body)["content"]
        found = re.match(r"---\n(.*?)\n---\n", card, flags=re.DOTALL)
        data = yaml.safe_load(found[1]) if found else {}
        errors = [
            {"message": f"{key} is not valid: {data.get(key)}"}
            for key, right in {
                "license": data.get("license") in LICENCES,
                "license_name": data.get("license") != "other" or bool(data.get("license_name")),
                "pipeline_tag": data.get("pipeline_tag") == "text-to-image",
                "library_name": isinstance(data.get("library_name"), str),
                "tags": isinstance(data.get("tags"), list),
            }.items()
            if not right
        ]
        self.send_json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, name: str, revision: str) -> None:
        if (repository := self.writable(name)) and (found := self.files_of(repository, revision)):
            modes = []
            for file in json.loads(self.body)["files"]:
                lfs = file["path"].endswith(LFS)
                there = found[1].get(file["path"])
                oid = there and (sha256(there) if lfs else git_sha1(there))
                mode = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
                modes.append(mode | {"oid": oid})
            self.send_json({"files": modes})

    def lfs_batch(self, name: str) -> None:
        if self.writable(name):
            objects = []
            for wanted in json.loads(self.body)["objects"]:
                upload = {"href": f"{self.hub.storage}/lfs/{wanted['oid']}"}
                there = self.hub.content(wanted["oid"])
                objects.append(wanted | ({} if there else {"actions": {"upload": upload}}))
            self.send_json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, digest: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != digest:
            self.send(b"", status=400)
            return
        (self.hub.store / digest).write_bytes(self.body)
        self.send(b"")

    def commit(self, name: str, branch: str) -> None:
        repository = self.writable(name)
        if repository is None:
            return
        files = dict(repository.commits[repository.branches[branch]])
        for line in self.body.splitlines():
            key, value = (operation := json.loads(line))["key"], operation["value"]
            if key == "file":
                content = base64.b64decode(value["content"])
                path = self.hub.store / hashlib.sha256(content).hexdigest()
                path.write_bytes(content)
                files[value["path"]] = path
            elif key == "lfsFile":
                files[value["path"]] = self.hub.content(value["oid"])
            elif key == "deletedFile":
                del files[value["path"]]
        commit = hashlib.sha1(repr((sorted(files.items()), len(repository.commits))).encode()).hexdigest()
        repository.commits[commit] = files
        repository.branches[branch] = commit
        self.send_json({"commitOid": commit, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{commit}"})

    # Xet

    def xet_token(self, name: str, revision: str) -> None:
        if self.readable(name):
            told = {"accessToken": "xet", "exp": 4_000_000_000, "casUrl": self.hub.endpoint}
            headers = {f"X-Xet-{key}": str(told[value]) for key, value in XET_HEADERS.items()}
            self.send(json.dumps(told).encode(), {"Content-Type": "application/json", **headers})

    def xorb_upload(self, digest: str) -> None:
        self.hub.xet.xorbs[digest] = self.body
        self.send_json({"was_inserted": True})

    def shard_upload(self) -> None:
        for content in self.hub.xet.add_shard(self.body):
            (self.hub.store / hashlib.sha256(content).hexdigest()).write_bytes(content)
        self.send_json({"result": 1})

    def reconstruction(self, file_hash: str) -> None:
        if file_hash not in self.hub.xet.files:
            self.refuse(404, "")
        elif int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1]):
            self.refuse(416, "")  # after the end: every answer tells the whole file
        else:
            self.send_json(self.hub.xet.reconstruction(file_hash, self.hub.storage))

    def xorb(self, digest: str) -> None:
        content = self.hub.xet.xorbs[digest]
        found = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(found[1]), int(found[2]) + 1) if found else (0, len(content))
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"} if found else {}
        self.send(content[start:end], headers, 206 if found else 200)

    # Answering

    def token(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return token if token in (WRITE_TOKEN, READ_TOKEN) else None

    def refuse(self, status: int, code: str, message: str = "", headers: Mapping[str, str] | None = None) -> None:
        self.send(b"{}", {"X-Error-Code": code, "X-Error-Message": message or code, **(headers or {})}, status)

    def send_json(self, content: object, status: int = 200) -> None:
        self.send(json.dumps(content).encode(), {"Content-Type": "application/json"}, status)

    def send(self, body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> None:
        self.send_head(len(body), headers, status)
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, path: Path, headers: Mapping[str, str], status: int = 200, start: int = 0) -> None:
        size = path.stat().st_size - start
        self.send_head(size, headers, status)
        if self.command == "HEAD":
            return
        with path.open("rb") as file:
            file.seek(start)
            if self.fault.corrupt:
                self.wfile.write(bytes(255 - byte for byte in file.read()))
            elif self.fault.cut_after is not None:
                self.wfile.write(file.read(self.fault.cut_after))
            else:
                shutil.copyfileobj(file, self.wfile)

    def send_head(self, length: int, headers: Mapping[str, str] | None, status: int) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(length), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def entry(name: str, path: Path) -> dict[str, object]:
    size = path.stat().st_size
    lfs = {"lfs": {"oid": sha256(path), "size": size, "pointerSize": 134}} if name.endswith(LFS) else {}
    return {"type": "file", "path": name, "size": size, "oid": git_sha1(path), **lfs}


@cache
def sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@cache
def git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@contextmanager
def serve(repositories: Mapping[str, Path] | None = None) -> Iterator[HubServer]:
    """Serve folders as repositories until the block ends."""
    with tempfile.TemporaryDirectory() as store:
        hub = HubServer(repositories or {}, Path(store))
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
        hub.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
            server.server_close()
