"""What a file or folder is that is no model, and which command takes it."""

from __future__ import annotations

from pathlib import Path

from ratlip_cli.errors import WeightsError, first_line
from ratlip_cli.file_kinds import TensorFile, other_file, tensor_file
from ratlip_cli.weights import clip_files
from ratlip_cli.weights.model_folder import CONFIG_FILE, read_model_config

MODEL_IN_RUN = "model"
"""The model folder inside a run folder."""

_NAMED = 3  # Folders that a message lists.


def what_it_is(path: Path) -> str:
    """One line about a path that exists and is neither a model folder nor a run folder: what it is, and what to do."""
    around = next((folder for folder in path.parents if _is_model(folder) or _is_run(folder)), None)
    if around is not None:
        return f"{path} is part of a model: name the whole, --model {around}."
    if path.is_file():
        return _of_file(path)
    return _of_folder(path)


def _is_run(folder: Path) -> bool:
    return (folder / "config.toml").is_file() and _is_model(folder / MODEL_IN_RUN)


def _is_model(folder: Path) -> bool:
    try:
        read_model_config(folder)
    except WeightsError:
        return False
    return True


def _of_file(path: Path) -> str:
    try:
        found, other = tensor_file(path), other_file(path)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or first_line(error)}."
    if found is TensorFile.SAFETENSORS:
        return f"{path} holds weights alone: --model takes the folder with {CONFIG_FILE} beside them."
    if found is TensorFile.TORCHSCRIPT:
        return f"{path} is a TorchScript archive; if it is OpenAI's CLIP, name it by --clip ViT-B-32-quickgelu:{path}."
    if found is TensorFile.TORCH:
        return (
            f"{path} is a PyTorch file; a checkpoint of published code becomes a model by `ratlip convert {path} --out "
            "FOLDER`."
        )
    return f"{path} is {other or 'a file'}; --model takes a model folder or a run folder."


def _of_folder(path: Path) -> str:
    folders = [folder for folder in sorted(path.glob("*")) if folder.is_dir()]
    runs = [folder for folder in folders if _is_model(folder / MODEL_IN_RUN)]
    models = [folder for folder in folders if _is_model(folder)]
    released = sorted(file for suffix in ("pth", "pt") for file in path.glob(f"*.{suffix}"))
    if runs or models:
        inner = [str(folder) for folder in runs or models]
        more = f" and {len(inner) - _NAMED} more" if len(inner) > _NAMED else ""
        kind = "runs" if runs else "models"
        return f"{path} is a folder of {kind}: name one of them: {', '.join(inner[:_NAMED])}{more}."
    if (path / "checkpoint.json").is_file():
        return f"{path} is a checkpoint of a run that is not around it: name the run folder it was saved in."
    if (path / "dataset.json").is_file():
        return f"{path} is a prepared dataset: `ratlip train --dataset {path}` makes a model of it."
    if (path / clip_files.CONFIG_FILE).is_file():
        return f"{path} is a CLIP, not a generator: name it by --clip."
    if (path / "export.json").is_file():
        return f"{path} is an exported model: its example.py generates; --model takes what it was exported from."
    if (path / "model_index.json").is_file():
        return f"{path} is a model of diffusers, which ratlip does not read."
    if released:
        return f"{path} is no model folder; a published checkpoint in it: {_of_file(released[0])}"
    return (
        f"{path} is neither a model folder nor a run folder: it has no {CONFIG_FILE}. `ratlip train --dataset FOLDER` "
        "makes a run."
    )
