"""``bqc opt``: run passes by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bqc.cli.common import FILE, Settings, common_options, emit_json, examples, say, table
from bqc.cli.pipeline import chosen_pipeline, pipeline_options
from bqc.cli.watch import Watch, watch_options

if TYPE_CHECKING:
    from bqc.pipeline.describing import PassInfo

__all__ = ["command"]

SCHEMA_VERSION = 1


@click.command(
    "opt",
    epilog=examples(
        "bqc opt --list-passes",
        "bqc opt --list-passes fold-gelu",
        "bqc opt model.onnx -p import-canonicalize,annotate-anatomy -o canonical.onnx",
        "bqc opt model.onnx --scheme bbct --until quantize-activations -o qdq.onnx --stats",
        "bqc opt model.onnx --scheme bbct --verify-each",
        "bqc opt canonical.onnx -p 'plan-bbct{weight_bits=4},quantize-weights' -o small.onnx --timing",
        "bqc opt canonical.onnx -p plan-bbct,quantize-weights -o - | less",
    ),
)
@click.argument("model", type=FILE, metavar="MODEL", required=False)
@pipeline_options
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
@click.option(
    "--list-passes",
    is_flag=False,
    flag_value="",
    metavar="[NAME]",
    help="Name every pass, its contract and options, or tell all about one.",
)
@click.option("--print-pipeline", is_flag=True, help="Print the pipeline's textual form and stop.")
@click.option("--print-before", metavar="PASSES", help="Print the graph before these, or 'all'.")
@click.option("--print-after", metavar="PASSES", help="Print the graph after these, or 'all'.")
@click.option("--print-after-change", is_flag=True, help="Print the graph after every pass that changed it.")
@click.option(
    "--rewrite-limit",
    type=click.IntRange(min=0),
    metavar="N",
    help="Do the first N rewrites of the pipeline, no more.",
)
@watch_options
@common_options
def command(settings: Settings, model: Path | None, **options: Any) -> None:
    """Run passes over a model, from a textual pipeline or from a scheme."""
    from bqc.pipeline import spell

    if options["list_passes"] is not None:
        _list(settings, options["list_passes"])
        return
    passes = chosen_pipeline(options)
    if passes is None:
        raise click.UsageError("give either --passes or --scheme")
    if options["print_pipeline"]:
        if settings.json:
            emit_json(SCHEMA_VERSION, {"pipeline": spell(passes)})
        say(settings, spell(passes))
        return
    if model is None:
        raise click.UsageError("give a MODEL, or --list-passes")
    from bqc.opt import STDOUT, optimize, optimize_split

    prints = options["split_input"] or options["output"] == STDOUT
    if settings.json and prints:
        other = "--split-input" if options["split_input"] else "-o -"
        raise click.UsageError(f"--json and {other} both print on standard output; give one of them")
    watch, tensors = Watch.of(options), options["tensors"]
    watched = [*watch.instruments, *_printers(options, err=prints or settings.json)]
    limit = options["rewrite_limit"]
    if options["split_input"]:
        if options["output"] not in (None, STDOUT) or options["weights"] is not None:
            raise click.UsageError(
                "--split-input prints what becomes of the models; leave out -o and --weights"
            )
        optimize_split(model, passes, instruments=watched, rewrite_limit=limit, tensors=tensors)
        if not settings.quiet:
            watch.show(settings, err=True)
        return
    optimize(
        model,
        passes,
        options["output"],
        instruments=watched,
        rewrite_limit=limit,
        weights=options["weights"],
        tensors=tensors,
    )
    if settings.json:
        body = {"pipeline": spell(passes), "passes": watch.rows(), "output": options["output"]}
        emit_json(SCHEMA_VERSION, body)
        return
    if settings.quiet:
        return
    watch.show(settings, err=prints)
    if options["output"] not in (None, STDOUT):
        say(settings, str(options["output"]))


def _printers(options: dict[str, Any], *, err: bool) -> list[Any]:
    from bqc.ir.text import to_text
    from bqc.pipeline import Printer

    def show(title: str, model: Any) -> None:
        click.echo(f"// {title}\n{to_text(model, tensors=options['tensors'])}", err=err)

    chosen: list[Any] = []
    before, after = (_selection(options[f"print_{when}"]) for when in ("before", "after"))
    if options["print_after_change"]:
        chosen.append(Printer(show, None, (), only_changes=True))
    if before is not None or after is not None:
        chosen.append(Printer(show, before, after))
    return chosen


def _selection(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    if text == "all":
        return ()
    from bqc.pipeline.describing import require_pass

    chosen = tuple(name.strip() for name in text.split(","))
    for name in chosen:
        require_pass(name)
    return chosen


def _list(settings: Settings, name: str) -> None:
    from bqc.passes import names
    from bqc.pipeline.describing import describe

    found = [describe(one) for one in ([name] if name else names())]
    if settings.json:
        emit_json(SCHEMA_VERSION, {"passes": [info.to_dict() for info in found]})
        return
    if settings.quiet:
        return
    if not name and not settings.verbose:
        rows = [(i.name, i.contract or "-", ", ".join(o.name for o in i.options), i.summary) for i in found]
        table("passes", ("pass", "contract", "options", "summary"), rows)
        return
    for info in found:
        click.echo(_described(info))


def _described(info: PassInfo) -> str:
    again = "" if info.contract is None or info.contract.idempotent else ", not idempotent"
    lines = [info.name, "", f"  {info.summary}", "", f"  contract: {info.contract or 'not stated'}{again}"]
    for option in info.options:
        default = "required" if option.default is None else f"default {option.default or 'empty'}"
        lines.append(f"  {option.name}: {option.type}, {default}" + (f". {option.doc}" if option.doc else ""))
    lines += ["", *(f"  {line}".rstrip() for line in info.text.splitlines()), ""]
    return "\n".join(lines)
