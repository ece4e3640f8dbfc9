"""Plain pickles of published code, read without executing anything in them.

Two kinds are understood: the captions of DAMSM's datasets, lists and dictionaries of numbers and words; and snapshots
of LAFITE, whose networks are objects that carry their own source, of which names and tensors alone are read. Every name
in a pickle that is not listed here is refused before it is looked up.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from ratlip_cli.baselines.damsm_files import checked_vocabulary
from ratlip_cli.errors import WeightsError, first_line
from ratlip_cli.file_kinds import TensorFile
from ratlip_cli.tensor_files import check_kind
from ratlip_cli.torchscript import DTYPES

_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""How a file of torch.save before PyTorch 1.6 begins."""

_MOST_PARTS, _LONGEST_NAME = 10_000, 1_000  # Far above what a network has.


class _Refused(Exception):
    """The pickle asks for more than is listed here."""


@dataclass(frozen=True)
class _Network:
    """An object of LAFITE's code: the name of its class, and its attributes."""

    class_name: str
    state: Mapping[str, Any]


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler in Python, whose memory does not grow with numbers that the file makes up.

    Args:
        listed: what may be looked up, by module and name.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO, listed: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(file)
        self._listed = listed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._listed:
            raise _Refused(f"{module}.{name} is not listed")
        return self._listed[module, name]

    def persistent_load(self, saved: Any) -> Any:
        raise _Refused("objects outside the file are not listed")

    def build(self) -> None:
        """The state that a pickle gives an object: that of what stands for None here, or an empty one."""
        state = self.stack.pop()  # type: ignore[attr-defined]
        if self.stack[-1] is not None and state not in (None, {}):  # type: ignore[attr-defined]
            raise _Refused(f"a state of {type(self.stack[-1]).__name__} is not listed")  # type: ignore[attr-defined]

    def set_item(self) -> None:
        _check_keys(self.stack[-2:-1])  # type: ignore[attr-defined]
        super().load_setitem()  # type: ignore[misc]

    def set_items(self) -> None:
        _check_keys(self.stack[::2])  # type: ignore[attr-defined]
        super().load_setitems()  # type: ignore[misc]

    def refuse(self) -> None:
        """What no such file has: of a bytearray, memory is taken before its bytes are read."""
        raise _Refused("sets, buffers and dictionaries of old kinds are not listed")

    dispatch |= {pickle.BUILD[0]: build, pickle.SETITEM[0]: set_item, pickle.SETITEMS[0]: set_items}
    _others = (pickle.DICT, pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8, pickle.READONLY_BUFFER)
    dispatch |= dict.fromkeys((code[0] for code in _others), refuse)


def _check_keys(keys: list[Any]) -> None:
    """Raise _Refused where a key is no text and no number: hash() of tuples in tuples without end would crash."""
    if not all(isinstance(key, (str, int)) for key in keys):
        raise _Refused("keys that are no text and no number are not listed")


