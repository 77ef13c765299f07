"""What of a task's data is wrong, may mislead, or is worth knowing: sentences about rows that have no fault."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bertkit.adapters.base import Adapter
from bertkit.data import Dataset, Split, duplicates, giveaways
from bertkit.data import check as data_check
from bertkit.data.duplicates import Conflict, Overlap, Row
from bertkit.data.lengths import Bin, Cut
from bertkit.errors import joined
from bertkit.workflows.preparation import unusable, unusable_note
from bertkit.workflows.tokens import Unknown

SAMPLE = 20_000
"""Rows in which columns and words are looked at, at most; taken evenly over train."""
SHOWN = 200
"""Characters of a text in a report."""
LABELS = 60
"""Characters of two labels in a sentence; tags of a sentence are longer."""
NAMED = 5
"""Rows that a sentence names."""
LEAKED = 0.5
"""Share of a split's rows that train has word for word from which its scores say nothing of unseen texts."""
UNREADABLE = 0.2
"""Share of unknown tokens from which the encoder cannot read the texts."""
UNKNOWN = 0.01
"""Share of unknown tokens that is worth a warning; English text on an English vocabulary has less."""
BROKEN = 3.0
"""Tokens per word from which a vocabulary spells a language out; English on an English one has 1.1 to 1.5."""
SELDOM = 10
"""Training rows of a label below which it is rare, and rows of a split below which its balance says nothing."""
DRIFTED = 0.15
"""Share of rows that would have to be labelled otherwise for two splits to have the same balance."""
DENYING = ("not", "non", "no", "un", "in", "ir", "dis")
"""What turns a label into its absence, at its beginning."""
DENIALS = {("no", "yes"), ("false", "true"), ("negative", "positive"), ("neg", "pos"), ("0", "1"), ("ham", "spam")}
"""A label that says that something is not there, and the one that says that it is."""
FEW = 20
"""Rows of a split below which shares of it say nothing."""


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """What was found in one split."""

    name: str
    source: str
    num_examples: int
    labelled: bool
    balance: dict[str, int] = field(default_factory=dict)
    """label -> rows."""
    lengths: dict[str, float] = field(default_factory=dict)
    """``median``, ``p99`` and ``longest`` in tokens, and ``keeps_99``, the least limit that leaves 99 % of the rows
    whole; empty where no tokenizer was at hand, like all that is counted in tokens."""
    histogram: list[Bin] = field(default_factory=list)
    """Rows by their length in tokens."""
    cuts: list[Cut] = field(default_factory=list)
    """What other length limits would cut."""
    truncation: dict[str, Any] = field(default_factory=dict)
    """What ``max_length`` cuts."""
    lost: list[str] = field(default_factory=list)
    """What the length limit costs, in sentences."""
    unknown: Unknown | None = None
    """What the vocabulary does not have."""
    tokens_per_word: float | None = None
    measured: int = 0
    """Rows that lengths and unknown tokens were counted in."""
    empty: list[str] = field(default_factory=list)
    """Places of rows in which a text is empty, the first of them."""
    num_empty: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class Content:
    """What was found in rows that have no fault."""

    duplicates: list[Overlap] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def content(dataset: Dataset, adapter: Adapter, splits: Sequence[SplitReport], encoder_name: str) -> Content:
    """Look at rows that have no fault.

    Args:
        dataset: all splits.
        adapter: knows what the model reads, and the labels.
        splits: what was counted in each.
        encoder_name: whose vocabulary counted tokens.
    """
    found = Content(problems=_unseen(dataset, adapter), notes=_remarks(dataset, adapter))
    labelled = {report.name: report.labelled for report in splits}
    rows = {
        name: [
            Row(
                split.place(index),
                tuple(adapter.readings(row).values()),
                adapter.truth(row) if labelled[name] else None,
            )
            for index, row in enumerate(split.examples)
        ]
        for name, split in _train_first(dataset.splits).items()
    }
    found.duplicates = [_shortened(overlap) for overlap in duplicates.overlaps(rows)]
    found.conflicts = [replace(each, text=_short(each.text)) for each in duplicates.conflicts(rows)]
    if left := duplicates.unsearched(rows):
        told = f"near-duplicates were looked for among the first {duplicates.MOST_TEXTS:,} different texts"
        found.warnings.append(f"{told}: {left:,} more were compared word for word only")
    for overlap in found.duplicates:
        _judge(overlap, found)
    if found.conflicts:
        found.warnings.append(_contradiction(found.conflicts))
    for report in splits:
        _judge_texts(report, encoder_name, found)
        truths = [row.truth for row in rows[report.name] if row.truth is not None]
        if _one_label_each(truths) and (how := giveaways.is_sorted(truths)):
            found.warnings.append(f"{report.name} is sorted by label ({how}): cut no split off its start or end")
    _judge_labels(adapter, found)
    _judge_balance(splits, adapter, found)
    _shared_documents(dataset, adapter, found)
    _judge_columns(dataset, adapter, rows, found)
    return found


def _train_first(splits: Mapping[str, Split]) -> dict[str, Split]:
    return {name: splits[name] for name in sorted(splits, key=lambda name: name != "train")}


