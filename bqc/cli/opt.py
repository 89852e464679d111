"""``bqc opt``: run passes by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bqc.cli.common import FILE, Settings, common_options, emit_json, examples, say, table

__all__ = ["command"]

SCHEMA_VERSION = 1


@click.command(
    "opt",
    epilog=examples(
        "bqc opt --list-passes",
        "bqc opt model.onnx -p import-canonicalize,annotate-anatomy -o canonical.onnx",
        "bqc opt model.onnx --scheme bbct --until quantize-activations -o qdq.onnx --stats",
        "bqc opt canonical.onnx -p 'plan-bbct{weight_bits=4},quantize-weights' -o small.onnx --timing",
        "bqc opt canonical.onnx -p plan-bbct,quantize-weights -o - | less",
    ),
)
@click.argument("model", type=FILE, metavar="MODEL", required=False)
@click.option("-p", "--passes", metavar="PIPELINE", help="Passes: NAME{OPTION=VALUE ...},NAME,...")
@click.option("--scheme", metavar="NAME", help="The pipeline of a scheme, import included.")
@click.option("--until", metavar="PASS", help="Stop the pipeline after this pass.")
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="FILE",
    help="Where the model goes, with FILE.data beside it; text for *.onnxtxt, and on stdout for '-'.",
)
@click.option(
    "--tensors",
    type=click.Choice(("elide", "inline")),
    default="elide",
    show_default=True,
    help="Large tensors in text: a digest, or all their bytes.",
)
@click.option("--weights", type=FILE, metavar="FILE", help="The model that has what the text MODEL left out.")
@click.option(
    "--split-input", is_flag=True, help="MODEL is several texts, with lines '// -----' between them."
)
@click.option("--list-passes", is_flag=True, help="Name every pass, its options and what it does.")
@click.option("--print-pipeline", is_flag=True, help="Print the pipeline's textual form and stop.")
@click.option("--print-before", metavar="PASSES", help="Print the graph before these, or 'all'.")
@click.option("--print-after", metavar="PASSES", help="Print the graph after these, or 'all'.")
@click.option("--print-after-change", is_flag=True, help="Print the graph after every pass that changed it.")
@click.option(
    "--dump-dir", type=FILE, metavar="DIR", help="Write the model after every pass that changed it."
)
@click.option("--timing", is_flag=True, help="Show the seconds of each pass.")
@click.option("--stats", is_flag=True, help="Show what each pass added and removed.")
@common_options
def command(settings: Settings, model: Path | None, **options: Any) -> None:
    """Run passes over a model, from a textual pipeline or from a scheme."""
    from bqc.pipeline import Changes, spell

    if options["list_passes"]:
        _list(settings)
        return
    passes = _pipeline(options)
    if options["print_pipeline"]:
        say(settings, spell(passes))
        return
    if model is None:
        raise click.UsageError("give a MODEL, or --list-passes")
    from bqc.opt import STDOUT, optimize, optimize_split

    tensors = options["tensors"]
    if settings.json and options["output"] == STDOUT:
        raise click.UsageError("--json and -o - both print on standard output; give one of them")
    if options["split_input"]:
        if options["output"] not in (None, STDOUT) or options["weights"] is not None:
            raise click.UsageError(
                "--split-input prints what becomes of the models; leave out -o and --weights"
            )
        optimize_split(model, passes, instruments=_instruments(options), tensors=tensors)
        return
    changes = Changes()
    steps = optimize(
        model,
        passes,
        options["output"],
        instruments=[changes, *_instruments(options)],
        weights=options["weights"],
        tensors=tensors,
    )
    if settings.json:
        rows = [
            {
                "pass": s.name,
                "modified": s.modified,
                "seconds": s.seconds,
                "nodes": r[1],
                "bytes": r[2],
                "changes": r[3],
            }
            for s, r in zip(steps, changes.rows, strict=True)
        ]
        emit_json(SCHEMA_VERSION, {"pipeline": spell(passes), "passes": rows, "output": options["output"]})
        return
    if settings.quiet:
        return
    if options["timing"]:
        table("timing", ("pass", ">seconds"), [(s.name, f"{s.seconds:.3f}") for s in steps])
    if options["stats"]:
        cells = [(name, str(nodes), f"{size:,}", text) for name, nodes, size, text in changes.rows]
        table("stats", ("pass", ">nodes", ">bytes", "operators"), cells)
    if options["output"] not in (None, STDOUT):
        say(settings, str(options["output"]))


def _pipeline(options: dict[str, Any]) -> list[Any]:
    from bqc.opt import scheme_pipeline, until
    from bqc.pipeline import parse

    if (options["passes"] is None) == (options["scheme"] is None):
        raise click.UsageError("give either --passes or --scheme")
    passes = parse(options["passes"]) if options["passes"] else scheme_pipeline(options["scheme"])
    return until(passes, options["until"]) if options["until"] else passes


def _instruments(options: dict[str, Any]) -> list[Any]:
    from bqc.ir.text import to_text
    from bqc.pipeline import DumpFolder, Printer

    def show(title: str, model: Any) -> None:
        click.echo(f"// {title}\n{to_text(model, tensors=options['tensors'])}")

    chosen: list[Any] = []
    before, after = (_selection(options[f"print_{when}"]) for when in ("before", "after"))
    if options["print_after_change"]:
        chosen.append(Printer(show, None, (), only_changes=True))
    if before is not None or after is not None:
        chosen.append(Printer(show, before, after))
    if options["dump_dir"] is not None:
        chosen.append(DumpFolder(options["dump_dir"]))
    return chosen


def _selection(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return () if text == "all" else tuple(text.split(","))


def _list(settings: Settings) -> None:
    from dataclasses import fields

    from bqc.passes import names, pass_class

    rows = []
    for name in names():
        kind = pass_class(name)
        summary = (kind.__doc__ or "").strip().splitlines()[0]
        rows.append({"name": name, "options": [f.name for f in fields(kind)], "summary": summary})
    if settings.json:
        emit_json(SCHEMA_VERSION, {"passes": rows})
    elif not settings.quiet:
        table(
            "passes",
            ("pass", "options", "summary"),
            [(r["name"], ", ".join(r["options"]), r["summary"]) for r in rows],
        )
