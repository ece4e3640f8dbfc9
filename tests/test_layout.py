"""The layout on disk: what is written can be read, whatever happened while it was written."""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ratlip_cli.data import parallel
from ratlip_cli.data.layout import (
    DatasetInfo,
    Problem,
    Record,
    check_dataset,
    read_dataset,
    read_split,
    stored_side,
)
from ratlip_cli.data.parallel import IN_FLIGHT, in_order
from ratlip_cli.data.prepare import resolve_dataset
from ratlip_cli.data.sources import oxford
from ratlip_cli.data.writer import write_dataset
from ratlip_cli.errors import DataError, Interrupted, RatlipError, UsageError
from ratlip_cli.progress import silent


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def records(count: int = 12) -> list[Record | Problem]:
    """`count` images of various shapes, every fourth one test, and two that cannot be used."""
    good: list[Record | Problem] = [
        Record(
            f"image-{number}",
            "train" if number % 4 else "test",
            (f"the number {number}", "  spaces\n and lines "),
            noise(45 + number, 60 - number, number),
            extra={"class": "noise", "number": number},
        )
        for number in range(count)
    ]
    bad = [Record("no-caption", "train", ("", " \n"), noise(50, 50)), Problem("x.txt", "it is not UTF-8")]
    return good[:3] + bad + good[3:]


def write(out: Path, items: Iterable[Record | Problem], **changes: Any) -> DatasetInfo:
    described: dict[str, Any] = {
        "name": "noise",
        "source": "the tests",
        "licence": "CC0",
        "image_size": 32,
        "split_rule": "every fourth",
        "checksums": {"noise": "abc"},
    }
    given = {name: changes.pop(name) for name in ("workers", "strict", "progress") if name in changes}
    return write_dataset(out, items, DatasetInfo(**(described | changes)), **given)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    info = write(tmp_path / "noise", records(), options={"seed": 3}, flip=False)
    assert read_dataset(tmp_path / "noise") == info
    assert info.counts == {"train": 9, "test": 3}
    assert info.left_out == (Problem("no-caption", "it has no caption"), Problem("x.txt", "it is not UTF-8"))
    entries = {split: read_split(tmp_path / "noise", split) for split in info.counts}
    assert [entry.file.stem for entry in entries["test"]] == ["image-0", "image-4", "image-8"]
    assert entries["train"][0].captions == ("the number 1", "spaces and lines")
    assert entries["train"][0].extra == {"class": "noise", "number": 1}
    for entry in entries["train"] + entries["test"]:
        with Image.open(entry.file) as image:
            assert (image.format, image.mode, min(image.size)) == ("PNG", "RGB", 38)
    assert check_dataset(tmp_path / "noise") == []


def test_images_of_the_stored_size_are_kept_to_the_bit(tmp_path: Path) -> None:
    image = noise(38, 50)
    write(tmp_path / "noise", [Record("same", "train", ("noise",), image)])
    with Image.open(tmp_path / "noise" / "train" / "same.png") as stored:
        assert np.array_equal(np.asarray(stored), np.asarray(image))


@pytest.mark.parametrize(("image_size", "side"), [(32, 38), (64, 76), (128, 152), (256, 304), (512, 608)])
@pytest.mark.parametrize("shape", [(20, 30), (500, 375), (90, 90)])
def test_the_shorter_side_is_76_64ths_of_the_image_size(
    tmp_path: Path, image_size: int, side: int, shape: tuple[int, int]
) -> None:
    assert stored_side(image_size) == side
    write(tmp_path / "noise", [Record("x", "train", ("noise",), noise(*shape))], image_size=image_size)
    with Image.open(tmp_path / "noise" / "train" / "x.png") as stored:
        assert min(stored.size) == side
        assert max(stored.size) == round(max(shape) * side / min(shape))


def test_crops_are_taken_from_the_image_and_clipped_to_it(tmp_path: Path) -> None:
    image = noise(60, 60)
    items = [
        Record("inside", "train", ("noise",), image, crop=(10, 5, 48, 43)),
        Record("over-the-edge", "train", ("noise",), image, crop=(-9, 40, 38, 78)),
        Record("outside", "train", ("noise",), image, crop=(60, 0, 90, 30)),
    ]
    info = write(tmp_path / "noise", items)
    pixels = np.asarray(image)
    with Image.open(tmp_path / "noise" / "train" / "inside.png") as stored:
        assert np.array_equal(np.asarray(stored), pixels[5:43, 10:48])
    with Image.open(tmp_path / "noise" / "train" / "over-the-edge.png") as stored:
        assert stored.size == (72, 38)  # 38 x 20 pixels, scaled
    assert [problem.name for problem in info.left_out] == ["outside"]


