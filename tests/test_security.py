"""What SECURITY.md promises: nothing loaded runs, no path leaves its folder, no secret and no escape gets out."""

from __future__ import annotations

import ast
import hashlib
import html
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import traceback
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bertkit
from bertkit import adapters, encoder
from bertkit.cli import console
from bertkit.data import hub
from bertkit.errors import BertkitError, ModelError, RunError, TaskError
from bertkit.events import Checkpoint
from bertkit.run import PARTS, Run
from tests.conftest import LEARNING, reviews, run_on_terminal, write_jsonl

SOURCES = sorted(Path(bertkit.__file__).parent.rglob("*.py"))
ROOT = Path(bertkit.__file__).parents[1]

# The source -----------------------------------------------------------------------------------------------------------

FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "breakpoint", "input"),
    *("os.system", "os.popen", "tempfile.mktemp", "runpy.run_path", "runpy.run_module"),
    *("torch.load", "torch.jit.load", "torch.hub.load", "numpy.load", "np.load", "yaml.load", "joblib.load"),
    *("tarfile.open", "shutil.unpack_archive", "evaluate.load", "datasets.load_dataset"),
}
FORBIDDEN_METHODS = {"extractall", "load_state", "load_script"}
FORBIDDEN_IMPORTS = {
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "tarfile",
    "code",
}


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield what a module must not do, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
            yield from ((node.lineno, f"import {name}") for name in imported if name.split(".")[0] in FORBIDDEN_IMPORTS)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in FORBIDDEN_CALLS or called.rpartition(".")[2] in FORBIDDEN_METHODS:
            yield node.lineno, called
        for one in node.keywords:
            value = one.value.value if isinstance(one.value, ast.Constant) else ...
            if one.arg in ("shell", "trust_remote_code", "allow_pickle") and value is not False:
                yield node.lineno, f"{called}({one.arg}={ast.unparse(one.value)})"
        if called.endswith(".from_pretrained"):
            told = {one.arg: ast.unparse(one.value) for one in node.keywords}
            if (told.get("trust_remote_code"), told.get("local_files_only")) != ("False", "True"):
                yield node.lineno, f"{called} without trust_remote_code=False and local_files_only=True"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_runs_nothing_that_it_reads(path: Path) -> None:
    found = [f"{path}:{line}: {what}" for line, what in names_in(ast.parse(path.read_text(encoding="utf-8")))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "eval(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=True)",
        "import pickle",
        "from pickle import loads",
        "archive.extractall(x)",
        "subprocess.run(x, shell=True)",
        "np.load(x, allow_pickle=flag)",
        "AutoModel.from_pretrained(x, local_files_only=True)",
        "AutoModel.from_pretrained(x, local_files_only=True, trust_remote_code=trusted)",
    ],
)
def test_scan_of_the_source_sees(line: str) -> None:
    assert list(names_in(ast.parse(line)))


# Pickles --------------------------------------------------------------------------------------------------------------


