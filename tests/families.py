"""Encoder families from tiny configs, each with its own tokenizer class over a handful of words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BAD, GOOD, OTHER

WORDS = [*GOOD, *BAD, *OTHER]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@dataclass(frozen=True)
class Family:
    """How a family's tiny body and tokenizer are made."""

    name: str
    config: str
    model: str
    tokenizer: Callable[[], Any]
    sizes: dict[str, Any]
    padding_free: bool = True
    """Whether a row's result does not depend on the padding beside it."""


def wordpiece(tokenizer: str) -> Callable[[], Any]:
    def make() -> Any:
        import transformers

        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        if tokenizer == "MPNetTokenizer":
            specials = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
        letters = [c for letter in "abcdefghijklmnopqrstuvwxyz" for c in (letter, f"##{letter}")]
        words = {word: index for index, word in enumerate([*specials, *letters, *[w for w in WORDS if len(w) > 1]])}
        return getattr(transformers, tokenizer)(vocab=words)

    return make


def byte_level(tokenizer: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import transformers
        from tokenizers.pre_tokenizers import ByteLevel

        specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
        words = {word: index for index, word in enumerate([*specials, *sorted(ByteLevel.alphabet())])}
        return getattr(transformers, tokenizer)(vocab=words, merges=[], **options)

    return make


def unigram(tokenizer: str, specials: list[str]) -> Callable[[], Any]:
    def make() -> Any:
        import transformers

        letters = "abcdefghijklmnopqrstuvwxyz"
        pieces = [*specials, "▁", *[f"▁{word}" for word in WORDS if len(word) > 1], *letters]
        scores = [(piece, 0.0 if piece in specials else -float(1 + index)) for index, piece in enumerate(pieces)]
        return getattr(transformers, tokenizer)(vocab=scores)

    return make


def modernbert() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[], unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


BYTES_LIMIT = {
    "max_position_embeddings": 130,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
FAMILIES = [
    Family("BERT", "BertConfig", "BertModel", wordpiece("BertTokenizer"), SIZES),
    Family("RoBERTa", "RobertaConfig", "RobertaModel", byte_level("RobertaTokenizer"), SIZES | BYTES_LIMIT),
    Family(
        "DistilBERT",
        "DistilBertConfig",
        "DistilBertModel",
        wordpiece("DistilBertTokenizer"),
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    ),
    Family(
        "ALBERT",
        "AlbertConfig",
        "AlbertModel",
        unigram("AlbertTokenizer", ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]),
        SIZES | {"embedding_size": 8},
    ),
    Family("ELECTRA", "ElectraConfig", "ElectraModel", wordpiece("ElectraTokenizer"), SIZES | {"embedding_size": 8}),
    Family(
        "DeBERTa-v2/v3",
        "DebertaV2Config",
        "DebertaV2Model",
        unigram("DebertaV2Tokenizer", ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]),
        SIZES
        | {
            "relative_attention": True,
            "position_buckets": 32,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    Family("MPNet", "MPNetConfig", "MPNetModel", wordpiece("MPNetTokenizer"), SIZES | {"max_position_embeddings": 130}),
    Family(
        "XLM-R",
        "XLMRobertaConfig",
        "XLMRobertaModel",
        unigram("XLMRobertaTokenizer", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]),
        SIZES | BYTES_LIMIT,
    ),
    Family(
        "ModernBERT",
        "ModernBertConfig",
        "ModernBertModel",
        modernbert,
        SIZES
        | {
            "pad_token_id": 3, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2,
            "local_attention": 16, "global_attn_every_n_layers": 2,
        },
    ),
    Family(
        "GPT-2",
        "GPT2Config",
        "GPT2Model",
        byte_level("GPT2Tokenizer", unk_token="<|endoftext|>"),
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128, "bos_token_id": 5, "eos_token_id": 5},
    ),
    Family(
        "XLNet",
        "XLNetConfig",
        "XLNetModel",
        unigram("XLNetTokenizer", ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]),
        {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
    ),
]  # fmt: skip


def save(family: Family, folder: Path) -> Path:
    """Write a family's tiny encoder as its own save_pretrained does."""
    import torch
    import transformers

    tokenizer = family.tokenizer()
    config = getattr(transformers, family.config)(**{"vocab_size": len(tokenizer), **family.sizes})
    torch.manual_seed(0)
    getattr(transformers, family.model)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


QUICK = ("BERT", "GPT-2", "ModernBERT", "DeBERTa-v2/v3")
"""Stand for all in the quick tests: each form of layers without padding, three tokenizers, both kinds of positions."""


def slow_others(given: Iterable[Any], *, quick: Collection[str] = QUICK) -> list[Any]:
    """Return families, or names of families, as parameters of a test that is slow for all but those of ``quick``."""
    return [one if getattr(one, "name", one) in quick else pytest.param(one, marks=pytest.mark.slow) for one in given]