def _one_label_each(truths: Sequence[Any]) -> bool:
    """Say whether rows have a label or a number each, and not several, tags or answers."""
    return bool(truths) and all(isinstance(truth, str | float) for truth in truths)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _shortened(overlap: Overlap) -> Overlap:
    pairs = [replace(pair, text=_short(pair.text), like_text=_short(pair.like_text)) for pair in overlap.pairs]
    return replace(overlap, pairs=pairs)


def _judge(overlap: Overlap, found: Content) -> None:
    """Say what duplicates mean: across splits, scores that are too good; in most of a split, scores of nothing."""
    share, across = overlap.exact / overlap.num_rows, overlap.split != overlap.of
    does = f"stand in {overlap.of} too" if across else "repeat an earlier row"
    exact = f"{overlap.exact:,} of {overlap.num_rows:,} rows ({share:.1%}) {does} word for word"
    near = (
        f"{overlap.near:,} nearly" if overlap.exact else f"{overlap.near:,} of {overlap.num_rows:,} rows nearly {does}"
    )
    counts = ", ".join(part for part, there in ((exact, overlap.exact), (near, overlap.near)) if there)
    relabelled = f" ({overlap.relabelled:,} of them with another label)" if overlap.relabelled else ""
    said = f"{overlap.split}: {counts}{relabelled}"
    if not across:
        found.notes.append(said)
    elif overlap.of == "train" and share >= LEAKED and overlap.num_rows >= FEW:
        found.problems.append(f"{said}: its scores would not be of unseen texts")
    else:
        found.warnings.append(f"{said}: scores on these are not of unseen texts" if overlap.of == "train" else said)


def _contradiction(found: Sequence[Conflict]) -> str:
    rows = sum(len(conflict.rows) for conflict in found)
    named = joined(map(_differ, found), most=3)
    return f"{rows:,} rows say the same as another and are labelled differently: {named}"


def _differ(conflict: Conflict) -> str:
    """Return the first row and the first that is labelled otherwise, with both labels."""
    first, *others = zip(conflict.rows, conflict.labels, strict=True)
    other = next((each for each in others if each[1] != first[1]), others[0])
    labels = f"{first[1]} / {other[1]}"
    return f"{first[0]} and {other[0]} ({labels if len(labels) <= LABELS else f'{labels[: LABELS - 3]}...'})"


def _judge_texts(report: SplitReport, encoder_name: str, found: Content) -> None:
    """Say where texts are empty, unknown to the vocabulary, or spelt out by it."""
    if report.num_empty:
        named = joined(report.empty, most=NAMED)
        found.warnings.append(f"{report.name}: {report.num_empty:,} rows have an empty text: {named}")
    if report.num_empty == report.num_examples:
        found.problems.append(f"{report.name}: every row has an empty text")
    unknown = report.unknown
    if unknown is None or report.tokens_per_word is None:
        return
    if unknown.share >= UNKNOWN:
        script = f", most of them {unknown.script}" if unknown.script else ""
        named = f" ({', '.join(map(repr, unknown.words))}, ...)" if unknown.words else ""
        said = f"{report.name}: {unknown.share:.1%} of the tokens are unknown to {encoder_name}{script}{named}"
        level = found.problems if unknown.share >= UNREADABLE else found.warnings
        level.append(f"{said}: {_way_out(unknown.script)}" if unknown.share >= UNREADABLE else said)
    elif report.tokens_per_word >= BROKEN:
        found.warnings.append(
            f"{report.name}: a word is {report.tokens_per_word:.1f} tokens on average, {encoder_name} spells it out: "
            "choose an encoder of the texts' language"
        )


def _way_out(script: str) -> str:
    if script == "Chinese":
        return "choose an encoder that reads Chinese, such as --encoder google-bert/bert-base-chinese"
    return "choose an encoder of the texts' language, such as --encoder google-bert/bert-base-multilingual-cased"


def _judge_labels(adapter: Adapter, found: Content) -> None:
    """Say which labels are one label in two spellings, and where their order is not the expected one."""
    names = adapter.labels
    if adapter.task.kind not in ("single", "multi"):
        return
    spelled: dict[str, list[str]] = {}
    for name in names:
        spelled.setdefault(" ".join(name.split()).casefold(), []).append(name)
    twice = [" and ".join(map(repr, same)) for same in spelled.values() if len(same) > 1]
    if twice:
        found.warnings.append(
            f"labels differ in upper and lower case or white space alone, and count as different ones: "
            f"{joined(twice, most=NAMED)}"
        )
    if len(names) == 2 and "f1" in adapter.task.metrics and _denies(names[1], names[0]):
        found.warnings.append(
            f"the order of the labels is unusual: '{names[1]}' has id 1, so that 'f1' is of it and not of "
            f"'{names[0]}'; --set 'labels=[\"{names[1]}\", \"{names[0]}\"]' turns them round"
        )
    numbers = [re.findall(r"\d+(?:\.\d+)?", name) for name in names]
    if len(names) > 2 and all(len(one) == 1 for one in numbers):
        order = [float(one[0]) for one in numbers]
        if order != sorted(order) and order != sorted(order, reverse=True):
            shown = joined(map(repr, names), most=NAMED)
            found.notes.append(f"the labels are not in the order of their numbers: {shown}; --set labels=[...] sets it")


