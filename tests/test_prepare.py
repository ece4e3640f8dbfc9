"""`ratlip prepare`, and what `--dataset` stands for."""

from __future__ import annotations

import io
import json
import logging
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ratlip_cli.cli import app, console
from ratlip_cli.data import images, writer
from ratlip_cli.data.images import ImageError, read_image
from ratlip_cli.data.layout import read_dataset, read_split
from ratlip_cli.data.prepare import PrepareRequest, prepare, resolve_dataset
from ratlip_cli.data.writer import in_use
from ratlip_cli.errors import DataError, RatlipError, UsageError


def photos(folder: Path, count: int = 8) -> Path:
    """Write `count` captioned images and one without a caption."""
    (folder / "train").mkdir(parents=True)
    (folder / "test").mkdir()
    for number in range(count):
        file = folder / ("train" if number % 4 else "test") / f"{number}.png"
        Image.new("RGB", (60, 50), (20 * number, 0, 0)).save(file)
        file.with_suffix(".txt").write_text(f"image {number}")
    Image.new("RGB", (60, 50)).save(folder / "train" / "alone.png")
    return folder


@pytest.fixture
def ratlip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ratlip:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RATLIP_DATA", raising=False)
    return Ratlip(monkeypatch, capfd)


class Ratlip:
    """Runs `ratlip prepare` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Return the exit code, stdout and stderr."""
        self._monkeypatch.setattr(sys, "argv", ["ratlip", "prepare", *arguments])
        with pytest.raises(SystemExit) as caught:
            app.main()
        out, err = self._capfd.readouterr()
        return int(caught.value.code or 0), out, err


def test_own_images_are_prepared_and_the_folder_goes_to_stdout(tmp_path: Path, ratlip: Ratlip) -> None:
    photos(tmp_path / "photos")
    code, out, err = ratlip("photos", "--image-size", "32", "--workers", "1")
    assert (code, out) == (0, "data/photos\n")
    assert "2 test, 6 train" in err
    assert "left out: train/alone.png: it has no caption: alone.txt is missing" in err
    assert read_dataset(tmp_path / "data" / "photos").image_size == 32

    code, out, err = ratlip("photos", "--image-size", "32")
    assert (code, out) == (0, "data/photos\n")
    assert "nothing to do" in err

    code, out, err = ratlip("photos", "--image-size", "64", "--json", "--quiet")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["path"] == "data/photos"
    assert result["counts"] == {"test": 2, "train": 6}
    assert result["left_out"] == [
        {"name": "train/alone.png", "reason": "it has no caption: alone.txt is missing"},
    ]

    code, out, err = ratlip("data/photos")
    assert (code, out) == (0, "data/photos\n")
    assert "nothing to do" in err
    assert ratlip("photos", "--name", "small", "--data-dir", "elsewhere", "-q") == (0, "elsewhere/small\n", "")


def test_what_may_be_read_again_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = PrepareRequest(str(photos(tmp_path / "photos")), tmp_path / "data", image_size=32, workers=0)
    refused, may = tmp_path / "photos" / "train" / "1.png", os.access

    def read(file: Path) -> Image.Image:
        if file == refused:
            raise ImageError("the image cannot be read: Permission denied")
        return read_image(file)

    with monkeypatch.context() as patch:  # Nothing is refused to root.
        patch.setattr("ratlip_cli.data.writer.read_image", read)
        patch.setattr(os, "access", lambda file, *given, **named: file != refused and may(file, *given, **named))
        patch.setattr(os, "supports_effective_ids", {os.access})
        assert prepare(request).info.counts == {"train": 5, "test": 2}
        again = prepare(request)
        assert again.info == again.before
    assert prepare(request).info.counts == {"train": 6, "test": 2}


