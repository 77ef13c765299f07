"""The baselines of span question answering: no answer at all, and the sentence that is most like the question.

Neither learns what an answer is. The first is what a model that refuses everything scores, half of SQuAD 2.0's
development set (arXiv:1806.03822, 5); the second finds the right place sometimes, and never the right words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bertkit.adapters.base import Adapter, Example, Prediction
from bertkit.adapters.span_qa import NO_ANSWER, SpanQA
from bertkit.baselines import Baseline
from bertkit.baselines.sequence_classification import WORD
from bertkit.data import Split
from bertkit.errors import ConfigError
from bertkit.events import Listener, Phase

SENTENCE = re.compile(r"\S.*?(?:[.!?][\"')\]]*(?=\s)|[。！？][”’」』）]*|(?=\n)|\Z)", re.DOTALL)
"""From the first character that is no space to a closing mark before a space, an ideographic one, or a line's end."""


def fit(
    adapter: Adapter, splits: Mapping[str, Split], *, seed: int, vectors: Path | None, tell: Listener
) -> Iterator[Baseline]:
    """Yield ``majority``, where train has questions without an answer, and ``sentence``.

    See :class:`bertkit.baselines.Fit`. Nothing is drawn, so that ``seed`` changes nothing.
    """
    assert isinstance(adapter, SpanQA)
    if vectors is not None:
        raise ConfigError(f"--vectors {vectors} is for classification and regression; span QA has no such baseline.")
    examples = splits["train"].examples
    if adapter.unanswerable:
        without = sum(not adapter.answers(example) for example in examples)
        yield Baseline(
            name="majority",
            summary=f"no answer to any question; {without:,} of {len(examples):,} training questions have none",
            predict=lambda rows: [_prediction(adapter, None, "") for _ in rows],
        )
    tell(Phase(name="fitting sentence"))
    yield Baseline(
        name="sentence",
        summary="the sentence of the context that is most like the question, by TF-IDF of words",
        predict=_closest(adapter, examples),
    )


def _closest(adapter: SpanQA, examples: Sequence[Example]) -> Callable[[Sequence[Example]], list[Prediction]]:
    """Return what answers with the sentence closest to the question; train's sentences say how rare a word is."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    contexts = list(dict.fromkeys(adapter.texts(examples, "context")))
    sentences = [text[start:end] for text in contexts for start, end in sentences_of(text)]
    # Contexts without a single word have no vocabulary, which scikit-learn refuses.
    words = TfidfVectorizer(token_pattern=WORD).fit(sentences or ["."])

    def predict(rows: Sequence[Example]) -> list[Prediction]:
        asked, read = adapter.texts(rows, "question"), adapter.texts(rows, "context")
        places = {text: sentences_of(text) for text in dict.fromkeys(read)}
        vectors = {text: words.transform(_cut(text, spans)) for text, spans in places.items() if spans}
        questions = words.transform(asked)
        found = []
        for index, text in enumerate(read):
            best = (vectors[text] @ questions[index].T).toarray().argmax() if places[text] else None
            found.append(_prediction(adapter, None if best is None else places[text][best], text))
        return found

    return predict


def sentences_of(text: str) -> list[tuple[int, int]]:
    """Return where the sentences of a text stand, ``(start, end)`` in code points."""
    return [(match.start(), match.start() + len(match[0].rstrip())) for match in SENTENCE.finditer(text)]


def _cut(text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    return [text[start:end] for start, end in spans]


def _prediction(adapter: SpanQA, span: tuple[int, int] | None, context: str) -> Prediction:
    """Return a prediction in the adapter's form: a span that it is sure of, or no answer."""
    answer = None if span is None else {"answer": context[span[0] : span[1]], "start": span[0], "end": span[1]}
    # As far from the threshold as can be: a baseline has no no-answer score to tune.
    found = (answer or NO_ANSWER) | {"score": 1.0, "no_answer_score": -1e9 if answer else None}
    return found | ({"best_span": answer} if adapter.unanswerable else {})
