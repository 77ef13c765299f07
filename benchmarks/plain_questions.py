"""Span question answering written plainly on ``transformers.Trainer``: what bertkit's is measured against.

python -m benchmarks.plain_questions squad --data DIR --seeds 1,2,3
python -m benchmarks.plain_questions squad2 --data DIR --seeds 1,2,3

DIR holds dev-v1.1.json.gz, dev-v2.0.json.gz and article_halves.json, whose halfA trains and whose halfB is scored: NOT
the official setting, since SQuAD's train is not used. The recipe is the usual one: windows of 256 tokens with 128 of
overlap, the model's own loss, answers from the 20 best starts and ends of every window, at most 30 tokens long.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import re
import string
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, Trainer, set_seed

from benchmarks.plain_tagging import arguments, each_seed, encoder_folder, load_tokenizer

FILES = {"squad": "dev-v1.1.json.gz", "squad2": "dev-v2.0.json.gz"}
MAX_LENGTH, STRIDE, NUM_BEST, MAX_ANSWER = 256, 128, 20, 30
PUNCTUATION = str.maketrans("", "", string.punctuation)


def read(folder: Path, file: str) -> dict[str, list[dict[str, Any]]]:
    """Return the questions of both halves, by article title."""
    halves = json.loads((folder / "article_halves.json").read_text(encoding="utf-8"))
    with gzip.open(folder / file, "rt", encoding="utf-8") as opened:
        articles = json.load(opened)["data"]
    return {
        half: [row for article in articles if article["title"] in halves[half] for row in rows_of(article)]
        for half in ("halfA", "halfB")
    }


def rows_of(article: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Flatten one article."""
    for paragraph in article["paragraphs"]:
        for qa in paragraph["qas"]:
            yield {
                "id": qa["id"],
                "question": qa["question"].strip(),
                "context": paragraph["context"],
                "answers": [(answer["text"], answer["answer_start"]) for answer in qa["answers"]],
            }


def choose(rows: Sequence[dict[str, Any]], number: int, seed: int) -> list[dict[str, Any]]:
    """Take ``number`` questions after a seeded shuffle: the ones that ``bertkit finetune --limit`` takes."""
    chosen = np.random.default_rng(seed).permutation(len(rows))[:number]
    return [rows[i] for i in sorted(chosen)]