@pytest.mark.skipif("AVIF" not in images.FORMATS, reason="this Pillow reads no AVIF")
def test_what_another_pillow_reads_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, content = photos(tmp_path / "photos"), io.BytesIO()
    Image.new("RGB", (60, 50)).save(content, "AVIF")
    for name in ("kind.avif", "named.jpg"):
        (place / "train" / name).write_bytes(content.getvalue())
        (place / "train" / name).with_suffix(".txt").write_text("an image")
    request = PrepareRequest(str(place), tmp_path / "data", image_size=32, workers=0, seed=5)
    without = tuple(kind for kind in images.FORMATS if kind != "AVIF")
    with monkeypatch.context() as patch:
        for module in (images, writer):
            patch.setattr(module, "FORMATS", without)
        patch.setattr(images, "SUFFIXES", images.SUFFIXES - {".avif"})
        patch.setattr(images, "_OTHER_IMAGES", images._OTHER_IMAGES | {".avif"})
        info = prepare(request).info
        told = [problem.name for problem in info.left_out if "install Pillow 11.3" in problem.reason]
        assert told == ["train/kind.avif", "train/named.jpg"]
        again = prepare(request)
        assert again.info == again.before
    info = read_dataset(resolve_dataset(str(place), tmp_path / "data", 32))
    assert (info.counts, info.options["seed"]) == ({"train": 8, "test": 2}, 5)
    assert prepare(request).info == info


@pytest.mark.slow
def test_a_check_says_whether_all_is_well(tmp_path: Path, ratlip: Ratlip) -> None:
    photos(tmp_path / "photos")
    ratlip("photos", "--image-size", "32")
    ratlip("photos", "--image-size", "32", "--name", "other")
    for spelled in (["photos"], ["data/photos"], [str(tmp_path / "photos")], ["nowhere", "--name", "photos"]):
        code, out, err = ratlip(*spelled, "--check")
        assert (code, out) == (0, "data/photos\n")
        assert "all 8 images" in err
    os.truncate(tmp_path / "data" / "photos" / "train" / "1.png", 30)
    code, out, err = ratlip("photos", "--check", "--quiet")
    assert (code, out) == (1, "")
    assert "1 damaged or stray" in err
    code, out, _ = ratlip("photos", "--check", "--json")
    assert code == 1
    assert [problem["name"] for problem in json.loads(out)["problems"]] == ["train/1.png"]


def test_the_name_of_own_images_that_are_elsewhere_is_that_of_their_dataset(tmp_path: Path, ratlip: Ratlip) -> None:
    photos(tmp_path / "my photos" / "set")
    asked = ("my photos/set", "--image-size", "32", "--seed", "3", "--caption", "a {folder}", "--name", "birds")
    assert ratlip(*asked)[0] == 0
    for given in ("birds", "data/birds"):
        code, out, err = ratlip(given, "--seed", "3", "--image-size", "16")
        assert (code, out, "nothing to do" in err) == (0, "data/birds\n", True)
        source = f"'{tmp_path}/my photos/set'"
        again = f"ratlip prepare {source} --image-size 64 --seed 3 --caption 'a {{folder}}' --name birds"
        code, _, err = ratlip(given, "--image-size", "64")
        assert (code, again in " ".join(err.split())) == (1, True), err
        code, _, err = ratlip(given, "--test-fraction", "0.1", "--keep-uncaptioned")
        told = "is prepared already, with another --keep-uncaptioned. Such options go with its images: ratlip prepare "
        assert (code, told in " ".join(err.split())) == (2, True), err
    with pytest.raises(DataError) as caught:
        resolve_dataset("birds", Path("data"), 64)
    told = str(caught.value)
    assert told.endswith(again)
    command = told[told.index("ratlip prepare") :]
    assert ratlip(*shlex.split(command)[2:])[0] == 0
    assert read_dataset(resolve_dataset("birds", Path("data"), 64)).options["seed"] == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere/photos"], 1, "nowhere/photos does not exist"),
        (["oxfrod"], 2, "Did you mean 'oxford'?"),
        (["cub", "--raw", "empty"], 1, "CUB_200_2011.tgz (from https://data.caltech.edu/records/65de6-vp158)"),
        (["cub", "--raw", "nowhere"], 1, "--raw nowhere is not a folder"),
        (["celeba-tiny", "--raw", "empty"], 2, "ratlip prepare celeba-tiny --accept-license"),
        (["oxford", "--caption-column", "x"], 2, "for own images"),
        (["photos", "--raw", "empty"], 2, "--raw and --accept-license are for cub, oxford, celeba-tiny"),
        (["empty"], 1, "no image with a caption"),
        (["photos/train/1.png"], 1, "is a file"),
        (["photos", "--strict"], 1, "alone.png: it has no caption"),
        (["photos", "--caption-column", "x", "--test-fraction", "2"], 2, "test fraction"),
        (["photos", "--image-size", "0"], 2, "image size"),
        (["photos", "--image-size", "100000"], 2, "the image size must be 1 to 2048, not 100000"),
        (["photos", "--check", "--image-size", "64", "--strict"], 2, "leave out --image-size and --strict"),
        (["photos", "--data-dir", "photos/train/1.png"], 1, "1.png/photos: photos/train/1.png is a file"),
        (["photos", "--workers", "-1"], 2, "--workers"),
        (["photos", "--count", "3"], 2, "--count is for rendered images"),
        (["photos", "--name", "../x"], 2, "--name"),
        (["photos", "--check"], 1, "is not a prepared dataset"),
        (["demo", "--test-fraction", "0.5"], 2, "for own images"),
        (["demo", "--image-size", "1000"], 2, "cannot be rendered"),
    ],
)
def test_bad_input_is_one_clear_line(
    tmp_path: Path, ratlip: Ratlip, arguments: Sequence[str], code: int, message: str
) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "empty").mkdir()
    found, out, err = ratlip(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_interrupted_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ratlip_cli", "prepare", "demo", "--count", "20000", "--image-size", "64"]
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 600
        while not list(tmp_path.glob("data/.demo.*/train/*.png")):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1].startswith("error: interrupted")
    assert list(tmp_path.rglob(".*.lock")) == []
    assert "Traceback" not in err
    assert not (tmp_path / "data" / "demo").exists()
    assert list(tmp_path.glob("data/.demo.*/train/*.png"))


