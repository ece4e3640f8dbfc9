"""Images and scores that several processes make together are those of one; what they do not share, one does."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import ratlip
from PIL import Image
from test_distributed import ended, free_port, options, records, started, train

from ratlip_cli import samples
from ratlip_cli.distributed import World
from ratlip_cli.sampling import SharedModel, TorchModel
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.weights.load import load_model

TWO = ("--nproc-per-node", "2")

PROMPTS = ["a red bird", "a blue flower", "a yellow circle above a green square"]


class Threads(World):
    """As many worlds as `size`, each for a thread of its own, which exchange values."""

    def __init__(self, rank: int, size: int, values: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, size
        self._values, self._barrier = values, barrier

    def gather(self, value: Any) -> list[Any]:
        self._values[self.rank] = value
        self._barrier.wait(60)
        everybody = list(self._values)
        self._barrier.wait(60)
        return everybody


@pytest.mark.parametrize(("size", "best_of"), [(2, 1), (3, 2), (7, 1)])
def test_images_that_are_shared_out_are_those_of_one(size: int, best_of: int) -> None:
    model = TorchModel(load_model("ratlip-demo"))

    def generated(group: World | None) -> list[samples.Sample]:
        made_by = model if group is None else SharedModel(model, group)
        return list(samples.generate(made_by, PROMPTS[:2], count=2, seed=3, best_of=best_of))

    values, barrier = [None] * size, threading.Barrier(size)
    found: dict[int, list[samples.Sample]] = {}
    threads = [
        threading.Thread(target=lambda rank=rank: found.update({rank: generated(Threads(rank, size, values, barrier))}))
        for rank in range(size)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = generated(None)
    for rank in range(size):
        for own, one in zip(found[rank], expected, strict=True):
            assert own.record() == one.record()
            assert own.image.tobytes() == one.image.tobytes()


def in_processes(count: int, *arguments: object) -> tuple[int, str, str]:
    return ended(started(*arguments, torchrun=("--nproc-per-node", str(count))))


def files(folder: Path) -> dict[str, str]:
    """The hash of each file, and of an image its pixels' too: what differs is then told in short."""

    def told(path: Path) -> str:
        pixels = Image.open(path).tobytes() if path.suffix in (".png", ".jpg") else b""
        return " ".join(hashlib.sha256(content).hexdigest()[:16] for content in (path.read_bytes(), pixels))

    return {path.name: told(path) for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(("count", "more"), [(2, ("-n", 3)), (3, ("-n", 2, "--best-of", 2, "--format", "jpg"))])
def test_generate_writes_the_same_files_in_several_processes(
    count: int, more: Sequence[object], tmp_path: Path
) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    given = ["--device", "cpu", "--seed", 7, *more]
    told = ratlip("generate", *PROMPTS, *given, "--out", one)
    assert told.code == 0, told.err
    code, out, err = ended(
        started("generate", "-", *given, "--out", several, "--devices", count), given="\n".join(PROMPTS)
    )
    assert code == 0, err
    assert out == told.out.replace(str(one), str(several))
    assert f"in {count} processes" in err.splitlines()[0]
    assert files(several) == files(one)


def evaluated(out: Path) -> dict[str, Any]:
    record = json.loads(out.read_text(encoding="utf-8"))
    record.pop("seconds")
    for score in record["metrics"].values():
        score.pop("seconds")
    return record


METRICS = ("--fid", "--kid", "--clip-score", "--bootstrap", 40)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered images, 120 of which are the test split."""
    folder = tmp_path_factory.mktemp("demo")
    answer = ratlip("prepare", "demo", "--count", 240, "--data-dir", folder, "--workers", 0)
    assert answer.code == 0, answer.err
    return folder / "demo"


@pytest.mark.slow
def test_scores_of_several_processes_are_those_of_one(demo: Path, tmp_path: Path) -> None:
    given = ("evaluate", "ratlip-demo", "--dataset", demo, *METRICS, "--device", "cpu")
    assert ratlip(*given, "--out", tmp_path / "one.json").code == 0
    shutil.rmtree(demo / ".features")
    for count, limit in ((2, 1e9), (3, 0)):
        out = tmp_path / f"{count}.json"
        code, shown, err = in_processes(count, *given, "--batch-size", 5, "--out", out, "--max-fid", limit)
        assert (code, err.count("error: ")) == ((0, 0) if limit else (1, 1)), err  # 1 is torchrun's own code
        assert limit or "above the 0 of --max-fid" in err
        assert shown.count("fid_clip") == 1
        own, one = evaluated(out), evaluated(tmp_path / "one.json")
        assert own.pop("thresholds")
        assert not one.pop("thresholds")
        measured, expected = own.pop("metrics"), one.pop("metrics")
        assert own == one
        for name, score in expected.items():
            assert measured[name]["value"] == pytest.approx(score["value"], rel=1e-6, abs=1e-6)
            assert measured[name]["interval"] == pytest.approx(score["interval"], rel=1e-6, abs=1e-6)
    assert [path.suffix for path in (demo / ".features").iterdir()].count(".npy") == 1


@pytest.mark.slow
def test_folders_of_images_are_scored_in_several_processes(demo: Path, tiny_clip: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    assert ratlip("generate", *PROMPTS, "-n", 8, "--out", images, "--no-grid", "--device", "cpu").code == 0
    given = (
        "evaluate",
        "--images",
        images,
        "--reference",
        demo / "test",
        "--resize",
        64,
        "--features",
        "clip",
        "--fid",
    )
    told = []
    for name in ("one", "two"):
        out = tmp_path / f"{name}.json"
        arguments = (*given, "--score-clip", tiny_clip, "--device", "cpu", "--out", out)
        if name == "one":
            assert ratlip(*arguments).code == 0
            shutil.rmtree(demo / "test" / ".features")
        else:
            code, _, err = in_processes(2, *arguments)
            assert code == 0, err
        told.append(evaluated(out)["metrics"]["fid_clip"]["value"])
    assert told[1] == pytest.approx(told[0], rel=1e-6)


@pytest.mark.slow
def test_scores_during_training_are_shared_out(tiny_settings: TrainSettings, tmp_path: Path) -> None:
    scored = tiny_settings.replaced(steps=4, eval_every=2, eval_features="clip", eval_captions=1)
    run = tmp_path / "run"
    code, _, err = ended(train(*options(scored, out=str(run)), "--devices", "2"))
    assert code == 0, err
    assert [("fid_clip" in line) for line in records(run)] == [False, True, False, True]
    assert ratlip("train", *options(scored, out=str(tmp_path / "one"))).code == 0
    one, several = (
        sorted(re.sub("tfevents.*", "", str(path.relative_to(of))) for path in of.rglob("*"))
        for of in (tmp_path / "one", run)
    )
    assert several == one
    answer = ratlip(*("evaluate", run / "model", "--captions-per-image", 1, "--json", "--device", "cpu"))
    scores = {name: score["value"] for name, score in json.loads(answer.out)["metrics"].items()}
    assert {name: records(run)[-1][name] for name in scores} == pytest.approx(scores, rel=1e-6, abs=1e-6)


@pytest.mark.slow
def test_what_is_for_one_process_is_done_by_one(tmp_path: Path) -> None:
    code, out, err = in_processes(2, "latent-viz", "--from", PROMPTS[0], "--to", PROMPTS[1], "--out", tmp_path / "view")
    assert code == 0, err
    assert "latent-viz works in one process: the others have nothing to do" in err
    assert len(out.split()) == len({*out.split()}) > 0
    code, out, err = in_processes(2, "info", tmp_path / "none")
    assert (code, out, err.count("error: ")) == (1, "", 1), err


@pytest.mark.slow
def test_wrong_requests_of_several_processes_are_one_line(demo: Path, tmp_path: Path) -> None:
    for given, words in (
        (("generate", " ", "--out", tmp_path / "x"), "prompt"),
        (("generate", "a bird", "--no-such"), "No such option"),
        (("evaluate", "ratlip-demo", "--dataset", demo, "--limit", 10**6), "--limit"),
    ):
        code, out, err = in_processes(2, *given)
        assert (code, out) == (1, ""), err
        ours = err.partition("Traceback")[0]  # what torchrun says of it comes after
        assert (ours.count("error: ") + ours.count("Usage: ")) == 1, err
        assert words in ours
    code, out, err = in_processes(2, "generate", "--help")
    assert (code, err, out.count("Usage: ")) == (0, "", 1)


@pytest.mark.slow
@pytest.mark.parametrize("is_ended", [True, False], ids=["the first one tells it", "the first one has none"])
def test_wrong_usage_of_another_process_waits_for_the_first_one(is_ended: bool) -> None:
    process = started("generate", "a bird", "--no-such", RANK="1", WORLD_SIZE="2")
    if is_ended:  # as torchrun does after the first one's end; both may begin at different times
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(8)
        process.terminate()
    code, out, err = ended(process)
    assert (code, out) == (143 if is_ended else 2, "")
    assert ("No such option" in err, bool(err)) == (not is_ended, not is_ended)


@pytest.mark.slow
def test_another_request_in_another_process_is_one_line(tmp_path: Path) -> None:
    for mine, theirs, words in (
        (("--precision", "fp32"), ("--precision", "bf16"), "has precision bf16, and the first one fp32"),
        (("--seed", 1), ("--seed", 2), "has seed 2, and the first one 1"),
        (("--format", "png"), ("--format", "jpg"), "has format jpg, and the first one png"),
    ):
        env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        given = ("generate", "a bird", "--out", tmp_path / "out", "--device", "cpu", "--quiet")
        both = [
            started(*given, *more, RANK=str(rank), LOCAL_RANK=str(rank), **env)
            for rank, more in enumerate((mine, theirs))
        ]
        (first, _, said), (second, _, silent) = map(ended, both)
        assert (first, second, silent, len(said.splitlines())) == (2, 2, "", 1), said
        assert words in said
    assert not (tmp_path / "out").exists()
