"""Everything that decides a training run, as one record that a TOML file, a preset or the command line can fill.

Standard library and TOML only: the command line reads it before torch is imported. The sizes of the model are nested
(`model`, a table in TOML) and belong to the family that `variant` names; on the command line they are flat.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import logging
import math
import os
import re
import shlex
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w

from ratlip_cli import processes
from ratlip_cli.data.request import DATASETS, check_dataset_name
from ratlip_cli.errors import DataError, UsageError, unknown_name
from ratlip_cli.families import FAMILIES, family_of
from ratlip_cli.family import Family
from ratlip_cli.files import check_out_folder, decoded
from ratlip_cli.setting import (
    DEFAULT_CLIP,
    Setting,
    Value,
    check_choice,
    check_choices,
    check_count,
    check_device,
    own_name,
    setting,
    settings_of,
    without_folders,
)
from ratlip_cli.threads import MOST_THREADS
from ratlip_cli.training.trackers import TRACKERS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

logger = logging.getLogger(__name__)

AUTO = "auto"
"""`resume` where the run to go on with is found by its settings."""

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
BATCH_NORMS = ("global", "local")
EVAL_FEATURES = ("auto", "inception", "clip")

PRESETS = Path(__file__).parent / "presets"
"""One TOML file a dataset: the paper's settings for the real ones, `small` for a few own images on a CPU."""

MODEL, OBJECTIVE = "model", "objective"
"""The tables of a TOML file with the model's sizes, and with what the family's objective alone weighs."""

VARIANTS = "for"  # The table of a preset with a table for each variant that needs other settings than the rest.

_data, _model, _length, _machine = (
    functools.partial(setting, group=group) for group in ("Data", "Model", "How long", "Machine")
)
_learning = functools.partial(setting, group="How it learns", recorded=True)
_run, _evaluation = (functools.partial(setting, group=group, free=True) for group in ("Run folder", "Evaluation"))


