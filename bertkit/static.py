"""Static word vectors (word2vec, GloVe, fastText) as an encoder: a folder that plain transformers opens.

An XLNet without layers gives each token its row of the embedding table and nothing else: no position, no normalisation.
So a text file of vectors becomes the folder of such a model, with a word-level tokenizer, and all that reads encoders
reads it: no class of our own is needed, neither here nor by whoever opens what was trained on it. ``static_vectors`` in
its ``config.json`` says what it is, and stays there when it is saved.

Words of a text are found as the file has them: lower-cased where it holds no capital letter, contractions cut as in the
Penn Treebank (``do n't``) where it holds ``n't``. A word that it does not hold is ``[UNK]``, whose vector is zero.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from bertkit.data import cache as kept
from bertkit.data import word_vectors
from bertkit.errors import DataError, ModelError

if TYPE_CHECKING:
    import numpy as np

MOST_WORDS = 200_000
"""Words that are kept of a file, from its beginning: published files have the commonest first."""
SUFFIXES = (".txt", ".vec")
"""Of text files of vectors; each also with ``.gz``."""
KEY = "static_vectors"
"""Entry of ``config.json`` that says what the model is."""
SPECIALS = ("[PAD]", "[UNK]", "[SEP]")
"""Tokens with ids 0, 1, 2 and a vector of zeros. [SEP] ends each text."""
FOLDER = "vectors"
"""Inside the cache folder."""
KEPT = 4
"""Folders that are kept there."""
LONG_AGO = 86_400
"""Seconds after which nobody works on a half-made folder."""
VERSION = 1
"""Of what a folder holds."""
LETTERS = r"[\p{L}\p{M}\p{N}_]+"
TREEBANK = (
    r"\p{L}+(?=[nN]'[tT](?!\p{L}))",
    r"[nN]'[tT](?!\p{L})",
    r"'(?:[sSmMdD]|[rR][eE]|[vV][eE]|[lL][lL])(?!\p{L})",
    LETTERS,
)
"""Words and contractions as the Penn Treebank cuts them: ``do n't``, ``we 've``, ``film 's``."""
WHOLE = (LETTERS + r"(?:'(?![sS](?!\p{L}))\p{L}+)*",)
"""Words with their contractions: ``don't``; but ``film`` and what is left of ``film's``."""


def is_file_of_vectors(path: Path) -> bool:
    """Say whether a file is one of word vectors, by its name.

    Raises:
        ModelError: if it is word2vec's binary format.
    """
    name = path.name.removesuffix(".gz")
    if name.endswith(".bin"):
        raise ModelError(
            f"{path} is a binary file, and word vectors are read as text. Of word2vec's: "
            "gensim.models.KeyedVectors.load_word2vec_format(FILE, binary=True).save_word2vec_format('vectors.txt')."
        )
    return path.is_file() and name.endswith(SUFFIXES)


