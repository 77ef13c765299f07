"""Token tagging written plainly on ``transformers.Trainer``: what bertkit's tagging is measured against.

python -m benchmarks.plain_tagging wnut17 --data DIR --seeds 1,2,3
python -m benchmarks.plain_tagging ud_ewt --data DIR --seeds 1

DIR holds the files as their authors distribute them. The recipe has bertkit's defaults: first sub-token labelled,
cut at 128 tokens, argmax, the best epoch by validation. Nothing of bertkit is used but the way to an encoder's folder.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    set_seed,
)

from benchmarks import machine
from bertkit import encoder

WNUT17 = {"train": "wnut17train.conll", "dev": "emerging.dev.conll", "test": "emerging.test.annotated"}
UD_EWT = {"train": "en_ewt-ud-train.conllu.gz", "dev": "en_ewt-ud-dev.conllu.gz"}
MAX_LENGTH = 128
METRICS = ("eval_f1", "eval_precision", "eval_recall", "eval_tag_accuracy")
Sentence = tuple[list[str], list[str]]
Entity = tuple[int, int, str]


def read_conll(path: Path) -> list[Sentence]:
    """Read ``token TAB tag`` lines; a line that is empty or holds only a tab ends a sentence."""
    sentences: list[Sentence] = [([], [])]
    for line in path.read_text(encoding="utf-8").split("\n"):
        token, _, tag = line.partition("\t")
        if token:
            sentences[-1][0].append(token)
            sentences[-1][1].append(tag)
        elif sentences[-1][0]:
            sentences.append(([], []))
    return [sentence for sentence in sentences if sentence[0]]


def read_conllu(path: Path) -> list[Sentence]:
    """Read words and UPOS; multiword tokens (``3-4``) and empty nodes (``5.1``) are no words."""
    sentences = []
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        for block in file.read().split("\n\n"):
            rows = [line.split("\t") for line in block.split("\n") if line and not line.startswith("#")]
            words = [row for row in rows if row[0].isdigit()]
            if words:
                sentences.append(([row[1] for row in words], [row[3] for row in words]))
    return sentences


def entities(tags: Sequence[str]) -> set[Entity]:
    """Return (start, end, type) as conlleval reads BIO: ``I-`` after ``O`` or another type begins an entity too."""
    found, start = set(), 0
    for i, tag in enumerate([*tags, "O"]):
        before = tags[i - 1] if i else "O"
        if before != "O" and (tag[0] != "I" or tag[2:] != before[2:]):
            found.add((start, i, before[2:]))
        if tag != "O" and (tag[0] == "B" or before == "O" or tag[2:] != before[2:]):
            start = i
    return found


def score(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return tag accuracy and, for BIO tags, entity precision, recall and F1."""
    pairs = [pair for truth, guess in zip(gold, predicted, strict=True) for pair in zip(truth, guess, strict=True)]
    scores = {"tag_accuracy": sum(truth == guess for truth, guess in pairs) / len(pairs)}
    if any(truth == "O" for truth, _ in pairs):
        truths, guesses = [entities(tags) for tags in gold], [entities(tags) for tags in predicted]
        right = sum(len(truth & guess) for truth, guess in zip(truths, guesses, strict=True))
        precision = right / max(1, sum(map(len, guesses)))
        recall = right / max(1, sum(map(len, truths)))
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        scores |= {"precision": precision, "recall": recall, "f1": f1}
    return scores


def first_tokens(word_ids: Sequence[int | None]) -> dict[int, int]:
    """Return token -> word for the first token of every word that has one."""
    return {i: word for i, word in enumerate(word_ids) if word is not None and word not in word_ids[:i]}


def encode(
    sentences: Sequence[Sentence], tokenizer: Any, labels: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[int, int]]]:
    """Tokenize word lists; return the features and, for each sentence, first token -> word.

    The first token of a word carries its label, every other token -100, which the loss leaves out.
    """
    words = [tokens for tokens, _ in sentences]
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=MAX_LENGTH)
    features, firsts = [], []
    for i, (_, tags) in enumerate(sentences):
        first = first_tokens(encoded.word_ids(i))
        row = {name: values[i] for name, values in encoded.items()}
        row["labels"] = [labels.index(tags[first[t]]) if t in first else -100 for t in range(len(row["input_ids"]))]
        features.append(row)
        firsts.append(first)
    return features, firsts


def tags_of(predicted: EvalPrediction, sentences: Sequence[Sentence], words: Sequence[Any], labels: Any) -> list[Any]:
    """Return one tag a word; a word without a token, or past the limit, is ``O`` (where there is no O: nothing)."""
    missing = "O" if "O" in labels else ""
    found = [[missing] * len(tokens) for tokens, _ in sentences]
    for row, first, ids in zip(found, words, predicted.predictions, strict=True):
        for token, word in first.items():
            row[word] = labels[ids[token]]
    return found


