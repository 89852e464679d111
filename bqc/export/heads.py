"""A fresh head on a pretrained encoder: where fine-tuning starts from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from bqc.errors import BqcError
from bqc.evaluate.sentences import SentenceTask
from bqc.evaluate.tagging import TaggingTask
from bqc.evaluate.tasks import find_task

__all__ = ["NewHead"]


@dataclass(frozen=True)
class NewHead:
    """A head with random weights.

    Attributes:
        task: what it is, as `export` calls it.
        labels: names of its outputs; none for a number, or for the ends of an answer.
    """

    task: Literal["classification", "token-classification", "question-answering"]
    labels: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> NewHead:
        """The name of a task, as `bqc eval` takes it, or the labels of a classification, separated by commas.

        Raises:
            BqcError: there is no such task; a label is empty or comes twice.
        """
        if "," in text:
            labels = tuple(label.strip() for label in text.split(","))
            if not all(labels) or len(set(labels)) < len(labels):
                raise BqcError(f"labels of a head must differ, and none may be empty: {text!r}")
            return cls("classification", labels)
        task = find_task(text)
        if isinstance(task, SentenceTask):
            return cls("classification", task.labels)
        return cls(
            "token-classification" if isinstance(task, TaggingTask) else "question-answering", task.labels
        )

    def on(
        self, encoder: Any, factory: Any, torch: Any, seed: int, attention: str, without: Collection[str]
    ) -> Any:
        """The network of `factory` with the encoder's weights but those `without`; what it lacks is drawn by `seed`."""
        config = encoder.config
        if self.task != "question-answering":
            config.num_labels = max(len(self.labels), 1)
            config.problem_type = None if self.labels else "regression"
        if self.labels:
            config.id2label = dict(enumerate(self.labels))
            config.label2id = {name: index for index, name in enumerate(self.labels)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = factory.from_config(config, attn_implementation=attention)
        inner = getattr(network, network.base_model_prefix)
        known = {name: value for name, value in encoder.state_dict().items() if name not in without}
        left = inner.load_state_dict(known, strict=False).missing_keys
        if any("pooler" not in name for name in left):
            raise BqcError(f"the encoder has no {left[0]}, which {type(network).__name__} needs")
        network.config.architectures = [type(network).__name__]
        return network
