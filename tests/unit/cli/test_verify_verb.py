"""``bqc verify`` and ``bqc.verify`` on two tiny models."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from bqc.cli import main
from bqc.errors import BqcError
from bqc.verify import BOUNDS_KEY, Bounds, verify
from tests.support.tiny_encoder import VOCABULARY, write_classifier, write_embedder, write_tokenizer


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A classifier and one with slightly other weights that carries bounds it keeps."""
    weight = np.random.default_rng(0).standard_normal((len(VOCABULARY), 3)).astype(np.float32)
    bounds = json.dumps({"cosine_min": 0.99, "argmax_agreement_min": 0.9, "max_abs": None})
    original = write_classifier(tmp_path / "a" / "model.onnx", weight)
    return write_classifier(
        tmp_path / "b" / "m.bqc.onnx", weight + 1e-3, metadata={BOUNDS_KEY: bounds}
    ), original


def test_equal_models(pair: tuple[Path, Path]) -> None:
    _, original = pair
    report = verify(original, original)
    assert report.ok
    assert report.checks == []
    (output,) = report.outputs
    assert (output.rows, output.max_abs, output.cosine_min, output.argmax_agreement) == (32, 0.0, 1.0, 1.0)


def test_stored_bounds_and_their_overrides(pair: tuple[Path, Path]) -> None:
    compiled, original = pair
    report = verify(compiled, original, samples=8, shape=(3, 5), seed=1)
    assert report.ok
    assert len(report.checks) == 2
    assert report.inputs == "8 random rows of up to 5 tokens in batches of 3, seed 1"
    # The error of a text is 1e-3 times its tokens, so the bound on a single token breaks.
    broken = verify(compiled, original, bounds=Bounds(max_abs=1.5e-3))
    assert [check.ok for check in broken.checks] == [True, True, False]
    assert not broken.ok


