"""What all commands have in common: choices, nouns, old spellings, names of any letters, and checks before torch."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import typer
from command_line import ratlip
from rich.console import Console

from ratlip_cli.cli import console
from ratlip_cli.cli.app import _app_that_is_asked, app
from ratlip_cli.cli.convert import VARIANTS
from ratlip_cli.data.layout import INFO, read_split
from ratlip_cli.data.prepare import KNOWN
from ratlip_cli.data.request import DATASETS, check_dataset_name
from ratlip_cli.errors import DataError, UsageError
from ratlip_cli.evaluation.request import EvaluationRequest
from ratlip_cli.families import FAMILIES
from ratlip_cli.setting import DEVICES
from ratlip_cli.training.settings import preset_names
from ratlip_cli.weights.released.codes import VARIANTS as RELEASED_VARIANTS

COMMANDS = typer.main.get_command(app).commands
VARIANT_NAMES = tuple(FAMILIES)

CHOICES = [
    ("train", "variant", VARIANT_NAMES),
    ("train", "precision", ("auto", "fp32", "bf16", "fp16")),
    ("train", "eval_features", ("auto", "inception", "clip")),
    ("generate", "image_format", ("png", "jpg", "webp")),
    ("evaluate", "protocol", ("standard", "released")),
    ("evaluate", "features", ("inception", "clip")),
    ("gradcam", "target", ("clip", "discriminator")),
    ("latent-viz", "method", ("pca", "tsne", "umap")),
    ("latent-viz", "space", ("clip", "discriminator")),
    ("info", "variant", VARIANT_NAMES),
    *((command, "precision", ("auto", "fp32", "bf16")) for command in ("generate", "evaluate", "bench", "play")),
    ("convert", "variant", VARIANTS),
    ("export", "file_format", ("onnx", "openvino", "torch-export")),
    *(
        (command, "device", DEVICES)
        for command in ("train", "generate", "evaluate", "gradcam", "latent-viz", "bench", "play")
    ),
]
AROUND = {
    "generate": ["a bird"],
    "gradcam": ["a bird"],
    "convert": ["x.pth", "--out", "new"],
    "export": ["ratlip-demo"],
}
"""What a command cannot do without."""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_typed_is_read_alone_and_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its options are made, which the start waits for."""
    monkeypatch.setattr(sys, "argv", ["ratlip", name])
    [(typed, alone)] = typer.main.get_command(_app_that_is_asked()).commands.items()
    whole = COMMANDS[name]
    assert typed == name
    for ours, theirs in zip(alone.params, whole.params, strict=True):
        told = ("name", "opts", "secondary_opts", "help", "default", "required", "multiple", "envvar", "hidden")
        assert [getattr(ours, key) for key in told] == [getattr(theirs, key) for key in told]
    assert (alone.help, alone.context_settings) == (whole.help, whole.context_settings)


