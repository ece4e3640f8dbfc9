"""The playground: what it generates, what it refuses, and how it looks and behaves in a real browser."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from command_line import ratlip
from explain_model import clip_of_grid, model_of_variant
from PIL import Image
from playground_client import Client

from ratlip_cli import api
from ratlip_cli.errors import RatlipError, UsageError
from ratlip_cli.explain.request import GradCamRequest
from ratlip_cli.files import scratch_folder
from ratlip_cli.generation import InterpolationRequest
from ratlip_cli.samples import Sample, interpolate
from ratlip_cli.sampling import TorchModel

gr = pytest.importorskip("gradio", reason="gradio is missing: pip install 'ratlip[play]'")

from ratlip_cli.web import playground  # noqa: E402
from ratlip_cli.web.guard import OnlyThePage, serves_this_machine_alone  # noqa: E402

pytest_plugins = ["browser"]

SPACE = Path(__file__).parents[1] / "examples" / "space"
WAIT = 60_000
"""Milliseconds that a browser waits for what must come."""


@pytest.fixture(scope="module")
def model() -> api.Model:
    return api.load_model("ratlip-demo")


@pytest.fixture(scope="module")
def play(model: api.Model) -> playground.Playground:
    return playground.Playground([model])


@pytest.fixture(scope="module")
def address(model: api.Model) -> Iterator[str]:
    """A served playground of two models."""
    with playground.served([model, api.load_model(model.folder)]) as address:
        yield address


def pixels(image: Any) -> Any:
    return np.asarray(image.convert("RGB"))


def read(file: str | Path | bytes) -> Image.Image:
    image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    image.load()
    return image


def test_between_two_prompts_lie_the_images_of_both(model: api.Model) -> None:
    ends = ("a red bird", "a yellow flower")
    of_start, of_end = (model.generate(end, 2, seed=3, truncation=0.8) for end in ends)
    for share, wanted in ((0.0, of_start), (1.0, of_end)):
        made = playground.between(model, ends, share, 2, 3, 0.8)
        for one, other in zip(made, wanted, strict=True):
            assert np.array_equal(pixels(one.image), pixels(other.image))
            assert one.clip_similarity == other.clip_similarity
    halfway = playground.between(model, ends, 0.5, 2, 3, 0.8)[0]
    assert not any(np.array_equal(pixels(halfway.image), pixels(end[0].image)) for end in (of_start, of_end))
    assert halfway.record().items() >= {"prompt": ends[0], "end": ends[1], "share": 0.5, "seed": 3}.items()


def test_between_two_prompts_words_come_and_go(tmp_path: Path) -> None:
    """An AttnGAN's prompts are their words: the slider leads as `generate --interpolate` does."""
    sizes = {"base_size": 8, "generator_channels": 4, "discriminator_channels": 2, "residual_blocks": 0}
    folder = model_of_variant(tmp_path / "model", clip_of_grid(tmp_path / "clip", grid=4), "attngan", sizes)
    words, ends = api.load_model(folder), ("a red bird", "a blue bird at sunset")
    frames = list(interpolate(TorchModel(words), InterpolationRequest(ends, 5, seed=3)))
    for number, frame in enumerate(frames):
        (made,) = playground.between(words, ends, number / 4, 1, 3, 1.0)
        assert np.array_equal(pixels(made.image), pixels(frame))


def test_truncation_is_the_familys_own_between_two_prompts(tmp_path: Path) -> None:
    """LAFITE's mapping takes noise at unit variance: scaled noise would change nothing."""
    sizes = {"channel_base": 64, "channel_max": 8, "w_dim": 8, "noise_dim": 8, "text_width": 8, "mapping_layers": 1}
    folder = model_of_variant(tmp_path / "model", clip_of_grid(tmp_path / "clip", grid=4), "lafite", sizes)
    lafite = api.load_model(folder)
    (whole,), (wanted,) = (lafite.generate("a red bird", 1, seed=3, truncation=psi) for psi in (1.0, 0.2))
    assert not np.array_equal(pixels(whole.image), pixels(wanted.image))
    (made,) = playground.between(lafite, ("a red bird", "a blue bird"), 0.0, 1, 3, 0.2)
    assert np.array_equal(pixels(made.image), pixels(wanted.image))


@pytest.mark.slow
def test_the_maps_of_words_are_those_of_gradcam(model: api.Model, tmp_path: Path) -> None:
    prompt = "a red bird with black wings"
    (file,) = model.generate(prompt).save(tmp_path)
    maps = playground.word_maps(model, read(file), prompt)
    (explained,) = api.gradcam(GradCamRequest(prompt, model, file, every_word=True, device="cpu")).explanations
    assert [one.text for one in maps] == [prompt, "red", "bird", "black", "wings"]
    for one, other in zip(maps, explained.maps, strict=True):
        assert one.score == other.score
        assert np.array_equal(one.pixels, other.pixels)


