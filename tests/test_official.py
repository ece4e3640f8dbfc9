"""The datasets of the paper, from archives of the official layout."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import official_archives as written
import pytest
from command_line import ratlip
from file_server import serve_file
from PIL import Image

from ratlip_cli.data import download, prepare
from ratlip_cli.data.images import FORMATS
from ratlip_cli.data.layout import DatasetInfo, check_dataset, read_dataset, read_split, stored_side
from ratlip_cli.data.prepare import PrepareRequest, resolve_dataset
from ratlip_cli.data.sources import celeba_tiny, cub, oxford
from ratlip_cli.data.sources.official import Official
from ratlip_cli.errors import DataError, UsageError
from ratlip_cli.progress import Progress

WRITERS: Mapping[str, Callable[[Path], None]] = {
    "cub": written.write_cub,
    "oxford": written.write_oxford,
    "celeba-tiny": written.write_faces,
}
COUNTS = {"cub": written.BIRD_COUNTS, "oxford": written.FLOWER_COUNTS, "celeba-tiny": written.FACE_COUNTS}
SIZE, SIDE = 32, 38


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect as many images as the archives here have, and no more patience with a dead address than needed."""
    for name, counts in COUNTS.items():
        monkeypatch.setitem(prepare.OFFICIAL, name, replace(prepare.OFFICIAL[name], counts=counts))
    monkeypatch.setattr(celeba_tiny, "tiny_list", lambda: SMALL_LIST)
    monkeypatch.setattr(download, "BACK_OFF", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


SMALL_LIST = {face: celeba_tiny.tiny_list()[face] for face in written.FACES}


def prepared(name: str, raw: Path, out: Path, workers: int = 1) -> DatasetInfo:
    return prepare.prepare(request(name, raw, out, workers=workers)).info


def request(name: str, raw: Path, out: Path, **options: Any) -> PrepareRequest:
    return PrepareRequest(name, out.parent, out.name, image_size=SIZE, raw=raw, accept_license=True, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", WRITERS)
def test_archives_become_a_checked_dataset(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    WRITERS[name](tmp_path / "raw")
    info = prepared(name, tmp_path / "raw", tmp_path / name)
    assert info.counts == COUNTS[name]
    assert info.left_out == ()
    assert check_dataset(tmp_path / name) == []
    assert set(info.checksums) == {path.name for path in (tmp_path / "raw").iterdir()}
    assert info.checksums == {
        path.name: f"md5 {hashlib.md5(path.read_bytes()).hexdigest()}" for path in (tmp_path / "raw").iterdir()
    }
    entries = [entry for split in info.counts for entry in read_split(tmp_path / name, split)]
    assert all(len(entry.captions) == 10 for entry in entries)
    before = contents(tmp_path / name)
    assert prepared(name, tmp_path / "raw", tmp_path / name) == info
    assert contents(tmp_path / name) == before


@pytest.mark.parametrize("name", WRITERS)
def test_workers_and_interruptions_change_nothing(tmp_path: Path, name: str) -> None:
    class Stopped(Exception):
        pass

    def stop_after(images: int) -> Progress:
        def stop(what: str, done: int, total: int | None, unit: str) -> None:
            if done == images:
                raise Stopped

        return stop

    WRITERS[name](tmp_path / "raw")
    prepared(name, tmp_path / "raw", tmp_path / "whole", workers=2)
    for images in range(1, sum(COUNTS[name].values()) + 1):
        out = tmp_path / f"again-{images}"
        with pytest.raises(Stopped):
            prepare.prepare(request(name, tmp_path / "raw", out, workers=1), stop_after(images))
        assert not out.exists()
        prepared(name, tmp_path / "raw", out)
        assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", WRITERS)
def test_the_imagefolder_loader_of_datasets_opens_it(tmp_path: Path, name: str) -> None:
    datasets = pytest.importorskip("datasets")
    WRITERS[name](tmp_path / "raw")
    info = prepared(name, tmp_path / "raw", tmp_path / name)
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / name), cache_dir=str(tmp_path / "cache"))
    for split, count in info.counts.items():
        assert len(loaded[split]) == count
        assert {min(row["image"].size) for row in loaded[split]} == {SIDE}
        assert [row["captions"] for row in loaded[split]] == [
            list(entry.captions) for entry in read_split(tmp_path / name, split)
        ]


def unpack(archive: Path) -> None:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(archive.parent)
    elif archive.suffix != ".mat":
        with tarfile.open(archive) as opened:
            opened.extractall(archive.parent, filter="data")
    if archive.suffix != ".mat":
        archive.unlink()


@pytest.mark.parametrize("name", WRITERS)
def test_unpacked_or_packed_makes_the_same_images(tmp_path: Path, name: str) -> None:
    raw = tmp_path / "raw"
    WRITERS[name](raw)
    packed = prepared(name, raw, tmp_path / "packed")
    for archive in list(raw.iterdir()):
        unpack(archive)
    unpacked = prepared(name, raw, tmp_path / "unpacked")
    assert unpacked.counts == packed.counts
    assert unpacked.left_out == ()
    of_packed, of_unpacked = contents(tmp_path / "packed"), contents(tmp_path / "unpacked")
    assert {path: data for path, data in of_packed.items() if path.endswith("png")} == {
        path: data for path, data in of_unpacked.items() if path.endswith("png")
    }
    for split in packed.counts:
        path = f"{split}/metadata.jsonl"
        assert sorted(of_packed[path].splitlines()) == sorted(of_unpacked[path].splitlines())


def test_archives_may_nest_their_folders_deeper_and_lie_deeper_or_be_repacked(tmp_path: Path) -> None:
    written.write_cub(tmp_path / "flat" / "inner", top="", reed_top="./")
    written.write_cub(tmp_path / "deep", top="datasets/CUB_200_2011/", reed_top="a/b/")
    with (
        tarfile.open(tmp_path / "deep" / "CUB_200_2011.tgz") as tar,
        zipfile.ZipFile(tmp_path / "deep" / "CUB_200_2011.zip", "w") as repacked,
    ):
        for member in tar:
            if member.isreg():
                repacked.writestr(member.name, tar.extractfile(member).read())
                repacked.writestr(f"__MACOSX/{Path(member.name).parent}/._{Path(member.name).name}", b"\0")
    (tmp_path / "deep" / "CUB_200_2011.tgz").unlink()
    flat, deep = (prepared("cub", tmp_path / name, tmp_path / f"{name}-cub") for name in ("flat", "deep"))
    assert flat.counts == deep.counts == written.BIRD_COUNTS
    assert flat.left_out == deep.left_out == ()


def test_birds_have_the_split_class_and_crop_of_their_lists(tmp_path: Path) -> None:
    written.write_cub(tmp_path)
    prepared("cub", tmp_path, tmp_path / "cub")
    (test,) = read_split(tmp_path / "cub", "test")
    assert test.extra == {"class": "Laysan Albatross"}
    assert test.captions == tuple(written.captions_of("Laysan_Albatross_0001_545"))
    bird = written.BIRDS[2]
    with Image.open(io.BytesIO(written.jpeg(bird.size, 3))) as photo:
        # Box (5, 300, 200, 190): r = int(150.0) = 150, centre (105, 395): columns -45..255, rows 245..545.
        cut = photo.crop((0, 245, 255, 500))
        expected = cut.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3)
    with Image.open(test.file) as stored:
        assert stored.size == (SIDE, SIDE)
        assert np.array_equal(np.asarray(stored), np.asarray(expected))


