"""What the playground's server lets through: requests as its page makes them, and nothing else.

gradio's server does more than the page needs: it takes uploads, fetches addresses that stand in place of a prompt, and
keeps what it was sent.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ratlip_cli.errors import UsageError

LARGEST_BODY = 64 * 1024
"""Bytes of a request. The longest prompts that the page takes are a third of it."""
MOST_SESSIONS = 300
"""Visitors of whom gradio remembers anything; the one who came first is forgotten."""
MOST_WAITING_EACH = 4
"""Events of one visitor that wait."""
MOST_UNREAD = 100
"""Messages of the server that a visitor may leave unread."""

_JOIN = "/gradio_api/queue/join"
_ADDRESSES = {
    "GET": {"/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/gradio_api/queue/data"}
    | {f"/gradio_api/{name}" for name in ("info", "startup-events", "app_id")},
    "POST": {_JOIN, "/gradio_api/cancel", "/gradio_api/reset"},
}
"""All that the page asks for, by method, beside what lies under `_FOLDERS` and images under `_FILE`."""
_FOLDERS = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")
_FILE = "/gradio_api/file="
_LONGEST_NAME = 64  # Letters by which a page names its session; gradio's have 11.


class OnlyThePage:
    """ASGI middleware that refuses all that the page itself never sends.

    404: other addresses. 403: requests of other sites' pages, and, where only this machine is served, frames in them.
    421: where only this machine is served, requests by another name than its own, to which a stranger's site may have
    led a browser (DNS rebinding). 413: more than LARGEST_BODY. 400: an event that the page does not have, or anything
    but text and numbers for it. 503: more events of one visitor than MOST_WAITING_EACH.

    Args:
        blocks: the page (gradio.Blocks).
        folder: the only one whose files are served: gradio's, of this process, by its real path.
        host: the only name that is answered to, beside those of this machine's loopback; any one where it is None.
            In small letters, and an IPv6 address without brackets.
    """

    def __init__(self, app: Any, blocks: Any, folder: str, host: str | None) -> None:
        self.app, self.blocks, self.folder, self.host = app, blocks, folder, host
        self._joining: Counter[str] = Counter()  # Sessions of requests that gradio has not put into its queue yet.

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        session = ""
        try:
            self._check(scope)
            if scope["method"] == "POST":
                body = await _body(scope, receive)
                if scope["path"] == _JOIN:
                    body, session = self._event(body)
                receive = _again(body, receive)
        except HTTPException as refused:
            await JSONResponse({"detail": refused.detail}, refused.status_code)(scope, receive, send)
            return
        self._joining[session] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._joining -= Counter([session])  # which leaves no zeros

    def _check(self, scope: Any) -> None:
        """Raise HTTPException for an address that is not the page's, or a request that its browser never makes."""
        if scope["type"] != "http" or not self._is_of_the_page(scope):
            raise HTTPException(404, "not found")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.host is not None and _name(host) != self.host and not is_loopback(_name(host)):
            raise HTTPException(
                421, "this playground is for its own machine: `ratlip play --host 0.0.0.0` lets others in"
            )
        # The browser, not the page, says whether a page asks its own server, also where a proxy names that otherwise.
        site = headers.get("sec-fetch-site")
        foreign = origin is not None and site != "same-origin" and origin.lower().partition("://")[2] != host.lower()
        # Others may link here, but not show the page inside theirs; that of a Space is shown so.
        framed = site in ("cross-site", "same-site") and headers.get("sec-fetch-dest") != "document"
        if foreign or (framed and self.host is not None):
            raise HTTPException(403, "this playground is used by its own page alone")

    def _is_of_the_page(self, scope: Any) -> bool:
        method, address = "GET" if scope["method"] == "HEAD" else scope["method"], scope["path"]
        if method == "GET" and address.startswith(_FILE):
            file = address.removeprefix(_FILE)
            if "\0" in file or not Path(file).is_relative_to(self.folder):  # as written: gradio fetches addresses too
                return False
            return Path(os.path.realpath(file)).is_relative_to(self.folder)
        return address in _ADDRESSES.get(method, set()) or (method == "GET" and address.startswith(_FOLDERS))

    def _event(self, body: bytes) -> tuple[bytes, str]:
        """What is passed on of a request that joins the queue, and its session. Raises HTTPException."""
        try:
            sent = json.loads(body)
            events = {one["id"]: one for one in self.blocks.config["dependencies"]}
            event, data, session = events[sent["fn_index"]], sent["data"], sent["session_hash"]
            passed = {"fn_index": event["id"], "data": data, "session_hash": session, "event_data": None}
            if event["collects_event_data"]:
                passed["event_data"] = {"index": int(sent["event_data"]["index"]), "value": None}
            fits = isinstance(data, list) and len(data) == len(event["inputs"])
            fits = fits and all(value is None or isinstance(value, str | int | float) for value in data)
            if not fits or not isinstance(session, str) or not 0 < len(session) <= _LONGEST_NAME:
                raise ValueError
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise HTTPException(400, "the page does not send this") from None
        self._forget()
        queue = self.blocks._queue
        waiting = sum(one.session_hash == session for one in _waiting(queue)) + self._joining[session]
        unread = queue.pending_messages_per_session.get(session)
        if waiting >= MOST_WAITING_EACH or (unread is not None and unread.qsize() > MOST_UNREAD):
            raise HTTPException(503, "you have asked for much already; wait for that first")
        return json.dumps(passed).encode(), session

    def _forget(self) -> None:
        """Let go of what nobody has read of the sessions that came first, which gradio keeps."""
        queue = self.blocks._queue
        busy = [*_waiting(queue), *(one for job in queue.active_jobs for one in job or ())]
        told, needed = queue.pending_messages_per_session, {one.session_hash for one in busy}
        for session in [session for session in told if session not in needed][:-MOST_SESSIONS]:
            del told[session]
        for session in queue.pending_event_ids_session.keys() - told.keys():
            del queue.pending_event_ids_session[session]


def is_loopback(name: str) -> bool:
    """Whether this name or address of a machine is the machine itself; no name is looked up."""
    try:
        address = ipaddress.ip_address(name)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def serves_this_machine_alone(host: str) -> bool:
    """Whether a server on this name or address, of which there are many spellings, is for this machine alone.

    Raises UsageError where it is no name or address of this machine.
    """
    found = set()
    name = host.strip("[]") or ".."  # getaddrinfo takes an empty name for all addresses
    with contextlib.suppress(OSError, ValueError):  # ValueError: it cannot be a name
        for family, kind, _, _, address in socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM):
            with contextlib.suppress(OSError), socket.socket(family, kind) as one:
                one.bind(address)
                found.add(str(address[0]))
    if not found:
        raise UsageError(
            f"--host '{host}' is no name or address of this machine: give 127.0.0.1, or 0.0.0.0 for your network."
        )
    return all(map(is_loopback, found))


def _name(host: str) -> str:
    """The name in a Host header, without its port; empty where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _waiting(queue: Any) -> list[Any]:
    """All events that wait in gradio's queue."""
    return [one for line in queue.event_queue_per_concurrency_id.values() for one in line.queue]


async def _body(scope: Any, receive: Any) -> bytes:
    """All of a request's body. Raises HTTPException where it is too large, or breaks off."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise HTTPException(400, "the request broke off")
        body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > LARGEST_BODY:
            raise HTTPException(413, f"a request has at most {LARGEST_BODY:,} bytes")
    return body


def _again(body: bytes, receive: Any) -> Any:
    """What gives a body that was read already, and then what `receive` gives."""
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Any:
        return parts.pop() if parts else await receive()

    return received
