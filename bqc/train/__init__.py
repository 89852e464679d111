"""Graphs as torch modules: training and analysis of any encoder from its ONNX graph. Needs ``bqc[train]``."""

from __future__ import annotations

from bqc.train.module import OnnxModule, module

__all__ = ["OnnxModule", "module"]