@pytest.mark.parametrize(
    ("box", "square"),
    [
        ((60.0, 27.0, 325.0, 304.0), (-21, -64, 465, 422)),  # r = int(243.75) = 243, centre (222, 179)
        ((139.0, 30.0, 153.0, 264.0), (17, -36, 413, 360)),  # r = 198, centre (215, 162)
        ((0.0, 100.0, 100.0, 50.0), (-25, 50, 125, 200)),  # at the left border: r = 75, centre (50, 125)
        ((400.0, 100.0, 100.0, 50.0), (375, 50, 525, 200)),  # at the right border of 500
        ((100.0, 0.0, 41.0, 80.0), (60, -20, 180, 100)),  # at the upper border: r = 60, centre (int(120.5), 40)
        ((100.0, 295.0, 41.0, 80.0), (60, 275, 180, 395)),  # at the lower border of 375
        ((10.6, 20.4, 30.9, 9.1), (3, 1, 49, 47)),  # r = int(23.175) = 23, centre (int(26.05), int(24.95)) = (26, 24)
    ],
)
def test_the_crop_of_a_bird_by_hand(box: tuple[float, float, float, float], square: tuple[int, ...]) -> None:
    assert cub.crop(*box) == square


def test_flowers_have_the_names_and_splits_of_their_labels(tmp_path: Path) -> None:
    written.write_oxford(tmp_path)
    prepared("oxford", tmp_path, tmp_path / "oxford")
    train = {entry.file.stem: entry.extra["class"] for entry in read_split(tmp_path / "oxford", "train")}
    test = {entry.file.stem: entry.extra["class"] for entry in read_split(tmp_path / "oxford", "test")}
    assert train == {
        "image_00001": "passion flower",
        "image_00002": "passion flower",
        "image_00004": "blackberry lily",
    }
    assert test == {"image_00003": "pink primrose"}
    assert len(set(oxford.class_names())) == 102