def encode(rows: Sequence[dict[str, Any]], tokenizer: Any, *, train: bool) -> tuple[list[Any], list[Any]]:
    """Cut question and context into windows; return the features and (row, offsets in the context or None) of each.

    A window that does not hold the first answer whole is labelled with its [CLS].
    """
    encoded = tokenizer(
        [row["question"] for row in rows],
        [row["context"] for row in rows],
        truncation="only_second",
        max_length=MAX_LENGTH,
        stride=STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    features, windows = [], []
    for i, row_index in enumerate(encoded["overflow_to_sample_mapping"]):
        parts = encoded.sequence_ids(i)
        offsets = [pair if part == 1 else None for pair, part in zip(encoded["offset_mapping"][i], parts, strict=True)]
        feature = {name: encoded[name][i] for name in tokenizer.model_input_names}
        if train:
            start, end = positions(rows[row_index]["answers"], offsets)
            feature |= {"start_positions": start, "end_positions": end}
        features.append(feature)
        windows.append((row_index, offsets))
    tokenizer.backend_tokenizer.no_truncation()
    return features, windows


def positions(answers: Sequence[tuple[str, int]], offsets: Sequence[Any]) -> tuple[int, int]:
    """Return first and last token of the first answer, or 0, 0 ([CLS])."""
    if not answers:
        return 0, 0
    text, start = answers[0]
    end = start + len(text)
    inside = [i for i, pair in enumerate(offsets) if pair is not None]
    if offsets[inside[0]][0] > start or offsets[inside[-1]][1] < end:
        return 0, 0
    first = max(i for i in inside if offsets[i][0] <= start)
    last = min(i for i in inside if offsets[i][1] >= end)
    return first, last


def spans(start: np.ndarray, end: np.ndarray, offsets: Sequence[Any]) -> Iterator[tuple[float, int, int]]:
    """Yield score, first and last character of every valid span among the best starts and ends of a window."""
    ends = np.argsort(end)[::-1][:NUM_BEST].tolist()
    for first in np.argsort(start)[::-1][:NUM_BEST].tolist():
        for last in ends:
            if first <= last < min(first + MAX_ANSWER, len(offsets)) and offsets[first] and offsets[last]:
                yield float(start[first] + end[last]), offsets[first][0], offsets[last][1]


def answers_of(rows: Sequence[dict[str, Any]], windows: Sequence[Any], start: Any, end: Any) -> list[tuple[str, float]]:
    """Return the best answer of every question over its windows, and by how much [CLS] scores above it."""
    best: list[tuple[float, int, int]] = [(float("-inf"), 0, 0)] * len(rows)
    null = [float("inf")] * len(rows)
    for (row, offsets), window_start, window_end in zip(windows, start, end, strict=True):
        null[row] = min(null[row], float(window_start[0] + window_end[0]))
        best[row] = max([best[row], *spans(window_start, window_end, offsets)], key=lambda span: span[0])
    return [(rows[i]["context"][a:b], null[i] - score) for i, (score, a, b) in enumerate(best)]


def normalise(text: str) -> str:
    """Lower-case; drop punctuation, articles and extra white space (the official SQuAD script's rule)."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION)).split())


def word_f1(gold: str, answer: str) -> float:
    """Return the F1 of the words of two normalised texts; of an empty one, whether both are."""
    truth, guess = gold.split(), answer.split()
    same = sum((collections.Counter(truth) & collections.Counter(guess)).values())
    if not truth or not guess:
        return float(truth == guess)
    return 2 * same / (len(truth) + len(guess))


def score(rows: Sequence[dict[str, Any]], answers: Sequence[str]) -> list[tuple[float, float]]:
    """Return exact match and F1 of every question, each the best over its gold answers."""
    scores = []
    for row, answer in zip(rows, answers, strict=True):
        golds = [gold for gold in (normalise(text) for text, _ in row["answers"]) if gold] or [""]
        guess = normalise(answer)
        scores.append((float(guess in golds), max(word_f1(gold, guess) for gold in golds)))
    return scores


def means(scores: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return exact match and F1 in 0..100."""
    return dict(zip(("exact_match", "f1"), (100 * np.mean(scores, axis=0)).tolist(), strict=True))


def best_threshold(gains: Sequence[float], answerable: Sequence[bool], above: Sequence[float]) -> tuple[float, float]:
    """Return the best mean score over all thresholds, in 0..100, and that threshold.

    Args:
        gains: score of the answer of every question, were it given.
        answerable: whether the question has an answer; without one, silence scores 1.
        above: null score minus answer score.
    """
    total = sum(not has for has in answerable)
    best, threshold = total, 0.0
    for i in np.argsort(above, kind="stable").tolist():
        total += gains[i] if answerable[i] else -1
        if total > best:
            best, threshold = total, above[i]
    return 100 * best / len(gains), threshold


def score_unanswerable(rows: Sequence[dict[str, Any]], answers: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Return the scores at threshold 0, those of each kind of question, and the best over all thresholds."""
    has = [bool(row["answers"]) for row in rows]
    at_zero = score(rows, ["" if above > 0 else text for text, above in answers])
    result = means(at_zero)
    for kind, wanted in (("has_answer", True), ("no_answer", False)):
        part = means([pair for pair, is_answerable in zip(at_zero, has, strict=True) if is_answerable == wanted])
        result |= {f"{kind}_{name}": value for name, value in part.items()}
    given, above = score(rows, [text for text, _ in answers]), [gap for _, gap in answers]
    for i, name in enumerate(("exact_match", "f1")):
        best, threshold = best_threshold([pair[i] for pair in given], has, above)
        result |= {f"best_{name}": best, f"best_{name}_threshold": threshold}
    return result


def train(data: dict[str, Any], folder: Path, seed: int, number: int, *, unanswerable: bool) -> dict[str, Any]:
    """Train one epoch on questions of halfA and score all of halfB."""
    started = time.perf_counter()
    tokenizer = load_tokenizer(folder)
    set_seed(seed)
    model = AutoModelForQuestionAnswering.from_pretrained(folder, dtype=torch.float32)
    features, _ = encode(choose(data["halfA"], number, seed), tokenizer, train=True)
    asked, windows = encode(data["halfB"], tokenizer, train=False)
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(
            model=model,
            args=arguments(out, seed, 1),
            train_dataset=features,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trained = trainer.train()
        # Longest first, so that a batch holds windows of a like length.
        order = sorted(range(len(asked)), key=lambda i: -len(asked[i]["input_ids"]))
        start, end = trainer.predict([asked[i] for i in order]).predictions[:2]
    answers = answers_of(data["halfB"], [windows[i] for i in order], start, end)
    always = means(score(data["halfB"], [text for text, _ in answers]))
    scores = score_unanswerable(data["halfB"], answers) if unanswerable else always
    return {
        "seed": seed,
        "scores": {"halfB": scores},
        "windows": {"train": len(features), "halfB": len(asked)},
        "train_seconds": round(trained.metrics["train_runtime"], 1),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_set", choices=list(FILES))
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--train-questions", default=1500, type=int)
    given = parser.parse_args()
    data = read(given.data, FILES[given.data_set])
    command = f"python -m benchmarks.plain_questions {given.data_set} --data DIR --encoder {given.encoder}"
    command += f" --train-questions {given.train_questions}"
    folder, unanswerable = encoder_folder(given.encoder), given.data_set == "squad2"
    each_seed(
        f"plain_{given.data_set}",
        command,
        given.seeds,
        lambda seed: train(data, folder, seed, given.train_questions, unanswerable=unanswerable),
        questions={half: len(rows) for half, rows in data.items()},
    )


if __name__ == "__main__":
    main()
