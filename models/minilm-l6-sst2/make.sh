#!/bin/sh
# Makes model.onnx, config.json and the tokenizer files here from the fine-tuned checkpoint. Needs bqc[export].
#   ./make.sh CHECKPOINT_DIR
set -eu
[ $# -eq 1 ] || { echo "usage: $0 CHECKPOINT_DIR" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
bqc export "$1" -o "$here" --task classification --exporter dynamo --opset 18 --weights fp16
bqc eval "$here/model.onnx" --task sst2 --data "${BQC_DATA:?folder of the task files}"
