#!/bin/sh
# Makes the float model and its compiled forms in OUT. Needs bqc[train,export], and the task's files in BQC_DATA.
#   ./make.sh ENCODER_DIR OUT        ENCODER_DIR: sentence-transformers/all-MiniLM-L6-v2, or its folder
set -eu
here=$(cd "$(dirname "$0")" && pwd)
data=${BQC_DATA:?folder of the task files}
bqc export "$1" --new-head mrpc --seed 0 -o "$2/start/"
bqc train "$2/start/model.onnx" --scheme none --task mrpc --data "$data" \
    --recipe "$here/../recipes/finetune.yaml" --seed 0 --checkpoints "$2/run" --resume -o "$2/float/"
bqc compile "$2/float/model.tuned.onnx" -o "$2/w8.onnx"
bqc compile "$2/float/model.tuned.onnx" --weight-bits 4 -o "$2/w4.onnx"
bqc eval "$2/float/model.tuned.onnx" "$2/w8.onnx" "$2/w4.onnx" --task mrpc --data "$data" --tokenizer "$2/float"
