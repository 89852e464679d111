"""Which encoders are supported: every family with every head from every exporter, run and written down.

    python tools/support_matrix.py                                  all of it (slow), docs/support-matrix.md
    python tools/support_matrix.py --exporters torchscript --heads bare,classification
    python tools/support_matrix.py --results run.json               keeps results and goes on where it was

A cell is supported if the canonical float form computes what the exported file does (within 1e-5, with left and
right padding), and the model compiled with scheme bbct passes `bqc verify` and has the same bits with and
without the kernel library. The models are tiny and random. The status is 1 if any cell is wrong.

Exporters are `EXPORTERS` of tests/support/families.py, and of every tests/support/exporters_*.py: there, functions
that rewrite a file that torch exported.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import numpy as np  # noqa: E402

import bqc  # noqa: E402
from bqc.errors import BqcError  # noqa: E402
from bqc.ir import import_model  # noqa: E402
from bqc.runtime.feeds import random_batches  # noqa: E402
from bqc.verify import verify  # noqa: E402
from tests.support.exports import largest_difference  # noqa: E402
from tests.support.families import (  # noqa: E402
    EXPORTERS,
    FAMILIES,
    HEADS,
    VOCABULARY,
    CannotExport,
    Cell,
    exported,
)

TOLERANCE = 1e-5
REFUSED_HEADS = ("bare", "classification")
"""A family that is refused is refused for its encoder: other heads would add nothing."""

Result = tuple[str, str]
"""`supported`, `refused`, `untested` or `wrong`, and what there is to say about it."""


def main() -> int:
    """Run the cells that are asked for and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    register()
    for name, known in (("families", FAMILIES), ("exporters", EXPORTERS), ("heads", HEADS)):
        parser.add_argument(f"--{name}", default=",".join(known), help="comma separated [default: all]")
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="results so far (JSON); new ones are added"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "support-matrix.md")
    asked = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    results: dict[str, Result] = {}
    if asked.results is not None and asked.results.is_file():
        results = {key: (state, why) for key, (state, why) in json.loads(asked.results.read_text()).items()}
    for exporter in asked.exporters.split(","):
        for family in asked.families.split(","):
            for head in asked.heads.split(","):
                key = f"{exporter} {family} {head}"
                if key not in results:
                    results[key] = run(exporter, Cell(family, head), results)
                    print(key, *results[key], flush=True)
                    if asked.results is not None:
                        asked.results.write_text(json.dumps(results, indent=1))
    asked.output.write_text(page(results), encoding="utf-8")
    return int(any(state == "wrong" for state, _ in results.values()))


def register() -> None:
    """Add the exporters of other modules: each rewrites what torch's TorchScript exporter wrote."""
    for file in sorted((ROOT / "tests" / "support").glob("exporters_*.py")):
        module = importlib.import_module(f"tests.support.{file.stem}")
        for name, rewrite in module.EXPORTERS.items():
            kind = file.stem.removeprefix("exporters_")
            label = name if name.startswith(kind) else f"{kind}-{name}"
            EXPORTERS.setdefault(label, _after_torch(rewrite))


def _after_torch(rewrite: Callable[[Path], Path]) -> Callable[[Cell], Path]:
    def export(cell: Cell) -> Path:
        source = exported("torchscript", cell)
        folder = Path(tempfile.mkdtemp(dir=source.parent))
        try:
            return rewrite(Path(shutil.copy(source, folder / source.name)))
        except Exception as error:
            raise CannotExport(_line(error)) from error

    return export


def run(exporter: str, cell: Cell, results: dict[str, Result]) -> Result:
    """One cell."""
    if cell.head not in REFUSED_HEADS:
        before = [results.get(f"{exporter} {cell.family} {head}", ("", "")) for head in REFUSED_HEADS]
        for state, why in before:
            if state == "refused":
                return state, why
    try:
        with _silent():
            path = exported(exporter, cell)
    except CannotExport as error:
        return "untested", _line(error)
    try:
        with _silent(), tempfile.TemporaryDirectory() as folder:
            model, _ = import_model(path)
            gap = largest_difference(path, model)
            if not gap < TOLERANCE:
                return "wrong", f"the canonical form differs by {gap:.2g}"
            result = bqc.compile(path, output=Path(folder) / "model.bqc.onnx", block=16)
            report = verify(result.paths[0], path, inputs=_inputs(Path(folder)), bits=True)
            left = dict(result.summary).get("float", "")
    except BqcError as error:
        return "refused", _line(error).split("; ")[0]
    except Exception as error:
        return "wrong", f"{type(error).__name__}: {_line(error)}"
    failed = [check.text for check in report.checks if not check.ok]
    if failed:
        return "wrong", "; ".join(failed)
    return "supported", left


def _inputs(folder: Path) -> Path:
    """Ragged rows, padded left and right, for every input there may be; fused lookups do not tell their sizes."""
    (batch,) = random_batches(VOCABULARY, 2, 64, 64, 24, 0)
    file = folder / "inputs.npz"
    np.savez(file, input_ids=batch.ids, attention_mask=batch.mask, token_type_ids=batch.types)
    return file


def page(results: dict[str, Result]) -> str:
    """The page of docs/."""
    libraries = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")
    notes: list[str] = []
    parts = [
        "# Support matrix",
        "Written by `tools/support_matrix.py`, which runs every cell on tiny random models: the canonical float form "
        "computes\nwhat the exported file does within 1e-5 (with padding left and right), and the model compiled with "
        "scheme `bbct` passes\n`bqc verify` and has the same bits with and without the kernel library.",
        "`yes` supported; `no` refused, the error names the reason; `-` untested: the family has no such head, or the "
        "exporter\nfails; `WRONG` neither. A family that is refused was run with the heads classification and bare. "
        "The numbers refer\nto the notes.",
        "Versions: " + ", ".join(f"{name} {version(name)}" for name in libraries) + ".",
    ]
    used = {tuple(key.rsplit(" ", 2)) for key in results}
    for exporter in [e for e in EXPORTERS if any(u[0] == e for u in used)]:
        heads = [h for h in HEADS if any(u[0] == exporter and u[2] == h for u in used)]
        rows = ["| family | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
        for family in [f for f in FAMILIES if any(u[:2] == (exporter, f) for u in used)]:
            cells = [_shown(results.get(f"{exporter} {family} {head}"), notes) for head in heads]
            rows.append(f"| {family} | " + " | ".join(cells) + " |")
        parts += [f"## {exporter}", "\n".join(rows)]
    parts += ["## Notes", "\n".join(f"{n}. {text}" for n, text in enumerate(notes, 1))]
    return "\n\n".join(parts) + "\n"


def _shown(result: Result | None, notes: list[str]) -> str:
    if result is None:
        return "-"
    state, why = result
    mark = {"supported": "yes", "refused": "no", "untested": "-"}.get(state, "WRONG")
    if not why:
        return mark
    text = re.sub(r"[|<>\[\]]", " ", why)
    if text not in notes:
        notes.append(text)
    return f"{mark} ({notes.index(text) + 1})"


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


@contextlib.contextmanager
def _silent():  # type: ignore[no-untyped-def]
    sink = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    raise SystemExit(main())
