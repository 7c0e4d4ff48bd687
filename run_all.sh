#!/usr/bin/env bash
# The whole pipeline: environment, NIH ChestX-ray14, tables, training, predictions, scores, report.
#
#   ./run_all.sh            run it; made for: tmux new -s roi-run './run_all.sh 2>&1 | tee -a roi-run.log; bash'
#   ./run_all.sh --check    look at everything first, in a minute, and write nothing but the environment: flags, weights,
#                           disk, device, memory of one step, forecast in hours
#   ./run_all.sh --demo     the same offline, on a CPU, on a synthetic data set, in minutes
#   ./run_all.sh --help     this text
#
# Each stage skips what is done and training resumes: a killed run goes on with the same command. The log is
# OUT/roi-run.log, to which each run appends; follow it, and OUT/train_metrics.csv, with tail -F.
# Settings come from the environment, for instance  BATCH_SIZE=32 ACCUM_STEPS=1 ./run_all.sh
#
#   DATA_PATH        folder of NIH ChestX-ray14; skips the download          (default: kagglehub downloads it, 45 GB)
#   OUT              folder for tables, checkpoints, predictions, scores     (here; demo: demo_run)
#                    and the log
#   BACKBONE         any torchvision classifier, else any timm model         (convnext_base; demo: test_resnet)
#   WEIGHTS          imagenet, none, or a file                               (imagenet; demo: none)
#   OBJECTIVE        evidence, or consistency as published                   (evidence)
#   EPOCHS           passes over the training images; evidence: the masks    (8)
#                    come in the second half
#   BATCH_SIZE       images a forward, three views each                      (8; demo: 32)
#   ACCUM_STEPS      batches an optimiser step                               (2; demo: 1)
#   LR               learning rate                                           (the script's; demo: 2e-3)
#   IMG_SIZE         side of the square input, pixels                        (224; demo: 96)
#   KEEP_RATIO       share of the pixels that the mask keeps                 (0.1)
#   AUTOCAST_DTYPE   bf16, fp16, fp32 or auto                                (bf16; demo: fp32)
#   WORKERS          processes that decode images                            (8; demo: 1)
#   CACHE_DIR        folder of the decoded pixels: 5.6 GB at 224 pixels;     (OUT/pixels)
#                    "no": decode every image in every epoch
#   NPROC            processes, one a GPU; each takes BATCH_SIZE images      (1)
#   VAL_FRACTION     share of the training images held out for validation    (0.1)
#   SEED             of everything random                                    (0)
#   SAVE_EVERY_STEPS steps that a power cut may cost; 0: an epoch            (2000)
#   DEVICE           auto, cuda, mps or cpu                                  (auto; demo: cpu)
#   MAX_VIS          pictures for the first N test images                    (64)
#   CURVE_SAMPLES    test images on which the mask meets its controls        (1000; demo: 300)
#   DEMO_IMAGES      images of the demo set                                  (3000)
#   CAM              0: no Grad-CAM (a ViT has no feature map for it)        (1)
#   DYNAMIC_WEIGHTS  1: learn the loss weights by GradNorm                   (0)
#   FULL_LIST        1: train on the published full list, test images too;   (0)
#                    every output then says that its test scores are contaminated
#   TRAIN_FLAGS      more flags for train_roi_consistency.py, e.g. "--tensorboard tb"
#   PYTHON, VENV     the Python that makes the environment, and its folder   (python3, .venv)
#   TORCH            cpu or cuda: which PyTorch is installed                 (what the machine can use)
#   LATEST           1: the newest packages, not those of constraints.txt    (0)
set -euo pipefail
for name in DATA_PATH OUT CACHE_DIR; do # as seen from where the script was called
  case "${!name:-}" in "" | no | /*) ;; *) export "$name=$PWD/${!name}" ;; esac
done
cd "$(dirname "${BASH_SOURCE[0]}")"

# shellcheck source=scripts/stages.sh
source scripts/stages.sh

DEMO=0 CHECK=0
case "${1:-}" in
  "") ;;
  --demo) DEMO=1 ;;
  --check) CHECK=1 ;;
  -h | --help) show_help "$0"; exit 0 ;;
  *) refuse_argument "$0" "$@" ;;
esac
[ $# -le 1 ] || refuse "one argument at most (./run_all.sh --help)"

# A folder one level off is the usual slip: the right one is named before anything begins.
has_entries() { [ -f "$1/Data_Entry_2017.csv" ] || [ -f "$1/Data_Entry_2017_v2020.csv" ]; }
if [ $DEMO = 0 ] && [ -n "${DATA_PATH:-}" ] && ! has_entries "$DATA_PATH"; then
  remedy="is this the folder of NIH ChestX-ray14?"
  for near in "$(dirname "$DATA_PATH")" "$DATA_PATH"/*; do
    if has_entries "$near"; then remedy="it lies in DATA_PATH=$near"; fi
  done
  refuse "DATA_PATH=$DATA_PATH holds no Data_Entry_2017.csv; $remedy"
fi

OUT=${OUT:-$(pick . demo_run)}
BACKBONE=${BACKBONE:-$(pick convnext_base test_resnet)}
WEIGHTS=${WEIGHTS:-$(pick imagenet none)}
OBJECTIVE=${OBJECTIVE:-evidence}
EPOCHS=${EPOCHS:-8}
BATCH_SIZE=${BATCH_SIZE:-$(pick 8 32)}
ACCUM_STEPS=${ACCUM_STEPS:-$(pick 2 1)}
LR=${LR:-$(pick "" 2e-3)}
IMG_SIZE=${IMG_SIZE:-$(pick 224 96)}
KEEP_RATIO=${KEEP_RATIO:-0.1}
AUTOCAST_DTYPE=${AUTOCAST_DTYPE:-$(pick bf16 fp32)}
WORKERS=${WORKERS:-$(pick 8 1)}
CACHE_DIR=${CACHE_DIR:-$OUT/pixels}
NPROC=${NPROC:-1}
SAVE_EVERY_STEPS=${SAVE_EVERY_STEPS:-2000}
VAL_FRACTION=${VAL_FRACTION:-0.1}
SEED=${SEED:-0}
DEVICE=${DEVICE:-$(pick auto cpu)}
MAX_VIS=${MAX_VIS:-64}
CURVE_SAMPLES=${CURVE_SAMPLES:-$(pick 1000 300)}
DEMO_IMAGES=${DEMO_IMAGES:-3000}
CAM=${CAM:-1}
DYNAMIC_WEIGHTS=${DYNAMIC_WEIGHTS:-0}
FULL_LIST=${FULL_LIST:-0}
TRAIN_FLAGS=${TRAIN_FLAGS:-}

LOG=/dev/null
if [ $CHECK = 0 ]; then mkdir -p "$OUT"; LOG="$OUT/roi-run.log"; fi
start_log run_all.sh

say "1/6 environment"
# shellcheck source=scripts/env.sh
source scripts/env.sh
make_env requirements.txt
# shellcheck disable=SC2086  # a list of words
check_setting TRAIN_FLAGS train_roi_consistency.py --train_csv x.csv --image_root x --save x.pt --objective "$OBJECTIVE" $TRAIN_FLAGS

if [ $CHECK = 1 ]; then
  source scripts/check.sh
  exit
fi

say "2/6 data"
if [ $DEMO = 1 ]; then
  DATA_PATH="$OUT/data"
  [ -f "$DATA_PATH/Data_Entry_2017.csv" ] || py make_demo_dataset.py --out "$DATA_PATH" --images "$DEMO_IMAGES" --size 128 --seed "$SEED"
  py download_datasets.py --gather "$DATA_PATH"
elif [ -n "${DATA_PATH:-}" ]; then
  py download_datasets.py --gather "$DATA_PATH"
else
  py download_datasets.py --download nih --path_file "$OUT/data_path.txt"
  DATA_PATH=$(cat "$OUT/data_path.txt")
fi

say "3/6 tables" # seconds; a table that is there stays as it is, one that differs is an error
TRAIN_CSV="$OUT/nih_roi_train.csv" TEST_CSV="$OUT/nih_roi_test.csv"
SRC_CSV="$DATA_PATH/Data_Entry_2017.csv"
[ -f "$SRC_CSV" ] || SRC_CSV="$DATA_PATH/Data_Entry_2017_v2020.csv"
py make_chexmultimodal_csv.py --src_csv "$SRC_CSV" --image_dir "$DATA_PATH/images" \
  --out_csv "$TRAIN_CSV" --label_from "Finding Labels" --fillna "Normal"
py make_chexmultimodal_csv.py --src_csv "$SRC_CSV" --image_dir "$DATA_PATH/images" \
  --filter_list "$DATA_PATH/test_list.txt" --out_csv "$TEST_CSV" --label_from "Finding Labels"

say "4/6 training; follow it: tail -F $OUT/train_metrics.csv"
# A log without its checkpoint is of another run: it steps aside, and nothing of it is lost. A header alone goes on.
CHECKPOINT="$OUT/checkpoints/nih_roi_consistency.pt"
for left in "${CHECKPOINT%.pt}_best.pt" "${CHECKPOINT%.pt}_val.csv"; do
  if [ ! -e "$CHECKPOINT" ] && [ -e "$left" ]; then
    refuse "$left is of a run whose checkpoint ($CHECKPOINT) is gone; it stays as it is. Begin a new run beside it with OUT=another_folder ./run_all.sh, or move that folder away: mv $OUT/checkpoints $OUT/checkpoints-old"
  fi
done
if [ ! -e "$CHECKPOINT" ] && [ -e "$OUT/train_metrics.csv" ] && [ "$(wc -l < "$OUT/train_metrics.csv")" -gt 1 ]; then
  number=1
  while [ -e "$OUT/train_metrics-before-$number.csv" ]; do number=$((number + 1)); done
  mv "$OUT/train_metrics.csv" "$OUT/train_metrics-before-$number.csv"
  echo "$OUT/train_metrics.csv is of a run whose checkpoint is gone: it is train_metrics-before-$number.csv now, and a new run begins"
fi
flags=(--exclude_csv "$TEST_CSV") cache=()
[ "$CACHE_DIR" = no ] || cache=(--cache_dir "$CACHE_DIR")
launch=()
[ "$NPROC" = 1 ] || launch=(-m torch.distributed.run --standalone --nproc_per_node "$NPROC")
[ "$FULL_LIST" = 0 ] || flags+=(--allow_leakage)
[ "$DYNAMIC_WEIGHTS" = 0 ] || flags+=(--dynamic_weights --w_full_init 1.0 --w_consist_init 0.5 --w_drop_init 1e-3 --w_sparse_init 1e-4 --w_tv_init 1e-5)
# shellcheck disable=SC2086  # TRAIN_FLAGS is a list of words
py ${launch[@]+"${launch[@]}"} train_roi_consistency.py --train_csv "$TRAIN_CSV" --image_root "$DATA_PATH" --classes "" --backbone "$BACKBONE" --weights "$WEIGHTS" \
  --batch_size "$BATCH_SIZE" --accum_steps "$ACCUM_STEPS" --epochs "$EPOCHS" --channels_last --autocast_dtype "$AUTOCAST_DTYPE" --device "$DEVICE" \
  --workers "$WORKERS" --prefetch_factor 6 --persistent_workers --save "$OUT/checkpoints/nih_roi_consistency.pt" --log_csv "$OUT/train_metrics.csv" \
  --img_size "$IMG_SIZE" ${LR:+--lr "$LR"} --objective "$OBJECTIVE" --keep_ratio "$KEEP_RATIO" \
  --val_fraction "$VAL_FRACTION" --seed "$SEED" --resume auto --save_every_steps "$SAVE_EVERY_STEPS" ${cache[@]+"${cache[@]}"} "${flags[@]}" $TRAIN_FLAGS

say "5/6 predictions on the test images, masks, Grad-CAM where there are boxes, controls; and on the validation images"
# The epoch that was best on the validation images; the last one where there are none.
CHECKPOINT="$OUT/checkpoints/nih_roi_consistency_best.pt"
[ -f "$CHECKPOINT" ] || CHECKPOINT="$OUT/checkpoints/nih_roi_consistency.pt"
newer() { local file; for file in "$@"; do [ "$file" -nt "$CHECKPOINT" ] && [ "$file" -nt "$TEST_CSV" ] || return 1; done; }
infer=(${launch[@]+"${launch[@]}"} infer_roi_consistency.py --checkpoint "$CHECKPOINT" --image_root "$DATA_PATH" --keep_ratio "$KEEP_RATIO" --device "$DEVICE" --workers "$WORKERS" --seed "$SEED" ${cache[@]+"${cache[@]}"})
boxes=() scored=(--masks "$OUT/masks.npz") made=("$OUT/preds.json" "$OUT/masks.npz" "$OUT/curves.npz")
if [ -f "$DATA_PATH/BBox_List_2017.csv" ]; then
  boxes=(--bbox_csv "$DATA_PATH/BBox_List_2017.csv")
  [ "$CAM" = 0 ] || { boxes+=(--cam "$OUT/cam.npz"); scored+=("$OUT/cam.npz"); made+=("$OUT/cam.npz"); }
  case "$OBJECTIVE $TRAIN_FLAGS" in
    *--no-mask_per_class* | *consistency*) ;;
    *) boxes+=(--class_masks "$OUT/class_masks.npz"); scored+=("$OUT/class_masks.npz"); made+=("$OUT/class_masks.npz") ;;
  esac
  scored+=(--bbox_csv "$DATA_PATH/BBox_List_2017.csv")
fi
newer "${made[@]}" || py "${infer[@]}" --csv "$TEST_CSV" --save_json "$OUT/preds.json" \
  --save_masks "$OUT/masks.npz" --curves "$OUT/curves.npz" --curve_samples "$CURVE_SAMPLES" --save_vis_dir "$OUT/roi_vis" --max_vis "$MAX_VIS" \
  ${boxes[@]+"${boxes[@]}"} --overwrite
VAL_CSV="$OUT/checkpoints/nih_roi_consistency_val.csv"
if [ -f "$VAL_CSV" ]; then # what training held out: thresholds and calibration are chosen there
  newer "$OUT/preds_val.json" || py "${infer[@]}" --csv "$VAL_CSV" --save_json "$OUT/preds_val.json" --overwrite
  scored+=(--threshold_preds "$OUT/preds_val.json" --threshold_csv "$VAL_CSV")
fi

say "6/6 scores and report"
py evaluate.py --preds "$OUT/preds.json" --csv "$TEST_CSV" --curves "$OUT/curves.npz" ${scored[@]+"${scored[@]}"} --out "$OUT/scores" --overwrite
py make_report.py --runs "$OUT" --image_root "$DATA_PATH" --out "$OUT/report.html" --overwrite
warning=""
[ $DEMO = 0 ] || warning=" (this model has seen drawn images alone: what it says of an X-ray means nothing)"
say "pictures of your own X-rays: $PY infer_roi_consistency.py --checkpoint $CHECKPOINT --images FOLDER --save_overlay overlays$warning"
say "done: report $OUT/report.html, scores $OUT/scores/metrics.json, predictions $OUT/preds.json, pictures $OUT/roi_vis, log $LOG"
