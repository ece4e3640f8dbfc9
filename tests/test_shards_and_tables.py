"""Your own images as WebDataset shards, or as a table that names them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from command_line import ratlip
from PIL import Image

from ratlip_cli.data import archives
from ratlip_cli.data.layout import DatasetInfo, Problem, Record, read_dataset, read_split
from ratlip_cli.data.prepare import PrepareRequest, own_folder, prepare, resolve_dataset
from ratlip_cli.data.sources import own_images, webdataset
from ratlip_cli.data.sources.own_images import Options, count, fingerprint, records
from ratlip_cli.data.sources.tables import Row
from ratlip_cli.errors import DataError


def png(colour: str = "red") -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(written, "PNG")
    return written.getvalue()


def shard(file: Path, files: Mapping[str, bytes | str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:gz" if file.name.endswith("gz") else "w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def read(path: Path, **options: object) -> tuple[dict[str, Record], dict[str, str]]:
    """Return the records by their names and the problems by theirs."""
    found = list(records(path, Options(**options)))
    good = {item.name: item for item in found if isinstance(item, Record)}
    bad = {item.name: item.reason for item in found if isinstance(item, Problem)}
    assert len(good) + len(bad) == len(found)
    return good, bad


@pytest.mark.parametrize("name", ["photos.tar", "photos.tar.gz", "photos.tgz"])
def test_a_shard_is_read(tmp_path: Path, name: str) -> None:
    place = shard(
        tmp_path / name,
        {
            "000.jpg": png(),
            "000.txt": "a red square\nall red\n",
            "001.json": json.dumps({"caption": "a blue square", "width": 40, "url": None}),
            "001.PNG": png("blue"),
            "a/002.seg.png": png(),
            "a/002.json": json.dumps({"captions": ["one", "two"], "file_name": "x"}),
            "a/002.cls": "7",
        },
    )
    good, bad = read(place)
    assert bad == {}
    assert {name: record.captions for name, record in good.items()} == {
        "photos_000": ("a red square", "all red"),
        "photos_001": ("a blue square",),
        "photos_a_002.seg": ("one", "two"),
    }
    assert good["photos_000"].image == png()
    assert good["photos_001"].extra == {"width": 40, "url": None}
    assert good["photos_001"].origin == "photos/001.PNG"
    assert own_images.name(place) == "photos"


def test_shards_of_a_folder_keep_their_samples_apart(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "train", "test")):
        shard(tmp_path / split / f"{number:05d}.tar", {"0.jpg": png(), "0.txt": f"shard {number}"})
    good, bad = read(tmp_path)
    assert bad == {}
    assert {name: record.split for name, record in good.items()} == {
        "00000_0": "train",
        "00001_0": "train",
        "00002_0": "test",
    }
    assert count(tmp_path) is None


def test_what_cannot_be_used_of_a_shard_is_named(tmp_path: Path) -> None:
    place = shard(
        tmp_path / "x.tar",
        {
            "no-caption.jpg": png(),
            "latin.jpg": png(),
            "latin.txt": "caf\xe9".encode("latin-1"),
            "json.jpg": png(),
            "json.json": "{",
            "empty.jpg": png(),
            "empty.txt": " \n",
            "alone.txt": "no image",
            "column.jpg": png(),
            "column.json": json.dumps({"title": "another column"}),
            "../out.jpg": png(),
            "good.jpg": png(),
            "good.txt": "good",
        },
    )
    whole = place.read_bytes()
    place.write_bytes(whole[: len(whole.rstrip(b"\0"))] + bytes(100))
    info = prepared(tmp_path, tmp_path / "out" / "x")
    assert info.counts == {"train": 1}
    problems = {problem.name: problem.reason for problem in info.left_out}
    assert "cut short" in problems.pop("x.tar/its rest")
    assert problems == {
        "x/no-caption.jpg": "it has no caption",
        "x.tar/latin.jpg": "latin.txt is not UTF-8, by its looks Windows-1252; save latin.txt as UTF-8",
        "x.tar/json.jpg": "not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        "x/empty.jpg": "it has no caption",
        "x.tar/alone": "it has no image",
        "x/column.jpg": "it has no caption: no column captions or caption or text among title",
        "x.tar/../out.jpg": "it would land outside its folder, and is refused",
    }
    titled = [name for name, record in read(place, caption_column="title")[0].items() if record.captions]
    assert titled == ["x_column"]


@pytest.mark.parametrize("ending", ["txt", "json", "caption"])
def test_base_names_that_differ_behind_the_first_dot_are_samples_of_their_own(tmp_path: Path, ending: str) -> None:
    names = ("22.05", "22.06", "v1.0 red", "c")
    texts = {f"{name}.{ending}": json.dumps({"caption": name}) if ending == "json" else name for name in names}
    good, bad = read(shard(tmp_path / "x.tar", {f"{name}.png": png() for name in names} | texts))  # unsorted, too
    assert bad == {}
    assert {record.origin: record.captions for record in good.values()} == {f"x/{name}.png": (name,) for name in names}


def without_captions(folder: Path, kind: str) -> tuple[Path, int]:
    """Two images beside data on each that hold no caption of one, or of both; and how many lack one."""
    caption: dict[str, object] = {} if kind.endswith("no column") else {"caption": None}
    rows: list[dict[str, object]] = [{"file_name": f"{name}.png", "width": 40, **caption} for name in "ab"]
    for row in rows if kind.split()[0] in ("jsonl", "csv", "coco") else ():
        (folder / str(row["file_name"])).write_bytes(png())
    if kind == "shard":
        files = {
            f"{name}.{end}": png() if end == "jpg" else '{"caption": null}' for name in "ab" for end in ("jpg", "json")
        }
        return shard(folder / "x.tar", files), 2
    if kind == "coco":
        content = {"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]}
        annotations = [{"image_id": 1, "caption": "a bird"}]
        (folder / "captions.json").write_text(json.dumps(content | {"annotations": annotations}))
        return folder / "captions.json", 1
    if kind.startswith("parquet"):
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow.parquet import write_table

        texts = {"caption": ["a bird", None]} if caption else {}
        write_table(
            pyarrow.table({"image": [{"bytes": png(), "path": row["file_name"]} for row in rows], **texts}),
            folder / "x.parquet",
        )
        return folder / "x.parquet", 1 if caption else 2
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder, 2


@pytest.mark.parametrize("kind", ["shard", "jsonl", "jsonl no column", "parquet", "parquet no column", "coco"])
def test_images_are_kept_whose_data_say_no_caption(tmp_path: Path, kind: str) -> None:
    place, lacking = without_captions(tmp_path, kind)
    good, bad = read(place)
    assert (len(good), len(bad)) == (2 - lacking, lacking)
    assert all(reason.startswith("it has no caption") for reason in bad.values())
    good, bad = read(place, keep_uncaptioned=True)
    assert (sorted(record.captions for record in good.values())[:lacking], bad) == ([()] * lacking, {})
    good, bad = read(place, caption="a photo")
    assert ([record.captions for record in good.values()].count(("a photo",)), bad) == (lacking, {})
    if "column" in kind:
        good, bad = read(place, caption_column="caption", keep_uncaptioned=True)
        assert (good, len(bad)) == ({}, 2)


def test_images_that_share_a_caption_or_a_name_are_both_named(tmp_path: Path) -> None:
    place = tmp_path / "x.tar"
    with tarfile.open(place, "w") as archive:
        for name in ("s.input.png", "s.mask.png", "s.txt", "a.png", "a.txt", "a.png", "a.seg.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png())
            archive.addfile(info, io.BytesIO(png() if name.endswith("png") else b"a caption".ljust(info.size)))
    good, bad = read(place)
    assert {record.origin for record in good.values()} == {"x/s.input.png", "x/a.png"}
    assert bad == {
        "x.tar/s.mask.png": "the caption of its sample went to s.input.png; give each image its own",
        "x.tar/a.png": "two images of the shard are called a.png; the first is taken",
        "x.tar/a.seg.png": "the caption of its sample went to a.png; give each image its own",
    }


@pytest.mark.parametrize(
    "names",
    [
        ("000.depth.png", "000.jpg", "000.txt"),
        ("000.jpg", "000.mask.png", "000.txt"),
        ("000.input.png", "000.mask.png", "000.txt", "001.png", "001.txt"),
        ("000.depth.png", "000.depth.txt", "000.jpg", "000.txt"),
        ("000.jpg", "000.txt", "000.jpg"),
        ("000.a.png", "000.b.png", "001.json"),
        ("22.05.jpg", "22.05.txt", "22.06.jpg", "22.06.txt"),
    ],
)
@pytest.mark.parametrize("asked", [None, "text"])
def test_a_stream_gives_captions_to_the_images_to_which_prepare_does(
    tmp_path: Path, names: Sequence[str], asked: str | None
) -> None:
    place = tmp_path / "x.tar"
    with tarfile.open(place, "w") as archive:
        for name in names:
            content = {"txt": f"of {name}".encode(), "json": b"{}"}.get(name.rpartition(".")[2], name.encode())
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with place.open("rb") as opened:
        streamed = list(webdataset.streamed(opened, asked))
    assert Counter(map(str, streamed)) == Counter(map(str, webdataset.samples(place, asked)))


def streamed(content: bytes) -> tuple[list[tuple[str, tuple[str, ...]]], str]:
    """The images of a shard that is read as it streams, with their captions, and what ends it."""
    found = []
    try:
        for row in webdataset.streamed(io.BytesIO(content)):
            assert isinstance(row, Row), row
            found.append((row.file_name, row.captions))
    except tarfile.TarError as error:
        return found, str(error)
    return found, ""


def test_a_stream_reads_shards_that_macos_packed(tmp_path: Path) -> None:
    clutter = {"._000.jpg": b"\0\5\x16\7", "000.jpg": png(), "._000.txt": b"\0\5\x16\7", "000.txt": "a bird"}
    place = shard(tmp_path / "x.tar", {**clutter, "__MACOSX/000.png": b"\0\5\x16\7"})
    assert streamed(place.read_bytes()) == ([("000.jpg", ("a bird",))], "")


def test_a_stream_reads_joined_shards_to_their_end(tmp_path: Path) -> None:
    one, two = (
        shard(tmp_path / f"{number}.tar", {f"{number}.jpg": png(), f"{number}.txt": number}).read_bytes()
        for number in ("1", "2")
    )
    assert streamed(one + two) == ([("1.jpg", ("1",)), ("2.jpg", ("2",))], "")
    (tmp_path / "both.tar").write_bytes(one + two)
    assert {record.captions for record in read(tmp_path / "both.tar")[0].values()} == {("1",), ("2",)}
    cut = two.rstrip(b"\0").ljust(2048, b"\0")
    assert streamed(one + cut) == ([("1.jpg", ("1",))], "cut short or damaged: it has no end")
    (tmp_path / "both.tar").write_bytes(one + cut)
    assert "both.tar/its rest" in read(tmp_path / "both.tar")[1]


def test_a_stream_reads_all_parts_that_gzip_packed(tmp_path: Path) -> None:
    one, two = (
        shard(tmp_path / f"{number}.tar", {f"{number}.jpg": png(), f"{number}.txt": number}).read_bytes()
        for number in ("1", "2")
    )
    both = [("1.jpg", ("1",)), ("2.jpg", ("2",))]
    assert streamed(gzip.compress(one) + gzip.compress(two)) == (both, "")
    joined = one + two
    assert streamed(b"".join(gzip.compress(joined[k : k + 700]) for k in range(0, len(joined), 700))) == (both, "")


def test_a_stream_refuses_what_would_land_outside_and_links(tmp_path: Path) -> None:
    place = tmp_path / "x.tar"
    with tarfile.open(place, "w") as archive:
        for name in ("../1.png", "2.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png())
            archive.addfile(info, io.BytesIO(png()))
        link = tarfile.TarInfo("3.png")
        link.type, link.linkname = tarfile.SYMTYPE, "2.png"
        archive.addfile(link)
    found = [*webdataset.streamed(io.BytesIO(place.read_bytes()))]
    assert {item.name: item.reason for item in found if isinstance(item, Problem)} == {
        "../1.png": "it would land outside its folder, and is refused",
        "3.png": "a link in an archive is refused",
    }


def test_a_stream_reads_no_name_of_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LARGEST_MEMBER", 4000)
    place = shard(tmp_path / "x.tar", {"1.jpg": png(), f"2{'x' * 5000}.jpg": png()})
    assert streamed(place.read_bytes())[1] == "cut short or damaged: it has no end"


def prepared(source: Path, out: Path) -> DatasetInfo:
    request = PrepareRequest(str(source), out.parent, name=out.name, image_size=32, test_fraction=0, workers=1)
    return prepare(request).info


ROWS = (
    {"image": "images/1.png", "caption": "first of one"},
    {"image": "images/1.png", "caption": "second of one"},
    {"image": "images/1.png", "caption": "first of one"},
    {"image": "images/2.png", "caption": "one of two"},
    {"image": "../3.png", "caption": "outside"},
    {"image": "/etc/4.png", "caption": "outside"},
    {"image": "", "caption": "nothing"},
    {"image": "images/2.png", "caption": "two of two"},
)


def table(file: Path, rows: Sequence[Mapping[str, str]] = ROWS) -> Path:
    (file.parent / "images").mkdir(parents=True, exist_ok=True)
    for number in (1, 2, 3):
        (file.parent / "images" / f"{number}.png").write_bytes(png())
    if file.suffix == ".jsonl":
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        with file.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return file


@pytest.mark.parametrize("name", ["captions.csv", "captions.jsonl"])
def test_a_table_names_images_of_its_folder(tmp_path: Path, name: str) -> None:
    place = table(tmp_path / name)
    info = prepared(place, tmp_path / "out")
    assert info.name == "captions"
    assert info.counts == {"train": 2}
    entries = read_split(tmp_path / "out", "train")
    assert [(entry.file.name, entry.captions) for entry in entries] == [
        ("images_1.png", ("first of one", "second of one")),
        ("images_2.png", ("one of two", "two of two")),
    ]
    problems = [(problem.name, problem.reason.split(":")[0]) for problem in info.left_out]
    assert problems == [
        ("../3.png", "it lies outside its folder"),
        ("/etc/4.png", "it lies outside its folder"),
        (name, "a row has no file_name"),
    ]
    assert count(place) == 2


def test_a_path_from_the_root_that_leads_into_the_folder_is_taken(tmp_path: Path) -> None:
    row = {"path": str(tmp_path / "images" / "1.png"), "title": "a title"}
    good, bad = read(table(tmp_path / "x.csv", [row]), caption_column="title")
    assert (list(good), bad) == (["images_1"], {})


def test_the_state_of_a_table_is_that_of_its_images(tmp_path: Path) -> None:
    place = table(tmp_path / "x.csv")
    before = fingerprint(place)
    (tmp_path / "images" / "3.png").write_bytes(png("blue") + b"not named")
    assert fingerprint(place) == before
    (tmp_path / "images" / "1.png").write_bytes(png("blue") + b"named")
    assert fingerprint(place) != before
    single = shard(tmp_path / "x.tar", {"0.jpg": png()})
    before = fingerprint(single)
    shard(single, {"0.jpg": png(), "0.txt": "changed"})
    assert fingerprint(single) != before


def test_a_file_of_another_kind_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "x.xlsx").touch()
    with pytest.raises(DataError, match=r"x.xlsx is a file. Give the folder"):
        list(records(tmp_path / "x.xlsx", Options()))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "tar"])
def test_the_command_takes_them_and_so_does_a_dataset_option(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RATLIP_DATA", raising=False)
    path = Path(f"photos.{kind}")
    if kind == "tar":
        shard(path, {"0.png": png(), "0.txt": "a", "1.png": png(), "1.txt": "b"})
    else:
        table(path, ROWS[:4])
    answer = ratlip("prepare", path, "--image-size", 32, "--test-fraction", 0, "--workers", 1)
    assert (answer.code, answer.out) == (0, "data/photos\n")
    assert "2 train" in answer.err
    assert "nothing to do" in ratlip("prepare", path, "--image-size", 32, "--test-fraction", 0).err
    assert resolve_dataset(str(path), Path("data"), 32) == own_folder(path, Path("data")) == Path("data/photos")
    assert read_dataset(Path("data/photos")).counts == {"train": 2}
