"""Texts of any script or none: what a tokenizer may be given, and what hurts it."""

from __future__ import annotations

import random
from collections.abc import Callable

ODD = [
    *"\u0300\u0301\u20dd\u0e35\u0e48\u093f\u0941\u05b8\u064f\u3099",
    *"\u200b\u200c\u200d\u2060\ufeff\u00ad\u202e\ufe0f\U000e0001\U0001f3fd",
    *"\x00\x01\x07\x1b\x7f\x85\t\n\r\x0b\x0c\u2028\u2029\u00a0\u3000 ",
    *"\U0001f600\U0001f468\U0001f1f3\u2764\u6211\u4eec\u3042\uac00\u1100\u1161\ufb01\ufdfa\u0130\u1e9e\u01c5\u2126\ufffd\ufffe\U0010ffff",
]  # fmt: skip
"""Marks, characters without width or of control, kinds of white space, and letters that change when lower-cased."""
WORDS = [
    "the",
    "film",
    "good",
    "\u6211\u4eec",
    "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\u0645\u0631\u062d\u0628\u0627",
    "[SEP]",
    "[CLS]",
    "<s>",
    "##a",
    "\u2581",
]


def jumble(rng: random.Random) -> str:
    """Return a text of words, long words, and characters of any script or none."""
    parts: list[Callable[[], str]] = [
        lambda: rng.choice(WORDS),
        lambda: rng.choice(["good", "bad", "film", "a"]),
        lambda: "".join(rng.choices(ODD, k=rng.randint(1, 4))),
        lambda: chr(rng.choice([rng.randint(0, 0xD7FF), rng.randint(0xE000, 0x10FFFF)])),
        lambda: rng.choice("ab\u6211\u0301") * rng.randint(1, 120),
    ]
    pieces = rng.choices(parts, weights=[6, 10, 4, 3, 1], k=rng.choice([0, 1, 5, 20, 20, 60]))
    return "".join(piece() + rng.choice([" ", " ", " ", "", "\t"]) for piece in pieces)