def test_saved_images_are_those_of_generate(play: playground.Playground, model: api.Model, tmp_path: Path) -> None:
    """The same pixels, the same text in the PNG, the same name."""
    wanted = model.generate("a blue bird", 2, seed=5, truncation=0.7, best_of=2)
    files = wanted.save(tmp_path)
    (shown,) = (
        [read(file) for file, _ in told[0]] for told in play.one_prompt("a blue bird", 2, "ratlip-demo", 2, 5, 0.7)
    )
    for one, file in zip(shown, files, strict=True):
        assert np.array_equal(pixels(one), pixels(read(file)))
        assert one.text == read(file).text
        assert Path(one.filename).name == file.name


def test_no_file_is_left_behind(play: playground.Playground) -> None:
    files = [file for told in play.one_prompt("a blue bird", 1, "ratlip-demo", 3, 0, 1.0) for file, _ in told[0]]
    assert len(files) == 3
    assert not any(file.exists() for file in files)


def test_what_a_killed_playground_leaves_is_removed_by_the_next_one(
    model: api.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """gradio's files lie in a folder of `files.scratch_folder`, of which the tests know that."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(playground, "page", lambda play: None)
    served: list[str] = []

    def launched(*given: Any) -> None:
        served.extend([os.environ["GRADIO_TEMP_DIR"], given[-1]])
        raise RatlipError("the port is taken")

    monkeypatch.setattr(playground, "_launched", launched)
    with pytest.raises(RatlipError, match="the port is taken"), playground.served([model]):
        pass
    with scratch_folder() as another:
        assert {Path(folder).parent for folder in served} == {another.parent}
        assert {re.sub("[0-9a-f]{8}", "", Path(folder).name) for folder in (*served, another)} == {".ratlip..partial"}
        assert list(tmp_path.iterdir()) == [another]


def test_a_model_in_this_folder_has_the_name_of_the_folder(
    model: api.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its images too."""
    (tmp_path / "birds").symlink_to(model.folder)
    (tmp_path / "mine").mkdir()
    for folder, typed, name in (
        (model.folder, ".", "model"),
        (model.folder / "clip", "..", "model"),
        (tmp_path / "mine", "../birds", "birds"),
    ):
        monkeypatch.chdir(folder)
        here = playground.Playground([api.load_model(typed)])
        assert list(here.models) == [name]
        assert here.models[name].name == name


def test_models_are_named_without_their_folders(model: api.Model, tmp_path: Path) -> None:
    (tmp_path / "birds").symlink_to(model.folder)
    named = api.load_model(tmp_path / "birds")
    names = list(playground.Playground([model, named, named]).models)
    assert names == ["ratlip-demo", "birds", f"birds ({model.fingerprint})"]
    assert str(tmp_path) not in str(next(playground.Playground([named]).one_prompt("a bird", 1, "birds", 1, 0, 1.0))[1])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (("", 1, "ratlip-demo", 1, 0, 1.0), "prompt 1 is empty"),
        ((None, 1, "ratlip-demo", 1, 0, 1.0), "prompt 1 is empty"),
        (("a" * 1001, 1, "ratlip-demo", 1, 0, 1.0), "the prompt has 1,001 letters; shorten it to at most 1,000"),
        (("a bird", 1, "../../etc", 1, 0, 1.0), "unknown model '../../etc'"),
        (("a bird", 1, None, 1, 0, 1.0), "unknown model 'None'"),
        (("a bird", 1, "ratlip-demo", 1, None, 1.0), "there is no seed"),
        (("a bird", 1, "ratlip-demo", 1, -1, 1.0), "seed is -1"),
        (("a bird", 1, "ratlip-demo", 1, 3.9, 1.0), "seed is 3.9; give a whole number, such as 3"),
        (("a bird", 1, "ratlip-demo", 1.5, 0, 1.0), "the number of images is 1.5; give a whole number"),
        (("a bird", 2.5, "ratlip-demo", 1, 0, 1.0), "best-of is 2.5; give a whole number"),
        (("a bird", 1, "ratlip-demo", 1, 0, float("nan")), "truncation is nan"),
    ],
)
def test_what_cannot_be_done_is_said(play: playground.Playground, inputs: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RatlipError, match=re.escape(message)):
        next(play.one_prompt(*inputs))


def test_other_wrong_input_is_said(play: playground.Playground) -> None:
    with pytest.raises(UsageError, match="generate one first"):
        next(play.explained(None, 0))
    with pytest.raises(UsageError, match="7 prompts; at most 6"):
        next(play.several_prompts("a bird\n\n" * 7, "ratlip-demo", 1, 0, 1.0))
    with pytest.raises(UsageError, match="no prompt"):
        next(play.several_prompts(" \n", "ratlip-demo", 1, 0, 1.0))
    with pytest.raises(UsageError, match="prompt 2 is empty"):
        next(play.two_prompts("a bird", " ", 0.5, "ratlip-demo", 1, 0, 1.0))


