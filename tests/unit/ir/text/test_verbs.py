"""Every verb that reads a model reads text and standard input; what cannot be done says why."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from bqc.cli import main
from bqc.ir.synthetic import canonical_bert
from bqc.ir.text import Tensors, to_text


def text(folder: Path, tensors: Tensors) -> Path:
    file = folder / "model.onnxtxt"
    file.write_text(to_text(canonical_bert(layers=1), tensors=tensors))
    return file


def test_a_text_is_compiled_like_the_binary(tmp_path: Path) -> None:
    ir.save(canonical_bert(layers=1), tmp_path / "model.onnx")
    for name in ("model.onnx", str(text(tmp_path, "inline"))):
        out = tmp_path / f"{Path(name).suffix[1:]}.out.onnx"
        assert main(["compile", str(tmp_path / name), "-o", str(out)]) == 0
    assert (tmp_path / "onnx.out.onnx.data").read_bytes() == (tmp_path / "onnxtxt.out.onnx.data").read_bytes()


@pytest.mark.parametrize("arguments", [["compile", "-", "-o", "OUT"], ["inspect", "-"]])
def test_standard_input(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with text(tmp_path, "inline").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert main([word.replace("OUT", str(tmp_path / "out.onnx")) for word in arguments]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compile", "MODEL"], "weight 'embeddings.word' was left out of the text"),
        (["opt", "MODEL", "-p", "import-canonicalize"], "weight 'embeddings.type' was left out of the text"),
        (["compile", "-"], "standard input needs an output"),
        (["verify", "MODEL", "--against", "MODEL"], "ONNX Runtime runs binary models only"),
    ],
)
def test_what_text_cannot_do(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(text(tmp_path, "elide"))
    assert main([word.replace("MODEL", file) for word in arguments]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnxtxt"]
