"""Your own images: what is in the folder is read right, or left out by name and reason."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from ratlip_cli.data.folders import read_folder
from ratlip_cli.data.layout import DatasetInfo, Problem, Record, check_dataset, read_split
from ratlip_cli.data.prepare import PrepareRequest, prepare, resolve_dataset
from ratlip_cli.data.sources.own_images import Options, count, fingerprint, passed_over, records
from ratlip_cli.data.writer import write_dataset
from ratlip_cli.errors import DataError, UsageError
from ratlip_cli.outputs import RECORDS_FILE, ImageFolder
from ratlip_cli.samples import Sample


def image(file: Path, captions: str | bytes | None = None) -> None:
    """Write a small image and, where given, the text file of its captions."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), "red").save(file)
    if captions is not None:
        text = captions if isinstance(captions, bytes) else captions.encode()
        file.with_suffix(".txt").write_bytes(text)


def read(folder: Path, options: Options | None = None) -> tuple[dict[str, Record], dict[str, str]]:
    """Return the records by the paths of their images and the problems by their names."""
    found = list(records(folder, options or Options()))
    good = {item.origin: item for item in found if isinstance(item, Record)}
    bad = {item.name: item.reason for item in found if isinstance(item, Problem)}
    assert len(good) + len(bad) == len(found)
    return good, bad


def captions(found: Mapping[str, Record]) -> dict[str, tuple[str, ...]]:
    return {origin: record.captions for origin, record in found.items()}


