"""Settings: which layer wins, what is refused, and that what is written can be read."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ratlip_cli.cli.train import train
from ratlip_cli.errors import UsageError
from ratlip_cli.families import FAMILIES
from ratlip_cli.families.ratlip import Ratlip
from ratlip_cli.training.settings import (
    SETTINGS,
    TrainSettings,
    all_settings,
    parse_duration,
    preset_names,
    read_settings,
    resolve_settings,
)

NAMES = list(all_settings())


def write(tmp_path: Path, text: str) -> str:
    (tmp_path / "given.toml").write_text(text, encoding="utf-8")
    return str(tmp_path / "given.toml")


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_an_option_without_a_default_of_its_own(name: str) -> None:
    assert inspect.signature(train).parameters[name].default is None
    assert all_settings()[name].about.text.endswith(".")


def test_layers_win_in_order(tmp_path: Path) -> None:
    config = write(tmp_path, "batch_size = 6\nlr_g = 1\n")
    assert resolve_settings({}).epochs is None
    assert resolve_settings({"dataset": "cub"}).epochs == 300
    from_file = resolve_settings({"dataset": "some/where/cub"}, config)
    assert (from_file.epochs, from_file.batch_size, from_file.lr_g) == (300, 6, 1.0)
    typed = resolve_settings({"dataset": "cub", "batch_size": 8}, config)
    assert (typed.batch_size, typed.lr_g) == (8, 1.0)


def test_steps_and_epochs_replace_each_other_between_layers_but_not_in_one(tmp_path: Path) -> None:
    settings = resolve_settings({"dataset": "cub", "steps": 7})
    assert (settings.steps, settings.epochs) == (7, None)
    settings = resolve_settings({"epochs": 3}, write(tmp_path, "steps = 9"))
    assert (settings.steps, settings.epochs) == (None, 3)
    with pytest.raises(UsageError, match="either epochs or steps"):
        resolve_settings({"epochs": 3, "steps": 9})


@pytest.mark.parametrize("variant", ["attngan", "lafite"])
def test_what_a_family_does_not_use_is_not_taken_from_a_preset(tmp_path: Path, variant: str) -> None:
    """Nor from a file that is written for another variant: nobody could put it right."""
    config = write(tmp_path, "variant = 'ratlip'\ndiversity_weight = 0.3\npenalty_power = 4.0\n")
    for file in (None, "demo", config):
        settings = resolve_settings({"dataset": "demo", "variant": variant, "batch_size": 15}, file)
        assert (settings.diversity_weight, settings.penalty_power) == (0.0, 6.0)
    with pytest.raises(UsageError, match="batch_size 15 in 1 micro-batches is odd"):
        resolve_settings({"dataset": "demo", "batch_size": 15})
    with pytest.raises(UsageError, match=f"variant {variant} has no setting 'diversity_weight'"):
        resolve_settings({"dataset": "demo", "variant": variant, "diversity_weight": 0.1})


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_is_valid_and_has_a_use(preset: str) -> None:
    settings = resolve_settings({"dataset": "x"}, preset)
    assert replace(settings, dataset="") != TrainSettings()


@pytest.mark.parametrize("variant", ["dfgan", "ratgan", "attngan", "lafite"])
def test_small_presets_have_the_learning_rates_that_learnt(variant: str) -> None:
    """The published ones are for 256 pixels and weeks."""
    small = resolve_settings({"dataset": "x", "variant": variant}, "small")
    demo = resolve_settings({"dataset": "demo", "variant": variant})
    assert (small.lr_g, small.lr_d) == (demo.lr_g, demo.lr_d)
    assert (small.lr_g, small.lr_d) != tuple(small.family.defaults[name] for name in ("lr_g", "lr_d"))


def test_the_preset_of_a_dataset_is_found_from_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cub").mkdir()
    monkeypatch.chdir(tmp_path / "cub")
    assert resolve_settings({"dataset": "."}) == resolve_settings({"dataset": "cub"}).replaced(dataset=".")


@pytest.mark.parametrize("name", ["demo-photos", "small", "demo-", "birds"])
def test_own_images_have_no_preset_whatever_they_are_called(name: str) -> None:
    assert resolve_settings({"dataset": f"data/{name}"}) == TrainSettings(dataset=f"data/{name}")


@pytest.mark.parametrize("preset", ["cub", "oxford", "celeba-tiny"])
def test_presets_of_the_papers_datasets_are_the_papers(preset: str) -> None:
    settings = resolve_settings({"dataset": preset})
    assert (settings.variant, settings.model["hidden_size"], settings.clip) == (
        "ratlip",
        64,
        "ViT-B-32-quickgelu:openai",
    )
    assert (settings.lr_g, settings.lr_d, settings.beta1, settings.beta2) == (1e-4, 4e-4, 0.0, 0.9)
    assert (settings.similarity_weight, settings.penalty_weight, settings.penalty_power) == (4.0, 2.0, 6.0)
    assert settings.image_size == 256


@pytest.mark.parametrize("preset", [None, *preset_names()])
def test_what_is_written_reads_back_as_the_same_settings(tmp_path: Path, preset: str | None) -> None:
    changed: dict[str, Any] = {"dataset": 'odd "name" ü', "ema": 0.5, "compile": True, "max_time": "1h"}
    settings = resolve_settings(changed, preset)
    again = resolve_settings({}, write(tmp_path, settings.to_toml()))
    assert again == settings
    assert all(f"# {SETTINGS[name].about.text}\n{name} = " in settings.to_toml() for name in ("ema", "compile", "clip"))


def test_where_it_was_written_is_not_repeated() -> None:
    settings = TrainSettings(out="runs/x", resume="auto")
    assert "runs/x" not in settings.to_toml()
    assert "auto" not in [line for line in settings.to_toml().splitlines() if line.startswith("resume")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_encodings_of_files(tmp_path: Path, encoding: str) -> None:
    """Those with a byte order mark are read, those that only guessing would tell are refused in one line."""
    path = tmp_path / "given.toml"
    path.write_bytes('# ü\nsteps = 3\nout = "é"\n'.encode(encoding))
    if encoding in ("latin-1", "utf-16-le", "utf-16-be"):
        with pytest.raises(UsageError, match=r"given\.toml.* is not UTF-8 text.*save it as UTF-8\.$"):
            read_settings(path)
    else:
        assert read_settings(path) == {"steps": 3, "out": "é"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize = 4", "unknown setting 'batchsize'. Did you mean 'batch_size'?"),
        ("xyz = 4", "unknown setting 'xyz'. Known: dataset, data_dir,"),
        ("batch_size = 4.5", "'batch_size' must be a whole number, not 4.5"),
        ("batch_size = true", "'batch_size' must be a whole number, not True"),
        ("ema = 'much'", "'ema' must be a number, not 'much'"),
        ("compile = 1", "'compile' must be true or false, not 1"),
        ("clip = 3", "'clip' must be a text, not 3"),
        ("steps = 3\nepochs = 3", "either epochs or steps"),
        ("steps = ", "cannot read the settings in"),
        ("[model]\nvariant = 'rat'", "unknown setting 'model.variant'. Known: image_size"),
        ("[model]\nhidden_sise = 8", "unknown setting 'model.hidden_sise'. Did you mean 'hidden_size'?"),
        ("[model]\nhidden_size = 8.5", "'hidden_size' must be a whole number, not 8.5"),
        ("model = 8", "'model' must be a table of sizes, not 8"),
    ],
)
def test_bad_files_are_named_with_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_settings({}, write(tmp_path, text))
    assert message in str(caught.value)


def test_missing_files_and_unknown_presets_are_told_apart() -> None:
    with pytest.raises(UsageError, match=r"no settings file runs/none\.toml; presets are: celeba-tiny, cub"):
        read_settings("runs/none.toml")
    with pytest.raises(UsageError, match=r"unknown preset 'smal'\. Did you mean 'small'"):
        read_settings("smal")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -5}, "steps is -5; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"variant": "ratlop"}, "unknown variant 'ratlop'. Did you mean 'ratlip'"),
        ({"precision": "bf61"}, "unknown precision 'bf61'. Did you mean 'bf16'"),
        ({"image_size": 31}, "image_size is 31"),
        ({"batch_size": 6, "grad_accum": 4}, "cannot be cut into grad_accum 4 equal micro-batches"),
        ({"ema": 1.0}, "ema is 1.0; it must be from 0 to below 1"),
        ({"lr_g": float("nan")}, "lr_g is nan"),
        ({"lr_d": 0.0}, "lr_d is 0.0; it must be a number above 0"),
        ({"similarity_weight": -1.0}, "similarity_weight is -1.0"),
        ({"seed": -1}, "seed is -1; it must not be negative"),
        ({"max_time": "soon"}, "'soon' is not a duration"),
    ],
)
def test_values_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_settings(changes)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1h1m1s", 3661), (" 5s ", 5)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "-5s", "1.5h", "30m1h", "0s", "1d", "5s5s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("settings", "images", "steps"),
    [({"steps": 7}, 100, 7), ({"epochs": 3, "batch_size": 32}, 100, 10), ({"epochs": 1, "batch_size": 32}, 5, 1)],
)
def test_steps_of_epochs(settings: dict[str, Any], images: int, steps: int) -> None:
    assert resolve_settings(settings).total_steps(images) == steps


def test_a_file_of_an_earlier_version_has_its_sizes_beside_the_rest(tmp_path: Path) -> None:
    flat = write(tmp_path, "batch_size = 6\nhidden_size = 8\ngenerator_channels = 16\n")
    nested = tmp_path / "nested.toml"
    nested.write_text("batch_size = 6\n[model]\nhidden_size = 8\ngenerator_channels = 16\n")
    assert resolve_settings({}, flat) == resolve_settings({}, str(nested))
    assert "[model]\n" in resolve_settings({}, flat).to_toml()


def test_a_setting_says_all_of_itself_in_one_place() -> None:
    settings = TrainSettings.of(hidden_size=8, lr_g=1.0)
    assert settings.architecture == {"variant": "ratlip", **settings.model}
    assert settings.architecture["hidden_size"] == 8
    assert settings.recorded["lr_g"] == 1.0
    assert not {"out", "device", "dataset"} & settings.recorded.keys()
    free = [name for name, one in SETTINGS.items() if one.about.free]
    assert {"out", "device", "workers", "keep"} <= set(free)
    assert settings.same_run(settings.replaced(workers=0, out="elsewhere"))
    assert not settings.same_run(settings.replaced(hidden_size=4))
    assert not settings.same_run(settings.replaced(lr_g=2.0))


def test_settings_can_be_keys() -> None:
    assert len({TrainSettings(), TrainSettings.of(hidden_size=64), TrainSettings.of(seed=1)}) == 2


@pytest.mark.parametrize(("batch_size", "steps"), [(4, 5 + 20), (8, 5 + 10), (7, 5 + 12), (1000, 5 + 1)])
def test_epochs_count_images_whatever_the_batch_size_was(batch_size: int, steps: int) -> None:
    settings = TrainSettings.of(epochs=1, batch_size=batch_size)
    assert settings.total_steps(100, steps_done=5, images_seen=20) == steps
    assert settings.total_steps(100, steps_done=5, images_seen=300) == 5


def test_a_contrastive_weight_needs_hard_negatives() -> None:
    with pytest.raises(UsageError, match="contrastive_weight needs wrong captions, and hard_negatives is 0"):
        resolve_settings({"dataset": "demo", "contrastive_weight": 0.2})
    given = {"dataset": "demo", "contrastive_weight": 0.2, "hard_negatives": 8}
    assert resolve_settings(given).contrastive_weight == 0.2
    with pytest.raises(UsageError, match="hard_negatives_from says when hard negatives begin, and hard_negatives is 0"):
        resolve_settings({"dataset": "demo", "hard_negatives_from": 0.4})
    with pytest.raises(UsageError, match=r"hard_negatives_from is 1\.4; it must be from 0 to 1"):
        resolve_settings({"dataset": "demo", "hard_negatives": 8, "hard_negatives_from": 1.4})
    for variant in ("lafite", "attngan"):
        with pytest.raises(UsageError, match=f"variant {variant} has no setting 'hard_negatives'"):
            resolve_settings({"dataset": "demo", "variant": variant, "hard_negatives": 8})


@pytest.mark.parametrize("variant", [name for name, family in FAMILIES.items() if not isinstance(family, Ratlip)])
def test_other_papers_rates_are_constant_and_their_arithmetic_is_float32(variant: str) -> None:
    """Whatever a preset has for RATLIP; nothing that nobody typed does nothing."""
    for dataset in ("demo", "cub", "oxford", "celeba-tiny"):
        settings = resolve_settings({"dataset": dataset, "variant": variant})
        assert (settings.decay_from, settings.final_lr, settings.precision) == (1.0, 0.0, "fp32")
        assert settings.ignored == []
