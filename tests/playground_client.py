"""Speaking to the playground over HTTP, as its page does and as nobody should."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the server said."""

    status: int
    body: str


@dataclass(frozen=True)
class Client:
    """A visitor without a browser."""

    address: str  # With a slash at its end.

    def asked(self, path: str, content: bytes | None = None, kind: str = "application/json", **headers: str) -> Reply:
        """The reply to a path as it stands: to GET, or to POST where there is content."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.address + path, content, {"Content-Type": kind, **given})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Reply(answer.status, answer.read().decode(errors="replace"))
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.read().decode(errors="replace"))

    def number(self, event: str) -> int:
        """The number of an event of the page, by its name."""
        config = json.loads(self.asked("config").body)
        return next(int(one["id"]) for one in config["dependencies"] if one["api_name"] == event)

    def join(self, visitor: str, number: int, *inputs: Any, **more: Any) -> Reply:
        """The reply to an event that joins the queue."""
        body = {"data": inputs, "fn_index": number, "session_hash": visitor, **more}
        return self.asked("gradio_api/queue/join", json.dumps(body).encode())

    def done(self, event: str, *inputs: Any, **more: Any) -> dict[str, Any]:
        """What an event of the page, by its name, comes to through the queue: its last message."""
        visitor = uuid.uuid4().hex
        joined = self.join(visitor, self.number(event), *inputs, **more)
        if joined.status != 200:
            return {"success": False, "status": joined.status, "body": joined.body}
        told = ""
        with urllib.request.urlopen(
            f"{self.address}gradio_api/queue/data?session_hash={visitor}", timeout=120
        ) as lines:
            for line in lines:
                told += line.decode()
                if line.startswith(b"data:"):
                    message: dict[str, Any] = json.loads(line[5:])
                    if message["msg"] == "process_completed":
                        return {**message, "body": told}
        raise AssertionError(f"the queue said nothing of {event}: {told}")
