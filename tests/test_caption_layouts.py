"""Captions elsewhere than beside their images: text folders, folder names, zips; and columns of one type."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from own_records import read
from PIL import Image

from ratlip_cli.data.columns import settle
from ratlip_cli.data.layout import Json, Problem, Record
from ratlip_cli.data.prepare import PrepareRequest, prepare
from ratlip_cli.data.sources.own_images import Options, content, count, fingerprint, records
from ratlip_cli.errors import DataError, UsageError


def png() -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (8, 8)).save(written, "PNG")
    return written.getvalue()


def lay(folder: Path, *files: str) -> Path:
    """Write files: an image under each name of one, and its name into each text."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png() if name.endswith((".jpg", ".png")) else name.encode())
    return folder


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("x.jpg", "x.caption"),
        ("x.jpg", "x.jpg.txt"),
        ("x.jpg", "x.jpg.caption"),
        ("x.JPG", "x.TXT"),
        ("IMG_1.JPG", "img_1.Caption"),
        ("e\u0301.jpg", "\u00e9.txt"),
        ("x.jpg", "captions/x.txt"),
        ("x.jpg", "texts/x.txt"),
        ("x.jpg", "txt/x.caption"),
        ("images/x.jpg", "captions/x.jpg.txt"),
        ("images/001.red/x.jpg", "text/001.red/x.txt"),
        ("birds/CUB_200_2011/images/001.red/x.jpg", "birds/text/001.red/x.txt"),
        ("train/images/x.jpg", "train/Captions/x.txt"),
        ("images/train/x.jpg", "text/train/x.txt"),
        ("pics/x.jpg", "text/x.txt"),
    ],
)
def test_a_text_file_is_found_where_people_keep_it(tmp_path: Path, image: str, text: str) -> None:
    assert read(lay(tmp_path, image, text)) == ({image: (text,)}, {})


def test_a_text_is_given_to_no_image_that_may_not_be_meant(tmp_path: Path) -> None:
    good, bad = read(lay(tmp_path, "a/x.jpg", "b/x.jpg", "text/x.txt", "y.jpg", "y.txt", "text/y.txt"))
    assert good == {"y.jpg": ("y.txt",)}
    assert set(bad) == {"a/x.jpg", "b/x.jpg"}


@pytest.mark.skipif(os.path.exists(__file__.swapcase()), reason="names differ by more than case here")  # noqa: PTH110
def test_a_text_of_the_exact_name_belongs_to_that_image(tmp_path: Path) -> None:
    good, bad = read(lay(tmp_path, "x.jpg", "x.txt", "X.jpg"))
    assert (good, set(bad)) == ({"x.jpg": ("x.txt",)}, {"X.jpg"})


def test_captions_from_folder_names(tmp_path: Path) -> None:
    files = ("red ball/0.jpg", "001.Black_footed_Albatross/0.jpg", "train/golden_retriever/0.jpg", "test/0.jpg")
    lay(tmp_path / "toys", *files, "own/0.jpg", "own/0.txt")
    good, bad = read(tmp_path / "toys", caption="a photo of {folder}")
    assert bad == {}
    assert good == {
        "red ball/0.jpg": ("a photo of red ball",),
        "001.Black_footed_Albatross/0.jpg": ("a photo of Black footed Albatross",),
        "train/golden_retriever/0.jpg": ("a photo of golden retriever",),
        "test/0.jpg": ("a photo of toys",),
        "own/0.jpg": ("own/0.txt",),
    }
    assert len(read(tmp_path / "toys")[1]) == 4
    with pytest.raises(UsageError, match=r"\{class\}; it knows \{folder\} alone"):
        Options(caption="a {class}")
    with pytest.raises(UsageError, match="--image-root"):
        Options(image_root=str(tmp_path / "nowhere"))


def zipped(file: Path, *names: str, texts: Mapping[str, str] | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, png() if name.endswith((".jpg", ".png")) else name)
        for name, text in (texts or {}).items():
            archive.writestr(name, text)
    return file


def test_a_zip_is_a_dataset(tmp_path: Path) -> None:
    table = {"metadata.csv": "file_name,text\na.png,one\nB.PNG,two\n"}
    assert read(zipped(tmp_path / "1.zip", "a.png", "b.png", "c.png", texts=table)) == (
        {"a.png": ("one",), "b.png": ("two",)},
        {"1.zip/c.png": "it has no caption: metadata.csv does not name it"},
    )
    nested = zipped(tmp_path / "2.zip", "set/train/a.png", "set/train/a.txt", "set/test/a.png", "__MACOSX/set/._a.png")
    found = list(records(nested, Options()))
    assert [(item.split, item.name) for item in found if isinstance(item, Record)] == [("train", "a")]
    assert [item for item in found if isinstance(item, Problem)] == [
        Problem("2.zip/set/test/a.png", "it has no caption: a.txt is missing")
    ]
    assert read(zipped(tmp_path / "3.zip", "red_ball/a.png"), caption="a {folder}")[0] == {
        "red_ball/a.png": ("a red ball",)
    }
    assert count(nested) is None


