"""Your own images: what is in the folder is read right, or left out by name and reason."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from ratlip_cli.data.layout import DatasetInfo, Problem, Record, read_split
from ratlip_cli.data.sources.own_images import Options, count, fingerprint, records
from ratlip_cli.data.writer import write_dataset
from ratlip_cli.errors import DataError, UsageError


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
