"""Encoders that are wired otherwise are whole after import, compute the same, and compile."""

from __future__ import annotations

import pytest

from bqc.ir import import_model
from tests.support.exporters_attention import EXPORTERS
from tests.support.exports import Export
from tools.support_check import check


@pytest.mark.parametrize("name", EXPORTERS)
@pytest.mark.parametrize("head", ["bare", "classification"])
def test_a_rewired_encoder_is_supported(name: str, head: str, tmp_path) -> None:
    source = Export("torchscript", 17, head=head).path
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes())
    rewired = EXPORTERS[name](path)
    _, summary = import_model(rewired)
    assert (summary.encoder.layers, summary.encoder.float_parts) == (2, ())
    assert check(rewired) == ("supported", "")
