"""Plain pickles of published code: what they hold is read, and nothing in them executed."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peak import peak_of
from published_pickles import (
    EasyDict,
    Persistent,
    _reconstruct_persistent_obj,
    network,
    published_code,
    save_captions,
    save_snapshot,
)
from torch import Tensor, nn

from ratlip_cli.baselines.damsm import END
from ratlip_cli.errors import WeightsError
from ratlip_cli.weights.released.pickles import is_plain_pickle, read_captions, read_snapshot

TENSORS = {
    "mapping.w_avg": torch.arange(3.0),
    "mapping.fc0.weight": torch.arange(6.0).reshape(2, 3),
    "synthesis.b4.const": torch.arange(8.0).reshape(2, 2, 2).transpose(0, 2),
    "synthesis.b4.conv1.noise_strength": torch.tensor(0.5),
    "synthesis.b4.conv1.weight": torch.ones(2, 2),
}
BUFFERS = ("mapping.w_avg",)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_snapshot_is_its_tensors(tmp_path: Path, protocol: int) -> None:
    networks = {name: network({key: tensor + 1 for key, tensor in TENSORS.items()}, BUFFERS) for name in ("G", "D")}
    path = save_snapshot(tmp_path / "network.pkl", networks | {"G_ema": network(TENSORS, BUFFERS)}, protocol)
    read = read_snapshot(path)
    assert list(read) == ["G", "D", "G_ema"]
    assert read["G_ema"].keys() == network(TENSORS, BUFFERS).state_dict().keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(read["G_ema"][name], tensor)
        assert torch.equal(read["G"][name], tensor + 1)
        assert type(read["G"][name]) is Tensor


def test_tensors_may_share_their_numbers(tmp_path: Path) -> None:
    both = torch.arange(12.0)
    path = save_snapshot(tmp_path / "network.pkl", {"G": network({"a": both[:4], "b": both[4:].reshape(2, 4).T})})
    read = read_snapshot(path)["G"]
    assert torch.equal(read["a"], both[:4])
    assert torch.equal(read["b"], both[4:].reshape(2, 4).T)


def test_captions_are_their_words(tmp_path: Path) -> None:
    for protocol in (2, 3, 4):
        path = save_captions(tmp_path / "captions.pickle", ["a", "red", "bird"], protocol)
        assert read_captions(path) == (END, "a", "red", "bird")
        assert is_plain_pickle(path)


def test_files_of_torch_are_no_plain_pickles(tmp_path: Path) -> None:
    for new in (True, False):
        torch.save({"a": torch.ones(1)}, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
        assert not is_plain_pickle(tmp_path / "a.pth")


class Calls:
    """Unpickled, it calls something."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def called(module: str, name: str, *arguments: bytes) -> bytes:
    """Opcodes that look a name up and call it."""
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def storage(content: object, new: bool = False) -> bytes:
    """The bytes of `torch.save`, as they stand in a pickle for a tensor's numbers."""
    stored = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such numbers are old
        torch.save(
            content.storage() if isinstance(content, Tensor) else content, stored, _use_new_zipfile_serialization=new
        )
    return stored.getvalue()


def binary(content: bytes) -> bytes:
    return b"\x8e" + struct.pack("<Q", len(content)) + content


def numbers(content: bytes) -> bytes:
    return called("torch.storage", "_load_from_bytes", binary(content))


ONE = numbers(storage(torch.ones(4)))
TENSOR = "torch._utils", "_rebuild_tensor_v2"
NETWORK = "torch_utils.persistence", "_reconstruct_persistent_obj"
TOUCH = text("touch executed")