def test_a_prepared_folder_is_taken_as_it_is(tiny_dataset: Path, tmp_path: Path) -> None:
    assert resolve_dataset(str(tiny_dataset), tmp_path, 256) == tiny_dataset
    assert resolve_dataset(tiny_dataset.name, tiny_dataset.parent, 32) == tiny_dataset
    with pytest.raises(DataError, match="prepared for 32 pixels, fewer than 64"):
        resolve_dataset(tiny_dataset.name, tiny_dataset.parent, 64)


def test_own_images_are_prepared_again_when_they_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("ratlip_cli"), "propagate", True)
    folder = photos(tmp_path / "photos")
    steps = []
    path = resolve_dataset(str(folder), tmp_path / "data", 32, progress=lambda *step: steps.append(step))
    assert path == tmp_path / "data" / "photos"
    assert steps[-1] == ("prepare", 9, 9, "images")
    steps.clear()
    for image_size in (32, 16):
        resolve_dataset(str(folder), tmp_path / "data", image_size, progress=lambda *_: steps.append((0, 0)))
    assert steps == []
    assert caplog.records == []
    (folder / "train" / "alone.txt").write_text("no longer alone")
    assert resolve_dataset(str(folder), tmp_path / "data", 16) == path
    assert "has changed" in caplog.text
    assert read_dataset(path).counts == {"test": 2, "train": 7}
    assert read_dataset(path).image_size == 32


def test_notes_are_told_by_prepare_and_on_the_way_to_something_else(
    tmp_path: Path, ratlip: Ratlip, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photos(tmp_path / "photos")
    (folder / "Thumbs.db").touch()
    enlarged = "8 of 8 images had a shorter side of less than 76 pixels"
    passed_over = "passed over files that are neither images nor captions: Thumbs.db"
    _, _, err = ratlip("photos", "--image-size", "64", "--workers", "1")
    assert enlarged in err
    assert f"\n{passed_over}\n" in err
    assert ratlip("photos", "--image-size", "64")[2].count(enlarged) == 1
    notes = json.loads(ratlip("photos", "--image-size", "64", "--json")[1])["notes"]
    assert [note.startswith((passed_over, enlarged)) for note in notes] == [True, True]
    monkeypatch.setattr(logging.getLogger("ratlip_cli"), "propagate", True)
    caplog.set_level(logging.INFO, "ratlip_cli")
    resolve_dataset(str(folder), tmp_path / "elsewhere", 64)
    assert [record.getMessage() for record in caplog.records] == [f"photos: {note}" for note in notes]


def test_own_images_keep_their_options_when_they_are_prepared_again(tmp_path: Path, ratlip: Ratlip) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = [{"file_name": f"{number}.png", "title": f"title {number}", "text": "text"} for number in range(4)]
    for row in rows:
        Image.new("RGB", (40, 40)).save(folder / row["file_name"])
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows[:3])))
    ratlip("photos", "--caption-column", "title", "--test-fraction", "0", "--image-size", "32")
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = resolve_dataset("photos", Path("data"), 32)
    captions = [entry.captions for entry in read_split(path, "train")]
    assert captions == [(f"title {number}",) for number in range(4)]


