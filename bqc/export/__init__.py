"""Hugging Face checkpoints as float ONNX: what `bqc export` does."""

from bqc.export.exporting import POOLINGS, TASKS, ExportResult, export

__all__ = ["POOLINGS", "TASKS", "ExportResult", "export"]