def hostile() -> dict[str, bytes]:
    """Pickles that would execute something, by how they try."""
    system = f"{os.system.__module__}\nsystem\n".encode()
    meta = {"class_name": "G", "state": {"_parameters": {}, "_buffers": {}, "_modules": {}}}
    inner = pickle.dumps(Calls(os.system, "touch executed"))
    return {
        "os.system": b"\x80\x02" + called("os", "system", TOUCH) + b".",
        "posix.system": b"\x80\x02c" + system + b"(" + TOUCH + b"tR.",
        "subprocess": b"\x80\x02" + called("subprocess", "getoutput", TOUCH) + b".",
        "eval": b"\x80\x02" + called("builtins", "eval", text("open('executed', 'w')")) + b".",
        "exec of Python 2": b"\x80\x02" + called("__builtin__", "exec", text("open('executed', 'w')")) + b".",
        "by stack": b"\x80\x04" + text("os") + text("system") + b"\x93(" + TOUCH + b"tR.",
        "dotted": b"\x80\x04" + text("torch.storage") + text("os.system") + b"\x93(" + TOUCH + b"tR.",
        "dotted in a listed one": b"\x80\x04"
        + text("torch._utils")
        + text("_rebuild_parameter.__globals__")
        + b"\x93.",
        "getattr": b"\x80\x02" + called("builtins", "getattr", b"cos\nsystem\n", text("__call__")) + b".",
        "operator": b"\x80\x02" + called("operator", "attrgetter", text("__class__.__base__")) + b".",
        "import": b"\x80\x02" + called("importlib", "import_module", text("os")) + b".",
        "old instance": b"\x80\x02(" + TOUCH + b"i" + system + b".",
        "object": b"\x80\x02(c" + system + TOUCH + b"o.",
        "new object": b"\x80\x02csubprocess\nPopen\n(" + TOUCH + b"t\x81.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"\x80\x02" + TOUCH + b"Q.",
        "nested": pickle.dumps({"G": Calls(list, [Calls(os.system, "touch executed")])}),
        "in an object's state": pickle.dumps({"G_ema": meta | {"state": Calls(os.system, "touch executed")}}),
        "torch.load": b"\x80\x02" + called("torch", "load", text("network.pkl")) + b".",
        "numbers that are a pickle": b"\x80\x02" + numbers(inner) + b".",
        "numbers that execute": b"\x80\x02" + numbers(storage(Calls(os.system, "touch executed"))) + b".",
        "numbers in an archive that execute": b"\x80\x02"
        + numbers(storage(Calls(os.system, "touch executed"), True))
        + b".",
        "numbers of another kind": b"\x80\x02" + numbers(storage(torch.ones(4, dtype=torch.complex64))) + b".",
        "numbers that are a tensor": b"\x80\x02" + numbers(storage([torch.ones(4)])) + b".",
        "numbers that are a text": b"\x80\x02" + numbers(storage("a")) + b".",
        "a state for a function": b"\x80\x02ctorch._utils\n_rebuild_parameter\nN}" + text("a") + b"K\x01s\x86b.",
        "a state for a class": b"\x80\x02cdnnlib.util\nEasyDict\nN}" + text("get") + b"K\x01s\x86b.",
        "a state for a tensor": b"\x80\x02" + called(*TENSOR, ONE, b"K\x00", b"K\x04\x85", b"K\x01\x85") + b"(K\x01tb.",
        "a state for an object": b"\x80\x02"
        + called(*NETWORK, pickle.dumps(meta, 2)[2:-1])
        + b"}"
        + TOUCH
        + b"K\x01sb.",
        "a bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
        "a buffer": b"\x80\x05\x97.",
    }


