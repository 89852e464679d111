"""Does ONNX Runtime compute from an exported file what torch computes?"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Feeds", "generated_feeds", "largest_difference"]

Feeds = dict[str, npt.NDArray[np.int64]]

SENTENCES = (
    "a gorgeous , witty , seductive movie .",
    "no",
    "the film is a hoot , and is just as good , if not better , than much of what passes for family fare .",
    "The cat sat on the mat while it rained in Lisbon, 1998-2003.",
)


def generated_feeds(tokenizer: Any, config: Any, inputs: Sequence[str]) -> list[Feeds]:
    """Ragged real sentences when there is a tokenizer, and random ids with left and right padding."""
    rng = np.random.default_rng(0)
    batches: list[Feeds] = []
    if tokenizer is not None:
        for texts in (SENTENCES, SENTENCES[1:2]):
            # A tokenizer may lack what sentences need; its library raises bare exceptions then.
            with contextlib.suppress(Exception):
                made = tokenizer(list(texts), padding=True, return_tensors="np")
                batches.append({k: made[k].astype(np.int64) for k in inputs if k in made})
    for batch, length in ((3, 17), (1, 5)):
        mask = np.ones((batch, length), np.int64)
        mask[0, length // 2 :] = 0
        if batch > 1:
            mask[1, : length // 3] = 0
        ids = rng.integers(0, config.vocab_size, (batch, length), dtype=np.int64)
        batches.append({"input_ids": ids, "attention_mask": mask})
    for feeds in batches:
        feeds.setdefault("token_type_ids", np.zeros_like(feeds["input_ids"]))
    return [{name: feeds[name] for name in inputs} for feeds in batches]


def largest_difference(
    torch: Any,
    wrapper: Any,
    path: Path,
    batches: Sequence[Feeds],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> float:
    """Of any element of any output that belongs to a token; infinite where one is no number.

    Args:
        torch: the module.
        wrapper: the torch model; takes the inputs in order.
        path: the exported file.
        batches: int64 ``[batch, sequence]`` by input.
        inputs: names in the order of the torch model.
        outputs: names in the order of the torch model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for feeds in batches:
        with torch.no_grad():
            expected = wrapper(*(torch.from_numpy(feeds[name]) for name in inputs))
        expected = expected if isinstance(expected, tuple) else (expected,)
        kept = feeds["attention_mask"] != 0
        for ours, reference in zip(session.run(list(outputs), feeds), expected, strict=True):
            theirs = reference.numpy()
            if theirs.shape[:2] == kept.shape:
                # Padding's own rows are nobody's result, and attention over nothing differs between exporters.
                ours, theirs = ours[kept], theirs[kept]
            gap = np.abs(ours - theirs).max()
            worst = max(worst, float(gap) if np.isfinite(gap) else float("inf"))
    return worst