def test_messages_are_text_and_never_html(play: playground.Playground) -> None:
    """gradio shows messages as HTML."""
    with pytest.warns(UserWarning, match="&lt;img src=x onerror=alert") as warned:
        (shown,) = playground.told(play.one_prompt)("a bird", 1, "<img src=x onerror=alert(1)>", 1, 0, 1.0)
    assert shown == gr.skip()
    assert not any("<" in str(one.message) for one in warned)
    *_, note = next(play.two_prompts("a <script>bird</script>", "<b>flower</b>", 0.5, "ratlip-demo", 1, 0, 1.0))
    assert "<script" not in note
    assert "script" in note


def test_words_that_a_model_does_not_know_are_named(play: playground.Playground) -> None:
    _, note, *_ = next(play.one_prompt("a house in the sea", 1, "ratlip-demo", 1, 0, 1.0))
    assert "ratlip-demo knows neither &#x27;house&#x27; nor &#x27;sea&#x27;" in note
    _, known, *_ = next(play.one_prompt("a red bird", 1, "ratlip-demo", 1, 0, 1.0))
    assert "know" not in known


def secrets(folder: Path) -> list[str]:
    """Addresses at which a careless server would show a file of ours."""
    file = folder / "secret.txt"
    inside = str(file).lstrip("/")
    up = "../" * 12
    return [
        *(f"{way}{file}" for way in ("gradio_api/file=", "file=", "gradio_api/file/", "file/")),
        f"gradio_api/file={up}{inside}",
        f"gradio_api/file={quote(up, safe='')}{quote(inside, safe='')}",
        f"gradio_api/file={quote(quote(up, safe=''), safe='')}{inside}",
        f"gradio_api/file=file://{file}",
        f"gradio_api/file={tempfile_of_gradio()}/{up}{inside}",
        *(f"gradio_api/file=http://127.0.0.1:9/x{end}/{up}{tempfile_of_gradio()[1:]}/x.png" for end in ("", "%23")),
        "gradio_api/file=%00",
        "gradio_api/file=",
        f"static/{up}{inside}",
        f"assets/{up}{inside}",
        f"static/{quote(up, safe='')}{inside}",
        f"svelte/{quote(up, safe='')}{inside}",
        f"gradio_api/proxy=file://{file}",
        f"gradio_api/custom_component/x/client/component/{quote(up, safe='')}{inside}",
        f"gradio_api/stream/x/0/0/{quote(up, safe='')}{inside}",
    ]


def tempfile_of_gradio() -> str:
    return os.environ["GRADIO_TEMP_DIR"]


def guarded(folder: Path, path: str, host: str | None = "127.0.0.1", **headers: str) -> int:
    """The status of the guard's answer to a GET of this path, not quoted; 200 where it lets it through to gradio."""
    statuses: list[int] = []

    async def gradio(scope: Any, receive: Any, send: Any) -> None:
        statuses.append(200)

    async def send(message: dict[str, Any]) -> None:
        statuses.append(message.get("status", 0))

    given = {"host": "127.0.0.1:7860", **headers}
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()]
    scope = {"type": "http", "method": "GET", "path": path, "headers": named}
    asyncio.run(OnlyThePage(gradio, None, str(folder), host)(scope, None, send))
    return statuses[0]


@pytest.mark.parametrize(
    "base", ["http://example.com/x", "https://example.com/x#", "HTTP://x", "ftp://x", "x", "//x", ""]
)
def test_no_address_that_leads_into_the_folder_is_fetched(base: str, tmp_path: Path) -> None:
    """gradio fetches what begins as an address does; `#` and `..` end it where a stranger wants."""
    inside = tmp_path / "h" / "x.png"
    assert guarded(tmp_path, f"/gradio_api/file={inside}") == 200
    for way in (f"{base}/{'../' * 12}{str(inside)[1:]}", f"{base}{inside}", f"{inside}/../../../secret"):
        assert guarded(tmp_path, f"/gradio_api/file={way}") == (200 if way == str(inside) else 404), way


@pytest.mark.parametrize(
    ("site", "dest", "here", "everywhere"),
    [
        ("cross-site", "iframe", 403, 200),  # as a Space is shown
        ("same-site", "iframe", 403, 200),
        ("cross-site", "image", 403, 200),
        ("same-site", "empty", 403, 200),
        ("cross-site", "document", 200, 200),
        ("same-origin", "iframe", 200, 200),
        ("none", "document", 200, 200),
    ],
)
def test_no_other_site_shows_the_page_of_this_machine(
    site: str, dest: str, here: int, everywhere: int, tmp_path: Path
) -> None:
    """Each frame would be a visitor more, whose page generates images at once. Browsers send no Origin with a GET."""
    for host, status in (("127.0.0.1", here), (None, everywhere)):
        assert guarded(tmp_path, "/", host, sec_fetch_site=site, sec_fetch_dest=dest) == status


