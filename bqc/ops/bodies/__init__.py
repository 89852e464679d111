"""The operators of ``ai.bqc`` as onnxscript functions over standard ONNX operators of opset 21.

Each body is the operator's specification, its fallback in any ONNX runtime and what tests hold numpy and C++
to. Only primitives whose every bit is defined are used: integer arithmetic, + - * /, comparisons, rounding,
casts, gathers from tables, MatMulInteger on uint8. Loops carry an explicit condition and no reduction
decides an output's shape.
"""
