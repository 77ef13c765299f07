"""The one conftest: a tiny encoder, small data, a run folder; sockets other than loopback are refused."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# A shell's background job ignores Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# No test may find what another one, or the user, has kept.
os.environ["BERTKIT_CACHE"] = ""

# No test may depend on speed.
hypothesis.settings.register_profile("bertkit", deadline=None)
hypothesis.settings.load_profile("bertkit")

ROOT = Path(__file__).parents[1]
LOOPBACK = {"127.0.0.1", "::1", "localhost"}
GOOD = ["good", "fine", "warm", "bright"]
BAD = ["bad", "dull", "cold", "grey"]
OTHER = ["the", "film", "a", "was", "very", "tool", "meal", "and", "we", "it"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *OTHER]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and (not isinstance(address, tuple) or address[0] not in LOOPBACK):
            raise AssertionError(f"a test asked the network: {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def save_tiny_bert(folder: Path, *, seed: int = 0, **changes: object) -> Path:
    """Write a 2-layer BERT body of random weights and a word-level WordPiece tokenizer of 23 words."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(WORDS)}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = BertNormalizer(lowercase=True)
    backend.pre_tokenizer = BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    sizes = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(seed)
    model = BertModel(BertConfig(**{**sizes, **changes}))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_characters(folder: Path, text: str) -> Path:
    """Write a tiny BERT whose WordPiece tokenizer knows the characters of a text, as Chinese BERTs do."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    characters = sorted({*text.lower()} - {*" \t\n"})
    words = [*WORDS[:5], *characters, *(f"##{c}" for c in characters if c.isascii())]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)}, model_max_length=128)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=128, **sizes)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def reviews(number: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Return invented rows whose label can be read off one of their words."""
    rng = random.Random(seed)
    rows = []
    for index in range(number):
        label = ("negative", "positive")[index % 2]
        words = [*rng.choices(OTHER, k=rng.randint(1, 8)), rng.choice(GOOD if label == "positive" else BAD)]
        rng.shuffle(words)
        rows.append({"text": " ".join(words), "label": label})
    return rows


