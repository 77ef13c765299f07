"""The leaderboard's archive: names, header, label words, order, and refusal of anything that is not whole."""

from __future__ import annotations

import copy
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.errors import ConfigError, DataError, RunError
from bertkit.run import read_suite
from bertkit.workflows import submission
from bertkit.workflows.suite import facts
from tests.workflows.suites import write_glue

NAMES = [
    *("CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "STS-B.tsv", "QQP.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "QNLI.tsv"),
    *("RTE.tsv", "WNLI.tsv", "AX.tsv"),
]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the public test splits have as many rows as the invented ones."""
    known = copy.deepcopy(facts.facts())
    for part in known["submission"].values():
        part["rows"] = 5 if part["task"] == "glue/ax" else 4
    monkeypatch.setattr(facts, "facts", lambda: known)


@pytest.mark.slow
def test_public_test_splits_have_their_known_sizes() -> None:
    assert [part.name for part in submission.parts()] == NAMES
    assert [part.rows for part in submission.parts()] == [
        1063, 1821, 1725, 1379, 390_965, 9796, 9847, 5463, 3000, 146, 1104
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_archive_is_what_the_leaderboard_takes(whole: Path, glue_data: Path, tmp_path: Path) -> None:
    made = submission.write_submission(whole, tmp_path / "out.zip", precision="float32", threads=1)
    assert list(made.files) == NAMES
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.namelist() == NAMES
        tables = {name: archive.read(name).decode().splitlines() for name in NAMES}
    for name, lines in tables.items():
        assert lines[0] == "index\tprediction"
        assert [line.split("\t")[0] for line in lines[1:]] == [str(n) for n in range(made.files[name])]
    words = {name: {line.split("\t")[1] for line in lines[1:]} for name, lines in tables.items()}
    for name in ("CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "QQP.tsv", "WNLI.tsv"):
        assert words[name] <= {"0", "1"}
    for name in ("QNLI.tsv", "RTE.tsv"):
        assert words[name] <= {"entailment", "not_entailment"}
    for name in ("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"):
        assert words[name] <= {"entailment", "neutral", "contradiction"}
    assert made.runs["AX.tsv"] == made.runs["MNLI-m.tsv"] == str(whole / "mnli")
    rows = bertkit.predict(
        [line.split("\t")[1] for line in (glue_data / "SST-2/test.tsv").read_text().splitlines()[1:]],
        run=whole / "sst2",
        precision="float32",
    )
    wanted = [{"negative": "0", "positive": "1"}[row["label"]] for row in rows]
    assert [line.split("\t")[1] for line in tables["SST-2.tsv"][1:]] == wanted


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_same_models_write_the_same_archive(whole: Path, tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        submission.write_submission(whole, tmp_path / name, precision="float32", threads=1)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("value", "wanted"), [(-0.4, "0.000"), (5.3, "5.000"), (2.71828, "2.718")])
def test_similarity_is_cut_to_its_scale(value: float, wanted: str) -> None:
    assert submission._word({"value": value}, {}) == wanted


@pytest.mark.slow
def test_split_that_is_not_the_public_one_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"11 of the 11 test splits .* nothing was predicted\. CoLA\.tsv: CoLA/test\.tsv has 4 rows, and the "
        r"public test split 1063; ",
    ):
        submission.write_submission(whole, tmp_path / "out.zip")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_missing_test_split_is_named(whole: Path, tmp_path: Path) -> None:
    data = write_glue(tmp_path / "data", without=("diagnostic",))
    (data / "RTE/test.tsv").unlink()
    with pytest.raises(DataError, match=r"2 of the 11 .*RTE\.tsv: There is no test split of glue/rte .*; AX\.tsv: "):
        submission.write_submission(whole, tmp_path / "out.zip", data=data)


@pytest.mark.slow
def test_missing_task_is_named(whole: Path, tmp_path: Path) -> None:
    part = shutil.copytree(whole, tmp_path / "part", symlinks=True)
    text = (part / "suite.json").read_text()
    record: dict[str, Any] = read_suite(part)
    del record["kept"]["glue/mnli"]
    (part / "suite.json").write_text(json.dumps(record))
    assert text != (part / "suite.json").read_text()
    with pytest.raises(
        RunError,
        match=r"has no finished run for 3 of the 11 files .*MNLI-m\.tsv \(glue/mnli\); MNLI-mm\.tsv .* AX\.tsv",
    ):
        submission.write_submission(part, tmp_path / "out.zip")
    record["kept"] = {}
    (part / "suite.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"run for 11 of the 11 files .*; AX\.tsv \(glue/mnli\)\."):
        submission.write_submission(part, tmp_path / "out.zip")


@pytest.mark.slow
def test_wrong_place_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--submission is .*out\.txt, and the leaderboard takes an archive"):
        submission.write_submission(whole, tmp_path / "out.txt")
    with pytest.raises(RunError, match=r"out\.zip cannot be written: there is no folder .*nowhere"):
        submission.write_submission(whole, tmp_path / "nowhere" / "out.zip")
    with pytest.raises(RunError, match=r"There is no suite '.*nothing'.*'bertkit finetune glue' makes one"):
        submission.write_submission(tmp_path / "nothing", tmp_path / "out.zip")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["id\tlabel", "0\t1"], "CoLA.tsv does not begin with the header"),
        (["index\tprediction"], "CoLA.tsv has 0 rows, and must have 1"),
        (["index\tprediction", "1\t1"], r"CoLA.tsv:2 is '1\t1'"),
        (["index\tprediction", "0\tacceptable"], r"CoLA.tsv:2 is '0\tacceptable'"),
    ],
)
def test_file_is_checked_after_it_was_written(lines: list[str], message: str) -> None:
    from dataclasses import replace

    part = replace(submission.parts()[0], rows=1)
    assert message.replace("\t", "\\t") in list(submission._problems(part, lines))
    assert list(submission._problems(part, ["index\tprediction", "0\t1"])) == []
