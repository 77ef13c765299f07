"""Find tasks: shipped ones by name, a user's own by path, groups by folder; did-you-mean otherwise."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bertkit import task as tasks
from bertkit.errors import TaskError, did_you_mean, looked_for
from bertkit.task import Task

DATA_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet", ".conll", ".conllu", ".json")


def folder() -> Path:
    """Return the folder of shipped tasks: ``bertkit/tasks`` in a wheel, top-level ``tasks`` in an editable install."""
    package = Path(__file__).parent
    inside = package / "tasks"
    return inside if inside.is_dir() else package.parent / "tasks"


def names() -> list[str]:
    """Return the names of all shipped tasks, sorted."""
    root = folder()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.toml"))


def group(name: str) -> list[str]:
    """Return the names of the tasks below the folder ``name``, or an empty list if it is no group."""
    return [task for task in names() if task.startswith(f"{name.rstrip('/')}/")]


def members(name: str) -> list[str]:
    """Return the tasks that a group (``glue``) or a list (``glue/cola,glue/rte``) names; none where it is one task.

    Raises:
        TaskError: if a list names a task twice.
    """
    if _expanded(name).exists() and name not in {task.rpartition("/")[0] for task in names()}:
        return []
    parts = [part.strip() for part in name.split(",") if part.strip()]
    found = [task for part in parts for task in (group(part) or [part])]
    twice = next((task for task in found if found.count(task) > 1), None)
    if twice is not None:
        raise TaskError(f"'{name}' names the task '{twice}' twice. Name each once.")
    return found if "," in name or group(name) else []


def is_data_file(path: Path, table: Mapping[str, Any]) -> bool:
    """Say whether ``path`` has the suffix of a data file, ``.gz`` aside, or is a file whose format ``table`` names."""
    known = path.name.removesuffix(".gz").lower().endswith(DATA_SUFFIXES)
    named = bool(table.get("data", {}).get("format")) and path.suffix != ".toml"
    return known or (named and _expanded(path).is_file())


def find_task(name: str | Path | Task, *, overrides: Mapping[str, Any] | None = None) -> Task:
    """Find a task by its name, by the path of a task file, or by the path of a bare data file.

    Args:
        name: ``glue/sst2``, ``./mytask.toml``, ``reviews.jsonl``, or a task, which is given back.
        overrides: a table of task keys laid over the file's (what ``--set`` gives), ``train`` and the like included.

    Raises:
        TaskError: if there is no such task, or its file is not a task.
    """
    over = dict(overrides or {})
    if isinstance(name, Task):
        return tasks.from_table(tasks.merge(name.to_table(), over), name=name.name, where=name.name, file=name.file)
    text = str(name)
    path = Path(text)
    if is_data_file(path, over):
        return _from_data_file(path, over)
    if path.suffix == ".toml" or text.startswith((".", "/", "~")):
        file = _expanded(path)
        if file.is_dir():
            raise TaskError(_is_folder(text))
        if not file.is_file():
            raise TaskError(f"There is no task file {text}. 'bertkit tasks new DATA' writes one.")
        return _from_file(file, name=file.stem, over=over)
    if text in names():
        return _from_file(folder() / f"{text}.toml", name=text, over=over)
    raise TaskError(_unknown(text))


def _expanded(name: str | Path) -> Path:
    """Return the path of a name, the home folder in place of ``~``.

    Raises:
        TaskError: if one cannot look there.
    """
    return looked_for(name, TaskError, "The task")


def _unknown(name: str) -> str:
    members = group(name)
    if members:
        return f"'{name}' is a group of tasks: name one of {', '.join(members)}."
    if _expanded(name).is_file():
        return (
            f"The suffix of {name} does not say what the file holds. "
            "If it is data, say its format: --set data.format=conll (or conllu, jsonl, csv, tsv, json, parquet)."
        )
    if _expanded(name).is_dir():
        return _is_folder(name)
    parts = [part.strip() for part in name.split(",")]
    if len(parts) > 1 and set(parts) <= set(names()):
        return f"'{name}' is a list of {len(parts)} tasks, and one is wanted here: name one after the other."
    return f"No task '{name}'.{did_you_mean(name, names())} 'bertkit tasks' lists them all."


def _is_folder(name: str) -> str:
    return (
        f"{name} is a folder, and a task or a data file is wanted. Of a folder of files, name train's: "
        f"{name}/train.jsonl --set data.files.validation={name}/validation.jsonl"
    )


def _from_file(file: Path, *, name: str, over: Mapping[str, Any]) -> Task:
    table = tasks.merge(_resolved(file, ()), over)
    table.pop("extends", None)
    where = f"tasks/{name}.toml" if file.is_relative_to(folder()) else str(file)
    return tasks.from_table(table, name=name, where=where, file=file.resolve())


def _resolved(file: Path, seen: Iterable[Path]) -> dict[str, Any]:
    """Read ``file`` and what it extends, base first."""
    chain = (*seen, file.resolve())
    if len(set(chain)) < len(chain):
        raise TaskError(f"{file} extends itself: {' -> '.join(p.name for p in chain)}.")
    table = tasks.read_toml(file)
    _check_places(table, file)
    base = table.get("extends")
    if base is None:
        return table
    if not isinstance(base, str):
        raise TaskError(f"{file}: 'extends' is {base!r}, and must be the name or the path of a task.")
    below = folder() / f"{base}.toml" if base in names() else file.parent / base
    if not _expanded(below).is_file():
        raise TaskError(f"{file} extends '{base}', which is no task.{did_you_mean(base, names())}")
    return tasks.merge(
        _anchored(_resolved(below, chain), below, file), {k: v for k, v in table.items() if k != "extends"}
    )


def _check_places(table: Mapping[str, Any], file: Path) -> None:
    """Refuse a task file, which may come from anybody, whose data is outside its own folder.

    It may extend a task file of another folder, whose data then lies in that folder.

    Raises:
        TaskError: naming it, and the ways to say it oneself.
    """
    data = table.get("data")
    files = data.get("files") if isinstance(data, dict) else None
    for split, path in files.items() if isinstance(files, dict) else ():
        if isinstance(path, str) and not tasks.stays_below(path):
            raise TaskError(
                f"{file}: 'data.files.{split}' is {path!r}, which leaves the folder of the task file. Take the files "
                f"of another folder with --data DIR, or this one with --set data.files.{split}=PATH."
            )


def _anchored(table: dict[str, Any], below: Path, file: Path) -> dict[str, Any]:
    """Make the base's data files absolute where the two task files stand in different folders."""
    files = table.get("data", {}).get("files") if isinstance(table.get("data"), dict) else None
    if not isinstance(files, dict) or below.resolve().parent == file.resolve().parent:
        return table
    absolute = {split: str((below.parent / name).resolve()) for split, name in files.items()}
    return tasks.merge(table, {"data": {"files": absolute}})


def _from_data_file(path: Path, over: Mapping[str, Any]) -> Task:
    """Make a task of a bare data file; what its label column says of the kind is found when it is read."""
    absolute = str(_expanded(path).resolve())
    table = tasks.merge({"type": "sequence-classification", "data": {"files": {"train": absolute}}}, over)
    stem = path.name.removesuffix(".gz")
    return tasks.from_table(table, name=Path(stem).stem, where=str(path))