class Hostile:
    """What makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """Return the file that must not come into being."""
    path = tmp_path / "it-ran"
    yield path
    assert not path.exists(), "what was loaded ran"


@pytest.fixture
def own(tiny_encoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_encoder, tmp_path / "own"))


def hostile(path: Path, mark: Path) -> Path:
    """Write a pickle of a model whose opening makes ``mark``, in the form that ``torch.save`` writes."""
    torch.save({"weight": Hostile(mark)}, path)
    return path


def test_hostile_pickle_would_run(tmp_path: Path) -> None:
    """Were it harmless, the tests below would show nothing."""
    path, ran = tmp_path / "model.bin", tmp_path / "ran"
    hostile(path, ran)
    torch.load(path, weights_only=False)
    assert ran.exists()
    ran.unlink()
    pickle.loads(pickle.dumps(Hostile(ran)))
    assert ran.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_model_is_refused(own: Path, mark: Path, name: str) -> None:
    (own / "model.safetensors").unlink()
    hostile(own / name, mark)
    with pytest.raises(ModelError, match=r"only pickled weights, which can run code"):
        bertkit.finetune(reviews_rows(), encoder=own)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
)
def test_pickle_beside_the_weights_is_not_opened(own: Path, mark: Path, name: str) -> None:
    hostile(own / name, mark)
    encoder.load(encoder.find(str(own)), auto_class="AutoModelForSequenceClassification", num_outputs=2)


def test_pickle_under_the_name_of_safetensors_is_refused(own: Path, mark: Path) -> None:
    hostile(own / "model.safetensors", mark)
    with pytest.raises(ModelError, match="cannot be loaded"):
        encoder.load(encoder.find(str(own)), auto_class="AutoModelForSequenceClassification", num_outputs=2)


@pytest.mark.parametrize(
    "shard", ["pytorch_model.bin", "../model.safetensors", "/tmp/model.safetensors", "a/b.safetensors"]
)
def test_index_that_names_other_files_is_refused(own: Path, mark: Path, shard: str) -> None:
    shutil.move(own / "model.safetensors", own.parent / "model.safetensors")
    hostile(own / "pytorch_model.bin", mark)
    (own / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"w": shard}}))
    with pytest.raises(ModelError, match="takes only safetensors files beside it"):
        encoder.find(str(own))


@pytest.mark.parametrize("part", PARTS)
def test_pickled_checkpoint_is_refused(finished_run: Path, tmp_path: Path, mark: Path, part: str) -> None:
    """Optimizer and RNG state, too, and though the manifest says that the file is right."""
    run = Run.open(Path(shutil.copytree(finished_run, tmp_path / "runs" / "one")))
    state: dict[str, Any] = {name: {"weights": torch.zeros(2)} for name in PARTS}
    folder = run.save_checkpoint(
        Checkpoint(step=3, best=False, state=state | {"progress": {"step": 3, "best_step": None}})
    )
    file = hostile(folder / f"{part}.safetensors", mark)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"step-000003 is no checkpoint: SafetensorError"):
        run.load_checkpoint(3)
    assert run.newest_checkpoint()[0] is None


# Code of a repository ------------------------------------------------------------------------------------------------


def with_code(folder: Path, mark: Path, **changes: Any) -> Path:
    """Give a model code of its own, which makes ``mark`` when it is imported."""
    for name in ("modeling_own", "configuration_own", "tokenization_own"):
        (folder / f"{name}.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    config = json.loads((folder / "config.json").read_text())
    auto = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModel": "modeling_own.OwnModel",
        "AutoModelForSequenceClassification": "modeling_own.OwnModel",
        "AutoTokenizer": ["tokenization_own.OwnTokenizer", "tokenization_own.OwnTokenizer"],
    }
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto} | changes))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    named = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", "tokenization_own.OwnTokenizer"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"auto_map": named}))
    return folder


def test_code_of_a_known_model_is_not_run(own: Path, mark: Path) -> None:
    """What transformers knows is opened as transformers has it."""
    source = encoder.find(str(with_code(own, mark)))
    encoder.load_tokenizer(source)
    loaded = encoder.load(source, auto_class="AutoModelForSequenceClassification", num_outputs=2)
    assert type(loaded.model).__module__.startswith("transformers.")


def test_model_that_needs_its_own_code_is_refused(own: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers would ask, and take a yes from a pipe
    source = encoder.find(str(with_code(own, mark, model_type="own-model")))
    with pytest.raises(ModelError, match="needs its own code, which bertkit does not run"):
        encoder.load(source, auto_class="AutoModelForSequenceClassification", num_outputs=2)


@pytest.mark.parametrize("key", encoder.KERNEL_KEYS)
def test_compiled_code_from_the_hub_is_refused(own: Path, key: str) -> None:
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {key: "somebody/kernel"}))
    with pytest.raises(ModelError, match=f"'{key}' is 'somebody/kernel', code that would be fetched and run"):
        encoder.find(str(own))


def test_adapter_that_names_another_model_is_refused(own: Path) -> None:
    (own / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/model"}')
    with pytest.raises(ModelError, match="holds a PEFT adapter"):
        encoder.find(str(own))


def test_model_does_not_choose_the_module_that_reads_it(finished_run: Path, tmp_path: Path, mark: Path) -> None:
    folder = Path(shutil.copytree(finished_run / "model", tmp_path / "model"))
    facts = json.loads((folder / "bertkit.json").read_text())
    (folder / "bertkit.json").write_text(json.dumps(facts | {"type": "own.module"}))
    with pytest.raises(ModelError, match=r"task type is the Python module 'own\.module', which would be run"):
        bertkit.load(folder)


def test_module_that_is_no_task_type_is_not_run(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task file names a task type's module; it cannot have just any module of this machine imported."""
    (tmp_path / "harmful").mkdir()
    (tmp_path / "harmful" / "__init__.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    (tmp_path / "harmful" / "module.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TaskError, match=r"'harmful\.module' names a module that takes nothing from bertkit"):
        adapters.find("harmful.module")