def metadata(folder: Path, *rows: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def test_a_text_file_beside_each_image(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg", "a red square\nall red\n")
    image(tmp_path / "b.PNG", "\ufeffwith a byte order mark\r\nund Umlauten: äöü\r\n")
    image(tmp_path / "roses" / "a.jpg", "in a folder")
    good, bad = read(tmp_path)
    assert bad == {}
    assert captions(good) == {
        "a.jpg": ("a red square", "all red"),
        "b.PNG": ("with a byte order mark", "und Umlauten: äöü"),
        "roses/a.jpg": ("in a folder",),
    }
    assert [record.name for record in good.values()] == ["a", "b", "roses_a"]
    assert count(tmp_path) == 3


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    image(tmp_path / "good.jpg", "a caption")
    image(tmp_path / "alone.jpg")
    image(tmp_path / "latin.jpg", "caf\xe9".encode("latin-1"))
    image(tmp_path / "windows.jpg", "a caption".encode("utf-16"))
    image(tmp_path / "phone.jpg", "a caption")
    (tmp_path / "phone.jpg").rename(tmp_path / "phone.heic")
    (tmp_path / "README.txt").write_text("not a caption")
    (tmp_path / "good.json").write_text("{}")
    image(tmp_path / ".hidden" / "x.jpg", "a caption")
    good, bad = read(tmp_path)
    assert captions(good) == {"good.jpg": ("a caption",), "windows.jpg": ("a caption",)}
    assert bad == {
        "alone.jpg": "it has no caption: alone.txt is missing",
        "latin.jpg": "latin.txt is not UTF-8, by its looks Windows-1252; save latin.txt as UTF-8",
        "phone.heic": "not a kind of image that can be read; convert it to PNG or JPEG",
    }


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_table_names_images_and_captions(tmp_path: Path, kind: str) -> None:
    rows = [
        {"file_name": "a.jpg", "text": "a red square", "class": "square"},
        {"file_name": "more/b.jpg", "text": 'quoted "red",\nin two lines', "class": "square"},
    ]
    for row in rows:
        image(tmp_path / row["file_name"])
    image(tmp_path / "unnamed.jpg", "a text file beside a table does not count")
    if kind == "jsonl":
        metadata(tmp_path, *rows, "")
    else:
        with (tmp_path / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["file_name", "text", "class"])
            writer.writeheader()
            writer.writerows(rows)
    good, bad = read(tmp_path)
    assert captions(good) == {"a.jpg": ("a red square",), "more/b.jpg": ('quoted "red",\nin two lines',)}
    assert good["a.jpg"].extra == {"class": "square"}
    assert bad == {"unnamed.jpg": f"it has no caption: metadata.{kind} does not name it"}


def test_captions_are_found_in_the_column_that_is_there_or_asked_for(tmp_path: Path) -> None:
    metadata(
        tmp_path,
        {"file_name": "a.jpg", "captions": ["one", "two"], "text": "a text"},
        {"file_name": "b.jpg", "caption": "three", "text": "b text"},
        {"file_name": "c.jpg", "title": "four"},
        {"file_name": "d.jpg", "captions": None, "text": "five"},
    )
    good, bad = read(tmp_path)
    assert captions(good) == {"a.jpg": ("one", "two"), "b.jpg": ("three",), "d.jpg": ("five",)}
    assert bad == {"c.jpg": "it has no caption: no column captions or caption or text among file_name, title"}
    good, bad = read(tmp_path, Options(caption_column="title"))
    assert captions(good) == {"c.jpg": ("four",)}
    assert set(bad) == {"a.jpg", "b.jpg", "d.jpg"}


def test_bad_rows_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    metadata(
        tmp_path,
        '{"file_name": "a.jpg", "text": "cut sho',
        "[1, 2]",
        "[" * 100_000,
        {"text": "no file"},
        {"file_name": "../a.jpg", "text": "outside"},
        {"file_name": "/etc/a.jpg", "text": "outside"},
        {"file_name": "number.jpg", "text": 3},
        {"file_name": "mixed.jpg", "captions": ["one", 2]},
        '{"file_name": "a.jpg", "text": "good", "weight": NaN}',
    )
    with (tmp_path / "metadata.jsonl").open("ab") as file:
        file.write(b'\n{"file_name": "latin.jpg", "text": "caf\xe9"}')
    good, bad = read(tmp_path)
    assert good["a.jpg"].captions == ("good",)
    assert good["a.jpg"].extra == {"weight": None}
    assert set(bad) == {
        *(f"metadata.jsonl, line {number}" for number in (1, 2, 3)),
        *("metadata.jsonl", "../a.jpg", "/etc/a.jpg", "number.jpg", "mixed.jpg", "latin.jpg"),
    }
    assert bad["latin.jpg"] == "its caption is not UTF-8, by its looks Windows-1252; save metadata.jsonl as UTF-8"
    assert write(tmp_path, tmp_path / "out") == bad


def write(folder: Path, out: Path) -> dict[str, str]:
    """Write the folder as a dataset and return what was left out."""
    info = DatasetInfo(name="own", source=str(folder), licence="", image_size=32, split_rule="")
    info = write_dataset(out, records(folder, Options(test_fraction=0)), info)
    return {problem.name: problem.reason for problem in info.left_out}


def test_bad_csv_rows_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    lines = [b"file_name,text", b"a.jpg,good", b"b.jpg,one,two", b"c.jpg", b"d.jpg,nul \0", b"e.jpg," + b"x" * 200_000]
    (tmp_path / "metadata.csv").write_bytes(b"\n".join([*lines, b"f.jpg,good"]))
    good, bad = read(tmp_path)
    assert {"a.jpg", "f.jpg"} <= set(good)
    assert {"metadata.csv, line 3", "c.jpg", "metadata.csv, line 6"} <= set(bad)


def test_columns_that_name_files_are_not_taken_over(tmp_path: Path) -> None:
    metadata(tmp_path, {"file_name": "a.jpg", "text": "a", "mask_file_name": "m.png", "image": "x", "artist": "me"})
    good, _ = read(tmp_path)
    assert good["a.jpg"].extra == {"artist": "me"}


def test_folders_train_and_test_are_the_splits(tmp_path: Path) -> None:
    for name in ("train/1.jpg", "train/2.jpg", "test/1.jpg"):
        image(tmp_path / name, name)
    good, bad = read(tmp_path, Options(test_fraction=0.5))
    assert bad == {}
    assert [(record.split, record.name) for record in good.values()] == [("test", "1"), ("train", "1"), ("train", "2")]


def test_a_table_in_each_split_or_one_above_them(tmp_path: Path) -> None:
    for split in ("train", "test"):
        metadata(tmp_path / "each" / split, {"file_name": "1.jpg", "text": split})
    metadata(tmp_path / "above", *({"file_name": f"{split}/1.jpg", "text": split} for split in ("train", "test")))
    for folder in ("each", "above"):
        good, _ = read(tmp_path / folder)
        assert {(record.split, record.name, record.captions) for record in good.values()} == {
            ("train", "1", ("train",)),
            ("test", "1", ("test",)),
        }


def test_the_split_is_by_name_alone(tmp_path: Path) -> None:
    names = [f"image {number}" for number in range(2000)]
    options = Options(test_fraction=0.2, seed=1)
    test = {name for name in names if options.split(name) == "test"}
    assert 330 < len(test) < 470  # four standard deviations
    larger = Options(test_fraction=0.3, seed=1)
    assert test < {name for name in names if larger.split(name) == "test"}
    other = {name for name in names if Options(test_fraction=0.2, seed=2).split(name) == "test"}
    assert 30 < len(test & other) < 130
    assert {Options(test_fraction=0).split(name) for name in names} == {"train"}
    image(tmp_path / "image 3.jpg", "a caption")
    assert read(tmp_path, options)[0]["image 3.jpg"].split == options.split("image 3")


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 7, float("nan")])
def test_an_impossible_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(UsageError, match="test fraction"):
        Options(test_fraction=fraction)


