"""Everything that decides a training run, as one flat record that a TOML file, a preset or the command line can fill.

Standard library and TOML only: the command line reads it before torch is imported.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import tomli_w

from ratlip_cli.errors import UsageError, unknown_name
from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
EVAL_FEATURES = ("auto", "inception", "clip")

PRESETS = Path(__file__).parent / "presets"
"""One TOML file a dataset: the paper's settings for the real ones, `small` for a few own images on a CPU."""

Value = str | int | float | bool
"""What a setting can be in a TOML file and on the command line."""


def _setting(default: Value | None, about: str) -> Any:
    """A field whose one sentence serves as comment, as `--help` text, and as comment in the run's config.toml."""
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class TrainSettings:
    """The settings of one training run; the defaults are the paper's where the paper gives a value."""

    dataset: str = _setting("", "Prepared dataset to learn from, by name or by folder.")
    data_dir: str = _setting("data", "Folder that holds prepared datasets by name.")
    variant: str = _setting("ratlip", "Model to train: ratlip, rat, galip or ratlip-released.")
    clip: str = _setting(
        "ViT-B-32-quickgelu:openai",
        "Frozen CLIP: MODEL[:PRETRAINED] of open_clip, MODEL:random for a rehearsal, or a folder with one.",
    )
    image_size: int = _setting(256, "Side of the generated images in pixels, 32 to 512.")
    hidden_size: int = _setting(64, "Hidden units D of the bridge's LSTM.")
    noise_dim: int = _setting(100, "Length of the noise vector z.")
    generator_channels: int = _setting(64, "Channels nf behind the generator's last block.")
    discriminator_channels: int = _setting(
        64, "Base channels of the discriminator; its extractor ends in 8 times as many."
    )
    init_from: str = _setting(
        "", "Model to start from: a folder, a run or owner/name; its sizes and its CLIP are taken over."
    )

    pixel_stem: bool = _setting(
        False, "Let the discriminator see pixels beside CLIP's features; not in the paper, for CLIPs of small patches."
    )

    epochs: int | None = _setting(None, "Passes over the training images; give this or the number of steps.")
    steps: int | None = _setting(20_000, "Training steps in all; give this or the number of epochs.")
    max_time: str = _setting("", "Stop and save after this long, as 90s, 30m, 2h or 1h30m; resume goes on.")

    batch_size: int = _setting(32, "Images in one step, over all its parts.")
    grad_accum: int = _setting(1, "Parts that a step's batch is cut into, to save memory.")
    lr_g: float = _setting(1e-4, "Learning rate of the generator.")
    lr_d: float = _setting(4e-4, "Learning rate of the discriminator.")
    beta1: float = _setting(0.0, "First beta of both Adam optimisers.")
    beta2: float = _setting(0.9, "Second beta of both Adam optimisers.")
    clip_weight: float = _setting(4.0, "Weight lambda of the CLIP similarity in the generator's loss.")
    diversity_weight: float = _setting(
        0.0, "Weight of the mode-seeking term, which keeps images of one sentence apart; not in the paper."
    )
    penalty_weight: float = _setting(2.0, "Weight k of the matching-aware gradient penalty.")
    penalty_power: float = _setting(6.0, "Power p of the matching-aware gradient penalty.")
    ema: float = _setting(0.999, "Decay of the generator's moving average; 0 keeps no average.")
    seed: int = _setting(0, "Seed of the first weights, the order of images, the crops and the noise.")

    device: str = _setting("auto", "Where to train: auto, cpu, cuda, cuda:N or mps.")
    precision: str = _setting("auto", "Arithmetic: auto, fp32, bf16 or fp16; auto is bf16 on a GPU that has it.")
    compile: bool = _setting(False, "Compile both networks: faster on a GPU after minutes of compiling.")
    recompute: bool = _setting(
        False, "Compute image-G twice in a step instead of keeping all of it: less memory, a little slower."
    )
    workers: int = _setting(2, "Processes that read images; 0 reads them in the training process.")

    sample_every: int = _setting(500, "Steps between two grids of sample images; 0 draws none.")
    save_every: int = _setting(1000, "Steps between two checkpoints; the last step is always saved.")
    keep: int = _setting(3, "Number of newest checkpoints to keep.")
    eval_every: int = _setting(
        0, "Steps between two evaluations on the test split, the best of which is kept; 0 evaluates none."
    )
    eval_captions: int = _setting(10, "Captions of each test image that an evaluation draws.")
    eval_features: str = _setting(
        "auto", "What scores the images: inception, clip (the model's own), or auto: clip with the bundled CLIP."
    )
    inception_weights: str = _setting("", "Weights file of the Inception network, where evaluation needs it offline.")
    out: str = _setting("", "Folder of the run; left out, runs/DATASET-VARIANT-N with the next free N.")
    resume: str = _setting("", "Run folder or checkpoint to go on from, or auto: the newest unfinished such run.")

    def __post_init__(self) -> None:
        self.generator_config()
        self.discriminator_config()
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if self.eval_features not in EVAL_FEATURES:
            raise unknown_name("eval_features", self.eval_features, EVAL_FEATURES)
        if (self.epochs is None) == (self.steps is None):
            raise UsageError("give either epochs or steps, not both.")
        for name in ("epochs", "steps", "batch_size", "grad_accum", "keep", "save_every", "eval_captions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1.")
        for name in ("workers", "seed", "sample_every", "eval_every"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be negative.")
        for name in ("clip_weight", "diversity_weight", "penalty_weight"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise UsageError(f"{name} is {getattr(self, name)}; it must be a number from 0.")
        for name in ("lr_g", "lr_d", "penalty_power"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise UsageError(f"{name} is {getattr(self, name)}; it must be a number above 0.")
        for name in ("ema", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be from 0 to below 1.")
        if self.batch_size < 2:
            raise UsageError("batch_size is 1; it must be at least 2, for each image to meet another one's sentence.")
        if self.seed >= 2**63:
            raise UsageError(f"seed is {self.seed}; it must be below 2^63.")
        if self.batch_size % self.grad_accum:
            raise UsageError(
                f"batch_size {self.batch_size} cannot be cut into grad_accum {self.grad_accum} equal parts."
            )
        if self.diversity_weight and self.batch_size // self.grad_accum % 2:
            raise UsageError(
                f"batch_size {self.batch_size} in {self.grad_accum} parts is odd; diversity_weight needs pairs in each."
            )
        if self.recompute and self.compile:
            raise UsageError("recompute and compile do not go together; leave out one of them.")
        if self.max_time:
            parse_duration(self.max_time)

    def generator_config(self) -> GeneratorConfig:
        """The sizes of the generator."""
        return GeneratorConfig(
            variant=self.variant,
            image_size=self.image_size,
            noise_dim=self.noise_dim,
            hidden_size=self.hidden_size,
            base_channels=self.generator_channels,
        )

    def discriminator_config(self) -> DiscriminatorConfig:
        """The sizes of the discriminator."""
        return DiscriminatorConfig(base_channels=self.discriminator_channels, pixel_stem=self.pixel_stem)

    def total_steps(self, images: int) -> int:
        """Steps of the whole run on a training split of `images` images."""
        return self.steps if self.steps is not None else math.ceil((self.epochs or 0) * images / self.batch_size)

    def to_toml(self) -> str:
        """The settings as a TOML file that repeats the run, each with its sentence, without `out` and `resume`."""
        lines = []
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.name not in _NOT_REPEATED and value is not None:
                lines.append(f"# {about(setting.name)}\n{tomli_w.dumps({setting.name: value})}")
        return "\n".join(lines)

    def same_run(self, other: TrainSettings) -> bool:
        """Whether both describe the same training, wherever and however fast it runs."""
        return _without(self, _FREE_TO_CHANGE) == _without(other, _FREE_TO_CHANGE)


_NOT_REPEATED = frozenset({"out", "resume"})
_FREE_TO_CHANGE = _NOT_REPEATED | {
    "data_dir",
    "device",
    "workers",
    "max_time",
    "sample_every",
    "save_every",
    "keep",
    "eval_every",
    "eval_captions",
    "eval_features",
    "inception_weights",
}

_FIELDS: dict[str, Field[Any]] = {setting.name: setting for setting in fields(TrainSettings)}


def about(name: str) -> str:
    """The sentence that explains the setting `name`."""
    sentence: str = _FIELDS[name].metadata["about"]
    return sentence


def resolve_settings(command_line: Mapping[str, Value], config: str | None = None) -> TrainSettings:
    """Put the layers together: defaults < preset of the dataset < `config` < `command_line`.

    Where a run or checkpoint is resumed by its path, the settings that its run folder keeps replace the preset. Where
    training starts from a model, the settings that make its networks lie over the preset.

    Args:
        command_line: the settings that were typed, by field name; what was not typed is not in it.
        config: a TOML file, or the name of a shipped preset.

    Raises:
        UsageError: a key or value that no setting has, or values that do not go together.
        RatlipError: what is to be resumed is no run folder and no checkpoint, or there is no model to start from.
    """
    file = read_settings(config) if config else {}
    typed = {**file, **command_line}
    if typed.get("resume", "auto") not in ("", "auto"):
        base = read_settings(run_of(Path(str(typed["resume"]))) / "config.toml")
    else:
        base = _preset_of(str(typed.get("dataset", "")))
        if typed.get("init_from"):
            base |= _settings_of_model(str(typed["init_from"]))
    return _overlaid(base, file, command_line)


def _settings_of_model(spec: str) -> dict[str, Value]:
    """The settings that make the networks of a model."""
    from ratlip_cli.weights.load import find_model  # imports torch
    from ratlip_cli.weights.model_folder import clip_spec, read_model_config

    folder = find_model(spec)
    config = read_model_config(folder)
    return {
        "variant": config.generator.variant,
        "clip": clip_spec(folder, config),
        "image_size": config.generator.image_size,
        "hidden_size": config.generator.hidden_size,
        "noise_dim": config.generator.noise_dim,
        "generator_channels": config.generator.base_channels,
        "discriminator_channels": config.discriminator.base_channels,
        "pixel_stem": config.discriminator.pixel_stem,
    }


def _overlaid(*layers: Mapping[str, Value]) -> TrainSettings:
    """Defaults with `layers` over them, the last on top."""
    merged: dict[str, Any] = asdict(TrainSettings())
    for layer in layers:
        if "steps" in layer and "epochs" in layer:
            raise UsageError("give either epochs or steps, not both.")
        if "steps" in layer or "epochs" in layer:
            merged.update(steps=None, epochs=None)
        merged.update(layer)
    return TrainSettings(**merged)


def preset_names() -> list[str]:
    """The names of the shipped presets."""
    return sorted(preset.stem for preset in PRESETS.glob("*.toml"))


def read_settings(config: str | Path) -> dict[str, Value]:
    """The settings in a TOML file, or in the shipped preset of that name.

    Raises:
        UsageError: no such file or preset, not TOML, an unknown key, or a value of the wrong kind.
    """
    path = Path(config)
    if not path.is_file():
        known = preset_names()
        if path.name != str(config) or path.suffix:
            raise UsageError(f"no settings file {config}; presets are: {', '.join(known)}.")
        if str(config) not in known:
            raise unknown_name("preset", str(config), known)
        path = PRESETS / f"{config}.toml"
    try:
        table: dict[str, Value] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read the settings in {path}: {error}.") from error
    for key, value in table.items():
        _check(path, key, value)
    return table


def parse_duration(text: str) -> float:
    """Seconds in a duration such as 90s, 30m, 2h or 1h30m.

    Raises:
        UsageError: anything else, or no time at all.
    """
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip())
    seconds = (
        sum(int(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    )
    if seconds == 0:
        raise UsageError(f"'{text}' is not a duration; write it as 90s, 30m, 2h or 1h30m.")
    return float(seconds)


def _preset_of(dataset: str) -> dict[str, Value]:
    name = Path(dataset).name
    preset = PRESETS / f"{'demo' if name.startswith('demo-') else name}.toml"
    return read_settings(preset) if dataset and preset.is_file() else {}


def _check(path: Path, key: str, value: object) -> None:
    if key not in _FIELDS:
        near = difflib.get_close_matches(key, _FIELDS, n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(_FIELDS)}."
        raise UsageError(f"{path}: unknown setting '{key}'.{hint}")
    kind = str(_FIELDS[key].type).removesuffix(" | None")
    wanted = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}[kind]
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "bool"):
        name = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}[kind]
        raise UsageError(f"{path}: '{key}' must be {name}, not {value!r}.")


def _without(settings: TrainSettings, names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if name not in names}


def run_of(path: Path) -> Path:
    """The run folder that `path` is, or that the checkpoint `path` belongs to.

    Raises:
        UsageError: it is neither.
    """
    for run in (path, path.parent.parent):
        if path.is_dir() and (run / "config.toml").is_file():
            return run
    raise UsageError(f"{path} is no run folder and no checkpoint of one; give the folder that train wrote, or auto.")


def settings_of_run(run: Path) -> TrainSettings:
    """The settings that a run folder keeps. Raises UsageError where they are damaged."""
    return _overlaid(read_settings(run / "config.toml"))
