"""The model card: what a model was made from and how, how to use it, how good it is, and what it cannot do.

Its metadata follow https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

import ratlip_cli
from ratlip_cli.errors import UsageError
from ratlip_cli.files import write_text
from ratlip_cli.json_files import read_json
from ratlip_cli.tensor_files import load_tensors_and_metadata
from ratlip_cli.weights import model_folder
from ratlip_cli.weights.model_folder import CARD_FILE, SAMPLES_FILE, ModelConfig

_EARLIER_SOURCES = {
    "drawn by ratlip (ratlip_cli/data/drawn)": "rendered by ratlip (ratlip_cli/demo)",
    "10,000 pictures of": "10,000 images of",
}
"""What models of earlier versions say of their data -> what is said now."""

NOT_TO_BE_SHOWN = "no redistribution"
"""Words in the licence of a dataset, such as CelebAMask-HQ's, of which a card shows no image: a model that was
trained on few images may reproduce them."""

_LICENCES = {"MIT": "mit", "CC0": "cc0-1.0", "CC BY 4.0": "cc-by-4.0"}
"""How the Hub calls licences that datasets name so."""


@dataclass(frozen=True)
class Scores:
    """What `ratlip evaluate --out FILE` wrote."""

    model_fingerprint: str
    dataset: str
    split: str
    protocol: str
    fingerprint: str  # Of all that decides the scores.
    metrics: Mapping[str, Mapping[str, Any]]

    def results(self) -> list[EvalResult]:
        """The scores as the Hub's metadata give them."""
        return [
            EvalResult(
                task_type="text-to-image",
                dataset_type=_slug(self.dataset),
                dataset_name=self.dataset,
                dataset_split=self.split,
                metric_type=metric,
                metric_name=f"{metric}, protocol {self.protocol}",
                metric_value=round(score["value"], 4),
            )
            for metric, score in self.metrics.items()
        ]


def read_scores(path: Path) -> Scores:
    """Read the JSON that `ratlip evaluate --out` wrote. Raises UsageError where the file is anything else."""
    try:
        content = read_json(path)
        precision = content.get("precision", "fp32")
        return Scores(
            str(content["model_fingerprint"]),
            Path(content["dataset"]).name,
            str(content["split"]),
            str(content["protocol"]) + ("" if precision == "fp32" else f", images in {precision}"),
            str(content["fingerprint"]),
            {
                _without_folders(name): {
                    **score,
                    "value": float(score["value"]),
                    "features": _without_folders(str(score.get("features", ""))),
                }
                for name, score in content["metrics"].items()
            },
        )
    except OSError as error:
        raise UsageError(f"the scores in {path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} does not hold the scores of a model, as `ratlip evaluate --out` writes them."
        ) from error


def _without_folders(name: str) -> str:
    """The name of a network or metric without the folders of the machine that it was measured on."""
    if name.startswith("CLIP of "):
        return "its own CLIP"
    return re.sub(r"[^\s:]*[\\/]", "", name)


def may_be_shown(licence: str) -> bool:
    """Whether the licence of the training images, in words, lets a card show what the model generates."""
    return NOT_TO_BE_SHOWN not in licence.lower()


def data_licence(config: ModelConfig) -> str:
    """The licence of the training images, in words; empty where it is not recorded."""
    return str(config.training.get("data", {}).get("licence", ""))


def write_card(folder: Path) -> None:
    """Write README.md of a model folder that has no name on the Hub."""
    config = model_folder.read_model_config(folder)
    weights, metadata = load_tensors_and_metadata(folder / model_folder.GENERATOR_FILE)
    fingerprint, shown = model_folder.model_fingerprint(weights, config), (folder / SAMPLES_FILE).is_file()
    write_text(folder / CARD_FILE, model_card(config, fingerprint, metadata.get("step"), shown=shown))


def model_card(
    config: ModelConfig,
    fingerprint: str,
    step: str | None = None,
    name: str | None = None,
    licence: str | None = None,
    scores: Scores | None = None,
    shown: bool = False,
    revision: str | None = None,
) -> str:
    """The card of a model, as Markdown after its metadata.

    Args:
        fingerprint: of the model, as its weights are stored.
        step: training steps done.
        name: owner/name, where it has one.
        licence: of the weights, as the Hub calls it, such as `cc-by-4.0`; left out, that of the training data.
        scores: of this model.
        shown: whether samples.png goes with the card.
        revision: the branch that it is on, where that is not `main`.
    """
    where = f"{name}@{revision}" if name and revision else name
    title = name.partition("/")[2] if name else "A text-to-image GAN on a frozen CLIP"
    size = config.generator.image_size
    sections = (
        f"# {title}",
        f"Generates {size} x {size} images of a prompt in one pass. {config.family.about}. For "
        f"ratlip {ratlip_cli.__version__} or newer.",
        f"![Images that this model generated]({SAMPLES_FILE})" if shown else "",
        _use(config, where, fingerprint),
        _data(config),
        _training(config, step),
        _scores(scores, where or "FOLDER", fingerprint),
        _LIMITS,
        "## Fingerprints\n\nOf the weights as stored here; `ratlip info --model` shows them.\n\n"
        + _table([("model", fingerprint), ("CLIP", config.clip_fingerprint), *_text_encoder(config)]),
    )
    metadata = _metadata(config, name, title, licence, scores).to_yaml()
    return f"---\n{metadata.strip()}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n"


