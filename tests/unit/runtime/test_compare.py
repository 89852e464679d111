"""Errors of outputs: what a row is, and whose largest element counts."""

import numpy as np

from bqc.runtime.compare import Comparison
from bqc.verify import Bounds


def test_attention_weights_have_rows_of_texts_and_no_classes() -> None:
    # As many heads as tokens: the second axis is still no sequence.
    weights = np.eye(4, dtype=np.float32)[None, None].repeat(4, axis=1)
    other = weights[..., ::-1]
    compared = Comparison("attentions.0", per_token=True)
    compared.add(other, weights, np.array([[True, True, False, False]]))
    found = compared.result()
    assert (found.rows, found.argmax_agreement) == (1, None)
    assert found.cosine_min < 1


def test_scores_of_few_tokens_are_one_vector() -> None:
    """The one logit of a text of one token points the opposite way at the least change."""
    want = np.zeros((2, 20), np.float32)
    want[0, :18] = np.arange(18)
    want[1, 0] = 1e-3
    got = want + 0
    got[1, 0] = -1e-3
    mask = np.zeros((2, 20), np.bool_)
    mask[0, :18] = mask[1, :1] = True
    one = Comparison("start_logits", per_token=True)
    one.add(got, want, mask)
    assert one.result().cosine_min == -1  # the only such row
    got[0, 10:18], want[0, 10:18], mask[0, 10:18] = 0, 0, False
    both = Comparison("start_logits", per_token=True)
    both.add(got, want, mask)
    assert both.result().cosine_min > 0.999
    assert both.result().rows == 2


def test_labels_are_equal_or_not() -> None:
    """Whatever their numbers are: close ones are other labels, and none is a class score."""
    want = np.array([[1001, 1002, 7], [1003, 1004, 8]])
    mask = np.array([[True, True, False], [True, True, False]])
    compared = Comparison("label", per_token=True)
    compared.add(want + np.array([0, 0, 1]), want, mask)
    found = compared.result()
    assert (found.equal, found.cosine_min, found.argmax_agreement) == (1.0, None, None)
    compared.add(want + 1, want, mask)
    found = compared.result()
    assert (found.equal, found.rows) == (0.5, 4)
    assert [check.ok for check in Bounds(0.97, 0.9).check(found)] == [False]
