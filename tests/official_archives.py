"""The archives of the paper's datasets, small: the same files in the same formats and places as the official ones."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.io import savemat

from ratlip_cli.data.sources.celeba_tiny import tiny_list
from ratlip_cli.data.sources.face_captions import ATTRIBUTES


class Bird(NamedTuple):
    path: str
    size: tuple[int, int]
    box: tuple[float, float, float, float]


BIRDS = (
    Bird("001.Black_footed_Albatross/Black_Footed_Albatross_0001_796111.jpg", (500, 375), (60.0, 27.0, 325.0, 304.0)),
    Bird("001.Black_footed_Albatross/Black_Footed_Albatross_0002_55.jpg", (500, 336), (139.0, 30.0, 153.0, 264.0)),
    Bird("002.Laysan_Albatross/Laysan_Albatross_0001_545.jpg", (400, 500), (5.0, 300.0, 200.0, 190.0)),
    Bird("200.Common_Yellowthroat/Common_Yellowthroat_0003_190521.jpg", (375, 500), (112.0, 90.0, 255.0, 242.0)),
)
BIRD_CLASSES = {
    "trainval": ("001.Black_footed_Albatross", "200.Common_Yellowthroat"),
    "test": ("002.Laysan_Albatross",),
}
BIRD_COUNTS = {"train": 3, "test": 1}

FLOWER_LABELS = (77, 77, 1, 102)
FLOWER_CLASSES = {"trainval": ("class_00077", "class_00102"), "test": ("class_00001",)}
FLOWER_COUNTS = {"train": 3, "test": 1}

FACE_COUNTS = {"train": 4, "test": 2}
FACES = tuple(
    face
    for split, count in FACE_COUNTS.items()
    for face in [number for number, its_split in tiny_list().items() if its_split == split][:count]
)
POSITIVE = ({"Male", "Young"}, {"Blond_Hair", "Smiling"}, set(), {"Male", "Bald"}, {"Blurry"}, {"Wavy_Hair", "Young"})


def jpeg(size: tuple[int, int], seed: int = 0) -> bytes:
    """A photograph: smooth, coloured, and unlike any of another seed."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(written, "JPEG", quality=90)
    return written.getvalue()


def tar_gz(file: Path, files: Mapping[str, bytes | str], top: str = "") -> Path:
    """Write a .tgz with folders as members of their own, as tar does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.GzipFile(file, "wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        known: set[str] = set()
        for name, content in files.items():
            path = f"{top}{name}"
            for depth in range(1, path.count("/") + 1):
                folder = "/".join(path.split("/")[:depth])
                if folder not in known:
                    known.add(folder)
                    info = tarfile.TarInfo(f"{folder}/")
                    info.type = tarfile.DIRTYPE
                    tar.addfile(info)
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def captions_of(name: str) -> list[str]:
    return [f"caption {number} of {name}" for number in range(10)]


def reed_files(images: Iterable[tuple[str, str]], classes: Mapping[str, Sequence[str]]) -> dict[str, bytes | str]:
    """The members of a caption archive: texts, lists of classes, and what else is in there."""
    files: dict[str, bytes | str] = {
        "allclasses.txt": "".join(f"{name}\n" for part in classes.values() for name in part)
    }
    files |= {f"{part}classes.txt": "".join(f"{name}\n" for name in names) for part, names in classes.items()}
    for class_name, name in images:
        files[f"text_c10/{class_name}/{name}.txt"] = "".join(f"{caption}\n" for caption in captions_of(name))
        files[f"word_c10/{class_name}.t7"] = b"\x04\0\0\0torch"
        files[f"images/{class_name}.t7"] = b"\x04\0\0\0torch"
    return files


def cub_files() -> dict[str, bytes | str]:
    """The members of CUB_200_2011.tgz, without its top folder."""
    classes = sorted({bird.path.split("/")[0] for bird in BIRDS})
    numbered = list(enumerate(BIRDS, start=1))
    files: dict[str, bytes | str] = {
        "README": "Caltech-UCSD Birds-200-2011",
        "bounding_boxes.txt": "".join(f"{n} {' '.join(map(str, bird.box))}\n" for n, bird in numbered),
        "classes.txt": "".join(f"{name.split('.')[0].lstrip('0')} {name}\n" for name in classes),
        "image_class_labels.txt": "".join(f"{n} {int(bird.path[:3])}\n" for n, bird in numbered),
    }
    files |= {f"images/{bird.path}": jpeg(bird.size, n) for n, bird in numbered}
    files |= {
        "images.txt": "".join(f"{n} {bird.path}\n" for n, bird in numbered),
        "parts/parts.txt": "1 back\n",
        "train_test_split.txt": "".join(f"{n} {n % 2}\n" for n, _ in numbered),
    }
    return files


def write_cub(folder: Path, top: str = "CUB_200_2011/", reed_top: str = "cvpr2016_cub/") -> None:
    names = [(bird.path.split("/")[0], Path(bird.path).stem) for bird in BIRDS]
    tar_gz(folder / "CUB_200_2011.tgz", cub_files(), top)
    tar_gz(folder / "cvpr2016_cub.tar.gz", reed_files(names, BIRD_CLASSES), reed_top)


def write_oxford(folder: Path, reed_top: str = "cvpr2016_flowers/") -> None:
    numbered = list(enumerate(FLOWER_LABELS, start=1))
    # Neither the images nor the classes of the real archive are in the order of their numbers.
    tar_gz(folder / "102flowers.tgz", {f"jpg/image_{n:05d}.jpg": jpeg((500, 667), n) for n, _ in reversed(numbered)})
    savemat(folder / "imagelabels.mat", {"labels": np.array([FLOWER_LABELS], dtype=np.uint8)}, do_compression=True)
    names = [(f"class_{label:05d}", f"image_{n:05d}") for n, label in numbered]
    tar_gz(folder / "cvpr2016_flowers.tar.gz", reed_files(names, FLOWER_CLASSES), reed_top)


def attribute_text(faces: Sequence[int] = FACES, positive: Sequence[set[str]] = POSITIVE) -> str:
    """CelebAMask-HQ-attribute-anno.txt, with the two spaces behind the file's name."""
    lines = [f"{len(faces)}\n", " ".join(ATTRIBUTES) + "\n"]
    for face, holds in zip(faces, positive, strict=True):
        lines.append(f"{face}.jpg  {' '.join('1' if name in holds else '-1' for name in ATTRIBUTES)}\n")
    return "".join(lines)


def write_faces(folder: Path, with_captions: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    outside = next(number for number in range(30_000) if number not in tiny_list())
    with zipfile.ZipFile(folder / "CelebAMask-HQ.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("CelebAMask-HQ") if hasattr(archive, "mkdir") else archive.writestr("CelebAMask-HQ/", b"")
        for face in (*FACES, outside):
            archive.writestr(f"CelebAMask-HQ/CelebA-HQ-img/{face}.jpg", jpeg((256, 256), face))
        archive.writestr("CelebAMask-HQ/CelebAMask-HQ-mask-anno/0/00000_skin.png", b"")
        archive.writestr("CelebAMask-HQ/CelebAMask-HQ-attribute-anno.txt", attribute_text())
        archive.writestr("CelebAMask-HQ/README.txt", "non-commercial")
    if with_captions:
        (folder / "text" / "celeba-caption").mkdir(parents=True)
        for face in FACES:
            text = "\n".join(captions_of(str(face)))
            (folder / "text" / "celeba-caption" / f"{face}.txt").write_text(text)
