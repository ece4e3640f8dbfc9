"""The training stream is a function of the seed and the position; everything else reads the centre."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ratlip_cli.data.caption_length import long_captions
from ratlip_cli.data.dataset import Batch, CaptionedImages, cut_captions, text_vectors, training_batches, unread_words
from ratlip_cli.data.layout import DatasetInfo, Record
from ratlip_cli.data.readers import (
    close_at_once,
    leave_signals_to_parent,
    let_pinning_end_in_silence,
    next_of,
    read_in_turn,
)
from ratlip_cli.data.writer import write_dataset
from ratlip_cli.errors import DataError, Interrupted, UsageError, WeightsError
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.tensor_files import load_tensors_and_metadata, save_tensors
from ratlip_cli.weights.clip_files import load_clip

IMAGES, SIZE, SIDE = 7, 32, 38


def gradients(folder: Path, flip: bool = True, width: int = SIDE) -> Path:
    """Write a dataset whose pixels say which image (blue), column (red) and row (green) they are."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(SIDE))
    records = [
        Record(
            str(number),
            "train",
            tuple(f"caption {caption} of image {number}" for caption in range(number + 1)),
            Image.fromarray(np.stack([columns, rows, np.full_like(rows, number)], axis=-1).astype(np.uint8)),
        )
        for number in range(IMAGES)
    ]
    info = DatasetInfo(
        name="gradients", source="the tests", licence="CC0", image_size=SIZE, split_rule="all train", flip=flip
    )
    write_dataset(folder, records, info)
    return folder


def of_classes(folder: Path, names: Sequence[str | None]) -> CaptionedImages:
    """A dataset of images of these classes, with two captions each."""
    records = [
        Record(
            f"{number:02}",
            "train",
            (f"caption of {number}", f"another of {number}"),
            Image.new("RGB", (SIDE, SIDE), (number, 0, 0)),
            extra={} if name is None else {"class": name},
        )
        for number, name in enumerate(names)
    ]
    info = DatasetInfo(name="classes", source="the tests", licence="CC0", image_size=SIZE, split_rule="all train")
    write_dataset(folder, records, info)
    return CaptionedImages(folder, "train", SIZE)


def test_fine_classes_are_told_by_caption(tmp_path: Path) -> None:
    names = [f"species {number}" for number in range(12)]
    dataset = of_classes(tmp_path / "fine", [*names, names[3], None, None])
    assert dataset.classes is not None
    pairs = dataset.classes.reshape(15, 2)
    assert np.array_equal(pairs[:, 0], pairs[:, 1])
    assert len(set(pairs[:12, 0])) == 12
    assert pairs[12, 0] == pairs[3, 0]
    assert pairs[13:, 0].tolist() == [-1, -1]


@pytest.mark.parametrize("names", [["bird"] * 12, ["bird", "flower", "face"] * 4, [None] * 12])
def test_classes_that_leave_nothing_to_contrast_are_none(tmp_path: Path, names: list[str | None]) -> None:
    """As those of rendered data, which are what an image shows at all."""
    assert of_classes(tmp_path / "coarse", names).classes is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gradients(tmp_path_factory.mktemp("data") / "gradients", width=50)


@pytest.fixture(scope="module")
def dataset(folder: Path) -> CaptionedImages:
    return CaptionedImages(folder, "train", SIZE, seed=5)