OF_A = "file_name,text\na.png,1\n"

LAYOUTS: Mapping[str, Mapping[str, str]] = {
    "other kinds": {"a.png": "", "a.txt": "a", "b.heic": "no image", "b.txt": "b", "c": "", "c.txt": "c", "d.heic": ""},
    "no kind": {"a.png": "", "a.txt": "a", "b.xyz": "text", "b.txt": "b", "notes.md": "text", ".c.png": "", "e": "e"},
    "a table": {"a.png": "", "a.txt": "a", "b.png": "", "captions.csv": f"{OF_A}b.png,2\n", "c.png": ""},
    "metadata": {"a.png": "", "a.txt": "a", "b.png": "", "b.txt": "b", "c.png": "", "metadata.csv": OF_A},
    "metadata above": {"in/b.png": "", "in/b.txt": "b", "in/c.png": "", "a.png": "", "metadata.csv": OF_A},
    "two": {"a.png": "", "metadata.csv": OF_A, "metadata.jsonl": '{"file_name": "a.png", "text": "2"}'},
    "metadata and a table": {"a.png": "", "metadata.csv": OF_A, "others.csv": "file_name,text\na.png,2\n"},
}


@pytest.mark.parametrize("options", [{}, {"caption": "a photo"}, {"keep_uncaptioned": True}])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_zip_is_read_as_its_folder(tmp_path: Path, layout: str, options: Mapping[str, object]) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, text in LAYOUTS[layout].items():
            content = text.encode() or png()
            archive.writestr(name, content)
            (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "x" / name).write_bytes(content)
    good, bad = read(tmp_path / "x.zip", **options)
    assert (good, {name.removeprefix("x.zip/"): why for name, why in bad.items()}) == read(tmp_path / "x", **options)


def test_metadata_decides_alone_in_its_folder(tmp_path: Path) -> None:
    for name, text in LAYOUTS["metadata"].items():
        (tmp_path / name).write_bytes(text.encode() or png())
    good, bad = read(tmp_path)
    assert good == {"a.png": ("1",)}
    assert bad == {f"{name}.png": "it has no caption: metadata.csv does not name it" for name in "bc"}
    assert read(tmp_path, caption="a photo")[0] == {"a.png": ("1",), "b.png": ("a photo",), "c.png": ("a photo",)}


def test_zips_in_a_folder(tmp_path: Path) -> None:
    zipped(tmp_path / "images.zip", "p0.png", "in/p1.png", "alone.png")
    zipped(tmp_path / "own.zip", "a.png", "a.txt")
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    (tmp_path / "captions.csv").write_text("image,caption\np0.png,zero\nimages/in/P1.PNG,one\n")
    good, bad = read(tmp_path)
    assert good == {"images/p0.png": ("zero",), "images/in/p1.png": ("one",), "own/a.png": ("a.txt",)}
    assert bad.pop("broken.zip/its content").startswith(f"{tmp_path / 'broken.zip'} is damaged or no .zip")
    assert bad == {"images.zip/alone.png": "it has no caption: alone.txt is missing"}
    good, bad = read(tmp_path / "captions.csv")
    assert (set(good), bad) == ({"images/p0.png", "images/in/p1.png"}, {})
    before = fingerprint(tmp_path / "captions.csv")
    zipped(tmp_path / "images.zip", "p0.png", "in/p1.png")
    assert fingerprint(tmp_path / "captions.csv") != before


def test_a_damaged_member_of_a_zip_costs_itself_alone(tmp_path: Path) -> None:
    file = zipped(tmp_path / "x.zip", "a.png", "a.txt", "b.png", "b.txt")
    whole = bytearray(file.read_bytes())
    whole[50] ^= 255
    file.write_bytes(whole)
    good, bad = read(file)
    assert good == {"b.png": ("b.txt",)}
    assert bad["x.zip/a.png"].startswith("damaged in its archive")


def test_where_nothing_can_be_used_causes_come_first_and_counted(tmp_path: Path) -> None:
    lay(tmp_path / "photos", "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "photos" / "metadata.csv").write_text("name,says\na,one\nb,two\n")
    with pytest.raises(DataError) as caught:
        prepare(PrepareRequest(str(tmp_path / "photos"), tmp_path / "data", image_size=16, workers=1))
    told = str(caught.value)
    cause = told.index("metadata.csv (2 times): a row has no file_name: its columns are 'name', 'says'.")
    assert cause < told.index("a.jpg and 2 more: it has no caption: metadata.csv does not name it.")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "names.csv",
            "id,title\n1,one\n",
            "Passed over tables without columns of image names and captions: names.csv.",
        ),
        ("x.xlsx", "PK", "Passed over files that are neither images nor captions: x.xlsx."),
        ("readme.txt", "text", "It holds neither images nor tables of captions."),
        ("a.csv", "file_name,caption\nhttps://x.org/1.jpg,one\n", "https://x.org/1.jpg: an address in the web"),
        ("metadata.csv", "url,caption\nhttps://x.org/1.jpg,one\n", "https://x.org/1.jpg: an address in the web"),
    ],
)
def test_where_nothing_can_be_used_what_is_there_is_named(tmp_path: Path, name: str, content: str, told: str) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / name).write_text(content)
    with pytest.raises(DataError) as caught:
        prepare(PrepareRequest(str(tmp_path / "photos"), tmp_path / "data", image_size=16, workers=1))
    assert told in str(caught.value)


