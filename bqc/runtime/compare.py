"""How far the outputs of one model are from another's, where it counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Comparison", "OutputErrors"]

Floats = npt.NDArray[np.float64]

# Their largest element carries no meaning, so that it stays the same is not asked of them.
_VECTORS = ("hidden", "embedding", "pooler")

# The logits of a text on the fence point anywhere, and with two classes the opposite way at the least change:
# below this width a row has no direction worth comparing, and the cosine is taken over all rows as one
# vector.
_NARROW = 16


@dataclass(frozen=True)
class OutputErrors:
    """How far one output is from the original's, over the positions that hold a token.

    Attributes:
        name: the output.
        rows: vectors compared: texts, or tokens for an output with a sequence axis.
        max_abs: largest absolute error of an element.
        mean_abs: mean absolute error over all elements.
        cosine_min: lowest cosine of a row; of rows with fewer than 16 elements, all of them as one vector; None of
            integers.
        argmax_agreement: fraction of rows with the same largest element; None where that means nothing.
        equal: fraction of elements that are the same, of an output of integers (labels, indices); None of numbers.
    """

    name: str
    rows: int
    max_abs: float
    mean_abs: float
    cosine_min: float | None
    argmax_agreement: float | None
    equal: float | None = None


class Comparison:
    """Errors of one output, gathered run by run.

    Args:
        name: the output.
        per_token: whether its second axis, where it is as long as the sequence, is the sequence.
    """

    def __init__(self, name: str, per_token: bool) -> None:
        self.name = name
        self._per_token = per_token
        self._errors: list[Floats] = []
        self._cosines: list[Floats] = []
        self._agree: list[npt.NDArray[np.bool_]] = []
        self._narrow: list[Floats] = []
        self._integers = False
        self._rows = 0

    def add(
        self, got: npt.NDArray[np.generic], want: npt.NDArray[np.generic], mask: npt.NDArray[np.bool_]
    ) -> None:
        """Compare one run: outputs of equal shape ``[batch, ...]``, and the mask ``[batch, sequence]``."""
        span = self._per_token and got.shape == mask.shape
        # Attention weights [batch, heads, query, key] have no tokens on their second axis, and no classes.
        weights = got.ndim == 4
        if self._per_token and not span and not weights and got.shape[:2] == mask.shape:
            first, second = (
                values.astype(np.float64)[mask].reshape(mask.sum(), -1) for values in (got, want)
            )
        else:
            first, second = (values.astype(np.float64).reshape(len(mask), -1) for values in (got, want))
        valid = mask if span else np.ones(first.shape, dtype=np.bool_)
        self._rows += len(first)
        self._integers = want.dtype.kind in "iub"
        self._errors.append(np.abs(first - second)[valid])
        if self._integers:
            return
        pair = np.stack([np.where(valid, values, 0.0) for values in (first, second)])
        narrow = valid.sum(axis=1) < _NARROW
        self._narrow.append(pair[:, narrow].reshape(2, -1))
        self._cosines.append(_cosine(*pair[:, ~narrow]))
        if first.shape[1] == 1 or weights:
            return
        best, expected = (np.where(valid, values, -np.inf).argmax(axis=1) for values in (first, second))
        self._agree.append(best == expected)

    def result(self) -> OutputErrors:
        """The errors of all runs together; NaN where either model gave NaN."""
        errors = np.concatenate(self._errors)
        far = float(errors.max(initial=0.0)), float(errors.mean()) if errors.size else 0.0
        if self._integers:
            same = float((errors == 0).mean()) if errors.size else 1.0
            return OutputErrors(self.name, self._rows, *far, None, None, same)
        whole = np.concatenate(self._narrow, axis=1)
        cosines = [*self._cosines, _cosine(whole[:1], whole[1:])]
        ranked = self._agree and not any(word in self.name.lower() for word in _VECTORS)
        return OutputErrors(
            name=self.name,
            rows=self._rows,
            max_abs=far[0],
            mean_abs=far[1],
            cosine_min=float(np.concatenate(cosines).min(initial=1.0)),
            argmax_agreement=float(np.concatenate(self._agree).mean()) if ranked else None,
        )


def _cosine(first: Floats, second: Floats) -> Floats:
    """Cosine of each row; two zero rows are alike, a zero row and another are not."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    dots = (first * second).sum(axis=1)
    both_zero = ~(first.any(axis=1) | second.any(axis=1))
    return np.where(both_zero, 1.0, dots / np.where(norms == 0.0, 1.0, norms))
