"""``bqc train``: train a model for a task, with the scheme's quantisation in the loop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bqc.cli.common import FILE, Settings, common_options, emit_json, examples, progress_bar, say, table
from bqc.cli.scheme_options import option_name, require_options, scheme_options, take_scheme_options
from bqc.cli.tasks import chosen_task, metric_options, task_options
from bqc.errors import BqcError

if TYPE_CHECKING:
    from bqc.train.recipe import Recipe

__all__ = ["command"]

SCHEMA_VERSION = 1


@click.command(
    "train",
    epilog=examples(
        "bqc train model.onnx --weight-bits 2 --task mrpc --data DATA -o small.onnx",
        "bqc train model.onnx --scheme binarybert --task sst2 --epochs 2 -o small/",
        "bqc train model.onnx --scheme none --task sst2 --epochs 3 -o tuned.onnx",
        "bqc train model.onnx --data reviews/ --text-column review --label-column stars -o small.onnx",
        "bqc train model.onnx --recipe train.yaml --task mrpc --checkpoints RUN --resume -o small.onnx",
    ),
)
@click.argument("model", type=FILE, metavar="MODEL")
@task_options
@metric_options
@click.option(
    "-o",
    "--output",
    metavar="FILE|DIR/",
    help="File, or folder that also gets config and tokenizer. [default: MODEL.bqc.onnx beside it]",
)
@click.option(
    "--scheme", default="bbct", show_default=True, metavar="NAME", help="Scheme to train for; none is float."
)
@scheme_options
@click.option(
    "--width",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Keep this part of heads and FFN neurons, and train what is left, first.",
)
@click.option(
    "--teacher", type=FILE, metavar="FILE", help="Float model to distill from. [default: MODEL itself]"
)
@click.option(
    "--tokenizer", type=FILE, metavar="DIR", help="Folder of tokenizer.json. [default: the model's]"
)
@click.option(
    "--recipe",
    type=FILE,
    metavar="FILE",
    help="Stages and settings from a YAML file. [default: the scheme's]",
)
@click.option("--save-recipe", type=FILE, metavar="FILE", help="Write the stages and settings as YAML.")
@click.option("--epochs", type=float, metavar="X", help="Epochs of a stage. [default: 3]")
@click.option("--learning-rate", type=float, metavar="X", help="Highest learning rate. [default: 5e-5]")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Rows a step. [default: 32]")
@click.option(
    "--learn",
    type=click.Choice(["lsq", "pact", "none"]),
    help="How static scales of activations are learned. [default: the recipe's, else lsq]",
)
@click.option(
    "--max-length", type=click.IntRange(min=3), metavar="N", help="Tokens to keep of a row. [default: 128]"
)
@click.option("--limit", type=click.IntRange(min=2), metavar="N", help="Train on the first N rows only.")
@click.option(
    "--checkpoints", type=FILE, metavar="DIR", help="Folder for checkpoints and logs. [default: none kept]"
)
@click.option("--save-steps", type=click.IntRange(min=1), metavar="N", help="Steps between checkpoints.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
@click.option(
    "--seed", type=click.IntRange(min=0), help="Seed of everything random. [default: the recipe's, else 0]"
)
@common_options
def command(
    settings: Settings,
    model: Path,
    task: str | None,
    data: Path | None,
    text_column: str | None,
    pair_column: str | None,
    label_column: str | None,
    labels: str | None,
    metrics: tuple[str, ...],
    metric_fn: str | None,
    output: str | None,
    scheme: str,
    width: float,
    teacher: Path | None,
    tokenizer: Path | None,
    recipe: Path | None,
    save_recipe: Path | None,
    limit: int | None,
    checkpoints: Path | None,
    save_steps: int | None,
    resume: bool,
    seed: int | None,
    **given: Any,
) -> None:
    """Train a float encoder for a task and write it compiled, or float with --scheme none.

    The result computes what the trained torch module does. Needs the extra bqc[train].
    """
    from bqc.evaluate.extras import require

    for needed in ("torch", "transformers", "accelerate", "pydantic"):
        require(needed, "train")
    from bqc.staging import write_text
    from bqc.train.training import train

    chosen_for = chosen_task(task, data, text_column, pair_column, label_column, labels, metrics, metric_fn)
    if task is None and data is not None and data.is_file():
        raise BqcError(
            f"{data}: training needs rows to learn from and others to score: give a folder with train{data.suffix} and "
            f"dev{data.suffix}"
        )
    options = take_scheme_options(given)
    if scheme != "none":
        require_options(scheme, options, besides=("none",))
    elif options:
        raise BqcError(f"scheme none trains in float and has no option {option_name(next(iter(options)))}")
    settings_given = {name: value for name, value in given.items() if value is not None}
    chosen = _recipe(recipe, scheme, options, settings_given, seed)
    if save_recipe is not None:
        try:
            write_text(save_recipe, chosen.to_yaml())
        except OSError as error:
            raise BqcError(f"{save_recipe}: cannot write the recipe: {error.strerror}") from None
    with progress_bar(settings, f"{scheme}: {model.name}") as progress:
        result = train(
            model,
            chosen_for,
            data,
            output,
            scheme=scheme,
            options=options,
            recipe=chosen,
            teacher=teacher,
            tokenizer=tokenizer,
            checkpoints=checkpoints,
            resume=resume,
            save_steps=save_steps or 0,
            limit=limit,
            width=width,
            progress=progress,
        )
    if settings.json:
        emit_json(SCHEMA_VERSION, result.to_dict())
        return
    if settings.quiet or not result.paths:
        return
    rows = [(f"slim float, {name}", f"{100 * value:.2f}") for name, value in (result.slim or {}).items()]
    rows += [(name, f"{100 * value:.2f}") for name, value in result.metrics.items()]
    if result.kept is not None:
        rows.append(("width", f"{width:g}: {result.kept}"))
    if result.spent is not None:
        rows.append(("budget", str(result.spent)))
    table(f"{model.name}, {scheme}, dev", ("", ">"), [*rows, ("seconds", f"{result.seconds:.0f}")])
    for path in result.paths:
        say(settings, str(path))


def _recipe(
    path: Path | None, scheme: str, options: dict[str, Any], given: dict[str, Any], seed: int | None
) -> Recipe:
    """The recipe of a file, or the one that the options ask for."""
    from bqc.train.prepared import default_recipe
    from bqc.train.recipe import Recipe

    if "learn" in given and options.get("activations") != "static":
        raise BqcError(
            "--learn is for static scales, which come with --activations static: give that, or leave --learn out"
        )
    if seed is not None:
        given["seed"] = seed
    if path is None:
        return default_recipe(scheme, options, **given)
    others = sorted(set(given) - {"seed", "learn"})
    if others:
        raise BqcError(f"a recipe is a whole plan: leave out {option_name(others[0])} or the recipe")
    return Recipe.read(path).model_copy(update=given)
