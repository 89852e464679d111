"""Errors of outputs: what a row is, and whose largest element counts."""

import numpy as np

from bqc.runtime.compare import Comparison


def test_attention_weights_have_rows_of_texts_and_no_classes() -> None:
    # As many heads as tokens: the second axis is still no sequence.
    weights = np.eye(4, dtype=np.float32)[None, None].repeat(4, axis=1)
    other = weights[..., ::-1]
    compared = Comparison("attentions.0", per_token=True)
    compared.add(other, weights, np.array([[True, True, False, False]]))
    found = compared.result()
    assert (found.rows, found.argmax_agreement) == (1, None)
    assert found.cosine_min < 1
