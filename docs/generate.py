"""Write the generated parts of the documentation, or say which are stale.

python docs/generate.py            rewrite them
python docs/generate.py --check    change nothing; exit 1 and name the stale files

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; NAME is a function of this file
(``-`` for ``_``) and, where it takes one, an argument.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import statistics
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "bertkit"
RESULTS = ROOT / "benchmarks" / "results"
PART = re.compile(r"(?P<begin><!-- generated: (?P<name>[^>]+?) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
ROLE = re.compile(r":\w+:`~?([^`]+)`")
NOT_MEASURED = "*Not measured yet.*"


# Pieces ----------------------------------------------------------------------------------------------------------


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def prose(docstring: str) -> str:
    """Return a docstring's reStructuredText as Markdown on one line."""
    text = " ".join(docstring.split())
    return ROLE.sub(r"`\1`", text).replace("``", "`")


def classes(module: str) -> dict[str, ast.ClassDef]:
    """Return the classes of a module by name."""
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def documented_fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, type, default and text of every field that a docstring follows."""
    for line, following in zip(node.body, node.body[1:], strict=False):
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            default = ast.unparse(line.value) if line.value else ""
            yield line.target.id, ast.unparse(line.annotation), default, prose(str(following.value.value))


def choices() -> dict[str, str]:
    """Return the names that ``config.py`` gives to ``Literal`` types, with what they stand for."""
    tree = ast.parse((PACKAGE / "config.py").read_text(encoding="utf-8"))
    return {
        node.targets[0].id: ", ".join(f"`{ast.literal_eval(item)}`" for item in node.value.slice.elts)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Subscript)
        and isinstance(node.value.slice, ast.Tuple)
        and ast.unparse(node.value.value) == "Literal"
    }


# Parts -----------------------------------------------------------------------------------------------------------


def help_(command: str) -> str:
    """Return the frozen help of a command; ``tests/cli/test_help.py`` holds the command line to it."""
    whole = (ROOT / "tests" / "golden" / "help.txt").read_text(encoding="utf-8")
    screens = dict(re.findall(r"^\$ bertkit ?(.*?) ?--help\n(.*?)(?=^\$ bertkit|\Z)", whole, re.DOTALL | re.MULTILINE))
    return f"```text\n{screens[command].rstrip()}\n```"


def config(section: str) -> str:
    """Return the settings of a section."""
    name = f"{section.capitalize()}Config"
    known = choices()
    rows = [
        (f"`{key}`", known.get(kind, kind), f"`{default.strip(chr(39))}`", text)
        for key, kind, default, text in documented_fields(classes("config.py")[name])
    ]
    return table(("setting", "type", "default", ""), rows)


def task_keys(which: str) -> str:
    """Return the keys of a task file, or of its ``[data]``."""
    node = classes("task.py")[{"task": "Task", "data": "DataSource"}[which]]
    hidden = {"name", "file", "settings", "data"}
    kinds = {"tuple[str, ...]": "list of texts", "str": "text", "dict[str, str]": "table", "dict[str, Any]": "table"}
    rows = [
        (f"`{key}`", kinds.get(kind, kind), text)
        for key, kind, _, text in documented_fields(node)
        if which == "data" or key not in hidden
    ]
    return table(("key", "type", ""), rows)


OPTIONS = {
    "span-qa": {
        "unanswerable": "Whether the model may answer nothing; where it is not said, whether some training question "
        "has no answer. Then a tenth of train is held out to tune the threshold.",
        "stride": "Tokens that two windows of a context share: 128, or half of `train.max_length` where that is less; "
        "at least 0 and below it.",
        "max_answer_length": "The most tokens of an answer: 30; at least 1.",
        "alternatives": "How many next-best answers a prediction holds: 0; up to 19.",
        "rules": "`squad` (the default; SQuAD 2.0's where a question has no answer) or `cmrc2018`, which scores "
        "Chinese characters.",
    },
    "token-tagging": {
        "scheme": "`IOB1`, `IOB2`, `IO`, `BIOES` (or `IOBES`) or `BILOU`; where it is not said, what the tags of train "
        "show. Without one there are no entities.",
        "counting": "`conlleval` (the default): every sequence has entities, legal or not; `strict`: only entities "
        "that the scheme could have written.",
    },
}
"""Task type -> option -> what it means; ``options`` in the adapters says which there are."""


def options(task_type: str) -> str:
    """Return the keys of ``[options]`` of a task type."""
    assigned = {
        line.target.id: line.value
        for node in classes(f"adapters/{task_type.replace('-', '_')}.py").values()
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None
    }
    late = ast.unparse(assigned["decoding"]) if "decoding" in assigned else ""
    known = assigned["options"]
    assert isinstance(known, ast.Dict)
    kinds = {
        ast.literal_eval(key): ast.unparse(kind) for key, kind in zip(known.keys, known.values, strict=True) if key
    }
    names = {"bool": "true, false", "int": "number", "str": "text"}
    rows = [
        (f"`{key}`", names[kind], "yes" if repr(key) in late else "no", OPTIONS[task_type][key])
        for key, kind in kinds.items()
    ]
    return table(("key", "type", "later", ""), rows)


def tasks() -> str:
    """Return the shipped tasks, as ``bertkit tasks`` lists them."""
    files = sorted((ROOT / "tasks").rglob("*.toml"), key=lambda file: file.relative_to(ROOT / "tasks").as_posix())
    found = {file.relative_to(ROOT / "tasks").with_suffix("").as_posix(): _whole_task(file) for file in files}
    rows = [(f"`{name}`", f"`{one['type']}`", one.get("summary", "")) for name, one in found.items()]
    return table(("task", "type", "summary"), rows)


def _whole_task(file: Path) -> dict[str, Any]:
    """Return a shipped task's keys, those at the top of what it extends included."""
    one = tomllib.loads(file.read_text(encoding="utf-8"))
    base = one.get("extends")
    return (_whole_task(ROOT / "tasks" / f"{base}.toml") if base else {}) | one


