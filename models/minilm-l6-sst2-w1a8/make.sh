#!/bin/sh
# Makes the model in OUT. Needs bqc[train] and the task's files in BQC_DATA.
#   ./make.sh OUT
set -eu
[ $# -eq 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
data=${BQC_DATA:?folder of the task files}
float=$here/../minilm-l6-sst2
bqc train "$float/model.onnx" --scheme binarybert --weights split --table-scales fp32 --parameters fp32 --task sst2 --data "$data" \
    --recipe "$here/../recipes/signs-split-sst2.yaml" --checkpoints "$1/run" --save-steps 200 --resume -o "$1/"
bqc eval "$float/model.onnx" "$1/model.bqc.onnx" --task sst2 --data "$data" --tokenizer "$float"
