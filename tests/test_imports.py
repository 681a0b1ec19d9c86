"""What the core may import: torch, torchvision, numpy, the standard library and itself."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import classmix_core

ROOT = Path(classmix_core.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ALLOWED = {"torch", "torchvision", "numpy", "classmix_core", *sys.stdlib_module_names}
ELSEWHERE = ("harness", "ray", "mlflow", "optuna", "jsonargparse", "segmentation_models_pytorch", "scipy")
IN_ONE_FUNCTION = {
    "models/smp.py": ("build_smp", "segmentation_models_pytorch"),
    "data/datasets/voc.py": ("read_sbd_label", "scipy.io"),
    "data/image_io.py": ("webp_orientation", "PIL.Image"),
}
"""Files in which one function may import another package."""


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of the modules that are imported anywhere below."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            assert node.module is not None
            yield node.module


def function(tree: ast.AST, name: str) -> ast.AST:
    return next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)


@pytest.mark.parametrize("file", FILES, ids=[file.relative_to(ROOT).as_posix() for file in FILES])
def test_the_core_imports_torch_torchvision_numpy_the_standard_library_and_itself(file: Path) -> None:
    tree = ast.parse(file.read_text())
    foreign = [name for name in imported(tree) if name.split(".")[0] not in ALLOWED]
    if allowed := IN_ONE_FUNCTION.get(file.relative_to(ROOT).as_posix()):
        name, package = allowed
        assert foreign == list(imported(function(tree, name))) == [package]
    else:
        assert foreign == []


def test_no_part_of_the_core_imports_the_step_and_data_and_models_know_nothing_of_each_other() -> None:
    for file in FILES:
        names, part = set(imported(ast.parse(file.read_text()))), file.relative_to(ROOT).parts[0]
        assert "classmix_core.classmix" not in names, file
        other = {"data": "classmix_core.models", "models": "classmix_core.data"}.get(part)
        assert other is None or not any(name.startswith(other) for name in names), file


def test_importing_all_of_the_core_loads_nothing_from_above_it() -> None:
    modules = [".".join(file.relative_to(ROOT.parent).with_suffix("").parts) for file in FILES]
    modules = [name.removesuffix(".__init__") for name in modules]
    assert len(modules) > 15
    code = (
        "import importlib, json, sys\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
    assert set(json.loads(found.stdout)).isdisjoint(ELSEWHERE)
