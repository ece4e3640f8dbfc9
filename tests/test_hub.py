"""Models by name, through the real huggingface_hub client from a server on this machine."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
from hub_connection import Connect
from hub_server import COMMIT, READ_TOKEN, WRITE_TOKEN, Fault, serve

from ratlip_cli.errors import UsageError, WeightsError
from ratlip_cli.weights import hub
from ratlip_cli.weights.hub import download, pinned_name, push
from ratlip_cli.weights.model_folder import files_of

WEIGHTS = bytes(range(256)) * 1000


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "clip").mkdir(parents=True)
    (folder / "config.json").write_text('{"library": "ratlip"}')
    (folder / "generator.safetensors").write_bytes(WEIGHTS)
    (folder / "clip" / "open_clip_config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "train.py").write_text("raise SystemExit('code from the Hub was run')")
    (folder / "old.pth").write_bytes(b"a pickle")
    (folder / "other.safetensors").write_bytes(b"somebody else's gigabytes")
    return folder


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_pull_then_cache(repository: Path, connect: Connect) -> None:
    with serve({"someone/birds": repository}) as hub:
        connect(hub)
        folder = download("someone/birds")
        assert names(folder) == {"config.json", "generator.safetensors", "clip/open_clip_config.json"}
        assert (folder / "generator.safetensors").read_bytes() == WEIGHTS
        assert pinned_name("someone/birds", folder) == f"someone/birds@{COMMIT}"
        assert any("/cdn/" in request for request in hub.requests)  # by the redirect
        downloads = hub.downloads()
        assert download(f"someone/birds@{COMMIT}") == download("someone/birds@main") == folder
        assert hub.downloads() == downloads


def test_offline_takes_the_cache_or_says_go_online(
    repository: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve({"someone/birds": repository}) as hub:
        connect(hub)
        folder = download("someone/birds")
        requests = list(hub.requests)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        assert download("someone/birds") == folder
        with pytest.raises(WeightsError, match=r"HF_HUB_OFFLINE is set. Go online"):
            download("someone/fish")
        assert hub.requests == requests


PARTS = {
    "config.json": '{"library": "ratlip", "clip": "clip", "text_encoder": "3f9a"}',
    "clip/open_clip_model.safetensors": "weights",
    "text_encoder.safetensors": "others",
    "vocabulary.json": "[]",
}


@pytest.mark.parametrize("is_linked", [True, False])
@pytest.mark.parametrize("part", ["generator.safetensors", "clip/open_clip_config.json", *PARTS])
def test_half_a_model_in_the_cache_is_told(
    part: str, is_linked: bool, repository: Path, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was not downloaded yet, or a link of the cache to a content that somebody has removed."""
    for name, content in PARTS.items():
        (repository / name).write_text(content)
    with serve({"someone/birds": repository}) as hub:
        connect(hub)
        made = download("someone/birds")
        # Without the listing by which late clients know what is missing.
        shutil.copytree(tmp_path / "cache", tmp_path / "early", symlinks=True, ignore=shutil.ignore_patterns("trees"))
        connect(hub, cache="early")
        file = tmp_path / "early" / made.relative_to(tmp_path / "cache") / part
        (file.resolve() if is_linked else file).unlink()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        told = f"only a part of someone/birds is in the cache, without {part}: go online"
        with pytest.raises(WeightsError, match=re.escape(told)) as caught:
            download("someone/birds")
        assert "\n" not in str(caught.value)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        assert (download("someone/birds") / part).is_file()


def test_a_cached_model_serves_while_the_hub_is_down(repository: Path, connect: Connect) -> None:
    with serve({"someone/birds": repository}) as hub:
        connect(hub)
        folder = download("someone/birds")
        hub.faults.append(Fault("GET /api", status=503, times=100))
        assert download("someone/birds") == folder
    assert download("someone/birds") == folder  # nobody listens any more


def test_revisions(repository: Path, connect: Connect) -> None:
    with serve({"someone/birds": repository}) as hub:
        connect(hub)
        found = hub.repositories["someone/birds"]
        newer = repository.parent / "newer"
        newer.write_text('{"library": "ratlip", "newer": true}')
        found.commits["b" * 40] = found.commits[COMMIT] | {"config.json": newer}
        found.branches["v2"] = "b" * 40
        assert "newer" in (download("someone/birds@v2") / "config.json").read_text()
        assert "newer" not in (download("someone/birds") / "config.json").read_text()
        assert pinned_name("someone/birds@v2", download("someone/birds@v2")) == f"someone/birds@{'b' * 40}"
        found.branches["main"] = "b" * 40
        assert "newer" in (download("someone/birds") / "config.json").read_text()


