"""Static word vectors as an encoder: what is read, how words are found, what is trained, saved and opened."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bertkit
from bertkit import encoder, heads, layers, static
from bertkit.config import TrainConfig
from bertkit.errors import ConfigError, ModelError
from tests.conftest import BAD, GOOD, OTHER, reviews, sentences, write_conll, write_jsonl

WORDS = [*GOOD, *BAD, *OTHER]
WIDTH = 24
RECIPE: dict[str, Any] = {
    "train.learning_rate": 5e-2, "train.batch_size": 8, "train.max_length": 64, "train.epochs": 8, "eval.resamples": 0,
}  # fmt: skip
PLACE: dict[str, Any] = {"precision": "float32", "threads": 1}


def table(words: list[str] = WORDS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {word: rng.normal(size=WIDTH).round(3).astype(np.float32) for word in words}


def lines(words: list[str] = WORDS) -> list[str]:
    return [" ".join([word, *(f"{number:.3f}" for number in row)]) for word, row in table(words).items()]


def write(path: Path, words: list[str] = WORDS, *, head: bool = False) -> Path:
    first = [f"{len(words)} {WIDTH}"] if head else []
    text = "\n".join([*first, *lines(words)]) + "\n"
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    return write(tmp_path / "vectors.txt")


def tokens(file: Path, text: str) -> list[str]:
    return list(encoder.load_tokenizer(encoder.find(str(file))).tokenize(text))


@pytest.mark.parametrize(
    ("name", "head"), [("word2vec.txt", True), ("glove.txt", False), ("fast.vec", True), ("glove.txt.gz", False)]
)
def test_file_of_each_kind_is_an_encoder_of_its_vectors(name: str, head: bool, tmp_path: Path) -> None:
    source = encoder.find(str(write(tmp_path / name, head=head)))
    loaded = encoder.load(source, auto_class="AutoModel")
    inputs = loaded.tokenizer("the film was zzz good", return_tensors="pt")
    with torch.no_grad():
        states = loaded.model(**inputs)[0][0].numpy()
    known = table()
    zero = np.zeros(WIDTH)
    expected = [known["the"], known["film"], known["was"], zero, known["good"], zero]
    np.testing.assert_array_equal(states, np.stack(expected))
    assert static.facts(source.folder) | {"damage": ""} == {
        "words": len(WORDS), "width": WIDTH, "whole": True, "lowercase": True, "damage": ""
    }  # fmt: skip
    assert source.short_name == name.split(".")[0]


def test_body_gives_the_same_in_plain_transformers_wherever_a_word_stands(vectors: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = encoder.find(str(vectors)).folder
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        states = model(**tokenizer(["good film", "the very good film"], padding=True, return_tensors="pt"))[0]
    assert torch.equal(states[0, 0], states[1, 2])


def test_case_is_found_from_the_file(tmp_path: Path) -> None:
    lower, cased = write(tmp_path / "lower.txt", ["film"]), write(tmp_path / "cased.txt", ["Film", "film"])
    assert tokens(lower, "FILM Film") == ["film", "film"]
    assert tokens(cased, "FILM Film") == ["[UNK]", "Film"]


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        (["n't", "do", "'s", "film"], "don't film's", ["do", "n't", "film", "'s"]),
        (["don't", "film", "'", "s"], "don\u2019t film's", ["don't", "film", "'", "s"]),
        (["don", "t", "'"], "don't", ["don", "'", "t"]),
        (["u.s.", "3.5", "3rd", "19th", "1,000"], "U.S. 3.5 3rd 19th 1,000", ["u.s.", "3.5", "3rd", "19th", "1,000"]),
        (["well", "-", "known", "...", "."], "well-known...", ["well", "-", "known", "..."]),
        (["caf\u00e9"], "cafe\u0301", ["caf\u00e9"]),
    ],
)
def test_words_are_cut_as_the_file_has_them(words: list[str], text: str, expected: list[str], tmp_path: Path) -> None:
    assert tokens(write(tmp_path / "v.txt", words), text) == expected


def test_only_the_beginning_of_a_large_file_is_read(vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "MOST_WORDS", 3)
    vectors.write_text(vectors.read_text() + "damaged beyond what is read\n")
    about = static.facts(encoder.find(str(vectors)).folder)
    assert (about["words"], about["whole"], about["damage"]) == (3, False, "")
    assert static.said(about, {"train": 0.25}).startswith(
        "static vectors of the first 3 words, 24 wide, lower-cased; un"
    )


def test_folder_is_kept_in_the_cache_and_made_anew_for_another_file(
    vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTKIT_CACHE", str(tmp_path / "cache"))
    first = encoder.find(str(vectors)).folder
    assert first.is_relative_to(tmp_path / "cache")
    before = (first / "model.safetensors").stat().st_mtime_ns
    assert encoder.find(str(vectors)).folder == first
    assert (first / "model.safetensors").stat().st_mtime_ns == before
    write(vectors, WORDS[:5])
    second = encoder.find(str(vectors)).folder
    assert second != first
    assert static.facts(second)["words"] == 5


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("v.bin", b"3 2\nthe \x00\x01", r"v\.bin is a binary file, and word vectors are read as text.*gensim"),
        ("v.txt", b"one two three\nfour five six\n", r"no text file of word vectors.*--encoder takes a folder"),
        ("v.txt", b"", r"v\.txt is no text file of word vectors"),
        ("v.csv", b"a,b\n", r"v\.csv is not a folder\. --encoder takes .* text file of word vectors \(\.txt, \.vec"),
    ],
)
def test_file_that_is_none_is_refused(name: str, content: bytes, match: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=match):
        encoder.find(str(tmp_path / name))


def test_revision_of_a_file_is_refused(vectors: Path) -> None:
    with pytest.raises(ModelError, match=r"--revision v1 goes with a Hub encoder, and .*vectors\.txt is a file"):
        encoder.find(str(vectors), revision="v1")


def test_folder_in_no_cache_is_made_elsewhere(vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("BERTKIT_CACHE", str(tmp_path / "file"))
    assert (encoder.find(str(vectors)).folder / "model.safetensors").is_file()


def test_old_folders_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTKIT_CACHE", str(tmp_path / "cache"))
    found = [encoder.find(str(write(tmp_path / f"{n}.txt", WORDS[: n + 1]))).folder for n in range(static.KEPT + 2)]
    there = {each.name for each in (tmp_path / "cache" / static.FOLDER).iterdir()}
    assert len(there) == static.KEPT
    assert found[-1].name in there


def test_classifier_reads_the_mean_of_known_words(vectors: Path) -> None:
    config = TrainConfig()
    spec = heads.asked(config, auto_class="AutoModelForSequenceClassification", outputs=2, static=True)
    assert spec is not None
    assert spec.mean
    source = encoder.find(str(vectors))
    loaded = encoder.load(source, auto_class="AutoModelForSequenceClassification", head=spec, seed=1)
    inputs = loaded.tokenizer(["good zzz film", "zzz"], padding=True, return_tensors="pt")
    known = table()
    with torch.no_grad():
        found = loaded.model.read(**inputs)[:, 0, 0].numpy()
    np.testing.assert_allclose(found[0], (known["good"] + known["film"]) / 2, rtol=1e-6)
    assert not found[1].any()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"train.layers": "second-to-last"}, "reads the layer below the last one, and the encoder has none"),
        ({"train.layers": "sum-last-4"}, "reads 4 layers, and the encoder has 0"),
        ({"train.head": "bilstm"}, "reads every token, and sequence classification reads one vector a text"),
        ({"train.compile": True}, "compiles layers, and static word vectors have none"),
        ({"train.lora_rank": 2}, "has no linear modules there"),
        ({"train.lm_weight": 0.5, "train.freeze": "none"}, "has a head with weights of its own"),
    ],
)
def test_recipe_that_needs_layers_is_refused(
    settings: dict[str, Any], match: str, vectors: Path, tmp_path: Path
) -> None:
    data = write_jsonl(tmp_path / "reviews.jsonl", reviews(40))
    if "train.lora_rank" in settings:
        pytest.importorskip("peft")
    with pytest.raises(ConfigError, match=match):
        bertkit.finetune(data, encoder=vectors, runs=tmp_path / "runs", settings=RECIPE | settings, **PLACE)


def test_vectors_of_another_script_are_refused(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "reviews.jsonl", reviews(40))
    file = write(tmp_path / "v.txt", ["\u0444\u0438\u043b\u044c\u043c"])
    with pytest.raises(ModelError, match="holds not one word of the training data"):
        bertkit.finetune(data, encoder=file, runs=tmp_path / "runs", settings=RECIPE, **PLACE)
    assert not list((tmp_path / "runs").glob("*"))


def test_choices_of_layers_are_those_of_a_body_without_any() -> None:
    assert list(layers.places("last", 0)) == list(layers.places("embeddings", 0)) == [0]
    with pytest.raises(ConfigError, match="the encoder has none"):
        layers.places("second-to-last", 0)


def finetuned(vectors: Path, folder: Path, **settings: Any) -> Any:
    data = write_jsonl(folder / "reviews.jsonl", reviews(160))
    return bertkit.finetune(data, encoder=vectors, runs=folder / "runs", settings=RECIPE | settings, **PLACE)


@pytest.mark.slow
def test_classifier_learns_on_frozen_vectors_and_all_commands_know_it(vectors: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModel

    from bertkit.workflows.verify import verify

    found = finetuned(vectors, tmp_path)
    assert found.scores["validation"]["accuracy"] > 0.8
    record = json.loads((found.run / "run.json").read_text())
    assert record["static_vectors"]["unknown"]["train"] == 0
    assert record["config"]["train"]["freeze"] == "encoder"
    assert "table of static vectors of 18 words (24 numbers each)" in (found.run / "README.md").read_text()
    before = load_file(encoder.find(str(vectors)).folder / "model.safetensors")
    after = load_file(found.run / "model" / "model.safetensors")
    assert torch.equal(before["word_embedding.weight"], after["word_embedding.weight"])
    _, info = AutoModel.from_pretrained(found.run / "model", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    rows = bertkit.predict(["the film was good", "zzz", ""], run=found.run)
    assert rows[0]["label"] == "positive"
    scored = bertkit.evaluate(found.run)
    assert scored.scores["accuracy"] == found.scores["validation"]["accuracy"]
    assert (found.run / "report.html").is_file()
    assert verify(found.run, steps=3).same
    with pytest.raises(ConfigError, match=r"--backend openvino makes layers faster, and .* has none"):
        bertkit.predict(["a"], run=found.run, backend="openvino")


@pytest.mark.slow
def test_vectors_are_trained_where_nothing_is_frozen(vectors: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    found = finetuned(vectors, tmp_path, **{"train.freeze": "none", "train.epochs": 1})
    before = load_file(encoder.find(str(vectors)).folder / "model.safetensors")["word_embedding.weight"]
    after = load_file(found.run / "model" / "model.safetensors")["word_embedding.weight"]
    assert not torch.equal(before, after)
    assert not after[:3].any()


@pytest.mark.slow
def test_run_is_resumed_bit_for_bit(vectors: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    data = write_jsonl(tmp_path / "reviews.jsonl", reviews(40))
    about: dict[str, Any] = {"encoder": vectors, "settings": RECIPE | {"train.head": "mlp"}, **PLACE}
    whole = bertkit.finetune(data, out=tmp_path / "whole", **about)
    asked = iter([False] * 4 + [True] * 99)
    cut = bertkit.finetune(data, out=tmp_path / "cut", should_stop=lambda: next(asked), **about)
    assert cut.status == "interrupted"
    again = bertkit.finetune(resume=cut.run)
    one, other = (load_file(run / "model" / heads.FILE) for run in (whole.run, again.run))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "bilstm"])
def test_tagger_learns_and_its_linear_head_opens_in_plain_transformers(
    head: str, vectors: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForTokenClassification

    data = write_conll(tmp_path / "sentences.conll", sentences(120))
    settings = RECIPE | {"train.head": head, "train.learning_rate": 1e-2, "train.head_width": 32 * (head == "bilstm")}
    found = bertkit.finetune(data, encoder=vectors, runs=tmp_path / "runs", settings=settings, **PLACE)
    assert found.scores["validation"]["f1"] > 0.5
    if head == "linear":
        _, info = AutoModelForTokenClassification.from_pretrained(found.run / "model", output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    (row,) = bertkit.predict(["the film was good"], run=found.run)
    assert row["entities"]