def test_no_link_leads_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "link").symlink_to(tmp_path)
    assert guarded(tmp_path / "made", f"/gradio_api/file={tmp_path}/made/link/secret") == 404


@pytest.mark.slow
def test_no_file_can_be_reached(address: str, tmp_path: Path) -> None:
    """Neither a file beside, nor this module, nor one of the package."""
    (tmp_path / "secret.txt").write_text("the secret of this machine", encoding="utf-8")
    client = Client(address)
    for path in [*secrets(tmp_path), f"gradio_api/file={__file__}", "gradio_api/file=pyproject.toml"]:
        reply = client.asked(path)
        assert reply.status in (400, 403, 404, 405), path
        assert "secret of this machine" not in reply.body
        assert "Traceback" not in reply.body


@pytest.mark.slow
def test_only_the_page_is_served(address: str) -> None:
    """No uploads, no fetching of other addresses, no API beside the queue, no statistics, no documentation."""
    client, content = Client(address), b"{}"
    for path in ("upload", "run/one_prompt", "call/one_prompt", "api/one_prompt", "component_server", "stream/x"):
        assert client.asked(f"gradio_api/{path}", content).status == 404, path
    upload = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
    assert client.asked("gradio_api/upload", upload, "multipart/form-data; boundary=x").status == 404
    for path in (
        "monitoring",
        "docs",
        "openapi.json",
        "gradio_api/deep_link",
        "gradio_api/runs",
        "gradio_api/openapi.json",
    ):
        assert client.asked(path).status == 404, path
    for way in ("file=", "proxy="):
        assert client.asked(f"gradio_api/{way}http://127.0.0.1:9/").status == 404
    assert client.asked("config").status == 200
    for path in ("login", "config", "gradio_api/vibe-edit"):
        assert client.asked(path, content).status == 404, path


def file_data(path: str) -> dict[str, Any]:
    """What makes gradio fetch a file or an address in place of a value."""
    return {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}


