"""Files nobody has vouched for: one clear line each, and nothing is allocated from what they claim."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from bqc.errors import BqcError
from bqc.ir import import_model, is_compiled, load
from bqc.ir.synthetic import canonical_bert


@pytest.fixture
def external(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    ir.save(canonical_bert(), path, external_data="model.onnx.data", size_threshold_bytes=256)
    return path


def refused(path: Path) -> str:
    with pytest.raises(BqcError) as error:
        load(path)
    message = str(error.value)
    assert "\n" not in message
    assert path.name in message
    return message


def change(path: Path, edit: Callable[[dict[str, str]], None]) -> None:
    """Edit the external data entries of the first external weight."""
    proto = onnx.load(path, load_external_data=False)
    tensor = next(t for t in proto.graph.initializer if t.external_data)
    entries = {e.key: e.value for e in tensor.external_data}
    edit(entries)
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())


def test_a_good_file_stays_on_disk(external: Path) -> None:
    model = load(external)
    assert any(isinstance(v.const_value, ir.ExternalTensor) for v in model.graph.initializers.values())
    _, summary = import_model(external)
    assert summary.encoder.layers == 2


def test_missing(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "nothing.onnx")


def test_directory(tmp_path: Path) -> None:
    assert "is a directory" in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x00" * 64, b"\xff" * 1000])
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.onnx"
    path.write_bytes(content)
    assert "not an ONNX model, or truncated" in refused(path)


@pytest.mark.parametrize("part", [0.05, 0.3, 0.5, 0.9, 0.99])
def test_truncated(tmp_path: Path, part: float) -> None:
    path = tmp_path / "half.onnx"
    whole = ir.to_proto(canonical_bert()).SerializeToString()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert "truncated" in refused(path)


def test_missing_data_file(external: Path) -> None:
    (external.parent / "model.onnx.data").unlink()
    assert "model.onnx.data is missing" in refused(external)


def test_truncated_data_file(external: Path) -> None:
    data = external.parent / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:500])
    assert "which has only 500" in refused(external)


@pytest.mark.parametrize("location", ["/etc/passwd", "../outside.data", "a/../../outside.data"])
def test_data_outside_the_folder(external: Path, location: str) -> None:
    (external.parent.parent / "outside.data").write_bytes(b"secret" * 10000)
    change(external, lambda e: e.update(location=location))
    assert "outside the model's folder" in refused(external)


def test_data_behind_a_symbolic_link(external: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    data = external.parent / "model.onnx.data"
    secret.write_bytes(data.read_bytes())
    data.unlink()
    data.symlink_to(secret)
    assert "outside the model's folder" in refused(external)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        ({"offset": "999999999999"}, "which has only"),
        ({"offset": "-8"}, "damaged"),
        ({"length": "999999999999"}, "says 999999999999 bytes"),
        ({"length": "4"}, "says 4 bytes"),
        ({"offset": "many"}, "damaged"),
    ],
)
def test_impossible_offsets(external: Path, edit: dict[str, str], text: str) -> None:
    change(external, lambda e: e.update(edit))
    assert text in refused(external)


def test_a_shape_that_the_bytes_do_not_fill(tmp_path: Path) -> None:
    proto = ir.to_proto(canonical_bert())
    tensor = next(t for t in proto.graph.initializer if len(t.dims) == 2)
    tensor.dims[0] = 1 << 40
    path = tmp_path / "huge.onnx"
    path.write_bytes(proto.SerializeToString())
    assert "its type and shape need" in refused(path)


def test_compiled_files_are_recognised_and_not_imported() -> None:
    model = canonical_bert()
    assert not is_compiled(model)
    model.metadata_props["bqc.format_version"] = "1"
    assert is_compiled(model)
    with pytest.raises(BqcError, match="already compiled"):
        import_model(model)