@pytest.mark.parametrize("table", ["metadata.csv", "other.csv", "in/metadata.csv", "in/other.csv"])
@pytest.mark.parametrize("pack", [False, True])
def test_an_image_whose_row_is_bad_is_left_out_once(tmp_path: Path, table: str, pack: bool) -> None:
    folder = tmp_path / "photos"
    image = str(Path(table).with_name("a.jpg"))
    lay(folder, image)
    (folder / table).write_bytes(b"file_name,caption\na.jpg,caf\xe9\n")
    if pack:
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
            for file in folder.rglob("*.*"):
                archive.write(file, file.relative_to(folder))
    (problem,) = records(tmp_path / "photos.zip" if pack else folder, Options())
    assert isinstance(problem, Problem)
    assert problem.name == (f"photos.zip/{image}" if pack else image)
    assert "not UTF-8" in problem.reason


COLUMNS: Sequence[tuple[list[list[Json]], list[list[Json]]]] = [
    ([[1, "x"]], [["1", "x"]]),
    ([[1, 2.5]], [[1, 2.5]]),
    ([[1, 2], [2.5]], [[1.0, 2.0], [2.5]]),
    ([[None, 1], ["x"]], [[None, "1"], ["x"]]),
    ([[None], ["x"]], [[""], ["x"]]),
    ([[[1], ["x"]]], [["[1]", '["x"]']]),
    ([[[], ["x"]]], [[[], ["x"]]]),
    ([[[]], [["x"]]], [["[]"], ['["x"]']]),
    ([[{"a": 1}], [{"b": 2}]], [['{"a": 1}'], ['{"b": 2}']]),
    ([[{"a": 1}, {"a": "x"}]], [['{"a": 1}', '{"a": "x"}']]),
    ([[True, 1]], [["true", "1"]]),
    ([[2**70, 1]], [[str(2**70), "1"]]),
    ([["2020-01-01"], ["never"]], [["2020-01-01 "], ["never"]]),
    ([["2020-01-01", "never"]], [["2020-01-01", "never"]]),
]


@pytest.mark.parametrize(("before", "after"), COLUMNS)
def test_a_column_is_of_one_type(tmp_path: Path, before: list[list[Json]], after: list[list[Json]]) -> None:
    files = [tmp_path / f"{number}.jsonl" for number in range(len(before))]
    for file, values in zip(files, before, strict=True):
        file.write_text("".join(json.dumps({"file_name": "x", "c": value}) + "\n" for value in values))
    settle(files)
    assert [[json.loads(line)["c"] for line in file.read_text().splitlines()] for file in files] == after


def test_what_is_prepared_opens_with_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "[a]::b$HOME"
    splits: tuple[list[Json], ...] = ([], [])
    for column, (values, _) in enumerate(COLUMNS):
        for rows, cells in zip(splits, [*values, [None]], strict=False):
            rows += [{} for _ in range(len(cells) - len(rows))]
            for row, cell in zip(rows, cells, strict=False):
                row[f"c{column}"] = cell
    splits[0][0]["empty"] = None  # In one split alone.
    for split, rows in zip(("train", "test"), splits, strict=True):
        lay(folder / split, *(f"{number}$HOME.png" for number in range(len(rows))))
        lines = [{"file_name": f"{number}$HOME.png", "text": "x", **row} for number, row in enumerate(rows)]
        (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    path = prepare(PrepareRequest(str(folder), tmp_path / "data", image_size=16, workers=1)).path
    assert path.name == "(a)__b_HOME"
    loaded = datasets.load_dataset("imagefolder", data_dir=str(path), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 2, "test": 1}
    assert loaded["train"]["c0"][:] == ["1", "x"]


def test_the_content_of_a_folder_is_the_same_elsewhere(tmp_path: Path) -> None:
    lay(tmp_path / "one", "a.jpg", "a.txt")
    lay(tmp_path / "two", "a.jpg", "a.txt")
    assert content(tmp_path / "one") == content(tmp_path / "two")
    (tmp_path / "two" / "a.txt").write_text("A.txt")
    assert content(tmp_path / "one") != content(tmp_path / "two")
