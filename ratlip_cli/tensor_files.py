"""Reading and writing named tensors. No pickle is trusted: safetensors, or torch.load with weights_only."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ratlip_cli.errors import WeightsError, first_line
from ratlip_cli.file_kinds import TensorFile, other_file, tensor_file
from ratlip_cli.files import whole_file
from ratlip_cli.pickle_nesting import check_nesting
from ratlip_cli.torchscript import script_tensors

_OLD_PICKLES = 5
"""In a file of torch.save before PyTorch 1.6, in front of the numbers."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write `tensors` as safetensors, whole or not at all. Shared memory between tensors is written twice."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as partial:
        try:
            save_file(contiguous, partial, dict(metadata or {}))
            mask = os.umask(0)
            os.umask(mask)
            partial.chmod(0o666 & ~mask)  # safetensors makes files that nobody else may read
        except SafetensorError as error:
            raise _system_error(error) from error


def save_pickled(path: Path, content: Any) -> None:
    """Write `content` as `torch.save` does, whole or not at all."""
    with whole_file(path) as partial:
        try:
            with partial.open("wb") as file:
                torch.save(content, file)
        except RuntimeError as error:  # what PyTorch makes of a full disk
            raise _system_error(error) from error


def _system_error(error: Exception) -> OSError:
    """What the system said, which `error` hides in its text or in what it was raised for."""
    if number := re.search(r"os error (\d+)", str(error)):
        return OSError(int(number[1]), os.strerror(int(number[1])))
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return cause or OSError(first_line(error))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises WeightsError where it is missing, cut short or foreign."""
    return load_tensors_and_metadata(path)[0]


def load_tensors_and_metadata(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, on the CPU, and its metadata. Raises WeightsError like `load_tensors`."""
    check_kind(path, TensorFile.SAFETENSORS)
    try:
        with _in_utf8(path) as name, safe_open(name, framework="pt", device="cpu") as file:
            # cloned out of the mapped file, which somebody may cut short while the tensors are in use
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as safetensors ({first_line(error)}): damaged or cut short; get it again."
        ) from error


@contextlib.contextmanager
def _in_utf8(path: Path) -> Iterator[Path]:
    """A name of the file for libraries that take UTF-8 alone: where `path` is something else, that of an open file."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield Path(f"/dev/fd/{file.fileno()}")
    else:
        yield path


def load_pickled(path: Path) -> Any:
    """What `torch.save` wrote, read with weights_only, so that nothing in the file is executed.

    Of a TorchScript archive, such as OpenAI's CLIPs are, its tensors by name; its code is not read.

    Raises WeightsError where the file is missing, damaged, of another kind, or holds anything but tensors and plain
    containers.
    """
    check_kind(path, TensorFile.TORCH, TensorFile.TORCHSCRIPT)
    try:
        if tensor_file(path) is TensorFile.TORCHSCRIPT:
            return script_tensors(path)
        with path.open("rb") as file, warnings.catch_warnings():  # a file has no ending that PyTorch could go by
            _check_nesting(file)
            warnings.simplefilter("ignore")  # of old formats and of pickle protocols, none of which the user can change
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors and was refused, nothing in it executed; use a safetensors file."
        ) from error
    except Exception as error:  # A foreign file meets the unpickler with exceptions of every kind.
        raise WeightsError(
            f"{path} cannot be read as a PyTorch file ({_reason(error)}): damaged or cut short; get it again."
        ) from error


def _check_nesting(file: io.BufferedReader) -> None:
    """Raise ValueError, or what a damaged pickle makes Python raise, where PyTorch would not outlive the pickles."""
    if file.read(2) == b"PK":
        file.seek(0)
        check_nesting(io.BytesIO(torch._C.PyTorchFileReader(file).get_record("data.pkl")))  # as torch.load takes it
    else:
        file.seek(0)
        for _ in range(_OLD_PICKLES):
            if not file.peek(1):
                break
            check_nesting(file)
    file.seek(0)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Named tensors from a safetensors file, or from another one by `load_pickled`, whatever the file's name.

    A `state_dict` inside, as training code keeps one beside its optimiser, is unwrapped, and the prefixes of several
    GPUs and of torch.compile, `module.` and `_orig_mod.`, are taken off. Raises WeightsError.
    """
    check_kind(path, *TensorFile)
    if tensor_file(path) is TensorFile.SAFETENSORS:
        return load_tensors(path)
    content = load_pickled(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = named_tensors(content, path)
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def named_tensors(content: object, where: object) -> dict[str, Tensor]:
    """`content`, which a file held, as tensors by name.

    Raises WeightsError where it is anything else, or a tensor is complex, sparse, quantised, or larger than what the
    file stores of it.
    """
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{where} does not hold named tensors; a state dict or a safetensors file is needed.")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise WeightsError(
                f"{where} does not hold tensors alone: {name!a} is {type(tensor).__name__}; a state dict or a "
                "safetensors file is needed."
            )
        if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized or tensor.is_meta:
            raise WeightsError(f"{where}: {name!a} is not a plain tensor of real numbers, so it is of no model.")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(f"{where}: {name!a} is larger than what the file stores of it, so it is of no model.")
    return content