@pytest.mark.parametrize("arguments", [[], ["--version"], ["trian"], ["--", "train"], ["_ratlip"]])
def test_where_no_command_is_typed_first_all_are_there(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ratlip", *arguments])
    assert _app_that_is_asked() is app


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RATLIP_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def parameter(command: str, name: str, option: bool = True):
    (found,) = [
        one for one in COMMANDS[command].params if one.name == name and (one.param_type_name == "option") == option
    ]
    return found


def completed(command: str, name: str, incomplete: str, option: bool = True) -> list[str]:
    context = COMMANDS[command].make_context(command, list(AROUND.get(command, ["cub"])), resilient_parsing=True)
    return [item.value for item in parameter(command, name, option).shell_complete(context, incomplete)]


@pytest.mark.parametrize(("command", "name", "choices"), CHOICES)
def test_choices_are_listed_completed_and_corrected(command: str, name: str, choices: tuple[str, ...]) -> None:
    option = parameter(command, name)
    assert option.metavar == "|".join(choices) or (
        option.metavar == option.name.upper() and option.help.endswith(f" One of: {', '.join(choices)}.")
    )
    assert len(option.metavar) <= 40, "a column of help"
    assert completed(command, name, "") == list(choices)
    assert completed(command, name, choices[-1][:2]) == [one for one in choices if one.startswith(choices[-1][:2])]
    answer = ratlip(command, *AROUND.get(command, []), option.opts[0], f"{choices[1]}q")
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert f"'{choices[1]}q'" in line
    assert all(choice in line for choice in choices)


def test_every_setting_of_few_values_is_checked_in_files_too(tmp_path: Path) -> None:
    (tmp_path / "given.toml").write_text("eval_features = 'incepton'")
    answer = ratlip("train", "cub", "--config", "given.toml", "--eval-features", "clip")
    assert answer.code == 2
    assert "given.toml: unknown eval_features 'incepton'. Did you mean 'inception'?" in answer.err


def test_names_are_completed(tmp_path: Path) -> None:
    (tmp_path / "data" / "[my] birds").mkdir(parents=True)
    (tmp_path / "data" / "[my] birds" / INFO).touch()
    (tmp_path / "runs" / "birds-1" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "birds-1" / "model" / "config.json").touch()
    everything = sorted([*DATASETS, "[my] birds"])
    assert completed("train", "dataset_name", "", option=False) == completed("train", "dataset", "") == everything
    assert completed("prepare", "dataset", "demo-", option=False) == ["demo-birds", "demo-faces", "demo-flowers"]
    assert completed("train", "config", "") == preset_names()
    for command in ("evaluate", "generate", "bench", "gradcam", "latent-viz", "info", "export", "play"):
        assert completed(command, "model", "r") == ["ratlip-demo", "runs/birds-1"]


def test_what_is_repeated_to_spare_an_import_is_the_same() -> None:
    assert set(DATASETS) == set(KNOWN)
    assert set(VARIANTS) == {"auto", *RELEASED_VARIANTS}


@pytest.mark.parametrize(
    ("command", "noun"),
    [
        ("train", "dataset"),
        ("evaluate", "model"),
        ("info", "model"),
        ("bench", "model"),
        ("export", "model"),
        ("latent-viz", "model"),
    ],
)
def test_what_a_command_is_about_is_its_argument_or_an_option(command: str, noun: str) -> None:
    for given in (["none-such"], [f"--{noun}", "none-such"], ["none-such", f"--{noun}", "none-such"]):
        answer = ratlip(command, *given)
        assert answer.code == 2
        assert "'none-such'" in answer.err
    twice = ratlip(command, "one", f"--{noun}", "other")
    assert (twice.code, len(twice.err.splitlines())) == (2, 1)
    assert f"the {noun} is given twice" in twice.err


def test_old_spellings_work_with_a_note_and_are_not_shown(tmp_path: Path) -> None:
    new = ratlip("train", "cub", "--similarity-weight", "2.5", "--print-config")
    old = ratlip("train", "cub", "--clip-weight", "2.5", "--print-config")
    assert (new.err, old.out) == ("", new.out)
    assert old.err == "--clip-weight is called --similarity-weight now\n"
    assert ratlip("train", "cub", "--clip-weight", "2.5", "--print-config", "--quiet").err == ""
    assert ratlip("train", "cub", "--clip-weight", "2", "--similarity-weight", "2").code == 2
    (tmp_path / "old.toml").write_text("clip_weight = 2.5")
    file = ratlip("train", "cub", "--config", "old.toml", "--print-config")
    assert (file.out, file.err) == (new.out, "old.toml: 'clip_weight' is called 'similarity_weight' now\n")
    (tmp_path / "old.toml").write_text("clip_weight = 2.5\nsimilarity_weight = 3.0")
    assert ratlip("train", "cub", "--config", "old.toml", "--print-config").code == 2
    assert "--clip-weight" not in ratlip("train", "--help").out


def test_evaluate_has_a_name_of_its_own_for_the_clip_that_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[EvaluationRequest] = []

    def evaluate(request: EvaluationRequest, progress: object) -> None:
        asked.append(request)
        raise UsageError("enough")

    monkeypatch.setattr("ratlip_cli.evaluation.run.evaluate", evaluate)
    new, old = (ratlip("evaluate", option, "ViT-B-16:openai") for option in ("--score-clip", "--clip"))
    assert [request.clip for request in asked] == ["ViT-B-16:openai"] * 2
    assert new.err == "error: enough\n"
    assert old.err == "--clip is called --score-clip now\nerror: enough\n"
    shown = ratlip("evaluate", "--help").out
    assert "--score-clip" in shown
    assert "--clip " not in shown


@pytest.mark.parametrize("command", ["train", "generate", "evaluate", "gradcam", "latent-viz", "prepare"])
def test_what_few_need_is_last_in_help(command: str) -> None:
    panels = [line for line in ratlip(command, "--help").out.splitlines() if line.startswith("╭")]
    advanced = ["dvanced" in panel for panel in panels]
    assert advanced == sorted(advanced)
    assert any(advanced) == (command in ("train", "generate", "evaluate", "gradcam"))


def test_the_families_have_headings_of_their_own_in_help() -> None:
    shown = ratlip("train", "--help").out
    panels = {panel.split("─")[1].strip(): panel for panel in shown.split("╭")[1:]}
    for heading, options in {
        "AttnGAN": ("--base-size", "--match-weight"),
        "LAFITE": ("--channel-max", "--itd", "--language-free"),
        "LAFITE, advanced": ("--batch-sum", "--text-noise"),
        "Model": ("--image-size", "--noise-dim", "--hidden-size", "--init-from"),
    }.items():
        assert all(f" {option} " in panels[heading] for option in options), heading
    assert list(panels).index("Evaluation") < list(panels).index("AttnGAN"), "after what all have"
    assert "Default: 0.0001, or the variant's." in panels["How it learns"]
    assert "Default: 0, or" not in panels["How it learns"], "all have the same seed"


def test_whatever_needs_no_torch_is_checked_before_it_is_imported(tmp_path: Path) -> None:
    """Each command with one mistake, in one process, in which torch is not there in the end."""
    (tmp_path / "file").touch()
    (tmp_path / "runs" / "a").mkdir(parents=True)
    wrong = [
        ["generate", "x", "-n", "0"],
        ["generate", "x", "--seed", "-1"],
        ["generate", "x", "--truncation", "11"],
        ["generate", "x", "--best-of", "0"],
        ["generate", "x", "--batch-size", "0"],
        ["generate", "x", "--format", "gif"],
        ["generate", "x", "--device", "gpu"],
        ["generate", "x", "--indices", "3-1"],
        ["generate", "x", "--model", "runs/b"],
        ["generate", "x", "--out", "file"],
        ["generate", " "],
        ["generate"],
        ["generate", "--prompts", "none.txt"],
        ["evaluate", "runs/b"],
        ["evaluate", "--dataset", "oxfrod"],
        ["evaluate", "--out", "file"],
        ["evaluate", "--device", "cuda:x"],
        ["gradcam", "x", "--model", "b"],
        ["gradcam", "x", "--seed", "-1"],
        ["gradcam", "--dataset", "oxfrod"],
        ["gradcam", "x", "--out", "file"],
        ["latent-viz", "b"],
        ["latent-viz", "--against", "b"],
        ["latent-viz", "--dataset", "oxfrod"],
        ["train"],
        ["train", "oxfrod"],
        ["train", "no/such/folder"],
        ["train", "cub", "--out", "runs"],
        ["train", "cub", "--device", "gpu"],
        ["train", "cub", "--init-from", "b"],
        ["train", "cub", "--resume", "b"],
        ["bench", "b"],
        ["bench", "--batch-size", "0"],
        ["info", "b"],
        ["export", "b"],
        ["export", "ratlip-demo", "--out", "runs"],
        ["convert", "x.pth", "--out", "runs"],
        ["convert", "b", "--to-released", "--out", "new"],
        ["convert", "none.pth", "--out", "new"],
        ["push", "b", "me/b"],
        ["push", "ratlip-demo", "me/b", "--scores", "none.json"],
        ["evaluate", "--images", "none"],
        ["evaluate", "--images", "runs", "--reference", "none"],
        ["evaluate", "--inception-weights", "none"],
        ["gradcam", "x", "--image", "none.png"],
        ["runs", "none"],
    ]
    code = (
        "import sys\nfrom ratlip_cli.cli.app import main\n"
        f"for arguments in {wrong!r}:\n"
        "    sys.argv = ['ratlip', *arguments]\n"
        "    try:\n        main()\n        code = 0\n"
        "    except SystemExit as stop:\n        code = stop.code\n"
        "    assert code in (1, 2), arguments\n"
        "    assert 'torch' not in sys.modules, arguments\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == len(wrong)
    assert all(line.startswith("error: ") for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("command", "name", "belongs"),
    [
        ("generate", "bird.png", "an image by --like, a file of prompts by --prompts"),
        ("generate", "birds.txt", "an image by --like, a file of prompts by --prompts"),
        ("gradcam", "bird.png", "an image by --image"),
    ],
)
def test_a_file_is_no_prompt(
    command: str, name: str, belongs: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    answer = ratlip(command, name)
    assert (answer.code, answer.err) == (2, f"error: {name} is a file, no prompt: give {belongs}.\n")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_dataset_that_may_be_there_is_no_misspelling(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    (data_dir / "mine").mkdir(parents=True)
    (data_dir / "mine" / INFO).touch()
    (data_dir / "renamed").mkdir()
    (data_dir / "renamed" / INFO).write_text(json.dumps({"source": str((tmp_path / "moved" / "away").resolve())}))
    (tmp_path / "folder").mkdir()
    for name in (*DATASETS, "mine", "folder", str(tmp_path / "folder"), "moved/away"):
        check_dataset_name(name, data_dir)
    with pytest.raises(UsageError, match="Did you mean 'mine'"):
        check_dataset_name("mien", data_dir)
    with pytest.raises(DataError, match="moved/away/other does not exist"):
        check_dataset_name("moved/away/other", data_dir)


@pytest.mark.parametrize("name", ["[bold]x", "[/]", "[/red]", "{}", "{0} %s 100%", ":bird: [@click]", "a\\[b]"])
def test_names_of_any_letters_are_shown_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert name in ratlip("train", name).err

    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", shown)
    console.set_up()
    console.note(f"note: {name}")
    console.error(f"mistake: {name}")
    console.result_table(f"title: {name}", ("column", "value"), [(f"cell: {name}", name)])
    for what in ("note", "mistake", "title", "cell"):
        assert f"{what}: {name}" in shown.getvalue()

    terminal = Console(file=io.StringIO(), force_terminal=True, width=200, emoji=False)
    monkeypatch.setattr(console, "stderr", lambda: terminal)
    with console.progress(f"prepare {name}", 2, unit="images") as advance:
        advance(1, **{f"figure {name}": 1.0})
    assert isinstance(terminal.file, io.StringIO)
    assert f"prepare {name}" in terminal.file.getvalue()
    assert f"figure {name} 1" in terminal.file.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "--prompts"),
        ("generate", "--like"),
        ("edit", "--from", "a bird", "--to", "a rose"),
        ("gradcam", "--image"),
        ("evaluate", "--fid", "--inception-weights"),
        ("train", "demo", "--config"),
        ("push", "ratlip-demo", "me/it", "--scores"),
        ("report", "ratlip-demo", "--scores"),
        ("sweep",),
        ("reproduce", "claims", "--into"),
    ],
)
def test_a_folder_in_place_of_a_file_is_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    answer = ratlip(*arguments, tmp_path)
    assert (answer.code, len(answer.err.splitlines())) == (2, 1), answer.err
    assert re.fullmatch(rf"error: {re.escape(str(tmp_path))} is a folder; name the file .*in it.*\.\n", answer.err)


def test_env_says_what_a_report_needs_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hf_aVerySecretToken"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"https://user:{secret}@host")
    cache = tmp_path / "data" / "birds" / ".features"
    cache.mkdir(parents=True)
    (cache / "one.npy").write_bytes(bytes(1000))
    (cache.parent / INFO).touch()
    monkeypatch.setenv("RATLIP_DATA", "data")
    answer, table = ratlip("env", "--json"), ratlip("env")
    assert (answer.code, table.code) == (0, 0)
    assert secret not in answer.out + answer.err + table.out + table.err
    told = json.loads(answer.out)
    assert told["packages"]["torch"] in table.out
    assert told["python"].endswith(".".join(map(str, sys.version_info[:3])))
    assert told["devices"][0]["device"] == "cpu"
    assert told["threads"]["cores"] == os.cpu_count()
    assert told["data_dir"] == {"folder": "data", "datasets": ["birds"]}
    assert {one["cache"]: one["bytes"] for one in told["caches"]}["features"] == 1000
    assert told["variables"]["RATLIP_DATA"] == "data"


def test_env_says_that_torch_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    answer = ratlip("env")
    assert answer.code == 0
    assert "torch cannot be imported" in answer.out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_examples_can_be_copied_from_a_terminal_of_80_columns(name: str) -> None:
    lines = [line.strip() for line in str(COMMANDS[name].help).splitlines()]
    assert [line for line in lines if line.startswith("ratlip ") and len(line) > 78] == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("evaluate", "--dataset", ""), "--dataset"),
        (("evaluate", "--images="), "--images"),
        (("prepare", ""), "the name of the dataset"),
        (("latent-viz", "--data-dir", "", "--count", "2"), "--data-dir"),
        (("train", "--dataset", "demo", "--resume", ""), "--resume"),
        (("train", "--dataset", "demo", "--init-from="), "--init-from"),
        (("train", "--dataset", "demo", "--config", "", "--print-config"), "--config"),
        (("evaluate", "--clip-score", "--score-clip", ""), "--score-clip"),
    ],
)
def test_what_is_empty_is_not_the_folder_that_one_is_in(arguments: tuple[str, ...], named: str) -> None:
    answer = ratlip(*arguments)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith(f"error: {named} is empty")


