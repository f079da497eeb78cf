"""Sentences with different degrees of likeness, as in a project. They are the same on every machine."""

import random
from collections.abc import Iterator

VERBS = ("Write", "Summarise", "Translate", "Explain", "Improve", "Shorten", "Check", "Rewrite")
SUBJECTS = ("poem", "invoice", "recipe", "contract", "lesson", "letter", "report", "story", "song", "plan")
MATTERS = ("the sea", "late payment", "three cheeses", "a lease", "fractions", "a refund", "rainfall", "a lost dog")
READERS = ("a child", "my manager", "a customer", "the tax office", "beginners", "an expert", "my neighbour")
MANNERS = ("friendly", "short", "formal", "funny", "detailed", "plain")


def sentences(count: int, *, seed: int = 5) -> Iterator[str]:
    """Yield ``count`` different sentences."""
    draw = random.Random(seed)
    for number in range(count):
        yield (
            f"{draw.choice(VERBS)} a {draw.choice(MANNERS)} {draw.choice(SUBJECTS)} about {draw.choice(MATTERS)} for "
            f"{draw.choice(READERS)} in {draw.randint(2, 900)} words, then a {draw.choice(SUBJECTS)} about "
            f"{draw.choice(MATTERS)} for {draw.choice(READERS)}; it is number {number}."
        )
