import pytest

from bertkit.data.guess import guess_columns, guess_kind, kind_reason

ROLES = ("text", "text_pair?", "label!")


def examples(count=8, **columns):
    return [{name: value(i) if callable(value) else value for name, value in columns.items()} for i in range(count)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["label", "text"], {"text": "text", "label": "label"}),
        (["Text", "LABEL"], {"text": "Text", "label": "LABEL"}),
        (["text", "text_pair", "label"], {"text": "text", "text_pair": "text_pair", "label": "label"}),
        (["labels", "target", "review"], {"text": "review", "label": "labels"}),
        (["labels", "label", "review"], {"text": "review", "label": "label"}),
        (["hypothesis", "premise", "class"], {"text": "premise", "text_pair": "hypothesis", "label": "class"}),
        (["sentence1", "sentence2", "score"], {"text": "sentence1", "text_pair": "sentence2", "label": "score"}),
        (["question1", "question2", "intent"], {"text": "question1", "text_pair": "question2", "label": "intent"}),
        (["question", "sentence", "label"], {"text": "question", "text_pair": "sentence", "label": "label"}),
        (["stars", "comment", "id"], {"text": "comment", "label": "stars"}),
    ],
)
def test_names_decide_first(names, expected):
    assert guess_columns([dict.fromkeys(names, "x")], ROLES).columns == expected


def test_own_names_need_no_note():
    assert guess_columns([{"text": "a", "label": "b"}], ROLES).notes == []


def test_notes_say_why_and_what_else():
    found = guess_columns([{"review": "a", "comment": "b", "stars": 1}], ROLES)
    assert found.notes == [
        "column 'review' is taken as text: by its name (it could also be 'comment')",
        "column 'stars' is taken as label: by its name",
    ]
    assert found.others["text"] == ["comment"]


def test_content_decides_where_names_do_not():
    rows = examples(id=str, a="short", b=lambda i: f"a much longer text {i}", c=lambda i: i % 2, d=lambda i: i)
    found = guess_columns(rows, ROLES)
    assert found.columns == {"text": "b", "label": "c"}
    assert (
        found.notes[0] == "column 'b' is taken as text: it is the column with the longest texts (it could also be 'a')"
    )
    assert found.notes[1] == "column 'c' is taken as label: it is a column in which few values repeat"


def test_lists_are_taken_as_labels():
    rows = examples(x=lambda i: f"words {i}", y=lambda i: [str(i)])
    assert guess_columns(rows, ROLES).columns == {"text": "x", "label": "y"}


def test_second_text_is_never_guessed_by_content():
    rows = examples(a=lambda i: f"one text {i}", b=lambda i: f"another {i}")
    assert guess_columns(rows, ROLES).columns == {"text": "a"}


def test_given_columns_are_kept_and_not_used_twice():
    found = guess_columns([{"text": "a", "review": "b", "label": 1}], ROLES, given={"label": "text"})
    assert found.columns == {"text": "review", "label": "text"}


def test_other_roles_are_data():
    assert guess_columns([{"words": ["a"], "ner_tags": ["O"]}], ("tokens", "tags!")).columns == {
        "tokens": "words",
        "tags": "ner_tags",
    }
    assert guess_columns([{"a": 1}], ("unheard_of",)).columns == {}


def test_no_rows_give_no_columns():
    assert guess_columns([], ROLES).columns == {}


@pytest.mark.parametrize(
    ("values", "kind", "why"),
    [
        (["a", "b", None], "single", "names"),
        ([0, 1, 1], "single", "2 different whole numbers, at most 20"),
        (["1", "5", "3"], "single", "3 different whole numbers"),
        ([1.0, 2.0], "single", "2 different whole numbers"),
        (list(range(20)), "single", "20 different"),
        (list(range(21)), "regression", "21 different whole numbers, more than 20"),
        ([0.5, 1], "regression", "not all of them whole"),
        (["0.5", "1e-3"], "regression", "not all of them whole"),
        ([["a"], []], "multi", "lists"),
        ([True, False], "single", "names"),
        (["1_000.5", "2"], "single", "names"),
        (["nan", "1.5"], "single", "names"),
        ([float("nan"), 1.5], "single", "names"),
        ([], "single", "names"),
    ],
)
def test_kind_follows_the_values(values, kind, why):
    assert guess_kind(values) == kind
    assert why in kind_reason(values)
