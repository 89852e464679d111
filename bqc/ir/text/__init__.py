"""The textual form of a model (`.onnxtxt`): readable, re-parseable, with labels and without the bulk of the weights.

docs/text-form.md has the grammar.
"""

from __future__ import annotations

from bqc.ir.text.elided import ElidedTensor, attach_weights, elided_tensors, require_weights
from bqc.ir.text.parser import from_text
from bqc.ir.text.printer import Tensors, to_text
from bqc.ir.text.splitting import SEPARATOR, split

__all__ = [
    "SEPARATOR",
    "SUFFIX",
    "ElidedTensor",
    "Tensors",
    "attach_weights",
    "elided_tensors",
    "from_text",
    "require_weights",
    "split",
    "to_text",
]

SUFFIX = ".onnxtxt"
