"""Fine-tune an encoder on one GLUE task: the float models that the accuracy tables start from.

    python -m tools.finetune ENCODER_DIR --task cola -o OUT_DIR --data DATA

Reads the rows through `bqc.evaluate` (a local folder or the hub), trains with `transformers.Trainer` (AdamW, linear
decay, batch 32) and writes a Hugging Face directory that `bqc export` takes. Needs bqc[train] and accelerate.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from bqc.evaluate.metrics import score
from bqc.evaluate.tasks import TASKS, Examples, SentenceTask, find_task, load_examples


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Tokenised rows of a task, unpadded."""

    def __init__(self, examples: Examples, tokenizer: Any, max_length: int) -> None:
        columns = [list(column) for column in zip(*examples.texts, strict=True)]
        self._encodings = tokenizer(*columns, truncation=True, max_length=max_length)
        self._labels = examples.labels.tolist()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {name: values[row] for name, values in self._encodings.items()} | {"labels": self._labels[row]}


def metrics_of(task: SentenceTask) -> Any:
    """The function `Trainer` calls after an epoch."""

    def compute(prediction: Any) -> dict[str, float]:
        logits = np.asarray(prediction.predictions)
        predicted = logits[:, 0] if task.regression else logits.argmax(axis=1)
        return score(task.metrics, np.asarray(prediction.label_ids), predicted)

    return compute


def network_for(source: str, task: SentenceTask) -> Any:
    """The encoder with a fresh head whose labels carry the task's names."""
    labels: dict[str, Any] = {"num_labels": max(len(task.labels), 1)}
    if task.regression:
        labels["problem_type"] = "regression"
    else:
        labels["id2label"] = dict(enumerate(task.labels))
        labels["label2id"] = {name: i for i, name in enumerate(task.labels)}
    factory = transformers.AutoModelForSequenceClassification
    return factory.from_pretrained(source, dtype=torch.float32, **labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("encoder", help="Hugging Face directory or hub id")
    sentences = sorted(name for name, task in TASKS.items() if task.kind == "sentence")
    parser.add_argument("--task", required=True, choices=sentences)
    parser.add_argument("-o", "--output", type=Path, required=True, help="directory to write")
    parser.add_argument("--data", help="folder of the task's files [default: BQC_DATA, else the hub]")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128, help="tokens to keep of a text or pair")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="train on the first N rows only")
    options = parser.parse_args()

    transformers.set_seed(options.seed)
    task = find_task(options.task)
    assert isinstance(task, SentenceTask), f"{task.title} has no sentence head"
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.encoder)
    network = network_for(options.encoder, task)
    train = load_examples(task, options.data, "train").head(options.limit)
    dev = load_examples(task, options.data, "dev")
    arguments = transformers.TrainingArguments(
        output_dir=str(options.output / "checkpoints"),
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=options.lr,
        num_train_epochs=options.epochs,
        weight_decay=0.01,
        warmup_steps=0.06,
        eval_strategy="epoch",
        save_strategy="no",
        logging_steps=50,
        report_to=[],
        seed=options.seed,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model=network,
        args=arguments,
        train_dataset=Rows(train, tokenizer, options.max_length),
        eval_dataset=Rows(dev, tokenizer, options.max_length),
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        compute_metrics=metrics_of(task),
    )
    trainer.train()
    network.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    scores = {name: round(float(value), 4) for name, value in trainer.evaluate().items() if "eval_" in name}
    print(f"{task.title}: {scores}")


if __name__ == "__main__":
    main()