def test_a_connection_cut_in_the_middle_is_resumed(
    repository: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    with serve({"someone/birds": repository}) as hub:
        connect(hub)
        hub.faults.append(Fault("GET /cdn", cut_after=100_000))
        folder = download("someone/birds")
        assert (folder / "generator.safetensors").read_bytes() == WEIGHTS
        assert [request.split()[2:] for request in hub.requests if "GET /cdn" in request] == [[], ["bytes=100000-"]]


def test_a_connection_that_is_always_cut_leaves_nothing_in_use(
    repository: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serve({"someone/birds": repository}) as hub:
        connect(hub)
        hub.faults.append(Fault("GET /cdn", cut_after=0, times=100))
        with pytest.raises(WeightsError, match=r"could not be downloaded.*try again: what is complete is kept"):
            download("someone/birds")
        hub.faults.clear()
        small = [request for request in hub.downloads() if "resolve" in request and "safetensors" not in request]
        folder = download("someone/birds")
        assert (folder / "generator.safetensors").read_bytes() == WEIGHTS
        again = [request for request in hub.downloads() if "resolve" in request and "safetensors" not in request]
        assert again == small  # what was complete is not downloaded again


@pytest.mark.parametrize("pattern", ["GET /cdn", "GET .*config.json"])
def test_a_file_that_does_not_match_its_hash_is_removed(repository: Path, connect: Connect, pattern: str) -> None:
    with serve({"someone/birds": repository}) as hub:
        connect(hub)
        hub.faults.append(Fault(pattern, corrupt=True))
        with pytest.raises(WeightsError, match=r"does not match its hash.*was removed: download it again"):
            download("someone/birds")
        assert (download("someone/birds") / "generator.safetensors").read_bytes() == WEIGHTS


def test_a_file_that_the_disk_damaged_is_removed(repository: Path, connect: Connect) -> None:
    with serve({"someone/birds": repository}) as hub:
        connect(hub)
        folder = download("someone/birds")
        (folder / "generator.safetensors").resolve().write_bytes(WEIGHTS[:-1] + b"\0")
        with pytest.raises(WeightsError, match=r"generator.safetensors of someone/birds does not match its hash"):
            download("someone/birds")
        assert (download("someone/birds") / "generator.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("name", "token", "fault", "words"),
    [
        ("someone/fish", None, None, "neither a folder here nor a repository.*for a private one run `hf auth login`"),
        ("someone/fish", READ_TOKEN, None, "neither a folder here nor a repository"),
        ("someone/private", None, None, "for a private one run `hf auth login`"),
        ("someone/gated", READ_TOKEN, None, "ask for access on its page"),
        ("someone/birds", "hf_expired", None, "does not know who you are. Log in"),
        ("someone/birds@v9", None, None, "has no revision 'v9'"),
        ("some..one/birds", None, None, "use owner/name or owner/name@revision"),
        ("someone/birds", READ_TOKEN, Fault("GET /api", status=403, times=9), "Ask the owner for access"),
        ("someone/birds", None, Fault("GET /api", status=404, times=9), "Check the name, or pick another one"),
        ("someone/birds", None, Fault("GET /api", status=429, times=99), "too many requests.*Wait a few minutes"),
        ("someone/birds", None, Fault("GET /api", status=500, times=99), "out of order .status 500.. Try again later"),
        ("someone/birds", None, Fault("GET /cdn", status=503, times=99), "out of order .status 503.. Try again later"),
        ("someone/birds", None, Fault("GET /cdn", status=403, times=99), "Ask the owner for access"),
    ],
)
def test_refusals_say_what_to_do(
    repository: Path,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    token: str | None,
    fault: Fault | None,
    words: str,
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serve({f"someone/{kind}": repository for kind in ("birds", "private", "gated")}) as hub:
        hub.repositories["someone/private"].private = True
        hub.repositories["someone/gated"].gated = True
        hub.faults += [fault] if fault else []
        connect(hub, token)
        with pytest.raises(WeightsError, match=words) as error:
            download(name)
        assert "\n" not in str(error.value)


def test_nobody_listens(repository: Path, connect: Connect) -> None:
    with serve({"someone/birds": repository}) as hub:
        connect(hub)
    with pytest.raises(WeightsError, match=r"cannot be reached. Go online"):
        download("someone/birds")


def test_a_token_is_not_sent_to_another_host(repository: Path, connect: Connect) -> None:
    with serve({"someone/birds": repository}) as hub:
        hub.repositories["someone/birds"].private = True
        connect(hub, READ_TOKEN)
        download("someone/birds")
        assert any("/cdn/" in request for request in hub.requests)
        assert hub.leaked == []


def test_push_then_pull(repository: Path, connect: Connect) -> None:
    card = "---\nlicense: mit\nlibrary_name: ratlip\npipeline_tag: text-to-image\ntags: [gan]\n---\n# Birds\n"
    (repository / "README.md").write_text(card)
    with serve() as hub:
        connect(hub, WRITE_TOKEN)
        name, page = push(files_of(repository), "me/birds")
        commit = hub.repositories["me/birds"].branches["main"]
        assert name == f"me/birds@{commit}"
        assert page.endswith(commit)
        files = hub.repositories["me/birds"].commits[commit]
        assert set(files) == {"config.json", "generator.safetensors", "clip/open_clip_config.json", "README.md"}
        assert hub.file("me/birds", "README.md").decode() == card
        connect(hub, cache="another-machine")
        assert (download(name) / "generator.safetensors").read_bytes() == WEIGHTS
        assert hub.leaked == []


def test_push_and_pull_by_xet(repository: Path, connect: Connect) -> None:
    """As the client does it where hf_xet is installed, which it is by default."""
    pytest.importorskip("hf_xet")
    (repository / "README.md").unlink()
    weights = os.urandom(300_000)
    (repository / "generator.safetensors").write_bytes(weights)
    with serve() as hub:
        connect(hub, WRITE_TOKEN, xet=True)
        name, _ = push(files_of(repository), "me/birds")
        assert (download(name) / "generator.safetensors").read_bytes() == weights
        asked = " ".join(hub.requests)
        assert "/v1/xorbs/" in asked
        assert "/v1/reconstructions/" in asked
        assert "/lfs/" not in asked
        assert "/cdn/" not in asked


def test_push_again_sends_what_changed_and_removes_what_is_gone(repository: Path, connect: Connect) -> None:
    with serve({"me/birds": repository}) as hub:
        connect(hub, WRITE_TOKEN)
        (repository / "README.md").unlink()
        newer = repository.parent / "newer"
        repository.rename(newer)
        hub.repositories["me/birds"].commits[COMMIT] = {
            name: newer / name for name in ("config.json", "generator.safetensors", "clip/open_clip_config.json")
        } | {"discriminator.safetensors": newer / "other.safetensors", "mine.txt": newer / "old.pth"}
        name, _ = push(files_of(newer), "me/birds")
        files = hub.repositories["me/birds"].commits[name.partition("@")[2]]
        assert set(files) == {"config.json", "generator.safetensors", "clip/open_clip_config.json", "mine.txt"}
        assert not any("PUT /lfs" in request for request in hub.requests)


def test_push_to_a_branch_and_in_private(repository: Path, connect: Connect) -> None:
    (repository / "README.md").unlink()
    with serve() as hub:
        connect(hub, WRITE_TOKEN)
        push(files_of(repository), "me/birds", private=True, revision="v2")
        assert hub.repositories["me/birds"].private
        assert hub.repositories["me/birds"].commits[hub.repositories["me/birds"].branches["main"]] == {}
        assert hub.file("me/birds", "generator.safetensors", "v2") == WEIGHTS
        hub.repositories["me/birds"].private = False
        with pytest.raises(WeightsError, match="is there and public"):
            push(files_of(repository), "me/birds", private=True)


@pytest.mark.parametrize(
    ("token", "fault", "words"),
    [
        (None, None, "does not know who you are. Log in with `hf auth login`"),
        (READ_TOKEN, None, "your Hugging Face token does not allow it"),
        (WRITE_TOKEN, Fault("POST .*/commit", status=503, times=99), "out of order .status 503"),
        (WRITE_TOKEN, Fault("PUT /lfs", status=429, times=99), "too many requests"),
        (WRITE_TOKEN, Fault("PUT /lfs", status=500, times=99), "out of order .status 500"),
    ],
)
def test_a_refused_push_says_what_to_do(
    repository: Path,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    fault: Fault | None,
    words: str,
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    (repository / "README.md").unlink()
    with serve() as hub:
        hub.faults += [fault] if fault else []
        connect(hub, token)
        with pytest.raises(WeightsError, match=words) as error:
            push(files_of(repository), "me/birds")
        assert "\n" not in str(error.value)
        if created := hub.repositories.get("me/birds"):
            assert created.commits[created.branches["main"]] == {}  # all in one commit, or nothing


def test_a_bad_name_to_push_to(repository: Path) -> None:
    with pytest.raises(UsageError, match="use owner/name"):
        push(files_of(repository), "birds")


def test_of_a_damaged_file_what_repositories_share_goes_too(tmp_path: Path) -> None:
    """Else the client would link the same bytes again."""
    snapshot, blobs, shared = (tmp_path / name for name in ("snapshots/1", "blobs", "shared"))
    for folder in (snapshot, blobs, shared):
        folder.mkdir(parents=True)
    (shared / "xet").write_bytes(b"damaged")
    (blobs / ("0" * 64)).symlink_to(shared / "xet")
    (snapshot / "generator.safetensors").symlink_to(Path("../../blobs") / ("0" * 64))
    with pytest.raises(WeightsError, match="does not match its hash on the Hugging Face Hub"):
        hub._verify("me/it", snapshot)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_what_the_hub_finds_wrong_is_said_whole() -> None:
    error = ValueError('Invalid metadata in README.md.\n- "license" must be one of a, b')
    said = hub._advice("me/it", "me/it could not be pushed", error)
    assert said == 'me/it could not be pushed: Invalid metadata in README.md. - "license" must be one of a, b.'