def test_workers_change_nothing(tmp_path: Path) -> None:
    for workers in (0, 1, 3):
        write(tmp_path / str(workers), records(), workers=workers)
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "3")


class Stopped(Exception):
    pass


def stopping(items: list[Record | Problem], after: int) -> Iterator[Record | Problem]:
    yield from items[:after]
    raise Stopped


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("after", [0, 1, 6, 14])
def test_interrupted_and_run_again_gives_the_same_bytes(tmp_path: Path, after: int, workers: int) -> None:
    write(tmp_path / "whole", records())
    with pytest.raises(Stopped):
        write(tmp_path / "noise", stopping(records(), after), workers=workers)
    assert not (tmp_path / "noise").exists()
    write(tmp_path / "noise", records())
    assert contents(tmp_path / "noise") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise", "whole"]


def test_images_that_are_there_are_not_made_again_and_damaged_ones_are(tmp_path: Path) -> None:
    made = []

    def record(number: int) -> Record:
        def make() -> Image.Image:
            made.append(number)
            return noise(50, 50, number)

        return Record(str(number), "train", ("noise",), make)

    with pytest.raises(Stopped):
        write(tmp_path / "noise", stopping([record(number) for number in range(5)], 4))
    assert made == [0, 1, 2, 3]
    (cut_short,) = tmp_path.glob(".noise.*/train/2.png")
    os.truncate(cut_short, cut_short.stat().st_size - 5)
    write(tmp_path / "noise", [record(number) for number in range(5)])
    assert made == [0, 1, 2, 3, 2, 4]
    assert check_dataset(tmp_path / "noise") == []


def test_work_on_another_description_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        write(tmp_path / "noise", stopping(records(), 9))
    write(tmp_path / "noise", records(), image_size=64)
    assert check_dataset(tmp_path / "noise") == []
    assert [path.name for path in tmp_path.iterdir()] == ["noise"]


SLOW_DATASET = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_layout import records, write

def slowly():
    for record in records():
        time.sleep(0.03)
        yield record

if __name__ == "__main__":
    write(Path({out!r}), slowly(), workers={workers})
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_run_again_gives_the_same_bytes(tmp_path: Path, workers: int) -> None:
    write(tmp_path / "whole", records())
    script = SLOW_DATASET.format(tests=str(Path(__file__).parent), out=str(tmp_path / "noise"), workers=workers)
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True) as process:
        wait_for(lambda: len(list(tmp_path.glob(".noise.*/train/*.png"))) >= 3)
        process.kill()
    assert not (tmp_path / "noise").exists()
    wait_for(lambda: not group_lives(process.pid))
    write(tmp_path / "noise", records())
    assert contents(tmp_path / "noise") == contents(tmp_path / "whole")


