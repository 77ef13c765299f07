"""The one conftest: a tiny encoder, small data, a run folder; sockets other than loopback are refused."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

# A shell's background job ignores Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

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