def pixels(image: torch.Tensor) -> np.ndarray:
    """The levels (H,W,3) of an image in [-1,1]."""
    return ((image + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    return list(itertools.islice(batches, count))


def equal(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.images, b.images) and torch.equal(a.captions, b.captions) for a, b in zip(one, other, strict=True)
    )


def test_a_sample_depends_on_seed_and_position_alone(folder: Path, dataset: CaptionedImages) -> None:
    forward = [dataset.training_sample(position) for position in range(30)]
    again = CaptionedImages(folder, "train", SIZE, seed=5)
    for position in reversed(range(30)):
        image, caption = again.training_sample(position)
        assert torch.equal(image, forward[position][0])
        assert caption == forward[position][1]


def test_every_epoch_visits_every_image_once_in_a_new_order(folder: Path, dataset: CaptionedImages) -> None:
    def order(dataset: CaptionedImages, epoch: int) -> tuple[int, ...]:
        positions = range(epoch * IMAGES, (epoch + 1) * IMAGES)
        return tuple(int(pixels(dataset.training_sample(position)[0])[0, 0, 2]) for position in positions)

    orders = [order(dataset, epoch) for epoch in range(6)]
    assert all(sorted(found) == list(range(IMAGES)) for found in orders)
    assert len(set(orders)) == 6
    assert order(CaptionedImages(folder, "train", SIZE, seed=6), 0) != orders[0]


def test_crops_and_flips_are_windows_of_the_stored_image(dataset: CaptionedImages) -> None:
    corners, mirrored = set(), 0
    for position in range(600):
        image = pixels(dataset.training_sample(position)[0]).astype(int)
        assert image.shape == (SIZE, SIZE, 3)
        red, green = image[..., 0], image[..., 1]
        if red[0, 0] > red[0, -1]:
            mirrored += 1
            red = red[:, ::-1]
        left, upper = red[0, 0], green[0, 0]
        assert np.array_equal(red, np.tile(np.arange(left, left + SIZE), (SIZE, 1)))
        assert np.array_equal(green, np.tile(np.arange(upper, upper + SIZE)[:, None], (1, SIZE)))
        corners.add((int(left), int(upper)))
    assert {left for left, _ in corners} == set(range(50 - SIZE + 1))
    assert {upper for _, upper in corners} == set(range(SIDE - SIZE + 1))
    assert 240 < mirrored < 360  # five standard deviations


def test_every_caption_of_a_image_is_told_and_no_other(dataset: CaptionedImages) -> None:
    seen = set()
    for position in range(600):
        image, caption = dataset.training_sample(position)
        assert dataset.captions[caption].endswith(f"of image {pixels(image)[0, 0, 2]}")
        seen.add(caption)
    assert seen == set(range(len(dataset.captions)))


def test_images_are_not_mirrored_where_captions_speak_of_left_and_right(tmp_path: Path) -> None:
    dataset = CaptionedImages(gradients(tmp_path / "x", flip=False), "train", SIZE)
    for position in range(60):
        image = pixels(dataset.training_sample(position)[0])
        assert image[0, 0, 0] < image[0, -1, 0]


def test_everything_else_reads_the_centre(dataset: CaptionedImages) -> None:
    for index in range(IMAGES):
        image = pixels(dataset.centre_crop(index))
        assert image[0, 0].tolist() == [9, 3, index]
        assert image[-1, -1].tolist() == [40, 34, index]


@pytest.mark.parametrize("image_size", [16, 30, 48])
def test_another_image_size_resizes_the_stored_images(folder: Path, image_size: int) -> None:
    dataset = CaptionedImages(folder, "train", image_size)
    image, _ = dataset.training_sample(0)
    assert image.shape == dataset.centre_crop(0).shape == (3, image_size, image_size)
    shown = round(image_size * 76 / 64)
    first, last = pixels(dataset.centre_crop(0))[image_size // 2, [0, -1], 0].astype(float)
    assert last - first == pytest.approx((image_size - 1) * SIDE / shown, abs=1.5)


def test_pixels_are_between_minus_one_and_one(tmp_path: Path, tiny_dataset: Path) -> None:
    black = CaptionedImages(tiny_dataset, "train", SIZE)
    index = [entry.file.stem for entry in black.entries].index("train-black")
    assert torch.equal(black.centre_crop(index), torch.full((3, SIZE, SIZE), -1.0))
    yellow = black.centre_crop([entry.file.stem for entry in black.entries].index("train-yellow"))
    assert yellow.dtype == torch.float32
    assert yellow.amax(dim=(1, 2)).tolist() == [1, 1, -1]


def test_batches_are_the_stream_cut_in_pieces(dataset: CaptionedImages) -> None:
    batches = take(training_batches(dataset, 3), 4)
    assert [batch.images.shape for batch in batches] == [(3, 3, SIZE, SIZE)] * 4
    stream = [dataset.training_sample(position) for position in range(12)]
    assert torch.equal(torch.cat([batch.images for batch in batches]), torch.stack([image for image, _ in stream]))
    assert torch.cat([batch.captions for batch in batches]).tolist() == [caption for _, caption in stream]
    assert batches[0].captions.dtype == torch.int64


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(dataset: CaptionedImages, workers: int) -> None:
    assert equal(take(training_batches(dataset, 5, workers=workers), 8), take(training_batches(dataset, 5), 8))


@pytest.mark.parametrize("workers", [0, 2])
def test_going_on_is_the_same_as_never_having_stopped(dataset: CaptionedImages, workers: int) -> None:
    whole = take(training_batches(dataset, 4), 9)
    assert equal(take(training_batches(dataset, 4, start=20, workers=workers), 4), whole[5:])


def test_a_dataset_smaller_than_the_batch(dataset: CaptionedImages) -> None:
    (batch,) = take(training_batches(dataset, 3 * IMAGES), 1)
    assert sorted(int(pixels(image)[0, 0, 2]) for image in batch.images) == sorted(list(range(IMAGES)) * 3)


def test_the_random_generator_that_everybody_shares_is_left_alone(dataset: CaptionedImages) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    take(training_batches(dataset, 2), 3)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    broken = gradients(tmp_path / "x") / "train" / "3.png"
    os.truncate(broken, 60)
    dataset = CaptionedImages(tmp_path / "x", "train", SIZE)
    with pytest.raises(DataError, match=r"train/3\.png: ") as caught:
        take(training_batches(dataset, IMAGES, workers=workers), 1)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"train/3\.png: "):
        dataset.centre_crop(3)
    broken.unlink()
    with pytest.raises(DataError, match=r"train/3\.png: "):
        _ = CaptionedImages(tmp_path / "x", "train", SIZE).fingerprint


@pytest.mark.parametrize(("image_size", "seed"), [(0, 0), (-8, 0), (32, -1)])
def test_impossible_sizes_and_seeds_are_refused(folder: Path, image_size: int, seed: int) -> None:
    with pytest.raises(UsageError):
        CaptionedImages(folder, "train", image_size, seed)
    with pytest.raises(DataError, match="no split 'test'"):
        CaptionedImages(folder, "test", SIZE)


def test_the_fingerprint_follows_captions_and_images(tmp_path: Path) -> None:
    first = CaptionedImages(gradients(tmp_path / "a"), "train", SIZE).fingerprint
    assert CaptionedImages(gradients(tmp_path / "b"), "train", 16, seed=1).fingerprint == first
    assert CaptionedImages(gradients(tmp_path / "c", width=60), "train", SIZE).fingerprint != first
    metadata = tmp_path / "b" / "train" / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("caption 0 of image 3", "another"))
    assert CaptionedImages(tmp_path / "b", "train", SIZE).fingerprint != first