def families() -> str:
    """Return what each encoder family supports; ``tests/test_families.py`` finds it out by trying."""
    rows = json.loads((ROOT / "tests" / "golden" / "families.json").read_text(encoding="utf-8"))
    shown = {True: "yes", False: "no"}
    columns = [column for column in rows[0] if column != "head"]
    return table(columns, [[shown.get(row[column], row[column]) for column in columns] for row in rows])


def errors() -> str:
    """Return the exception tree as ``errors.py`` draws it."""
    docstring = ast.get_docstring(ast.parse((PACKAGE / "errors.py").read_text(encoding="utf-8"))) or ""
    drawn = docstring.split("::\n", 1)[1].split("\nA message", 1)[0]
    return f"```text\n{textwrap.dedent(drawn).strip()}\n```"


def layers() -> str:
    """Return the layers in order, lowest first, each with the first line of its docstring."""
    test = ast.parse((ROOT / "tests" / "test_layers.py").read_text(encoding="utf-8"))
    order = next(
        node.value for node in test.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ORDER"
    )
    rows = []
    for name in (str(node.value) for node in ast.walk(order) if isinstance(node, ast.Constant)):
        file = next((f for f in (PACKAGE / f"{name}.py", PACKAGE / name / "__init__.py") if f.is_file()), None)
        if file:
            docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            place = f"`{name}/`" if file.name == "__init__.py" else f"`{name}.py`"
            rows.append((place, prose(docstring.split("\n\n")[0])))
    return table(("place", "what it is"), rows)


def results(name: str) -> str:
    """Return the table of a result that ``benchmarks/`` wrote."""
    if name == "glue":
        return _glue_results()
    if name in BESIDE:
        return _beside_results(name)
    file = RESULTS / f"{name}.json"
    if not file.is_file():
        return NOT_MEASURED
    found = json.loads(file.read_text(encoding="utf-8"))
    return f"{RENDERED[name](found)}\n\n{_made_by(found)}"


def measured(*names: str) -> str:
    """Return the tables of those results that there are."""
    parts = [results(name) for name in " ".join(names).split() if (RESULTS / f"{name}.json").is_file()]
    return "\n\n".join(parts)