HUGE = "9" * 20


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("generate", "a bird", "-n", HUGE), f"the number of images is {HUGE}; it must be at most 1000000"),
        (("generate", "a bird", "--best-of", HUGE), f"best-of is {HUGE}; it must be at most 1000000"),
        (("generate", "a bird", "--batch-size", HUGE), f"batch size is {HUGE}; it must be at most 1000000"),
        (("latent-viz", "--from", "a", "--to", "b", "--steps", HUGE), f"--steps is {HUGE}; it must be at most 3600"),
        (("latent-viz", "--count", HUGE), f"--count is {HUGE}; it must be at most 1000000"),
        (("gradcam", "a bird", "-n", HUGE), f"-n is {HUGE}; it must be at most 1000000"),
        (("evaluate", "--batch-size", HUGE), f"batch size is {HUGE}; it must be at most 1000000"),
        (("bench", "--compare", "--threads", HUGE), f"--threads is {HUGE}; it must be at most 1024"),
        (("prepare", "demo", "--workers", HUGE), f"--workers is {HUGE}; it must be at most 1024"),
        (("train", "--dataset", "x/{0..99999999999}.tar"), "100000000000 names; it must be at most 1000000"),
        (("train", "--dataset", "{0..99999}/{0..99999}.tar"), "10000000000 names; it must be at most 1000000"),
        (("train", "--dataset", "demo", "--workers", HUGE), f"workers is {HUGE}; it must be at most 1024"),
        (("train", "--dataset", "demo", "--batch-size", HUGE), f"batch_size is {HUGE}; it must be at most 1000000"),
        (("evaluate", "--bootstrap", HUGE), f"bootstrap is {HUGE}; it must be at most 1000000"),
    ],
)
def test_a_number_that_cannot_be_meant_is_told(
    arguments: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = ratlip(*arguments)
    assert (answer.code, answer.err.count("\n")) == (2, 1), answer.err
    assert told in answer.err


def test_capitals_and_hyphens_are_no_reason_to_give_no_hint() -> None:
    for command, option, value, meant in (
        ("train", "--variant", "DF-GAN", "dfgan"),
        ("train", "--variant", "RATLIP", "ratlip"),
        ("generate", "--format", "PNG", "png"),
    ):
        answer = ratlip(command, *(["a bird"] if command == "generate" else ["--dataset", "demo"]), option, value)
        assert (answer.code, f"Did you mean '{meant}'?" in answer.err) == (2, True), answer.err


@pytest.mark.parametrize("command", ["gradcam", "latent-viz"])
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ratlip_cli.weights.load", None)  # which nothing comes to
    (tmp_path / "file").touch()
    answer = ratlip(command, "a bird" if command == "gradcam" else "--count=2", "--out", tmp_path / "file" / "x")
    assert (answer.code, answer.err) == (
        1,
        f"error: cannot write {tmp_path / 'file' / 'x'}: {tmp_path / 'file'} is a file. Choose another --out.\n",
    )


def test_a_link_to_nowhere_is_in_the_way(tmp_path: Path) -> None:
    out = tmp_path / "x.gif"
    out.symlink_to(tmp_path / "nowhere")
    answer = ratlip("generate", "--interpolate", "a red bird", "a blue bird", "--out", out)
    assert (answer.code, answer.err) == (2, f"error: {out} exists; choose another --out.\n")


def test_an_error_keeps_the_spaces_of_a_name(tmp_path: Path) -> None:
    answer = ratlip("generate", "x", "--like", tmp_path / "a  b.png")
    assert answer.err == f"error: {tmp_path / 'a  b.png'}: the image does not exist.\n"


def test_bars_are_for_terminals_whatever_force_color_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with console.progress("generate", 2) as advance:
        advance(2)
    assert "\x1b[?25l" not in capsys.readouterr().err


def test_settings_come_through_a_pipe_and_as_json(tmp_path: Path) -> None:
    pipe = tmp_path / "settings"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=('variant = "galip"\nsteps = 7\n',))
    writer.start()
    answer = ratlip("train", "demo", "--config", pipe, "--print-config", "--json")
    writer.join()
    assert answer.code == 0, answer.err
    assert (json.loads(answer.out)["variant"], json.loads(answer.out)["steps"]) == ("galip", 7)


@pytest.mark.parametrize("content", ['dataset = "a\\u0000b"', f"steps = {'1' * 5000}"])
def test_settings_that_nobody_can_mean_are_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(f"{content}\n", encoding="utf-8")
    answer = ratlip("train", "--config", tmp_path / "x.toml", "--dry-run")
    assert (answer.code, answer.err.count("\n")) == (2, 1), answer.err


def test_a_split_that_is_nearly_one_is_told(tiny_dataset: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown split 'tset'\. Did you mean 'test'"):
        read_split(tiny_dataset, "tset")
    with pytest.raises(DataError, match="a folder holdout or a share"):
        read_split(tiny_dataset, "holdout")