class CountingCLIP:
    """Turns captions into their lengths, and counts them."""

    spec = "counting"

    def __init__(self, fingerprint: str = "abc") -> None:
        self.computes = fingerprint
        self.encoded = 0

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        self.encoded += len(texts)
        return torch.tensor([[float(len(text)), 1.0] for text in texts])


def vectors(dataset: CaptionedImages, clip: CountingCLIP, batch_size: int = 256) -> torch.Tensor:
    return text_vectors(dataset, clip, batch_size)  # type: ignore[arg-type]


def test_text_vectors_are_computed_once_per_clip_and_captions(tmp_path: Path) -> None:
    dataset = CaptionedImages(gradients(tmp_path / "x"), "train", SIZE)
    clip = CountingCLIP()
    first = vectors(dataset, clip, batch_size=5)
    assert first[:, 0].tolist() == [len(caption) for caption in dataset.captions]
    assert clip.encoded == len(dataset.captions)
    assert torch.equal(vectors(dataset, clip), first)
    assert clip.encoded == len(dataset.captions)
    assert [file.name for file in (tmp_path / "x" / ".text_vectors").iterdir()] == ["abc-train.safetensors"]
    other = CountingCLIP("def")
    vectors(dataset, other)
    assert other.encoded == len(dataset.captions)

    metadata = tmp_path / "x" / "train" / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("caption 0 of image 3", "another"))
    changed = CaptionedImages(tmp_path / "x", "train", SIZE)
    assert vectors(changed, clip)[:, 0].tolist() == [len(caption) for caption in changed.captions]


def test_damaged_text_vectors_are_computed_again(tmp_path: Path) -> None:
    dataset = CaptionedImages(gradients(tmp_path / "x"), "train", SIZE)
    first = vectors(dataset, CountingCLIP())
    os.truncate(tmp_path / "x" / ".text_vectors" / "abc-train.safetensors", 150)
    assert torch.equal(vectors(dataset, CountingCLIP()), first)
    kept = CountingCLIP()
    assert torch.equal(vectors(dataset, kept), first)
    assert kept.encoded == 0