def _glue_results() -> str:
    parts = []
    for file in sorted(RESULTS.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        if "tasks" not in found:
            continue
        rows = [
            (
                f"`{task}`",
                metric,
                f"{score['mean']:.4f}",
                f"{score['spread']:.4f}" if len(one["runs"]) > 1 else "",
                ", ".join(f"{run['scores'][metric]:.4f} ({run['seed']})" for run in one["runs"]),
                score.get("baseline", ""),
                f"{one['median_seconds']:.0f} s",
            )
            for task, one in found["tasks"].items()
            for metric, score in one["scores"].items()
        ]
        if average := found.get("average"):
            deviation = average["standard_deviation"]
            rows.append(
                (average["name"], "", f"{average['mean']:.4f}", f"{deviation:.4f}" if deviation else "", *[""] * 3)
            )
        each = ("each run (seed)", "best baseline", "median time of a run")
        head = ("task", "metric", "mean", "standard deviation", *each)
        settings = ", ".join(f"`{setting}`" for setting in found["settings"]) or "the defaults"
        parts.append(f"`{found['encoder']}`, settings: {settings}.\n\n{table(head, rows)}\n\n{_made_by(found)}")
    return "\n\n".join(parts) or NOT_MEASURED


BESIDE = {
    "wnut17": {},
    "ud_ewt": {},
    "squad": {},
    # The plain script has no tuned threshold: its scores are those at 0.
    "squad2": {"f1": "f1_at_0", "exact_match": "exact_match_at_0", "best_exact_match": "best_exact"},
    "squad_longer": {},
}
"""Results that stand beside the plain Trainer's -> what the plain script's metrics are called here."""
SHOWN = (
    *("f1", "precision", "recall", "f1_macro", "tag_accuracy"),
    *("exact_match", "f1_at_0", "exact_match_at_0", "best_f1", "best_exact"),
)
"""Metrics of these tables, in order; ``best_...`` needs the answers, and is no score of the model."""


def _beside_results(name: str) -> str:
    """Return the scores of bertkit and of the plain Trainer, metric by metric, and below them who made what."""
    columns: dict[str, list[dict[str, float]]] = {}
    made: list[str] = []
    for file in (f"plain_{name}", name):
        path = RESULTS / f"{file}.json"
        plain = file.startswith("plain_")
        if not path.is_file():
            made.append(f"{'The plain Trainer' if plain else 'bertkit'}: not measured yet.")
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        split = next(iter(found["summary"]))
        renamed = BESIDE[name] if plain else {}
        columns["plain Trainer" if plain else "bertkit"] = [
            {renamed.get(key, key): value for key, value in run["scores"][split].items()}
            | {"seed": run["seed"], "seconds": run["seconds"]}
            | {key: run["details"][key] for key in ("best_f1", "best_exact") if key in run.get("details", {})}
            for run in found["runs"]
        ]
        if not plain and all(run.get("argmax") for run in found["runs"]):
            columns["bertkit, argmax"] = [run["argmax"] | {"seed": run["seed"]} for run in found["runs"]]
        made.append(_made_by(found))
    if not columns:
        return NOT_MEASURED
    rows = [
        (metric, model, *_over_seeds(runs, metric))
        for metric in SHOWN
        for model, runs in columns.items()
        if all(metric in run for run in runs)
    ]
    head = ("metric", "model", "mean", "standard deviation", "each run (seed)")
    return "\n\n".join([table(head, rows), *made])


def _over_seeds(runs: Sequence[dict[str, float]], metric: str) -> tuple[str, str, str]:
    """Return mean, standard deviation (over two seeds or more) and each score of a metric."""
    values = [run[metric] for run in runs]
    spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else ""
    each = ", ".join(f"{run[metric]:.4f} ({run['seed']})" for run in runs)
    return f"{statistics.mean(values):.4f}", spread, each


def _demo_results(found: dict[str, Any]) -> str:
    linear = found["tfidf"]
    rows = [("TF-IDF + logistic regression, tuned", "", f"{linear['validation']:.4f}", f"{linear['test']:.4f}", "")]
    rows += [
        (
            "`minilm`, fine-tuned",
            run["seed"],
            f"{run['validation']:.4f}",
            f"{run['test']:.4f}",
            f"{run['seconds']:.0f} s",
        )
        for run in found["runs"]
    ]
    says = (
        f"Fine-tuned, on test: mean {found['test_mean']:.4f}, standard deviation {found['test_spread']:.4f}; "
        f"{found['points_apart']:.1f} points from the linear model."
    )
    return f"{table(('model', 'seed', 'validation accuracy', 'test accuracy', 'time of a run'), rows)}\n\n{says}"


def _memory_results(found: dict[str, Any]) -> str:
    rows = [(f"{run['rows']:,}", f"{run['peak_mb']:,.0f} MB") for run in found["runs"]]
    return f"{table(('rows', 'peak resident memory'), rows)}\n\nGrowth: {found['growth']:.1%}."


def _startup_results(found: dict[str, Any]) -> str:
    rows = [(f"`{name}`", f"{seconds:.3f} s") for name, seconds in found["median_seconds"].items()]
    parts = [table(("process", "median of ten"), rows)]
    if first := found.get("median_seconds_to_first_step"):
        rows = [(name, f"{seconds:.2f} s") for name, seconds in first.items()]
        parts.append(table(("from the command to the first training step", "median of nine"), rows))
        parts.append(f"Ratio of the medians: {found['first_step_over_plain']:.2f}.")
    return "\n\n".join(parts)


def _tokenisation_results(found: dict[str, Any]) -> str:
    names = {
        "map": "`datasets.map`, batched, in memory",
        "encode": "bertkit",
        "kept": "bertkit, taken from its cache",
    }
    rows = [
        (names[name], f"{rate:,.0f}", ", ".join(f"{each:,}" for each in found["rows_per_second"][name]))
        for name, rate in found["median_rows_per_second"].items()
    ]
    head = ("from texts to what training takes", "rows a second, median", "each round")
    return f"{found['rows']:,} rows of {found['characters'] / found['rows']:.0f} characters.\n\n{table(head, rows)}"


def _near_duplicates(found: dict[str, Any]) -> str:
    rows = [
        (
            run["name"],
            f"{run['rows']:,}",
            f"{run['characters'] / run['rows']:.0f}",
            f"{run['seconds']:.1f} s",
            f"{run['peak_mb']:,} MB",
            f"{run['exact']:,}",
            f"{run['near']:,}",
            f"{run['missed']} of {run['changed_copies']}" if "missed" in run else "",
        )
        for run in found["runs"]
    ]
    head = ("texts", "rows", "characters a row", "time", "peak memory", "exact", "near", "changed copies missed")
    return table(head, rows)


def _memory_of_training(found: dict[str, Any]) -> str:
    grown = [
        (name, f"{one['resident_mb_at_200']:,.0f} MB", f"{one['resident_mb_at_the_end']:,.0f} MB", one["steps"])
        for name, one in (
            ("a random model, 2 layers of width 64", found["growth_of_small"]),
            ("`minilm`", found["growth_of_minilm"]),
        )
    ]
    peaks = found["peak_of_training"]
    rows = [("bertkit", f"{peaks['bertkit_mb']:,.0f} MB", "")]
    rows += [
        (
            f"Trainer, as run_glue.py, {name}",
            f"{peak:,.0f} MB",
            f"{peaks['bertkit_over_trainer'][name]:.2f}",
        )
        for name, peak in peaks["trainer_mb"].items()
    ]
    parts = [
        table((f"training `minilm`, {peaks['steps']} steps", "peak memory", "bertkit's share"), rows),
        table(("resident memory while training", "at step 200", "at the last step", "last step"), grown),
    ]
    if "predicting" in found:
        parts.append(_memory_results(found["predicting"]))
    return "\n\n".join(parts)


def _training_results(found: dict[str, Any]) -> str:
    measured = found["variants"]
    shown = {"bfloat16": "bf16"}
    rows = [
        (
            name,
            f"{one['milliseconds']:,.0f}",
            f"{one['spread'][0]:,.0f} to {one['spread'][1]:,.0f}",
            f"{one['peak_mb']:,.0f} MB",
            shown.get(one["dtype"], one["dtype"]),
            f"{one['tokens']:,.0f}",
        )
        for name, one in measured.items()
    ]
    rounds = "1 round" if found["rounds"] == 1 else f"{found['rounds']} rounds"
    parts = [f"Batches of 32, {found['setting']}; {rounds}.", table(TRAINING_HEAD, rows)]
    if "without unpadding" in measured:
        whole = measured["bertkit"]
        lost = [
            (name, f"{one['milliseconds'] / whole['milliseconds']:.2f}", f"{one['peak_mb'] / whole['peak_mb']:.2f}")
            for name, one in measured.items()
            if one is not whole
        ]
        parts.append(table(("", "times as long", "times the memory"), lost))
    elif found["ratios"]:
        parts.append(
            table(("ratio of the medians", ""), [(name, f"{one:.2f}") for name, one in found["ratios"].items()])
        )
    return "\n\n".join(parts)


TRAINING_HEAD = ("", "milliseconds a step, median", "over the rounds", "peak memory", "computes in", "tokens a step")


def _precision_results(found: dict[str, Any]) -> str:
    rows = [
        (
            metric,
            *(f"{one[f'{name}_mean']:.4f} ± {one[f'{name}_standard_error']:.4f}" for name in ("bf16", "float32")),
            f"{one['difference']:+.4f}",
            f"{one['standard_errors_apart']:.1f}",
        )
        for metric, one in found["summary"].items()
    ]
    seeds = len({run["seed"] for run in found["runs"]})
    rows_said = f"{found['limit']:,} training rows" if found["limit"] else "all training rows"
    epochs = "1 epoch" if found["epochs"] == 1 else f"{found['epochs']} epochs"
    head = ("metric", "bf16, mean and standard error", "float32", "difference", "standard errors apart")
    return f"`glue/{found['task']}`, {rows_said}, {epochs}, {seeds} seeds.\n\n{table(head, rows)}"


PREDICTORS = {
    "pipeline_default": "`pipeline(batch_size=32)`, float32",
    "pipeline_best": "the same, bf16 weights, rows sorted by length",
    "bertkit_torch": "`bertkit predict`",
    "bertkit_openvino": "`bertkit predict --backend openvino`",
}


def _prediction_results(found: dict[str, Any]) -> str:
    names = {"short": f"{found['short']['rows']} texts of SST-2's lengths", "long": "texts cut at 384 tokens"}
    rows = [
        (
            names[file],
            said,
            f"{found[file]['rows_per_second'][name]:,.0f}",
            "{:,.0f} to {:,.0f}".format(*found[file]["spread"][name]),
            f"{found[file]['over_pipeline_default'][name]:.2f}",
            f"{found[file]['over_pipeline_best'][name]:.2f}",
            found[file]["labels_unlike_pipeline_default"][name],
        )
        for file in names
        for name, said in PREDICTORS.items()
    ]
    head = ["texts", "by", "rows a second", "over the rounds", "times the pipeline", "its best", "other labels"]
    return f"`minilm`, one process each, {found['rounds']} rounds.\n\n{table(head, rows)}"


def _gpu_results(found: dict[str, Any]) -> str:
    head, *rows = found["table"]
    peaks = ", ".join(f"{value:,.1f} TFLOP/s in {name}" for name, value in found["matmul_peak_tflops"].items())
    ratios = [
        (key, name, f"{value:.2f}") for key, one in found["measured"].items() for name, value in one["ratios"].items()
    ]
    rounds = "1 round" if found["rounds"] == 1 else f"{found['rounds']} rounds"
    gpu = found["machine"]["gpu"]
    return "\n\n".join(
        [
            f"{gpu['name']}, {gpu['memory_gib']} GiB, CUDA {gpu['cuda']}; {rounds}. Its matrix products: {peaks}.",
            table(head, rows),
            table(("encoder, texts", "rows a second, ratio", ""), ratios),
        ]
    )


def _pretraining_results(found: dict[str, Any]) -> str:
    trained = found["pretraining"]
    points = [
        (
            f"{one['step']:,}",
            f"{one['seconds'] / 60:.1f}",
            f"{one['tokens'] / 1e6:.1f} M",
            f"{one['mlm_loss']:.3f}",
            f"{one['perplexity']:.1f}",
            f"{one['mlm_accuracy']:.4f}",
        )
        for one in trained["curve"]
    ]
    head = ("step", "minutes of training", "tokens", "masked-LM loss", "perplexity", "accuracy")
    return "\n\n".join(
        [
            f"Held-out text; {trained['tokens_per_second']:,.0f} tokens a second.",
            table(head, points),
            *_starts(found),
        ]
    )


def _starts(found: dict[str, Any]) -> Iterator[str]:
    """Yield what fine-tuning came to from each start, where it was measured."""
    rows = [
        (
            f"`{task}`",
            one["metric"],
            start,
            f"{each['rate']:g}",
            f"{each['mean']:.4f}",
            f"{each['standard_deviation']:.4f}",
            ", ".join(f"{score:.4f}" for score in each["scores"]),
        )
        for task, one in found["summary"].items()
        for start, each in one.items()
        if isinstance(each, dict)
    ]
    if rows:
        limit = f"{found['limit']:,} training rows" if found["limit"] else "all training rows"
        yield f"Fine-tuned on {limit}, {found['epochs']} epochs; the learning rate is the best of those tried."
        head = ("task", "metric", "starts from", "learning rate", "mean", "standard deviation", "each seed")
        yield table(head, rows)


def _distillation_results(found: dict[str, Any]) -> str:
    """Return teacher and students: score over the seeds, share of the teacher's, size and speed."""
    rows = [
        (
            name,
            f"{line['mean']:.4f}",
            ", ".join(f"{score:.4f}" for score in line["scores"]) if name != "teacher" else "",
            f"{line['share_of_teacher']:.1%}",
            f"{line['parameters'] / 1e6:.1f} M",
            f"{line['megabytes']:.0f}",
            f"{line['times_as_fast']:.1f}",
        )
        for name, line in found["summary"].items()
    ]
    metric = found["lines"][0]["metric"]
    seeds = "of each seed"
    return table(("model", metric, seeds, "share of the teacher's", "parameters", "MB", "times as fast"), rows)


def _torture_results(found: dict[str, Any]) -> str:
    """Return what `make torture` came to."""
    kills = found["kills"]
    hit = table(("where a kill hit", "kills"), [*kills["where"].items(), ("together", kills["kills"])])
    types = ", ".join(f"{kind} {number}" for kind, number in kills["types"].items())
    said = (
        f"{kills['runs']} runs were gone on with to their end and compared, file by file, with one that nobody killed; "
        f"{kills['stops']} times one was stopped by SIGTERM in between. Kills by task type: {types}. "
        f"**{len(kills['failures'])} failures**, {kills['minutes']:.0f} minutes."
    )
    parts = [hit, said]
    if fuzz := found.get("fuzz"):
        inputs = [(f"`{reader}`", f"{number:,}") for reader, number in fuzz["inputs"].items()]
        parts.append(table(("fuzzed", "inputs"), inputs))
        parts.append(f"**{fuzz['findings']} findings**, {fuzz['minutes']:g} minutes.")
    return "\n\n".join(parts)


def _whole_table(found: dict[str, Any]) -> str:
    """Return the table that a benchmark made itself."""
    return "\n".join(found["table"])


RENDERED: dict[str, Callable[[dict[str, Any]], str]] = {
    "demo_reviews": _demo_results,
    "distillation": _distillation_results,
    "precision_rte": _precision_results,
    "precision_sst2": _precision_results,
    "gpu": _gpu_results,
    "memory": _memory_of_training,
    "prediction": _prediction_results,
    "near_duplicates": _near_duplicates,
    "pretraining": _pretraining_results,
    "domain_adaptation": _pretraining_results,
    "predict_memory": _memory_results,
    "startup": _startup_results,
    "tokenisation": _tokenisation_results,
    **dict.fromkeys(
        ("frozen_epochs", "frozen_layers_wnut17", "frozen_layers_ud_ewt", "feature_based_demo", "feature_based_wnut17"),
        _whole_table,
    ),
    "torture": _torture_results,
    **dict.fromkeys(
        ("training_sst2", "training_windows", "training_base", "training_sst2_removed", "training_windows_removed"),
        _training_results,
    ),
}


def _made_by(found: dict[str, Any]) -> str:
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"`{found['command']}`, {machine['date']}, {machine['cores']} cores of {machine['processor']}, "
        f"{machine['memory_gib']} GiB; Python {machine['python']}, {versions}."
    )


