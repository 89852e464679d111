"""A few English texts, for comparisons on something like real input where no data is at hand."""

from __future__ import annotations

__all__ = ["SENTENCES"]

SENTENCES: tuple[tuple[str, ...], ...] = (
    ("The film is a quiet triumph.",),
    ("It was dull, loud and at least an hour too long.",),
    ("Yes.",),
    ("The committee postponed its decision until the end of March.",),
    ("I would not recommend this hotel to anyone who needs to sleep.",),
    ("How do I reset the password of my account?",),
    ("Water boils at a lower temperature on a high mountain.",),
    ("The cat that the dog chased ran up a tree.",),
    ("Shares fell 3.4 % in early trading on Tuesday, to $27.15.",),
    ("Nobody who saw the play could say what it had been about, and nobody minded.",),
    ("A man is playing the guitar.", "Someone plays an instrument."),
    ("A man is playing the guitar.", "A woman is slicing an onion."),
    ("The company reported a loss for the third quarter.", "The company made a loss in the third quarter."),
    ("What is the capital of France?", "Paris has been the capital of France for most of its history."),
    ("He left early.", "He left."),
    (
        "The bridge, which was closed for repairs in the spring, carries about forty thousand cars a day.",
        "Some forty thousand cars cross the bridge daily; repairs kept it shut during the spring.",
    ),
)
"""Texts (1-tuples) and pairs (2-tuples) of several lengths and moods."""