Kept = tuple[dict[str, torch.Tensor], dict[str, str]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept, header: ({"text_vectors": kept + 1}, header),
        lambda kept, header: ({"text_vectors": kept[:-1]}, header),
        lambda kept, header: ({"text_vectors": kept.T.contiguous()}, header),
        lambda kept, header: ({"text_vectors": kept.flatten()}, header),
        lambda kept, header: ({"text_vectors": kept.double()}, header),
        lambda kept, header: ({"text_vectors": kept.half()}, header),
        lambda kept, header: ({"text_vectors": kept.to(torch.int64)}, header),
        lambda kept, header: ({"text_vectors": kept * float("nan")}, header),
        lambda kept, header: ({"text_vectors": kept / 0}, header),
        lambda kept, header: ({"vectors": kept}, header),
        lambda kept, header: ({"text_vectors": kept, "more": kept.clone()}, header),
        lambda kept, header: ({}, header),
        lambda kept, header: ({"text_vectors": kept}, {"captions": header["captions"]}),
        lambda kept, header: ({"text_vectors": kept}, {}),
        lambda kept, header: ({"text_vectors": kept}, header | {"checksum": "0"}),
    ],
)
def test_kept_text_vectors_that_do_not_fit_are_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[torch.Tensor, dict[str, str]], Kept]
) -> None:
    dataset = CaptionedImages(gradients(tmp_path / "x"), "train", SIZE)
    first = vectors(dataset, CountingCLIP())
    file = tmp_path / "x" / ".text_vectors" / "abc-train.safetensors"
    kept, header = load_tensors_and_metadata(file)
    tensors, metadata = damage(kept["text_vectors"], header)
    save_tensors(file, tensors, metadata)
    with caplog.at_level("INFO", logger="ratlip_cli"):
        assert torch.equal(vectors(dataset, CountingCLIP()), first)
    assert ("encoded again" in caplog.text) is ("captions" in metadata)  # of other captions: nothing is wrong
    assert load_tensors_and_metadata(file)[1] == header


def test_text_vectors_of_another_clip_do_not_fit_by_their_name(tmp_path: Path) -> None:
    dataset = CaptionedImages(gradients(tmp_path / "x"), "train", SIZE)
    vectors(dataset, CountingCLIP("abc"))
    folder = tmp_path / "x" / ".text_vectors"
    (folder / "abc-train.safetensors").rename(folder / "def-train.safetensors")
    other = CountingCLIP("def")
    vectors(dataset, other)
    assert other.encoded == len(dataset.captions)


def test_text_vectors_that_are_not_finite_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = CaptionedImages(gradients(tmp_path / "x"), "train", SIZE)
    monkeypatch.setattr(CountingCLIP, "encode_text", lambda clip, texts: torch.full((len(texts), 2), float("inf")))
    with pytest.raises(WeightsError, match="CLIP counting makes text vectors that are not numbers"):
        vectors(dataset, CountingCLIP())
    assert not (tmp_path / "x" / ".text_vectors").exists()


def test_captions_that_are_cut_are_counted(tiny_clip: Path) -> None:
    clip = load_clip(str(tiny_clip))  # reads 16 tokens
    fits, cut, too = " ".join(["bird"] * 14), " ".join(["bird"] * 15), " ".join(["bird"] * 16)
    assert clip.overlong([fits, cut, "a bird", too]) == [1, 3]
    assert [clip.is_overlong(caption) for caption in (fits, cut)] == [False, True]
    assert cut_captions(clip, [fits, "a bird"]) is None
    said = cut_captions(clip, [fits, cut, too, "a " + cut])
    assert said is not None
    assert said.startswith("3 of 4 captions are longer than the 16 tokens that CLIP reads")
    assert "2 of them have the same text vector" in said
    assert "same text vector" not in str(cut_captions(clip, [cut, "a " + cut]))