def test_faces_have_the_captions_of_the_user_or_written_ones(tmp_path: Path) -> None:
    written.write_faces(tmp_path / "without")
    written.write_faces(tmp_path / "with", with_captions=True)
    for name in ("without", "with"):
        info = prepared("celeba-tiny", tmp_path / name, tmp_path / f"{name}-faces")
        assert info.counts == written.FACE_COUNTS
        entries = [entry for split in info.counts for entry in read_split(tmp_path / f"{name}-faces", split)]
        assert {entry.file.stem for entry in entries} == {str(face) for face in written.FACES}
        for entry in entries:
            attributes = written.POSITIVE[written.FACES.index(int(entry.file.stem))]
            assert set(entry.extra["attributes"]) == attributes
            if name == "with":
                assert entry.captions == tuple(written.captions_of(entry.file.stem))
            else:
                assert (" man" in " ".join(entry.captions)) == ("Male" in attributes)


def test_the_list_of_celeba_tiny_never_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    order = sorted(range(30_000), key=lambda n: hashlib.sha256(f"celeba-tiny/{n}".encode()).digest())[:10_000]
    found = celeba_tiny.tiny_list()
    assert found == {n: "train" if place < 8_000 else "test" for place, n in enumerate(order)}
    monkeypatch.setattr(celeba_tiny, "LIST_SHA256", "0" * 64)
    with pytest.raises(DataError, match="has been changed"):
        celeba_tiny.tiny_list()


def test_official_counts_are_those_of_the_publishers() -> None:
    datasets: dict[str, Official] = {dataset.DATASET.name: dataset.DATASET for dataset in (cub, oxford, celeba_tiny)}
    assert {name: sum(dataset.counts.values()) for name, dataset in datasets.items()} == {
        "cub": 11_788,
        "oxford": 8_189,
        "celeba-tiny": 10_000,
    }
    assert datasets["cub"].counts["train"] == 8_855
    assert datasets["oxford"].counts["train"] == 7_034


def test_what_is_wrong_in_an_archive_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    files = written.cub_files()
    images = [name for name in files if name.endswith(".jpg")]
    files[images[0]] = b"no image"
    del files[images[1]]
    files["images/003.Sooty_Albatross/Sooty_1.jpg"] = written.jpeg((400, 300))
    files["bounding_boxes.txt"] += "9 1 2 nan 4\n5\n"
    written.write_cub(tmp_path)
    written.tar_gz(tmp_path / "CUB_200_2011.tgz", files, "CUB_200_2011/")
    reed = written.reed_files(
        [(bird.path.split("/")[0], Path(bird.path).stem) for bird in written.BIRDS], written.BIRD_CLASSES
    )
    text = f"text_c10/{written.BIRDS[3].path.removesuffix('.jpg')}.txt"
    reed[text] = "caf\xe9\n".encode("latin-1") + "a bird\ufffd\ufffdthat sings\n\n".encode()
    written.tar_gz(tmp_path / "cvpr2016_cub.tar.gz", reed, "")
    info = prepared("cub", tmp_path, tmp_path / "cub")
    assert info.counts == {"train": 1, "test": 1}
    assert {problem.name: problem.reason for problem in info.left_out} == {
        "bounding_boxes.txt, line 5": "not the number of an image and its box",
        "bounding_boxes.txt, line 6": "not the number of an image and its box",
        f"{text}, line 1": "not UTF-8",
        images[0].removeprefix("images/"): f"not an image that can be read ({', '.join(FORMATS)})",
        images[1].removeprefix("images/"): "its archive does not hold it",
        "003.Sooty_Albatross/Sooty_1.jpg": "it has no box in bounding_boxes.txt",
        "train": "1 images with captions were found, not 3",
    }
    (entry,) = read_split(tmp_path / "cub", "train")
    assert entry.captions == ("a bird that sings",)
    with pytest.raises(DataError, match=r"bounding_boxes\.txt, line 5"):
        prepare.prepare(request("cub", tmp_path, tmp_path / "strict", workers=1, strict=True))


