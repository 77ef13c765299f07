"""Tagging: schemes, chunks, legal sequences, the best of them, and the scores; each against another way to get it."""

import json
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest

from bertkit.errors import ConfigError, DataError
from bertkit.metrics import names, tagging

STORED = json.loads((Path(__file__).parents[1] / "golden" / "seqeval.json").read_text(encoding="utf-8"))
PREDICTIONS = [["B-PER", "I-PER", "O"], ["B-LOC", "I-PER", "O"], ["O", "I-LOC"]]
REFERENCES = [["B-PER", "I-PER", "O"], ["B-LOC", "I-LOC", "O"], ["O", "B-LOC"]]


OTHERS = "luLUnvx.,t"
"""Codes of tags that seqeval's default mode takes for no tags of chunks."""


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["IOB2", ""])
def test_defaults_fit_the_tags(scheme):
    tagging.check_names(tagging.defaults(scheme), scheme)


@pytest.mark.parametrize(
    ("given", "scheme", "message"),
    [
        (
            ["f1", "f2"],
            "IOB2",
            r"^No metric 'f2'\. For BIO-like tags there are f1, precision, recall, f1_macro, tag_accuracy\.$",
        ),
        (["f1_macr"], "IO", r"^No metric 'f1_macr'\. Did you mean 'f1_macro'\? For BIO-like tags"),
        (
            ["tag_accuracy", "f1"],
            "",
            r"^Metric 'f1' is not defined for tags that are not BIO-like\. "
            r"For tags that are not BIO-like there is only tag_accuracy\.$",
        ),
        (["accuracy"], "", r"^No metric 'accuracy'\. Did you mean 'tag_accuracy'\? .* there is only tag_accuracy\.$"),
    ],
)
def test_check_names_says_what_there_is(given, scheme, message):
    with pytest.raises(ConfigError, match=message):
        tagging.check_names(given, scheme)


def test_better_knows_the_scores_of_tagging_when_told():
    assert names.better("tag_accuracy", 0.6, 0.5, tagging.SCORES)
    assert not names.better("precision", 0.5, 0.5, tagging.SCORES)
    with pytest.raises(
        ConfigError, match=r"No metric 'tag_acuracy'\. Did you mean 'tag_accuracy'\? There are f1, prec"
    ):
        names.better("tag_acuracy", 1, None, tagging.SCORES)


# Tags ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "parts"),
    [
        ("B-PER", ("B", "PER")),
        ("I-creative-work", ("I", "creative-work")),
        ("S-PER.NAM", ("S", "PER.NAM")),
        ("B", ("B", "_")),
        ("I-", ("I", "_")),
        ("O", ("O", "_")),
        ("NOUN", ("NOUN", "_")),
    ],
)
def test_split_tag_splits_at_the_first_dash(tag, parts):
    assert tagging.split_tag(tag) == parts


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [
        ("O B-X I-X", "IOB2"),
        ("O B-X B-Y", "IOB2"),
        ("B I", "IOB2"),
        ("O I-X I-Y", "IO"),
        ("O B-X I-X E-X S-X", "BIOES"),
        ("O S-X", "BIOES"),
        ("O B-X E-X", "BIOES"),
        ("O B-X I-X L-X U-X", "BILOU"),
        ("O U-X", "BILOU"),
        ("O I-X E-X", ""),
        ("O I-X L-X", ""),
        ("O B-X E-X U-X", ""),
        ("NOUN VERB X", ""),
        ("O PER LOC", ""),
        ("O B-X I-X NOUN", ""),
        ("O-X B-X", ""),
        ("O", ""),
        ("", ""),
    ],
)
def test_scheme_is_read_off_the_labels(labels, scheme):
    assert tagging.scheme(labels.split()) == scheme
    assert tagging.scheme(labels.split(), [labels.split()]) in {scheme, "IOB1"}


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        (["I-X I-X O I-Y", "I-X B-X I-X"], "IOB1"),
        (["B-X I-X O B-Y", "B-X B-X I-X"], "IOB2"),
        (["B-X I-X O B-Y", "I-X O"], "IOB2"),
        (["I-X O I-X I-Y", "B-Y O"], "IOB1"),
        (["I-X", "B-X"], "IOB2"),
        ([], "IOB2"),
    ],
)
def test_scheme_tells_iob1_by_the_majority_of_the_chunks(sentences, scheme):
    labels = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    assert tagging.scheme(labels, (sentence.split() for sentence in sentences)) == scheme