class _Numbers(_Unpickler):
    """The pickles in front of a tensor's numbers, in what torch.save wrote of them alone before PyTorch 1.6."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, {("torch", name): dtype for name, dtype in DTYPES.items()})

    def persistent_load(self, saved: Any) -> tuple[torch.dtype, int]:
        _, dtype, _, _, count, _ = saved
        return dtype, count


class _Storages:
    """The numbers of tensors, in bytes of which there are no more than the file has."""

    def __init__(self, most: int) -> None:
        self._left = most

    def load(self, content: bytes) -> Tensor:
        """All numbers in `content`, in one dimension."""
        self._left -= len(content)
        if self._left < 0:
            raise ValueError("its tensors are larger than the file")
        file = io.BytesIO(content)
        magic, protocol, system, (dtype, count), _ = (_Numbers(file).load() for _ in range(5))
        if magic != MAGIC_NUMBER or protocol != PROTOCOL_VERSION or not system["little_endian"]:
            raise ValueError("a tensor's numbers are not as PyTorch writes them")
        stored = int.from_bytes(file.read(8), "little")
        numbers = bytearray(file.read())
        if not stored == count == len(numbers) // dtype.itemsize:
            raise ValueError("a tensor is larger than what the file stores of it")
        return torch.frombuffer(numbers, dtype=dtype) if numbers else torch.empty(0, dtype=dtype)


class _EasyDict(dict[Any, Any]):
    """A dictionary that is made empty and filled item by item, as the pickle does it, never a copy of another."""

    def __init__(self) -> None:
        super().__init__()


def is_plain_pickle(path: Path) -> bool:
    """Whether a file is a pickle that torch.save did not write. Raises OSError where it cannot be read."""
    start = _start(path)
    return start.startswith(b"\x80") and start != _MAGIC


def is_captions(path: Path) -> bool:
    """Whether a file is a plain pickle of a list, as captions are. Raises OSError where it cannot be read."""
    after_protocol = _start(path)[2:]
    framed = after_protocol.startswith(pickle.FRAME)
    return is_plain_pickle(path) and after_protocol[9 if framed else 0 :].startswith(pickle.EMPTY_LIST)


def read_captions(path: Path) -> tuple[str, ...]:
    """The vocabulary in a captions.pickle, by the words' numbers.

    The file is a list of four: captions of the training and of the test split as lists of numbers, the words by number,
    and the numbers by word. Raises WeightsError where it is anything else, or names anything at all to be looked up.
    """
    content = _load(path, {}, "numbers and words")
    if not isinstance(content, list) or len(content) != 4:
        raise WeightsError(f"{path} holds no captions of DAMSM's: it must be a list of four.")
    *captions, by_number, by_word = content
    if not isinstance(by_number, dict) or not isinstance(by_word, dict) or not _are_whole(by_number):
        raise WeightsError(f"{path} holds no captions of DAMSM's: it has no words by number and numbers by word.")
    if sorted(by_number) != list(range(len(by_number))):
        raise WeightsError(f"{path}: the numbers of its words are not 0 to {len(by_number) - 1}, so some are missing.")
    vocabulary = checked_vocabulary([by_number[number] for number in range(len(by_number))], path)
    if by_word != {word: number for number, word in enumerate(vocabulary)}:
        raise WeightsError(f"{path}: its words by number and its numbers by word do not agree.")
    for split, lists in zip(("training", "test"), captions, strict=True):
        if not _are_captions(lists, len(vocabulary)):
            raise WeightsError(f"{path}: its {split} captions are not lists of its words' numbers.")
    return vocabulary


def read_snapshot(path: Path) -> dict[str, dict[str, Tensor]]:
    """The networks of a snapshot of LAFITE, `G`, `D` and `G_ema`: their tensors by name.

    Raises WeightsError where the file is anything else, or holds more than such a snapshot has.
    """
    storages = _Storages(path.stat().st_size)
    listed: dict[tuple[str, str], Any] = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _network,
        ("dnnlib.util", "EasyDict"): _EasyDict,
        ("collections", "OrderedDict"): _EasyDict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch.storage", "_load_from_bytes"): storages.load,
        # what no tensor depends on becomes None: numbers of NumPy, and the sets of modules before protocol 4
        **dict.fromkeys([("numpy", "dtype"), ("builtins", "set"), ("__builtin__", "set")], _nothing),
        **dict.fromkeys([(f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")], _nothing),
    }
    content = _load(path, listed, "tensors and networks of LAFITE")
    networks = {
        name: network
        for name, network in (content.items() if isinstance(content, dict) else ())
        if isinstance(name, str) and isinstance(network, _Network)
    }
    if not networks:
        raise WeightsError(f"{path} is no snapshot of LAFITE: it holds no network.")
    try:
        return {name: dict(_named_tensors(network)) for name, network in networks.items()}
    except ValueError as error:
        raise WeightsError(f"{path} is no snapshot that LAFITE's code writes: {error}.") from error


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_MAGIC))


def _load(path: Path, listed: Mapping[tuple[str, str], Any], what: str) -> Any:
    check_kind(path, TensorFile.TORCH)
    try:
        return _Unpickler(io.BytesIO(path.read_bytes()), listed).load()
    except _Refused as error:
        raise WeightsError(
            f"{path} holds more than {what} and was refused, nothing in it executed ({first_line(error)!a:.120})."
        ) from error
    except Exception as error:  # A foreign file meets the unpickler with exceptions of every kind.
        raise WeightsError(
            f"{path} cannot be read as a pickle ({_kind(error)}): damaged or cut short; get it again."
        ) from error


def _kind(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"[:120].encode("ascii", "backslashreplace").decode()


def _nothing(*_: Any) -> None:
    """What no tensor depends on."""


def _network(meta: Any) -> _Network:
    """An object by the record that its code keeps of it; the source in it is not looked at."""
    class_name, state = meta["class_name"], meta["state"]
    if not isinstance(class_name, str) or not isinstance(state, dict):
        raise TypeError("an object has no name or no attributes")
    return _Network(class_name, state)


def _tensor(numbers: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(numbers, Tensor) or math.prod(size) > len(numbers):
        raise ValueError("a tensor is larger than what the file stores of it")
    return numbers.as_strided(size, stride, offset)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _named_tensors(root: _Network) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, by the names of a state dict. Raises ValueError where an object is no module."""
    modules, parts = [("", root)], 0
    while modules:
        prefix, module = modules.pop()
        for kind, wanted in (("_parameters", Tensor), ("_buffers", Tensor), ("_modules", _Network)):
            held = module.state.get(kind)
            if not isinstance(held, dict):
                raise ValueError(f"{module.class_name!a:.40} has no {kind}")
            parts += len(held)
            if parts > _MOST_PARTS or len(prefix) > _LONGEST_NAME:
                raise ValueError("its modules hold one another")
            for name, value in held.items():
                if not isinstance(name, str) or not isinstance(value, (wanted, type(None))):
                    raise ValueError(f"{module.class_name!a:.40} has a part {name!a:.40} of another kind")
                if isinstance(value, Tensor):
                    yield f"{prefix}{name}", value
                elif isinstance(value, _Network):
                    modules.append((f"{prefix}{name}.", value))


def _are_whole(values: Any) -> bool:
    return all(type(value) is int for value in values)


def _are_captions(lists: Any, words: int) -> bool:
    return isinstance(lists, list) and all(
        isinstance(caption, list) and _are_whole(caption) and all(0 <= number < words for number in caption)
        for caption in lists
    )