@pytest.mark.parametrize("name", WRITERS)
def test_missing_captions_classes_and_labels_are_named(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path)
    if name == "celeba-tiny":
        with zipfile.ZipFile(tmp_path / "CelebAMask-HQ.zip", "w") as archive:
            for face in written.FACES[:2]:
                archive.writestr(f"CelebA-HQ-img/{face}.jpg", written.jpeg((64, 64)))
            lines = written.attribute_text().splitlines()
            lines[2] = lines[2].replace("-1", "2", 1)
            archive.writestr("CelebAMask-HQ-attribute-anno.txt", "\n".join(lines))
        expected = {f"{face}.jpg" for face in written.FACES if face != written.FACES[1]}
        expected.add("CelebAMask-HQ-attribute-anno.txt, line 3")
    else:
        archive = next(tmp_path.glob("cvpr2016*"))
        written.tar_gz(archive, written.reed_files([("class_00077", "image_00001")], written.FLOWER_CLASSES))
        expected = {"image_00002.jpg", "image_00003.jpg", "image_00004.jpg"}
        if name == "cub":
            with pytest.raises(DataError, match="no image with a caption"):
                prepared(name, tmp_path, tmp_path / "out")
            return
    info = prepared(name, tmp_path, tmp_path / "out")
    assert {problem.name for problem in info.left_out if problem.name not in ("train", "test")} == expected