def group_lives(leader: int) -> bool:
    """Whether a process of the group is left: workers end with their parent."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition: Callable[[], bool], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_stops_at_the_first_bad_record(tmp_path: Path, workers: int) -> None:
    with pytest.raises(DataError, match="no-caption: it has no caption"):
        write(tmp_path / "noise", records(), strict=True, workers=workers)
    assert not (tmp_path / "noise").exists()
    write(tmp_path / "noise", records())
    with pytest.raises(DataError, match="no-caption"):
        write(tmp_path / "noise", records(), strict=True)


def test_bad_records_are_left_out_by_name_and_reason(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("this is no image")
    image = noise(50, 50)
    bad = {
        "surrogate": Record("surrogate", "train", ("not UTF-8: \udcff",), image),
        "infinite": Record("infinite", "train", ("a caption",), image, extra={"weight": float("inf")}),
        "none": Record("none", "train", (), image),
        "folder/text.jpg": Record("text", "train", ("a caption",), tmp_path / "text.jpg", origin="folder/text.jpg"),
        "missing": Record("missing", "train", ("a caption",), tmp_path / "missing.jpg"),
        "narrow": Record("narrow", "train", ("a caption",), noise(3, 900)),
    }
    info = write(tmp_path / "noise", [Record("good", "train", ("a caption",), image), *bad.values()])
    assert info.counts == {"train": 1}
    assert {problem.name for problem in info.left_out} == set(bad)
    assert all(problem.reason and "\n" not in problem.reason for problem in info.left_out)
    assert read_dataset(tmp_path / "noise") == info


NAMES = {
    "": "_",
    "../outside": "_outside",
    ".hidden": "hidden",
    "new\nline": "new line",
    "a\\b/c": "a_b_c",
    "Screenshot 4.42\u202fPM": "Screenshot 4.42 PM",
    "\u7d75\u3000\u8d64": "\u7d75 \u8d64",
    "rtl\u200fsoft\xadjoined\u200d": "rtlsoftjoined",
    "latin\udce9": "latin_",
    'q?*<>|":': "q_______",
    "con.v1": "_con.v1",
    "e\u0301": "\xe9",
    "long" * 60: "long" * 50,
    "\u00e4" * 150: "\u00e4" * 100,
    "plain name (1) [a]": "plain name (1) [a]",
}
"""What images are called -> what their files are."""


def test_names_are_made_fit_for_files_and_keep_their_origin(tmp_path: Path) -> None:
    items = [Record(name, "train", ("a caption",), noise(50, 50)) for name in NAMES]
    info = write(tmp_path / "noise", items)
    assert info.left_out == ()
    entries = read_split(tmp_path / "noise", "train")
    assert [entry.file.stem for entry in entries] == list(NAMES.values())
    for name, entry in zip(NAMES, entries, strict=True):
        assert entry.extra == (
            {} if NAMES[name] == name else {"origin": name.encode("utf-8", "backslashreplace").decode()}
        )
    assert check_dataset(tmp_path / "noise") == []


def test_names_that_are_taken_are_numbered_on(tmp_path: Path) -> None:
    names = ["a", "A", "a_2", "a", "a?", "a*", "\u00e9", "e\u0301", "x" * 200, "x" * 201, "x" * 203]
    colours = [noise(50, 50, number) for number in range(len(names))]
    items = [Record(name, "train", (f"the {n}",), colours[n], origin=f"{n}") for n, name in enumerate(names)]
    assert write(tmp_path / "noise", items).left_out == ()
    entries = read_split(tmp_path / "noise", "train")
    stems = [entry.file.stem for entry in entries]
    assert stems[:6] == ["a", "A_2", "a_2_2", "a_3", "a_", "a__2"]
    assert len({stem.casefold() for stem in stems}) == len(names)
    assert [entry.extra.get("origin") for entry in entries] == [
        None,
        "1",
        "2",
        "3",
        "4",
        "5",
        None,
        "7",
        None,
        "9",
        "10",
    ]
    for number, entry in enumerate(entries):
        assert entry.captions == (f"the {number}",)
        with Image.open(entry.file) as stored:
            assert np.array_equal(
                np.asarray(stored), np.asarray(colours[number].resize(stored.size, 1, reducing_gap=3))
            )


@pytest.mark.parametrize("refusal", [errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ])
def test_an_image_whose_name_the_file_system_refuses_costs_that_image_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    save = Image.Image.save

    def refusing(image: Image.Image, file: Path, *given: Any, **options: Any) -> None:
        if "image-3" in file.name:
            raise OSError(refusal, os.strerror(refusal), str(file))
        save(image, file, *given, **options)

    monkeypatch.setattr(Image.Image, "save", refusing)
    info = write(tmp_path / "noise", records())
    assert sum(info.counts.values()) == 11
    (problem,) = (problem for problem in info.left_out if problem.name == "image-3")
    assert problem.reason == f"the file system refuses the name image-3.png: {os.strerror(refusal)}"


def test_an_error_of_the_source_is_not_told_as_one_of_writing(tmp_path: Path) -> None:
    def broken() -> Iterator[Record | Problem]:
        yield from records()
        raise PermissionError(errno.EACCES, "Permission denied", "/photos/x")

    with pytest.raises(PermissionError, match="/photos/x"):
        write(tmp_path / "noise", broken())


def test_splits_may_share_names(tmp_path: Path) -> None:
    items = [Record("1", split, ("a caption",), noise(50, 50)) for split in ("train", "test", "unseen")]
    assert write(tmp_path / "noise", items).counts == {"train": 1, "test": 1, "unseen": 1}


@pytest.mark.parametrize("items", [[], [Problem("x.jpg", "it has no caption")]])
def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path: Path, items: list[Record | Problem]) -> None:
    with pytest.raises(DataError, match="no image with a caption"):
        write(tmp_path / "noise", items)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_dataset_is_left_alone(tmp_path: Path) -> None:
    info = write(tmp_path / "noise", records())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "noise").rglob("*")}
    assert write(tmp_path / "noise", stopping([], 0)) == info
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "noise").rglob("*")} == before


def test_another_state_of_the_same_source_replaces_it(tmp_path: Path) -> None:
    write(tmp_path / "noise", records())
    info = write(tmp_path / "noise", records(4), checksums={"noise": "def"})
    assert read_dataset(tmp_path / "noise") == info
    assert info.counts == {"train": 3, "test": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["noise"]


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "noise", records())
    before = contents(tmp_path / "noise")
    with pytest.raises(DataError, match="holds another dataset, from the tests"):
        write(tmp_path / "noise", records(), source="elsewhere")
    assert contents(tmp_path / "noise") == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").touch()
    with pytest.raises(DataError, match="not a prepared dataset"):
        write(tmp_path / "photos", records())
    (tmp_path / "file").touch()
    with pytest.raises(RatlipError, match="cannot write"):
        write(tmp_path / "file" / "noise", records())
    with pytest.raises(UsageError):
        write(tmp_path / "none", records(), image_size=0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layout_version", 99),
        ("counts", {"../train": 1}),
        ("counts", ["train"]),
        ("image_size", "32"),
        ("flip", "no"),
        ("left_out", [1]),
        ("checksums", None),
    ],
)
def test_a_damaged_description_is_one_clear_line(tmp_path: Path, key: str, value: object) -> None:
    write(tmp_path / "noise", records())
    file = tmp_path / "noise" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(DataError, match="is damaged") as caught:
        read_dataset(tmp_path / "noise")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_foreign_description_is_one_clear_line(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "dataset.json").write_bytes(text)
    with pytest.raises(DataError, match=r"dataset\.json"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"file_name": "image-1.png"}',
        '{"file_name": "image-1.png", "captions": "a"}',
        '{"file_name": "../x.png", "captions": ["a"]}',
    ],
)
def test_damaged_metadata_is_one_clear_line(tmp_path: Path, line: str) -> None:
    write(tmp_path / "noise", records())
    file = tmp_path / "noise" / "train" / "metadata.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:-1], line]) + "\n")
    with pytest.raises(DataError, match=r"metadata\.jsonl is damaged"):
        read_split(tmp_path / "noise", "train")
    file.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(DataError, match="8 lines for 9 images"):
        read_split(tmp_path / "noise", "train")
    file.unlink()
    with pytest.raises(DataError, match="cannot read"):
        read_split(tmp_path / "noise", "train")
    with pytest.raises(DataError, match="no split 'unseen'"):
        read_split(tmp_path / "noise", "unseen")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_check_finds_what_is_wrong(tmp_path: Path, workers: int) -> None:
    write(tmp_path / "noise", records())
    train = tmp_path / "noise" / "train"
    os.truncate(train / "image-1.png", 100)
    (train / "image-2.png").unlink()
    noise(20, 20).save(train / "image-3.png")
    noise(38, 38).save(train / "stray.png")
    for name in (".DS_Store", "._image-1.png", "Thumbs.db", "desktop.ini"):
        (train / name).touch()
    found = {problem.name: problem.reason for problem in check_dataset(tmp_path / "noise", workers)}
    assert set(found) == {f"train/{name}.png" for name in ("image-1", "image-2", "image-3", "stray")}
    assert found["train/image-3.png"] == "its shorter side is 20 pixels, not 38"


def test_the_imagefolder_loader_of_datasets_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    items = [*records(), Record("later", "unseen", ("another split",), noise(50, 50))]
    write(tmp_path / "noise", items)
    (tmp_path / "noise" / ".text_vectors").mkdir()
    (tmp_path / "noise" / ".text_vectors" / "abc-train.safetensors").touch()
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "noise"), cache_dir=str(tmp_path / "cache"))
    for split in ("train", "test"):
        entries = read_split(tmp_path / "noise", split)
        assert [row["captions"] for row in loaded[split]] == [list(entry.captions) for entry in entries]
        assert [row["number"] for row in loaded[split]] == [entry.extra["number"] for entry in entries]


def test_memory_does_not_grow_with_the_number_of_items() -> None:
    ahead = 0

    def items() -> Iterator[int]:
        nonlocal ahead
        for number in range(100):
            ahead += 1
            yield number

    for (item, result), expected in zip(in_order(abs, items(), workers=2), range(100), strict=True):
        assert item == result == expected
        assert ahead <= IN_FLIGHT * 2
        ahead -= 1


def end_the_worker(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_clear_line() -> None:
    with pytest.raises(DataError, match="worker process was killed"):
        list(in_order(end_the_worker, [1, 2, 3], workers=2))


def wait_for_ever(number: int) -> None:
    while number:
        time.sleep(1)


def test_a_worker_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "PATIENCE", 0.1)
    others = multiprocessing.active_children()
    made = in_order(wait_for_ever, [0, 1, 2], workers=2)
    assert next(made) == (0, None)
    made.close()
    assert multiprocessing.active_children() == others


def test_notes_say_what_is_worth_knowing(tmp_path: Path) -> None:
    adobe = noise(50, 50, 1)
    adobe.info["icc_profile"] = b"no profile"
    items = [
        Record("large", "train", ("a caption",), noise(50, 50)),
        Record("small", "train", ("a caption",), noise(7, 9)),
        Record("crop", "train", ("a caption",), noise(50, 50), crop=(0, 0, 50, 20)),
        Record("profile", "train", ("a caption",), adobe),
        Record("again", "test", ("another",), noise(50, 50)),
    ]
    info = write(tmp_path / "noise", items, notes=("from the source",))
    assert read_dataset(tmp_path / "noise") == info
    source, same_caption, twice, enlarged, unused = info.notes
    assert source == "from the source"
    assert same_caption.startswith("all images of the train split have the same caption")
    assert "1 image outside the train split" in twice
    assert "test/again.png, which is train/large.png too" in twice
    assert "2 of 5 images had a shorter side of less than 38 pixels" in enlarged
    assert "train/small.png, had 7 x 9" in enlarged
    assert "profile of 1 image could not be used" in unused
    assert "train/profile.png" in unused
    assert write(tmp_path / "noise", items) == info  # Notes do not make it another dataset.


@pytest.mark.parametrize(
    ("captions", "is_told"),
    [
        ([("a",)], True),
        ([("a", "b")], True),
        ([("a",), (" a ",)], True),
        ([("a", "b"), ("b", "a")], True),
        ([("a",), ("b",)], False),
        ([("a", "b"), ("a",)], False),
    ],
)
def test_no_mismatched_pair_is_said(tmp_path: Path, captions: list[tuple[str, ...]], is_told: bool) -> None:
    items = [Record(str(n), "train", own, noise(50, 50, n)) for n, own in enumerate(captions)]
    assert any("the same caption" in note for note in write(tmp_path / "noise", items).notes) == is_told


def test_workers_are_started_where_no_signal_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python calls signal handlers, which raise, in its main thread alone."""
    started_in = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers: int, **_: object) -> None:
            super().__init__(workers)

        def submit(self, *call: Any) -> Any:  # type: ignore[override]
            started_in.append(threading.current_thread())
            return super().submit(*call)

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", Pool)
    assert [result for _, result in in_order(abs, range(-9, 0), 2)] == [*range(9, 0, -1)]
    assert threading.main_thread() not in started_in
    assert len(started_in) == 9


