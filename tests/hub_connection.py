"""The real huggingface_hub client, pointed at a server on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
from hub_server import HubServer

Connect = Callable[..., None]
"""connect(hub, token=None, cache="cache", xet=False)"""


def connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Connect:
    """A function that points the client, which reads its environment when it is imported, at a server and a cache."""

    def connect(hub: HubServer, token: str | None = None, cache: str = "cache", xet: bool = False) -> None:
        settings = {
            "ENDPOINT": hub.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / cache),
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
            "HF_HUB_DISABLE_XET": not xet,
        }
        for name, value in settings.items():
            for module in (huggingface_hub.constants, huggingface_hub.file_download):  # where its versions keep them
                monkeypatch.setattr(module, name, value, raising=False)
        monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
        if token is None:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        else:
            monkeypatch.setenv("HF_TOKEN", token)

    return connect