@dataclass(frozen=True)
class TrainSettings:
    """The settings of one training run; the defaults are the paper's where the paper gives a value."""

    dataset: str = _data(
        "",
        "What to learn from: a prepared dataset by name or folder, or a stream, such as 'x/{000..099}.tar' or hf://owner/x.",
        metavar="NAME|FOLDER|STREAM",
        names="dataset",
        path=True,
    )
    data_dir: str = _data(
        "data",
        "Folder that holds prepared datasets by name.",
        metavar="FOLDER",
        envvar="RATLIP_DATA",
        free=True,
        path=True,
    )
    split: str = _data("train", "Streams of the Hub: the split.", advanced=True)
    caption_column: str = _data("", "Streams: column, or key in .json, of the captions; the usual ones if left out.")
    shuffle_buffer: int = _data(
        1000, "Streams: images that a worker keeps, undecoded, to put them in a random order.", advanced=True
    )
    max_failed: float = _data(
        0.1, "Streams: share of the images, and of the shards, that may be broken.", advanced=True, free=True
    )
    stream_images: int = _data(
        0, "Streams: how many images there are, to count epochs; 0 where the source says it.", advanced=True, free=True
    )
    variant: str = _model("ratlip", "Model to train.", choices=FAMILIES, architecture=True)
    clip: str = _model(
        DEFAULT_CLIP,
        "Frozen CLIP: MODEL[:PRETRAINED] of open_clip, MODEL:random for a dry run, or a folder with one.",
        metavar="MODEL[:PRETRAINED]",
        path=True,
    )
    model: Mapping[str, Value] = field(default_factory=dict, hash=False)
    """Sizes of the model by name, see `Family.sizes`; what is left out has its default."""
    objective: Mapping[str, Value] = field(default_factory=dict, hash=False)
    """Settings of the family's objective alone by name, see `Family.weights`; what is left out has its default."""
    init_from: str = _model(
        "",
        "Model to start from: a folder, a run or owner/name; its sizes and its CLIP are taken over.",
        metavar="MODEL",
        names="model",
        path=True,
    )

    epochs: int | None = _length(
        None, "Passes over the training images; give this or the number of steps.", recorded=True
    )
    steps: int | None = _length(20_000, "Training steps in all; give this or the number of epochs.", recorded=True)
    max_time: str = _length(
        "", "Stop and save after this long, as 90s, 30m, 2h or 1h30m; resume goes on.", metavar="DURATION", free=True
    )

    batch_size: int = _learning(32, "Images in one step, over all its micro-batches.")
    grad_accum: int = _learning(1, "Micro-batches that a step's batch is cut into, to save memory.", recorded=False)
    lr_g: float = _learning(1e-4, "Learning rate of the generator.")
    lr_d: float = _learning(4e-4, "Learning rate of the discriminator.")
    beta1: float = _learning(0.0, "First beta of both Adam optimisers.", advanced=True)
    beta2: float = _learning(0.9, "Second beta of both Adam optimisers.", advanced=True)
    similarity_weight: float = _learning(
        4.0, "Weight lambda of the CLIP similarity in the generator's loss.", formerly="clip_weight"
    )
    hard_negatives: int = _learning(
        0,
        "Captions with one word exchanged, of each image's own, among which its mismatched one is sought; 0: its "
        "neighbour's, as in the paper.",
        advanced=True,
    )
    hard_negatives_from: float = _learning(
        0.0,
        "Share of the run after which there are captions with words exchanged, and the contrastive term with them.",
        advanced=True,
    )
    contrastive_weight: float = _learning(
        0.0,
        "Weight of the contrastive term, by which CLIP is to tell a generated image's caption from wrong ones; not in "
        "the paper.",
        advanced=True,
    )
    diversity_weight: float = _learning(
        0.0,
        "Weight of the mode-seeking term, which keeps images of one caption apart; not in the paper.",
        advanced=True,
    )
    penalty_weight: float = _learning(2.0, "Weight k of the matching-aware gradient penalty.", advanced=True)
    penalty_power: float = _learning(6.0, "Power p of the matching-aware gradient penalty.", advanced=True)
    decay_from: float = _learning(
        1.0,
        "Share of the run after which learning rates and weights move to their final values, along half a cosine.",
        advanced=True,
    )
    final_lr: float = _learning(0.0, "Share of both learning rates that is left at the end.", advanced=True)
    final_similarity_weight: float | None = _learning(
        None, "Weight of the CLIP similarity at the end; left out, as at the beginning.", advanced=True
    )
    final_diversity_weight: float | None = _learning(
        None, "Weight of the mode-seeking term at the end; left out, as at the beginning.", advanced=True
    )
    ema: float = _learning(0.999, "Decay of the generator's exponential moving average; 0 keeps none.")
    seed: int = _learning(0, "Seed of the first weights, the order of images, the crops and the noise.")

    device: str = _machine("auto", "Where to train.", names="device", free=True)
    precision: str = _machine(
        "auto", "Arithmetic; auto is bf16 on a GPU that has it, else fp32.", choices=PRECISIONS, recorded=True
    )
    batch_norm: str = _machine(
        "global",
        "Whose images BatchNorm's statistics are of, where several processes train together: those of all, or each "
        "one's own, which is faster and no longer what one process computes.",
        choices=BATCH_NORMS,
        recorded=True,
        advanced=True,
    )
    dist_timeout: str = _machine(
        "10m",
        "How long several processes wait for one that does not answer.",
        metavar="DURATION",
        free=True,
        advanced=True,
    )
    compile: bool = _machine(False, "Compile both networks; slower on a CPU, unmeasured on a GPU.")
    recompute: bool = _machine(
        False, "Compute image-G twice in a step instead of keeping all of it: less memory, a little slower."
    )
    workers: int = _machine(2, "Processes that read images; 0 reads them in the training process.", free=True)

    sample_every: int = _run(500, "Steps between two grids of sample images; 0 makes none.", metavar="STEPS")
    save_every: int = _run(1000, "Steps between two checkpoints; the last step is always saved.", metavar="STEPS")
    keep: int = _run(3, "Number of newest checkpoints to keep.")
    keep_every: int = _run(
        0,
        "Save and keep besides, for ever, every checkpoint whose step is a multiple of this; 0 for none.",
        metavar="STEPS",
    )
    log: str = _run(
        "tensorboard",
        "Where curves and sample grids go besides the run folder: tensorboard, wandb, trackio, several of them joined "
        "by commas, or none.",
        metavar="TRACKERS",
    )
    eval_every: int = _evaluation(
        0,
        "Steps between two evaluations on the test split, the best of which is kept; 0 evaluates none.",
        metavar="STEPS",
    )
    eval_captions: int = _evaluation(10, "Captions of each test image that an evaluation generates.", advanced=True)
    eval_features: str = _evaluation(
        "auto",
        "What scores the images: inception, clip (the model's own), or auto: clip with the bundled CLIP.",
        choices=EVAL_FEATURES,
        advanced=True,
    )
    inception_weights: str = _evaluation(
        "",
        "Weights file of the Inception network, where evaluation needs it offline.",
        metavar="FILE",
        path=True,
        advanced=True,
    )
    out: str = _run(
        "",
        "Folder of the run; left out, runs/DATASET-VARIANT-N with the next free N.",
        metavar="FOLDER",
        repeated=False,
        path=True,
    )
    resume: str = _run(
        "",
        "Run folder or checkpoint to go on from, or auto: the newest unfinished such run.",
        metavar="PATH|auto",
        repeated=False,
        path=True,
    )

    def __post_init__(self) -> None:
        configs = self.family.configs(self.model)
        object.__setattr__(self, "model", self.family.model_of(*configs))
        weights = self.family.objective_weights(self.objective)
        own = {name: getattr(weights, one.field.name) for name, one in self.family.weights.items()}
        object.__setattr__(self, "objective", own)
        check_choices(self)
        check_device(self.device)
        if (self.epochs is None) == (self.steps is None):
            raise UsageError("give either epochs or steps, not both.")
        positive = ("keep", "save_every", "eval_captions", "shuffle_buffer")
        for name in ("epochs", "steps", *positive):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1.")
        for name in ("batch_size", "grad_accum"):
            check_count(name, getattr(self, name))
        check_count("workers", self.workers, least=0, most=MOST_THREADS)
        for name in ("seed", "sample_every", "eval_every", "keep_every", "stream_images"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be negative.")
        if not 0 <= self.hard_negatives <= 256:
            raise UsageError(f"hard_negatives is {self.hard_negatives}; it must be from 0 to 256, and 8 are many.")
        weights = ("similarity_weight", "contrastive_weight", "diversity_weight", "penalty_weight")
        for name in (*weights, "final_similarity_weight", "final_diversity_weight"):
            weight = getattr(self, name)
            if weight is not None and not (weight >= 0 and math.isfinite(weight)):
                raise UsageError(f"{name} is {weight}; it must be a number from 0.")
        for name in ("decay_from", "final_lr", "hard_negatives_from", "max_failed"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be from 0 to 1.")
        for name in ("lr_g", "lr_d", "penalty_power"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise UsageError(f"{name} is {getattr(self, name)}; it must be a number above 0.")
        for name in ("ema", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be from 0 to below 1.")
        if self.batch_size < 2:
            raise UsageError("batch_size is 1; it must be at least 2, for each image to meet another one's caption.")
        if self.seed >= 2**63:
            raise UsageError(f"seed is {self.seed}; it must be below 2^63.")
        if self.batch_size % self.grad_accum:
            raise UsageError(
                f"batch_size {self.batch_size} cannot be cut into grad_accum {self.grad_accum} equal micro-batches."
            )
        if self.diversity_weight and self.batch_size // self.grad_accum % 2:
            raise UsageError(
                f"batch_size {self.batch_size} in {self.grad_accum} micro-batches is odd; diversity_weight needs pairs "
                "in each."
            )
        if self.contrastive_weight and not self.hard_negatives:
            raise UsageError("contrastive_weight needs wrong captions, and hard_negatives is 0; try hard_negatives 8.")
        if self.hard_negatives_from and not self.hard_negatives:
            raise UsageError("hard_negatives_from says when hard negatives begin, and hard_negatives is 0.")
        if self.recompute and self.compile:
            raise UsageError("recompute and compile do not go together; leave out one of them.")
        for tracker in self.trackers:
            check_choice("tracker", tracker, TRACKERS)
        if self.max_time:
            parse_duration(self.max_time)
        parse_duration(self.dist_timeout)

    @property
    def ignored(self) -> list[str]:
        """What of these settings has no effect beside the others, in a line each."""
        final = ("final_lr", "final_similarity_weight", "final_diversity_weight")
        given = [f"--{name.replace('_', '-')}" for name in final if getattr(self, name) != getattr(TrainSettings, name)]
        lines = self.family.ignored(self.objective_weights())
        if given and self.decay_from == 1:
            do = "do" if len(given) > 1 else "does"
            lines.append(f"{' and '.join(given)} {do} nothing without a --decay-from below 1")
        elif self.final_diversity_weight is not None and not self.diversity_weight:
            lines.append("--final-diversity-weight does nothing: --diversity-weight is 0")
        return lines

    @classmethod
    def of(cls, **typed: Value | None) -> TrainSettings:
        """Settings by flat names, those of both tables among them; what is left out has its default."""
        return _built({**asdict(cls()), **_nested(typed)}, typed)

    def replaced(self, **typed: Value | None) -> TrainSettings:
        """These settings with others in their place, by flat names."""
        return _built({**asdict(self), **_nested(typed, self)}, typed)

    def flat(self) -> dict[str, Value | None]:
        """Every setting by its flat name, those of both tables among them: what `of` takes."""
        return {name: getattr(self, name) for name in SETTINGS} | dict(self.model) | dict(self.objective)

    @property
    def family(self) -> Family:
        """The family that `variant` names."""
        return family_of(self.variant)

    @property
    def image_size(self) -> int:
        """Side of the generated images in pixels."""
        return int(self.model["image_size"])

    @property
    def noise_dim(self) -> int:
        """Length of the noise vector z."""
        return int(self.configs()[0].noise_dim)

    def configs(self) -> tuple[Any, Any]:
        """The sizes of generator and discriminator, as the family's dataclasses."""
        return self.family.configs(self.model)

    def objective_weights(self) -> Any:
        """What the family's objective alone weighs, as the family's dataclass; None where it has none."""
        return self.family.objective_weights(self.objective)

    @property
    def needs_captions(self) -> bool:
        """Whether every training image must have a caption."""
        return self.family.needs_captions(self.objective_weights())

    @property
    def reads_captions(self) -> bool:
        """Whether the run looks at captions at all: in its steps, its samples and its evaluations."""
        return self.family.reads_captions(self.objective_weights())

    @property
    def trackers(self) -> list[str]:
        """The names in `log`, each once."""
        names = filter(None, (name.strip() for name in self.log.split(",")))
        return [] if self.log.strip() == "none" else list(dict.fromkeys(names))

    @property
    def resumed_run(self) -> Path | None:
        """The run folder that `resume` names, itself or by a checkpoint; None for a new run or the newest.

        Raises UsageError where it names neither.
        """
        return None if self.resume in ("", AUTO) else run_of(Path(self.resume))

    @property
    def architecture(self) -> dict[str, Value]:
        """All that decides the shapes of the networks, but for the CLIP, by flat names."""
        own = {name: getattr(self, name) for name, one in SETTINGS.items() if one.about.architecture}
        return own | dict(self.model)

    @property
    def recorded(self) -> dict[str, Value | None]:
        """What a model's config.json says of its training: of files their names alone."""
        own = {name: getattr(self, name) for name, one in self._read.items() if one.about.recorded}
        return without_folders(own | dict(self.objective), SETTINGS | self.family.weights)

    @property
    def _read(self) -> dict[str, Setting]:
        """The settings that mean something for the family, without those of both tables."""
        return {name: one for name, one in SETTINGS.items() if name not in self.family.unused}

    @property
    def shares(self) -> tuple[int, bool]:
        """How several processes share a batch out: by micro-batches, and whether each has both of a pair's images."""
        return self.grad_accum, bool(self.diversity_weight) or self.family.in_halves

    @property
    def of_all_processes(self) -> dict[str, Value | None]:
        """What must be the same in processes that train together: all but names of files and what a machine has."""
        known = {**SETTINGS, **self.family.weights}
        of_a_machine = {"device", "workers", *(name for name, one in known.items() if one.about.path)}
        return {name: value for name, value in self.flat().items() if name not in of_a_machine}

    def total_steps(self, images: int, steps_done: int = 0, images_seen: int = 0) -> int:
        """Steps of the whole run on a training split of `images` images.

        Args:
            steps_done, images_seen: what was done before, in batches of whatever size; epochs count images.
        """
        if self.steps is not None:
            return self.steps
        return steps_done + max(0, math.ceil(((self.epochs or 0) * images - images_seen) / self.batch_size))

    def to_toml(self) -> str:
        """The settings as a TOML file that repeats the run, each with its sentence, without `out` and `resume`."""
        own = [(one, getattr(self, name)) for name, one in self._read.items() if one.about.repeated]
        sizes = [(one, self.model[name]) for name, one in self.family.sizes.items()]
        weights = [(one, self.objective[name]) for name, one in self.family.weights.items()]
        tables = [f"[{MODEL}]\n", *map(_toml, sizes), *([f"[{OBJECTIVE}]\n"] if weights else []), *map(_toml, weights)]
        return "\n".join([*map(_toml, own), *tables])

    def same_run(self, other: TrainSettings) -> bool:
        """Whether both describe the same training, wherever and however fast it runs."""
        return not self.unlike(other)

    def unlike(self, other: TrainSettings) -> list[str]:
        """The names of the settings by which they are not the same training."""
        own, others = self.flat(), other.flat()
        free = {"dataset", *(name for name, one in SETTINGS.items() if one.about.free)}
        unlike = [name for name in {**own, **others} if name not in free and own.get(name) != others.get(name)]
        same_data = Path(self.dataset).resolve() == Path(other.dataset).resolve()
        return unlike if same_data else ["dataset", *unlike]


SETTINGS = settings_of(TrainSettings)  # The settings by name, without those of both tables.


def all_settings() -> dict[str, Setting]:
    """Every setting by the flat name that it has on the command line, those of all families among them.

    Families' sizes that stand under no heading of their own follow the model's other settings.
    """
    before = list(SETTINGS).index("init_from")
    items = [
        (
            name,
            replace(
                one, varies=any(family.defaults.get(name, one.default) != one.default for family in FAMILIES.values())
            ),
        )
        for name, one in SETTINGS.items()
    ]
    sizes = _of_families(MODEL)
    general = {name: one for name, one in sizes.items() if one.about.group == SETTINGS["variant"].about.group}
    return dict([*items[:before], *general.items(), *items[before:]]) | sizes | _of_families(OBJECTIVE)


def _of_families(table: str) -> dict[str, Setting]:
    """The settings in that table of all families; what several have is told as the first of them tells it."""
    found: dict[str, Setting] = {}
    for family in FAMILIES.values():
        for name, one in (family.sizes if table == MODEL else family.weights).items():
            before = found.setdefault(name, one)
            found[name] = replace(before, varies=before.varies or one.default != before.default)
    return found


def _toml(given: tuple[Setting, Value | None]) -> str:
    one, value = given
    return "" if value is None else f"# {one.about.text}\n{tomli_w.dumps({one.name: _to_letters(value)})}"


_BYTES = "file:"
"""How a name begins whose bytes are no letters, which are all that TOML has: they follow as in an address, %E9."""


def _to_letters(value: Value) -> Value:
    if isinstance(value, str) and (value.startswith(_BYTES) or re.search("[\ud800-\udfff]", value)):
        return _BYTES + urllib.parse.quote(os.fsencode(value))
    return value


def _from_letters(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_BYTES):
        return os.fsdecode(urllib.parse.unquote_to_bytes(value.removeprefix(_BYTES)))
    return value


def _nested(typed: Mapping[str, Value | None], before: TrainSettings | None = None) -> dict[str, Any]:
    """Flat settings with those of both tables in their places, over the tables of `before`."""
    weights = _of_families(OBJECTIVE)
    nested: dict[str, Any] = {MODEL: {}, OBJECTIVE: {}}
    if before is not None:
        nested = {MODEL: dict(before.model), OBJECTIVE: dict(before.objective)}
    for name, value in typed.items():
        place = nested if name in SETTINGS else nested[OBJECTIVE if name in weights else MODEL]
        place[name] = value
    return nested


def _built(merged: dict[str, Any], asked: Mapping[str, Value | None]) -> TrainSettings:
    """The settings; those of another family are left out where nobody asked for them."""
    family = family_of(merged["variant"])
    for table, known in ((MODEL, family.sizes), (OBJECTIVE, family.weights)):
        merged[table] = {name: value for name, value in merged[table].items() if name in known or name in asked}
    if "steps" in asked or "epochs" in asked:
        merged |= {name: asked.get(name) for name in ("steps", "epochs")}
    return TrainSettings(**merged)


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
    is_preset = config is not None and not _is_there(Path(config))
    file = read_settings(config) if config else {}
    typed = {**file, **command_line}
    if typed.get("resume", AUTO) not in ("", AUTO):
        base = read_settings(run_of(Path(str(typed["resume"]))) / "config.toml", own=True)
        return _overlaid(base, file, command_line)
    start = _settings_of_model(str(typed["init_from"])) if typed.get("init_from") else {}
    variant = command_line.get("variant", start.get("variant") if is_preset else file.get("variant"))
    preset = _preset_of(str(typed.get("dataset", "")), variant or start.get("variant"))
    if config and is_preset:
        file = {**read_settings(config, variant=str(variant or file["variant"])), **start}
    return _overlaid({**preset, **start}, file, command_line)


def _settings_of_model(spec: str) -> dict[str, Value]:
    """The settings that make the networks of a model."""
    from ratlip_cli.weights.load import find_model  # imports torch
    from ratlip_cli.weights.model_folder import clip_spec, read_model_config

    folder = find_model(spec)
    config = read_model_config(folder)
    family = family_of(config.generator.variant)
    sizes = family.model_of(config.generator, config.discriminator)
    return {"variant": family.name, "clip": clip_spec(folder, config), **sizes}


def _overlaid(*layers: Mapping[str, Value]) -> TrainSettings:
    """Defaults with flat `layers` over them, the last on top."""
    merged: dict[str, Value | None] = {}
    for layer in layers:
        if "steps" in layer and "epochs" in layer:
            raise UsageError("give either epochs or steps, not both.")
        if "steps" in layer or "epochs" in layer:
            merged = {name: value for name, value in merged.items() if name not in ("steps", "epochs")}
        merged.update(layer)
    family = family_of(str(merged.get("variant", TrainSettings.variant)))
    known = _known(family)
    asked = [
        *layers[-1],
        *(layers[1] if len(layers) > 1 and "variant" not in layers[-1] else ()),
    ]  # typed, or in a file
    for name in asked:
        if name in family.unused:
            raise family.lacks(name)
    kept = {name: value for name, value in merged.items() if name in known or name in asked}
    return TrainSettings.of(**kept)


def _known(family: Family) -> set[str]:
    """The names of all settings that mean something for a family."""
    return {*SETTINGS, *family.sizes, *family.weights} - family.unused


def preset_names() -> list[str]:
    """The names of the shipped presets."""
    return sorted(preset.stem for preset in PRESETS.glob("*.toml"))


def read_settings(config: str | Path, own: bool = False, variant: str | None = None) -> dict[str, Value]:
    """The settings in a TOML file, or in the shipped preset of that name.

    Args:
        own: whether ratlip wrote the file, so that names of an earlier version in it are no news for the user.
        variant: the variant to be trained by a shipped preset; left out, the preset's. The defaults of its family lie
            over the preset, of which its own settings are taken, and over them what the preset says for that variant.

    Raises UsageError: no such file or preset, not TOML, an unknown key, or a value of the wrong kind.
    """
    path = Path(config)
    if not _is_there(path):
        known = preset_names()
        if path.is_dir() and str(config) not in known:
            raise UsageError(f"{config} is a folder; name the file of settings in it, such as {path / 'config.toml'}.")
        if path.name != str(config) or path.suffix:
            raise UsageError(f"no settings file {config}; presets are: {', '.join(known)}.")
        if str(config) not in known:
            raise unknown_name("preset", str(config), known)
        path = PRESETS / f"{config}.toml"
    try:
        table = tomllib.loads(decoded(path.read_bytes(), f"the settings file {path}"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read the settings in {path}: {error}.") from error
    if path.parent != PRESETS:
        return checked(path, {key: _from_letters(value) for key, value in table.items()}, own)
    own_tables = table.pop(VARIANTS, {})
    general = checked(path, table)
    chosen = variant or str(general["variant"])
    family = family_of(chosen)
    read = {name: value for name, value in general.items() if name in _known(family)}
    return {**read, **family.defaults, **checked(path, own_tables.get(chosen, {})), "variant": chosen}


def parse_duration(text: str) -> float:
    """Seconds in a duration such as 90s, 30m, 2h or 1h30m.

    Raises UsageError: anything else, or no time at all.
    """
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip())
    parts = match.groups() if match else ()
    seconds = sum(int(part or 0) * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if seconds == 0:
        raise UsageError(f"'{text}' is not a duration; write it as 90s, 30m, 2h or 1h30m.")
    return float(seconds)


def _is_there(config: Path) -> bool:
    """Whether it is something that can be read, a pipe too."""
    return config.exists() and not config.is_dir()


def _preset_of(dataset: str, variant: Value | None) -> dict[str, Value]:
    """The dataset's preset for a variant, or the defaults of its family where there is none."""
    name = own_name(dataset)
    chosen = None if variant is None else str(variant)
    if name in DATASETS:
        preset = "demo" if name.startswith("demo-") else name
        return read_settings(PRESETS / f"{preset}.toml", variant=chosen)
    return dict(family_of(chosen).defaults) if chosen else {}


def checked(path: Path | str, table: Mapping[str, Any], own: bool = False) -> dict[str, Value]:
    """The settings of a file by flat names: sizes may stand in their table, or beside the others as they once did.

    Raises UsageError, which names `path`: an unknown setting, or a value of another type.
    """
    known, flat = all_settings(), _renamed(path, {k: v for k, v in table.items() if k not in (MODEL, OBJECTIVE)}, own)
    for name, what in ((MODEL, "sizes"), (OBJECTIVE, "the objective's settings")):
        inside, own_names = table.get(name, {}), _of_families(name)
        if not isinstance(inside, dict):
            raise UsageError(f"{path}: '{name}' must be a table of {what}, not {inside!r}.")
        for key in inside:
            if key not in own_names:
                raise _unknown_setting(path, f"{name}.{key}", list(own_names))
        for key in inside.keys() & flat.keys():
            raise UsageError(f"{path}: '{key}' stands in '{name}' and beside it; leave out one of them.")
        flat |= inside
    for key, value in flat.items():
        if key not in known:
            raise _unknown_setting(path, key, list(known))
        known[key].check(str(path), value)
    return flat


def _renamed(path: Path | str, table: Mapping[str, Any], own: bool) -> dict[str, Any]:
    """The settings with those that were called otherwise once under the names that they have now."""
    now = _present_names()
    for old in now.keys() & table.keys():
        if now[old] in table:
            raise UsageError(f"{path}: '{old}' is what '{now[old]}' was called before; leave out one of them.")
        if not own:
            logger.info("%s: '%s' is called '%s' now", path, old, now[old])
    return by_present_names(table)


def by_present_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a record has them, under the names that they have now; what is no setting keeps its own."""
    now = _present_names()
    return {now.get(str(name), str(name)): value for name, value in settings.items()}


def _present_names() -> dict[str, str]:
    return {one.about.formerly: name for name, one in SETTINGS.items() if one.about.formerly}


def _unknown_setting(path: Path | str, key: str, known: list[str]) -> UsageError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}."
    return UsageError(f"{path}: unknown setting '{key}'. {hint}")


def run_of(path: Path) -> Path:
    """The run folder that `path` is, or that the checkpoint `path` belongs to.

    Raises UsageError: it is neither.
    """
    for run in (path, path.parent.parent):
        if path.is_dir() and (run / "config.toml").is_file():
            return run
    raise UsageError(f"{path} is no run folder and no checkpoint of one; give the folder that train wrote, or auto.")


def already_there(path: Path, unlike: Sequence[str] = ()) -> UsageError:
    """The error for an `--out` that exists; `unlike`: the settings that its run has others of."""
    other = f" with other settings ({', '.join(unlike)})" if unlike else ""
    remedy = f"go on with --resume {shlex.quote(str(path))}, or choose another --out."
    return UsageError(f"{path} exists already{other}; {remedy}")


def check_beginning(settings: TrainSettings, several: int = 1) -> None:
    """Raise UsageError or DataError where no run of these settings can begin, before anything costly is done.

    Args:
        several: how many processes are to be started for it; in one of several it is their number that counts.
    """
    size = max(several, processes.size())
    settings.family.check_trained(settings, size)
    processes.share(settings.batch_size, size, *settings.shares)
    if settings.out and not settings.resume and Path(settings.out).exists():
        raise already_there(Path(settings.out))
    if settings.out and processes.rank() == 0:  # which alone writes
        check_out_folder(Path(settings.out))
    if not settings.dataset:
        raise UsageError("give the --dataset to train on: a name or a folder.")
    for tracker in settings.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise UsageError(f"--log {tracker} needs a package that is not installed: pip install 'ratlip[{tracker}]'.")
    from ratlip_cli.data.of_run import noted_places
    from ratlip_cli.training.run_paths import kept_dataset  # which imports this

    run = settings.resumed_run
    if run is not None and settings.init_from != settings_of_run(run).init_from:
        raise UsageError(f"--init-from begins a new run, and {run} is gone on with: leave out one of both.")
    if settings.resume == AUTO or kept_dataset(settings) is not None:  # the run that is found may have its dataset
        return
    try:
        check_dataset_name(settings.dataset, Path(settings.data_dir))
    except (UsageError, DataError) as error:
        if run is None:
            raise
        noted, _ = noted_places(run)
        where = f" nor at {' nor at '.join(map(str, noted))}" if noted else ""
        raise DataError(
            f"the dataset '{settings.dataset}' of {run} is not here{where}: say by --dataset FOLDER where it is now."
        ) from error


def settings_of_run(run: Path) -> TrainSettings:
    """The settings that a run folder keeps. Raises UsageError where they are damaged."""
    return _overlaid(read_settings(run / "config.toml", own=True))