def facts(folder: Path) -> dict[str, Any]:
    """Return what the table of a saved model is (``words``, ``width``, ...); empty where it is no such model."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(KEY)
    except (OSError, ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def folder_of(file: Path) -> Path:
    """Return the folder of the model that a file of vectors is; made once, and kept in the cache folder.

    Raises:
        ModelError: if it is no file of vectors, or there is no room for the folder.
    """
    file = file.expanduser()
    try:
        about = file.stat()
        name = f"{VERSION} {MOST_WORDS} {file.resolve()} {about.st_size} {about.st_mtime_ns}"
        place = _place()
        target = place / hashlib.sha256(name.encode()).hexdigest()[:32]
        if (target / "config.json").is_file():
            with suppress(OSError):
                os.utime(target)
            return target
        beside = place / f".{uuid4().hex}"
        beside.mkdir()
        try:
            _write(beside, file)
            _put(beside, target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        _tidy(place)
    except DataError as error:
        raise ModelError(f"{error} --encoder takes a folder, a Hub name or a text file of word vectors.") from error
    except OSError as error:
        raise ModelError(f"{file} cannot be made an encoder: {error.strerror or error}.") from error
    return target


def _place() -> Path:
    """Return where folders are kept: in the cache, or, where there is none, for as long as this process lives."""
    cache_folder = kept.folder()
    if cache_folder is not None:
        place = cache_folder / FOLDER
        with suppress(OSError):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(place, os.W_OK):
            return place
    return _temporary()


@cache
def _temporary() -> Path:
    made = Path(tempfile.mkdtemp(prefix="bertkit-vectors-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def _put(beside: Path, target: Path) -> None:
    """Give a whole folder its name, unless another process was faster: its folder is the same."""
    try:
        beside.rename(target)
    except OSError:
        if not (target / "config.json").is_file():
            raise


def _tidy(place: Path) -> None:
    """Remove the folders that were not used for longest, and what a killed process left half-made long ago."""
    with suppress(OSError):
        folders = sorted(place.glob("[0-9a-f]*"), key=lambda each: each.stat().st_mtime, reverse=True)
        lost = [each for each in place.glob(".*") if each.stat().st_mtime < time.time() - LONG_AGO]
        for old in (*folders[KEPT:], *lost):
            shutil.rmtree(old, ignore_errors=True)


# The folder -------------------------------------------------------------------------------------------------------


def _write(folder: Path, file: Path) -> None:
    """Write a file of vectors as a model's folder.

    Raises:
        DataError: if it cannot be read.
    """
    import numpy as np
    from safetensors.numpy import save_file

    found = word_vectors.read(file, None, most=MOST_WORDS)
    words = _words(found.rows)
    rows = [found.rows[as_written] for as_written in words.values()]
    width = found.table.shape[1]
    table = np.concatenate([np.zeros((len(SPECIALS), width), dtype=np.float32), found.table[rows]])
    lowercase = not any(word != word.lower() for word in words)
    tensors: dict[str, np.ndarray] = {"word_embedding.weight": table, "mask_emb": np.zeros((1, 1, width), np.float32)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_tokenizer(folder, list(words), lowercase=lowercase)
    about = {"words": len(words), "width": width, "whole": found.whole, "lowercase": lowercase, "damage": found.damage}
    config = {
        "architectures": ["XLNetModel"], "model_type": "xlnet", "vocab_size": len(table), "d_model": width,
        "n_layer": 0, "n_head": 1, "d_inner": 1, "dropout": 0.0, "use_mems_eval": False, "dtype": "float32",
        "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None, KEY: about,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _words(rows: Iterable[str]) -> dict[str, str]:
    """Return the words of a file as the tokenizer will look them up, and as they are written; the first of several."""
    found: dict[str, str] = {}
    for word in rows:
        found.setdefault(unicodedata.normalize("NFC", word).replace("\u2019", "'"), word)
    return {word: written for word, written in found.items() if word not in SPECIALS}


def _write_tokenizer(folder: Path, words: Sequence[str], *, lowercase: bool) -> None:
    """Write a word-level tokenizer as transformers' AutoTokenizer opens it."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate([*SPECIALS, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    steps: list[Any] = [normalizers.NFC(), normalizers.Replace("\u2019", "'")]
    tokenizer.normalizer = normalizers.Sequence([*steps, *([normalizers.Lowercase()] if lowercase else [])])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern(vocabulary)), behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="$A [SEP] $B:0 [SEP]", special_tokens=[("[SEP]", 2)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "[PAD]", "unk_token": "[UNK]", "sep_token": "[SEP]", "padding_side": "right",
        "model_input_names": ["input_ids", "attention_mask"],
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def pattern(vocabulary: Mapping[str, int]) -> str:
    """Return the regular expression of what is a word, so that the words of a vocabulary are found."""
    if "n't" in vocabulary:
        words: tuple[str, ...] = TREEBANK
    elif "don't" in vocabulary or "Don't" in vocabulary:
        words = WHOLE
    else:
        words = (LETTERS,)
    # Abbreviations (U.S.), an ellipsis, a dash, numbers (3.5, 10:30, but 3rd is letters), words, any other character.
    numbers = r"(?>\p{N}+(?:[.,:]\p{N}+)*)(?![\p{L}_])"
    return "|".join([r"(?:\p{L}\.){2,}", r"\.{3}", "--", numbers, *words, r"\S"])


# What is said -----------------------------------------------------------------------------------------------------


def unknown_share(rows: Iterable[Sequence[int]]) -> float:
    """Return the share of the words of encoded texts that the table does not hold."""
    unknown = total = 0
    for ids in rows:
        unknown += sum(each == 1 for each in ids)
        total += sum(each not in (0, 2) for each in ids)
    return unknown / max(1, total)


def said(about: Mapping[str, Any], unknown: Mapping[str, float]) -> str:
    """Return what there is to say of a table and of the words of splits that it does not hold."""
    first = "" if about["whole"] else "the first "
    case = ", lower-cased" if about["lowercase"] else ""
    shares = ", ".join(f"{name} {share:.1%}" for name, share in unknown.items())
    damage = f"; {about['damage']}" if about.get("damage") else ""
    return f"static vectors of {first}{about['words']:,} words, {about['width']} wide{case}; unknown: {shares}{damage}"


def require_known(unknown: Mapping[str, float], name: str) -> None:
    """Refuse vectors that hold no word of the training data.

    Raises:
        ModelError: if that is so.
    """
    if unknown.get("train") == 1:
        raise ModelError(f"{name} holds not one word of the training data: it is of another language or script.")
