"""Masked-LM targets (Devlin et al., arXiv:1810.04805, section 3.1), for single tokens or whole words.

The recipe is that of BERT's create_pretraining_data.py: a fixed share of a row is chosen, up to a maximum; a word
that would exceed it is passed over. Of the chosen tokens 80 % are shown as [MASK], 10 % as a random token and 10 % as
they are, token by token, in whole words too. It differs in two points: the number is rounded up or down by chance, so
that the share holds on the average of rows of any length; and masks are drawn anew in each epoch (Liu et al.,
arXiv:1907.11692, section 4.1), by a generator of their own for each seed, epoch and instance, so that neither the
order of rows nor the number of processes changes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bertkit.data import subwords
from bertkit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a position that is not predicted, as the models of transformers have it."""
SHARE = 0.15
MASK_SHARE = 0.8
RANDOM_SHARE = 0.1
"""Devlin et al., section 3.1, "Task #1"."""


def rng_of(seed: int, epoch: int, instance: int) -> np.random.Generator:
    """Return the generator of an instance's masks in an epoch.

    Philox (Salmon et al., 2011) counts: another epoch or instance begins elsewhere, without a slow seeding.
    """
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, epoch, instance]))


class Masker:
    """Chooses positions to predict and what the model sees there."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        share: float = SHARE,
        most: int = 0,
        whole_words: bool = False,
        mask_share: float = MASK_SHARE,
        random_share: float = RANDOM_SHARE,
    ) -> None:
        """Look at the vocabulary once.

        Args:
            tokenizer: with a mask token; a fast one for ``whole_words``.
            share: of the tokens that are no special ones, predicted.
            most: predictions in a row at most; 0 sets no limit.
            whole_words: predict all tokens of a word or none.
            mask_share: of the predicted tokens, shown as the mask token.
            random_share: of the predicted tokens, shown as a random token of the vocabulary that is no special one.
                What is left is shown as it is.

        Raises:
            ModelError: if the tokenizer has no mask token, or ``whole_words`` and it cannot be told which of its
                tokens go on with a word.
        """
        if tokenizer.mask_token_id is None:
            raise ModelError(
                f"The tokenizer {type(tokenizer).__name__} has no mask token, so nothing can be masked: take an "
                "encoder that was trained as a masked language model."
            )
        self.share, self.most = share, most
        self.mask_share, self.random_share = mask_share, random_share
        self.mask_id = tokenizer.mask_token_id
        numbers = sorted(tokenizer.get_vocab().values())
        self.special = np.zeros(numbers[-1] + 1, dtype=bool)
        self.special[tokenizer.all_special_ids] = True
        self.ordinary = np.array([number for number in numbers if not self.special[number]], dtype=np.int64)
        self.subwords = subwords.of_tokenizer(tokenizer) if whole_words else None

    def masked(
        self,
        ids: np.ndarray,
        special: np.ndarray,
        rng: np.random.Generator,
        *,
        continues: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mask one row.

        Args:
            ids: ``(T,)`` int64, with special tokens; not changed.
            special: ``(T,)`` bool: never chosen. Special tokens of the vocabulary ([UNK] too) are not chosen either.
            rng: :func:`rng_of`.
            continues: ``(T,)`` bool, as :attr:`bertkit.data.pairs.Instance.continues`.

        Returns:
            The ids that the model sees, and the labels: the true id where one is predicted, else -100; both ``(T,)``
            int64.
        """
        special = special | self.special[ids]
        open_places = np.flatnonzero(~special)
        number = self._number(len(open_places), rng)
        if self.subwords is None:
            chosen = rng.permutation(open_places)[:number]
        else:
            begins = self.subwords.starts(ids, special, continues)[open_places]
            chosen = open_places[_whole(begins, number, rng)]
        return self._shown(ids, chosen, rng)

    def _number(self, candidates: int, rng: np.random.Generator) -> int:
        """Return how many tokens of a row to predict: at least one, where there is one."""
        exact = self.share * candidates + rng.random()
        return min(candidates, max(1, int(exact)), self.most or candidates)

    def _shown(self, ids: np.ndarray, chosen: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return what the model sees in place of the chosen tokens, and the labels."""
        seen, labels = ids.copy(), np.full(len(ids), IGNORED, dtype=np.int64)
        labels[chosen] = ids[chosen]
        draw = rng.random(len(chosen))
        seen[chosen[draw < self.mask_share]] = self.mask_id
        replaced = chosen[(draw >= self.mask_share) & (draw < self.mask_share + self.random_share)]
        seen[replaced] = self.ordinary[rng.integers(len(self.ordinary), size=len(replaced))]
        return seen, labels


def _whole(begins: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Choose whole words of at most ``number`` tokens together.

    Args:
        begins: ``(C,)`` bool: which tokens begin a word, the first among them.
        number: of tokens; a word that would exceed it is passed over, and the next is tried.
        rng: of the draw.

    Returns:
        ``(C,)`` bool: which tokens are chosen.
    """
    starts = np.append(np.flatnonzero(begins), len(begins))
    sizes = starts[1:] - starts[:-1]
    order = rng.permutation(len(sizes))
    total = np.cumsum(sizes[order])
    # All words up to the first that exceeds it are in; of the others it takes a look at one by one.
    fitting = int(np.searchsorted(total, number, side="right"))
    chosen = np.zeros(len(sizes), dtype=bool)
    chosen[order[:fitting]] = True
    room = number - (int(total[fitting - 1]) if fitting else 0)
    for place in order[fitting:].tolist():
        if not room:
            break
        if sizes[place] <= room:
            chosen[place] = True
            room -= int(sizes[place])
    return np.repeat(chosen, sizes)
