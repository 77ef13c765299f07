"""The validation split that is cut off train: its size, its shares, its rows."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertkit.data import Dataset, Split
from bertkit.data.holdout import MOST, cut, halve, limit, stratified, take, whole
from bertkit.errors import DataError


def dataset(labels: list[Any], **splits: Split) -> Dataset:
    rows = [{"id": index, "label": label} for index, label in enumerate(labels)]
    train = Split(name="train", examples=rows, source="train.tsv", lines=[index + 2 for index in range(len(rows))])
    return Dataset(splits={"train": train, **splits}, revision="abc", notes=["first"])


def label_of(example: dict[str, Any]) -> Any:
    return example["label"]


def ids(split: Split) -> list[int]:
    return [example["id"] for example in split.examples]


@given(st.lists(st.sampled_from("aaaabbc"), max_size=200).map(lambda rest: [*"aabbcc", *rest]), st.integers(1, 200))
def test_stratified_gives_each_group_its_share(groups: list[str], number: int) -> None:
    number = min(number, len(groups))
    chosen = stratified(list(groups), number)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == number
    counts, taken = Counter(groups), Counter(groups[index] for index in chosen)
    for name, count in counts.items():
        exact = number * count / len(groups)
        assert math.floor(exact) <= taken[name] <= math.ceil(exact)


@pytest.mark.parametrize(("rows", "held"), [(10, 1), (14, 1), (16, 2), (100, 10), (104, 10), (19_999, 2000)])
def test_cut_holds_out_a_tenth(rows: int, held: int) -> None:
    found, chosen = cut(dataset([n % 2 for n in range(rows)]), label_of)
    assert len(chosen) == len(found.splits["validation"].examples) == held
    assert len(found.splits["train"].examples) == rows - held


def test_cut_holds_out_2000_rows_at_most() -> None:
    _, chosen = cut(dataset([n % 3 for n in range(50_000)]), label_of)
    assert len(chosen) == MOST == 2000


def test_cut_keeps_shares_places_and_every_row_once() -> None:
    made = dataset(["rare"] * 20 + ["common"] * 180)
    found, chosen = cut(made, label_of)
    train, validation = found.splits["train"], found.splits["validation"]
    assert Counter(map(label_of, validation.examples)) == {"rare": 2, "common": 18}
    assert sorted(ids(train) + ids(validation)) == list(range(200))
    assert ids(validation) == chosen
    assert ids(train) == sorted(ids(train))
    assert validation.name == "validation"
    assert [train.place(index) for index in (0, 5)] == [f"train.tsv:{ids(train)[index] + 2}" for index in (0, 5)]
    assert validation.place(0) == f"train.tsv:{chosen[0] + 2}"


def test_cut_leaves_train_the_only_row_of_a_label() -> None:
    labels = [f"rare{n}" for n in range(10)] + ["common"] * 60 + ["other"] * 30
    found, _ = cut(dataset(labels), label_of)
    held = Counter(map(label_of, found.splits["validation"].examples))
    assert held.total() == 10
    assert {label_of(example) for example in found.splits["train"].examples} == set(labels)


def test_cut_of_labels_that_all_differ_still_cuts() -> None:
    assert len(cut(dataset([f"label{n}" for n in range(30)]), label_of)[1]) == 3


def test_cut_is_always_the_same_rows() -> None:
    labels = [n % 2 for n in range(60)]
    assert cut(dataset(labels), label_of)[1] == cut(dataset(labels), label_of)[1] == [7, 18, 24, 25, 33, 50]


def test_cut_says_so_and_keeps_what_else_there_is() -> None:
    test = Split(name="test", examples=[{"id": 0}], source="test.tsv")
    found, _ = cut(dataset(["a"] * 40, test=test), label_of)
    note = "there is no validation split, so 4 of 40 training rows are held out for it"
    assert found.notes == ["first", note]
    assert found.splits["test"] is test
    assert found.revision == "abc"


def test_cut_without_groups_works() -> None:
    assert len(cut(dataset([0.1 * n for n in range(30)]), lambda example: None)[1]) == 3


def test_cut_of_fewer_than_10_rows_is_refused() -> None:
    match = r"train\.tsv has 9 rows and there is no validation split.*--set data\.files\.validation=FILE"
    with pytest.raises(DataError, match=match):
        cut(dataset(["a"] * 9), label_of)


def test_take_counts_rows_from_1_where_the_source_has_no_lines() -> None:
    split = Split(name="train", examples=[{"id": n} for n in range(5)], source="rows")
    taken = take(split, [1, 4], name="part")
    assert (taken.name, ids(taken), taken.lines) == ("part", [1, 4], None)
    assert [taken.place(0), take(taken, [1]).place(0)] == ["rows row 2", "rows row 5"]


def test_limit_takes_rows_by_seed_in_their_order() -> None:
    train = dataset(["a"] * 100).splits["train"]
    one, same, other = limit(train, 10, 1), limit(train, 10, 1), limit(train, 10, 2)
    assert len(ids(one)) == len(set(ids(one))) == 10
    assert ids(one) == sorted(ids(one)) == ids(same) != ids(other)
    assert one.place(0) == f"train.tsv:{ids(one)[0] + 2}"
    assert ids(one) != list(range(10))


@pytest.mark.parametrize("number", [0, 100, 1000])
def test_limit_of_nothing_or_of_more_is_all(number: int) -> None:
    train = dataset(["a"] * 100).splits["train"]
    assert limit(train, number, 1) is train


# Whole documents ---------------------------------------------------------------------------------------------


def articles(sizes: list[int]) -> Dataset:
    """Return a train split with an article of each size, their rows mixed."""
    titles = [f"t{title}" for title, size in enumerate(sizes) for _ in range(size)]
    found = dataset([n % 2 for n in range(len(titles))])
    order = sorted(range(len(titles)), key=lambda n: (n * 7919) % 104_729)
    for row, place in zip(found.splits["train"].examples, order, strict=True):
        row["title"] = titles[place]
    return found


def title_of(example: dict[str, Any]) -> Any:
    return (example["title"],)


def test_cut_leaves_no_document_on_both_sides() -> None:
    made = articles([3, 9, 1, 20, 7, 5, 5, 5, 40, 5])
    found, chosen = cut(made, label_of, title_of)
    train, validation = found.splits["train"], found.splits["validation"]
    assert not {*map(title_of, train.examples)} & {*map(title_of, validation.examples)}
    assert sorted(ids(train) + ids(validation)) == list(range(100))
    assert ids(validation) == chosen == sorted(chosen)
    assert 1 <= len(chosen) <= 10
    assert validation.place(0) == f"train.tsv:{chosen[0] + 2}"


def test_cut_of_documents_says_so_and_why() -> None:
    found, chosen = cut(articles([5] * 20), label_of, title_of, name=" tuning", purpose="a threshold is tuned")
    assert len(chosen) == 10
    said = "a threshold is tuned, so 10 of 100 training rows (whole documents) are held out for it"
    assert found.notes == ["first", said]
    assert {*found.splits} == {"train", " tuning"}
    assert found.splits[" tuning"].name == " tuning"


@pytest.mark.parametrize("documents", [lambda example: (), lambda example: ("the only one", "the only one")])
def test_cut_of_one_document_is_by_rows(documents: Any) -> None:
    made = dataset(["rare"] * 20 + ["common"] * 80)
    found, chosen = cut(made, label_of, documents)
    assert chosen == cut(made, label_of)[1]
    assert Counter(map(label_of, found.splits["validation"].examples)) == {"rare": 2, "common": 8}
    assert "documents" not in found.notes[-1]


def test_cut_takes_the_smallest_document_where_none_fits() -> None:
    found, chosen = cut(articles([30, 12, 58]), label_of, title_of)
    assert len(chosen) == 12
    assert {*map(title_of, found.splits["validation"].examples)} == {("t1",)}


@pytest.mark.parametrize("sizes", [[100], [48, 52]])
def test_cut_takes_paragraphs_where_articles_are_too_few(sizes: list[int]) -> None:
    def parts(example: dict[str, Any]) -> Any:
        return example["title"], (example["title"], example["id"] // 4)

    made = articles(sizes)
    for number, example in enumerate(made.splits["train"].examples):
        example["id"] = number
    found, chosen = cut(made, label_of, parts)
    assert 5 <= len(chosen) <= 10
    train, validation = ({*map(parts, found.splits[name].examples)} for name in ("train", "validation"))
    assert not train & validation
    assert "(whole documents)" in found.notes[-1]


def test_cut_of_documents_is_always_the_same_rows() -> None:
    made = articles([4] * 25)
    assert cut(made, label_of, title_of)[1] == cut(made, label_of, title_of)[1]


@given(st.lists(st.integers(0, 12), min_size=2, max_size=120), st.integers(1, 60))
def test_whole_takes_all_of_each_document_it_takes(documents: list[int], number: int) -> None:
    chosen = whole(list(documents), number)
    assert chosen == sorted(set(chosen))
    names = {documents[index] for index in chosen}
    assert chosen == [index for index, name in enumerate(documents) if name in names]
    sizes = Counter(documents)
    if min(sizes.values()) > number:
        assert len(names) == 1
        assert len(chosen) == min(sizes.values())
    else:
        left = [size for name, size in sizes.items() if name not in names]
        assert 0 < len(chosen) <= number
        assert all(len(chosen) + size > number for size in left), "another document would have fitted"


def test_half_has_each_labels_share_and_its_own_name() -> None:
    split = dataset([*"aaaaaaaaaaaabbbbbbbbc"]).splits["train"]
    half, chosen = halve(split, label_of, name=" tuning", purpose="x")
    assert (half.name, ids(half), len(chosen)) == (" tuning", chosen, 10)
    counts = Counter(map(label_of, half.examples))
    assert counts["a"] in (5, 6)
    assert counts["b"] in (4, 5)
    assert halve(split, label_of, name=" tuning", purpose="x")[1] == chosen


def test_half_of_too_few_rows_is_refused() -> None:
    split = dataset(["a"] * 19).splits["train"]
    with pytest.raises(DataError, match=r"train\.tsv has 19 rows of 'train', and x: half of so few says nothing\."):
        halve(split, label_of, name=" tuning", purpose="x")