# Paths ----------------------------------------------------------------------------------------------------------------


def reviews_rows() -> list[dict[str, str]]:
    return reviews(20)


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "/etc/x", "a\\b", ".hidden", "a\nb", ""])
def test_split_of_python_rows_cannot_leave_the_run(name: str, tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(BertkitError, match="data= names a split"):
        bertkit.finetune("demo/reviews", data={"train": reviews_rows(), name: reviews_rows()}, encoder=tiny_encoder)


@pytest.mark.parametrize("revision", ["../../../x", "/etc/passwd", "a/../../../../b", "..\\x", "a\0b"])
def test_revision_cannot_leave_the_cache(revision: str) -> None:
    with pytest.raises(BertkitError, match="is no revision of the encoder"):
        encoder.find("owner/name", revision=revision, offline=True)
    with pytest.raises(BertkitError, match="is no revision of the data set"):
        bertkit.finetune("glue/sst2", settings={"data.revision": revision}, encoder="minilm", offline=True)


def test_archives_are_no_data(tmp_path: Path) -> None:
    """Nothing unpacks an archive, so that no name in one can lead anywhere; ``.gz`` is one stream without names."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("../../x.jsonl", "{}")
    for name in ("x.zip", "x.tar", "x.tar.gz", "x.tgz"):
        (tmp_path / name).touch()
        with pytest.raises(BertkitError):
            bertkit.check(tmp_path / name)
        with pytest.raises(BertkitError, match="is no suffix of a data file"):
            bertkit.check("demo/reviews", data=tmp_path / name)


# Secrets --------------------------------------------------------------------------------------------------------------

SECRETS = {
    "HF_TOKEN": "hf_PlantedTokenThatNobodyMaySee0",
    "HUGGING_FACE_HUB_TOKEN": "hf_AnotherPlantedTokenForTests00",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HTTPS_PROXY": "http://me:planted-password@127.0.0.1:9",
    "AWS_SECRET_ACCESS_KEY": "planted/aws/secret/key",
}
PLANTED = [*list(SECRETS.values())[:3], "planted-password", SECRETS["AWS_SECRET_ACCESS_KEY"]]


def run_command(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    environment = {k: v for k, v in os.environ.items() if k not in ("BERTKIT_RUNS", "HF_HUB_OFFLINE")}
    return subprocess.run(
        [sys.executable, "-m", "bertkit", *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)} | (env or {}),
        capture_output=True,
        timeout=900,
        check=False,
    )


@pytest.mark.slow
def test_planted_secrets_are_nowhere(tiny_encoder: Path, tmp_path: Path) -> None:
    """A whole training, an evaluation, predictions and an error; then every byte that they left is looked at."""
    write_jsonl(tmp_path / "reviews.jsonl", reviews(80))
    common = ["--threads", "1", "--offline"]
    over = [part for key, value in LEARNING.items() for part in ("--set", f"{key}={value}")]
    tracked = ["--set", "track=tensorboard"]
    wanted = ["finetune", "reviews.jsonl", "--encoder", str(tiny_encoder), *common, *over, *tracked]
    outputs = []
    for command in (
        wanted,
        ["eval", *common],
        ["predict", "reviews.jsonl", *common],
        ["runs", "show"],
        ["doctor", "--offline"],
        ["finetune", "glue/sst2", "--encoder", "owner/name", *common],
    ):
        done = run_command(tmp_path, *command, env=SECRETS)
        assert (done.returncode, b"Traceback" in done.stderr) == (int(command[1] == "glue/sst2"), False), done.stderr
        outputs.append(done.stdout + done.stderr)
    left = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"run.json", "events.jsonl", "README.md", "report.html"} <= {path.name for path in left}
    for secret in PLANTED:
        assert not any(secret.encode() in said for said in outputs), secret
        assert not [path for path, data in left.items() if secret.encode() in data], secret


def test_traceback_of_a_hub_error_holds_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The causes of an error are shown in a traceback with their own texts."""
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])

    def broken(request: Any) -> None:
        raise RuntimeError(f"401 with Authorization: Bearer {SECRETS['HF_TOKEN']} at http://me:planted-password@host/x")

    monkeypatch.setattr(hub, "_cached_snapshot", broken)
    with pytest.raises(ModelError, match="RuntimeError: 401") as caught:
        hub.find_model("owner/name")
    shown = "".join(traceback.format_exception(caught.value))
    assert not [secret for secret in PLANTED if secret in shown]
    assert not [secret for secret in PLANTED if secret in repr(caught.value)]


