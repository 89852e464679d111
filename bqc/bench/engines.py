"""The engines of a comparison: models as they are, and baselines made from a float one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bqc.bench.baselines import BASELINES, make_baseline
from bqc.bench.workload import Vocabulary
from bqc.errors import BqcError
from bqc.ir import import_model, is_compiled, load
from bqc.ir.anatomy import Encoder
from bqc.runtime.inputs import EncoderInputs

__all__ = ["Engine", "engine_names", "find_engines", "vocabulary"]


@dataclass(frozen=True)
class Engine:
    """A file under a name.

    Attributes:
        name: unique among the engines.
        path: the model file.
        operators: of a baseline: operator of ONNX Runtime's own domain -> nodes.
        warning: of a baseline: why it is weaker than it could be, if it is.
    """

    name: str
    path: Path
    operators: dict[str, int] = field(default_factory=dict)
    warning: str | None = None


def find_engines(
    models: Sequence[Path],
    baselines: Sequence[str],
    source: Path | None,
    folder: Path,
    say: Callable[[str], None],
) -> list[Engine]:
    """The baselines, written into ``folder``, then the models.

    Args:
        models: files.
        baselines: names of ``BASELINES``.
        source: the float file that baselines are made from; None takes the first float file of ``models``.
        folder: a new one.
        say: takes a line for every baseline.

    Raises:
        BqcError: a baseline is unknown or cannot be made.
    """
    for name in baselines:
        if name not in BASELINES:
            raise BqcError(f"no baseline '{name}': there are {', '.join(BASELINES)}")
    found = []
    if baselines:
        file, anatomy = _source(models, source)
        for name in dict.fromkeys(baselines):
            say(f"making {name} of {file}")
            made = make_baseline(name, file, anatomy, folder)
            found.append(Engine(name, made.path, made.operators, made.warning))
    return found + [Engine(name, path) for name, path in zip(engine_names(models), models, strict=True)]


def engine_names(models: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart.

    Raises:
        BqcError: a path is given twice.
    """
    parts = [path.absolute().parts for path in models]
    if len(set(parts)) < len(parts):
        raise BqcError("the same model is given twice")
    names = []
    for own in parts:
        depth = next(
            n for n in range(1, len(own) + 1) if [other[-n:] for other in parts].count(own[-n:]) == 1
        )
        names.append(str(Path(*own[-depth:])))
    return names


def vocabulary(path: Path, inputs: EncoderInputs) -> Vocabulary:
    """Token ids and types that a model, float or compiled, has rows for.

    Raises:
        BqcError: the size of its tables is not known.
    """
    if not inputs.vocabulary:
        raise BqcError(f"{path}: cannot tell the size of the vocabulary")
    return Vocabulary(inputs.vocabulary, inputs.types)


def _source(models: Sequence[Path], source: Path | None) -> tuple[Path, Encoder]:
    file = source or next((path for path in models if not is_compiled(load(path))), None)
    if file is None:
        raise BqcError(
            "baselines are made from a float model: every model given is compiled; name one with --source FILE"
        )
    try:
        return file, import_model(file)[1].encoder
    except BqcError as error:
        raise BqcError(f"no baseline can be made of {file}: {error}") from error
