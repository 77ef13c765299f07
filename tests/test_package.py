"""The public surface, and what importing it may cost."""

import subprocess
import sys

import pytest

import bertkit

HEAVY = ("torch", "transformers", "datasets", "evaluate", "accelerate", "sklearn")
LIGHT_COMMANDS = [
    ["--help"],
    ["--version"],
    ["tasks"],
    ["tasks", "show", "glue/sst2"],
    ["finetune"],
    ["finetune", "--no-such-flag"],
    ["finetune", "glue/sst-2"],
    ["finetune", "glue/sst2", "--set", "train.epoch=2"],
    ["finetune", "glue/sst2", "--set", "train.learning_rate=-1"],
]


def test_exported_names_are_there() -> None:
    for name in bertkit.__all__:
        assert getattr(bertkit, name) is not None


def test_exported_names_are_these() -> None:
    assert set(bertkit.__all__) == {
        "__version__", "finetune", "evaluate", "predict", "load", "check", "find_task", "Task", "TrainConfig",
        "baseline", "compare", "sweep", "distill", "pretrain", "embed", "finetune_suite", "evaluate_suite",
        "BertkitError", "TaskError", "ConfigError", "DataError", "ModelError", "RunError",
    }  # fmt: skip


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fintune'"):
        _ = bertkit.fintune


def loaded_by(code: str) -> set[str]:
    """Return which heavy packages a fresh interpreter has loaded after ``code``."""
    report = "sys.stderr.write('LOADED ' + ' '.join(sys.modules))"
    probe = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\n{report}"
    ran = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    return set(ran.stderr.rpartition("LOADED ")[2].split()) & set(HEAVY)


def test_import_loads_nothing_heavy() -> None:
    assert loaded_by("import bertkit") == set()


@pytest.mark.slow
def test_probe_sees_what_is_loaded() -> None:
    assert "sklearn" in loaded_by("import sklearn")


@pytest.mark.parametrize("arguments", LIGHT_COMMANDS, ids=" ".join)
def test_light_command_loads_nothing_heavy(arguments: list[str]) -> None:
    assert loaded_by(f"import bertkit.cli as c; sys.argv = ['bertkit', *{arguments!r}]; c.main()") == set()