@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    [
        ("cub", "CUB_200_2011.tgz", b"no archive", "CUB_200_2011.tgz: .*archive"),
        ("cub", "cvpr2016_cub.tar.gz", b"", "cvpr2016_cub.tar.gz: .*archive"),
        ("oxford", "imagelabels.mat", b"no matrix", "imagelabels.mat is damaged"),
        ("oxford", "imagelabels.mat", b"\0" * 100_000, "imagelabels.mat is damaged .100000 bytes"),
        ("celeba-tiny", "CelebAMask-HQ.zip", b"PK\3\4", "CelebAMask-HQ.zip: .*archive"),
    ],
)
def test_a_damaged_archive_is_one_clear_line(tmp_path: Path, name: str, file: str, content: bytes, said: str) -> None:
    WRITERS[name](tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        prepared(name, tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("half", ["trainval", "test"])
def test_without_a_list_of_classes_there_is_no_split(tmp_path: Path, half: str) -> None:
    written.write_oxford(tmp_path)
    classes = dict(written.FLOWER_CLASSES)
    del classes[half]
    written.tar_gz(tmp_path / "cvpr2016_flowers.tar.gz", written.reed_files([("class_00077", "image_00001")], classes))
    with pytest.raises(DataError, match=f"holds no {half}classes.txt"):
        prepared("oxford", tmp_path, tmp_path / "out")
    classes = {"trainval": ("class_00077",), "test": ("class_00077",)}
    written.tar_gz(tmp_path / "cvpr2016_flowers.tar.gz", written.reed_files([("class_00077", "image_00001")], classes))
    with pytest.raises(DataError, match="class_00077 in both lists"):
        prepared("oxford", tmp_path, tmp_path / "out")


def served_from(monkeypatch: pytest.MonkeyPatch, name: str, addresses: Mapping[str, str]) -> None:
    """Let the pieces of a dataset be had at these addresses, with the checksums of what is there."""
    dataset = prepare.OFFICIAL[name]
    pieces = tuple(
        replace(piece, file=replace(piece.file, addresses=(addresses[piece.file.name],), md5=None))
        for piece in dataset.pieces
        if piece.file.name in addresses
    )
    monkeypatch.setitem(prepare.OFFICIAL, name, replace(dataset, pieces=pieces))


def test_train_prepares_a_dataset_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_clip: Path
) -> None:
    written.write_oxford(tmp_path / "server")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RATLIP_DATA", raising=False)
    small = ("--image-size", 32, "--generator-channels", 4, "--discriminator-channels", 2, "--steps", 1, "--workers", 0)
    command = ("train", "--dataset", "oxford", "--clip", tiny_clip, *small, "--batch-size", 2, "--device", "cpu")
    names = [path.name for path in (tmp_path / "server").iterdir()]
    content = {name: (tmp_path / "server" / name).read_bytes() for name in names}
    first, second, third = sorted(names)
    with serve_file(content[first]) as a, serve_file(content[second], "404") as b, serve_file(content[third]) as c:
        served_from(monkeypatch, "oxford", {first: a.address, second: b.address, third: c.address})
        answer = ratlip(*command)
        assert answer.code == 1
        assert f"cannot download {second}" in answer.err
        assert "go on with: ratlip prepare oxford --raw data/downloads" in answer.err
        assert {path.name for path in Path("data/downloads").iterdir() if path.name[0] != "."} == {first, third}
        assert not (tmp_path / "data" / "oxford").exists()
        answer = ratlip(*command)
    assert answer.code == 0, answer.err
    assert answer.out == "runs/oxford-ratlip-1\n"
    assert read_dataset(tmp_path / "data" / "oxford").image_size == 256
    shutil.rmtree(tmp_path / "data" / "downloads")
    answer = ratlip("prepare", "oxford")
    assert (answer.code, answer.out) == (0, "data/oxford\n")
    assert "nothing to do" in answer.err


def test_who_gets_a_missing_file_by_hand_goes_on_as_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written.write_cub(tmp_path / "server")
    with serve_file((tmp_path / "server" / "CUB_200_2011.tgz").read_bytes()) as alive, serve_file(b"", "404") as dead:
        served_from(monkeypatch, "cub", {"CUB_200_2011.tgz": alive.address, "cvpr2016_cub.tar.gz": dead.address})
        with pytest.raises(
            DataError, match=r"answered 404 .* get it by hand from https://github.com/reedscot"
        ) as caught:
            resolve_dataset("cub", tmp_path / "data", SIZE)
        command = str(caught.value).split("go on with: ")[1].split()
        shutil.copy(tmp_path / "server" / "cvpr2016_cub.tar.gz", tmp_path / "data" / "downloads")
        answer = ratlip(*command[1:], "--data-dir", tmp_path / "data", "--image-size", SIZE, "--workers", 1)
    assert answer.code == 0, answer.err
    assert read_dataset(tmp_path / "data" / "cub").counts == written.BIRD_COUNTS


def test_a_licence_is_accepted_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no redistribution.*ratlip prepare celeba-tiny --accept-license"):
        resolve_dataset("celeba-tiny", tmp_path, SIZE)
    written.write_faces(tmp_path / "raw")
    prepared("celeba-tiny", tmp_path / "raw", tmp_path / "celeba-tiny")
    assert resolve_dataset("celeba-tiny", tmp_path, SIZE) == tmp_path / "celeba-tiny"


def test_faces_that_earlier_versions_prepared_are_the_same_dataset(tmp_path: Path) -> None:
    written.write_faces(tmp_path / "raw")
    info = prepared("celeba-tiny", tmp_path / "raw", tmp_path / "faces")
    file = tmp_path / "faces" / "dataset.json"
    words = {
        "source": "10,000 pictures of CelebAMask-HQ, https://github.com/switchablenorms/CelebAMask-HQ",
        "licence": "non-commercial research, no redistribution of the pictures or of what is derived from them",
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | words))
    described = file.read_bytes()
    assert prepared("celeba-tiny", tmp_path / "raw", tmp_path / "faces") == info
    assert file.read_bytes() == described


def test_another_file_than_the_official_one_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("ratlip_cli"), "propagate", True)
    written.write_cub(tmp_path)
    prepared("cub", tmp_path, tmp_path / "cub")
    assert "CUB_200_2011.tgz is not the official file" in caplog.text
    assert "cvpr2016_cub" not in caplog.text  # Nobody published a checksum of it.


def test_the_command_says_what_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RATLIP_DATA", raising=False)
    written.write_faces(tmp_path / "raw")
    command = ("prepare", "celeba-tiny", "--raw", "raw", "--image-size", SIZE, "--workers", 1)
    assert ratlip(*command).code == 2
    answer = ratlip(*command, "--accept-license", "--json", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    found = json.loads(answer.out)
    assert found["counts"] == written.FACE_COUNTS
    assert found["checksums"].keys() == {"CelebAMask-HQ.zip"}
    again = ratlip(*command, "--accept-license")
    assert "nothing to do" in again.err
    assert ratlip("prepare", "celeba-tiny", "--check").code == 0
    assert stored_side(SIZE) == SIDE