# What data can do to a screen, a page and a card ---------------------------------------------------------------------

ESCAPES = {
    "colour": "\x1b[35;5m",
    "title": "\x1b]0;pwned\x07",
    "link": "\x1b]8;;http://evil\x1b\\",
    "clear": "\x1b[2J\x1b[H",
    "8-bit": "\x9b35m",
    "8-bit OSC": "\x9d0;x\x9c",
    "carriage return": "\rover",
    "backspace": "\x08\x08",
    "override": "\u202egood",
    "isolate": "\u2066x\u2069",
}
STEERS = re.compile("[\x07\x08\x9b\x9d\u202e\u2066]|\x1b\\[35;5m|\x1b\\]|\x1b\\[2J|\rover")
HTML = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def evil_rows() -> list[dict[str, str]]:
    """Return rows whose texts and labels hold every escape, markup of a page and of the tables' own library."""
    marks = [*ESCAPES.values(), HTML, "[bold red]x[/bold red]", "[/]"]
    return [
        {
            "text": f"{row['text']} {marks[index % len(marks)]}",
            "label": f"{row['label']}{''.join(ESCAPES.values())}{HTML}",
        }
        for index, row in enumerate(reviews(80))
    ]


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data that means ill, and a run that was trained on it."""
    from tests.conftest import save_tiny_bert

    folder = tmp_path_factory.mktemp("evil")
    save_tiny_bert(folder / "encoder")
    write_jsonl(folder / "evil.jsonl", evil_rows())
    settings = LEARNING | {"train.epochs": 1, "summary": f"A summary{ESCAPES['colour']}{HTML}"}
    options: dict[str, Any] = {"precision": "float32", "threads": 1}
    bertkit.finetune(
        folder / "evil.jsonl", encoder=folder / "encoder", out=folder / "runs/one", settings=settings, **options
    )
    bertkit.evaluate(folder / "runs/one", **options)
    return folder


def on_terminal(folder: Path, *arguments: str) -> str:
    """Run a command whose stdout and stderr are a terminal; return all that it wrote there."""
    _, shown = run_on_terminal([sys.executable, "-m", "bertkit", *arguments], folder)
    # The terminal's own line ends are no data.
    return shown.decode("utf-8", "backslashreplace").replace("\r\n", "\n")


TRAINED_AGAIN = ["finetune", "evil.jsonl", "--encoder", "encoder", "--out", "again", "--set", "train.max_steps=2"]
COMMANDS = [
    pytest.param(["predict", "evil.jsonl", "--threads", "1"], id="predict", marks=pytest.mark.slow),
    pytest.param(["runs", "show"], id="show", marks=pytest.mark.slow),
    pytest.param(["runs", "ls"], id="ls", marks=pytest.mark.slow),
    pytest.param(["check", "evil.jsonl", "--encoder", "encoder"], id="check"),
    pytest.param(["eval", "--threads", "1"], id="eval", marks=pytest.mark.slow),
    pytest.param([*TRAINED_AGAIN, "--threads", "1"], id="finetune", marks=pytest.mark.slow),
    pytest.param(["baseline", "evil.jsonl"], id="baseline", marks=pytest.mark.slow),
    pytest.param(["predict", "no\x1b]0;x\x07such\x9b.jsonl"], id="error", marks=pytest.mark.slow),
    pytest.param(["tasks", "new", "evil.jsonl", "--out", "new.toml"], id="new", marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", COMMANDS)
def test_data_does_nothing_to_a_terminal(evil: Path, arguments: list[str]) -> None:
    shown = on_terminal(evil, *arguments)
    shutil.rmtree(evil / "again", ignore_errors=True)
    (evil / "new.toml").unlink(missing_ok=True)
    assert "Traceback" not in shown, shown[-2000:]
    assert len(shown) > 40
    found = STEERS.search(shown)
    assert not found, shown[max(0, found.start() - 80) : found.end() + 40].encode("unicode_escape") if found else ""


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["predict", "evil.jsonl", "--threads", "1"], id="predict", marks=pytest.mark.slow),
        pytest.param(["runs", "show", "--json"], id="show"),
    ],
)
def test_json_holds_the_data_as_it_is(evil: Path, arguments: list[str]) -> None:
    done = run_command(evil, *arguments)
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode("utf-8")
    labels = {row["label"] for row in evil_rows()}
    if arguments[0] == "predict":
        rows = [json.loads(line) for line in said.rstrip("\n").split("\n")]
        assert [{key: row[key] for key in ("text", "label")} for row in rows] == evil_rows()
        assert {row["prediction"]["label"] for row in rows} <= labels
    else:
        assert set(json.loads(said)["label_map"].values()) == labels
        assert not STEERS.search(said)


def test_card_shows_no_control_character_and_no_markup(evil: Path) -> None:
    text = (evil / "runs/one/README.md").read_text(encoding="utf-8")
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "negative" in text
    assert "<script" not in text
    assert "<img" not in text


def test_report_escapes_markup_and_shows_no_control_character(evil: Path) -> None:
    page = (evil / "runs/one/report.html").read_text(encoding="utf-8")
    assert html.escape("<script>alert(1)</script>") in page
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page
    assert not STEERS.search(page)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)


def test_events_and_record_are_exact_and_ascii_controls_stay_escaped(evil: Path) -> None:
    for name in ("run.json", "events.jsonl", "predictions/validation.jsonl"):
        data = (evil / "runs/one" / name).read_text(encoding="utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f]", data), name
    record = json.loads((evil / "runs/one/run.json").read_text(encoding="utf-8"))
    assert set(record["label_map"].values()) == {row["label"] for row in evil_rows()}


def test_security_policy_is_linked_from_the_docs() -> None:
    """A promise that nobody finds is none."""
    assert (ROOT / "SECURITY.md").is_file()
    assert "SECURITY.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "security" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


@given(st.text(), st.text())
def test_harmless_text_steers_nothing_and_keeps_what_json_says(key: str, value: str) -> None:
    shown = console.harmless(json.dumps({key: value}, ensure_ascii=False))
    assert not STEERS.search(shown)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", shown)
    assert json.loads(shown) == {key: value}


@pytest.mark.parametrize(
    "secret",
    [
        "hf_PlantedTokenThatNobodyMaySee0",
        "github_pat_0123456789abcdef",
        "ghp_0123456789abcdef0123",
        "https://me:planted-password@proxy:8080/",
        "https://hf_PlantedTokenThatNobodyMaySee0@huggingface.co/x",
        "Authorization: Bearer abc.def-0123456789",
    ],
)
def test_message_hides_what_has_the_form_of_a_secret(secret: str) -> None:
    shown = str(BertkitError(f"The Hub said {secret} to nobody."))
    assert "***" in shown
    assert not re.search("Planted|0123456789|planted", shown)
    assert shown.startswith("The Hub said ")
    assert shown.endswith(" to nobody.")