@pytest.mark.slow
def test_what_a_browser_would_never_send(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Models that are paths, numbers out of range, values of other kinds: a message, no traceback, and it goes on."""
    client = Client(address)
    right: list[Any] = ["a red bird", 1, "ratlip-demo", 1, 0, 1]
    for place, value in (
        (2, "../../../etc/passwd"),
        (2, str(Path(__file__).parents[1])),
        (2, "owner/name"),
        (2, ["ratlip-demo"]),
        (2, None),
        (3, 10**6),
        (3, -1),
        (3, None),
        (1, 10**6),
        (1, None),
        (1, "8"),
        (4, 10**30),
        (4, 1e30),
        (4, float("nan")),
        (5, 1e9),
        (5, None),
        (5, float("nan")),
        (3, "many"),
        (4, "' OR 1=1"),
        (0, 5),
        (0, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}),
        (0, file_data("http://example.com/evil.html")),
        (0, [file_data("http://example.com/evil.html")]),
        (0, {"value": [{"image": file_data("http://example.com/evil.html")}]}),
        (3, file_data("http://example.com/evil.html")),
    ):
        answer = client.done("one_prompt", *right[:place], value, *right[place + 1 :])
        assert not answer["success"] or "unknown model" in answer["body"], value
        assert "Traceback" not in answer["body"]
        assert "site-packages" not in answer["body"]
        if isinstance(value, dict | list):
            assert answer["status"] == 400, value
    for data in ({}, ["a bird"], [*right, 1], "a bird", None):
        assert client.join("visitor", client.number("one_prompt"), **{"data": data}).status == 400, data
    for wrong in ({"fn_index": 999}, {"fn_index": [1]}, {"session_hash": None}, {"session_hash": "x" * 1000}):
        assert client.join("visitor", client.number("one_prompt"), *right, **wrong).status == 400, wrong
    for body in (b"", b"{", b"[]", b"null", b"[" * 60_000, b'{"data":' + b"1" * 5000 + b"}", b"\xff\xfe"):
        assert client.asked("gradio_api/queue/join", body).status == 400, body[:20]
    for share in (float("nan"), 2, None, "0.5"):
        assert not client.done("two_prompts", "a bird", "a rose", share, "ratlip-demo", 1, 0, 1)["success"]
    for number in (-1, 99, None, "0"):
        assert not client.done("tried", number)["success"]
    for chosen in ({}, {"event_data": None}, {"event_data": {"value": "x"}}, {"event_data": {"index": "many"}}):
        assert client.join("visitor", client.number("chosen"), **chosen).status == 400
    assert client.done("chosen", event_data={"index": 3, "value": file_data("http://example.com/")})["success"]
    assert not client.done("one_prompt", "a bird")["success"]
    answer = client.done("one_prompt", "a\ud800b", *right[1:])
    assert not answer["success"] or "is not UTF-8 text" in answer["body"]
    assert client.done("one_prompt", *right)["success"]
    told = capfd.readouterr()
    assert "Traceback" not in told.err + told.out


@pytest.mark.slow
def test_large_requests_are_refused(address: str) -> None:
    """By the bytes that come, whatever their header says."""
    client, large = Client(address), b"{" + b" " * 70_000 + b"}"
    for path in ("queue/join", "cancel", "reset"):
        assert client.asked(f"gradio_api/{path}", large).status == 413
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.request("POST", "/gradio_api/queue/join", iter([b" " * 40_000] * 2), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    data = ["\n".join(["\N{BIRD}" * 1000] * 6), "ratlip-demo", 1, 0, 1]  # the longest, as a browser writes it
    body = {"data": data, "fn_index": client.number("several_prompts"), "session_hash": "visitor"}
    assert client.asked("gradio_api/queue/join", json.dumps(body, ensure_ascii=False).encode()).status == 200


@pytest.mark.slow
def test_one_visitor_does_not_fill_the_queue(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    go, made = threading.Event(), playground.generate
    monkeypatch.setattr(playground, "generate", lambda *given, **more: (go.wait(300), made(*given, **more))[1])
    client = Client(address)
    number, asked = client.number("one_prompt"), ("a red bird", 8, "ratlip-demo", 16, 0, 1)
    statuses: list[int] = []
    greedy = [
        threading.Thread(target=lambda: statuses.append(client.join("greedy", number, *asked).status))
        for _ in range(30)
    ]
    try:
        for one in greedy:
            one.start()
        for one in greedy:
            one.join(60)
    finally:
        go.set()
    assert set(statuses) == {200, 503}
    assert statuses.count(200) <= 5  # one at work, and four that wait
    assert client.done("one_prompt", "a red bird", 1, "ratlip-demo", 1, 0, 1)["success"]


@pytest.mark.slow
def test_what_was_sent_is_not_kept(model: api.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of visitors who send much and never listen, under ever new names."""
    pages: list[Any] = []
    made = playground.page
    monkeypatch.setattr(playground, "page", lambda play: pages.append(made(play)) or pages[0])
    monkeypatch.setattr("ratlip_cli.web.guard.MOST_SESSIONS", 5)
    monkeypatch.setattr("ratlip_cli.web.playground.MOST_SESSIONS", 5)
    with playground.served([model]) as address:
        client = Client(address)
        number = client.number("one_prompt")
        for visitor in range(40):
            assert client.join(f"v{visitor}", number, "x" * 60_000, 1, "ratlip-demo", 1, 0, 1).status in (200, 503)
            time.sleep(0.03)
        assert client.done("one_prompt", "a red bird", 1, "ratlip-demo", 1, 0, 1)["success"]
        queue = pages[0]._queue
        assert len(queue.event_ids_to_events) < 10
        assert len(queue.pending_messages_per_session) < 10
        assert len(queue.pending_event_ids_session) < 10
        assert len(pages[0].server_app.state_holder.session_data) <= 6


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "127.1"])
def test_a_host_that_is_this_machine_alone_in_any_spelling(host: str) -> None:
    assert serves_this_machine_alone(host)
    assert not serves_this_machine_alone("0.0.0.0")


