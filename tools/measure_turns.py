"""CPU time of models that run by turns, on one thread.

    python -m tools.measure_turns a.bqc.onnx b.bqc.onnx --shapes 1x16 1x128 8x128

Prints, for each batch x tokens, the median milliseconds of processor time of a run of each model and the ratio to the
first one's. Other programs that keep the machine busy take time from a run and none of its processor time, unlike what
`bqc bench` shows; what the models share, the caches, they still disturb.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from bqc.runtime.session import session


def main() -> None:
    """Run the models in turn and print a line a shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--shapes", nargs="+", default=["1x16", "1x128", "8x128"], metavar="BxS")
    parser.add_argument("--runs", type=int, default=60)
    options = parser.parse_args()
    running = [session(path, strict=True, threads=1) for path in options.models]
    names = [one.name for one in running[0].get_inputs()]
    random = np.random.default_rng(0)
    for shape in options.shapes:
        batch, tokens = map(int, shape.split("x"))
        known = {"attention_mask": np.ones((batch, tokens), np.int64)}
        known["token_type_ids"] = np.zeros((batch, tokens), np.int64)
        known["input_ids"] = random.integers(1000, 20000, (batch, tokens))
        feeds = {name: known[name] for name in names}
        times: list[list[float]] = [[] for _ in running]
        for _ in range(options.runs):
            for one, spent in zip(running, times, strict=True):
                one.run(None, feeds)  # its weights and not the other's are in the caches then
                begun = time.process_time()
                one.run(None, feeds)
                spent.append(1e3 * (time.process_time() - begun))
        medians = [float(np.median(spent)) for spent in times]
        print(shape, ", ".join(f"{each:.2f} ms ({each / medians[0]:.2f}x)" for each in medians), flush=True)


if __name__ == "__main__":
    main()