def check_kind(path: Path, *wanted: TensorFile) -> None:
    """Raise WeightsError where a file is missing or, by its first bytes, of another kind, and say of which."""
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; name the file in it.")
    if not path.is_file():
        raise WeightsError(f"{path} does not exist.")
    try:
        found, other = tensor_file(path), other_file(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from error
    if found is None and other is not None:
        raise WeightsError(f"{path} is {other}.")
    if found is None and TensorFile.SAFETENSORS not in wanted:
        raise WeightsError(f"{path} cannot be read as a PyTorch file: it does not begin as one; get it again.")
    if found is not None and found not in wanted:
        raise WeightsError(f"{path} is {found.value}, not {wanted[0].value}.")


def _reason(error: Exception) -> str:
    """Why PyTorch could not read a file, without its advice to execute what is in it."""
    return type(error).__name__ if "weights_only" in str(error) else first_line(error)


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], where: object) -> None:
    """Load `tensors` into `module`, converting their precision. Raises WeightsError like `check_fit`.

    A module on the meta device takes the tensors themselves as its parameters, on their device.
    """
    check_fit(module, tensors, where)
    own = module.state_dict()
    converted = {name: tensor.to(own[name].dtype) for name, tensor in tensors.items()}
    module.load_state_dict(converted, assign=all(tensor.is_meta for tensor in own.values()))


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], where: object) -> None:
    """Raise WeightsError naming tensors that are missing, extra, or of another shape or kind of number.

    `module` may be on the meta device.
    """
    own = module.state_dict()
    others = [
        f"{name} {str(tensors[name].dtype).removeprefix('torch.')}"
        for name in own.keys() & tensors.keys()
        if tensors[name].is_complex() or (own[name].is_floating_point() and not tensors[name].is_floating_point())
    ]
    misshapen = [name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape]
    shapes = [f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}" for name in misshapen]
    problems = [
        _listed("missing", own.keys() - tensors.keys()),
        _listed("not of this model", tensors.keys() - own.keys()),
        _listed("of another shape", shapes),
        _listed("of another kind of number", others),
    ]
    if any(problems):
        raise WeightsError(f"{where} does not fit the model's architecture: {'; '.join(filter(None, problems))}.")


def fingerprint(tensors: Mapping[str, Tensor], extra: object = None) -> str:
    """A SHA-256 over names, shapes and float32 values of `tensors`, and over `extra` as JSON. 16 hex digits.

    It does not depend on the order of the tensors or on the file they were read from.
    """
    digest = hashlib.sha256(json.dumps(extra, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        values = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name} {tuple(values.shape)}".encode())
        digest.update(memoryview(values.contiguous().reshape(-1).numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()[:16]


def _listed(kind: str, names: Iterable[str], most: int = 3) -> str:
    found = [name if name.isprintable() else ascii(name) for name in sorted(names)]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"{kind}: {', '.join(found[:most])}{more}" if found else ""
