"""A training recipe: what `bqc train` does, as a YAML file that the trained model keeps."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bqc.errors import BqcError
from bqc.pipeline.spelling import parse
from bqc.plan import load_yaml

__all__ = ["RECIPE_KEY", "Losses", "Recipe", "Stage"]

RECIPE_KEY = "bqc.training"
VERSION = 1
OPTIONS = "options"
"""Where a recipe is from that no file holds."""
_TYPED = ("epochs", "learning_rate", "batch_size", "max_length", "learn", "seed")
"""Settings that are options of `bqc train` too."""

Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        given = data if isinstance(data, dict) else {}
        unknown = [key for key in given if key not in cls.model_fields]
        if unknown:
            near = difflib.get_close_matches(str(unknown[0]), cls.model_fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"unknown key {unknown[0]!r}{hint} (keys: {', '.join(cls.model_fields)})")
        return data


class Losses(_Strict):
    """Weights of the terms of a stage's loss; all but ``labels`` compare with the teacher."""

    labels: Weight = 0.0
    logits: Weight = 0.0
    hidden: Weight = 0.0
    scores: Weight = 0.0
    values: Weight = 0.0

    @model_validator(mode="after")
    def _some(self) -> Losses:
        if not any(self.model_dump().values()):
            raise ValueError("a stage needs a loss with a weight above 0")
        return self

    @property
    def teacher(self) -> bool:
        """Whether a teacher is needed."""
        return any(weight for name, weight in self.model_dump().items() if name != "labels")


class Stage(_Strict):
    """One stage: a loss, how long, how fast.

    ``passes`` rewrite the float model before it, spelled as for ``bqc opt``: ``[split-ternary]``.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    losses: Losses
    epochs: Annotated[float, Field(gt=0)] = 1.0
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    passes: tuple[str, ...] = ()

    @field_validator("passes")
    @classmethod
    def _can_stand(cls, passes: tuple[str, ...]) -> tuple[str, ...]:
        for text in passes:
            try:
                found = parse(text)
            except BqcError as error:
                raise ValueError(str(error)) from None
            for one in found:
                if not getattr(one, "trainable", False):
                    raise ValueError(
                        f"{text}: what this pass leaves cannot be trained; split-ternary is one that can stand here"
                    )
        return passes


class Recipe(_Strict):
    """All of a training run but its data and model.

    ``layer_map`` names the teacher's layer, counted from 0, for each layer of the student; empty is uniform. With
    ``group_by_length`` rows of a batch have similar lengths. ``dropout`` None takes the probabilities of config.json.
    With ``keep_best`` the checkpoint of the best dev score is the result, and training stops after ``patience``
    evaluations without a better one (0: never). ``learn`` is how static scales of activations are learned, with their
    own learning rate, in the first part of a stage's steps that ``learn_steps`` says (no meaning where there are
    none).
    """

    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    temperature: Annotated[float, Field(gt=0)] = 1.0
    layer_map: tuple[int, ...] = ()
    batch_size: Count = 32
    accumulate: Count = 1
    max_length: Annotated[int, Field(ge=3)] = 128
    group_by_length: bool = False
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    weight_decay: Weight = 0.01
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    frozen: tuple[str, ...] = ()
    learn: Literal["lsq", "pact", "none"] = "lsq"
    scale_learning_rate: Annotated[float, Field(gt=0)] = 1e-2
    learn_steps: Annotated[float, Field(ge=0, le=1)] = 0.5
    keep_best: bool = False
    patience: Annotated[int, Field(ge=0)] = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError("stages need different names")
        if self.patience and not self.keep_best:
            raise ValueError("patience needs keep_best: true")
        return self

    @property
    def teacher(self) -> bool:
        """Whether any stage needs a teacher."""
        return any(stage.losses.teacher for stage in self.stages)

    @classmethod
    def fine_tuning(cls, epochs: float = 3.0, learning_rate: float = 5e-5, **settings: Any) -> Recipe:
        """Labels only: what ``--scheme none`` does."""
        stage = {"name": "labels", "losses": {"labels": 1}, "epochs": epochs, "learning_rate": learning_rate}
        return cls.checked({"stages": [stage], **settings}, OPTIONS)

    @classmethod
    def two_stage(cls, epochs: float = 3.0, learning_rate: float = 5e-5, **settings: Any) -> Recipe:
        """Attention scores and hidden states, then logits, without dropout: BinaryBERT (arXiv 2012.15701), 2.4.

        As in its code the first stage has 2.5 times the learning rate of the second, here ``learning_rate / 2.5``, and
        both have ``epochs``.
        """
        first = {"name": "layers", "losses": {"hidden": 1, "scores": 1}, "learning_rate": learning_rate}
        second = {"name": "logits", "losses": {"logits": 1}, "learning_rate": learning_rate / 2.5}
        stages = [{**stage, "epochs": epochs} for stage in (first, second)]
        return cls.checked({"stages": stages, "dropout": 0.0, **settings}, OPTIONS)

    @classmethod
    def ternary_split(cls, epochs: float = 3.0, learning_rate: float = 5e-5, **settings: Any) -> Recipe:
        """`two_stage` with ternary weights, then logits with each of them split into two binary ones: BinaryBERT, 3.

        Each stage has ``epochs``; the last has the learning rate of the first, as the split weights have room again.
        """
        first = cls.two_stage(epochs, learning_rate, **settings)
        last = {"name": "split", "losses": {"logits": 1}, "learning_rate": learning_rate, "epochs": epochs}
        data = first.model_dump(mode="json")
        data["stages"].append({**last, "passes": ["split-ternary"]})
        return cls.checked(data, OPTIONS)

    @classmethod
    def checked(cls, data: Any, where: str) -> Recipe:
        """A recipe from plain data. Raises BqcError that names the first wrong key."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "recipe"
            # The options of the verb go into every stage.
            name = str(first["loc"][-1]) if first["loc"] else ""
            place = (
                f"--{name.replace('_', '-')}" if where == OPTIONS and name in _TYPED else f"{where}: {key}"
            )
            raise BqcError(f"{place}: {_plain(first['msg'])}") from None

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe file. Raises BqcError."""
        try:
            data = load_yaml(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise BqcError(f"{path}: cannot read the recipe: {' '.join(str(error).split())}") from None
        if not isinstance(data, dict) or data.pop("bqc_training", None) != VERSION:
            raise BqcError(f"{path}: not a training recipe: it must begin with 'bqc_training: {VERSION}'")
        return cls.checked(data, str(path))

    def to_yaml(self) -> str:
        """The recipe file."""
        data = {"bqc_training": VERSION, **self.model_dump(mode="json")}
        for stage in data["stages"]:
            if not stage["passes"]:
                del stage["passes"]
        text: str = yaml.safe_dump(data, sort_keys=False, width=120)
        return text


def _plain(message: str) -> str:
    """What pydantic says, in the words of YAML."""
    return message.removeprefix("Value error, ").replace("valid tuple", "list")