def test_two_folders_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    one, other = photos(tmp_path / "one" / "photos"), photos(tmp_path / "other" / "photos")
    resolve_dataset(str(one), tmp_path / "data", 32)
    with pytest.raises(DataError, match="holds another dataset"):
        resolve_dataset(str(other), tmp_path / "data", 32)


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_set_whose_project_was_moved_is_the_same_set(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    photos(old / "photos")
    monkeypatch.chdir(old)
    resolve_dataset("photos", Path("data"), 32)
    written = {file: file.stat().st_mtime_ns for file in old.glob("data/photos/*/*")}
    if how == "copied":
        shutil.copytree(old, new, copy_function=shutil.copyfile)
        shutil.rmtree(old)
    else:
        old.rename(new)
    monkeypatch.chdir(new)
    again = prepare(PrepareRequest("photos", Path("data"), image_size=32))
    assert again.before == again.info
    assert again.info.source == str(new / "photos")
    assert resolve_dataset("photos", Path("data"), 32) == Path("data/photos")
    if how == "moved":
        assert {file.name: time for file, time in written.items()} == {
            file.name: file.stat().st_mtime_ns for file in new.glob("data/photos/*/*")
        }
    shutil.rmtree(new / "photos")
    for asked in ("photos", str(new / "photos")):
        assert resolve_dataset(asked, Path("data"), 32).resolve() == new / "data" / "photos"


def test_an_image_root_moves_with_its_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    names = sorted(file.name for file in photos(old / "photos").glob("train/*.png"))
    (old / "tables").mkdir()
    (old / "tables" / "all.csv").write_text("".join(f"{name},this is {name[0]}\n" for name in names))
    asked = ("tables/all.csv", Path("data"))
    monkeypatch.chdir(old)
    first = prepare(PrepareRequest(*asked, image_size=32, image_root=Path("photos/train"), workers=1))
    assert sum(first.info.counts.values()) == len(names)
    old.rename(new)
    monkeypatch.chdir(new)
    assert resolve_dataset(*asked, 32) == Path("data/all")
    again = prepare(PrepareRequest(*asked, image_size=32, image_root=Path("photos/train"), workers=1))
    assert again.before == again.info
    assert again.info.options["image_root"] == str(new / "photos" / "train")


def test_a_set_of_other_images_is_not_taken_for_a_moved_one(tmp_path: Path) -> None:
    one, other = photos(tmp_path / "one" / "photos"), photos(tmp_path / "other" / "photos")
    resolve_dataset(str(one), tmp_path / "data", 32)
    shutil.rmtree(one)
    (other / "train" / "1.txt").write_text("Image 1")
    with pytest.raises(DataError, match=r"holds another dataset.*--dataset .*data/photos to use it as it is"):
        resolve_dataset(str(other), tmp_path / "data", 32)


def test_another_working_folder_says_where_was_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=rf"Paths begin at {tmp_path}.*: give the path"):
        resolve_dataset("photos", Path("data"), 32)


