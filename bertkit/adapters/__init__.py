"""Task types: one adapter module each, found by name.

``sequence-classification`` is ``bertkit/adapters/sequence_classification.py``; ``mypkg.mymodule`` is that module,
wherever it is installed. The module's adapter is its one subclass of :class:`~bertkit.adapters.base.Adapter`.
"""

import ast
import inspect
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path

from bertkit.adapters.base import Adapter, Example
from bertkit.errors import TaskError, did_you_mean


def types() -> list[str]:
    """Return the task types that bertkit ships, sorted: the modules here that define an adapter."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(f.stem.replace("_", "-") for f in files if "(Adapter):\n" in f.read_text(encoding="utf-8"))


def recognise(examples: Sequence[Example]) -> str:
    """Return the task type that rows look like by their columns; sequence classification where no other does."""
    fitting = (name for name in types() if find(name).recognises(examples))
    return next(fitting, "sequence-classification")


def find(task_type: str) -> type[Adapter]:
    """Return the adapter class of a task type.

    Raises:
        TaskError: if there is no such type, or its module does not define exactly one adapter.
    """
    module_name = task_type if "." in task_type else f"{__name__}.{task_type.replace('-', '_')}"
    if "." not in task_type and task_type not in types():
        raise TaskError(
            f"'{task_type}' is no task type.{did_you_mean(task_type, types())} There are {', '.join(types())}."
        )
    if "." in task_type and module_name not in sys.modules:
        _check_outside(task_type)
    module = import_module(module_name)
    own = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Adapter) and member.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise TaskError(f"{module_name} defines {len(own)} adapters, and a task type is a module with exactly one.")
    return own[0]


def _check_outside(module_name: str) -> None:
    """Check that a module is there and was made for bertkit, before anything of it runs.

    A task file, which may come from anybody, could have any module of this machine imported otherwise.

    Raises:
        TaskError: if it is not there, or takes nothing from bertkit.
    """
    named = all(part.isidentifier() for part in module_name.split("."))
    spec = _spec(module_name) if named else None
    if spec is None:
        raise TaskError(f"The task type '{module_name}' names a module that cannot be found. Is its package installed?")
    if not _takes_from_bertkit(spec.origin):
        raise TaskError(
            f"The task type '{module_name}' names a module that takes nothing from bertkit, so it is none, and is not "
            "run. A task type is a module with one subclass of bertkit.adapters.base.Adapter."
        )


def _spec(module_name: str) -> ModuleSpec | None:
    """Find a module; the importlib function for it would run the packages that it is in."""
    spec, places = None, None
    for end in range(1, module_name.count(".") + 2):
        name = ".".join(module_name.split(".")[:end])
        found = (finder.find_spec(name, places) for finder in sys.meta_path)
        spec = next((one for one in found if one is not None), None)
        if spec is None:
            return None
        places = spec.submodule_search_locations
    return spec


def _takes_from_bertkit(origin: str | None) -> bool:
    try:
        tree = ast.parse(Path(origin or "").read_bytes())
    except (OSError, ValueError, SyntaxError):  # no file, or compiled code
        return False
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
    names = (
        name
        for node in imports
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
    )
    return any(name.split(".")[0] == "bertkit" for name in names)