@pytest.mark.parametrize("host", ["", "no..name", "203.0.113.5"])
def test_a_host_that_is_none_is_told_before_a_model_is_loaded(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """203.0.113.5 is nobody's address (RFC 5737)."""
    monkeypatch.setattr("ratlip_cli.weights.load.load_model", None)
    answer = ratlip("play", "--host", host)
    told = f"error: --host '{host}' is no name or address of this machine: give 127.0.0.1, or 0.0.0.0"
    assert (answer.code, answer.err.count("\n"), told in answer.err) == (2, 1, True), answer.err


@pytest.mark.slow
def test_only_its_own_page_on_its_own_machine(address: str, model: api.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's page is named by the browser (Origin), and so is what leads here by DNS rebinding (Host)."""
    netloc = urlsplit(address).netloc
    port = netloc.split(":")[1]

    def joined(at: str, **headers: str) -> int:
        client = Client(at)
        body = {"data": ["a bird", 1, "ratlip-demo", 1, 0, 1], "fn_index": client.number("one_prompt")}
        sent = json.dumps({**body, "session_hash": uuid.uuid4().hex}).encode()
        return client.asked("gradio_api/queue/join", sent, **headers).status

    for headers, status in (
        ({}, 200),
        ({"Origin": f"http://{netloc}"}, 200),
        ({"Origin": f"http://localhost:{port}", "Host": f"localhost:{port}"}, 200),
        ({"Origin": "http://[::1]", "Host": "[::1]"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"http://127.0.0.1.evil.example:{port}"}, 403),
        ({"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://evil.example", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://evil.example", "X-Forwarded-Host": "evil.example"}, 403),
        ({"Origin": f"http://evil.example:{port}", "Host": f"evil.example:{port}"}, 421),
        ({"Host": "localhost.evil.example", "Sec-Fetch-Site": "same-origin"}, 421),
        ({"Host": "["}, 421),
        ({"Host": ""}, 421),
        # A proxy on this machine that names the server by its own address, as those of editors do.
        ({"Origin": "https://tunnel.example", "Sec-Fetch-Site": "same-origin"}, 200),
    ):
        assert joined(address, **headers) == status, headers
    assert Client(address).asked("", Host="evil.example").status == 421
    assert Client(address).asked("config", Origin="http://evil.example").status == 403
    named = {"Host": "abc.gradio.live", "Origin": "https://abc.gradio.live"}
    foreign = {"Host": "abc.gradio.live", "Origin": "https://evil.example"}
    # A public address leads to the port here under its own name: `--share`, of which only the tunnel is not there.
    ports: list[int] = []
    monkeypatch.setattr(
        "gradio.networking.setup_tunnel",
        lambda local_port, **given: ports.append(local_port) or "https://abc.gradio.live",
    )
    with playground.served([model], host="LOCALHOST") as spelled:
        assert Client(spelled).asked("", Host="evil.example").status == 421
        assert Client(spelled).asked("").status == 200
    with playground.served([model], share=True) as public:
        assert public.rstrip("/") == "https://abc.gradio.live"
        assert joined(f"http://127.0.0.1:{ports[0]}/", **named) == 200
        assert joined(f"http://127.0.0.1:{ports[0]}/", **foreign) == 403
    # In a network, and in a Space, whose proxy hands on Host, or names the server otherwise.
    with playground.served([model], host="0.0.0.0") as everywhere:
        here = f"http://127.0.0.1:{urlsplit(everywhere).port}/"
        space = {"Origin": "https://owner-name.hf.space"}
        assert joined(here, **space, Host="owner-name.hf.space") == 200
        assert joined(here, **space, Host="10.1.2.3:7860", Sec_Fetch_Site="same-origin") == 200
        assert joined(here, Origin="http://evil.example", Host="192.168.1.5:7860") == 403
        assert (
            joined(here, Origin="https://evil.example", Host="owner-name.hf.space", Sec_Fetch_Site="cross-site") == 403
        )


@pytest.mark.slow
def test_an_image_of_a_visitor_has_its_record(address: str, model: api.Model) -> None:
    answer = Client(address).done("one_prompt", "a red bird", 1, "ratlip-demo", 1, 4, 1)
    (image,) = answer["output"]["data"][0]
    name, path = image["image"]["orig_name"], image["image"]["path"]
    assert name == "0000_a-red-bird_0.png"
    assert Client(address).asked(f"gradio_api/file={quote(path)}").status == 200
    (wanted,) = model.generate("a red bird", seed=4)
    assert read(path).text == {key: str(value) for key, value in wanted.record().items()}
    assert np.array_equal(pixels(read(path)), pixels(wanted.image))


@pytest.mark.slow
def test_a_port_that_is_taken_is_named(model: api.Model) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RatlipError, match=f"port {port} is taken"), playground.served([model], port=port):
            pass


# In a browser.


def open_page(visit: Callable[..., Any], address: str, width: int = 1280) -> Any:
    """The page, once the images that it starts with are there."""
    opened = visit(address, width)
    opened.page.wait_for_function("document.querySelectorAll('.ratlip-images button img').length == 8", timeout=WAIT)
    return opened


def open_tab(page: Any, name: str) -> None:
    """Show a tab, once the text is there that its box begins with: what is typed before, that would overwrite."""
    page.get_by_role("tab", name=name).click()
    box = page.get_by_role("tabpanel").locator("visible=true").locator("textarea, input[type=text]").first
    deadline = time.monotonic() + WAIT / 1000
    while not box.input_value(timeout=WAIT):
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)


def generate(page: Any, prompt: str) -> None:
    page.get_by_label("Prompt", exact=True).locator("visible=true").fill(prompt)
    page.get_by_role("button", name="Generate").locator("visible=true").click()


def sources(page: Any) -> list[str]:
    """Addresses of the images that are shown."""
    found: list[str] = (
        page.locator(".ratlip-images button img")
        .locator("visible=true")
        .evaluate_all("images => images.map(image => image.src)")
    )
    return found


def changed(page: Any, before: list[str]) -> list[str]:
    """The images once they are others than before, all loaded."""
    deadline = time.monotonic() + WAIT / 1000
    while (now := sources(page)) == before or not now:
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)
    return now


def fetched(page: Any, source: str) -> Image.Image:
    return read(page.request.get(source).body())


def same(image: Image.Image, sample: Sample) -> bool:
    return np.array_equal(pixels(image), pixels(sample.image))


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_type_a_prompt_and_see_eight_images(
    address: str, visit: Callable[..., Any], model: api.Model, width: int
) -> None:
    opened = open_page(visit, address, width)
    page, before = opened.page, sources(opened.page)
    generate(page, "a red bird with black wings")
    shown = changed(page, before)
    wanted = model.generate("a red bird with black wings", 8)
    assert all(same(fetched(page, one), other) for one, other in zip(shown, wanted, strict=True))
    assert opened.too_wide == 0
    assert opened.errors == []
    hosts = {urlsplit(request).netloc for request in opened.requests if request.startswith("http")}
    assert hosts == {urlsplit(address).netloc}
    page.locator(".ratlip-images button img").nth(2).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).locator("visible=true").first.click()
    assert download.value.suggested_filename == "0000_a-red-bird-with-black-wings_2.png"
    saved = read(download.value.path())
    assert same(saved, wanted[2])
    assert saved.text == {key: str(value) for key, value in wanted[2].record().items()}