def _denies(name: str, other: str) -> bool:
    """Say whether a label reads as the absence of another: ``not_spam`` of ``spam``, ``no`` of ``yes``."""
    one, two = (re.sub(r"[^a-z0-9]", "", each.casefold()) for each in (name, other))
    return (one, two) in DENIALS or (bool(two) and one in {f"{prefix}{two}" for prefix in DENYING})


def _judge_balance(splits: Sequence[SplitReport], adapter: Adapter, found: Content) -> None:
    """Say where train has one label alone or rare ones, and where another split's balance is another."""
    train = next((report for report in splits if report.name == "train"), None)
    if train is None or not train.balance:
        return
    there = {label: count for label, count in train.balance.items() if count}
    if len(there) == 1 and adapter.task.kind == "single":
        found.problems.append(f"train has the label '{next(iter(there))}' alone: there is nothing to learn")
        return
    never = [label for label in train.balance if label not in there]
    if never and there:
        found.warnings.append(f"train never shows {joined([repr(label) for label in never], most=NAMED)}")
    rare = [f"'{label}' ({count})" for label, count in there.items() if count < SELDOM]
    if rare and train.num_examples >= SELDOM * SELDOM:
        found.warnings.append(
            f"train has fewer than {SELDOM} of {joined(rare, most=NAMED)}: "
            "train.class_weights = 'balanced' weighs them more; scores per label tell whether they are learned"
        )
    total = sum(there.values())
    for report in splits:
        counted = sum(report.balance.values())
        if report is train or counted < SELDOM * SELDOM or total < SELDOM * SELDOM:
            continue
        moved = sum(abs(report.balance[label] / counted - train.balance[label] / total) for label in train.balance) / 2
        if moved >= DRIFTED:
            found.warnings.append(
                f"{report.name} has other shares of labels than train: {moved:.0%} would have to move"
            )


def _shared_documents(dataset: Dataset, adapter: Adapter, found: Content) -> None:
    """Say how many questions are about a context that train has too."""
    train = dataset.splits.get("train")
    if train is None:
        return
    known = {parts[-1] for row in train.examples if (parts := adapter.documents(row))}
    for name, split in dataset.splits.items():
        shared = sum(bool(parts := adapter.documents(row)) and parts[-1] in known for row in split.examples)
        if shared and name != "train":
            share = f"{shared:,} of {len(split.examples):,} rows ({shared / len(split.examples):.1%})"
            found.warnings.append(
                f"{name}: {share} are about a context that train has too: scores on them are too good"
            )


def _judge_columns(dataset: Dataset, adapter: Adapter, rows: Mapping[str, Sequence[Row]], found: Content) -> None:
    """Say which columns, and which words of them, say the label."""
    name = "train" if "train" in rows else next(iter(rows))
    step = -(-len(rows[name]) // SAMPLE)
    chosen = [
        (example, row.truth)
        for example, row in zip(dataset.splits[name].examples[::step], rows[name][::step], strict=True)
        if row.truth is not None
    ]
    if not _one_label_each([truth for _, truth in chosen]):
        return
    hidden = {name for role in adapter.columns if role.endswith("!") for name in (role[:-1], adapter.column(role[:-1]))}
    examples = [{key: cell for key, cell in example.items() if key not in hidden} for example, _ in chosen]
    truths = [truth for _, truth in chosen]
    read = {adapter.column(role): role for role in adapter.readings(examples[0])}
    for column, right in giveaways.decisive_columns(examples, truths, read):
        said = f"{name}: column '{column}' says the label in {right:.1%} of the rows"
        _tell(said, column in read, found)
    for word in giveaways.decisive_words(examples, truths):
        said = (
            f"{name}: '{word.word}' in column '{word.column}' says the label: it is in {word.inside:.1%} of the rows "
            f"with '{word.label}' and in {word.outside:.1%} of the others"
        )
        _tell(said, word.column in read, found)


def _tell(said: str, read: bool, found: Content) -> None:
    """Warn of what the model reads; of other columns it is worth a note."""
    if read:
        found.warnings.append(f"{said}, and the model reads it: is it there when you predict?")
    else:
        found.notes.append(f"{said}; the model does not read it")


def _remarks(dataset: Dataset, adapter: Adapter) -> list[str]:
    """Return what the type has to say of each split, and which training examples it could not use."""
    said = [f"{name}: {each}" for name, split in dataset.splits.items() for each in adapter.remarks(split.examples)]
    train = dataset.splits.get("train")
    found = unusable(train, adapter) if train else {}
    return [*said, unusable_note(train, found)] if train and found else said


def _unseen(dataset: Dataset, adapter: Adapter) -> list[str]:
    if "train" not in dataset.splits:
        return []
    return [
        f"'{name}' has labels that train never shows: {', '.join(f'{k} ({v} rows)' for k, v in missing.items())}"
        for name, missing in data_check.unseen_labels(dataset, adapter.balance).items()
    ]