@pytest.mark.parametrize("how", hostile())
@pytest.mark.parametrize("read", [read_captions, read_snapshot])
def test_a_hostile_pickle_is_refused_and_nothing_in_it_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, read: Callable[[Path], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "network.pkl"
    path.write_bytes(hostile()[how])
    with pytest.raises(WeightsError) as caught:
        read(path)
    message = str(caught.value)
    assert "was refused, nothing in it executed" in message or "damaged or cut short" in message
    assert message.isprintable()
    assert len(message) < 400
    assert not (tmp_path / "executed").exists()


def test_the_hostile_pickles_are_dangerous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for how in ("os.system", "eval", "nested", "numbers that execute", "old instance", "by stack"):
        with published_code():
            pickle.loads(hostile()[how])
        (tmp_path / "executed").unlink()


def test_nothing_of_this_package_is_changed_by_a_pickle(tmp_path: Path) -> None:
    """A state can set attributes of what was looked up, which would last as long as the process."""
    good = save_snapshot(tmp_path / "good.pkl", {"G": network(TENSORS, BUFFERS)})
    before = read_snapshot(good)["G"]
    for name in (TENSOR, NETWORK, ("dnnlib.util", "EasyDict"), ("torch.storage", "_load_from_bytes")):
        state = b"N}" + text("__defaults__") + b"K\x01\x85s" + text("__init__") + b"Ns\x86b."
        path = tmp_path / "hostile.pkl"
        path.write_bytes(b"\x80\x02c" + "\n".join(name).encode() + b"\n" + state)
        with pytest.raises(WeightsError):
            read_snapshot(path)
    again = read_snapshot(good)["G"]
    assert all(torch.equal(again[name], tensor) for name, tensor in before.items())


def parts(**changed: object) -> dict[str, object]:
    return {"class_name": "G", "state": {"_parameters": {}, "_buffers": {}, "_modules": {}} | changed}


class Reconstructed:
    """An object of LAFITE's code with any record."""

    def __init__(self, meta: object) -> None:
        self.meta = meta

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstruct_persistent_obj, (self.meta,), None


ITSELF: dict[str, Any] = parts()
ITSELF["state"]["_modules"]["inner"] = Reconstructed(ITSELF)

SNAPSHOTS = {
    "nothing": {},
    "a list": [1],
    "tensors alone": {"G_ema": torch.ones(1)},
    "no record": {"G_ema": Reconstructed(None)},
    "no state": {"G_ema": Reconstructed({"class_name": "G"})},
    "a name that is none": {"G_ema": Reconstructed({"class_name": 1, "state": {}})},
    "a state that is none": {"G_ema": Reconstructed({"class_name": "G", "state": [1]})},
    "an object that is no module": {"G_ema": Reconstructed({"class_name": "G\x1b[31m", "state": {"a": 1}})},
    "parameters that are a list": {"G_ema": Reconstructed(parts(_parameters=[1]))},
    "a parameter that is a number": {"G_ema": Reconstructed(parts(_parameters={"a": 1}))},
    "a parameter without a name": {"G_ema": Reconstructed(parts(_parameters={1: torch.ones(1)}))},
    "a module that is a tensor": {"G_ema": Reconstructed(parts(_modules={"a": torch.ones(1)}))},
    "a parameter that is a module": {"G_ema": Reconstructed(parts(_parameters={"a": Reconstructed(parts())}))},
    "a module inside itself": {"G_ema": Reconstructed(ITSELF)},
    "PyTorch's own module": {"G_ema": nn.Linear(1, 1)},
}


@pytest.mark.parametrize("how", SNAPSHOTS)
def test_what_is_no_snapshot(tmp_path: Path, how: str) -> None:
    path = tmp_path / "network.pkl"
    with published_code():
        path.write_bytes(pickle.dumps(SNAPSHOTS[how]))
    with pytest.raises(WeightsError) as caught:
        read_snapshot(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def doubled(levels: int) -> bytes:
    """A module of two modules that are one, and so on: a name for each way through them."""
    level = parts()
    for _ in range(levels):
        inner = Reconstructed(level)
        level = parts(_modules={"a": inner, "b": inner})
    with published_code():
        return pickle.dumps({"G_ema": Reconstructed(level)})


def test_modules_that_hold_one_another_end(tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(doubled(60))
    with pytest.raises(WeightsError, match="its modules hold one another"):
        read_snapshot(path)


def tensor(offset: int, size: tuple[int, ...], stride: tuple[int, ...], stored: bytes = ONE) -> bytes:
    arguments = (pickle.dumps(value, 2)[2:-1].replace(b"q\x00", b"") for value in (offset, size, stride))
    return b"\x80\x02" + called(*TENSOR, stored, *arguments) + b"."


@pytest.mark.parametrize(
    "spoiled",
    [
        tensor(0, (5,), (1,)),
        tensor(1, (4,), (1,)),
        tensor(-1, (1,), (1,)),
        tensor(0, (2, 2), (1, 10**9)),
        tensor(0, (10**6, 10**6), (0, 0)),
        tensor(0, (-1,), (1,)),
        tensor(2**62, (1,), (1,)),
        tensor(0, (2,), (1,), b"N"),
        tensor(0, (2,), (1,), b"K\x01N\x86"),
    ],
)
def test_a_tensor_is_no_larger_than_its_numbers(tmp_path: Path, spoiled: bytes) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(spoiled)
    with pytest.raises(WeightsError, match="damaged or cut short"):
        read_snapshot(path)
    path.write_bytes(tensor(0, (2, 2), (1, 2)))
    with pytest.raises(WeightsError, match="it holds no network"):  # so the numbers are right
        read_snapshot(path)


def claims(count: int) -> bytes:
    """The numbers of a tensor that says it has `count` of them, and has four."""
    stored = storage(torch.ones(4))
    place = stored.rindex(b"K\x04")
    longer = stored[:place] + b"\x8a\x08" + struct.pack("<q", count) + stored[place + 2 :]
    end = longer.rindex(struct.pack("<q", 4))
    return longer[:end] + struct.pack("<q", count) + longer[end + 8 :]


LARGE = {
    "numbers that the file does not have": b"\x80\x02" + numbers(claims(2**31)) + b".",
    "far more of them": b"\x80\x02" + numbers(claims(2**60)) + b".",
    "the same numbers again and again": b"\x80\x02"
    + binary(storage(torch.ones(2**18)))
    + b"q\x01]("
    + b"ctorch.storage\n_load_from_bytes\nh\x01\x85R" * 4000
    + b"e.",
    "a dictionary copied again and again": b"\x80\x02}("
    + b"".join(b"J" + struct.pack("<i", number) + b"N" for number in range(20_000))
    + b"uq\x01]("
    + b"cdnnlib.util\nEasyDict\nh\x01\x85R" * 2000
    + b"e.",
    "a text that the file does not have": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"a.",
    "bytes that the file does not have": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"a.",
    "a whole number that it does not have": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",
    "a frame that it does not have": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
    "a place far away": b"\x80\x02Nr\xff\xff\xff\xff.",
    "lists in lists": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
    "tuples in tuples in a set": b"\x80\x04\x8f(" + b"N" + b"\x85" * 20_000 + b"\x90.",
    "tuples in tuples among keys": b"\x80\x02}(" + text("a") + b"NN" + b"\x85" * 20_000 + b"Nu.",
    "tuples in tuples among a tensor's numbers": b"\x80\x02"
    + numbers(b"\x80\x02}" + b"N" + b"\x85" * 20_000 + b"Ns.")
    + b".",
    "tuples in tuples as a key": b"\x80\x02}" + b"N" + b"\x85" * 200_000 + b"Ns.",
}


@pytest.mark.slow
def test_no_pickle_takes_more_memory_than_its_file(tmp_path: Path) -> None:
    """In a process of its own, which tells the most that it took."""
    for number, content in enumerate(LARGE.values()):
        (tmp_path / f"{number}.pkl").write_bytes(content)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from peak import peak\n"
        "from ratlip_cli.errors import WeightsError\n"
        "from ratlip_cli.weights.released.pickles import read_captions, read_snapshot\n"
        "before = peak()\n"
        "for path in map(Path, sys.argv[1:]):\n"
        "    for read in (read_captions, read_snapshot):\n"
        "        try:\n            read(path)\n"
        "        except WeightsError as error:\n            assert str(error).isprintable()\n"
        "        else:\n            raise AssertionError(path)\n"
        "print(peak() - before)\n"
    )
    files = [tmp_path / f"{number}.pkl" for number in range(len(LARGE))]
    assert peak_of(code, *files) < 200  # MiB; copied as often as the files ask for, it were gigabytes


def test_a_file_cut_short_anywhere_is_damaged(tmp_path: Path) -> None:
    path = save_snapshot(tmp_path / "network.pkl", {"G": network({"a": torch.ones(2)})})
    content = path.read_bytes()
    ends = {position for _, _, position in pickletools.genops(content)} | set(range(0, len(content), 37))
    for end in sorted(ends - {0}):
        path.write_bytes(content[:end])
        with pytest.raises(WeightsError, match=r"damaged or cut short|does not begin as one"):
            read_snapshot(path)


CAPTIONS = {
    "a number": 1,
    "a dictionary": {},
    "three": [[], [], {0: END, 1: "a"}],
    "no dictionaries": [[], [], [END, "a"], {END: 0, "a": 1}],
    "no words": [[], [], {}, {}],
    "a gap": [[], [], {0: END, 2: "a"}, {END: 0, "a": 2}],
    "numbers that are none": [[], [], {"0": END, "1": "a"}, {}],
    "another first word": [[], [], {0: "the", 1: "a"}, {"the": 0, "a": 1}],
    "words that are none": [[], [], {0: END, 1: 7}, {END: 0, 7: 1}],
    "a word of control characters": [[], [], {0: END, 1: "\x1b[31m"}, {END: 0, "\x1b[31m": 1}],
    "two ways that differ": [[], [], {0: END, 1: "a", 2: "b"}, {END: 0, "a": 2, "b": 1}],
    "captions that are none": [[["a"]], [], {0: END, 1: "a"}, {END: 0, "a": 1}],
    "captions of other words": [[], [[5]], {0: END, 1: "a"}, {END: 0, "a": 1}],
    "captions that are no lists": [[1], [], {0: END, 1: "a"}, {END: 0, "a": 1}],
}


@pytest.mark.parametrize("how", CAPTIONS)
def test_what_is_no_captions(tmp_path: Path, how: str) -> None:
    path = tmp_path / "captions.pickle"
    path.write_bytes(pickle.dumps(CAPTIONS[how], 2))
    with pytest.raises(WeightsError) as caught:
        read_captions(path)
    assert str(caught.value).startswith(f"{path}")
    assert str(caught.value).isprintable()


def test_captions_name_nothing_to_be_looked_up(tmp_path: Path) -> None:
    """Not even what a snapshot may."""
    path = tmp_path / "captions.pickle"
    with published_code():
        path.write_bytes(pickle.dumps([[], [], EasyDict({0: END, 1: "a"}), {}], 2))
    with pytest.raises(WeightsError, match="holds more than numbers and words and was refused, nothing in it executed"):
        read_captions(path)


def test_a_snapshot_of_objects_carries_source_that_is_not_executed() -> None:
    with published_code(), pytest.raises(AssertionError, match="would be executed"):
        pickle.loads(pickle.dumps(Persistent()))