def test_sets_of_earlier_versions_know_no_content_and_are_left_as_they_are(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    first = prepare(PrepareRequest(str(folder), tmp_path / "data", image_size=32))
    file = first.path / "dataset.json"
    description = json.loads(file.read_text())
    assert description["options"] == {"caption_column": None, "test_fraction": 0.1, "seed": 0}
    del description["checksums"]["content"]
    file.write_text(json.dumps(description))
    before = file.read_bytes()
    again = prepare(PrepareRequest(str(folder), tmp_path / "data", image_size=32))
    assert again.before == again.info
    assert file.read_bytes() == before


def test_images_in_the_data_folder_are_prepared_beside_themselves(tmp_path: Path) -> None:
    folder = photos(tmp_path / "data" / "photos")
    before = sorted(folder.rglob("*"))
    assert resolve_dataset(str(folder), tmp_path / "data", 32) == tmp_path / "data" / "photos-prepared"
    assert sorted(folder.rglob("*")) == before


def test_rendered_images_are_rendered_where_they_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratlip_cli.data.prepare.DEMO_COUNT", 60)
    path = resolve_dataset("demo-birds", tmp_path, 32)
    info = read_dataset(path)
    assert path == tmp_path / "demo-birds"
    assert sum(info.counts.values()) == 60
    assert (info.image_size, info.flip) == (64, False)
    assert prepare(PrepareRequest("demo-birds", tmp_path, count=60)).before == info


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_split_that_is_rendered_alone_is_that_part_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratlip_cli.data.prepare.DEMO_COUNT", 60)
    monkeypatch.setattr("ratlip_cli.data.prepare.processes", lambda asked: 1)
    whole = contents(prepare(PrepareRequest("demo", tmp_path / "whole")).path)
    begun = tmp_path / ".demo.01234567.preparing"  # of a whole that was interrupted
    begun.mkdir()
    steps: list[tuple[int, int | None]] = []
    path = resolve_dataset("demo", tmp_path, 32, lambda what, done, total, unit: steps.append((done, total)), "test")
    assert steps[-1] == (6, 6)
    assert begun.is_dir()
    part = contents(path)
    info = read_dataset(path)
    assert (info.counts, info.notes, info.options["splits"]) == ({"test": 6}, (), ["test"])
    del part["dataset.json"]
    assert part == {name: content for name, content in whole.items() if name.startswith("test/")}
    before = (path / "dataset.json").stat().st_mtime_ns
    assert resolve_dataset("demo", tmp_path, 32, split="test") == path
    assert (path / "dataset.json").stat().st_mtime_ns == before
    resolve_dataset(str(path), tmp_path, 32, split="unseen")  # a second one comes to the first
    assert read_dataset(path).counts == {"test": 6, "unseen": 3}
    with pytest.raises(DataError, match=r"has no split 'validation'. It has: test, train, unseen"):
        resolve_dataset("demo", tmp_path, 32, split="validation")
    assert resolve_dataset("demo", tmp_path, 32) == path  # as training asks for it
    assert contents(path) == whole
    assert not begun.exists()


@pytest.mark.parametrize("asked", ["demo-faces", "data/demo-faces"])
def test_prepare_completes_what_was_rendered_in_part(ratlip: Ratlip, asked: str) -> None:
    prepare(PrepareRequest("demo-faces", Path("data"), count=40, image_size=32, workers=1, splits=("test",)))
    code, out, err = ratlip(asked, *(("--count", "40", "--image-size", "32") if asked == "demo-faces" else ()))
    assert (code, out) == (0, "data/demo-faces\n"), err
    assert "data/demo-faces had some splits alone (test); it is whole now" in err
    assert read_dataset(Path("data/demo-faces")).counts == {"train": 36, "test": 4}


def in_earlier_words(folder: Path, **words: str) -> bytes:
    """Give dataset.json the words that earlier versions wrote; return it."""
    file = folder / "dataset.json"
    description = json.loads(file.read_text())
    assert description.keys() >= words.keys()
    file.write_text(json.dumps(description | words))
    return file.read_bytes()


def test_sets_that_earlier_versions_prepared_are_the_same_datasets(tmp_path: Path) -> None:
    rendered = PrepareRequest("demo-birds", tmp_path, image_size=32, count=60)
    own = PrepareRequest(str(photos(tmp_path / "of the pictures")), tmp_path / "data", image_size=32)
    earlier = {
        rendered: {
            "source": "drawn by ratlip (ratlip_cli/data/drawn)",
            "split_rule": "10 % of the pictures test; 5 % unseen: birds and flowers with pairs of colours (body and "
            "wings, petals and centre) that no other split shows; the rest train",
        },
        own: {
            "licence": "that of the pictures' owner",
            "split_rule": "the folders train and test; elsewhere 0.1 of the pictures are test, by name (seed 0)",
        },
    }
    for request, words in earlier.items():
        first = prepare(request)
        assert first.before is None
        described = in_earlier_words(first.path, **words)
        again = prepare(request)
        assert again.before == again.info == first.info
        assert (first.path / "dataset.json").read_bytes() == described
        assert resolve_dataset(request.dataset, request.data_dir, 32) == first.path
        assert (first.path / "dataset.json").read_bytes() == described


@pytest.mark.parametrize("name", ["nothing", "celeba-tiny", "no/where"])
def test_what_is_not_there_is_one_clear_line(tmp_path: Path, name: str) -> None:
    with pytest.raises((DataError, UsageError)) as caught:
        resolve_dataset(name, tmp_path, 32)
    assert isinstance(caught.value, RatlipError)
    assert "\n" not in str(caught.value)


def test_two_at_once_the_second_says_so(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    request = PrepareRequest("demo-birds", tmp_path / "data", count=60, workers=1)
    command = [sys.executable, "-m", "ratlip_cli", "prepare", "demo-birds", "--count", "20000", "--workers", "1"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        end = time.monotonic() + 600
        while not list(tmp_path.glob("data/.demo-birds.*/train/*.png")):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.05)
        with pytest.raises(DataError, match="another ratlip is preparing") as caught:
            prepare(request)
        os.killpg(process.pid, signal.SIGKILL)
    assert "\n" not in str(caught.value)
    info = prepare(request).info
    assert sum(info.counts.values()) == 60


def bad_images(folder: Path) -> tuple[set[str], set[str]]:
    """Write images and captions of every kind that people have; return those to read and those to refuse."""
    grey = Image.linear_gradient("L").resize((60, 50))
    colours = Image.merge("RGB", [grey, grey.rotate(180), grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    turned = Image.Exif()
    turned[0x0112] = 6
    folder.mkdir()
    grey.save(folder / "grey.png")
    colours.convert("P").save(folder / "palette.png")
    colours.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(folder / "sixteen-bit.png")
    colours.save(folder / "rotated.jpg", exif=turned)
    colours.putalpha(grey)
    colours.save(folder / "transparent.png")
    grey.save(folder / "animated.gif", save_all=True, append_images=[grey.rotate(90)])
    good = {file.name for file in folder.iterdir()}
    whole = (folder / "rotated.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "unreadable.png").write_bytes(b"no image")
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (folder / "enormous.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    grey.save(folder / "grey.bmp")  # After grey.bmp comes grey.png, which is numbered on.
    grey.save(folder / "no-caption.png")
    grey.save(folder / "empty-caption.png")
    grey.save(folder / "not-utf-8.png")
    for file in list(folder.iterdir()):
        if file.stem != "no-caption":
            file.with_suffix(".txt").write_text(f"this is {file.stem}")
    (folder / "empty-caption.txt").write_text(" \n\n")
    (folder / "not-utf-8.txt").write_bytes("caf\xe9".encode("latin-1"))
    bad = {"truncated.jpg", "unreadable.png", "enormous.png"}
    return good | {"grey_2.png"}, bad | {"no-caption.png", "empty-caption.png", "not-utf-8.png"}


def test_every_image_is_read_right_or_left_out_by_name_and_reason(tmp_path: Path, ratlip: Ratlip) -> None:
    good, bad = bad_images(tmp_path / "photos")
    command = ("photos", "--image-size", "32", "--test-fraction", "0", "--workers", "1")
    code, out, _ = ratlip(*command, "--json", "--quiet")
    assert code == 0
    left_out = {problem["name"]: problem["reason"] for problem in json.loads(out)["left_out"]}
    assert set(left_out) == bad
    assert all(left_out.values())
    assert json.loads((tmp_path / "data" / "photos" / "dataset.json").read_text())["left_out"]
    stored = {entry.file.stem: entry.file for entry in read_split(tmp_path / "data" / "photos", "train")}
    assert set(stored) == {Path(name).stem for name in good}
    assert Image.open(stored["rotated"]).size == (38, 46)
    assert Image.open(stored["palette"]).size == (46, 38)
    for name in bad:
        one = tmp_path / Path(name).stem
        one.mkdir()
        for file in (tmp_path / "photos").glob(f"{one.name}.*"):
            (one / file.name).write_bytes(file.read_bytes())
        code, out, err = ratlip(one.name, "--image-size", "32", "--workers", "1", "--strict")
        assert (code, out) == (1, "")
        assert err.startswith(f"error: {name}: ")
        assert err.count("\n") == 1


def test_what_was_begun_under_a_longer_name_stays(tmp_path: Path) -> None:
    begun = tmp_path / "data" / ".birds.v2.0123abcd.preparing"
    begun.mkdir(parents=True)
    older = begun.with_name(".birds.0123abcd.preparing")
    older.mkdir()
    photos(tmp_path / "birds")
    prepare(PrepareRequest(str(tmp_path / "birds"), tmp_path / "data", image_size=32))
    assert begun.is_dir()
    assert not older.exists()


def test_a_dataset_that_is_a_link_to_another_disk_stays_one(tmp_path: Path) -> None:
    own, data, disk = tmp_path / "mine", tmp_path / "data", tmp_path / "disk"
    request = PrepareRequest(str(photos(own)), data, image_size=32)
    prepare(request)
    disk.mkdir()
    (data / "mine").rename(disk / "mine")
    (data / "mine").symlink_to(disk / "mine")
    (data / ".mine.replaced.preparing").symlink_to(disk / "gone")  # as earlier versions left one
    for number in (0, 1):
        (own / "train" / f"{number + 1}.png").unlink()
        assert prepare(request).path == data / "mine"
        assert (data / "mine").is_symlink()
        assert sum(read_dataset(disk / "mine").counts.values()) == 7 - number
    assert [path.name for path in disk.iterdir()] == ["mine"]


def test_no_dataset_is_prepared_again_while_a_run_trains_on_it(tmp_path: Path) -> None:
    own = photos(tmp_path / "mine")
    request = PrepareRequest(str(own), tmp_path / "data", image_size=32)
    path = prepare(request).path
    before = contents(path)
    with in_use(path), in_use(path):
        assert prepare(request).before is not None  # nothing is to be done
        (own / "test" / "0.png").unlink()
        with pytest.raises(DataError, match="cannot be prepared again while a run trains on it"):
            prepare(request)
        with pytest.raises(DataError, match="cannot be prepared again while a run trains on it"):
            resolve_dataset(str(own), tmp_path / "data", 32)
        assert contents(path) == before
    assert sum(prepare(request).info.counts.values()) == 7


def test_strict_holds_for_a_prepared_folder_too(tmp_path: Path) -> None:
    own = photos(tmp_path / "mine")
    (own / "test" / "0.png").write_bytes(b"no image")
    path = prepare(PrepareRequest(str(own), tmp_path / "data", image_size=32)).path
    for dataset in (str(own), str(path)):
        with pytest.raises(DataError, match=r"0\.png: .* Fix it, or leave it out by not asking for --strict"):
            prepare(PrepareRequest(dataset, tmp_path / "data", image_size=32, strict=True))


def test_progress_counts_megabytes_and_images(capfd: pytest.CaptureFixture[str]) -> None:
    with console.bars() as progress:
        for file, arrived in (("a.tgz", (1, 4, 10, 10)), ("b.tgz", (3, 10))):
            for megabytes in arrived:
                progress(f"download {file}", megabytes, 10, "MB")
        for done in range(3):
            progress("prepare", done + 1, 3, "images")
    lines = [line.split(",")[0] for line in capfd.readouterr().err.splitlines()]
    assert lines == ["download a.tgz 10/10", "download b.tgz 10/10", "prepare 3/3"]
    with console.bars() as progress:
        progress("prepare", 1, None, "images")
    assert capfd.readouterr().err == ""