# Chunks as conlleval counts them -------------------------------------------------------------------------------------

NEIGHBOURS = [((a, x), (b, y)) for a, b in product("BIEO", repeat=2) for x, y in product("XY", repeat=2)]


def conlleval_ends(previous: str, tag: str, previous_type: str, kind: str) -> bool:
    """conlleval.pl, ``endOfChunk``: a table of neighbours, and any change of type after a chunk tag."""
    return f"{previous}{tag}" in {"BB", "BO", "IB", "IO", "EE", "EI", "EO"} or (
        previous not in {"O", "."} and previous_type != kind
    )


def conlleval_starts(previous: str, tag: str, previous_type: str, kind: str) -> bool:
    """conlleval.pl, ``startOfChunk``: a table of neighbours, and any change of type at a chunk tag."""
    return f"{previous}{tag}" in {"BB", "IB", "OB", "OI", "EE", "EI", "OE"} or (
        tag not in {"O", "."} and previous_type != kind
    )


def conlleval_chunks(parts: list[tuple[str, str]]) -> list[tuple[str, int, int]]:
    """conlleval.pl's walk over the words: it remembers where the open chunk began."""
    found, open_at, previous, previous_type = [], None, "O", ""
    for place, (tag, kind) in enumerate([*parts, ("O", "")]):
        if open_at is not None and conlleval_ends(previous, tag, previous_type, kind):
            found.append((previous_type, open_at, place))
            open_at = None
        if conlleval_starts(previous, tag, previous_type, kind):
            open_at = place
        previous, previous_type = tag, kind
    return found


@pytest.mark.parametrize(("before", "part"), NEIGHBOURS)
def test_every_neighbours_end_and_start_chunks_as_in_conlleval(before, part):
    same = before[1] == part[1] and "O" not in (before[0], part[0])
    kinds = [kind if tag != "O" else "" for tag, kind in (before, part)]
    expected = [rule(before[0], part[0], *kinds) for rule in (conlleval_ends, conlleval_starts)]
    if (before[0], part[0], same) == ("E", "B", True):
        assert expected == [False, False]  # the one place where the script goes on and seqeval does not
        expected = [True, True]
    ours = [
        rule(*((tag, kind) if tag != "O" else tagging.OUTSIDE for tag, kind in (before, part)))
        for rule in (tagging.ends_chunk, tagging.starts_chunk)
    ]
    assert ours == expected


@pytest.mark.parametrize("length", range(6))
def test_chunks_of_every_bio_sequence_are_those_of_conlleval(length):
    for tags in product(["O", "B-X", "I-X", "B-Y", "I-Y"], repeat=length):
        parts = [(tag[0], tag[2:]) for tag in tags]
        assert tagging.chunks(tags) == conlleval_chunks(parts), tags


def test_chunks_of_every_short_sequence_are_those_that_seqeval_stored():
    codes = STORED["every_chunk_of"]
    sequences = [tags for n in range(1, 5) for tags in product(codes, repeat=n)]
    assert len(sequences) == len(STORED["chunks"]) == 2800
    for tags, stored in zip(sequences, STORED["chunks"], strict=True):
        expected = [(chunk[0], int(chunk[1]), int(chunk[2]) + 1) for chunk in stored.split()]
        assert tagging.chunks([STORED["tags"][tag] for tag in tags]) == expected, tags


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", []),
        ("I-X I-Y O", [("X", 0, 1), ("Y", 1, 2)]),
        ("S-X S-X", [("X", 0, 1), ("X", 1, 2)]),
        ("B I O I", [("_", 0, 2), ("_", 3, 4)]),
        ("NOUN VERB X .", []),
    ],
)
def test_chunks_of_single_cases(tags, expected):
    assert tagging.chunks(tags.split()) == expected


