"""The documentation cannot rot: generated parts are fresh, code runs, commands parse, quoted errors exist."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import bertkit
from bertkit import config, encoder
from bertkit.adapters import find, types
from bertkit.cli import app
from bertkit.encoder import Source
from bertkit.task import from_table, merge
from tests.conftest import questions, reviews, save_tiny_bert, sentences, write_conll, write_jsonl, write_squad

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)]
RUN = [
    ROOT / "README.md",
    DOCS / "quickstart.md",
    *sorted((DOCS / "guides").glob("*.md")),
    DOCS / "concepts/metrics.md",
]
"""Pages whose ```python blocks are run, in order and in one namespace; a fence with ``{.no-run}`` is not."""
FENCE = re.compile(r"^```(\w+)(?: \{\.([\w-]+)\})?\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMANDS = list(get_command(app).commands)  # type: ignore[attr-defined]
SETTINGS = {**config.SECTIONS, "pretrain": config.PretrainConfig, "embed": config.EmbedConfig}
LETTERS = 10
"""Fixed characters that a source's message must have for a quoted one to count as found."""


def blocks(page: Path, language: str, mark: str = "") -> list[str]:
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [text for kind, given, text in found if kind == language and given == mark]


def named(pages: list[Path]) -> Any:
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


# Generated parts -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generate() -> Any:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(generate: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    return int(generate.main())


