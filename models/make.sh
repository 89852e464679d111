#!/bin/sh
# Makes the float model of one task from the pretrained encoder, and its compiled forms, in OUT; a run that was stopped
# goes on when it is started again. Needs bqc[train,export], and the task's files in BQC_DATA.
#   ./make.sh TASK ENCODER OUT    TASK: mrpc, stsb, cola, conll03, squad, or another of docs/tasks.md
#                                 ENCODER: sentence-transformers/all-MiniLM-L6-v2, or its folder
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# -eq 3 ] || { echo "usage: $0 TASK ENCODER OUT" >&2; exit 2; }
task=$1 encoder=$2 out=$3
data=${BQC_DATA:?folder of the task files}
recipe=$here/recipes/finetune-$task.yaml
[ -e "$recipe" ] || recipe=$here/recipes/finetune.yaml
[ -e "$out/start/model.onnx" ] || bqc export "$encoder" --new-head "$task" --seed 0 -o "$out/start/"
bqc train "$out/start/model.onnx" --scheme none --task "$task" --data "$data" \
    --recipe "$recipe" --seed 0 --checkpoints "$out/run" --resume -o "$out/float/"
bqc compile "$out/float/model.tuned.onnx" -o "$out/w8/"
bqc compile "$out/float/model.tuned.onnx" --weight-bits 4 -o "$out/w4/"
bqc eval "$out/float/model.tuned.onnx" "$out/w8/model.tuned.bqc.onnx" "$out/w4/model.tuned.bqc.onnx" --task "$task" --data "$data"