def test_chunks_count_bilou_as_bioes():
    for tags in product(["O", "B-X", "I-X", "E-X", "S-X", "S-Y"], repeat=4):
        bilou = [tag.replace("E-", "L-").replace("S-", "U-") for tag in tags]
        assert tagging.chunks(bilou) == tagging.chunks(tags)
        assert tagging.strict_chunks(bilou, "BILOU") == tagging.strict_chunks(tags, "BIOES")


@pytest.mark.parametrize(
    ("tags", "scheme", "expected"),
    [
        ("O I-X B-X I-Y I-X", "IOB2", [("X", 2, 3)]),
        ("B-X I-X E-X S-Y B-X I-X O", "BIOES", [("X", 0, 3), ("Y", 3, 4)]),
        ("B-X B-X E-X", "IOBES", [("X", 1, 3)]),
        ("B-X I-X L-X U-Y U-Y L-X", "BILOU", [("X", 0, 3), ("Y", 3, 4), ("Y", 4, 5)]),
        ("I-X B-X I-Y", "IOB1", [("X", 0, 1), ("X", 1, 2), ("Y", 2, 3)]),
        ("O B-X I-X", "IOB1", [("X", 2, 3)]),
        ("I-X B-X B-Y", "IOB1", [("X", 0, 1)]),
        ("I-X I-X I-Y O I-Y", "IO", [("X", 0, 2), ("Y", 2, 3), ("Y", 4, 5)]),
        ("B-X E-X", "IOB2", []),
    ],
)
def test_strict_chunks_are_those_the_scheme_could_have_written(tags, scheme, expected):
    assert tagging.strict_chunks(tags.split(), scheme) == expected


def test_strict_chunks_of_an_unknown_scheme_suggest_the_nearest():
    with pytest.raises(
        ConfigError, match=r"No tagging scheme 'BIOE'\. Did you mean 'BIOES'\? There are IOB2, IOB1, IO,"
    ):
        tagging.strict_chunks(["O"], "BIOE")


# Legal sequences -----------------------------------------------------------------------------------------------------

LABEL_SETS = [
    ("IOB2", "O B-X I-X B-Y I-Y"),
    ("IOB2", "B-X I-X"),
    ("IOB2", "O I-X B-Y I-Y"),
    ("IOB2", "B I O"),
    ("IOB2", "O B-X I-X E-X"),
    ("IOB1", "O B-X I-X B-Y I-Y"),
    ("IOB1", "I-X B-Y I-Y"),
    ("IO", "O I-X I-Y"),
    ("BIOES", "O B-X I-X E-X S-X S-Y"),
    ("BIOES", "O B-X I-X E-X B-Y E-Y"),
    ("BIOES", "O B-X I-X S-X"),
    ("BIOES", "O I-X E-X S-Y"),
    ("IOBES", "B-X I-X E-X S-X B-Y"),
    ("BILOU", "O B-X I-X L-X U-X L-Y"),
]


def is_allowed(path, start, step, end):
    return bool(start[path[0]] and end[path[-1]] and all(step[i, j] for i, j in pairwise(path)))


@pytest.mark.parametrize(("scheme", "labels"), LABEL_SETS)
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_transitions_allow_exactly_what_is_legal_throughout(scheme, labels, length):
    labels = labels.split()
    table = tagging.transitions(labels, scheme)
    allowed = 0
    for path in product(range(len(labels)), repeat=length):
        tags = [labels[tag] for tag in path]
        covered = {word for _, first, stop in tagging.strict_chunks(tags, scheme) for word in range(first, stop)}
        legal = all(tag == "O" or word in covered for word, tag in enumerate(tags))
        assert is_allowed(path, *table) == legal, tags
        allowed += legal
    assert allowed


