"""``bqc-update-checks FILE...``: write the CHECK lines of tests from what bqc prints now.

Every graph gets a CHECK-LABEL line with its signature and a CHECK-NEXT line for each line after it. Values become
variables, except inputs, outputs and initializers; names of nodes and metadata other than labels are left out.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import onnx_ir as ir

from bqc.errors import BqcError
from bqc.ir.anatomy import LAYER_KEY, ROLE_KEY
from bqc.ir.text import SEPARATOR, from_text, split, to_text
from bqc.ir.text.lexer import quote
from bqc.ir.text.printer import metadata_entry
from bqc.testing.run_lines import RunLine, run_lines

__all__ = ["main", "updated"]

_ERROR = "// error: "
_BY_HAND = re.compile(r"^\s*(?://|#)\s*checks are written by hand", re.MULTILINE | re.IGNORECASE)
_MARK = re.compile(r'"%%(\w+)"')


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if a file would change.")
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
def _command(files: Sequence[Path], check: bool) -> int:
    """Write the CHECK lines of pass tests from what bqc prints now. Read the result: it is what the test will demand.

    Example: bqc-update-checks tests/passes/fold-gelu/*.onnxtxt
    """
    stale = 0
    for file in files:
        before = file.read_text(encoding="utf-8")
        after = updated(file)
        if after == before:
            continue
        stale += 1
        if check:
            lines = difflib.unified_diff(
                before.splitlines(), after.splitlines(), str(file), str(file), lineterm=""
            )
            click.echo("\n".join(lines))
        else:
            file.write_text(after, encoding="utf-8")
            click.echo(f"{file}: updated")
    return int(check and stale > 0)


def main() -> int:
    """The console script: exit status 0, 1 with ``--check`` for files that would change, 2 for errors."""
    try:
        return int(_command.main(prog_name="bqc-update-checks", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
    except (BqcError, OSError) as error:
        click.echo(f"bqc-update-checks: error: {error}", err=True)
    return 2


def updated(file: Path) -> str:
    """The file with the CHECK lines that fit what bqc prints; unchanged if it says ``// Checks are written by hand``.

    Raises BqcError if a RUN line cannot be run.
    """
    text = file.read_text(encoding="utf-8")
    if _BY_HAND.search(text):
        return text
    runs = run_lines(file)
    prefixes = "|".join(re.escape(run.prefix) for run in runs)
    ours = re.compile(rf"^\s*(?://|#)\s*(?:{prefixes})(?:-[A-Z]+)?:")
    kept = "\n".join(line for line in text.splitlines() if not ours.match(line))
    pieces = [piece.strip("\n") for piece in split(kept)]
    for run in runs:
        printed = split(run.output()) if "--split-input" in run.bqc else [run.output()]
        if len(printed) != len(pieces):
            raise BqcError(
                f"{file}: {len(pieces)} models, but bqc printed {len(printed)}; give bqc --split-input"
            )
        pieces = [f"{piece}\n" + _checks(run, piece, out) for piece, out in zip(pieces, printed, strict=True)]
    return f"\n{SEPARATOR}\n".join(piece.strip("\n") for piece in pieces) + "\n"


def _checks(run: RunLine, source: str, printed: str) -> str:
    if printed.strip().startswith(_ERROR):
        message = _literal(printed.strip()).replace(str(run.file), "{{.*}}")
        return f"// {run.prefix}: {re.sub(r':[0-9]+:[0-9]+:', ':{{[0-9:]+}}:', message, count=1)}\n"
    model = from_text(printed)
    head = []
    for text in _header_changes(from_text(source), model):
        first, *more = (_literal(line.strip()) for line in text.splitlines())
        head += [f"// {run.prefix}: {first}", *(f"// {run.prefix}-NEXT: {line}" for line in more)]
    _anonymous(model)
    lines = to_text(model).splitlines()
    lines = lines[lines.index(">") + 1 :]
    checks = [f"// {run.prefix}-LABEL: {_literal(lines[0])}"]
    kind = "-NEXT"
    for line in lines[1:]:
        if line:
            checks.append(f"// {run.prefix}{kind}: {_literal(line.strip())}")
        kind = "-NEXT" if line else ""
    return "\n".join([*head, *_with_variables(checks)]) + "\n"


def _header_changes(before: ir.Model, after: ir.Model) -> list[str]:
    changes = []
    if before.ir_version != after.ir_version:
        changes.append(f"ir_version: {after.ir_version}")
    for domain, version in sorted(after.opset_imports.items()):
        if before.opset_imports.get(domain) != version:
            changes.append(f"{quote(domain)} : {version}")
    for key, value in sorted(after.metadata_props.items()):
        if before.metadata_props.get(key) != value:
            changes.append(metadata_entry(key, value))
    return changes


def _anonymous(model: ir.Model) -> None:
    """Take out of a model what its checks shall not name."""
    taken: set[str] = set()
    for top in (model.graph, *(function.graph for function in model.functions.values())):
        for graph in (top, *top.subgraphs()):
            for node in graph:
                node.name = None
                node.doc_string = None
                for key in set(node.metadata_props) - {LAYER_KEY, ROLE_KEY}:
                    del node.metadata_props[key]
                for value in node.outputs:
                    if value.name and not value.is_graph_output():
                        value.name = f"%%{_variable(value.name, taken)}"


def _variable(name: str, taken: set[str]) -> str:
    word = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").upper() or "V"
    word = word if word[0].isalpha() else f"V{word}"
    unique, n = word, 1
    while unique in taken:
        n += 1
        unique = f"{word}_{n}"
    taken.add(unique)
    return unique


def _with_variables(lines: list[str]) -> list[str]:
    seen: set[str] = set()

    def variable(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return f"[[{name}]]"
        seen.add(name)
        return rf"[[{name}:[^\s,)]+]]"

    named = [_MARK.sub(variable, line) for line in lines]
    # filecheck's own pattern for the start of a line is greedy and would take all but the end of the name.
    return [re.sub(r"(-NEXT: )(?=\[\[\w+:)", r"\1{{ }}", line) for line in named]


def _literal(text: str) -> str:
    return text.replace("{{", "{{[{][{]}}").replace("[[", "{{\\[\\[}}")


if __name__ == "__main__":
    sys.exit(main())
