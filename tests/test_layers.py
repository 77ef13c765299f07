"""Imports point down only: the order of docs/contributing.md, enforced over the ``ast`` of every module."""

import ast
from pathlib import Path

import bertkit

PACKAGE = Path(bertkit.__file__).parent
ORDER = (
    *(
        "errors",
        "events",
        "config",
        "task",
        "catalog",
        "data",
        "dropout",
        "embeddings",
        "kernels",
        "unpad",
        "freezing",
        "lora",
        "layers",
        "heads",
        "metrics",
        "processes",
        "compiling",
        "device",
        "memory",
        "feeding",
        "vocabulary",
        "static",
    ),
    *(
        "encoder",
        "adapters",
        "backends",
        "optim",
        "replicas",
        "infer",
        "vectors",
        "frozen",
        "distillation",
        "augmentation",
        "teaching",
        "pretraining",
        "auxiliary",
        "loop",
        "run",
        "trackers",
        "baselines",
        "card",
        "report",
        "workflows",
        "cli",
    ),
)
TOP = {"__init__", "__main__"}


def place_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> list[tuple[int, str]]:
    """Return ``(line, place)`` for every import of bertkit in a module, at any depth."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found += [(node.lineno, name.split(".")[1]) for name in names if name.startswith("bertkit.")]
    return found


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if place_of(path) not in {*TOP, "tasks"}]


def test_every_module_has_a_layer() -> None:
    assert {place_of(path) for path in modules()} <= set(ORDER)


def test_imports_point_down_only() -> None:
    wrong = [
        f"{path}:{line}: {place_of(path)} imports {target}"
        for path in modules()
        for line, target in imported(path)
        if target in ORDER and target != place_of(path) and ORDER.index(target) > ORDER.index(place_of(path))
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_console_writes_to_the_terminal() -> None:
    allowed = {PACKAGE / "cli" / "console.py"}
    wrong = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                "print",
                "sys.stdout.write",
                "sys.stderr.write",
            }:
                wrong += [f"{path}:{node.lineno}"] if path not in allowed else []
    assert not wrong, "\n".join(wrong)


def test_functions_fit_a_screen() -> None:
    lengths = [
        node.end_lineno - node.lineno + 1
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    ]
    long = [length for length in lengths if length > 60]
    assert len(long) <= 0.05 * len(lengths), f"{len(long)} of {len(lengths)} functions have over 60 lines"