def test_commands_that_are_told_can_be_copied(tmp_path: Path) -> None:
    folder = tmp_path / "my set; a"
    folder.mkdir()
    with pytest.raises(DataError, match=re.escape(f"`ratlip prepare '{folder}'`")):
        read_dataset(folder)
    with pytest.raises(DataError, match=re.escape(f"ratlip prepare oxford --raw '{folder}'")):
        oxford.DATASET.located(folder)
    write(tmp_path / "data" / folder.name, records(2), source=str(folder))
    with pytest.raises(DataError, match=re.escape(f"ratlip prepare '{folder}' --image-size 99 --data-dir")):
        resolve_dataset(folder.name, tmp_path / "data", 99)


def test_a_split_without_images_is_said(tmp_path: Path) -> None:
    for split, absent in (("train", "test"), ("test", "train")):
        items = [Record(str(n), split, (f"caption {n}",), noise(50, 50, n)) for n in range(2)]
        (note,) = write(tmp_path / split, items).notes
        assert note.startswith(f"no image is in the {absent} split")
    with pytest.raises(DataError, match=r"no split 'test'\. It has: train\. .*prepare it again"):
        read_split(tmp_path / "train", "test")


def test_a_dataset_with_nothing_worth_knowing_has_no_notes(tmp_path: Path) -> None:
    assert write(tmp_path / "noise", records()).notes == ()
    file = tmp_path / "noise" / "dataset.json"
    description = json.loads(file.read_text())
    del description["notes"]  # As earlier versions wrote it.
    file.write_text(json.dumps(description))
    before = file.read_bytes()
    assert write(tmp_path / "noise", stopping([], 0)).notes == ()
    assert file.read_bytes() == before