@pytest.mark.parametrize(("scheme", "labels"), LABEL_SETS)
def test_legal_sequences_mean_the_same_to_both_counts(scheme, labels):
    labels = labels.split()
    table = tagging.transitions(labels, scheme)
    for path in product(range(len(labels)), repeat=4):
        if is_allowed(path, *table):
            tags = [labels[tag] for tag in path]
            assert tagging.chunks(tags) == tagging.strict_chunks(tags, scheme)


@pytest.mark.parametrize(("scheme", "labels"), [("", "NOUN VERB O"), ("BIOES", "B-X E-X"), ("BILOU", "B-X I-X L-X")])
def test_transitions_allow_all_where_no_tag_may_stand_alone(scheme, labels):
    start, step, end = tagging.transitions(labels.split(), scheme)
    size = len(labels.split())
    assert (start.shape, step.shape, end.shape) == ((size,), (size, size), (size,))
    assert start.all()
    assert step.all()
    assert end.all()
    assert {start.dtype, step.dtype, end.dtype} == {np.dtype(bool)}


def test_transitions_of_iob2_are_those_of_the_textbook():
    labels = ["O", "B-X", "I-X", "I-Y", "B-Y"]
    start, step, end = tagging.transitions(labels, "IOB2")
    assert start.tolist() == [True, True, False, False, True]
    assert end.all()
    assert {(labels[i], labels[j]) for i, j in np.argwhere(~step)} == {
        *(("O", "I-X"), ("O", "I-Y"), ("B-X", "I-Y"), ("B-Y", "I-X"), ("I-X", "I-Y"), ("I-Y", "I-X"))
    }


def test_transitions_of_an_unknown_scheme_are_refused():
    with pytest.raises(ConfigError, match=r"No tagging scheme 'iob2'\."):
        tagging.transitions(["O"], "iob2")


def brute_force(scores, start, step, end):
    """Return every best path: the smallest first, read from the end."""
    legal = [p for p in product(range(scores.shape[1]), repeat=len(scores)) if is_allowed(p, start, step, end)]
    total = {path: float(sum(scores[word, tag] for word, tag in enumerate(path))) for path in legal}
    best = max(total.values())
    return min((path for path in legal if total[path] == best), key=lambda path: path[::-1])


@pytest.mark.parametrize(("scheme", "labels"), LABEL_SETS)
@pytest.mark.parametrize("whole", [False, True])
def test_viterbi_finds_the_best_legal_sequence(scheme, labels, whole):
    table = tagging.transitions(labels.split(), scheme)
    rng = np.random.default_rng(5)
    for length in (1, 2, 3, 4) * 4:
        size = (length, len(labels.split()))
        scores = rng.integers(-2, 3, size).astype(float) if whole else rng.normal(size=size)
        assert tagging.viterbi(scores, *table) == list(brute_force(scores, *table))


def test_viterbi_of_no_words_is_empty():
    assert tagging.viterbi(np.zeros((0, 3)), *tagging.transitions(["O", "B-X", "I-X"], "IOB2")) == []


def test_viterbi_breaks_ties_by_the_smaller_id_of_the_last_tag():
    table = tagging.transitions(["A", "B", "C"], "")
    assert tagging.viterbi(np.zeros((3, 3)), *table) == [0, 0, 0]
    assert tagging.viterbi([[0, 1, 1], [1, 0, 1]], *table) == [1, 0]


def test_viterbi_takes_impossible_tags_and_stays_legal():
    table = tagging.transitions(["I-X", "O", "B-X"], "IOB2")
    nothing = -np.inf
    assert tagging.viterbi([[9, nothing, 0], [0.5, 0.25, nothing]], *table) == [2, 0]
    assert tagging.viterbi([[0, nothing, nothing], [0, nothing, nothing]], *table) == [2, 0]
    assert tagging.viterbi(np.full((2, 3), nothing), *table)[0] != 0