@pytest.mark.slow
def test_try_a_prompt_that_is_offered(
    address: str, visit: Callable[..., Any], model: api.Model, play: playground.Playground
) -> None:
    opened = open_page(visit, address)
    before = sources(opened.page)
    opened.page.locator(".gallery-item").nth(1).click()
    shown = changed(opened.page, before)
    wanted = model.generate(play.prompts[1], 8)
    assert all(same(fetched(opened.page, one), other) for one, other in zip(shown, wanted, strict=True))
    assert opened.page.get_by_label("Prompt", exact=True).input_value() == play.prompts[1]
    assert opened.errors == []


@pytest.mark.slow
def test_the_words_of_the_chosen_image(address: str, visit: Callable[..., Any]) -> None:
    page = open_page(visit, address).page
    before = sources(page)
    generate(page, "a red bird with black wings")
    changed(page, before)
    page.locator(".ratlip-images button img").nth(5).click()
    told, deadline = page.get_by_text("Image 5, by Grad-CAM"), time.monotonic() + WAIT / 1000
    while not told.is_visible():  # the choice may come to the server after the button
        assert time.monotonic() < deadline
        page.get_by_role("button", name="show each word").click()
        page.wait_for_timeout(3000)
    labels = page.locator(".ratlip-images .caption-label").locator("visible=true").all_inner_texts()
    words = [label.rsplit(" ", 1)[0] for label in labels]
    assert words[-5:] == ["whole prompt", "red", "bird", "black", "wings"]


@pytest.mark.slow
def test_move_the_slider(address: str, visit: Callable[..., Any], model: api.Model) -> None:
    page = open_page(visit, address).page
    open_tab(page, "Between")
    page.get_by_label("From", exact=True).fill("a red bird")
    page.get_by_label("To", exact=True).fill("a yellow flower")
    page.get_by_role("button", name="Generate").locator("visible=true").click()
    shown = changed(page, [])
    slider = page.get_by_role("slider", name="Share of the second prompt")
    slider.focus()
    slider.press("End")
    at_end = changed(page, shown)
    assert all(same(fetched(page, a), b) for a, b in zip(at_end, model.generate("a yellow flower", 8), strict=True))
    slider.press("ArrowLeft")
    near = fetched(page, changed(page, at_end)[0])
    assert not same(near, model.generate("a yellow flower")[0])
    assert near.text["end"] == "a yellow flower"
    assert float(near.text["share"]) == pytest.approx(0.98)


@pytest.mark.slow
def test_the_same_noise_under_several_prompts(address: str, visit: Callable[..., Any], model: api.Model) -> None:
    page = open_page(visit, address).page
    open_tab(page, "Same noise")
    prompts = ["a green bird with red wings", "a black flower"]
    first, deadline = page.locator(".ratlip-row", has_text=prompts[0]), time.monotonic() + WAIT / 1000
    while not first.is_visible():  # what is typed while gradio still builds a tab may be overwritten
        assert time.monotonic() < deadline
        page.get_by_label("Prompts, one a line").fill("\n".join(prompts))
        page.get_by_role("button", name="Generate").locator("visible=true").click()
        page.wait_for_timeout(5000)
    page.locator(".ratlip-row", has_text=prompts[1]).wait_for(timeout=WAIT)
    images = page.locator(".ratlip-row button img").locator("visible=true")
    page.wait_for_function("document.querySelectorAll('.ratlip-row button img').length == 16", timeout=WAIT)
    wanted = model.generate(prompts, 8)
    shown = [fetched(page, source) for source in images.evaluate_all("all => all.map(image => image.src)")]
    assert [same(one, other) for one, other in zip(shown, wanted, strict=True)] == [True] * 16


