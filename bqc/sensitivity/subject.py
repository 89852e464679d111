"""A model under analysis: its parts, the examples it is run on, and its outputs with one part quantised."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from bqc.errors import BqcError
from bqc.evaluate.files import read_json
from bqc.evaluate.predict import Predictor
from bqc.evaluate.tasks import Examples, Features, Task, load_examples
from bqc.evaluate.tokens import Encoding, Padder, TextEncoder
from bqc.formats import BlockShift
from bqc.formats.stored import WeightFormat
from bqc.ir import import_model
from bqc.ir.anatomy import HEAD, encoder
from bqc.passes.attach_functions import AttachFunctions
from bqc.passes.finalize import Finalize
from bqc.passes.quantize_activations import QuantizeActivations
from bqc.plan import Plan
from bqc.runtime.feeds import read_feeds
from bqc.runtime.inputs import EncoderInputs
from bqc.runtime.session import MissingKernelWarning, session
from bqc.sensitivity.parts import WEIGHT, Part, activation_format, fake_quantize
from bqc.sensitivity.suffix import Cut, Resumed, entrance, hidden_states, part_of_graph

__all__ = ["Floats", "Sample", "Subject", "from_file", "from_task"]

Floats = npt.NDArray[np.float32]

BATCH = 32


@dataclass(frozen=True)
class Sample:
    """What a model is run on.

    Attributes:
        description: in words, for the report.
        features: token ids, and targets where there is a task.
        padder: makes batches of them.
        examples: the task's rows behind the features; None without a task.
        task: None for inputs without labels.
    """

    description: str
    features: Features
    padder: Padder
    examples: Examples | None = None
    task: Task | None = None


def from_task(
    path: Path,
    task: Task,
    data: Path | None,
    split: str,
    count: int | None,
    seed: int,
    tokenizer: Path | None,
) -> Sample:
    """``count`` random examples of a task, the same ones for the same seed; all of them if None.

    Raises:
        BqcError: the rows, the tokenizer or ``config.json`` cannot be read.
    """
    encoder = TextEncoder(tokenizer or path.parent, default=task.max_length)
    running = session(path)
    predict = Predictor(running, encoder, BATCH, kind=task.kind)
    if predict.head.embeds:
        raise BqcError(f"{path}: an embedding model has no labels to lose; give --inputs FILE.npz and mse")
    task, _ = task.fit(read_json(path.with_name("config.json")), predict.width)
    examples = load_examples(task, data, split)
    description = f"all {len(examples)} rows of {task.title} {split}"
    if count is not None and count < len(examples):
        rows = np.sort(np.random.default_rng(seed).choice(len(examples), count, replace=False))
        examples = examples.take(rows)
        description = f"{count} random rows of {task.title} {split}, seed {seed}"
    return Sample(description, task.features(examples, encoder), encoder, examples, task)


def from_file(path: Path, file: Path) -> Sample:
    """The rows of a ``.npz`` with one ``[batch, sequence]`` array an input.

    Raises:
        BqcError: it does not fit the model.
    """
    inputs = EncoderInputs.of(session(path))
    feeds = read_feeds(file, inputs)
    ids, mask = feeds[inputs.token_ids], inputs.mask_of(feeds)
    types = feeds[inputs.token_types] if inputs.token_types else np.zeros_like(ids)
    encodings = [
        Encoding([int(token) for token in ids[row, mask[row]]], [int(kind) for kind in types[row, mask[row]]])
        for row in range(len(ids))
    ]
    features = Features(encodings, np.arange(len(encodings)), np.zeros(0))
    return Sample(f"{len(encodings)} rows of {file}", features, Padder(0))


class Subject:
    """A float model whose parts can be quantised one at a time. Use as a context manager: it keeps files.

    Args:
        path: the float ``.onnx`` file.
        sample: what it is run on; None for metrics without data.
        threads: of ONNX Runtime, and of torch.

    Attributes:
        model: the annotated canonical model.
        sample: as given.
        threads: as given.

    Raises:
        BqcError: the file cannot be read, is compiled, or holds no encoder.
    """

    def __init__(self, path: Path, sample: Sample | None = None, threads: int | None = None) -> None:
        self.path = path
        self.sample = sample
        self.model, _ = import_model(path)
        self.threads = threads
        self._folder = Path(tempfile.mkdtemp(prefix="bqc-sensitivity-"))
        self._base: list[Floats] | None = None
        self._cuts: dict[str, Cut | None] = {}
        # ONNX Runtime reads a replaced weight where it lies, for as long as the session lives.
        self._replaced: onnxruntime.OrtValue | None = None
        self.model.ir_version = min(self.model.ir_version, 10)

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def weight(self, part: Part) -> npt.NDArray[np.float32]:
        """The weight of a part, as the graph has it."""
        value = self.model.graph.initializers[part.initializer].const_value
        assert value is not None, "weight_parts yields initializers"
        return np.asarray(value.numpy(), dtype=np.float32)

    def squared_error(self, part: Part, fmt: WeightFormat) -> npt.NDArray[np.float64]:
        """(W - Q(W))^2, float64 in the weight's shape."""
        weight = self.weight(part)
        difference = weight.astype(np.float64) - fake_quantize(weight, part.axis, fmt)
        return np.asarray(difference * difference)

    def outputs(self, part: Part | None = None, fmt: WeightFormat | None = None) -> list[Floats]:
        """Outputs of the float model, or with one part in a format: one array a feature (see `Predictor`).

        Raises:
            BqcError: there is no sample.
        """
        if part is None or fmt is None:
            if self._base is None:
                self._base = self._run(self.float_session)
            return self._base
        if part.kind == WEIGHT:
            return self._run(self._with_weight(part, fake_quantize(self.weight(part), part.axis, fmt)))
        assert isinstance(fmt, BlockShift), "activations have no other"
        with warnings.catch_warnings():
            # A lone pair may run partly as a function body: the same bits.
            warnings.simplefilter("ignore", MissingKernelWarning)
            return self._run(session(self._with_point(part, fmt), threads=self.threads))

    @cached_property
    def float_session(self) -> onnxruntime.InferenceSession:
        """A session on the canonical float model."""
        return self._session(self._float_file)

    def _run(self, running: Any) -> list[Floats]:
        if self.sample is None:
            raise BqcError("this metric runs the model: give --task, or --inputs FILE.npz")
        return self._predictor(running)(self.sample.features.encodings)

    def _predictor(self, running: Any) -> Predictor:
        assert self.sample is not None, "checked by _run"
        kind = self.sample.task.kind if self.sample.task else None
        return Predictor(running, self.sample.padder, BATCH, kind=kind)

    def _with_weight(self, part: Part, weight: Floats) -> Any:
        """A session with another weight: from its layer on, where the model can be cut there."""
        self._replaced = onnxruntime.OrtValue.ortvalue_from_numpy(weight)
        cut = None if part.also else self._cut_before(part.layer)
        file = self._float_file if cut is None else cut.file
        running = self._session(file, {part.initializer: self._replaced})
        return running if cut is None else Resumed(self.float_session, running, cut)

    def _cut_before(self, layer: str) -> Cut | None:
        """The model from a layer on; the head's comes with the last layer, and tables are before any."""
        layer = str(encoder(self.model).layers - 1) if layer == HEAD else layer
        if layer not in self._cuts:
            start = entrance(self.model, layer)
            before = None if start is None else part_of_graph(self.model, None, start)
            rest = None if start is None else part_of_graph(self.model, start, None)
            cut = None
            if start is not None and before is not None and rest is not None:
                assert self.sample is not None, "checked by _run"
                runs = self._predictor(self.float_session).batches(self.sample.features.encodings)
                prefix = self._session(self._saved("before", before))
                hidden = hidden_states(prefix, start, (feeds for _, _, feeds in runs))
                cut = Cut(start, self._saved("after", rest), hidden)
            self._cuts = {layer: cut}  # parts come layer by layer: one at a time is kept
        return self._cuts[layer]

    def _session(
        self, file: Path, replaced: Mapping[str, onnxruntime.OrtValue] | None = None
    ) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        for name, value in (replaced or {}).items():
            options.add_initializer(name, value)
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def _saved(self, name: str, model: ir.Model) -> Path:
        path = self._folder / f"{name}.onnx"
        ir.save(model, path, external_data=f"{name}.data")
        return path

    @cached_property
    def _float_file(self) -> Path:
        return self._saved("float", self.model)

    def _with_point(self, part: Part, fmt: BlockShift) -> Path:
        """A file of the model with a pair at one point."""
        model = ir.load(self._float_file)
        Plan("sensitivity", activations={part.key: activation_format(self.model, part, fmt)}).attach(model)
        for one in (QuantizeActivations(), AttachFunctions(), Finalize()):
            one(model)
        model.ir_version = min(model.ir_version, 10)
        return self._saved("point", model)
