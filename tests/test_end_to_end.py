"""From a folder of photographs with captions to generated images, as a user goes: interrupted, killed and resumed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import skimage.io
from command_line import ratlip, ratlip_process, ratlip_stopped
from PIL import Image

from ratlip_cli.files import locked
from ratlip_cli.tensor_files import load_tensors, save_tensors
from ratlip_cli.weights.load import default_model, load_model
from ratlip_cli.weights.model_folder import GENERATOR_FILE

PHOTOGRAPHS = {
    "astronaut": "a smiling astronaut in an orange suit",
    "chelsea": "a tabby cat looking at the camera",
    "coffee": "a cup of coffee on a wooden table",
    "rocket": "a rocket on its launch pad at night",
}
SMALL = (
    *("--image-size", 32, "--generator-channels", 4, "--discriminator-channels", 2, "--hidden-size", 4),
    *("--batch-size", 4, "--workers", 0, "--sample-every", 0, "--save-every", 5, "--device", "cpu", "--quiet"),
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of the photographs that scikit-image ships, a caption file beside each."""
    folder = tmp_path_factory.mktemp("photographs")
    for name, caption in PHOTOGRAPHS.items():
        image = Image.fromarray(getattr(skimage.data, name)())
        for number in range(3):
            side = min(image.size) * (3 - number // 2) // 4
            left, top = ((image.width - side) * number // 2, (image.height - side) * number // 3)
            image.crop((left, top, left + side, top + side)).save(folder / f"{name}_{number}.jpg", quality=90)
            (folder / f"{name}_{number}.txt").write_text(f"{caption}\na photograph: {caption}\n", encoding="utf-8")
    return folder


def steps_done(run: Path) -> int:
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def wait_for_checkpoint(run: Path, number: int, seconds: float = 600) -> None:
    """Until so many checkpoints are there."""
    deadline = time.monotonic() + seconds
    while len(list(run.glob("checkpoints/step_*"))) < number:
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.05)


@pytest.mark.slow
def test_photographs_to_images(photographs: Path, tiny_clip: Path, tmp_path: Path) -> None:
    prepared = ratlip("prepare", photographs, "--data-dir", tmp_path, "--image-size", 32, "--workers", 1, "--quiet")
    assert prepared.code == 0, prepared.err
    run = tmp_path / "run"
    dataset, clip = ("--dataset", prepared.out.strip()), ("--clip", tiny_clip)

    training = ("train", *dataset, *clip, *SMALL, "--steps", 10_000, "--out", run)
    interrupted = ratlip_stopped(signal.SIGINT, lambda: any(run.glob("checkpoints/step_*")), *training)
    assert interrupted.code == 130, interrupted.err
    first = steps_done(run)
    assert first >= 5

    killed = ratlip_process("train", "--resume", run, "--quiet")
    wait_for_checkpoint(run, 3)
    killed.kill()
    killed.communicate()
    assert steps_done(run) > first

    last = max(int(folder.name.removeprefix("step_")) for folder in run.glob("checkpoints/step_*"))
    resumed = ratlip("train", "--resume", run, "--steps", last + 3, "--quiet")
    assert resumed.code == 0, resumed.err
    assert resumed.out.strip() == str(run)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, last + 4))

    out = tmp_path / "generated"
    prompt = PHOTOGRAPHS["chelsea"]
    generated = ratlip("generate", prompt, "-n", 8, "--model", run, "--out", out, "--device", "cpu", "--quiet")
    assert generated.code == 0, generated.err
    paths = [Path(line) for line in generated.out.splitlines()]
    assert [path.name for path in paths[:-1]] == [f"0000_a-tabby-cat-looking-at-the-camera_{k}.png" for k in range(8)]
    assert paths[-1].name == "0000_grid.png"
    images = [np.asarray(Image.open(path)) for path in paths[:-1]]
    assert all(image.shape == (32, 32, 3) for image in images)
    assert len({image.tobytes() for image in images}) == 8
    assert generated.err == ""


