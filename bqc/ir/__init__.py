"""Reading graphs: loading, importing to the canonical float form, anatomy."""

from __future__ import annotations

from bqc.ir.anatomy import Encoder, encoder
from bqc.ir.explain import Explanation, Miss
from bqc.ir.importing import ImportSummary, import_model
from bqc.ir.load import is_compiled, load

__all__ = [
    "Encoder",
    "Explanation",
    "ImportSummary",
    "Miss",
    "encoder",
    "import_model",
    "is_compiled",
    "load",
]