@pytest.mark.slow
def test_two_models_side_by_side(address: str, visit: Callable[..., Any]) -> None:
    page = open_page(visit, address).page
    open_tab(page, "Compare")
    generate(page, "a red bird")
    page.get_by_text("16 images in").wait_for(timeout=WAIT)
    assert len(sources(page)) == 16
    assert page.get_by_text("by ratlip-demo (").last.inner_text().count("and model (") == 1


@pytest.mark.slow
def test_hostile_prompts(address: str, visit: Callable[..., Any]) -> None:
    opened = open_page(visit, address)
    page = opened.page
    for prompt, told in (
        ("", "prompt 1 is empty"),
        ("   ", "prompt 1 is empty"),
        ("a bird " * 1500, "shorten it to at most 1,000"),
    ):
        generate(page, prompt)
        message = page.get_by_text(told).last
        message.wait_for(timeout=WAIT)
        page.get_by_test_id("toast-close").last.click()
        message.wait_for(state="detached", timeout=WAIT)
    for prompt, told in (
        (
            '<img src=x onerror="window.hacked=1"> a bird',
            "knows none of 'img', 'src', 'x', 'onerror', 'window', 'hacked'",
        ),
        ("<script>window.hacked=1</script>", "'script'"),
        ("a 🐦 {{7*7}} ${window.hacked=1} %s bird", "'window', 'hacked'"),
        ("a house in the sea", "ratlip-demo knows neither 'house' nor 'sea'"),
        ("ein roter Vogel; DROP TABLE images", "'vogel'"),
    ):
        before = sources(page)
        generate(page, prompt)
        page.get_by_text(told).wait_for(timeout=WAIT)
        assert len(changed(page, before)) == 8
    assert page.evaluate("window.hacked") is None
    assert opened.errors == []


@pytest.mark.slow
def test_two_visitors_at_once(address: str, visit: Callable[..., Any], model: api.Model) -> None:
    """Both wait in one queue, and each gets what it asked for."""
    prompts = ("a red bird", "a yellow flower")
    pages = [open_page(visit, address).page for _ in prompts]
    before = [sources(page) for page in pages]
    for page, prompt in zip(pages, prompts, strict=True):
        generate(page, prompt)
    for page, prompt, earlier in zip(pages, prompts, before, strict=True):
        shown = changed(page, earlier)
        assert all(same(fetched(page, a), b) for a, b in zip(shown, model.generate(prompt, 8), strict=True))


@pytest.mark.slow
def test_many_visitors_wait_in_one_queue(address: str) -> None:
    answers: list[dict[str, Any]] = []
    visitors = [
        threading.Thread(
            target=lambda seed: answers.append(
                Client(address).done("one_prompt", "a red bird", 1, "ratlip-demo", 4, seed, 1)
            ),
            args=[seed],
        )
        for seed in range(12)
    ]
    for one in visitors:
        one.start()
    for one in visitors:
        one.join(120)
    assert [answer["success"] for answer in answers] == [True] * 12


# As a program.


def started(command: list[str], cwd: Path, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """A server in a process of its own, and its address."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.mark.slow
def test_ctrl_c_ends_with_one_line_and_frees_the_port(visit: Callable[..., Any], tmp_path: Path) -> None:
    """While a page is open. A proxy in the environment is not asked."""
    command = [sys.executable, "-m", "ratlip_cli", "play", "--model", "ratlip-demo", "--quiet"]
    process, address = started(command, tmp_path, HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9")
    try:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        open_page(visit, address)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert (out, process.returncode) == ("", 130)
    assert err.splitlines() == ["error: interrupted. The playground has ended."]
    with socket.create_server(("127.0.0.1", int(urlsplit(address).port or 0))):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_model_that_is_missing_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ratlip_cli", "play", "--model", "runs/nowhere"]
    answer = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (answer.returncode, answer.stdout) == (2, "")
    assert re.fullmatch(r"error: unknown model 'runs/nowhere'.*\n", answer.stderr)


@pytest.mark.slow
def test_the_space_is_the_same_playground(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, str(SPACE / "app.py")]
    process, address = started(command, tmp_path, SYSTEM="spaces", SPACE_ID="owner/name", GRADIO_SERVER_PORT=port)
    try:
        assert Client(address).done("one_prompt", "a red bird", 1, "ratlip-demo", 1, 0, 1)["success"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)
