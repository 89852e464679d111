"""Layers that run without padding: the bits of the padded batch wherever there is a token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import bqc
from bqc.cli import main
from bqc.formats import Half
from bqc.ir import load
from bqc.ir.synthetic import canonical_bert
from bqc.passes._graph import key_of
from bqc.passes._weights import weight_uses
from bqc.plan import Plan
from bqc.runtime.session import session
from tests.support.families import HEADS, VOCABULARY, Cell, exported

SIZES: dict[str, Any] = {"layers": 2, "hidden": 48, "heads": 2, "ffn": 64, "vocab": 90}
MASKS = ("all", "right", "left", "holes", "one hidden whole", "all hidden")


def masks(kind: str, batch: int, length: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """int64 [batch, length]."""
    rng = np.random.default_rng(batch + length)
    at, lengths = np.arange(length), rng.integers(1, length + 1, (batch, 1))
    shown = {
        "all": np.ones((batch, length), bool),
        "right": at < lengths,
        "left": at >= length - lengths,
        "holes": rng.random((batch, length)) < 0.5,
        "one hidden whole": (at < lengths) & (np.arange(batch) != 1)[:, None],
        "all hidden": np.zeros((batch, length), bool),
    }[kind]
    return shown.astype(np.int64)


def feeds(running: Any, kind: str, batch: int, length: int) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(7)
    known = {
        "input_ids": rng.integers(2, VOCABULARY - 40, (batch, length)),
        "attention_mask": masks(kind, batch, length),
        "token_type_ids": rng.integers(0, 2, (batch, length)),
    }
    return {value.name: known[value.name] for value in running.get_inputs()}


def both(source: Any, folder: Path, **options: Any) -> tuple[Any, Any]:
    """Sessions of the padded and the unpadded form of a file, or of a model of the canonical form."""
    made = []
    for unpad in (False, True):
        path = folder / f"{unpad}.onnx"
        model = source if isinstance(source, Path) else canonical_bert(**source)
        bqc.compile(model, output=path, unpad=unpad, **options)
        made.append(session(path))
    assert any(node.op_type.startswith("Ragged") for node in load(path).graph)
    onnx.checker.check_model(str(path), full_check=True)
    return made[0], made[1]


@pytest.mark.parametrize("scheme", ["bbct", "binarybert"])
def test_every_mask_gives_the_bits_of_the_padded_batch(tmp_path: Path, scheme: str) -> None:
    same_for_every_mask(*both({**SIZES, "head": "classification"}, tmp_path, scheme=scheme))


def test_float_attention_gives_them_too(tmp_path: Path) -> None:
    """Where ONNX Runtime does not fuse the norms, which it does for [B, S, H] alone, with other last bits."""
    source = {**SIZES, "head": "classification"}
    halves = Plan("bbct", {key_of(node): Half() for node, _, _ in weight_uses(canonical_bert(**source))})
    both(source, tmp_path, recipe=halves)
    running = []
    for name in ("False", "True"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        running.append(session(tmp_path / f"{name}.onnx", options=options))
    same_for_every_mask(*running)


def same_for_every_mask(padded: Any, ragged: Any) -> None:
    """Whether the first session's outputs are the second's."""
    for kind in MASKS:
        for batch, length in ((1, 1), (1, 8), (3, 7), (5, 20), (0, 4)):
            given = feeds(padded, kind, batch, length)
            for ours, theirs in zip(ragged.run(None, given), padded.run(None, given), strict=True):
                np.testing.assert_array_equal(ours, theirs, err_msg=f"{kind} {batch}x{length}")


@pytest.mark.parametrize(
    ("family", "head"),
    [("bert", head) for head in HEADS]
    + [
        ("distilbert", "classification"),
        ("roberta", "tokens"),
        ("electra", "mean"),
        ("albert", "classification"),
    ],
)
def test_every_head(tmp_path: Path, family: str, head: str) -> None:
    padded, ragged = both(exported("torchscript", Cell(family, head)), tmp_path)
    for kind in ("right", "left", "holes"):
        given = feeds(padded, kind, 4, 9)
        shown = given["attention_mask"] != 0
        for ours, theirs in zip(ragged.run(None, given), padded.run(None, given), strict=True):
            assert ours.shape == theirs.shape
            where = shown if ours.shape[:2] == shown.shape else slice(None)
            np.testing.assert_array_equal(ours[where], theirs[where], err_msg=kind)


def test_without_the_library(tmp_path: Path) -> None:
    padded, _ = both({**SIZES, "head": "classification"}, tmp_path)
    plain = onnxruntime.InferenceSession(tmp_path / "True.onnx", providers=["CPUExecutionProvider"])
    given = feeds(padded, "right", 3, 6)
    np.testing.assert_array_equal(plain.run(None, given)[0], padded.run(None, given)[0])


def test_a_bias_of_positions_keeps_padding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = exported("torchscript", Cell("mpnet", "classification"))
    assert main(["compile", str(source), "--unpad", "-o", str(tmp_path / "a.onnx")]) == 2
    assert "bqc: error: padding cannot be taken out: 0:attention" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_layer_whose_weights_stay_float(tmp_path: Path) -> None:
    source = {**SIZES, "head": "classification"}
    padded, ragged = both(source, tmp_path, options={"exclude": ("0:*",)})
    given = feeds(padded, "right", 3, 6)
    np.testing.assert_allclose(ragged.run(None, given)[0], padded.run(None, given)[0], atol=1e-2)


@pytest.mark.parametrize("library", [True, False], ids=["kernels", "bodies"])
@pytest.mark.parametrize("shape", [(2, 4), (2, 7), (2, 12), (4, 8), (1, 16), (8, 2)], ids=str)
def test_a_mask_of_another_size_is_refused(shape: tuple[int, int], library: bool, tmp_path: Path) -> None:
    """It would take tokens of other places, or of other texts, without a word."""
    path = bqc.compile(canonical_bert(**SIZES), output=tmp_path / "m.onnx", unpad=True).paths[0]
    running = session(path, library=library)
    ids = np.ones((2, 8), np.int64)
    texts = {"input_ids": ids, "token_type_ids": np.zeros_like(ids)}
    with pytest.raises(Exception, match="Expand"):
        running.run(None, {**texts, "attention_mask": np.ones(shape, np.int64)})