PARTS: dict[str, Callable[..., str]] = {
    "help": help_,
    "config": config,
    "task-keys": task_keys,
    "options": options,
    "tasks": tasks,
    "families": families,
    "errors": errors,
    "layers": layers,
    "measured": measured,
    "results": results,
}


# Files -----------------------------------------------------------------------------------------------------------


def pages() -> list[Path]:
    """Return every file that may have generated parts."""
    docs = (file for file in (ROOT / "docs").rglob("*.md") if "_build" not in file.parts)
    return [ROOT / "README.md", *sorted(docs)]


def generated(text: str) -> str:
    """Return a page with its generated parts made anew."""

    def part(match: re.Match[str]) -> str:
        kind, _, argument = match["name"].partition(" ")
        made = PARTS[kind](argument) if argument else PARTS[kind]()
        return f"{match['begin']}{made}\n{match['end']}"

    return PART.sub(part, text)


def stale() -> dict[Path, str]:
    """Return the pages whose generated parts are not what they should be, with what they should be."""
    wanted = {page: generated(page.read_text(encoding="utf-8")) for page in pages()}
    return {page: text for page, text in wanted.items() if text != page.read_text(encoding="utf-8")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a file is stale")
    check = parser.parse_args().check
    found = stale()
    for page, text in found.items():
        sys.stderr.write(
            f"{page.relative_to(ROOT)} {'is stale: run python docs/generate.py' if check else 'written'}\n"
        )
        if not check:
            page.write_text(text, encoding="utf-8")
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main())