@pytest.fixture(scope="module")
def run(tiny_clip: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    answer = ratlip("train", "--dataset", tiny_dataset, "--clip", tiny_clip, *SMALL, "--steps", 2, "--out", folder)
    assert answer.code == 0, answer.err
    return folder


def test_generate_reads_prompts_from_files(run: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red image\n\nein grünes Bild\n", encoding="utf-8")
    common = ("--model", run, "--device", "cpu", "--out", tmp_path / "out", "--no-grid")
    answer = ratlip("generate", "--prompts", tmp_path / "prompts.txt", "-n", 2, "--json", "--quiet", *common)
    assert answer.code == 0, answer.err
    result = json.loads(answer.out)
    assert [image["prompt"] for image in result["images"]] == ["a red image"] * 2 + ["ein grünes Bild"] * 2
    assert result["fingerprint"] == load_model(str(run)).fingerprint
    assert all(Path(image["path"]).is_file() for image in result["images"])
    assert answer.err == ""


def test_a_run_that_was_trained_no_step_is_not_taken_by_itself(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, step in (("trained", "5"), ("stopped", "0")):
        shutil.copytree(run / "model", tmp_path / "runs" / name / "model")
        file = tmp_path / "runs" / name / "model" / GENERATOR_FILE
        save_tensors(file, load_tensors(file), {"step": step})
    assert default_model() == "runs/trained"
    shutil.rmtree(tmp_path / "runs" / "trained")
    assert default_model() == "ratlip-demo"


def test_the_model_left_out_is_the_newest_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(run, target_is_directory=True)
    answer = ratlip("generate", "a red image", "--device", "cpu")
    assert answer.code == 0, answer.err
    assert "model runs/mine" in answer.err
    assert answer.out.splitlines() == ["generated/0000_a-red-image_0.png", "generated/0000_grid.png"]


def test_info_describes_a_run(run: Path) -> None:
    answer = ratlip("info", "--model", run, "--json")
    assert answer.code == 0, answer.err
    described = json.loads(answer.out)
    assert described["fingerprint"] == load_model(str(run)).fingerprint
    assert described["generator"]["image_size"] == 32


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["generate"], 2, "there is no prompt"),
        (["generate", "a bird", "-n", "0"], 2, "at least 1"),
        (["generate", "a bird", "-n", "many"], 2, "Invalid value"),
        (["generate", "bad \udcff byte"], 2, "not UTF-8"),
        (["generate", "a bird", "--format", "gif"], 2, "unknown format 'gif'"),
        (["generate", "a bird", "--model", "/no/such/run"], 2, "unknown model"),
        (["generate", "a bird", "--device", "cuda:7"], 1, "device 'cuda:7' is not there"),
        (["generate", "a bird", "--device", "gpu"], 2, "unknown device 'gpu'"),
        (["generate", "a bird", "--sead", "1"], 2, "--seed"),
        (["generate", "--prompts", "/no/such/file"], 2, "cannot be read"),
        (["info", "--variant", "ratlap"], 2, "Did you mean 'ratlip'"),
        (["info", "--clip", "ViT-B-31"], 2, "Did you mean"),
        (["info", "ratlip-demo", "--variant", "rat", "--image-size", "64"], 2, "--variant and --image-size: only of"),
        (["info", "ratlip-demo", "--hidden-size", "4", "--clip", "y"], 2, "--hidden-size and --clip: only of"),
        (["info", "--words", "--clip", "y"], 2, "--clip: only of a new model, and --words is of a model"),
        (["info", "--words", "--table"], 2, "leave out one"),
        (["info", "--table", "--hidden-size", "7"], 2, "leave out --variant and --hidden-size"),
        (["info", "--table", "--variant", "lafite"], 2, "leave out --variant and --hidden-size"),
        (["paint"], 2, "No such command"),
    ],
)
def test_bad_input_is_answered_with_the_right_exit_code(arguments: list[str], code: int, words: str) -> None:
    answer = ratlip(*arguments)
    assert (answer.code, answer.out) == (code, "")
    assert words in " ".join(answer.err.replace("│", " ").split())
    assert "Traceback" not in answer.err


def test_unwritable_output_loses_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    answer = ratlip("generate", "a red image", "--model", run, "--device", "cpu", "--out", tmp_path / "file", "-q")
    assert answer.code == 1
    assert "cannot write" in answer.err
    assert (tmp_path / "file").read_text() == "in the way"


def test_debug_adds_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATLIP_DEBUG", "1")
    answer = ratlip("generate", "a bird", "--model", "/no/such/run")
    assert answer.code == 2
    assert "Traceback" in answer.err


