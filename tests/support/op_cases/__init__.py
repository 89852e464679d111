"""Inputs for every operator, and one-node models to run them in: shared by body and kernel parity tests."""

from __future__ import annotations

import numpy as np

from tests.support.op_cases.block import block_cases
from tests.support.op_cases.case import Case, Sizes, expected, feeds, model, same_bits
from tests.support.op_cases.float_attention import float_attention_cases
from tests.support.op_cases.half import half_cases
from tests.support.op_cases.sign import sign_cases
from tests.support.op_cases.sparse import sparse_cases
from tests.support.op_cases.xnor import xnor_cases

__all__ = ["Case", "Sizes", "bert_cases", "expected", "feeds", "model", "same_bits"]


def bert_cases(s: Sizes) -> list[Case]:
    """A case of every operator at one set of sizes."""
    rng = np.random.default_rng(s.seed)
    cases = block_cases(s, rng)
    for family in (sign_cases, sparse_cases, half_cases, xnor_cases, float_attention_cases):
        cases += family(s, rng, cases)
    for case in cases:
        case.label = f"b{s.batch}s{s.length}h{s.heads}x{s.width}-w{s.bits}-k{s.block}-{s.seed}"
    return cases
