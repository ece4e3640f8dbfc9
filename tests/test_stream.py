"""Datasets that are read as they stream: every image once an epoch, the same ones again, and what is broken."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import pickle
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import ratlip
from hub_connection import Connect
from hub_server import Fault, serve
from PIL import Image
from shards import colour, members, write_parquet, write_shard, write_shards
from test_distributed import by_hand, ended, free_port, needs_proc, options, records, signalled, train
from test_lafite_training import SIZES

from ratlip_cli.data import stream as stream_module
from ratlip_cli.data.dataset import Batch
from ratlip_cli.data.layout import Problem, Record, read_dataset, read_split
from ratlip_cli.data.prepare import PrepareRequest, prepare, resolve_dataset
from ratlip_cli.data.request import expanded, is_stream, stream_name
from ratlip_cli.data.stream import StreamedImages, StreamReader
from ratlip_cli.errors import DataError, RatlipError, UsageError
from ratlip_cli.tensor_files import load_tensors
from ratlip_cli.training import benchmark
from ratlip_cli.training.dry_run import dry_run
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.start import open_session

datasets = pytest.importorskip("datasets", reason="the datasets library, which reads streams, is not installed")

SHARDS, SAMPLES = 4, 6


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("stream") / "set", SHARDS, SAMPLES)


def pattern(folder: Path, last: int = SHARDS - 1) -> str:
    return str(folder / f"{{00000..{last:05d}}}.tar")


def opened(source: object, **more: object) -> StreamedImages:
    return StreamedImages(str(source), 32, **{"buffer": 4, **more})  # type: ignore[arg-type]


def read(reader: StreamReader, count: int) -> list[Batch]:
    batches = reader.batches()
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def captions(batches: list[Batch]) -> list[str]:
    return [caption for batch in batches for caption in batch.captions]


def same(one: list[Batch], other: list[Batch]) -> bool:
    return [batch.captions for batch in one] == [batch.captions for batch in other] and all(
        torch.equal(a.images, b.images) for a, b in zip(one, other, strict=True)
    )


def everything(numbers: int = SHARDS * SAMPLES) -> Counter[str]:
    return Counter(f"image {number}" for number in range(numbers))


def test_every_image_comes_once_an_epoch_in_an_order_of_its_own(shards: Path) -> None:
    stream = opened(pattern(shards))
    assert len(stream) == SHARDS * SAMPLES
    epochs = [captions(read(StreamReader(stream, 6), 12))[24 * epoch :][:24] for epoch in range(2)]
    assert [Counter(epoch) for epoch in epochs] == [everything(), everything()]
    assert epochs[0] != epochs[1]
    order = [int(caption.split()[1]) for caption in epochs[0]]
    assert order != sorted(order)
    assert same(read(StreamReader(opened(pattern(shards)), 6), 12), read(StreamReader(stream, 6), 12))
    assert epochs[0] != captions(read(StreamReader(opened(pattern(shards), seed=1), 6), 4))


def test_images_are_of_their_captions_and_cropped_and_mirrored_at_random(shards: Path) -> None:
    mirrored, crops = set(), set()
    for batch in read(StreamReader(opened(shards), 6), 8):
        assert batch.images.shape == (6, 3, 32, 32)
        for image, caption in zip(batch.images, batch.captions, strict=True):
            levels = (image + 1) * 127.5
            left, right = levels[:, 16, 0], levels[:, 16, -1]
            darker = torch.minimum(left, right)
            assert torch.allclose(darker, torch.tensor(colour(int(caption.split()[1]))).float(), atol=1e-3)
            mirrored.add(bool((left > right).any()))
            crops.add(int((levels[0, 16] == levels[0, 16, 0]).sum()))
    assert mirrored == {True, False}
    assert len(crops) > 4


@pytest.mark.parametrize(("workers", "done"), [(0, 1), (0, 3), (0, 7), (2, 3)])
def test_going_on_in_the_middle_of_a_shard_gives_the_same_batches_to_the_bit(
    shards: Path, workers: int, done: int
) -> None:
    whole = read(StreamReader(opened(shards), 5, workers), 12)
    before = StreamReader(opened(shards), 5, workers)
    assert same(read(before, done), whole[:done])
    position = pickle.loads(pickle.dumps(before.position()))
    after = StreamReader(opened(shards), 5, workers, positions=[position])
    assert same(read(after, 12 - done), whole[done:])


def test_processes_and_workers_share_shards_and_none_is_read_twice(shards: Path) -> None:
    stream = opened(shards)
    both = [captions(read(StreamReader(stream, 6, rank=rank, processes=2), 2)) for rank in range(2)]
    assert Counter(both[0] + both[1]) == everything()
    assert Counter(captions(read(StreamReader(stream, 6, workers=4), 4))) == everything()
    alone = StreamReader(stream, 6, workers=9)
    assert len(alone.position()["lanes"]) == SHARDS
    with pytest.raises(UsageError, match="4 shards for 5 processes"):
        StreamReader(stream, 6, processes=5)


def test_another_number_of_processes_goes_on_with_what_nobody_began(shards: Path) -> None:
    stream = opened(shards)
    before = [StreamReader(stream, 3, rank=rank, processes=2) for rank in range(2)]
    seen = captions([batch for reader in before for batch in read(reader, 1)])
    alone = StreamReader(stream, 3, positions=[reader.position() for reader in before])
    after = captions(read(alone, 4))  # of the four shards, two were begun
    assert not set(seen) & set(after)
    assert len(set(after)) == 12
    following = captions(read(alone, 8))  # the next epoch is whole again
    assert Counter(following) == everything()


@pytest.mark.slow
def test_two_processes_read_shards_of_their_own_and_go_on(shards: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    steps, out = Path(__file__).parent / "stream_steps.py", tmp_path / "told.json"
    answer = subprocess.run(
        [*torchrun, str(steps), str(shards), str(out)], capture_output=True, text=True, timeout=120, check=False
    )
    assert answer.returncode == 0, answer.stderr
    one, other = json.loads(out.read_text())
    for told in (one, other):
        assert told["first"] + told["then"] == told["whole"]
    assert Counter(one["whole"] + other["whole"]) == everything()


def test_what_is_broken_is_named_counted_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = {number: members(number, b"no image at all") for number in range(2)}
    bad[2] = {**members(2), "txt": b" \n"}
    bad[3] = {"txt": b"no image"}
    bad[4] = {**members(4), "txt": b"\xff\xfe\xfa"}
    write_shard(tmp_path, 0, bad | {number: members(number) for number in range(5, 40)})
    write_shard(tmp_path, 1, {number: members(number) for number in range(40, 60)})
    reader = StreamReader(opened(tmp_path, max_failed=0.5), 5)
    with caplog.at_level(logging.WARNING, "ratlip_cli"):
        got = captions(read(reader, 11))
    assert Counter(got) == everything(60) - everything(5)
    told = [record.message for record in caplog.records]
    assert len(told) == 5
    for number, reason in enumerate(("not an image", "not an image", "no caption", "no image", "UTF")):
        assert any(f"00000.tar: {number:09d}" in line and reason in line for line in told), (number, told)
    assert (reader.counts.failed, reader.counts.images) == (5, 60)


def test_only_the_first_ten_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_shard(tmp_path, 0, {n: members(n, b"broken" if n % 2 else None) for n in range(60)})
    with caplog.at_level(logging.WARNING, "ratlip_cli"):
        read(StreamReader(opened(tmp_path, max_failed=0.9), 5), 12)
    assert len(caplog.records) == stream_module.NAMED
    assert caplog.records[-1].message.endswith("no more are named")


@pytest.mark.parametrize("how", ["cut", "header", "gone"])
def test_a_shard_that_is_cut_gives_what_it_has_and_is_counted(tmp_path: Path, how: str) -> None:
    write_shards(tmp_path, 4, 6)
    whole = (tmp_path / "00001.tar").read_bytes()
    middle = whole.index(b"000000009.jpg")  # the fourth sample's header
    if how == "gone":
        (tmp_path / "00001.tar").unlink()
    else:
        cut = whole[: middle + 700] if how == "cut" else whole[:middle] + b"?" * 512 + whole[middle + 512 :]
        (tmp_path / "00001.tar").write_bytes(cut)
    kept = {"cut": 3, "header": 2, "gone": 0}[how]  # of a damaged header nothing says that the sample before is whole
    reader = StreamReader(opened(pattern(tmp_path), max_failed=0.5), 18 + kept)
    got = Counter(captions(read(reader, 1)))
    gone = Counter(f"image {number}" for number in range(6 + kept, 12))
    assert got == everything() - gone
    assert reader.counts.failed_shards == 1


def test_a_shard_is_tried_again_and_goes_on_where_it_broke(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opens: Counter[str] = Counter()
    real = stream_module._opened

    class Breaking:
        def __init__(self, file: object) -> None:
            self.file, self.left = file, 3000

        def read(self, size: int) -> bytes:
            self.left -= size
            if self.left < 0:
                raise ConnectionResetError("reset by peer")
            return self.file.read(size)

        def __enter__(self) -> Breaking:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    def breaking(shard: str) -> object:
        opens[shard] += 1
        return real(shard) if opens[shard] > 1 else Breaking(real(shard))

    monkeypatch.setattr(stream_module, "_opened", breaking)
    reader = StreamReader(opened(pattern(shards)), 6)
    assert Counter(captions(read(reader, 4))) == everything()
    assert set(opens.values()) == {2}
    assert reader.counts.failed_shards == 0


def test_too_much_that_is_broken_ends_the_stream(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, {n: members(n, b"broken" if n % 3 == 0 else None) for n in range(300)})
    with pytest.raises(DataError, match=r"of \d+ images cannot be used, and --max-failed allows 0.1 .*000000"):
        read(StreamReader(opened(tmp_path, buffer=50), 10), 100)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_that_all_fail_end_the_stream_before_another_batch(tmp_path: Path, workers: int) -> None:
    """Elsewhere each takes seconds, and an epoch has many."""
    write_shards(tmp_path, 30, 6)
    whole = stream_module._epoch_shards(0, 0, 30, {})[:2]
    for number in {*range(30)} - {*whole}:
        (tmp_path / f"{number:05d}.tar").unlink()
    reader = StreamReader(opened(pattern(tmp_path, 29), max_failed=0.1), 5, workers)
    with pytest.raises(DataError, match=r": 2 of [34] shards cannot be used, and --max-failed allows 0.1 .*\.tar: "):
        read(reader, 3)


@pytest.mark.parametrize("kind", ["jpg", "txt"])
def test_images_that_all_fail_end_the_stream_before_another_batch(tmp_path: Path, kind: str) -> None:
    """By their content, and by their captions."""
    first, second = stream_module._epoch_shards(0, 0, 2, {})
    write_shard(tmp_path, first, {n: members(n) for n in range(20)})
    write_shard(tmp_path, second, {n: {**members(n, b"broken"), kind: b" "} for n in range(20, 1000)})
    with pytest.raises(DataError, match=r": 200 of 2\d\d images cannot be used, and --max-failed allows 0.1 "):
        read(StreamReader(opened(tmp_path), 6), 4)


def test_an_empty_shard_is_one_of_no_images(tmp_path: Path) -> None:
    write_shards(tmp_path, 3, 2)
    write_shard(tmp_path, 1, {})
    assert len(opened(tmp_path)) == 4
    (tmp_path / "00001_stats.json").unlink()
    assert len(opened(tmp_path)) == 0, "nobody knows"


def test_a_stream_of_which_too_many_shards_are_gone_is_not_looked_through(tmp_path: Path) -> None:
    write_shards(tmp_path, 12, 6)
    for number in range(11):
        (tmp_path / f"{number:05d}.tar").unlink()
    for use in (StreamedImages.first_captions, StreamedImages.first_images):
        assert len(use(opened(pattern(tmp_path, 11), max_failed=1), 2)) == 2
        with pytest.raises(DataError, match=r"none of the first 2 images can be used; the first problem: .*00000\.tar"):
            use(opened(pattern(tmp_path, 11)), 2)


@pytest.mark.slow
def test_counts_go_on_in_the_middle_of_a_shard_and_with_other_processes(tmp_path: Path) -> None:
    for shard in range(SHARDS):
        numbers = range(SAMPLES * shard, SAMPLES * shard + SAMPLES)
        write_shard(tmp_path, shard, {n: members(n, b"broken" if n % 3 == 0 else None) for n in numbers})
    stream = opened(tmp_path, max_failed=0.5)

    def run(reader: StreamReader, count: int) -> list[stream_module.Counts]:
        return [reader.counts for _ in itertools.islice(reader.batches(), count)]

    whole = run(StreamReader(stream, 3, 2), 12)
    assert whole[-1].failed > 8  # an epoch's
    for done in (1, 2, 3, 5):
        stopped = StreamReader(stream, 3, 2)
        assert run(stopped, done) == whole[:done]
        after = StreamReader(stream, 3, 2, positions=[stopped.position()])
        assert after.counts == whole[done - 1]
        assert run(after, 12 - done) == whole[done:]
        others = [StreamReader(stream, 3, 1, rank, 2, [stopped.position()]) for rank in range(2)]
        assert stream_module.counted([other.position() for other in others]) == whole[done - 1]


def test_a_stream_without_captions_is_told_in_one_line(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, {n: {"jpg": members(n)["jpg"]} for n in range(250)})
    for use in (lambda: opened(tmp_path).first_captions(4), lambda: read(StreamReader(opened(tmp_path), 4), 1)):
        with pytest.raises(DataError, match=r"none of the first 200 images can be used; .*no caption"):
            use()
    few = tmp_path / "few"
    write_shard(few, 0, {n: {"jpg": members(n)["jpg"]} for n in range(5)})
    with pytest.raises(DataError, match="none of the first 5 images"):
        read(StreamReader(opened(few), 4), 1)


def test_images_that_come_with_data_and_no_caption_are_taken_where_none_is_needed(tmp_path: Path) -> None:
    """As img2dataset writes them."""
    told = [b'{"key": "0", "width": 48}', b'{"caption": null}']
    write_shard(tmp_path, 0, {n: {"jpg": members(n)["jpg"], "json": told[n % 2]} for n in range(6)})
    write_parquet(tmp_path / "0.parquet", range(6), column="width")
    for place in (tmp_path, tmp_path / "*.parquet"):
        [batch] = read(StreamReader(opened(place, needs_captions=False), 6), 1)
        assert batch.captions == ("",) * 6
        with pytest.raises(DataError, match=r"first 6 images can be used; .*it has no caption"):
            opened(place).first_captions(4)


@pytest.mark.parametrize("how", ["empty", "broken"])
def test_a_shard_without_images_ends_no_worker(tmp_path: Path, how: str) -> None:
    """Shards are dealt anew each epoch, so that the next one of the lane has images."""
    write_shards(tmp_path, SHARDS, SAMPLES)
    lane = StreamReader(opened(tmp_path, max_failed=0.5), 6, 4)
    barren = stream_module._epoch_shards(0, 0, SHARDS, {})[0]
    write_shard(tmp_path, barren, {})
    if how == "broken":
        (tmp_path / f"{barren:05d}.tar").write_bytes(b"junk" * 1000)
    rest = everything() - Counter(f"image {number}" for number in range(barren * SAMPLES, (barren + 1) * SAMPLES))
    lane._in_workers = 0  # the same lanes, in this process
    batches = read(lane, SHARDS)
    assert set(captions(batches)) == set(rest)
    assert lane.counts.failed_shards == (how == "broken")


def test_shards_without_any_image_are_told(tmp_path: Path) -> None:
    for shard in range(SHARDS):
        write_shard(tmp_path, shard, {})
    for workers in (0, 2, 4):
        lane = StreamReader(opened(tmp_path), 6, workers)
        lane._in_workers = 0
        with pytest.raises(DataError, match=r"its shards hold no images\. Get them again"):
            read(lane, 1)
    with pytest.raises(DataError, match="its shards hold no images"):
        opened(tmp_path).first_images(2)


def test_captions_come_from_the_column_that_is_asked_for(tmp_path: Path) -> None:
    write_shards(tmp_path / "tar", 1, 4)
    urls = captions(read(StreamReader(opened(tmp_path / "tar", caption_column="url"), 4), 1))
    assert sorted(urls) == [f"http://x/{number}" for number in range(4)]
    write_parquet(tmp_path / "a.parquet", range(6), column="story")
    got = opened(tmp_path / "*.parquet", caption_column="story")
    assert len(got) == 6
    assert Counter(captions(read(StreamReader(got, 6), 1))) == everything(6)


def test_parquet_files_are_read_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    for part in range(4):
        write_parquet(tmp_path / f"{part}.parquet", range(6 * part, 6 * part + 6))
    (tmp_path / "2.parquet").write_bytes(b"PAR1 and no more")
    reader = StreamReader(opened(tmp_path / "{0..3}.parquet", max_failed=0.5), 6)
    got = captions(read(reader, 3))
    assert Counter(got) == everything() - Counter(f"image {number}" for number in range(12, 18))
    position = reader.position()
    assert same(
        read(StreamReader(opened(tmp_path / "{0..3}.parquet", max_failed=0.5), 6, positions=[position]), 3),
        read(StreamReader(opened(tmp_path / "{0..3}.parquet", max_failed=0.5), 6), 6)[3:],
    )


def test_names_of_streams(tmp_path: Path) -> None:
    assert expanded("a/{08..11}.tar") == ["a/08.tar", "a/09.tar", "a/10.tar", "a/11.tar"]
    assert expanded("{a,b}{0..1}") == ["a0", "a1", "b0", "b1"]
    assert stream_name("hf://me/birds@v1") == "birds"
    assert stream_name("x/cc12m/{00000..01242}.tar") == "cc12m"
    write_shards(tmp_path / "laion", 1, 1)
    assert is_stream(str(tmp_path / "laion"))
    assert not is_stream(str(tmp_path / "laion" / "00000.tar"))
    (tmp_path / "files" / "00000").mkdir(parents=True)
    (tmp_path / "files" / "00000_stats.json").touch()
    (tmp_path / "files" / "00000.parquet").touch()  # img2dataset's own notes of the files
    assert not is_stream(str(tmp_path / "files"))
    write_parquet(tmp_path / "parquet" / "00000.parquet", range(4))
    (tmp_path / "parquet" / "00000_stats.json").touch()
    assert is_stream(str(tmp_path / "parquet"))
    assert len(opened(tmp_path / "parquet")) == 4
    assert not any(map(is_stream, ("cub", "*star?", "100%_{done}")))
    with pytest.raises(DataError, match="does not exist"):
        opened(tmp_path / "{0..3}.tar")
    (tmp_path / "0.zip").touch()
    with pytest.raises(DataError, match="cannot be read as it streams"):
        opened(tmp_path / "{0..1}.zip")


@pytest.mark.parametrize("name", ["*.parquet", "{0..2}.parquet"])
def test_a_pattern_of_parquet_files_is_prepared_into_a_folder(tmp_path: Path, name: str) -> None:
    for part in range(3):
        write_parquet(tmp_path / "set" / f"{part}.parquet", range(6 * part, 6 * part + 6), column="story")
    given = ("--image-size", 32, "--data-dir", tmp_path / "data", "--workers", 1, "--caption-column", "story")
    answer = ratlip("prepare", tmp_path / "set" / name, *given)
    assert (answer.code, answer.out.strip()) == (0, str(tmp_path / "data" / "set")), answer.err
    found = [entry for split in ("train", "test") for entry in read_split(tmp_path / "data" / "set", split)]
    assert Counter(caption for entry in found for caption in entry.captions) == everything(18)


@pytest.mark.parametrize("names", [f"{{00000..{SHARDS - 1:05}}}.tar", "*.tar", "0000[0-9].tar"])
def test_brackets_in_the_name_of_a_folder_are_no_pattern(shards: Path, tmp_path: Path, names: str) -> None:
    folder = shutil.copytree(shards, tmp_path / "d[1]")
    if "[" in names:  # one of both is meant
        folder = folder.rename(tmp_path / "d1")
    assert len(opened(folder / names).shards) == SHARDS


def test_a_stream_is_prepared_into_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path / "set", 2, 6)
    write_shard(tmp_path / "set", 2, {12: members(12), 13: members(13, b"broken")})
    arguments = (
        "prepare",
        tmp_path / "set" / "{00000..00002}.tar",
        "--image-size",
        32,
        "--data-dir",
        tmp_path / "data",
    )
    answer = ratlip(*arguments, "--workers", 1, "--test-fraction", 0.25)
    assert answer.code == 0, answer.err
    assert "000000013" in answer.err
    out = tmp_path / "data" / "set"
    assert answer.out.strip() == str(out)
    found = [*read_split(out, "train"), *read_split(out, "test")]
    assert Counter(entry.captions[0] for entry in found) == everything(13)
    assert "prepared already" in ratlip(*arguments, "--workers", 1, "--test-fraction", 0.25).err


@pytest.mark.parametrize(("where", "after"), [("", 3), ("", None), ("file://", 3)])
def test_images_of_shards_that_were_written_again_get_no_old_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, after: int | None
) -> None:
    """Interrupted or finished: shards keep their size, and elsewhere nothing else of them is known."""
    folder = write_shards(tmp_path / "set", 1, 6)
    request = PrepareRequest(f"{where}{pattern(folder, 0)}", tmp_path / "data", image_size=32, workers=0)
    all_of = stream_module.records

    def stopping(*given: Any) -> Iterator[Record | Problem]:
        yield from itertools.islice(all_of(*given), after)
        raise KeyboardInterrupt

    if after:
        with monkeypatch.context() as patch:
            patch.setattr(stream_module, "records", stopping)
            with pytest.raises(KeyboardInterrupt):
                prepare(request)
    else:
        prepare(request)
    size = (folder / "00000.tar").stat().st_size
    write_shard(folder, 0, {number: members(number + 8) for number in range(6)})
    assert (folder / "00000.tar").stat().st_size == size
    out = prepare(request).path
    entries = [entry for split in ("train", "test") for entry in read_split(out, split)]
    for entry in entries:
        assert Image.open(entry.file).getpixel((0, 0)) == colour(int(entry.captions[0].split()[1]))
    assert {entry.captions[0] for entry in entries} == {f"image {number + 8}" for number in range(6)}


@pytest.fixture
def streaming(settings: TrainSettings, shards: Path) -> TrainSettings:
    return settings.replaced(dataset=pattern(shards), shuffle_buffer=4, save_every=100, steps=6)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(folder / "model" / "generator.safetensors")


def passed_over(run: Path) -> list[tuple[int, int]]:
    return [(line["failed_images"], line["failed_shards"]) for line in records(run)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(
    streaming: TrainSettings, tmp_path: Path, workers: int
) -> None:
    write_shards(tmp_path / "set", SHARDS, SAMPLES)
    write_shard(tmp_path / "set", 1, {n: members(n, b"broken" if n % 3 == 0 else None) for n in range(6, 12)})
    streaming = streaming.replaced(dataset=str(tmp_path / "set"), workers=workers)
    for _ in open_session(streaming).run():
        pass
    stopped = streaming.replaced(out=str(tmp_path / "stopped"))
    for record in open_session(stopped).run():
        assert record.epoch == pytest.approx(record.step * 4 / 24)
        if record.step == 3:
            break
    for _ in open_session(stopped.replaced(resume=stopped.out, out="")).run():
        pass
    one, other = weights(Path(streaming.out)), weights(Path(stopped.out))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert passed_over(Path(streaming.out)) == passed_over(Path(stopped.out))
    assert passed_over(Path(stopped.out))[-1][0] >= 2


@pytest.mark.slow
def test_a_run_ends_with_the_number_of_what_was_passed_over(streaming: TrainSettings, tmp_path: Path) -> None:
    write_shards(tmp_path, 6, 20)
    (tmp_path / "00003.tar").unlink()
    write_shard(tmp_path, 2, {n: members(n, b"broken" if n < 52 else None) for n in range(40, 60)})
    given = streaming.replaced(dataset=pattern(tmp_path, 5), steps=23)  # the epoch's 88 images, and four of the next
    answer = ratlip("train", *options(given))
    assert answer.code == 0, answer.err
    assert answer.err.count("passed over: ") == stream_module.NAMED
    assert passed_over(Path(given.out))[-1] == (12, 1)
    told = "passed over in all: 12 of 104 images and 1 of 6 shards that were read; 3 of them after the first 10"
    assert told in " ".join(answer.err.split())
    clean = ratlip("train", *options(streaming.replaced(steps=1, out=str(tmp_path / "clean"))))
    assert (clean.code, "passed over" in clean.err) == (0, False)
    assert passed_over(tmp_path / "clean") == [(0, 0)]


@pytest.mark.slow
def test_a_process_whose_shards_fail_ends_all_with_its_line(streaming: TrainSettings, tmp_path: Path) -> None:
    """Before the others give it up: each shard that fails takes six seconds."""
    write_shards(tmp_path, 24, 6)
    own = stream_module._epoch_shards(0, 0, 24, {})[1::2]
    for number in own[2:]:
        (tmp_path / f"{number:05d}.tar").unlink()
    given = streaming.replaced(
        dataset=f"file://{pattern(tmp_path, 23)}",
        out=str(tmp_path / "run"),
        dist_timeout="30s",
        steps=20,
        max_failed=0.1,
    )
    code, _, err = ended(train(*options(given), "--devices", "2"))
    assert (code, err.count("error: ")) == (1, 1), err
    assert "shards cannot be used, and --max-failed allows 0.1 of them" in " ".join(err.split())


def test_images_without_captions_are_learnt_from_where_none_is_needed(
    streaming: TrainSettings, shards: Path, tmp_path: Path
) -> None:
    for shard in range(SHARDS):
        numbers = range(shard * SAMPLES, (shard + 1) * SAMPLES)
        write_shard(tmp_path / "bare", shard, {n: {"jpg": members(n)["jpg"]} for n in numbers})
        mixed = {n: {name: file for name, file in members(n).items() if n % 2 or name == "jpg"} for n in numbers}
        write_shard(tmp_path / "mixed", shard, mixed)
    lafite = {"variant": "lafite", **SIZES, "r1_every": 2, "path_length_every": 2}
    bare = streaming.replaced(**lafite, dataset=str(tmp_path / "bare"), language_free=True, steps=2, sample_every=2)
    told: list[str] = []
    list(open_session(bare, told.append).run())
    assert any("images; no caption is looked at" in line for line in told)
    assert (Path(bare.out) / "samples" / "step_00000002.png").is_file()
    captioned = bare.replaced(dataset=str(shards), out=str(tmp_path / "captioned"))
    list(open_session(captioned).run())
    one, other = weights(Path(bare.out)), weights(Path(captioned.out))
    assert all(torch.equal(one[name], other[name]) for name in one)

    some = bare.replaced(
        dataset=str(tmp_path / "mixed"), language_free=False, mixing=0.5, out=str(tmp_path / "mixed-run")
    )
    session = open_session(some, told.append)
    assert any(line.endswith("images without one are taken too") for line in told)
    [batch] = itertools.islice(session._batches(), 1)
    [micro] = session.trainer._micro_batches(batch)
    empty = [not caption for caption in batch.captions]
    assert any(empty)
    assert not all(empty)
    assert [not text.any() for text in micro.text] == empty
    expected = session.settings.family.encode(session.trainer.clip, [text for text in batch.captions if text])
    torch.testing.assert_close(micro.text[micro.text.any(dim=1)], expected)
    with pytest.raises(DataError, match=r"no caption\. Say by --caption-column .*--language-free"):
        open_session(bare.replaced(language_free=False, out=str(tmp_path / "refused")))
    assert not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_with_the_same_images(streaming: TrainSettings, tmp_path: Path) -> None:
    def run(name: str, steps: int, **own: str) -> str:
        given = streaming.replaced(steps=steps, save_every=2, workers=1, out="" if own else str(tmp_path / name), **own)
        code, _, err = ended(train(*options(given, dataset=str(folder)), "--devices", "2"))
        assert code == 0, err
        return " ".join(err.split())

    folder = write_shards(tmp_path / "set", SHARDS, SAMPLES)
    others = stream_module._epoch_shards(0, 0, SHARDS, {})[1]  # what the second process reads first
    numbers = range(SAMPLES * others, SAMPLES * others + SAMPLES)
    write_shard(folder, others, {n: members(n, b"broken" if n < numbers[2] else None) for n in numbers})
    said = run("whole", 6)
    for number in numbers[:2]:
        assert said.count(f"passed over: {folder}/{others:05d}.tar: {number:09d}.jpg: ") == 1, said
    assert "passed over in all: " in said, said
    run("stopped", 3)
    run("stopped", 6, resume=str(tmp_path / "stopped"))
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert passed_over(tmp_path / "whole") == passed_over(tmp_path / "stopped")
    assert passed_over(tmp_path / "whole")[4] == (2, 0)  # when the second process has read its shards


@pytest.mark.slow
@needs_proc
def test_a_run_whose_processes_are_killed_ends_as_one_whose_were_not(streaming: TrainSettings, tmp_path: Path) -> None:
    given = streaming.replaced(steps=40, save_every=3)
    code, _, err = ended(train(*options(given, out=str(tmp_path / "whole")), "--devices", "2"))
    assert code == 0, err
    for rank, after in ((1, 7), (0, 10)):
        run = tmp_path / f"killed-{rank}"
        process = train(*options(given, out=str(run)), torchrun=["--nproc-per-node", "2", "--max-restarts", "1"])
        signalled(process, rank, signal.SIGKILL, run, after)
        code, _, err = ended(process)
        assert code == 0, err
        assert err.count("error: ") == 1, err
        assert f"process {rank} of 2" in err
        assert [line["step"] for line in records(run)] == list(range(1, 41))
        one, other = weights(tmp_path / "whole"), weights(run)
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_processes_that_cannot_share_a_stream_are_one_line(streaming: TrainSettings, tmp_path: Path) -> None:
    given, port = options(streaming, out=str(tmp_path / "run")), free_port()
    started = [by_hand(port, 0, *given), by_hand(port, 1, *given, "--workers", "3")]
    (first, _, said), (second, _, silent) = map(ended, started)
    assert (first, second, silent, len(said.splitlines())) == (2, 2, "", 1)
    assert "has workers 3, and the first one" in said
    few = options(streaming, out=str(tmp_path / "run"), dataset=pattern(Path(streaming.dataset).parent, 0))
    code, _, err = ended(train(*few, "--devices", "2"))
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "has 1 shards for 2 processes" in err
    write_shard(tmp_path / "bare", 0, {n: {"jpg": members(n)["jpg"]} for n in range(4)})
    write_shard(tmp_path / "bare", 1, {n: {"jpg": members(n)["jpg"]} for n in range(4, 8)})
    bare = options(streaming, out=str(tmp_path / "run"), dataset=str(tmp_path / "bare"))
    code, _, err = ended(train(*bare, "--devices", "2"))
    note, error = err.splitlines()
    assert (code, note.partition(",")[0]) == (1, "a stream of 2 shards"), err
    assert "Say by --caption-column where the captions are" in error
    assert not (tmp_path / "run").exists()


def test_bad_requests_of_streams_are_told(
    streaming: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="training alone"):
        resolve_dataset(streaming.dataset, tmp_path, 32)
    with pytest.raises(UsageError, match="a stream has none"):
        open_session(streaming.replaced(eval_every=2))
    with pytest.raises(UsageError, match="a stream's are not known before they come"):
        open_session(streaming.replaced(hard_negatives=8))
    write_parquet(tmp_path / "0.parquet", range(4))
    write_shard(tmp_path, 0, {0: members(0)})
    (tmp_path / "00000_stats.json").unlink()
    with pytest.raises(UsageError, match="--stream-images"):
        open_session(streaming.replaced(dataset=str(tmp_path / "*.tar"), epochs=2))
    with pytest.raises(UsageError, match="max_failed"):
        dataclasses.replace(streaming, max_failed=1.5)
    with pytest.raises(UsageError, match="is no data set of the Hub"):
        opened("hf://birds")
    with pytest.raises(UsageError, match=r"at an address \* finds nothing; give the numbers"):
        opened(f"file://{tmp_path}/*.tar")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RatlipError, match=r"pip install 'ratlip\[stream\]'"):
        open_session(streaming)


def test_a_dry_run_and_a_benchmark_of_the_loader(
    streaming: TrainSettings, shards: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "SHORTEST_SECONDS", 0.0)
    told = dry_run(streaming)
    assert (told.images, told.captions, told.steps) == (24, None, 6)
    answer = ratlip("bench", "--data", shards, "--image-size", 32, "--workers", 0, "--batch-size", 8, "--json", "-q")
    assert answer.code == 0, answer.err
    assert '"loader_images_per_second"' in answer.out
    monkeypatch.setenv("RATLIP_DATA", str(tiny_dataset.parent))
    answer = ratlip(
        "bench", "--data", tiny_dataset.name, "--image-size", 32, "--workers", 0, "--batch-size", 8, "--json"
    )
    assert (answer.code, '"loader_images_per_second"' in answer.out) == (0, True), answer.err


def test_a_data_set_of_the_hub(tmp_path: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "birds"
    for part in range(2):
        write_parquet(repository / "data" / f"train-{part:05d}-of-00002.parquet", range(6 * part, 6 * part + 6))
    write_parquet(repository / "data" / "test-00000-of-00001.parquet", range(20, 24))
    (repository / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.setattr(stream_module, "WAIT", 0.0)
    with serve({"me/birds": repository}) as hub:
        connect(hub)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
        stream = opened("hf://me/birds")
        hub.faults.append(Fault(r"GET /datasets/me/birds/resolve/.*00001", status=500, times=1))
        assert Counter(captions(read(StreamReader(stream, 6), 2))) == everything(12)
        assert opened("hf://me/birds", split="test").first_captions(2) == ["image 20", "image 21"]
        with pytest.raises(UsageError, match="no split 'validation'; it has: train, test"):
            opened("hf://me/birds", split="validation")
        with pytest.raises(DataError, match="hf://me/none cannot be opened"):
            opened("hf://me/none")
        hub.faults.append(Fault(r"GET /datasets/me/birds/resolve/.*00001", status=403, times=99))
        asked = ("prepare", "hf://me/birds", "--image-size", 32, "--data-dir", tmp_path / "data", "--workers", 1)
        answer = ratlip(*asked)
        assert (answer.code, "prepare it again to read the rest" in answer.err) == (0, True), answer.err
        hub.faults.clear()
        assert ratlip(*asked).code == 0
        info = read_dataset(tmp_path / "data" / "birds")
        assert (sum(info.counts.values()), info.left_out) == (12, ())
        assert "prepared already" in ratlip(*asked).err