def test_exit_codes_and_json(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    compiled, original = map(str, pair)
    assert main(["verify", compiled, "--against", original]) == 0
    assert "[✓] logits: cosine" in capsys.readouterr().out
    assert main(["verify", compiled, "--against", original, "--max-abs", "1e-9"]) == 1
    assert "[x] logits: max error" in capsys.readouterr().out
    assert main(["verify", compiled, "--against", original, "--max-abs", "1e-9", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["schema_version"] == 1
    assert report["ok"] is False
    assert report["outputs"][0]["name"] == "logits"


def test_where_there_are_no_bounds_it_says_so(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    compiled, original = map(str, pair)
    text = "no bounds: the model stores none and none were given"
    assert main(["verify", original, "--against", original]) == 0
    assert text in capsys.readouterr().out
    assert main(["verify", original, "--against", original, "--ort-levels", "none"]) == 0
    shown = capsys.readouterr().out
    assert "[✓] the same bits with ONNX Runtime's optimisation level none" in shown
    assert text in shown
    for bounded in (["verify", compiled], ["verify", original, "--cosine-min", "0.5"]):
        assert main([*bounded, "--against", original]) == 0
        assert "no bounds" not in capsys.readouterr().out


def test_sentences_where_there_is_a_tokenizer(pair: tuple[Path, Path]) -> None:
    compiled, original = pair
    write_tokenizer(original.parent)
    assert "built-in texts" in verify(compiled, original).inputs
    assert "random rows" in verify(compiled, original, samples=2).inputs


def test_padding_is_not_compared(tmp_path: Path) -> None:
    original = write_embedder(tmp_path / "a.onnx")
    compiled = write_embedder(tmp_path / "b.onnx", noise=1e-4)  # and 100 at padding
    (output,) = verify(compiled, original).outputs
    assert output.max_abs < 1e-2
    assert output.cosine_min > 0.9999
    assert output.argmax_agreement is None


def test_inputs_from_a_file(pair: tuple[Path, Path], tmp_path: Path) -> None:
    compiled, original = pair
    ones = np.ones((2, 4), dtype=np.int32)
    file = tmp_path / "inputs.npz"
    np.savez(file, input_ids=ones, attention_mask=ones, token_type_ids=ones)
    assert verify(compiled, original, inputs=file).outputs[0].rows == 2
    np.savez(file, input_ids=ones)
    with pytest.raises(BqcError, match="lacks attention_mask"):
        verify(compiled, original, inputs=file)
    with pytest.raises(BqcError, match=r"not a readable \.npz"):
        verify(compiled, original, inputs=original)


def test_rows_of_a_file_run_in_the_batch_that_a_model_is_fixed_to(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    compiled, original = pair
    for path in pair:
        model = onnx.load(path)
        for value in model.graph.input:
            value.type.tensor_type.shape.dim[0].dim_value = 2
        onnx.save(model, path)
    ids = np.random.default_rng(0).integers(1, 4, (6, 4))
    names = ("input_ids", "attention_mask", "token_type_ids")
    file = tmp_path / "inputs.npz"
    np.savez(file, **dict.fromkeys(names, ids))
    assert verify(compiled, original, inputs=file).outputs[0].rows == 6
    np.savez(file, **dict.fromkeys(names, ids[:5]))
    with pytest.raises(BqcError, match="has 5 rows; the model takes 2 at a time"):
        verify(compiled, original, inputs=file)


def test_nan_passes_no_bound(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, original = pair
    bad = write_classifier(tmp_path / "nan.onnx", np.full((len(VOCABULARY), 3), np.nan, dtype=np.float32))
    report = verify(bad, original, bounds=Bounds(cosine_min=-1.0, max_abs=1e30))
    assert [check.ok for check in report.checks] == [False, False]
    assert main(["verify", str(bad), "--against", str(original), "--json", "--max-abs", "1"]) == 1
    assert json.loads(capsys.readouterr().out)["outputs"][0]["max_abs"] is None


def test_models_that_do_not_compare(pair: tuple[Path, Path], tmp_path: Path) -> None:
    compiled, _ = pair
    with pytest.raises(BqcError, match="do not have the same outputs"):
        verify(compiled, write_embedder(tmp_path / "e.onnx"))
    with pytest.raises(BqcError, match="has shape"):
        verify(compiled, write_classifier(tmp_path / "c.onnx"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A compiled encoder and its original."""
    import onnx_ir as ir

    import bqc
    from bqc.ir.synthetic import canonical_bert

    original = tmp_path_factory.mktemp("encoder") / "model.onnx"
    ir.save(canonical_bert(), original)
    return str(bqc.compile(canonical_bert(), output=original.with_name("m.bqc.onnx")).paths[0]), str(original)


def test_every_tensor_worst_first(encoder: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    compiled, original = encoder
    args = ["verify", compiled, "--against", original, "--all-tensors", "--samples", "4", "--shape", "2x8"]
    assert main([*args, "--json"]) == 0
    tensors = json.loads(capsys.readouterr().out)["tensors"]
    errors = [tensor["relative"] for tensor in tensors]
    assert errors == sorted(errors, reverse=True)
    assert len(tensors) == 1 + 2 * 7 + 3
    assert {"attention.value", "ffn.gelu", "embedding.norm", "head"} <= {tensor["role"] for tensor in tensors}
    assert main(args) == 0
    text = capsys.readouterr().out
    assert "tensors inside, by role" in text
    assert "the worst 12 of 18" in text


def test_levels_that_must_not_change_a_bit(
    encoder: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    compiled, original = encoder
    args = ["verify", compiled, "--against", original, "--samples", "2", "--shape", "2x8"]
    assert main([*args, "--ort-levels", "none,basic,extended,all", "--isa", "all"]) == 0
    text = capsys.readouterr().out
    for what in ("level none", "level basic", "level extended", "level all", "portable kernels"):
        assert re.search(rf"\[✓\] the same bits with .*{what}", text), what
    assert main([*args, "--isa", "portable,portable"]) == 0
    assert capsys.readouterr().out.count("portable kernels") == 1
    assert main([*args, "--ort-levels", "most"]) == 2
    assert "'most' is none of none, basic, extended, all" in capsys.readouterr().err
    assert main([*args, "--isa", "sse"]) == 2
    assert "sse is no instruction set level" in capsys.readouterr().err


def test_a_level_that_changes_bits_is_reported(
    encoder: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bqc.verify

    compiled, original = encoder
    # The float model in place of the compiled one: other bits by nature.
    monkeypatch.setattr(bqc.verify, "ort_level_session", lambda path, level, threads: bqc.session(original))
    args = ["verify", compiled, "--against", original, "--samples", "2", "--shape", "2x8"]
    assert main([*args, "--ort-levels", "none"]) == 1
    assert "[x] other bits with ONNX Runtime's optimisation level none: logits by" in capsys.readouterr().out


NAMES = ("input_ids", "attention_mask", "token_type_ids")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"input_ids": np.full((2, 3), 999)},
            r"input_ids has ids from 999 to 999, and the table has \d+ rows",
        ),
        ({"input_ids": np.full((2, 3), -1)}, "input_ids has ids from -1 to"),
        ({"input_ids": np.full((2, 3), 1.5)}, "input_ids holds fractions or NaN"),
        ({"input_ids": np.full((2, 3), "word")}, "input_ids holds <U4, not numbers"),
        ({"input_ids": np.ones((2, 3), np.complex64)}, "input_ids holds complex64, not numbers"),
        ({name: np.ones((2, 0)) for name in NAMES}, "has no token"),
        ({"attention_mask": np.zeros((2, 3))}, "the mask hides every token"),
        ({"attention_mask": np.full((2, 3), 0.5)}, "attention_mask holds fractions"),
        (
            {"attention_mask": np.ones((2, 4))},
            r"inputs must share one shape \[batch, sequence\], found input_ids",
        ),
    ],
)
def test_inputs_that_a_model_cannot_take(
    change: dict[str, np.ndarray], says: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    compiled, original = pair
    ones = np.ones((2, 3), np.int64)
    file = tmp_path / "inputs.npz"
    given = dict(zip(NAMES, (ones, ones, ones * 0), strict=True))
    np.savez(file, **given | change)  # type: ignore[arg-type]
    with pytest.raises(BqcError, match=says):
        verify(compiled, original, inputs=file)


def test_inputs_of_no_encoder_come_from_a_file(tmp_path: Path) -> None:
    """What can be made up is known of encoders only; a file has whatever the models take."""
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        net (float[rows, 3] pixels) => (float[rows, 3] y) { y = Neg (pixels) }"""
    )
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    np.savez(tmp_path / "inputs.npz", pixels=np.ones((4, 3)))
    assert verify(path, path, inputs=tmp_path / "inputs.npz").outputs[0].rows == 4
    with pytest.raises(
        BqcError, match=r"pixels .* is none of an encoder's.*; give inputs with --inputs FILE\.npz"
    ):
        verify(path, path)
