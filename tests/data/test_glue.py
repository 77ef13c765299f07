import gzip

import pytest

from bertkit import catalog
from bertkit.data import glue
from bertkit.errors import DataError

PAIR = "index\tsentence1\tsentence2\tlabel\n"
MNLI = "index\tpromptID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n"
MRPC = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
FILES = {
    "CoLA/train.tsv": 'gj04\t1\t\tThey came.\ngj04\t0\t*\tThey "came the.\n',
    "CoLA/dev.tsv": "gj04\t1\t\tNo newline at the end.",
    "CoLA/test.tsv": "index\tsentence\n0\tBill left.\n",
    "SST-2/train.tsv": "sentence\tlabel\nfine \t1\nbad\t0\n",
    "SST-2/dev.tsv": "sentence\tlabel\nfine\t1\n",
    "SST-2/test.tsv": "index\tsentence\n0\tuneasy\n",
    "MRPC/train.tsv": MRPC + '1\t1\t2\tSaid " it\tIt said\r\n0\t3\t4\ta\tb\r\n',
    "MRPC/test.tsv": "\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tone\ttwo\n",
    "QQP/train.tsv": QQP + "0\t1\t2\ta?\tb?\t0\n1\t3\t4\tcut\n2\t5\t6\tc?\td?\t1\n",
    "STS-B/train.tsv": "index\tsource1\tsentence1\tsentence2\tscore\n0\tnone\ta\tb\t3.800\n",
    "MNLI/train.tsv": MNLI + "0\t1\tfiction\tp\th\tneutral\tneutral\n",
    "MNLI/dev_matched.tsv": MNLI + "0\t1\tfiction\tp\th\tneutral\tcontradiction\n",
    "MNLI/dev_mismatched.tsv": MNLI + "0\t1\tletters\tp\th\tneutral\tentailment\n",
    "MNLI/test_matched.tsv": "index\tgenre\tsentence1\tsentence2\n0\tfiction\tp\th\n",
    "QNLI/train.tsv": "index\tquestion\tsentence\tlabel\n0\tWho?\tThe \ufeffking.\tnot_entailment\n",
    "RTE/train.tsv": PAIR + "0\ta\tb\tnot_entailment\n",
    "WNLI/train.tsv": PAIR + "0\ta\tb\t1\n1\ta\tc\t0\n",
    "diagnostic/diagnostic.tsv": "index\tsentence1\tsentence2\n0\tp\th\n",
}
LABELS = {
    "cola": ["acceptable", "unacceptable"],
    "sst2": ["positive", "negative"],
    "mrpc": ["equivalent", "not_equivalent"],
    "qqp": ["not_duplicate", "duplicate"],
    "stsb": [3.8],
    "mnli": ["neutral"],
    "qnli": ["not_entailment"],
    "rte": ["not_entailment"],
    "wnli": ["entailment", "not_entailment"],
}


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode())
    return tmp_path


def read(name, folder, **options):
    return glue.read_folder(catalog.find_task(f"glue/{name}"), folder, **options)


def test_layouts_cover_the_shipped_tasks():
    assert {f"glue/{name}" for name in glue.LAYOUTS} == set(catalog.group("glue"))


@pytest.mark.parametrize("name", sorted(glue.LAYOUTS))
def test_layout_fits_its_task_file(name):
    task, layout = catalog.find_task(f"glue/{name}"), glue.LAYOUTS[name]
    assert set(task.data.splits.values()) == set(layout.files)
    assert set(task.columns.values()) == set(layout.columns)
    assert set(task.labels) == set((layout.labels or {}).values())


@pytest.mark.parametrize("name", sorted(LABELS))
def test_train_has_the_hubs_columns_and_label_names(folder, name):
    train = read(name, folder)["train"]
    assert [example["label"] for example in train.examples] == LABELS[name]
    assert [set(example) for example in train.examples] == [{*glue.LAYOUTS[name].columns, "idx"}] * len(LABELS[name])
    assert train.name == "train"


def test_texts_are_kept_as_they_are(folder):
    assert read("cola", folder)["train"].examples[1]["sentence"] == 'They "came the.'
    assert read("cola", folder)["validation"].examples[0]["sentence"] == "No newline at the end."
    assert read("sst2", folder)["train"].examples[0]["sentence"] == "fine "
    assert read("mrpc", folder)["train"].examples[0]["sentence1"] == 'Said " it'
    assert read("qnli", folder)["train"].examples[0]["sentence"] == "The \ufeffking."


