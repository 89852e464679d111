"""Does a compiled model give the same bits in every ONNX Runtime, with the kernel library and without?

python tools/ort_smoke.py make DIR     # needs bqc: compile small models, keep inputs, outputs and the library
python tools/ort_smoke.py check DIR    # needs only onnxruntime and numpy: compare
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "libbqc_custom_ops.so"
OUTPUT = "expected"


def run(model: Path, feeds: dict[str, np.ndarray], library: Path | None, threads: int) -> np.ndarray:
    """The model's first output."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def make(folder: Path) -> None:
    """Compile a model for each bit width, kind of weights and sparsity, and the embedded one; keep what this gives."""
    import onnx_ir as ir

    import bqc
    from bqc.formats import Half, Index8, Sparse, Xnor
    from bqc.formats.sparse import PATTERNS
    from bqc.ir.synthetic import canonical_bert
    from bqc.passes.plan_bbct import PlanBbct
    from bqc.plan import Plan

    folder.mkdir(parents=True)
    shutil.copyfile(bqc.library_path(), folder / LIBRARY)
    for bits in (8, 6, 4, 3, 2):
        model = canonical_bert(layers=2, hidden=52, heads=2, ffn=70, seed=bits)
        bqc.compile(model, "bbct", folder / f"w{bits}.onnx", weight_bits=bits)
    for weights, bits in (("binary", 8), ("split", 6), ("two-plane", 4)):
        model = canonical_bert(layers=2, hidden=52, heads=2, ffn=70, seed=bits)
        bqc.compile(model, "binarybert", folder / f"{weights}.onnx", weights=weights, activation_bits=bits)
    model = canonical_bert(layers=2, hidden=52, heads=2, ffn=70, seed=4)
    bqc.compile(model, "binarybert", folder / "relu.onnx", table_scales="fp32", ffn_activation="relu")
    for at, (kept, of) in enumerate(PATTERNS):
        model = canonical_bert(layers=1, hidden=52, heads=2, ffn=70, seed=at)
        plan = bqc.compile(model.clone(), "bbct", folder / "plan.onnx", dry_run=True).plan
        for key, fmt in plan.weights.items():
            if not key.startswith("embedding:"):
                plan.weights[key] = Sparse(kept, of, 8 if at % 2 else 4, fmt.group)
        bqc.compile(model, "bbct", folder / f"sparse{kept}of{of}.onnx", recipe=plan)
    positions = canonical_bert(layers=1, seed=3)
    bqc.compile(
        positions, "binarybert", folder / "positions.onnx", weights="binary", position_bits=32, block=64
    )
    # Between points, so that nothing is left to a float operator.
    for name, fmt in (("half", Half()), ("index", Index8())):
        model = canonical_bert(layers=1, hidden=52, heads=2, ffn=70, head="masked-lm")
        PlanBbct()(model)
        plan = Plan.of(model)
        plan.weights = dict.fromkeys(plan.weights, fmt)
        bqc.compile(model, output=folder / f"{name}.onnx", recipe=plan)
    model = canonical_bert(layers=2, hidden=52, heads=2, ffn=70, seed=1)
    plan = bqc.compile(model, "bbct", dry_run=True).plan
    for layer, scale in enumerate(("one", "row")):
        plan.weights |= {f"{layer}:ffn.{role}": Xnor(scale) for role in ("intermediate", "output")}
    bqc.compile(model, "bbct", folder / "xnor.onnx", recipe=plan)
    tied = canonical_bert(layers=1, head="masked-lm")
    bqc.compile(tied, "bbct", folder / "tied.onnx", embedding_bits=4)
    ir.save(canonical_bert(layers=1, gelu="tanh", head="none"), folder / "float.onnx")
    bqc.compile(folder / "float.onnx", "bbct", folder / "tanh.onnx", block=16, single_file=True)
    (folder / "float.onnx").unlink()
    embedded = ROOT / "models" / "minilm-l6-sst2" / "model.onnx"
    if embedded.is_file():
        bqc.compile(embedded, "bbct", folder / "embedded.onnx")
    random = np.random.default_rng(0)
    for model_path in sorted(folder.glob("*.onnx")):
        ids = random.integers(1, 100, (3, 19))
        lengths = np.array([[19], [7], [12]])
        at = np.arange(19)
        mask = np.where(np.arange(3)[:, None] == 2, at >= 19 - lengths, at < lengths).astype(np.int64)
        feeds = {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": ids % 2 * mask}
        result = run(model_path, feeds, folder / LIBRARY, 2)
        np.savez(folder / f"{model_path.stem}.npz", **feeds, **{OUTPUT: result})


def check(folder: Path) -> int:
    """Number of models and ways whose bits differ."""
    wrong = 0
    for model in sorted(folder.glob("*.onnx")):
        with np.load(folder / f"{model.stem}.npz") as stored:
            feeds = {name: stored[name] for name in stored.files if name != OUTPUT}
            expected = stored[OUTPUT]
        for way, library, threads in (("library", folder / LIBRARY, 2), ("no library", None, 1)):
            result = run(model, feeds, library, threads)
            same = result.dtype == expected.dtype and result.tobytes() == expected.tobytes()
            wrong += not same
            print(f"[{'✓' if same else 'x'}] onnxruntime {onnxruntime.__version__}, {model.name}, {way}")
    return wrong


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Same bits in every ONNX Runtime?")
    parser.add_argument("action", choices=["make", "check"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.action == "make":
        make(arguments.folder)
    return int(check(arguments.folder) > 0)


if __name__ == "__main__":
    sys.exit(main())