def write_jsonl(path: Path, rows: list[dict[str, object]] | list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sentences(number: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return invented sentences whose tags can be read off their words.

    The first two words of GOOD begin an entity JOY, the others go on with one; so do those of BAD with WOE.
    """
    rng = random.Random(seed)
    rows = []
    for _ in range(number):
        tokens = rng.choices(OTHER, k=rng.randint(2, 8))
        tags = ["O"] * len(tokens)
        for kind, words in rng.sample([("JOY", GOOD), ("WOE", BAD)], k=rng.randint(0, 2)):
            length = rng.randint(1, 2)
            place = rng.choice([n for n, tag in enumerate(tags) if tag == "O"])
            tokens[place:place] = [rng.choice(words[:2]), rng.choice(words[2:])][:length]
            tags[place:place] = [f"B-{kind}", f"I-{kind}"][:length]
        rows.append({"tokens": tokens, "tags": tags})
    return rows


def questions(number: int, *, unanswered: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Return invented questions in the Hub's layout of SQuAD, five an article; the answer is the one word of GOOD.

    Args:
        number: of questions.
        unanswered: each so many-th question has no answer, and a word of BAD in its place; 0 is none.
        seed: of the draw.
    """
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for index in range(number):
        none = bool(unanswered) and index % unanswered == unanswered - 1
        words = rng.choices(OTHER, k=rng.randint(4, 14))
        answer = rng.choice(BAD if none else GOOD)
        words.insert(rng.randint(0, len(words)), answer)
        context = " ".join(words)
        start = len(" ".join(words[: words.index(answer)])) + bool(words.index(answer))
        answers = {"text": [] if none else [answer], "answer_start": [] if none else [start]}
        rows.append(
            {"id": f"q{index}", "title": f"T{index // 5}", "context": context, "question": "was it", "answers": answers}
        )
    return rows


def run_on_terminal(command: Sequence[str], folder: Path, *, stdout: Path | None = None) -> tuple[int, bytes]:
    """Run a command on a terminal of 200 columns; return its exit code and all that it wrote there.

    Args:
        command: with its arguments.
        folder: that it runs in.
        stdout: file for its stdout, where that is no terminal.
    """
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "200", "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    with ExitStack() as opened:
        out = opened.enter_context(stdout.open("wb")) if stdout else theirs
        about: dict[str, Any] = {"stdin": theirs, "stdout": out, "stderr": theirs}
        process = opened.enter_context(subprocess.Popen(command, cwd=folder, env=environment, **about))
        os.close(theirs)
        shown = b""
        # Linux ends the reading of a terminal that nobody writes to any more by an error, others by nothing.
        with suppress(OSError):
            while part := os.read(ours, 65536):
                shown += part
        os.close(ours)
        return process.wait(900), shown


def write_conll(path: Path, rows: list[dict[str, Any]], *, columns: int = 2) -> Path:
    """Write words in the first column and tags in the last, with ``-`` between them."""
    between = "- " * (columns - 2)
    blocks = (
        "".join(f"{token} {between}{tag}\n" for token, tag in zip(r["tokens"], r["tags"], strict=True)) for r in rows
    )
    path.write_text("\n".join(blocks), encoding="utf-8")
    return path


def write_squad(path: Path, rows: list[dict[str, Any]], *, impossible: bool = False) -> Path:
    """Write questions as SQuAD's nested JSON, one paragraph each; 2.0 where ``impossible``."""
    articles: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        answers = [dict(zip(row["answers"], pair, strict=True)) for pair in zip(*row["answers"].values(), strict=True)]
        question = {"id": row["id"], "question": row["question"], "answers": answers}
        question |= {"is_impossible": not answers} if impossible else {}
        articles.setdefault(row["title"], []).append({"context": row["context"], "qas": [question]})
    data = [{"title": title, "paragraphs": paragraphs} for title, paragraphs in articles.items()]
    path.write_text(json.dumps({"version": "x", "data": data}, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("encoder") / "tiny-bert")


@pytest.fixture
def reviews_file(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "reviews.jsonl", reviews(80))


@pytest.fixture(scope="session")
def finished_run(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a run folder with a trained tiny model in it; tests must not change it."""
    import bertkit

    folder = tmp_path_factory.mktemp("finished")
    data = write_jsonl(folder / "reviews.jsonl", reviews(160))
    result = bertkit.finetune(
        data,
        encoder=tiny_encoder,
        runs=folder / "runs",
        settings={"train.learning_rate": 5e-3, "train.epochs": 4, "train.batch_size": 8, "train.max_length": 64},
        precision="float32",
        threads=1,
    )
    return result.run


LEARNING = {"train.learning_rate": 5e-3, "train.batch_size": 8, "train.max_length": 64}
"""Settings by which the tiny encoder learns the invented data in seconds."""


@pytest.fixture(scope="session")
def tagging_run(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder of a trained tagger; tests must not change it."""
    import bertkit

    folder = tmp_path_factory.mktemp("tagging")
    data = write_conll(folder / "sentences.conll", sentences(160))
    settings = LEARNING | {"train.epochs": 8}
    options: dict[str, Any] = {"precision": "float32", "threads": 1}
    return bertkit.finetune(data, encoder=tiny_encoder, runs=folder / "runs", settings=settings, **options).run


@pytest.fixture(scope="session")
def questions_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder of a trained span model, which may answer nothing; tests must not change it."""
    import bertkit

    folder = tmp_path_factory.mktemp("questions")
    # Without dropout it learns surely, whatever the order in which numbers are drawn.
    encoder = save_tiny_bert(folder / "encoder", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    data = write_squad(folder / "questions.json", questions(200, unanswered=4), impossible=True)
    settings = LEARNING | {"train.epochs": 12, "options.stride": 8}
    options: dict[str, Any] = {"precision": "float32", "threads": 1}
    return bertkit.finetune(data, encoder=encoder, runs=folder / "runs", settings=settings, **options).run