@pytest.mark.slow
def test_full_size_trains_and_draws(photographs: Path, tmp_path: Path) -> None:
    """Three steps of the paper's sizes at batch 2, on CLIP's full-size architecture with random weights."""
    run = tmp_path / "run"
    answer = ratlip(
        *("train", "--dataset", photographs, "--data-dir", tmp_path, "--clip", "ViT-B-32-quickgelu:random"),
        *("--steps", 3, "--batch-size", 2, "--workers", 0, "--sample-every", 0, "--device", "cpu", "--out", run),
    )
    assert answer.code == 0, answer.err
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["skipped"] for record in records] == [False] * 3
    generated = ratlip("generate", "a cat", "-n", 2, "--model", run, "--out", tmp_path / "generated", "--device", "cpu")
    assert generated.code == 0, generated.err
    with Image.open(generated.out.splitlines()[0]) as image:
        assert image.size == (256, 256)


def test_results_go_to_stdout_while_a_bar_is_shown_on_a_terminal(run: Path, tmp_path: Path) -> None:
    terminal, child = os.openpty()
    command = [sys.executable, "-m", "ratlip_cli", "generate", "a red image", "-n", "3", "--model", str(run)]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out"), "--device", "cpu", "--no-grid"], stdout=subprocess.PIPE, stderr=child
    )
    shown = threading.Thread(target=lambda: _drain(terminal), daemon=True)
    shown.start()
    out, _ = process.communicate(timeout=120)
    os.close(child)
    assert [Path(line).name for line in out.decode().splitlines()] == [f"0000_a-red-image_{k}.png" for k in range(3)]


def _drain(terminal: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(terminal, 4096):
            pass


def test_a_reader_that_has_seen_enough_does_not_stop_the_work(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ratlip_cli", "generate", "a red image", "-n", "4", "--model", str(run)]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out"), "--device", "cpu", "-q"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 5


def test_records_that_cannot_be_written_are_reported(run: Path, tmp_path: Path) -> None:
    (tmp_path / "images.jsonl").symlink_to("/dev/full")
    answer = ratlip("generate", "a red image", "--model", run, "--device", "cpu", "--out", tmp_path, "-q")
    assert answer.code == 1
    assert "images.jsonl: No space left" in answer.err


def test_a_misspelled_run_is_not_looked_for_on_the_hub(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "images-1").symlink_to(run, target_is_directory=True)
    answer = ratlip("generate", "a red image", "--model", "runs/images-2")
    assert answer.code == 2
    assert "Did you mean 'runs/images-1'" in answer.err


@pytest.mark.parametrize(
    ("typed", "meant"), [("mine/one", "mine/once"), ("mine/once/checkpoints/step_1", "step_00000001")]
)
def test_a_misspelled_model_is_told_with_the_nearest_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, meant: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("model/config.json", "checkpoints/step_00000001/checkpoint.json"):
        (tmp_path / "mine" / "once" / file).parent.mkdir(parents=True)
        (tmp_path / "mine" / "once" / file).touch()
    answer = ratlip("info", typed)
    assert answer.code == 2
    assert re.search(rf"Did you mean '[^']*{meant}'", answer.err)


def test_two_processes_do_not_train_in_one_run(run: Path) -> None:
    with locked(run / ".lock") as alone:
        assert alone
        answer = ratlip("train", "--resume", run, "--steps", 4, "--quiet")
    assert answer.code == 1
    assert "another ratlip trains in" in answer.err


def test_what_cannot_work_is_said_before_anything_is_prepared(tiny_clip: Path, tmp_path: Path) -> None:
    data = ("--dataset", "demo", "--data-dir", tmp_path / "data")
    (tmp_path / "taken").mkdir()
    page = tmp_path / "page.pt"
    page.write_text("<!doctype html>")
    for arguments, code, words in [
        (("--clip", "ViT-B-33"), 2, "Did you mean 'ViT-B-32'"),
        (("--clip", "ViT-B-32-quickgelu:openaii"), 2, "Did you mean 'openai'"),
        (("--clip", "ViT-B-32"), 2, "use ViT-B-32-quickgelu:openai"),
        (("--clip", f"ViT-B-32:{tmp_path}/none.pt"), 1, "none.pt does not exist"),
        (("--clip", f"ViT-B-32:{page}"), 1, "a web page"),
        (("--clip", tiny_clip, "--out", tmp_path / "taken"), 2, "exists already"),
        (("--clip", tiny_clip, "--batch-size", 1), 2, "at least 2"),
        (("--clip", tiny_clip, "--seed", 2**64), 2, "below 2^63"),
    ]:
        answer = ratlip("train", *data, *arguments, "--device", "cpu")
        assert (answer.code, answer.out) == (code, "")
        assert words in answer.err
    assert not (tmp_path / "data").exists()
    assert "Did you mean 'openai'" in ratlip("info", "--clip", "ViT-B-32-quickgelu:openaii").err