def _metadata(
    config: ModelConfig, name: str | None, title: str, licence: str | None, scores: Scores | None
) -> ModelCardData:
    words = data_licence(config)
    known = licence or next((hub for start, hub in _LICENCES.items() if words.startswith(start)), "other")
    other = known == "other"
    results = scores.results() if scores is not None else []
    return ModelCardData(
        license=known,
        license_name=(_slug(words) or "unknown") if other else None,
        license_link=f"https://huggingface.co/{name}#data" if other and name else None,
        library_name="ratlip",
        pipeline_tag="text-to-image",
        tags=["ratlip", "text-to-image", "gan", "clip", config.family.name],
        model_name=title if results else None,
        eval_results=results or None,
    )


def _use(config: ModelConfig, name: str | None, fingerprint: str) -> str:
    model, pull = name or "FOLDER", f"ratlip pull {name} --fingerprint {fingerprint}\n" if name else ""
    prompt = " ".join(next(iter(config.training.get("prompts", [])), "a small bird with a red head").split())
    typed = shlex.quote(prompt) if set(prompt) & set('"$`\\!') else f'"{prompt}"'
    return f"""## Use

```sh
pip install .   # in a clone of ratlip's repository
{pull}ratlip generate {typed} -n 8 --model {model}
```

```python
import ratlip_cli as ratlip

model = ratlip.load_model("{model}")
for sample in model.generate({json.dumps(prompt, ensure_ascii=False)}, n=8):
    sample.image.save(f"{{sample.index}}.png")
```"""


def _data(config: ModelConfig) -> str:
    data = dict(config.training.get("data", {}))
    if "pictures" in data:  # as older versions called them
        data["images"] = data["pictures"]
    for earlier, now in _EARLIER_SOURCES.items():
        data["source"] = str(data.get("source", "")).replace(earlier, now)
    rows = [(key, data[key]) for key in ("name", "source", "licence", "images", "captions") if data.get(key)]
    if "converted_from" in config.training:
        rows.append(("converted from", config.training["converted_from"]))
    if not rows:
        return "## Data\n\nNot recorded."
    shown = may_be_shown(data_licence(config))
    note = "" if shown else "\n\nIts licence allows no redistribution, so this card shows no image."
    return f"## Data\n\n{_table(rows)}{note}"


def _text_encoder(config: ModelConfig) -> list[tuple[str, object]]:
    return [("text encoder and vocabulary", config.text_encoder)] if config.text_encoder else []


def _training(config: ModelConfig, step: str | None) -> str:
    clip = f"in the folder {config.clip}/" if config.clip == model_folder.CLIP_FOLDER else config.clip
    rows = {"CLIP": clip, **asdict(config.generator), **config.training.get("settings", {}), "steps done": step}
    return f"## Model and training\n\n{_table((key, value) for key, value in rows.items() if value is not None)}"


def _scores(scores: Scores | None, model: str, fingerprint: str) -> str:
    if scores is None:
        return f"## Scores\n\nNot scored yet: `ratlip evaluate --model {model}` does it."
    rows = "\n".join(
        f"| {_plain(metric)} | {score['value']:.4f} | {_plain(score.get('features', ''))} | "
        f"{_plain(score.get('n_real') or '-')} | {_plain(score.get('n_fake', ''))} |"
        for metric, score in scores.metrics.items()
    )
    note = ""
    if scores.model_fingerprint != fingerprint:
        note = f" They are of the weights before they were stored as float16 (fingerprint {scores.model_fingerprint})."
    return (
        f"## Scores\n\nOn the split {_plain(scores.split)} of {_plain(scores.dataset)}, protocol "
        f"{_plain(scores.protocol)}, fingerprint {_plain(scores.fingerprint)}, by `ratlip evaluate`. Scores of other "
        f"protocols do not compare.{note}\n\n"
        f"| metric | value | network | real | generated |\n|---|---|---|---|---|\n{rows}"
    )


_LIMITS = """## Limits

- It generates what its training images show; prompts about anything else give images of the same kind.
- Combinations that the training images do not show, numbers, and left and right are often missed.
- It inherits what its data and CLIP leave out and lean to; trained on few images it may reproduce them.
- Its images are not photographs of anything and prove nothing."""


def _table(rows: Iterable[tuple[str, object]]) -> str:
    cells = [(_plain(key.replace("_", " ")), _plain(value)) for key, value in rows]
    return "| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in cells)


def _plain(value: object) -> str:
    """A value as Markdown that shows it as it is, in one line: never a link, an image, HTML, code or a column."""
    return re.sub(r"([\\`*\[\]<>|~&]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(str(value).split()))


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:60].strip("-")
