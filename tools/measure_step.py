"""What a training step costs: transformers' own model against the same weights run from the graph.

    python -m tools.measure_step HF_DIR MODEL.onnx

MODEL.onnx is the export of HF_DIR. Steps (forward, backward, AdamW; dropout as in config.json; fused attention in all)
of the three are taken in turn and the medians compared: transformers, the float graph, and the graph with
fake-quantised weights and activations. CPU seconds of one thread, so that other work on the machine hardly counts;
--wall for elapsed seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from bqc.evaluate.files import read_json
from bqc.ir import import_model
from bqc.train import module
from bqc.train.dropout import dropout_of
from bqc.train.prepared import prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--weight-bits", type=int, default=8)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wall", action="store_true", help="elapsed seconds instead of CPU seconds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clock: Callable[[], float] = time.perf_counter if options.wall else time.process_time
    dropout = dropout_of(read_json(options.checkpoint / "config.json"))
    factory = transformers.AutoModelForSequenceClassification
    prepared = prepare(import_model(options.model)[0], "bbct", {"weight_bits": options.weight_bits})
    assert prepared.plan is not None, "bbct plans"
    networks: dict[str, Any] = {
        "transformers": factory.from_pretrained(options.checkpoint, dtype=torch.float32),
        "graph": module(options.model, dropout=dropout),
        "quantised graph": module(prepared.graph, weights=prepared.plan.weights, dropout=dropout),
    }
    ids = torch.randint(1000, 20000, (options.batch, options.length))
    feeds = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }
    labels = torch.zeros(options.batch, dtype=torch.int64)
    optimizers = {name: torch.optim.AdamW(network.parameters(), 1e-6) for name, network in networks.items()}

    def step(name: str) -> float:
        start = clock()
        results = networks[name].train()(**feeds)
        logits = results["logits"]
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizers[name].step()
        optimizers[name].zero_grad()
        return clock() - start

    taken: dict[str, list[float]] = {name: [] for name in networks}
    for round_ in range(options.steps + 1):
        for name in networks:
            seconds = step(name)
            if round_:
                taken[name].append(seconds)
    base = statistics.median(taken["transformers"])
    kind = "elapsed" if options.wall else "CPU"
    for name, seconds in taken.items():
        median, spread = statistics.median(seconds), f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{name:16} {median:6.2f} {kind} s a step ({spread}), {median / base:.2f}x", flush=True)


if __name__ == "__main__":
    main()