def test_generated_parts_are_fresh(generate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(generate, monkeypatch) == 0, "remake them with: python docs/generate.py"


def test_stale_part_is_named(
    generate: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- generated: errors -->\nold\n<!-- end -->\n")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "pages", lambda: [page])
    assert check(generate, monkeypatch) == 1
    assert "page.md is stale" in capsys.readouterr().err
    assert "old" in page.read_text()


def test_every_generated_part_is_used(generate: Any) -> None:
    used = {match["name"].split()[0] for page in PAGES for match in generate.PART.finditer(page.read_text())}
    assert used == set(generate.PARTS)


def test_every_setting_and_task_key_is_in_the_reference() -> None:
    reference = (DOCS / "reference/config.md").read_text()
    for kind in SETTINGS.values():
        for name in config.describe(kind()):
            assert f"| `{name}` |" in reference


def test_every_option_of_a_task_type_is_in_the_reference(generate: Any) -> None:
    reference = (DOCS / "reference/task-keys.md").read_text()
    known = {name: kind.options for name in types() if (kind := find(name)).options}
    assert {name: set(meaning) for name, meaning in generate.OPTIONS.items()} == {n: set(o) for n, o in known.items()}
    for name, options in known.items():
        assert f"<!-- generated: options {name} -->" in reference
        assert generate.options(name).count(" | yes | ") == len(find(name).decoding)
        assert all(f"| `{option}` |" in reference for option in options)


def test_results_stand_beside_the_plain_trainers(
    generate: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = {"date": "2026-01-01", "cores": 2, "processor": "x", "memory_gib": 8, "python": "3", "versions": {}}
    monkeypatch.setattr(generate, "RESULTS", tmp_path)
    assert generate.results("squad2") == generate.NOT_MEASURED

    def write(name: str, *runs: dict[str, Any]) -> None:
        found = {"command": f"python {name}", "machine": machine, "summary": {"halfB": {}}}
        (tmp_path / f"{name}.json").write_text(json.dumps(found | {"runs": runs}))

    plain = [{"seed": n, "seconds": 2.0 + n, "scores": {"halfB": {"f1": 50.0 + n}}} for n in (1, 3)]
    write("plain_squad2", *plain)
    assert "bertkit: not measured yet." in generate.results("squad2")
    own = {"seed": 1, "seconds": 9.0, "scores": {"halfB": {"f1": 60.0, "f1_at_0": 55.0}}, "argmax": {"f1": 40.0}}
    write("squad2", own | {"details": {"best_f1": 61.0}})
    lines = generate.results("squad2").splitlines()
    assert lines[2:7] == [
        "| f1 | bertkit | 60.0000 |  | 60.0000 (1) |",
        "| f1 | bertkit, argmax | 40.0000 |  | 40.0000 (1) |",
        "| f1_at_0 | plain Trainer | 52.0000 | 1.4142 | 51.0000 (1), 53.0000 (3) |",
        "| f1_at_0 | bertkit | 55.0000 |  | 55.0000 (1) |",
        "| best_f1 | bertkit | 61.0000 |  | 61.0000 (1) |",
    ]


def test_results_are_tables(generate: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = {
        "date": "2026-01-01",
        "cores": 2,
        "processor": "x",
        "memory_gib": 8,
        "python": "3",
        "versions": {"a": "1"},
    }
    run = {"seed": 1, "scores": {"accuracy": 0.5}, "seconds": 2.0, "examples_per_second": 1.0}
    scores = {"accuracy": {"mean": 0.5, "spread": 0.0, "baseline": "0.4 majority"}}
    found = {"command": "python -m benchmarks.glue", "machine": machine, "encoder": "minilm", "settings": []}
    found["tasks"] = {"glue/rte": {"runs": [run], "scores": scores, "median_seconds": 2.0}}
    found["average"] = {"name": "average of 2 tasks", "mean": 0.5, "standard_deviation": None}
    (tmp_path / "glue.json").write_text(json.dumps(found))
    monkeypatch.setattr(generate, "RESULTS", tmp_path)
    lines = generate.results("glue").splitlines()
    assert lines[4:6] == [
        "| `glue/rte` | accuracy | 0.5000 |  | 0.5000 (1) | 0.4 majority | 2 s |",
        "| average of 2 tasks |  | 0.5000 |  |  |  |  |",
    ]
    assert generate.results("startup") == generate.NOT_MEASURED


def test_results_that_were_not_measured_leave_no_trace_on_the_page_of_speed(
    generate: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = {"date": "2026-01-01", "cores": 2, "processor": "x", "memory_gib": 8, "python": "3", "versions": {}}
    monkeypatch.setattr(generate, "RESULTS", tmp_path)
    assert generate.measured("training_sst2", "precision_rte") == ""
    one = {"milliseconds": 1500.0, "spread": [1400.0, 1600.0], "peak_mb": 900, "dtype": "bfloat16", "tokens": 410.4}
    found = {"command": "python -m benchmarks.training sst2", "machine": machine, "setting": "texts", "rounds": 2}
    (tmp_path / "training_sst2.json").write_text(json.dumps(found | {"variants": {"bertkit": one}, "ratios": {}}))
    lines = generate.measured("training_sst2 training_base").splitlines()
    assert lines[0] == "Batches of 32, texts; 2 rounds."
    assert lines[4] == "| bertkit | 1,500 | 1,400 to 1,600 | 900 MB | bf16 | 410 |"
    assert lines[-1].startswith("`python -m benchmarks.training sst2`, 2026-01-01, 2 cores of x")


def test_near_duplicates_stand_a_line_each(generate: Any) -> None:
    run = {"name": "made, short", "rows": 70000, "characters": 3500000, "seconds": 8.44, "peak_mb": 1231}
    run |= {"exact": 700, "near": 656}
    lines = generate.RENDERED["near_duplicates"](
        {"runs": [run | {"changed_copies": 650, "missed": 1}, run]}
    ).splitlines()
    assert lines[2] == "| made, short | 70,000 | 50 | 8.4 s | 1,231 MB | 700 | 656 | 1 of 650 |"
    assert lines[3].endswith("| 656 |  |")


# Pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_page_and_its_line(command: str) -> None:
    page = (DOCS / "commands" / f"{command}.md").read_text()
    assert f"<!-- generated: help {command} -->" in page
    below = getattr(get_command(app).commands[command], "commands", {})  # type: ignore[attr-defined]
    for name in below:
        assert f"<!-- generated: help {command} {name} -->" in page
    assert "## Exit codes" in page
    assert f"- `bertkit {command}` " in (ROOT / "CHANGELOG.md").read_text()


def test_every_page_is_in_a_toctree() -> None:
    listed = re.findall(r"^```\{toctree\}\n(.*?)^```", (DOCS / "index.md").read_text(), re.DOTALL | re.MULTILINE)
    names = [line for block in listed for line in block.splitlines() if line and not line.startswith(":")]
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES[1:]} - {"index"}
    assert sorted(names) == sorted(pages)


@named(PAGES)
def test_links_lead_to_files(page: Path) -> None:
    prose = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" not in target:
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target}"


def test_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text or f"## [{bertkit.__version__}]" in text


# What can be run -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an encoder that stands in for ``minilm``: as many positions, and 23 words."""
    return save_tiny_bert(tmp_path_factory.mktemp("docs") / "tiny", max_position_embeddings=512)


@pytest.fixture
def place(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with the files that pages speak of."""
    monkeypatch.setattr(encoder, "_installed", lambda name: Source(name=name, folder=small))
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "reviews.jsonl", reviews(40))
    write_conll(tmp_path / "sentences.conll", sentences(40))
    write_squad(tmp_path / "questions.json", questions(60, unanswered=4), impossible=True)
    return tmp_path


@pytest.mark.slow
@named([page for page in RUN if blocks(page, "python")])
def test_python_blocks_run(page: Path, place: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "page"}
    with contextlib.redirect_stdout(io.StringIO()) as output:
        for block in blocks(page, "python"):
            exec(compile(block, str(page), "exec"), namespace)
    assert output.getvalue().strip()


@pytest.mark.slow
def test_adapter_of_the_docs_trains_and_predicts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = DOCS / "adding-a-task-type.md"
    (module,) = blocks(page, "python", "adapter")
    (place / "mytypes").mkdir()
    (place / "mytypes/__init__.py").touch()
    (place / "mytypes/ordinal.py").write_text(module)
    (place / "grades.toml").write_text(blocks(page, "toml")[0])
    words = {"bad": "dull cold", "mixed": "fine very", "good": "warm good"}
    rows = [{"text": f"the film was {words[label]}", "label": label} for label in words for _ in range(20)]
    write_jsonl(place / "train.jsonl", rows)
    monkeypatch.syspath_prepend(str(place))
    losses: list[float] = []
    settings = {"train.learning_rate": 2e-3, "train.batch_size": 8, "train.epochs": 8}
    run = bertkit.finetune(
        "grades.toml", encoder="minilm", settings=settings, threads=1, precision="float32",
        listen=lambda event: losses.append(getattr(event, "loss", losses[-1] if losses else 1.0)),
    )  # fmt: skip
    assert losses[-1] < losses[0] * 0.8
    assert set(run.scores["validation"]) == {"mean_absolute_error", "accuracy"}
    assert bertkit.evaluate(run.path, threads=1, precision="float32").scores == run.scores["validation"]
    assert bertkit.predict(["warm"], run=run.path, threads=1)[0]["label"] in words
    with pytest.raises(bertkit.DataError, match="label 'superb' is not one of bad, mixed, good"):
        bertkit.finetune("grades.toml", encoder="minilm", data=[*rows, {"text": "a", "label": "superb"}])


@named([page for page in PAGES if blocks(page, "toml")])
def test_toml_blocks_are_task_files(page: Path) -> None:
    base = {"type": "sequence-classification", "data": {"files": {"train": "train.jsonl"}}}
    for block in blocks(page, "toml"):
        table = tomllib.loads(block)
        if table.pop("extends", None) is None:
            assert {"type", "data"} <= table.keys()
        task = from_table(merge(base, table), name="page", where=str(page))
        for section, values in task.settings.items():
            config.build(SETTINGS[section], values)
        if "." not in task.type:
            assert find(task.type)


# Commands --------------------------------------------------------------------------------------------------------


def command_lines() -> Iterator[tuple[str, str]]:
    """Yield the page and each ``bertkit ...`` of its shell blocks, and of inline code that gives a flag or a file."""
    for page in PAGES:
        lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
        prose = FENCE.sub("", page.read_text(encoding="utf-8"))
        lines += re.findall(r"`(bertkit [a-z]+ [^`\n]*[-/.][^`\n]*)`", prose)
        for line in lines:
            for part in re.split(r"\s[|>]\s|&&", re.sub(r"\s#.*", "", line)):
                if part.strip().startswith("bertkit "):
                    yield str(page.relative_to(ROOT)), part.strip()


def parse(line: str) -> None:
    """Parse a command line as the shell's user would have it, and run nothing."""
    command: Any = get_command(app)
    words = shlex.split(line)[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert not (getattr(command, "commands", {}) and words), f"there is no command {words[0]!r}"
    with command.make_context("bertkit", list(words)):
        if "set_" in {parameter.name for parameter in command.params}:
            given = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
            for section, values in config.parse_overrides(given).items():
                if section in SETTINGS:
                    config.build(SETTINGS[section], values)


@pytest.mark.parametrize(("page", "line"), sorted(set(command_lines())))
def test_command_parses(page: str, line: str) -> None:
    parse(line)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("bertkit finetune x --no-such-flag", "no-such-flag"),
        ("bertkit fintune x", "no command 'fintune'"),
        ("bertkit finetune x --set train.epoch=2", "train.epoch is not a setting"),
    ],
)
def test_wrong_command_would_be_found(line: str, fault: str) -> None:
    with pytest.raises(Exception, match=fault):
        parse(line)


# Messages --------------------------------------------------------------------------------------------------------


def messages() -> list[re.Pattern[str]]:
    """Return every text of the source that is long enough to be known again, its values left open."""
    found = []
    for file in (ROOT / "bertkit").rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        inside |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            if id(node) in inside or not all(isinstance(part, ast.Constant | ast.FormattedValue) for part in parts):
                continue
            fixed = [str(part.value) if isinstance(part, ast.Constant) else None for part in parts]
            if sum(len(text or "") for text in fixed) >= LETTERS:
                found.append(re.compile("".join(".*" if text is None else re.escape(text) for text in fixed)))
    return found


def quoted() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in blocks(page, "text"):
            for line in block.splitlines():
                if line.startswith("error: "):
                    yield str(page.relative_to(ROOT)), line.removeprefix("error: ")


@pytest.fixture(scope="module")
def known() -> list[re.Pattern[str]]:
    return messages()


@pytest.mark.parametrize(("page", "message"), sorted(set(quoted())))
def test_quoted_error_exists(page: str, message: str, known: list[re.Pattern[str]]) -> None:
    shortened = message.removesuffix("...").rstrip(", ")
    assert any(pattern.search(message) or pattern.search(f"{shortened}.") for pattern in known)


def test_invented_error_would_be_found(known: list[re.Pattern[str]]) -> None:
    assert not any(pattern.search("The task 'x' has gone on holiday, so try another one.") for pattern in known)
