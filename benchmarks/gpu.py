"""Training and prediction on a GPU: bertkit beside ``transformers.Trainer``, its defaults and its best settings.

python -m benchmarks.gpu                        some minutes on one GPU; without one: "not measured: no GPU"
python -m benchmarks.gpu --compiled --rounds 3
python -m benchmarks.gpu --device cpu --quick   a proof that it runs, on a tiny random model; measures nothing

minilm and a random model as large as bert-base, on texts as long as SST-2's and as windows of SQuAD. Every variant runs
in a process of its own (``benchmarks.gpu_variant``), A B A B; medians and spread over steps and rounds. The share of
the peak is that of the operations on real tokens, in the fastest bf16 product that was measured on the same GPU.
Writes ``results/gpu.json`` and ``results/gpu.md``; a proof is printed only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel

from benchmarks import gpu_variant, machine
from benchmarks.plain_glue import base_sized
from benchmarks.plain_tagging import encoder_folder, load_tokenizer

NAMES = {
    "trainer_default": "Trainer, its defaults",
    "trainer_best": "Trainer, its best settings",
    "trainer_compiled": "Trainer, its best settings, compiled",
    "bertkit_default": "bertkit, its defaults",
    "bertkit_best": "bertkit, without padding, grouped",
    "bertkit_compiled": "bertkit, padded, grouped, compiled",
}
TEXTS = {"sst2": ("SST-2's", 128), "windows": ("SQuAD's windows", 384)}
"""Kind of texts -> whose lengths they have, and tokens at most."""
ENCODERS = {"minilm": "`minilm`", "base": "as large as bert-base, random", "tiny": "a tiny one, random"}
HEAD = (
    *("encoder", "texts as long as", "", "ms a step, median", "10 % to 90 %", "rows a second", "tokens a second"),
    *("of the matmul peak", "peak memory", "predicts rows a second", "of the peak", "peak memory"),
)


BATCH: int = gpu_variant.parser().get_default("batch")
"""Rows of a step, but for --quick."""


def tiny(folder: Path) -> Path:
    """Save a random BERT of two narrow layers, with minilm's tokenizer."""
    tokenizer = load_tokenizer(encoder_folder("minilm"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def one(variant: str, *options: str) -> dict[str, Any]:
    """Run one variant in a process of its own and return what it printed."""
    whole = [sys.executable, "-m", "benchmarks.gpu_variant", variant, *options]
    ended = subprocess.run(whole, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(whole)}\n{ended.stderr}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def summary(runs: list[dict[str, Any]], peak: float) -> dict[str, Any]:
    """Return rates, spreads and shares of a variant over its rounds.

    Args:
        runs: what ``gpu_variant`` printed, a round each.
        peak: operations a second of the fastest bf16 product.
    """
    steps = sorted(each for run in runs for each in run["step_ms"])
    epochs = [sum(run["step_ms"]) / 1000 for run in runs]
    passes = [second for run in runs for second in run["predict"]["seconds"]]
    seconds, passing, first = statistics.median(epochs), statistics.median(passes), runs[0]
    medians = [statistics.median(run["step_ms"]) for run in runs]
    return {
        "step_ms": round(statistics.median(steps), 3),
        "spread": [round(steps[len(steps) // 10], 3), round(steps[-1 - len(steps) // 10], 3)],
        "rounds": [round(min(medians), 3), round(max(medians), 3)],
        "examples_per_second": round(first["examples"] / seconds, 1),
        "tokens_per_second": round(first["tokens"] / seconds),
        # A backward pass is two forward passes of products.
        "share_of_peak": round(3 * first["flops"] / seconds / peak, 4),
        "peak_mb": round(statistics.median(run["train_peak_mb"] for run in runs)),
        "predicted_per_second": round(first["examples"] / passing, 1),
        "predicted_tokens_per_second": round(first["tokens"] / passing),
        "predicting_share_of_peak": round(first["flops"] / passing / peak, 4),
        "predicting_peak_mb": round(statistics.median(run["predict"]["peak_mb"] for run in runs)),
        "dtypes": first["dtypes"],
        "layers": first["layers"],
    }


def line(encoder: str, texts: str, variant: str, found: dict[str, Any]) -> list[str]:
    """Return a line of the table, under :data:`HEAD`."""
    low, high = found["spread"]
    return [
        ENCODERS.get(encoder, "a given one"),
        TEXTS[texts][0],
        NAMES[variant],
        f"{found['step_ms']:,.1f}",
        f"{low:,.1f} to {high:,.1f}",
        f"{found['examples_per_second']:,.0f}",
        f"{found['tokens_per_second']:,}",
        f"{found['share_of_peak']:.1%}",
        f"{found['peak_mb']:,} MB",
        f"{found['predicted_per_second']:,.0f}",
        f"{found['predicting_share_of_peak']:.1%}",
        f"{found['predicting_peak_mb']:,} MB",
    ]


def ratios(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return how many times as many rows a second bertkit's best takes as each of Trainer's."""
    best = found["bertkit_best"]
    return {
        f"{what}, bertkit_best / {name}": round(best[key] / found[name][key], 2)
        for what, key in (("training", "examples_per_second"), ("predicting", "predicted_per_second"))
        for name in found
        if name.startswith("trainer_")
    }


def whole(
    runs: dict[tuple[str, str], dict[str, list[dict[str, Any]]]],
    peaks: dict[str, float],
    rounds: int,
    batch: int = BATCH,
) -> dict[str, Any]:
    """Return the result: medians of each workload and variant, ratios, and the table of the documentation."""
    measured = {key: {name: summary(some, peaks["bf16"]) for name, some in each.items()} for key, each in runs.items()}
    return {
        "rounds": rounds,
        "batch": batch,
        "matmul_peak_tflops": {name: round(value / 1e12, 2) for name, value in peaks.items()},
        "measured": {", ".join(key): {**found, "ratios": ratios(found)} for key, found in measured.items()},
        "table": [
            list(HEAD),
            *(line(*key, name, one) for key, found in measured.items() for name, one in found.items()),
        ],
        "runs": {", ".join(key): each for key, each in runs.items()},
    }


def markdown(result: dict[str, Any], facts: dict[str, Any], command: str) -> str:
    """Return the table with what made it."""
    head, *rows = result["table"]
    lines = [head, ["---"] * len(head), *rows]
    peaks = ", ".join(f"{name} {value:,.1f}" for name, value in result["matmul_peak_tflops"].items())
    gpu = facts.get("gpu") or {"name": "no GPU: a proof that it runs, no measurement"}
    return "\n".join(
        [
            f"# {gpu['name']}, {facts['date']}",
            "",
            *("| " + " | ".join(each) + " |" for each in lines),
            "",
            f"Batches of {result['batch']}, {result['rounds']} rounds. Matrix products, TFLOP/s: {peaks}.",
            "",
            f"`{command}`",
            "",
        ]
    )


def measure(given: argparse.Namespace, folder: Path, command: str) -> dict[str, Any]:
    """Measure all workloads, and write what there is after each round."""
    quick, batch = (["--quick"], 4) if given.quick else ([], BATCH)
    peaks = one("peak", "--device", given.device, *quick)
    encoders = (
        {"tiny": tiny(folder / "tiny")} if given.quick else {"minilm": "minilm", "base": base_sized(folder / "base")}
    )
    variants = [name for name in NAMES if given.compiled or not name.endswith("compiled")]
    runs: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {
        (encoder, texts): {name: [] for name in variants} for encoder in encoders for texts in TEXTS
    }
    result: dict[str, Any] = {}
    for number in range(given.rounds):
        for (encoder, texts), found in runs.items():
            options = ["--encoder", str(encoders[encoder]), "--texts", texts, "--length", str(TEXTS[texts][1])]
            options += ["--device", given.device, "--batch", str(batch), *(["--rows", "16", *quick] if quick else [])]
            for name in variants:
                found[name].append(one(name, *options))
                step = statistics.median(found[name][-1]["step_ms"])
                sys.stderr.write(f"round {number + 1} of {given.rounds}, {encoder}, {texts}, {name}: {step:.1f} ms\n")
        result = whole(runs, peaks, number + 1, batch)
        if not given.quick:
            machine.write("gpu", command, result)
            text = markdown(result, machine.describe(), command)
            (machine.RESULTS / "gpu.md").write_text(text, encoding="utf-8")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="a tiny model and 16 rows: only try it")
    parser.add_argument("--rounds", type=int, help="of all variants; 2, and 1 with --quick")
    parser.add_argument("--compiled", action="store_true", help="also with torch.compile, which takes minutes more")
    given = parser.parse_args()
    given.rounds = given.rounds or (1 if given.quick else 2)
    if given.device == "cpu" and not given.quick:
        parser.error("a CPU only shows that it runs: --device cpu --quick")
    if given.device == "cuda" and not torch.cuda.is_available():
        print("not measured: no GPU")
        return
    command = f"python -m benchmarks.gpu --rounds {given.rounds}{' --compiled' * given.compiled}"
    with tempfile.TemporaryDirectory() as folder:
        result = measure(given, Path(folder), command)
    if given.quick:
        command += f" --device {given.device} --quick"
        print(json.dumps({key: value for key, value in result.items() if key != "runs"}, indent=2))
    print(markdown(result, machine.describe(), command))


if __name__ == "__main__":
    main()