def test_viterbi_equals_argmax_where_all_is_allowed():
    scores = np.random.default_rng(1).normal(size=(50, 17))
    assert tagging.viterbi(scores, *tagging.transitions(list("abcdefghijklmnopq"), "")) == scores.argmax(1).tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_viterbi_refuses_scores_that_are_no_numbers(bad):
    with pytest.raises(DataError, match=r"A tag's score is nan or inf: look for a diverged training or a damaged mod"):
        tagging.viterbi([[0.0, bad]], *tagging.transitions(["O", "B-X"], "IOB2"))


def test_viterbi_says_that_nothing_is_legal():
    nothing = np.zeros(2, dtype=bool)
    with pytest.raises(ConfigError, match=r"No sequence of 1 tags is legal: start, step and end leave none\."):
        tagging.viterbi(np.zeros((1, 2)), nothing, np.ones((2, 2), dtype=bool), nothing)


# Scores --------------------------------------------------------------------------------------------------------------


def test_compute_counts_entities_and_tags_by_hand():
    # True: PER, LOC, LOC. Found: PER right, LOC too short, PER wrong, LOC right although it begins with I.
    scores = tagging.compute(list(tagging.SCORES), PREDICTIONS, REFERENCES, scheme="IOB2")
    assert list(scores) == ["f1", "precision", "recall", "f1_macro", "tag_accuracy"]
    assert scores == pytest.approx(
        {
            "precision": 2 / 4,
            "recall": 2 / 3,
            "f1": 4 / 7,
            "f1_macro": (2 / 3 + 2 / 4) / 2,
            "tag_accuracy": 6 / 8,
        }
    )
    assert {type(value) for value in scores.values()} == {float}


def test_compute_strict_leaves_illegal_predictions_out():
    scores = tagging.compute(["precision", "recall"], PREDICTIONS, REFERENCES, mode="strict", scheme="IOB2")
    assert scores == pytest.approx({"precision": 1 / 2, "recall": 1 / 3})


@pytest.mark.parametrize("mode", [None, "strict"])
def test_scores_equal_the_stored_output_of_seqeval(mode):
    count = 0
    for case in STORED["cases"]:
        settings = case["settings"]
        if "error" in case or settings.keys() - {"mode", "scheme"} or settings.get("mode") != mode:
            continue
        # What seqeval reads in another way or we do not: BILOU without strict, tags that are no chunk tags, IOE.
        scheme = settings.get("scheme", "" if mode else "IOB2")
        if scheme not in tagging.RULES or (not mode and set(case["references"] + case["predictions"]) & {*OTHERS}):
            continue
        rows = [
            [[STORED["tags"][code] for code in each] for each in case[side].split()]
            for side in ("predictions", "references")
        ]
        how = {"mode": mode or "conlleval", "scheme": scheme}
        kinds = {kind: list(row.values()) for kind, row in tagging.by_type(*rows, **how).items()}
        overall = tagging.compute(["precision", "recall", "f1", "tag_accuracy"], *rows, **how)
        assert (kinds, list(overall.values())) == (case["types"], case["overall"]), case
        count += 1
    assert count >= 85


def test_by_type_is_sorted_and_counts_the_true_entities():
    scores = tagging.by_type(PREDICTIONS, REFERENCES, scheme="IOB2")
    assert scores == {
        "LOC": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "number": 2},
        "PER": {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "number": 1},
    }
    assert list(scores) == ["LOC", "PER"]
    json.dumps(scores)


def test_f1_macro_counts_a_type_that_is_only_predicted():
    scores = tagging.compute(["f1_macro", "f1"], [["B-X", "B-Y"]], [["B-X", "O"]], scheme="IOB2")
    assert scores == pytest.approx({"f1_macro": 0.5, "f1": 2 / 3})


