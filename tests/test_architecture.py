"""The layers: imports point down only, and light packages stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import zlpr_jax

ROOT = Path(zlpr_jax.__file__).parent
LEVELS = {
    "_errors": 0,
    "_typing": 0,
    "_checks": 0,
    "_task": 0,
    "losses": 1,
    "optim": 1,
    "estimators": 1,
    "nn": 2,
    "data": 2,
    "models": 3,
    "tasks": 4,
    "training": 4,
    "recipes": 5,
    "commands": 5,
    "cli": 6,
    "__main__": 7,
    "__init__": 7,
}
FILES = sorted(ROOT.rglob("*.py"))


def imported_parts(tree: ast.AST) -> set[str]:
    """First component below zlpr_jax of every import, also inside functions."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write absolute imports"
            names.append(node.module or "")
            if node.module == "zlpr_jax":
                names += [f"zlpr_jax.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("zlpr_jax.")}


def violations(part: str, imports: set[str]) -> set[str]:
    return {
        other
        for other in imports
        if other != part and LEVELS[other] >= LEVELS[part] and LEVELS[part] > 0
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    relative = path.relative_to(ROOT)
    part = relative.parts[0].removesuffix(".py")
    imports = imported_parts(ast.parse(path.read_text(encoding="utf-8")))
    assert not violations(part, imports)


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("losses", "from zlpr_jax.optim import adax"),
        ("tasks", "def f():\n    import zlpr_jax.training"),
        ("data", "from zlpr_jax import nn"),
    ],
)
def test_a_wrong_arrow_is_seen(part, source):
    assert violations(part, imported_parts(ast.parse(source)))


@pytest.mark.parametrize(
    ("imports", "absent"),
    [
        (
            "zlpr_jax.losses, zlpr_jax.optim, zlpr_jax.estimators",
            "flax orbax grain matplotlib sklearn rich",
        ),
        ("zlpr_jax.data, zlpr_jax.cli", "jax flax sklearn tyro matplotlib PIL"),
        ("zlpr_jax", "jax numpy flax"),
        ("zlpr_jax.recipes.yeast, zlpr_jax.recipes.eae", "jax flax sklearn PIL"),
    ],
)
def test_imports_stay_light(imports, absent):
    code = (
        f"import sys, {imports}\n"
        f"print([name for name in {absent.split()} if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_help_needs_the_standard_library_only():
    # -S leaves site-packages out: nothing that was installed can be imported
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT.parent)!r})\n"
        "from zlpr_jax.cli import main\n"
        "main(['--help'])"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert "train" in run.stdout
