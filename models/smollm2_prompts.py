"""Where the texts start that SmolLM2's drafter learns from: all of it written for this project.

The target makes the rest up itself; see ``distil_smollm2.py``. No prompt of ``dsim/prompts`` may
resemble what the drafter learns from; ``likeness`` says how near two prompts are.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def _parts(text: str) -> list[str]:
    """What stands between the bars."""
    return text.split("|")


QUESTION_STARTS = _parts(
    "||||||||Write|Write a short|Write a Python function that|Write a Python function that takes|"
    "Write a Python function that returns|Write a function in Python to|Explain|Explain why|"
    "What is|What are|How do I|How can|How does|Give me|Give three|Give two|List|List three|Name|"
    "Name four|Describe|Describe how|Why|Suggest|Suggest two|Write three|Write two|Tell me|Tell me a|"
    "Create a|In one sentence,|Can you|Should|When|Who|Where|Compare|Write an email|Write a poem|"
    "Write a note to|Invent|Plan|Help me|I want to|My|Translate|Is it|Which"
)

STORY_STARTS = _parts(
    "Once upon a time, there was a|Once upon a time, in a|One day,|One morning,|One evening, a|"
    "It was a cold|The old|On a hill|When the|Every morning,|Long ago,|There once was a|The little|"
    "Anna and her|Tom had a|Mia was|Ben wanted to|A small bear|The king|Far away,|Sam liked to|"
    "In the middle of the night,|A girl named|A boy called|The wizard|My grandmother|The dog|"
    "Maria walked|Nobody knew|The train|Deep in the forest,|At the edge of the village,|The moon"
)

PROSE_STARTS = _parts(
    "|||||||The town of|Researchers at|The museum|The company|A local|The new bridge|The city council|"
    "Visitors to|The school|In recent years,|The river|Farmers in|The library|A team of|"
    "Scientists have|The festival|Starting next week,|The hospital|Many people|Bread is|Bees|"
    "The history of|During the|The café|The bus|Volunteers|After the storm,|The film|The theatre|"
    "Most plants|The manager|The market|Trains between|The swimming pool|According to a|The hotel"
)

CODE_STARTS = _parts(
    "def |import |class |#!/usr/bin/env python|from collections import|# |def is_|def count_|"
    "def find_|def remove_|def main():|import random"
)

SUMMARIES = (
    "Summarise the following text in one sentence: {t}",
    "Summarise the following text in one sentence: {t}",
    "Summarize this passage: {t}",
    "Summarise this text in two sentences.\n\n{t}",
    "{t}\n\nIn short,",
    "What is the main point of this text? {t}",
    "Text: {t}\nSummary:",
)

TOPICS = _parts(
    "the ocean|a rainy day|trains|the moon|bees|bread|a library|friendship|winter|volcanoes|"
    "gardens|music|the heart|bicycles|rivers|computers|cats|dogs|the desert|painting|chess|football|"
    "history|money|electricity|clouds|maps|whales|coffee|cheese|clocks|bridges|farming|healthy food|"
    "sleep|exercise|the solar system|plants|insects|languages|books|cooking|travel|weather|schools|"
    "doctors|photography|recycling|forests|mountains|islands|ships|airplanes|robots|gravity|magnets|"
    "light|sound|heat|water|air|soil|birds|fish|horses|elephants|spiders|snakes|dinosaurs|castles|"
    "explorers|inventions|the telephone|radio|television|films|theatre|dancing|the violin|poetry|"
    "letters|email|the internet|passwords|teamwork|patience|honesty|courage|curiosity|habits|"
    "job interviews|meetings|budgets|shopping|gifts|birthdays|weddings|holidays|camping|hiking|"
    "swimming|running|yoga|a neighbour|a bus driver|a broken window|a school trip|old furniture"
)

TEMPLATES = (
    "Explain {t} in simple words.",
    "Write a short paragraph about {t}.",
    "Give me three facts about {t}.",
    "Why is {t} important to people?",
    "Tell me a short story about {t}.",
    "What should a beginner know about {t}?",
    "List four tips that have to do with {t}.",
    "Describe {t} to someone who has never heard of it.",
    "Write an email to a friend about {t}.",
    "What is the history of {t}?",
    "Ask me five quiz questions about {t} and answer them.",
    "What are the advantages and disadvantages of {t}?",
    "Write a poem of four lines about {t}.",
    "Write a polite note that mentions {t}.",
    "Suggest a title for a book about {t}.",
)

# name, its arguments, what it does, how its inputs are drawn ("n", "ns", "word", "words", "text"),
# and the function itself, so that the examples in the docstrings are right.
FUNCTIONS: tuple[tuple[str, str, str, str, Callable[..., Any]], ...] = (
    ("sum_even", "numbers: list[int]) -> int", "returns the sum of the even numbers in a list",
     "ns", lambda ns: sum(n for n in ns if n % 2 == 0)),
    ("largest", "numbers: list[int]) -> int", "returns the largest number in a list", "ns", max),
    ("count_vowels", "text: str) -> int", "counts the vowels in a text", "text",
     lambda t: sum(c in "aeiou" for c in t)),
    ("reverse_words", "text: str) -> str", "reverses the order of the words in a sentence", "text",
     lambda t: " ".join(t.split()[::-1])),
    ("is_palindrome", "word: str) -> bool", "checks whether a word reads the same backwards", "word",
     lambda w: w == w[::-1]),
    ("squares", "n: int) -> list[int]", "returns the squares of the numbers from 1 to n", "n",
     lambda n: [i * i for i in range(1, n + 1)]),
    ("unique", "items: list[int]) -> list[int]", "removes duplicates from a list and keeps the order",
     "ns", lambda ns: list(dict.fromkeys(ns))),
    ("longest_word", "words: list[str]) -> str", "returns the longest word of a list", "words",
     lambda ws: max(ws, key=len)),
    ("factorial", "n: int) -> int", "computes the factorial of n", "n",
     math.factorial),
    ("digits_sum", "n: int) -> int", "adds up the digits of a number", "n",
     lambda n: sum(map(int, str(n)))),
    ("initials", "words: list[str]) -> str", "joins the first letters of words", "words",
     lambda ws: "".join(w[0] for w in ws)),
    ("running_total", "numbers: list[int]) -> list[int]", "returns the running totals of a list",
     "ns", lambda ns: [sum(ns[: i + 1]) for i in range(len(ns))]),
    ("is_sorted", "numbers: list[int]) -> bool", "checks whether a list is in ascending order", "ns",
     lambda ns: ns == sorted(ns)),
    ("average", "numbers: list[int]) -> float", "returns the mean of a list of numbers", "ns",
     lambda ns: round(sum(ns) / len(ns), 2)),
    ("drop_negative", "numbers: list[int]) -> list[int]", "keeps the numbers that are not negative",
     "ns", lambda ns: [n for n in ns if n >= 0]),
    ("capitalise", "text: str) -> str", "writes each word of a text with a capital letter", "text",
     lambda t: t.title()),
    ("word_lengths", "words: list[str]) -> dict[str, int]", "maps each word to its length", "words",
     lambda ws: {w: len(w) for w in ws}),
    ("to_celsius", "degrees: float) -> float", "converts degrees Fahrenheit to Celsius", "n",
     lambda n: round((n - 32) * 5 / 9, 1)),
    ("is_prime", "n: int) -> bool", "checks whether n is a prime number", "n",
     lambda n: n > 1 and all(n % i for i in range(2, n))),
    ("fizz", "n: int) -> str", "returns 'fizz' for multiples of three and the number otherwise", "n",
     lambda n: "fizz" if n % 3 == 0 else str(n)),
    ("merge", "first: list[int], second: list[int]) -> list[int]", "merges two lists and sorts them",
     "ns ns", lambda a, b: sorted(a + b)),
    ("common", "first: list[int], second: list[int]) -> list[int]",
     "returns the items that two lists share", "ns ns", lambda a, b: sorted(set(a) & set(b))),
    ("repeat", "word: str, times: int) -> str", "repeats a word with spaces between", "word n",
     lambda w, n: " ".join([w] * n)),
    ("clamp", "value: int, low: int) -> int", "returns the value, but at least the lower bound",
     "n n", max),
    ("power", "base: int, exponent: int) -> int", "raises a number to a power", "n n",
     lambda a, b: a**b),
    ("contains", "words: list[str], word: str) -> bool", "checks whether a word is in a list",
     "words word", lambda ws, w: w in ws),
    ("count_letter", "text: str, letter: str) -> int", "counts how often a letter occurs in a text",
     "text word", lambda t, w: t.count(w[0])),
    ("chunks", "numbers: list[int], size: int) -> list[list[int]]",
     "splits a list into pieces of the given size", "ns n",
     lambda ns, n: [ns[i : i + n] for i in range(0, len(ns), n)]),
    ("rotate", "numbers: list[int], steps: int) -> list[int]", "rotates a list to the left",
     "ns n", lambda ns, n: ns[n % len(ns) :] + ns[: n % len(ns)]),
    ("above", "numbers: list[int], limit: int) -> list[int]", "returns the numbers above a limit",
     "ns n", lambda ns, n: [x for x in ns if x > n]),
)  # fmt: skip

WORDS = _parts(
    "apple|river|stone|green|level|lamp|cloud|radar|paper|house|tiger|noon|garden|bridge|window|"
    "salt|spoon|chair|music|candle"
)


def stub(rng: random.Random) -> tuple[str, str]:
    """The head of a function with a docstring and an example, and what it is to do."""
    name, signature, doc, kinds, made = rng.choice(FUNCTIONS)

    def draw(kind: str) -> Any:
        if kind == "n":
            return rng.randint(1, 9)
        if kind == "ns":
            return [rng.randint(-3, 20) for _ in range(rng.randint(3, 5))]
        if kind == "word":
            return rng.choice(WORDS)
        words = rng.sample(WORDS, rng.randint(2, 4))
        return words if kind == "words" else " ".join(words)

    inputs = [draw(kind) for kind in kinds.split()]
    said = (doc[0].upper() + doc[1:]).replace("returns", rng.choice(("returns", "return")), 1)
    example = f"    >>> {name}({', '.join(map(repr, inputs))})\n    {made(*inputs)!r}\n"
    head = f"def {name}({signature}:\n    " + '"""' + said + "."
    if rng.random() < 0.2:
        return head + '"""\n', doc
    return head + "\n\n" + example + '    """\n', doc