@pytest.mark.parametrize(("prediction", "reference"), [("O", "O"), ("B-X", "O"), ("O", "B-X")])
def test_scores_are_zero_where_nothing_is_predicted_or_true(prediction, reference):
    scores = tagging.compute(["f1", "precision", "recall", "f1_macro"], [[prediction]], [[reference]], scheme="IOB2")
    assert set(scores.values()) == {0.0}


def test_tag_accuracy_is_all_there_is_without_a_scheme():
    rows = [["NOUN", "VERB"], []], [["NOUN", "NOUN"], []]
    assert tagging.compute(["tag_accuracy"], *rows, scheme="") == {"tag_accuracy": 0.5}
    assert tagging.by_type(*rows, scheme="") == {}
    assert tagging.compute(["tag_accuracy"], [[]], [[]], scheme="") == {"tag_accuracy": 0.0}
    with pytest.raises(ConfigError, match=r"there is only tag_accuracy\."):
        tagging.compute(["f1"], *rows, scheme="")
    with pytest.raises(ConfigError, match=r"there is only tag_accuracy\."):
        tagging.intervals(["f1"], *rows, scheme="")


def test_intervals_hold_the_scores_and_repeat_for_a_seed():
    rng = np.random.default_rng(3)
    tags = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    references = [list(rng.choice(tags, 8)) for _ in range(60)]
    predictions = [[str(rng.choice(tags)) if rng.random() < 0.3 else tag for tag in row] for row in references]
    wanted = list(tagging.SCORES)
    scores = tagging.compute(wanted, predictions, references, scheme="IOB2")
    first = tagging.intervals(wanted, predictions, references, scheme="IOB2", resamples=300, seed=1)
    assert list(first) == wanted
    for name, (low, high) in first.items():
        assert 0 < low < scores[name] < high < 1, name
        assert high - low < 0.25
    assert first == tagging.intervals(wanted, predictions, references, scheme="IOB2", resamples=300, seed=1)
    assert first != tagging.intervals(wanted, predictions, references, scheme="IOB2", resamples=300, seed=2)


def test_intervals_draw_whole_sentences():
    rng = np.random.default_rng(0)
    references, predictions = [["B-X"], ["B-X", "B-X", "B-X"]], [["O"], ["B-X", "B-X", "B-X"]]
    draws = [rng.integers(2, size=2) for _ in range(4000)]
    recalls = [3 * sum(draw) / sum(1 + 2 * draw) for draw in draws]
    expected = np.percentile(recalls, [2.5, 97.5])
    found = tagging.intervals(["recall"], predictions, references, scheme="IOB2", resamples=4000)["recall"]
    assert found == pytest.approx(expected.tolist())


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([["O"], ["O", "O"]], [["O"], ["O"]], r"Sentence 2 has 2 predicted tags and 1 true ones: give one a word\."),
        ([["O"]], [["O"], ["O"]], r"There are 1 predicted sentences and 2 true ones\."),
        ([], [], r"There are no sentences to score: the split is empty\."),
    ],
)
def test_rows_that_do_not_fit_are_refused(predictions, references, message):
    for function in (tagging.compute, tagging.intervals):
        with pytest.raises(DataError, match=message):
            function(["f1"], predictions, references, scheme="IOB2")
    with pytest.raises(DataError, match=message):
        tagging.by_type(predictions, references, scheme="IOB2")


def test_an_unknown_way_to_count_or_scheme_is_refused():
    with pytest.raises(
        ConfigError, match=r"Counting 'stric' is not one of conlleval, strict\. Did you mean 'strict'\?"
    ):
        tagging.compute(["f1"], [["O"]], [["O"]], mode="stric", scheme="IOB2")
    with pytest.raises(ConfigError, match=r"No tagging scheme 'IOB'\. Did you mean 'IOB1'\?|Did you mean 'IOB2'\?"):
        tagging.compute(["f1"], [["O"]], [["O"]], scheme="IOB")
