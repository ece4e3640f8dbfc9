"""Tables of captions as people have them: what they name is found, and one bad row costs nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from own_records import read
from PIL import Image

from ratlip_cli.data.archives import Member
from ratlip_cli.data.layout import Problem, Record
from ratlip_cli.data.sources import tables
from ratlip_cli.data.sources.own_images import Options, count, fingerprint, records
from ratlip_cli.data.sources.tables import Row
from ratlip_cli.errors import DataError, RatlipError

SAID = {"a.jpg": "one", "b.jpg": "two", "c.jpg": "three"}


def images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "image, caption\na.jpg, one\nb.jpg, two\nc.jpg, three\n"),
        ("x.csv", "caption,other,File Name\none,1,a.jpg\ntwo,2,b.jpg\nthree,3,c.jpg\n"),
        ("x.csv", "file_name;caption\r\na.jpg;one\r\nb.jpg;two\r\nc.jpg;three"),
        ("x.tsv", "file_name\tcaption\na.jpg\tone\nb.jpg\ttwo\nc.jpg\tthree\n"),
        ("captions.txt", "image|caption\na.jpg|one\nb.jpg|two\nc.jpg|three\n"),
        ("results.csv", "image_name| comment_number| comment\na.jpg| 0| one\nb.jpg| 0| two\nc.jpg| 0| three\n"),
        ("captions.txt", "a.jpg#0\tone\nb.jpg#0\ttwo\nc.jpg#0\tthree\n"),
        ("x.csv", "a.jpg,one\nb.jpg,two\nc.jpg,three\n"),
        ("x.csv", "one,a.jpg\ntwo,b.jpg\nthree,c.jpg\n"),
        ("x.csv", 'a.jpg,"one\nb.jpg,two\nc.jpg,three\n'),
        ("x.csv", 'image;raw\na.jpg;"[""one""]"\nb.jpg;two\nc.jpg;three\n'),
        ("x.jsonl", "".join(json.dumps({"image": name, "text": text}) + "\n" for name, text in SAID.items())),
        ("x.json", json.dumps([{"image": name, "caption": text} for name, text in SAID.items()])),
        ("x.json", json.dumps(SAID)),
        (
            "dataset_x.json",
            json.dumps({"images": [{"filename": name, "sentences": [{"raw": text}]} for name, text in SAID.items()]}),
        ),
        (
            "annotations/captions_val.json",
            json.dumps(
                {
                    "images": [{"id": name, "file_name": name} for name in SAID],
                    "annotations": [{"image_id": name, "caption": text} for name, text in SAID.items()],
                }
            ),
        ),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_tables_of_every_kind_say_the_same(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    """Found by what is in it, and the images in a folder of their own."""
    images(tmp_path, *(f"pictures/{image}" for image in SAID))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(text.encode(encoding))
    (tmp_path / "readme.txt").write_text("If you use this,\nplease cite, image by image, us\n")
    (tmp_path / "scores.csv").write_text("image,other,score\na.jpg,b.jpg,1\n")
    expected = {f"pictures/{image}": (said,) for image, said in SAID.items()}
    assert read(tmp_path) == (expected, {})
    assert read(tmp_path / name, image_root=str(tmp_path / "pictures")) == (
        {origin.removeprefix("pictures/"): captions for origin, captions in expected.items()},
        {},
    )


def test_captions_with_commas_and_no_header_keep_them(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "x.csv").write_text("a.jpg,a red, round ball\nb.jpg,another\n")
    assert read(tmp_path) == ({"a.jpg": ("a red, round ball",), "b.jpg": ("another",)}, {})


def test_the_files_of_flickr8k_that_are_no_captions_are_none(tmp_path: Path) -> None:
    images(tmp_path, "Images/1_a.jpg", "Images/2_b.jpg")
    texts = tmp_path / "Flickr8k_text"
    texts.mkdir()
    (texts / "Flickr8k.token.txt").write_text('1_a.jpg#0\tA "red" ball .\n1_a.jpg#1\tA ball .\n2_b.jpg#0\tB .\n')
    (texts / "Flickr8k.lemma.token.txt").write_text("1_a.jpg#0\ta red ball be\n2_b.jpg#0\tb\n")
    (texts / "Flickr_8k.trainImages.txt").write_text("1_a.jpg\n2_b.jpg\n")
    (texts / "ExpertAnnotations.txt").write_text("1_a.jpg\t2_b.jpg#2\t1\t1\t1\n2_b.jpg\t1_a.jpg#2\t1\t1\t2\n")
    assert read(tmp_path) == ({"Images/1_a.jpg": ('A "red" ball .', "A ball ."), "Images/2_b.jpg": ("B .",)}, {})


@pytest.mark.parametrize(
    ("disk", "wanted"),
    [
        ("pics/b0.jpg", "pics\\b0.jpg"),
        ("pics/b0.jpg", "./pics//b0.jpg"),
        ("pics/b0.jpg", " pics/b0.jpg "),
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("IMG_0.JPG", "img_0.jpg"),
        ("b0.jpeg", "b0.jpg"),
        ("b0.webp", "b0"),
        ("v1.0.png", "v1.0"),
        ("p_0.jpg", "train/p_0.jpg"),
        ("Images/p_0.jpg", "p_0.jpg"),
        ("Images/p_0.jpg", "IMAGES\\P_0"),
    ],
)
def test_another_spelling_of_a_file_is_that_file(tmp_path: Path, disk: str, wanted: str) -> None:
    images(tmp_path, disk, "other.jpg")
    rows = [{"file_name": wanted, "text": "one"}, {"file_name": "other.jpg", "text": "x"}]
    rows += [{"file_name": disk, "text": "two"}] * disk.startswith(("pics", "IMG"))
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    good, bad = read(tmp_path)
    assert good.pop(disk) == ("one", "two")[: len(rows) - 1]
    assert (list(good), bad) == (["other.jpg"], {})


def test_the_nearest_name_is_told_and_no_other_image_taken(tmp_path: Path) -> None:
    images(tmp_path, "old/b.jpg", "sparrow.jpg", "a/0.jpg", "b/0.jpg")
    rows = {"sparow.jpg": "x", "b.jpg": "gone", "old/b.jpg": "its own", "0.jpg": "which?"}
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + "".join(f"{n},{t}\n" for n, t in rows.items()))
    good, bad = read(tmp_path)
    assert good["old/b.jpg"] == ("its own",)
    assert bad["sparow.jpg"] == "the image does not exist; the nearest name is sparrow.jpg"
    assert bad["0.jpg"] == "2 files are called so: a/0.jpg, b/0.jpg; give the path of one"


def test_rows_of_an_image_are_merged_wherever_they_stand(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "B.JPG")
    rows = (("a.jpg", "one"), ("B.JPG", "two"), ("./a.jpg", "three"), ("b.jpg", "four"), ("a.jpg", "one"))
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + "".join(f"{n},{t}\n" for n, t in rows))
    assert read(tmp_path) == ({"a.jpg": ("one", "three"), "B.JPG": ("two", "four")}, {})


BAD: Mapping[str, str] = {
    ".": "it is the name of a folder",
    "sub": "it is the name of a folder",
    "..": "it lies outside its folder",
    "../x.jpg": "it lies outside its folder",
    "..\\x.jpg": "it lies outside its folder",
    "/etc/passwd": "it lies outside its folder",
    "C:\\x.jpg": "it lies outside its folder",
    "a.jpg\0": "the image does not exist",
    "x" * 300: "the image does not exist",
    "\ud800.jpg": "the image does not exist",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_costs_its_row_alone(tmp_path: Path, name: str) -> None:
    images(tmp_path, "a.jpg", "sub/b.jpg")
    rows = [{"file_name": name, "text": "bad"}, {"file_name": "a.jpg", "text": "good"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    good, bad = read(tmp_path)
    assert good == {"a.jpg": ("good",)}
    assert bad[name].startswith(BAD[name])


@pytest.mark.parametrize(
    "line",
    [
        b'b.jpg,x,"' + b"y" * 200_000 + b'\nq\nz"',
        b"b.jpg,x," + b"y" * 200_000,
        b'b.jpg,"x,y',
        b"b.jpg,caf\xe9,y",
        b"b.jpg,x,y,z",
    ],
)
def test_a_bad_line_of_a_csv_costs_itself_alone(tmp_path: Path, line: bytes) -> None:
    table = tmp_path / "metadata.csv"
    table.write_bytes(b"\n".join([b"file_name,text,caf\xe9", b"a.jpg,one,\xe9", line, b'c.jpg,"three ""3""",4']))
    found = {row.file_name: row for row in tables.rows(table) if isinstance(row, Row)}
    assert (found["a.jpg"].captions, found["c.jpg"].captions) == (("one",), ('three "3"',))
    json.dumps([row.further for row in found.values()], ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"file_name": "b.jpg", "text": "\\ud83d"}', "half a character"),
        ('{"file_name": "b.jpg", "text": "x", "a": ' + "[" * 50_000 + "]" * 50_000 + "}", "not JSON"),
        ('{"file_name": "b.jpg", "text": "x", "a": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_a_bad_line_of_a_jsonl_costs_itself_alone(tmp_path: Path, row: str, reason: str) -> None:
    (tmp_path / "x.jsonl").write_text(f'{row}\n{{"file_name": "a.jpg", "text": "good"}}\n')
    bad, good = tables.rows(tmp_path / "x.jsonl")
    assert isinstance(bad, Problem)
    assert reason in bad.reason
    assert isinstance(good, Row)


def test_the_encoding_that_was_met_is_told(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    for encoding, text, said in (
        ("cp1252", "für Köln", "not UTF-8, by its looks Windows-1252; save metadata.csv as UTF-8"),
        ("shift-jis", "赤い鳥が木に", "neither UTF-8 nor Windows-1252; save metadata.csv as UTF-8"),
    ):
        (tmp_path / "metadata.csv").write_bytes(f"file_name,caption\na.jpg,{text}\n".encode(encoding))
        assert read(tmp_path) == ({}, {"a.jpg": f"its caption is {said}"})


def test_rows_without_a_column_that_names_images_say_which_there_are(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("name;says\na;one\nb;two\n")
    found = list(tables.rows(tmp_path / "x.csv"))
    assert (
        found
        == [Problem("x.csv", "a row has no file_name: its columns are 'name', 'says'. Name one of them file_name")] * 2
    )
    assert not tables.is_caption_table(Member("x.csv", tmp_path / "x.csv"))
    (tmp_path / "x.csv").write_text("file_name,text\n")
    assert list(tables.rows(tmp_path / "x.csv")) == [Problem("x.csv", "it has no rows")]


def test_names_from_a_root_are_found_below_the_image_root(tmp_path: Path) -> None:
    images(tmp_path, "pics/a/0.jpg", "pics/b/0.jpg")
    rows = {"/old/place/a/0.jpg": "A", "C:\\old\\b\\0.jpg": "B", f"{tmp_path}/pics/a/0.jpg": "again"}
    (tmp_path / "x.csv").write_text("image,caption\n" + "".join(f"{name},{text}\n" for name, text in rows.items()))
    assert read(tmp_path / "x.csv", image_root=str(tmp_path / "pics")) == (
        {"a/0.jpg": ("A", "again"), "b/0.jpg": ("B",)},
        {},
    )


def parquet(file: Path, **columns: list[object]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    file.parent.mkdir(parents=True, exist_ok=True)
    write_table(pyarrow.table(columns), file)
    return file


def test_parquet_as_the_datasets_library_writes_it(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    cells = [{"bytes": whole, "path": "x.jpg"}, {"bytes": whole, "path": None}, {"bytes": whole, "path": "y.jpg"}]
    data = tmp_path / "set" / "data"
    file = parquet(data / "train-00000-of-00001.parquet", image=cells, text=["one", "two", None], n=[1, 2, 3])
    parquet(data / "test-00000-of-00002.parquet", jpg=[whole], caption=[["three", "four"]])
    found = [item for item in records(tmp_path / "set", Options()) if isinstance(item, Record)]
    assert {(item.split, item.name, item.captions, item.image) for item in found} == {
        ("train", "x", ("one",), whole),
        ("train", "000001", ("two",), whole),
        ("test", "00000_000000", ("three", "four"), whole),
    }
    assert read(file)[1] == {"y.jpg": "it has no caption"}
    named = parquet(tmp_path / "named.parquet", file_name=["a.jpg", "b.jpg", "a.jpg"], caption=["1", "2", "3"])
    assert read(named)[0]["a.jpg"] == ("1", "3")
    (data / "test-00000-of-00002.parquet").write_bytes(b"PAR1 damaged")
    assert "cannot be read as Parquet" in read(tmp_path / "set")[1]["data/test-00000-of-00002.parquet"]


@pytest.mark.parametrize(
    ("image", "others"),
    [("image", ("depth", "mask")), ("jpg", ("depth", "npy")), ("PNG", ("a", "z")), ("picture", ())],
)
def test_the_image_of_parquet_is_the_column_that_is_called_so(
    tmp_path: Path, image: str, others: tuple[str, ...]
) -> None:
    content = dict.fromkeys(others, [{"bytes": b"another", "path": "x.png"}] * 3)
    cells = [{"bytes": b"one", "path": None}, {"bytes": b"two", "path": "b.png"}, None]
    found = list(records(parquet(tmp_path / "x.parquet", **content, **{image: cells}, text=["1", "2", "3"]), Options()))
    assert [(item.image, item.extra) for item in found if isinstance(item, Record)] == [(b"one", {}), (b"two", {})]
    assert [item for item in found if isinstance(item, Problem)] == [Problem("x/000002", "it has no image")]


def test_parquet_of_several_images_none_of_which_is_called_so_says_it(tmp_path: Path) -> None:
    file = parquet(tmp_path / "x.parquet", rgb=[b"one"], depth=[b"another"], text=["a"])
    [problem] = records(file, Options())
    assert "which of its columns is the image is not clear: rgb, depth. Name one of them image" in problem.reason


def test_the_state_of_parquet_is_that_of_the_images_it_names(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    named = parquet(tmp_path / "named.parquet", file_name=["a.jpg", "b.jpg"], caption=["1", "2"])
    holding = parquet(tmp_path / "holding.parquet", image=[b"1"], caption=["1"])
    before = fingerprint(named), fingerprint(holding)
    assert (count(named), count(holding)) == (1, None)
    images(tmp_path, "b.jpg")
    assert fingerprint(named) != before[0]
    assert fingerprint(holding) == before[1]
    named.write_bytes(b"PAR1 damaged")
    assert len(fingerprint(named)) == 64


def test_parquet_without_pyarrow_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RatlipError, match="pip install pyarrow"):
        read(tmp_path / "x.parquet")


def test_a_table_that_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read x.csv"):
        list(tables.rows(tmp_path / "x.csv"))