def test_prepared_datasets_inside_the_folder_are_not_read(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg", "a caption")
    before = fingerprint(tmp_path)
    write(tmp_path, tmp_path / "data" / "own")
    assert [entry.file.name for entry in read_split(tmp_path / "data" / "own", "train")] == ["a.png"]
    assert list(read(tmp_path)[0]) == ["a.jpg"]
    assert fingerprint(tmp_path) == before


def test_the_fingerprint_changes_with_every_file(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg", "a caption")
    seen = {fingerprint(tmp_path)}
    assert fingerprint(tmp_path) in seen
    (tmp_path / "a.txt").write_text("b caption")
    os.utime(tmp_path / "a.txt", ns=(1, 1))
    seen.add(fingerprint(tmp_path))
    image(tmp_path / "folder" / "b.jpg", "a caption")
    seen.add(fingerprint(tmp_path))
    (tmp_path / "folder" / "b.jpg").rename(tmp_path / "folder" / "c.jpg")
    seen.add(fingerprint(tmp_path))
    assert len(seen) == 4


def test_a_missing_folder_or_a_file_is_one_clear_line(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is a file"):
        read(tmp_path / "a.jpg")


def link(file: Path, target: Path | str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(target)


def test_links_are_followed_and_those_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    image(tmp_path / "elsewhere" / "inner" / "a.png", "a caption")
    image(tmp_path / "photos" / "own.png", "a caption")
    link(tmp_path / "photos" / "images", tmp_path / "elsewhere")
    link(tmp_path / "photos" / "train" / "one.png", "../../elsewhere/inner/a.png")
    link(tmp_path / "photos" / "train" / "one.txt", "../../elsewhere/inner/a.txt")
    link(tmp_path / "photos" / "test", "../elsewhere/inner")
    link(tmp_path / "photos" / "gone.png", "/nowhere/x.png")
    link(tmp_path / "photos" / "self.png", "self.png")
    good, bad = read(tmp_path / "photos")
    assert list(good) == ["own.png", "images/inner/a.png", "train/one.png"]
    assert set(bad) == {"gone.png", "self.png"}
    assert "/nowhere/x.png" in bad["gone.png"]
    assert passed_over(tmp_path / "photos") == ("passed over links to folders that are read anyway: test",)
    assert count(tmp_path / "photos") == 3


@pytest.mark.parametrize("target", [".", "..", "../..", "a", "other/..", "a/b/../.."])
def test_links_in_circles_end(tmp_path: Path, target: str) -> None:
    top = tmp_path / "x" / "photos"
    image(top / "a" / "b" / "1.png", "a caption")
    (top / "other").mkdir()
    link(top / "circle", target)
    assert list(read(top)[0]) == ["a/b/1.png"]
    assert passed_over(top) == ("passed over links to folders that are read anyway: circle",)
    assert len(fingerprint(top)) == 64


def test_links_that_lead_to_one_another_end(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        image(tmp_path / one / f"{one}.png", "a caption")
        link(tmp_path / one / "other", tmp_path / other)
    link(tmp_path / "photos" / "both", tmp_path / "a")
    assert list(read(tmp_path / "photos")[0]) == ["both/a.png", "both/other/b.png"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes in folders")
def test_what_is_neither_file_nor_folder_is_named(tmp_path: Path) -> None:
    image(tmp_path / "a.png", "a caption")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("/dev/null")
    (tmp_path / "d.png").symlink_to("nowhere.png")
    good, bad = read(tmp_path)
    assert list(good) == ["a.png"]
    reason = "neither a file nor a folder, but a pipe, socket or device"
    assert bad == {"b.png": reason, "c.png": reason, "d.png": "a link to nowhere.png, which is not there"}


def test_a_folder_that_may_not_be_read_is_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    image(folder / "a.png", "a caption")

    def refuse(path: os.PathLike[str], **options: object) -> os.stat_result:
        if os.fspath(path) == str(folder / "dataset.json"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return stat(path, **options)  # type: ignore[arg-type]

    def scan(path: os.PathLike[str]) -> object:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    stat = os.stat
    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(os, "scandir", scan)
    for call in (
        lambda: prepare(PrepareRequest(str(folder), tmp_path / "data", workers=1)),
        lambda: resolve_dataset(str(folder), tmp_path / "data", 16),
    ):
        with pytest.raises(DataError, match=r"cannot read \S+photos: Permission denied\. Check"):
            call()


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    for ending in ("jfif", "jpe", "pjpeg", "JPG"):
        image(tmp_path / "a.jpg", "a caption")
        (tmp_path / "a.jpg").rename(tmp_path / f"{ending}.{ending}")
        (tmp_path / "a.txt").rename(tmp_path / f"{ending}.txt")
    for name in ("phone.heic", "raw.NEF", "Thumbs.db", "desktop.ini", "notes.md", "b.png.part", "README.txt"):
        (tmp_path / name).write_bytes(b"II*\0" if name.endswith("NEF") else b"something")
    good, bad = read(tmp_path)
    assert len(good) == count(tmp_path) == 4
    assert set(bad) == {"phone.heic", "raw.NEF"}
    assert passed_over(tmp_path) == (
        "passed over files that are neither images nor captions: Thumbs.db, b.png.part, desktop.ini and 1 more",
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "prices.csv").write_text("what,price\nfilm,1\n")
    (tmp_path / "captions.csv").write_text("file,caption\njpe.jpe,a caption\n")
    assert passed_over(tmp_path)[1:] == (
        "passed over tables without columns of image names and captions: in/prices.csv",
    )
    assert passed_over(tmp_path, Options(caption_column="captoin"))[1:] == (
        "passed over tables without columns of image names and captions called 'captoin': captions.csv, in/prices.csv",
    )


def test_what_ratlip_wrote_is_left_out_and_named(tmp_path: Path, tiny_dataset: Path) -> None:
    image(tmp_path / "own" / "0001_a.png", "mine, though numbered")
    image(tmp_path / "mixed" / "mine.png", "mine, though figures are here")
    before = fingerprint(tmp_path)
    image(tmp_path / "runs" / "a-1" / "samples" / "step_1.png", "not mine")
    (tmp_path / "runs" / "a-1" / "config.toml").touch()
    (tmp_path / "runs" / "a-1" / "metrics.jsonl").touch()
    sample = Sample(Image.new("RGB", (8, 8)), "a bird", 0, 0, 0, 1.0, "model", "0123", 0.5)
    generated = ImageFolder(tmp_path / "generated")
    generated.save(sample)
    generated.save_grid([sample])
    for folder in ("latent", "mixed"):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "0000_figure.png")
        (tmp_path / folder / "0000_figure.json").write_text('{"says": []}')
    shutil.copytree(tiny_dataset, tmp_path / "data" / "colours")
    image(tmp_path / "data" / "downloads" / "x.png", "not mine")
    good, bad = read(tmp_path)
    assert list(good) == ["mixed/mine.png", "own/0001_a.png"]
    assert set(bad) == {"mixed/0000_figure.png"}
    written = "data/colours, data/downloads, generated and 2 more"
    assert passed_over(tmp_path) == (f"passed over folders that ratlip wrote: {written}",)
    assert RECORDS_FILE == "images.jsonl"
    assert [file.name for file in read_folder(tmp_path / "generated").images()] == [
        "0000_a-bird_0.png",
        "0000_grid.png",
    ]
    both = {file.name for file in read_folder(tmp_path, with_written=True).images()}
    assert {"0000_a-bird_0.png", "step_1.png"} <= both
    for file in (tmp_path / "mixed").glob("0000*"):
        file.unlink()
    assert fingerprint(tmp_path) == before


def test_a_description_that_is_not_ours_does_not_hide_a_folder(tmp_path: Path) -> None:
    image(tmp_path / "faces" / "1.png", "a caption")
    (tmp_path / "faces" / "dataset.json").write_text('{"labels": null}')
    assert list(read(tmp_path)[0]) == ["faces/1.png"]


def test_what_may_not_be_read_is_named_and_the_rest_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.png", "b/1.png", "c/1.png", "d/1.png"):
        image(tmp_path / name, "a caption")
    metadata(tmp_path / "c", {"file_name": "1.png", "text": "a caption"})
    scan, opened = os.scandir, Path.open

    def refuse(path: Path) -> None:
        if path in {tmp_path / "b", tmp_path / "c" / "metadata.jsonl", tmp_path / "d" / "1.png"}:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", lambda path: refuse(Path(path)) or scan(path))
    monkeypatch.setattr(Path, "open", lambda path, *given, **named: refuse(path) or opened(path, *given, **named))
    good, bad = read(tmp_path)
    assert list(good) == ["a/1.png", "d/1.png"]
    assert set(bad) == {"b", "c/metadata.jsonl"}
    assert all("Permission denied" in reason for reason in bad.values())
    assert len(fingerprint(tmp_path)) == 64
    with pytest.raises(DataError, match=r"cannot read .*b: Permission denied"):
        read(tmp_path / "b")


@pytest.mark.parametrize("count", [2, 3, 20])
@pytest.mark.parametrize("fraction", [1e-9, 0.999999999])
def test_each_split_that_was_promised_gets_an_image(tmp_path: Path, count: int, fraction: float) -> None:
    for number in range(count):
        image(tmp_path / "photos" / f"{number}.png", f"number {number}")
    options = Options(test_fraction=fraction)
    empty, full = ("test", "train") if fraction < 0.5 else ("train", "test")
    info = prepared(tmp_path / "photos", tmp_path / "out", options)
    assert info.counts == {empty: 1, full: count - 1}
    assert not any("too few" in note for note in info.notes)
    (moved,) = read_split(tmp_path / "out", empty)
    assert moved.captions == (f"number {moved.file.stem}",)
    nearest = min if empty == "test" else max
    assert moved.file.stem == nearest((entry.stem for entry in (tmp_path / "photos").glob("*.png")), key=options.rank)
    assert check_dataset(tmp_path / "out") == []


def test_no_split_is_filled_that_was_not_promised(tmp_path: Path) -> None:
    for number in range(3):
        image(tmp_path / "photos" / f"{number}.png", "a caption")
        image(tmp_path / "sorted" / "train" / f"{number}.png", "a caption")
    assert prepared(tmp_path / "photos", tmp_path / "none", Options(test_fraction=0)).counts == {"train": 3}
    assert prepared(tmp_path / "sorted", tmp_path / "train", Options(test_fraction=0.1)).counts == {"train": 3}
    image(tmp_path / "one" / "x.png", "a caption")
    for fraction, split in ((0.1, "train"), (0.999999999, "test")):
        options = Options(test_fraction=fraction)
        assert options.split("x") == split
        info = prepared(tmp_path / "one", tmp_path / f"by its name {split}", options)
        assert info.counts == {"train": 1}
        assert "no image is in the test split: 1 image is too few for two splits" in info.notes
        assert check_dataset(tmp_path / f"by its name {split}") == []
        assert not (tmp_path / f"by its name {split}" / "test").exists()


def prepared(folder: Path, out: Path, options: Options) -> DatasetInfo:
    info = DatasetInfo(name="own", source=str(folder), licence="", image_size=32, split_rule="")
    return write_dataset(out, records(folder, options), info)


def test_images_of_one_path_after_flattening_are_all_kept(tmp_path: Path) -> None:
    names = ["a_b.png", "a/b.png", "a_b.jpg", "A/b.png", "train/a_b.png", "train/a/b.png"]
    for number, name in enumerate(names):
        image(tmp_path / "photos" / name, f"number {number}")
    info = prepared(tmp_path / "photos", tmp_path / "out", Options(test_fraction=0))
    assert (info.counts, info.left_out) == ({"train": len(names)}, ())
    entries = read_split(tmp_path / "out", "train")
    assert {entry.captions for entry in entries} == {(f"number {number}",) for number in range(1, len(names))}
    assert len({entry.file.name.casefold() for entry in entries}) == len(names)


def test_bytes_of_names_that_are_not_utf8_are_no_reason_to_stop(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        image(folder / os.fsdecode(b"\xe9t\xe9.png"), "a caption")
    except OSError:
        pytest.skip("a file system of UTF-8 alone")
    image(folder / os.fsdecode(b"\xe8.png"))
    request = PrepareRequest(str(folder), tmp_path / "data", image_size=32, workers=1)
    first = prepare(request)
    assert first.info.counts == {"train": 1}
    assert [problem.name for problem in first.info.left_out] == ["\\udce8.png"]
    (entry,) = read_split(first.path, "train")
    assert (entry.file.name, entry.extra) == ("_t_.png", {"origin": "\\udce9t\\udce9.png"})
    assert prepare(request).before == first.info


def test_a_name_that_no_file_can_have_costs_its_row_alone(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    metadata(
        tmp_path,
        *(
            {"file_name": name, "text": "a caption"}
            for name in ("x" * 300 + ".png", "a.png", "y" * 5000 + ".png", "b.png")
        ),
    )
    info = write(tmp_path, tmp_path / "out")
    assert set(info) == {"x" * 300 + ".png", "y" * 5000 + ".png", "b.png"}
    assert "name too long" in info["x" * 300 + ".png"]
