"""Task types: one adapter module each, found by name.

``sequence-classification`` is ``bertkit/adapters/sequence_classification.py``; ``mypkg.mymodule`` is that module,
wherever it is installed. The module's adapter is its one subclass of :class:`~bertkit.adapters.base.Adapter`.
"""

import inspect
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
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
    if not _exists(module_name):
        raise TaskError(f"The task type '{task_type}' names a module that cannot be found. Is its package installed?")
    module = import_module(module_name)
    own = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Adapter) and member.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise TaskError(f"{module_name} defines {len(own)} adapters, and a task type is a module with exactly one.")
    return own[0]


def _exists(module_name: str) -> bool:
    try:
        return find_spec(module_name) is not None
    except ModuleNotFoundError:
        return False
