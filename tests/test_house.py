"""The house rules of the package: the direction of imports, what may print, and what may be imported at start."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ratlip_cli"
FLOORS = [
    {"errors", "file_kinds", "files", "fonts", "generation", "grids", "json_files", "noise"}
    | {"pickle_nesting", "processes", "progress", "setting"},
    {"samples", "tokenizer", "torchscript"},
    {"clip_tokenizer", "exported", "planned"},
    {"tensor_files", "pixels", "device"},
    {"distributed"},
    {"demo", "model"},
    {"baselines"},
    {"training.objectives"},
    {"family"},
    {"families"},
    {"fast"},
    {"weights", "data"},
    {"environment", "sampling", "summary"},
    {"like", "outputs"},
    {"animations", "editing", "explain", "evaluation", "publish"},
    {"training"},
    {"experiments"},
    {"api"},
    {"web"},
    {"cli"},
    {"__main__"},
]
"""From the ground up: a room imports from its own floor's room and from the floors below."""


def rooms() -> dict[str, int]:
    return {room: number for number, floor in enumerate(FLOORS) for room in floor}


def imports() -> Iterator[tuple[Path, str, ast.stmt]]:
    """Every import in the package but those for type checkers: the file, the module imported, the statement."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        typing = [
            node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ]
        unused = {id(inner) for node in typing for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if id(node) in unused:
                continue
            if isinstance(node, ast.Import):
                yield from ((path, alias.name, node) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                for alias in node.names:
                    yield path, f"{node.module}.{alias.name}", node


def room_of(path: Path) -> str:
    return room(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))


def room(module: str) -> str:
    """The room of a module `ratlip_cli.x.y`: the first part of its name, but for objectives, which have one."""
    parts = module.split(".")
    inner = ".".join(parts[1:3])
    return inner if inner in rooms() else parts[1]


def test_every_room_has_its_floor() -> None:
    found = {room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert found == set(rooms())


def test_imports_never_go_upwards() -> None:
    floor = rooms()
    upwards = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path, module, _ in imports()
        if module.startswith("ratlip_cli.") and (target := room(module)) in floor
        if path != PACKAGE / "__init__.py"  # the public face
        if floor[target] > floor.get(room_of(path), 0)
        or (floor[target] == floor.get(room_of(path), 0) and target != room_of(path) and target not in FLOORS[0])
    ]
    assert upwards == []


def test_only_the_command_line_knows_the_terminal() -> None:
    offenders = {
        str(path.relative_to(PACKAGE))
        for path, module, _ in imports()
        if module.split(".")[0] in ("typer", "rich") and room_of(path) != "cli"
    }
    printing = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert offenders == set()
    assert printing == set()


def test_only_what_gets_a_clip_imports_open_clip() -> None:
    offenders = {str(path.relative_to(PACKAGE)) for path, module, _ in imports() if module.split(".")[0] == "open_clip"}
    assert offenders == {"weights/clip_files.py"}


def test_what_is_slow_to_import_is_imported_where_it_is_needed(tmp_path: Path) -> None:
    """open_clip, with timm and torchvision, gets CLIPs by name; torch-fidelity is for Inception."""
    code = f"""
import sys
from ratlip_cli.cli.app import app
app(["generate", "a red bird", "--model", "ratlip-demo", "--out", {str(tmp_path)!r}, "-q"], standalone_mode=False)
import ratlip_cli.evaluation.run, ratlip_cli.explain.gradcam.run, ratlip_cli.explain.latent.run
print(sorted({{"torchvision", "timm", "open_clip", "torch_fidelity", "huggingface_hub.hf_api"}} & sys.modules.keys()))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


def test_what_exported_models_need_imports_no_torch() -> None:
    """The protocol, noise, files and grids of `generate`; that the command itself holds to it: test_export.py."""
    code = "import sys, ratlip_cli.exported, ratlip_cli.outputs, ratlip_cli.samples; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_assert_and_no_pickle() -> None:
    asserts = [
        str(path)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
    loads = [
        (path, ast.unparse(node))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "pickle.load", "pickle.loads")
    ]
    assert asserts == []
    assert all("weights_only=True" in call for _, call in loads)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *(
            [command, "--help"]
            for command in ("train", "generate", "evaluate", "gradcam", "latent-viz", "compare", "reproduce")
        ),
    ],
)
def test_help_does_not_import_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from ratlip_cli.cli.app import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as exit:\n    assert exit.code in (0, None)\n"
        "heavy = {'torch', 'open_clip', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_plain_model_is_plain() -> None:
    """Section III in primitive operations: nothing of its own gradients, of devices, of compilers or of files."""
    forbidden = {"autograd", "Function", "is_compiling", "ops", "device", "is_cuda", "cuda", "backends", "compile"}
    offenders = [
        f"{path.name}: {ast.unparse(node)}"
        for path in (PACKAGE / "model").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in forbidden
        if ast.unparse(node) not in ("torch.autograd.grad", "torch.autograd", "self.mean.device")
    ]
    assert offenders == []
    files = [f"{path.name} imports {module}" for path, module, _ in imports() if path.parent.name == "model"]
    assert not [line for line in files if "pathlib" in line or "ratlip_cli.files" in line or "json" in line]