def written(rng: random.Random, templates: int, stubs: int) -> tuple[list[str], list[str]]:
    """The prompts that need no model.

    Args:
        rng: where the draws come from.
        templates: how many of the filled-in templates, at most.
        stubs: how many heads of functions are drawn; those that come twice count once.

    Returns:
        What a user asks, and the heads of functions.
    """
    filled = [t.format(t=topic) for t in TEMPLATES for topic in TOPICS]
    rng.shuffle(filled)
    heads = list(dict.fromkeys(stub(rng) for _ in range(stubs)))
    asked = filled[:templates] + [
        f"Write a Python {what} that {doc}."
        for doc in sorted({doc for _, doc in heads})
        for what in ("function", "program")
    ]
    return asked, [head for head, _ in heads]


# What says nothing about the task of a prompt.
COMMON = frozenset(
    _parts(
        "a|an|the|of|in|to|and|that|is|it|for|on|with|as|was|return|returns|python|function|write|"
        "def|int|str|list|text|following|one|sentence|summarise|once|upon|time|there|im|start|end|"
        "program|bool|float|dict|whether|tell|me|about|story|short|please"
    )
)

RESEMBLES = 0.4  # the likeness from which two prompts ask for the same


def content(text: str) -> frozenset[str]:
    """The words of *text* that say what it is about, without examples; plurals count as one."""
    words = re.findall(r"[a-z]+", re.sub(r">>> .*\n.*", "", text).lower())
    return frozenset(word.removesuffix("s") for word in words if word not in COMMON)


def likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """The share of the words of two prompts that both have, 0 to 1; 0 if neither has any."""
    return len(one & other) / max(1, len(one | other))


def shipped() -> dict[str, str]:
    """The prompts that come with dsim, by their ids."""
    folder = Path(__file__).resolve().parent.parent / "dsim" / "prompts"
    rows = [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return {row["id"]: row["prompt"] for row in rows}


def nearest(text: str, known: Iterable[frozenset[str]]) -> float:
    """The largest likeness of *text* to the contents *known*; 0 if there are none."""
    words = content(text)
    return max((likeness(words, one) for one in known), default=0.0)