def test_words_that_the_clip_does_not_know_are_named_the_most_frequent_first(tiny_clip: Path) -> None:
    demo = load_clip("ratlip-demo")  # a trimmed vocabulary
    assert unread_words(demo, ["a red bird", "a blue bird"]) is None
    said = unread_words(demo, ["a red zeppelin", "a blue bird", "Zeppelin and trombone", "a house"])
    assert said is not None
    assert said.startswith("3 of 4 captions have words that CLIP does not know")
    assert said.endswith(": 'zeppelin', 'trombone', 'house'")
    many = unread_words(demo, ["zeppelin trombone house castle ship wagon tram", "zeppelin"])
    assert str(many).endswith("and 2 more")
    assert "'zeppelin', " in str(many)
    assert unread_words(load_clip(str(tiny_clip)), ["a zeppelin"]) is None  # whose vocabulary is whole


def test_captions_of_one_text_vector_are_counted(tiny_clip: Path) -> None:
    clip = load_clip(str(tiny_clip))
    assert clip.alike(["a bird", "a bird", "a fish"]) == 0  # in the same words
    assert clip.alike(["A  bird", "a bird", "a bird", "a fish"]) == 3
    demo = load_clip("ratlip-demo")  # a trimmed vocabulary: unknown words are one
    assert demo.alike(["a zeppelin", "a trombone", "a red bird"]) == 2


@pytest.mark.parametrize(
    ("caption", "long"),
    [
        ("bird " * 75, False),
        ("bird " * 76, True),
        ("b " * 76, True),
        ("\U0001f426" * 40, True),
        ("鳥" * 90, True),
        ("1" * 76, True),
        ("." * 20 + " a ! b " * 40, True),
        ("qzxjkvw" * 30, True),
        ("a small bird with a long beak " * 2, False),
    ],
)
def test_prepare_counts_captions_longer_than_clip_reads(tmp_path: Path, caption: str, long: bool) -> None:
    record = Record(name="x", split="train", captions=("a bird", caption), image=Image.new("RGB", (20, 20)))
    info = DatasetInfo(name="x", source="the tests", licence="CC0", image_size=16, split_rule="all train")
    write_dataset(tmp_path / "x", [record], info)
    assert long_captions(tmp_path / "x") == long


def test_text_vectors_are_kept_in_pieces_where_somebody_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = CaptionedImages(gradients(tmp_path / "x"), "train", SIZE)
    monkeypatch.setattr("ratlip_cli.data.dataset.PIECE", 4)
    expected = CountingCLIP().encode_text(dataset.captions)
    assert len(expected) > 8

    class Stopped(CountingCLIP):
        def encode_text(self, texts: list[str]) -> torch.Tensor:
            if self.encoded == 6:
                raise Interrupted("terminated.", 15)
            return super().encode_text(texts)

    told = f"terminated. The text vectors of 4 of {len(expected)} captions are kept: run the same again to go on."
    with pytest.raises(Interrupted, match=told):
        vectors(dataset, Stopped(), batch_size=2)
    assert len(list((tmp_path / "x" / ".text_vectors").rglob("*.safetensors"))) == 1
    again = CountingCLIP()
    assert torch.equal(vectors(dataset, again, batch_size=2), expected)
    assert again.encoded == len(expected) - 4
    assert [file.name for file in (tmp_path / "x" / ".text_vectors").iterdir()] == ["abc-train.safetensors"]
    assert torch.equal(vectors(dataset, CountingCLIP()), expected)


def test_the_time_of_many_captions_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("ratlip_cli"), "propagate", True)
    caplog.set_level(logging.INFO, "ratlip_cli")
    dataset = CaptionedImages(gradients(tmp_path / "x"), "train", SIZE)
    monkeypatch.setattr("ratlip_cli.data.dataset.PIECE", 4)
    vectors(dataset, CountingCLIP(), batch_size=2)
    assert "about" not in caplog.text
    monkeypatch.setattr("ratlip_cli.data.dataset._SOON", 0.0)
    vectors(dataset, CountingCLIP("other"), batch_size=2)
    told = {
        id(record) for record in caplog.records if f"{len(dataset.captions)} captions: about " in record.getMessage()
    }
    assert len(told) == 1  # however many handlers other tests have left


def test_text_vectors_need_no_writable_folder(tmp_path: Path) -> None:
    dataset = CaptionedImages(gradients(tmp_path / "x"), "train", SIZE)
    (tmp_path / "x" / ".text_vectors").touch()
    assert vectors(dataset, CountingCLIP()).shape == (len(dataset.captions), 2)


