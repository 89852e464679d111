"""Write bqc/bench/lengths.json: how many rows of GLUE's development sets have how many tokens.

python -m tools.length_histograms --data DATA --tokenizer models/minilm-l6-sst2
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from bqc.bench.lengths import HISTOGRAMS, measured_lengths
from bqc.evaluate.tasks import TASKS

SOURCE = (
    "Token counts of the rows of GLUE's development sets, special tokens included, truncated to 128; uncased BERT"
    " WordPiece vocabulary of 30522. Each entry is tokens: rows."
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of tokenizer.json")
    options = parser.parse_args()
    tasks = {}
    for name in TASKS:
        counts = Counter(measured_lengths(name, options.data, [options.tokenizer]))
        tasks[name] = {str(length): counts[length] for length in sorted(counts)}
    lines = ",\n".join(f'  "{name}": {json.dumps(counts)}' for name, counts in tasks.items())
    text = f'{{\n "source": {json.dumps(SOURCE)},\n "tasks": {{\n{lines}\n }}\n}}\n'
    HISTOGRAMS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
