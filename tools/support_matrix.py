"""Which encoders are supported: every family with every head from every exporter, run and written down.

    python tools/support_matrix.py                                  all of it (slow), docs/support-matrix.md
    python tools/support_matrix.py --exporters torchscript --heads bare,classification
    python tools/support_matrix.py --results run.json               keeps results and goes on where it was
    python tools/support_matrix.py --results run.json --files FOLDER     what tools/other_exporters left there, too

A cell is supported if the canonical float form computes what the exported file does (within 1e-5, with left and
right padding), and the model compiled with scheme bbct passes `bqc verify` and has the same bits with and
without the kernel library. The models are tiny and random. The status is 1 if any cell is wrong.

Exporters are `EXPORTERS` of tests/support/families.py, run with every family and head, and of graphs.py and every
exporters_*.py beside it: functions that rewrite a file that torch exported, run with `REWRITTEN`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from tests.support.families import (  # noqa: E402
    EXPORTERS,
    FAMILIES,
    HEADS,
    CannotExport,
    Cell,
    exported,
)
from tools.other_exporters.folder import FAILURES, VERSIONS  # noqa: E402
from tools.support_check import Result, check, line, silent  # noqa: E402

FROM_TORCH = ("dynamo", "torchscript")
REFUSED_HEADS = ("bare", "classification")
"""A family that is refused is refused for its encoder: other heads would add nothing."""
REWRITTEN = (
    ("bert", "distilbert", "roberta", "electra", "mpnet", "albert"),
    ("bare", "classification", "masked-lm"),
)
"""Families and heads that files rewritten after the export are tried with."""
OTHERS = "other:"


def main() -> int:
    """Run the cells that are asked for and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    register()
    parser.add_argument("--exporters", default=",".join(EXPORTERS), help="comma separated [default: all]")
    for name in ("families", "heads"):
        parser.add_argument(f"--{name}", help="comma separated [default: those of the exporter]")
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="results so far (JSON); new ones are added"
    )
    parser.add_argument("--files", type=Path, metavar="FOLDER", help="files of other exporters")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "support-matrix.md")
    asked = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    results: dict[str, Result] = {}
    if asked.results is not None and asked.results.is_file():
        results = {key: (state, why) for key, (state, why) in json.loads(asked.results.read_text()).items()}

    def take(key: str, made: Callable[[], Result]) -> None:
        if key not in results:
            results[key] = made()
            print(key, *results[key], flush=True)
            if asked.results is not None:
                asked.results.write_text(json.dumps(results, indent=1))

    for exporter in filter(None, asked.exporters.split(",")):
        families, heads = (tuple(FAMILIES), tuple(HEADS)) if exporter in FROM_TORCH else REWRITTEN
        for family in asked.families.split(",") if asked.families else families:
            for head in (
                asked.heads.split(",") if asked.heads else sorted(heads, key=REFUSED_HEADS.__contains__)[::-1]
            ):
                cell = Cell(family, head)
                take(f"{exporter} {family} {head}", partial(run, exporter, cell, results))
    if asked.files is not None:
        take_files(asked.files, take)
    asked.output.write_text(page(results), encoding="utf-8")
    return int(any(state == "wrong" for state, _ in results.values()))


def take_files(root: Path, take: Callable[[str, Callable[[], Result]], None]) -> None:
    """Check every `EXPORTER/FAMILY.HEAD.onnx`, and take down what wrote them and what could not be written."""
    for folder in sorted(path.parent for path in root.glob(f"*/{VERSIONS}")):
        versions = json.loads((folder / VERSIONS).read_text())
        text = ", ".join(f"{name} {number}" for name, number in versions.items())
        take(f"{OTHERS}{folder.name} versions", lambda text=text: ("versions", text))  # type: ignore[misc]
        for file in sorted(folder.glob("*.onnx")):
            take(f"{OTHERS}{folder.name} {file.stem.replace('.', ' ')}", partial(check, file))
        failures = json.loads((folder / FAILURES).read_text()) if (folder / FAILURES).is_file() else {}
        for cell, why in failures.items():
            take(f"{OTHERS}{folder.name} {cell.replace('.', ' ')}", lambda why=why: ("untested", why))  # type: ignore[misc]


def register() -> None:
    """Add the exporters of other modules: each rewrites what torch's TorchScript exporter wrote."""
    support = ROOT / "tests" / "support"
    for file in (*sorted(support.glob("exporters_*.py")), support / "graphs.py"):
        module = importlib.import_module(f"tests.support.{file.stem}")
        for name, rewrite in (module.EXPORTERS | getattr(module, "HALF_EXPORTERS", {})).items():
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
            raise CannotExport(line(error)) from error

    return export


def run(exporter: str, cell: Cell, results: dict[str, Result]) -> Result:
    """One cell."""
    if cell.head not in REFUSED_HEADS:
        before = [results.get(f"{exporter} {cell.family} {head}", ("", "")) for head in REFUSED_HEADS]
        for state, why in before:
            if state == "refused":
                return state, why
    try:
        with silent():
            path = exported(exporter, cell)
    except CannotExport as error:
        return "untested", line(error)
    return check(path)


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
    used = {tuple(key.rsplit(" ", 2)) for key in results if not key.startswith(OTHERS)}
    for exporter in [e for e in EXPORTERS if any(u[0] == e for u in used)]:
        heads = [h for h in HEADS if any(u[0] == exporter and u[2] == h for u in used)]
        rows = ["| family | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
        for family in [f for f in FAMILIES if any(u[:2] == (exporter, f) for u in used)]:
            cells = [_shown(results.get(f"{exporter} {family} {head}"), notes) for head in heads]
            rows.append(f"| {family} | " + " | ".join(cells) + " |")
        parts += [f"## {exporter}", "\n".join(rows)]
    parts += _others(results, notes)
    parts += ["## Notes", "\n".join(f"{n}. {text}" for n, text in enumerate(notes, 1))]
    return "\n\n".join(parts) + "\n"


def _others(results: dict[str, Result], notes: list[str]) -> list[str]:
    """The section of files that other exporters and tools wrote: a row an exporter, all heads of a family in a cell."""
    cells = {
        tuple(key.removeprefix(OTHERS).split(" ")): r for key, r in results.items() if key.startswith(OTHERS)
    }
    if not cells:
        return []
    tried = [key for key in cells if len(key) == 3]
    families = [f for f in FAMILIES if any(key[1] == f for key in tried)]
    rows = ["| exporter | heads | " + " | ".join(families) + " |", "| --- |" + " --- |" * (len(families) + 1)]
    written_by: dict[str, list[str]] = {}
    for exporter in dict.fromkeys(key[0] for key in cells):
        heads = [h for h in HEADS if any((key[0], key[2]) == (exporter, h) for key in tried)]
        marks = []
        for family in families:
            each = [_shown(cells.get((exporter, family, head)), notes) for head in heads]
            marks.append(", ".join(dict.fromkeys(each)))
        rows.append(f"| {exporter} | {', '.join(heads)} | " + " | ".join(marks) + " |")
        written_by.setdefault(cells[exporter, "versions"][1], []).append(exporter)
    versions = [f"- {', '.join(names)}: {text}" for text, names in written_by.items()]
    text = (
        "Files that the scripts of `tools/other_exporters` made in environments of their own, with the same tiny "
        "models. A cell\ntells all heads of its row: one word where they agree. float16 files agree within 2e-2."
    )
    return ["## Other exporters and tools", text, "\n".join(rows), "Written by\n\n" + "\n".join(versions)]


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


if __name__ == "__main__":
    raise SystemExit(main())
