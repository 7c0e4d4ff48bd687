#!/usr/bin/env bash
# Training on some GPUs of one machine with Docker; the same command goes on where it was stopped.
#
#   docker build -f containers/Dockerfile -t roi .
#   GPUS=0,1 DATA=/data/nih RUNS=/runs/nih scripts/dgx_train.sh --train_csv /runs/nih/train.csv --image_root /data/nih \
#       --cache_dir /runs/nih/pixels --batch_size 16 --save roi.pt --log_csv train_metrics.csv
#
#   GPUS=0,1       the GPUs by their numbers (0); a process for each
#   DATA, RUNS     folders that the container sees under their own names: DATA is read, RUNS is written and is where paths begin
#   SCRIPT=FILE    train_roi_consistency.py, train_roi_baselines.py or train_multiview.py
#   IMAGE=NAME     the image (roi)
#   LOG=FILE       what is printed is added here (RUNS/train.log)
#
# Ctrl-C, or docker stop of the container named at the start, saves a checkpoint.
set -euo pipefail

refuse() {
  echo "error: $1" >&2
  exit 2
}

GPUS=${GPUS:-0}
SCRIPT=${SCRIPT:-train_roi_consistency.py}
IMAGE=${IMAGE:-roi}
[ -d "${DATA:-}" ] || refuse "DATA=${DATA:-}: no such folder; DATA=DIR names the folder of the images"
[ -d "${RUNS:-}" ] || refuse "RUNS=${RUNS:-}: no such folder; make it first: mkdir -p DIR, then RUNS=DIR"
[[ $GPUS =~ ^[0-9]+(,[0-9]+)*$ ]] || refuse "GPUS=$GPUS: numbers with commas between them, as in GPUS=0,1"
[ -f "$(dirname "${BASH_SOURCE[0]}")/../$SCRIPT" ] || refuse "SCRIPT=$SCRIPT: no such script; train_roi_consistency.py, for one"
command -v docker > /dev/null || refuse "docker is not installed; on a cluster: scripts/slurm_train.sbatch"
DATA=$(realpath "$DATA")
RUNS=$(realpath "$RUNS")
LOG=${LOG:-$RUNS/train.log}
commas=${GPUS//[0-9]/}
name=roi-${USER:-user}-$$

# What begins from another run's checkpoint (--stage 2 --resume CKPT) says itself where.
[[ " $* " == *" --stage"[\ =]"2 "* ]] || set -- "$@" --resume auto

echo "container $name on GPU $GPUS; added to $LOG" >&2
# -i: Ctrl-C is for the training, which then prints what it saved.
docker run --rm --init --name "$name" --stop-timeout 120 --gpus "\"device=$GPUS\"" --ipc=host --ulimit memlock=-1 \
  --user "$(id -u):$(id -g)" --volume "$DATA:$DATA:ro" --volume "$RUNS:$RUNS" --workdir "$RUNS" "$IMAGE" \
  python -m torch.distributed.run --standalone --nproc_per_node $((${#commas} + 1)) "/app/$SCRIPT" "$@" 2>&1 | tee -ai "$LOG"