def encoder_folder(name: str) -> Path:
    """Return the folder of an installed encoder or of a saved model."""
    return encoder.find(name, offline=True).folder


def load_tokenizer(folder: Path) -> Any:
    """Load a tokenizer without the truncation and padding that its file may carry."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def fast_bf16() -> bool:
    """Say whether the processor has bf16 instructions: bertkit's rule for autocast."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


def arguments(out: str, seed: int, epochs: int, metric: str = "") -> TrainingArguments:
    """Return bertkit's default recipe; with a ``metric``, every epoch is scored and the best one kept."""
    best = {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_only_model": True,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": metric,
        "greater_is_better": True,
    }
    return TrainingArguments(
        output_dir=out,
        learning_rate=5e-5,
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=32,
        weight_decay=0.01,
        max_grad_norm=1.0,
        warmup_steps=0.1,  # below 1 it is a share of all steps
        lr_scheduler_type="linear",
        use_cpu=True,
        bf16=fast_bf16(),
        seed=seed,
        logging_strategy="epoch",
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=False,
        **(best if metric else {"save_strategy": "no"}),
    )


def train(data: dict[str, list[Sentence]], folder: Path, seed: int) -> dict[str, Any]:
    """Train once and score the best epoch on the last split."""
    started = time.perf_counter()
    tokenizer = load_tokenizer(folder)
    labels = sorted({tag for _, tags in data["train"] for tag in tags}, key=lambda tag: (tag != "O", tag))
    set_seed(seed)
    model = AutoModelForTokenClassification.from_pretrained(
        folder,
        dtype=torch.float32,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    encoded = {name: encode(sentences, tokenizer, labels) for name, sentences in data.items()}
    features, words = ({name: pair[i] for name, pair in encoded.items()} for i in (0, 1))

    def scores_of(predicted: EvalPrediction, name: str) -> dict[str, float]:
        found = tags_of(predicted, data[name], words[name], labels)
        return score([tags for _, tags in data[name]], found)

    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(
            model=model,
            args=arguments(out, seed, 3, "f1" if "O" in labels else "tag_accuracy"),
            train_dataset=features["train"],
            eval_dataset=features["dev"],
            data_collator=DataCollatorForTokenClassification(tokenizer),
            compute_metrics=partial(scores_of, name="dev"),
            preprocess_logits_for_metrics=lambda logits, _: logits.argmax(-1),
        )
        trained = trainer.train()
        dev = [{k[5:]: v for k, v in log.items() if k in METRICS} for log in trainer.state.log_history]
        name = list(data)[-1]
        trainer.compute_metrics = None
        final = scores_of(trainer.predict(features[name]), name)
    return {
        "seed": seed,
        "scores": {name: final},
        "dev_by_epoch": [row for row in dev if row],
        "words_not_seen": {n: sum(len(s[0]) for s in data[n]) - sum(map(len, words[n])) for n in data},
        "train_seconds": round(trained.metrics["train_runtime"], 1),
        "seconds": round(time.perf_counter() - started, 1),
    }


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return mean and standard deviation over the seeds of every score of every split."""
    return {
        split: {
            name: {
                "mean": statistics.mean(run["scores"][split][name] for run in runs),
                "spread": statistics.stdev([run["scores"][split][name] for run in runs]) if len(runs) > 1 else 0.0,
            }
            for name in scores
        }
        for split, scores in runs[0]["scores"].items()
    }


def each_seed(name: str, command: str, seeds: str, train: Callable[[int], dict[str, Any]], **facts: Any) -> None:
    """Train with every seed and write the result after each; seeds that the result file has are not run again."""
    path = machine.RESULTS / f"{name}.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"command": ""}
    runs = stored["runs"] if stored["command"].startswith(f"{command} --seeds") else []
    for seed in map(int, seeds.split(",")):
        if all(run["seed"] != seed for run in runs):
            runs.append(train(seed))
            done = ",".join(str(run["seed"]) for run in runs)
            facts |= {"precision": "bf16" if fast_bf16() else "float32", "threads": torch.get_num_threads()}
            machine.write(name, f"{command} --seeds {done}", {**facts, "runs": runs, "summary": summary(runs)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_set", choices=["wnut17", "ud_ewt"])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--seeds", default="1,2,3")
    given = parser.parse_args()
    read, files = {"wnut17": (read_conll, WNUT17), "ud_ewt": (read_conllu, UD_EWT)}[given.data_set]
    data = {name: read(given.data / file) for name, file in files.items()}
    sizes = {n: {"sentences": len(rows), "words": sum(len(words) for words, _ in rows)} for n, rows in data.items()}
    command = f"python -m benchmarks.plain_tagging {given.data_set} --data DIR --encoder {given.encoder}"
    folder = encoder_folder(given.encoder)
    each_seed(f"plain_{given.data_set}", command, given.seeds, lambda seed: train(data, folder, seed), sizes=sizes)


if __name__ == "__main__":
    main()
