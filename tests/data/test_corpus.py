"""A corpus on disk: what is in the arrays, what is kept, and what is not."""

from __future__ import annotations

import errno
import gzip
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import BertTokenizer, PreTrainedTokenizerFast

from bertkit.data import corpus, passages
from bertkit.data.corpus import Corpus, Reading
from bertkit.errors import DataError, ModelError
from bertkit.events import Event, Note, Progress
from tests.hub.server import environment, make_glue_repo, serve

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXT = """One two. Three four five!

Six seven. Eight?
nine ten. eleven

Twelve.
thirteen
"""


def bert() -> Any:
    words = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *".?![]", *"使用语言模型来预测。"]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


def byte_level() -> Any:
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(BPE(letters, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def load(
    path: Path,
    *,
    tokenizer: Any = None,
    cache: Path | None = None,
    listen: Any = None,
    beside: Corpus | None = None,
    **reading: Any,
) -> Corpus:
    about: dict[str, Any] = {"cache": cache, "listen": listen or (lambda event: None), "beside": beside}
    return corpus.load([path], tokenizer or bert(), reading=Reading(**reading), **about)


def sentences(found: Corpus, tokenizer: Any = None) -> list[list[str]]:
    """Return the sentences of each document as texts."""
    decode = (tokenizer or bert()).decode
    bounds = found.sentence_starts.tolist()
    texts = [decode(found.ids[start:end]) for start, end in itertools.pairwise(bounds)]
    starts = found.document_starts
    return [texts[starts[document] : starts[document + 1]] for document in found.documents]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


# --- what is in it ---------------------------------------------------------------------------------------------------


def test_documents_and_sentences_are_those_of_the_text(text: Path) -> None:
    found = load(text)
    assert sentences(found) == [
        ["one two.", "three four five!"],
        ["six seven.", "eight?", "nine ten.", "eleven"],
        ["twelve.", "thirteen"],
    ]
    assert (found.num_documents, found.num_sentences, found.num_tokens) == (3, 8, len(found.ids))
    assert found.ids.dtype == np.uint16
    assert isinstance(found.ids, np.memmap)
    assert found.continues is None


def test_lines_are_sentences_on_request(text: Path) -> None:
    assert sentences(load(text, sentences="lines"))[1] == ["six seven. eight?", "nine ten. eleven"]


def test_ids_are_those_of_the_tokenizer_whatever_the_chunks(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = bert()
    whole = load(text)
    expected = [n for line in TEXT.splitlines() for n in tokenizer(line, add_special_tokens=False)["input_ids"]]
    assert whole.ids.tolist() == expected
    monkeypatch.setattr(corpus, "CHUNK", 3)
    small = load(text)
    for name in ("ids", "sentence_starts", "document_starts"):
        assert np.array_equal(getattr(small, name), getattr(whole, name)), name


def test_tokenizer_settings_and_special_words_in_the_text_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a [MASK] b [SEP] " + "c " * 600 + "\n", encoding="utf-8")
    tokenizer = bert()
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=2000)
    found = load(path, tokenizer=tokenizer)
    assert len(found.ids) == 1 + 6 + 1 + 5 + 600
    assert not set(found.ids.tolist()) & {0, 2, 3, 4}
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 5


def test_byte_level_words_behind_a_line_end_have_their_space(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Ab cd. Ef\nGh\n\nIj. K\nL\n", encoding="utf-8")
    tokenizer = byte_level()
    found = load(path, tokenizer=tokenizer)
    assert sentences(found, tokenizer) == [["Ab cd.", " Ef", " Gh"], ["Ij.", " K", " L"]]


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    words = {word: number for number, word in enumerate([*SPECIAL, *(f"w{n}" for n in range(70_000))])}
    path = tmp_path / "a.txt"
    path.write_text("w69999 w1\n", encoding="utf-8")
    found = load(path, tokenizer=BertTokenizer(vocab=words))
    assert found.ids.dtype == np.uint32
    assert found.ids.tolist() == [70_004, 6]


def test_empty_documents_are_left_out_counted_and_said(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = ["", "one.", "  \n ", "\u200b", "two.", None]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    events: list[Event] = []
    found = load(path, listen=events.append)
    assert sentences(found) == [["one."], ["two."]]
    assert found.num_empty == 4
    assert "4 empty documents are left out" in [event.message for event in events if isinstance(event, Note)]
    assert [event.done for event in events if isinstance(event, Progress) and event.total] == [2]


@pytest.mark.parametrize("content", ["", "\n \n\n"])
def test_corpus_without_text_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"There is no text in a.txt"):
        load(path)


def test_slow_tokenizer_is_named(text: Path) -> None:
    with pytest.raises(ModelError, match="is not a fast one, which a corpus needs"):
        load(text, tokenizer=object())


# --- Chinese words ---------------------------------------------------------------------------------------------------


def test_chinese_words_by_spaces_are_flagged_and_the_spaces_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("使用 语言 模型 ab 来 预测 。\n", encoding="utf-8")
    found = load(path, words="spaces")
    assert found.continues is not None
    assert found.ids.tolist() == bert()("使用语言模型ab来预测。", add_special_tokens=False)["input_ids"]
    #                                   使 用 语 言 模 型 a  b  来 预 测 。
    assert found.continues.tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0]


def test_chinese_words_by_lists_and_by_segmenter_are_the_same(tmp_path: Path) -> None:
    pytest.importorskip("rjieba")
    lists, plain = tmp_path / "a.jsonl", tmp_path / "b.txt"
    words = ["使用", "语言", "模型", "来", "预测", "。"]
    lists.write_text(json.dumps({"text": [words]}), encoding="utf-8")
    plain.write_text("".join(words), encoding="utf-8")
    first, second = load(lists, words="spaces"), load(plain, words="segmenter")
    assert first.continues is not None
    assert second.continues is not None
    assert first.continues.tolist() == second.continues.tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 1, 0]
    assert first.ids.tolist() == second.ids.tolist()


def test_ideographs_are_words_where_nobody_cut_them(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("使用语言\n", encoding="utf-8")
    assert load(path).continues is None


# --- the cache -------------------------------------------------------------------------------------------------------


def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with each corpus that is built."""
    found: list[str] = []
    run = corpus._Building.run

    def counted(self: Any, *args: Any, **options: Any) -> None:
        found.append("built")
        run(self, *args, **options)

    monkeypatch.setattr(corpus._Building, "run", counted)
    return found


def test_corpus_is_kept_and_found_again(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = builds(monkeypatch)
    first_notes: list[Event] = []
    notes: list[Event] = []
    first = load(text, cache=tmp_path / "cache", listen=first_notes.append)
    moved = tmp_path / "elsewhere.txt"
    moved.write_text(TEXT, encoding="utf-8")
    again = load(moved, cache=tmp_path / "cache", listen=notes.append)
    assert built == ["built"]
    assert first.hash == again.hash
    assert np.array_equal(first.ids, again.ids)
    assert [note for note in first_notes if isinstance(note, Note)] == notes


def test_other_text_tokenizer_or_reading_is_another_corpus(text: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    found = [
        load(text, cache=cache).hash,
        load(text, cache=cache, sentences="lines").hash,
        load(text, cache=cache, layout="lines").hash,
        load(text, cache=cache, tokenizer=byte_level()).hash,
    ]
    text.write_text(TEXT + "more\n", encoding="utf-8")
    assert len({*found, load(text, cache=cache).hash}) == 5


def test_damaged_corpus_is_made_anew(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    whole = load(text, cache=cache)
    folder = tmp_path / "cache-corpora" / whole.hash
    expected = whole.ids.tolist()
    built = builds(monkeypatch)
    for name in ("ids", "sentences", "corpus.json"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(bytes([data[0] ^ 1]) + data[1:])
        assert load(text, cache=cache).ids.tolist() == expected
        (folder / name).unlink()
        assert load(text, cache=cache).ids.tolist() == expected
    assert len(built) == 6


def test_corpus_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\n" * 10 + b"\xff\n")
    with pytest.raises(DataError, match=r"a.txt:11: not UTF-8"):
        load(path, cache=tmp_path / "cache")
    assert [file for file in (tmp_path / "cache-corpora").iterdir() if file.is_dir()] == []


def test_full_disk_is_named(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, values: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(corpus._Array, "add", full)
    for cache in (tmp_path / "cache", None):
        with pytest.raises(DataError, match=r"cannot be kept in .*: No space left on device. Make room.*BERTKIT_CACHE"):
            load(text, cache=cache)


def test_kept_corpora_are_bounded_and_the_newest_stays(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = load(text, cache=cache)
    place = tmp_path / "cache-corpora"
    os.utime(place / first.hash, (1, 1))
    second = load(text, cache=cache, layout="lines")
    assert (place / first.hash).is_dir()
    monkeypatch.setattr(corpus, "MOST_BYTES", 10)
    third = load(text, cache=cache, layout="wikitext")
    assert {folder.name for folder in place.iterdir() if folder.is_dir()} == {third.hash}
    fourth = load(text, cache=cache, layout="blocks", beside=third)
    assert {folder.name for folder in place.iterdir() if folder.is_dir()} == {third.hash, fourth.hash}
    # What was mapped before is still there for whoever has it.
    assert len(second.ids) == len(first.ids)


def test_corpus_without_a_cache_lives_as_long_as_it_is_used(text: Path) -> None:
    found = load(text)
    folder = Path(str(found.ids.filename)).parent  # type: ignore[attr-defined]
    part, _ = found.split(0.3, 1)
    del found
    assert folder.is_dir()
    del part, _
    assert not folder.exists()


def test_cache_that_is_only_read_serves(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load(text, cache=tmp_path / "cache")

    def refused(*args: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    monkeypatch.setattr(os, "utime", refused)
    assert load(text, cache=tmp_path / "cache").hash == whole.hash


@pytest.mark.slow
def test_two_processes_build_once(text: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.data.test_corpus import load; "
        "print(load(Path(sys.argv[1]), cache=Path(sys.argv[2])).hash)"
    )
    command = [sys.executable, "-c", code, str(text), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    hashes = [process.communicate(timeout=300)[0] for process in running]
    assert hashes[0] == hashes[1] != ""
    assert len([folder for folder in (tmp_path / "cache-corpora").iterdir() if folder.is_dir()]) == 1


# --- parts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path: Path) -> Corpus:
    path = tmp_path / "many.txt"
    path.write_text("".join("a " * (1 + n % 17) + ".\n" for n in range(500)), encoding="utf-8")
    return load(path)


def test_split_is_by_documents_and_by_seed(many: Corpus) -> None:
    train, valid = many.split(0.1, 3)
    assert sorted([*train.documents.tolist(), *valid.documents.tolist()]) == list(range(500))
    assert abs(valid.num_tokens / many.num_tokens - 0.1) < 0.005
    assert train.num_tokens + valid.num_tokens == many.num_tokens
    again, other = many.split(0.1, 3)[1], many.split(0.1, 4)[1]
    assert np.array_equal(valid.documents, again.documents)
    assert valid.hash == again.hash
    assert not np.array_equal(valid.documents, other.documents)
    assert len({many.hash, train.hash, valid.hash, other.hash}) == 4


def test_split_of_few_documents_takes_the_smallest(text: Path) -> None:
    _, valid = load(text).split(0.01, 1)
    assert sentences(valid) == [["twelve.", "thirteen"]]


def test_split_leaves_at_least_one_document_to_train(text: Path) -> None:
    train, _ = load(text).split(0.999999, 1)
    assert train.num_documents == 1


def test_split_of_one_document_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one two. three.\n", encoding="utf-8")
    with pytest.raises(DataError, match="one document, so none can be held out: name a text for it with --valid"):
        load(path).split(0.1, 1)


# --- texts, Hub, memory ----------------------------------------------------------------------------------------------


def test_texts_can_be_read_again_and_say_notes_once(text: Path) -> None:
    events: list[Event] = []
    found = corpus.texts([text], listen=events.append)
    expected = [line for line in TEXT.splitlines() if line]
    assert list(found) == list(found) == expected
    assert len(events) == 1


def test_texts_have_no_spaces_between_ideographs(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("使用 语言 ab\n", encoding="utf-8")
    assert list(corpus.texts([path], reading=Reading(words="spaces"))) == ["使用语言 ab"]


HUB = """
import json, sys
from bertkit.data import corpus
from bertkit.errors import BertkitError
from tests.data.test_corpus import bert
try:
    about = {"reading": corpus.Reading(**json.loads(sys.argv[1])), "listen": lambda event: None}
    found = corpus.load(["nyu-mll/glue"], bert(), cache=None, **about)
    print(json.dumps({"documents": found.num_documents, "hash": found.hash}))
except BertkitError as error:
    print(json.dumps({"error": str(error)}))
"""


def hub_corpus(env: dict[str, str], **reading: str) -> dict[str, Any]:
    env = env | {"PYTHONPATH": str(Path(corpus.__file__).parents[2])}
    command = [sys.executable, "-c", HUB, json.dumps(reading)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=True)
    return dict(json.loads(done.stdout))


@pytest.mark.slow
def test_hub_data_set_is_a_corpus_online_and_from_the_cache(tmp_path: Path) -> None:
    make_glue_repo(tmp_path / "hub", {"train": 20, "validation": 8, "test": 6})
    with serve(tmp_path / "hub") as server:
        several = hub_corpus(server.env(tmp_path / "home"))
        online = hub_corpus(server.env(tmp_path / "home"), name="sst2")
    offline = environment(tmp_path / "home", HF_HUB_OFFLINE="1")
    assert hub_corpus(offline, name="sst2") == online
    assert online["documents"] == 20
    assert hub_corpus(offline, name="sst2", split="validation")["documents"] == 8
    assert "name one, for example with --set pretrain.name=cola" in several["error"]
    missing = hub_corpus(offline, name="sst2", split="trian")["error"]
    assert "has no split 'trian'. Did you mean 'train'?" in missing
    assert "pretrain.split names them" in missing
    absent = hub_corpus(environment(tmp_path / "nothing", HF_HUB_OFFLINE="1"), name="sst2")["error"]
    assert "is not in the cache" in absent
    assert "Ways out: text files in its place" in absent


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from tests.data.test_corpus import load
load(Path(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    peaks = []
    for times in (1, 8):
        path = tmp_path / f"{times}.txt.gz"
        with gzip.open(path, "wt", compresslevel=1) as file:
            for number in range(25_000 * times):
                file.write(f"line {number} of a corpus. it has some sentences. they are not long ones.\n")
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=500, check=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 150


def test_passages_are_read_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x\n" * (passages.LOOKED_AT + 10) + b"\xff\n")
    stream = passages.passages(passages.sources([path]), Reading())
    assert next(stream).text == "x"
