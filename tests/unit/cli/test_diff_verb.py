"""``bqc diff``: exit codes, text, JSON, and the page."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest

import bqc
from bqc.cli import main
from bqc.ir.synthetic import canonical_bert
from tests.support.edits import disguise, random_graph
from tests.support.tiny_encoder import write_classifier


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    """A small classifier, and one whose table is off by 1e-3 in one place."""
    weight = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)
    one = write_classifier(tmp_path / "a.onnx", weight)
    weight[4, 1] += np.float32(1e-3)
    return str(one), str(write_classifier(tmp_path / "b.onnx", weight))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    import onnx_ir as ir

    path = tmp_path_factory.mktemp("compiled") / "model.onnx"
    model = canonical_bert()
    for item in (*model.graph, *model.graph.initializers.values()):
        item.metadata_props.clear()
    model.metadata_props.clear()
    ir.save(model, path)
    return str(path), str(bqc.compile(path).paths[0])


def test_exit_status(pair: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    one, other = pair
    hidden = tmp_path / "hidden.onnx"
    onnx.save(disguise(onnx.load(one)), hidden)
    assert main(["diff", one, str(hidden)]) == 0
    assert "[✓] same; 3 weights the same" in capsys.readouterr().out
    assert main(["diff", one, other]) == 1
    text = capsys.readouterr().out
    assert "1 of 36 numbers, most at [4, 1]" in text
    assert "[x] 1 weight differs" in text
    assert main(["diff", one, other, "--tolerance", "0.01"]) == 0
    assert main(["diff", one, other, "-q"]) == 1
    assert "tolerance" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["nothing.onnx"], "nothing.onnx: no such file"),
        (["A", "--canonical"], "no encoder"),
        (["A", "--random", "--inputs", "x.npz"], "give one"),
        (["A", "--inputs", "x.npz"], "x.npz: not a readable .npz"),
        (["A", "--tolerance", "-1"], "--tolerance"),
    ],
)
def test_what_cannot_be_done(
    extra: list[str], message: str, pair: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = pair
    assert main(["diff", one, *(other if word == "A" else word for word in extra)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[0]
    assert captured.out == ""


def test_json(compiled: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *compiled, "--random", "--samples", "2", "--shape", "2x8", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["schema_version"] == 1
    assert report["same"] is False
    assert (report["a"]["kind"], report["a"]["canonical"], report["b"]["kind"]) == ("float", True, "compiled")
    assert {row["kind"] for row in report["weights"]} == {"format"}
    assert report["drift"]["tensors"][-1]["role"] == "head"
    assert {"what", "a", "b"} == set(report["costs"][0])


def test_layers_that_changed_alike_are_one_row(
    compiled: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", *compiled]) == 1
    text = capsys.readouterr().out
    assert re.search(r"0-1 +ffn\.gelu +fused +MatMul, Add, Gelu +ai\.bqc\.BlockLinearGelu +fold-gelu", text)
    assert re.search(r"0-1 +ffn\.output +2 weights", text)
    assert main(["diff", *compiled, "-v"]) == 1
    assert "layer.1/ffn.gelu/Gelu" in " ".join(capsys.readouterr().out.split())


def test_models_that_are_no_encoders_run_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = random_graph(3)
    for name, made in (("a", model), ("b", disguise(model))):
        onnx.save(made, tmp_path / f"{name}.onnx")
    paths = [str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")]
    assert main(["diff", *paths, "--random"]) == 0
    assert "aligned tensors agree" in capsys.readouterr().out
    file = tmp_path / "in.npz"
    np.savez(file, x=np.ones((2, 4)), y=np.ones((2, 4)))
    assert main(["diff", *paths, "--inputs", str(file)]) == 0
    np.savez(file, x=np.ones((2, 4)))
    assert main(["diff", *paths, "--inputs", str(file)]) == 2
    assert "lacks y" in capsys.readouterr().err


class Page(HTMLParser):
    """Tags, and every address a page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.rows = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        self.rows += tag == "tr" and any(name == "data-text" for name, _ in attrs)


def test_page(compiled: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "diff.html"
    assert main(["diff", *compiled, "--random", "--samples", "2", "--html", str(path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.addresses == []
    assert not re.search(r"https?:|@import|url\(", text), "nothing is fetched"
    assert page.rows == len(report["nodes"]) + len(report["weights"]) + len(report["drift"]["tensors"])
    assert page.tags.count("script") == 1
    assert "fold-attention" in text


def test_page_escapes_names(tmp_path: Path) -> None:
    evil = "<script>alert('$body')</script>"
    model = random_graph(5)
    model.graph.node[0].name = evil
    onnx.save(model, tmp_path / "a.onnx")
    del model.graph.node[-1]
    kept = {name for node in model.graph.node for name in node.output}
    outputs = [value for value in model.graph.output if value.name in kept]
    del model.graph.output[:]
    model.graph.output.extend(
        outputs or [onnx.helper.make_tensor_value_info(model.graph.node[-1].output[0], 1, None)]
    )
    model.graph.node[0].op_type = "Erf"
    del model.graph.node[0].input[1:]
    del model.graph.node[0].attribute[:]
    onnx.save(model, tmp_path / "b.onnx")
    page = tmp_path / "d.html"
    assert main(["diff", str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"), "--html", str(page), "-q"]) == 1
    text = page.read_text(encoding="utf-8")
    assert evil not in text
    assert "&lt;script&gt;alert" in text
    assert (
        main(["diff", str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"), "--html", str(page / "d.html")])
        == 2
    )


def test_a_model_on_standard_input(pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for other, status in zip(pair, (0, 1), strict=True):
        given = io.TextIOWrapper(io.BytesIO(Path(pair[0]).read_bytes()))
        monkeypatch.setattr("sys.stdin", given)
        assert main(["diff", "-", other, "-q"]) == status