@pytest.mark.parametrize("after", [0, 2, 3, 6])
def test_notes_and_splits_are_the_same_after_an_interruption(tmp_path: Path, after: int) -> None:
    items: list[Record | Problem] = [
        Record(str(n), "train", ("a caption",), noise(20 + n, 40, n % 3), rank=(n * 7 % 5) / 5) for n in range(6)
    ]
    info = write(tmp_path / "whole", items)
    assert info.counts == {"train": 5, "test": 1}
    with pytest.raises(Stopped):
        write(tmp_path / "noise", stopping(items, after))
    assert write(tmp_path / "noise", items) == info
    assert contents(tmp_path / "noise") == contents(tmp_path / "whole")


TERMINATED = Interrupted("terminated; what was finished is kept.", signal.SIGTERM)


@pytest.mark.parametrize(
    ("where", "workers", "stop"),
    [
        *itertools.product(
            ("the source", "a decoder", "what an earlier run wrote", "the progress"),
            (1,),
            (TERMINATED, KeyboardInterrupt()),
        ),
        ("the source", 2, TERMINATED),  # Workers themselves end at once, by the signal's default.
        ("the progress", 2, TERMINATED),
    ],
)
def test_an_interruption_leaves_no_image_out_and_no_set_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException, workers: int, where: str
) -> None:
    def stopped(*_: object) -> None:
        raise stop

    def source() -> Iterator[Record | Problem]:
        yield from files[:3]
        if where == "the source":
            stopped()
        yield from files[3:]

    files: list[Record | Problem] = []
    for number in range(6):
        noise(50, 50, number).save(tmp_path / f"{number}.png")
        files.append(Record(str(number), "train", (f"number {number}",), tmp_path / f"{number}.png"))
    out = tmp_path / "noise"
    if where == "what an earlier run wrote":
        with pytest.raises(Stopped):
            write(out, stopping(files, 4))
    with monkeypatch.context() as patch:
        if where == "a decoder":
            patch.setattr("PIL.ImageFile.ImageFile.load", stopped)
        if where == "what an earlier run wrote":
            patch.setattr("PIL.PngImagePlugin.PngImageFile.verify", stopped)
        with pytest.raises(type(stop)):
            write(out, source(), workers=workers, progress=stopped if where == "the progress" else silent)
    assert not out.exists()
    info = write(out, files)
    assert (info.counts, info.left_out) == ({"train": 6}, ())


def test_a_set_that_lost_an_image_to_a_signal_is_not_finished(tmp_path: Path) -> None:
    """Earlier versions took the signal for damage, and the set as finished."""
    whole = write(tmp_path / "noise", records())
    file = tmp_path / "noise" / "dataset.json"
    lost = {"name": "image-3", "reason": "the image is damaged or cut short: terminated; what was finished is kept."}
    description = json.loads(file.read_text())
    file.write_text(json.dumps(description | {"left_out": [lost], "counts": {"train": 8, "test": 3}}))
    assert write(tmp_path / "noise", records()) == whole
    assert check_dataset(tmp_path / "noise") == []