def test_text_vectors_are_those_of_the_clip(dataset: CaptionedImages, tiny_clip: Path) -> None:
    clip: FrozenCLIP = load_clip(str(tiny_clip))
    for _ in range(2):
        torch.testing.assert_close(text_vectors(dataset, clip, batch_size=4), clip.encode_text(dataset.captions))


SIGNALLED = """
import os, signal, sys, time
from pathlib import Path
import ratlip_cli.data.dataset
from ratlip_cli.data.dataset import CaptionedImages, training_batches
from ratlip_cli.data.readers import leave_signals_to_parent

def late(worker):
    time.sleep({late} * worker)
    leave_signals_to_parent(worker)

if __name__ == "__main__":
    ratlip_cli.data.dataset.leave_signals_to_parent = late
    asked = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: asked.append(number))
    signal.signal(signal.SIGUSR1, lambda number, frame: os.write(1, b"noted "))
    kept = training_batches(CaptionedImages(Path({folder!r}), "train", 32), 4, workers=2)
    next(kept)
    os.killpg(0, signal.SIGINT)
    os.killpg(0, signal.SIGTERM)
    os.killpg(0, signal.SIGUSR1)  # as SLURM does it for all of a step
    time.sleep(0.3)
    for _ in range(20):
        next(kept)
    print(len(asked), flush=True)
"""


def ended(program: str) -> subprocess.CompletedProcess[str]:
    """What a program of its own session says; a process that nobody ends would keep it for ever."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, start_new_session=True, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("late", [0, 1])
def test_signals_leave_the_workers_to_their_parent_and_nobody_waits_at_the_end(folder: Path, late: int) -> None:
    """Also a worker that has not begun yet when a signal comes."""
    done = ended(SIGNALLED.format(folder=str(folder), late=late))
    assert (done.stdout, done.returncode) == ("noted 2\n", 0), done.stderr


KILLED = """
import multiprocessing, sys
from pathlib import Path
from ratlip_cli.data.dataset import CaptionedImages, training_batches
from ratlip_cli.errors import DataError

if __name__ == "__main__":
    kept = training_batches(CaptionedImages(Path({folder!r}), "train", 32), 4, workers=2)
    next(kept)
    multiprocessing.active_children()[0].kill()
    try:
        for batch in kept:
            pass
    except (DataError, RuntimeError) as error:  # the second where PyTorch notices outside of `next`
        sys.exit(str(error))
"""


@pytest.mark.slow
def test_a_killed_worker_is_one_line_and_nobody_waits_at_the_end(folder: Path) -> None:
    done = ended(KILLED.format(folder=str(folder)))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert "killed" in done.stderr


class Slow(Dataset[int]):
    """Items of which the first alone comes soon."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> int:
        time.sleep(60 * min(index, 1))
        return index


def test_nobody_waits_for_busy_workers_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    for what in ("kill", "join"):
        plain = getattr(BaseProcess, what)

        def noted(process: BaseProcess, *given: Any, _what: str = what, _plain: Any = plain, **more: Any) -> Any:
            ended.append(_what)
            return _plain(process, *given, **more)

        monkeypatch.setattr(BaseProcess, what, noted)
    loaders = [
        DataLoader(Slow(), batch_size=None, num_workers=1, worker_init_fn=leave_signals_to_parent) for _ in range(3)
    ]
    turns = itertools.cycle(range(3))
    items = read_in_turn(loaders, lambda: next(turns))
    assert [next(items) for _ in loaders] == [0, 0, 0]
    items.close()
    assert ended[:3] == ["kill"] * 3  # before the first is waited for


def test_readers_that_pin_are_closed_side_by_side() -> None:
    all_at_it, closed = threading.Barrier(4), []

    class Reader:
        def __del__(self) -> None:
            all_at_it.wait(60)  # breaks where one comes after the other
            closed.append(True)

    readers: Any = [Reader() for _ in range(4)]
    close_at_once(readers)
    assert closed == [True] * 4


def _pin_memory_loop() -> None:
    raise EOFError


def test_a_worker_that_is_killed_while_its_batch_is_pinned_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="killed"):
        next_of(iter(told_by_pytorch("Pin memory thread exited unexpectedly")))
    let_pinning_end_in_silence()
    thread = threading.Thread(target=_pin_memory_loop)
    thread.start()
    thread.join()
    assert capfd.readouterr().err == ""


def told_by_pytorch(words: str) -> Iterator[Any]:
    raise RuntimeError(words)
    yield