def test_places_are_lines_of_the_file(folder):
    assert read("cola", folder)["train"].place(0) == "CoLA/train.tsv:1"
    assert read("sst2", folder)["train"].place(1) == "SST-2/train.tsv:3"


def test_test_splits_have_no_labels(folder):
    for name, row in [("cola", "Bill left."), ("sst2", "uneasy"), ("mrpc", "one"), ("mnli", "p"), ("ax", "p")]:
        (example,) = read(name, folder)["test"].examples
        assert example["label"] is None
        assert row in example.values()


def test_short_rows_of_qqp_are_left_out_as_on_the_hub(folder):
    train = read("qqp", folder)["train"]
    assert [(e["question1"], e["idx"]) for e in train.examples] == [("a?", 0), ("c?", 2)]
    assert train.place(1) == "QQP/train.tsv:4"


def test_mnli_splits_have_the_tasks_names(folder):
    splits = read("mnli", folder)
    assert {name: split.examples[0]["label"] for name, split in splits.items()} == {
        "train": "neutral",
        "validation": "contradiction",
        "mismatched": "entailment",
        "test": None,
    }


def test_gzipped_file_is_found_beside_plain_ones(folder):
    plain = folder / "SST-2" / "train.tsv"
    (folder / "SST-2" / "train.tsv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert read("sst2", folder)["train"].source == "SST-2/train.tsv.gz"


def test_folder_itself_may_hold_the_files(folder):
    assert read("sst2", folder / "SST-2")["train"].examples == read("sst2", folder)["train"].examples


def test_missing_train_lists_what_was_looked_for(folder):
    (folder / "SST-2" / "train.tsv").unlink()
    with pytest.raises(DataError, match=r"no train split of glue/sst2 in .*SST-2/train\.tsv, .*SST-2/train\.tsv\.gz"):
        read("sst2", folder)
    assert set(read("sst2", folder, splits=["validation"])) == {"validation"}


def test_missing_only_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no test split of glue/ax .*diagnostic/diagnostic\.tsv"):
        read("ax", tmp_path)


def test_asked_split_must_be_there(folder):
    with pytest.raises(DataError, match=r"no validation split of glue/mrpc"):
        read("mrpc", folder, splits=["validation"])
    with pytest.raises(DataError, match=r"glue/mrpc has no split 'validatoin'\. Did you mean 'validation'\?"):
        read("mrpc", folder, splits=["validatoin"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sentence\tlabel\nfine\t2\n", r"SST-2/train\.tsv:2: label '2' is not one of '0', '1'"),
        ("sentence\tlabel\nfine\t1\nbad\n", r"SST-2/train\.tsv:3: there are 1 fields, and 2 needed"),
        ("text\tlabel\nfine\t2\n", r"SST-2/train\.tsv: the header has no column 'sentence'; it has 'text', 'label'"),
        ("index\tsentence\n0\tfine\n", r"SST-2/train\.tsv: the header has no column 'label', so train has no labels"),
        ("sentence\tlabel\n", r"train\.tsv is empty: it has a header but no rows"),
        ("", r"train\.tsv is empty\.$"),
        (b"sentence\tlabel\ncaf\xe9\t1\n", r"SST-2/train\.tsv:2: not UTF-8"),
    ],
)
def test_broken_file_is_named(folder, content, message):
    (folder / "SST-2" / "train.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read("sst2", folder)


def test_score_that_is_no_number_is_named(folder):
    (folder / "STS-B" / "train.tsv").write_text("sentence1\tsentence2\tscore\na\tb\thigh\n")
    with pytest.raises(DataError, match=r"STS-B/train\.tsv:2: score 'high' is not a number"):
        read("stsb", folder)


def test_unknown_layout_is_named(tmp_path):
    task = catalog.find_task("glue/sst2", overrides={"data": {"name": "sst3"}})
    with pytest.raises(DataError, match=r"layout of 'sst3' is not known.*Did you mean 'sst2'\?"):
        glue.read_folder(task, tmp_path)
