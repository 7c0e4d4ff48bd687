#!/usr/bin/env bash
# CXR-LT, long-tailed findings of studies of several views, as a list of commands: tables, a model of other sets, an image
# model, a study model, predictions, scores by head, medium and tail, submission, report.
#
#   ./run_cxrlt.sh            run it on DATA_ROOT/mimic (MIMIC-CXR-JPG) with DATA_ROOT/cxrlt (the tables of CXR-LT)
#   ./run_cxrlt.sh --demo     the same offline, on a CPU, on synthetic studies, in minutes
#   ./run_cxrlt.sh --help     this text
#
# Each stage skips what is done and training resumes: a killed run goes on with the same command. The log is
# OUT/roi-run.log, to which each run appends.
# Settings come from the environment, for instance  EDITION=2024.2 FUSION=mean_p ./run_cxrlt.sh
#
#   DATA_ROOT        folder with cxrlt/, mimic/ and those of PRETRAIN_SETS   (Dataset; demo: OUT/Dataset)
#   OUT              folder for everything that is written                   (cxrlt_run; demo: cxrlt_demo)
#   EDITION          2023, 2024.1, 2024.2, 2024.3 or 2026                    (2024.1; demo: 2024.2)
#   PRETRAIN_SETS    sets below DATA_ROOT that the image model begins from;  (nih chexpert vinbigdata)
#                    "": none
#   TEMPLATE         sample submission, or table of the task, in whose       (the test table of the edition)
#                    order the submission is written
#   BACKBONE         any torchvision classifier, else any timm model         (convnext_small; demo: test_resnet)
#   WEIGHTS          imagenet, none, or a file; of the first model           (imagenet; demo: none)
#   RECIPE_FLAGS     flags of the image model                                (--recipe cxrlt)
#   FUSION           mean_p, max, lse or attention                           (attention)
#   PRETRAIN_EPOCHS  passes over the images of the other sets                (4; demo: 6)
#   IMAGE_EPOCHS     passes of the image model over the training images      (8)
#   STUDY_EPOCHS     passes of the study model over the training studies     (10)
#   STUDY_FLAGS      flags of the study model: the features of the image     (--freeze_backbone --schedule onecycle)
#                    model stay, as its attention learns
#   BATCH_SIZE       images a forward; studies of the study model are half   (32)
#   LR               learning rate of the image models                       (1e-4; demo: 2e-3)
#   STUDY_LR         learning rate of the study model                        (3e-5; demo: 1e-3)
#   IMG_SIZE         side of the square input, pixels                        (384; demo: 96)
#   AUTOCAST_DTYPE   bf16, fp16, fp32 or auto                                (bf16; demo: fp32)
#   WORKERS          processes that decode images                            (8; demo: 1)
#   NPROC            processes, one a GPU                                    (1)
#   DEVICE           auto, cuda, mps or cpu                                  (auto; demo: cpu)
#   SEED             of everything random                                    (0)
#   DEMO_STUDIES     studies of the demo set                                 (2000)
#   PYTHON, VENV, LATEST                                                     as in run_all.sh
set -euo pipefail
for name in DATA_ROOT OUT TEMPLATE; do # as seen from where the script was called
  case "${!name:-}" in "" | /*) ;; *) export "$name=$PWD/${!name}" ;; esac
done
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=scripts/stages.sh
source scripts/stages.sh

DEMO=0
case "${1:-}" in
  "") ;;
  --demo) DEMO=1 ;;
  -h | --help) show_help "$0"; exit 0 ;;
  *) refuse_argument "$0" "$@" ;;
esac
[ $# -le 1 ] || refuse "one argument at most (./run_cxrlt.sh --help)"

OUT=${OUT:-$(pick cxrlt_run cxrlt_demo)}
DATA_ROOT=${DATA_ROOT:-$(pick Dataset "$OUT/Dataset")}
EDITION=${EDITION:-$(pick 2024.1 2024.2)}
PRETRAIN_SETS=${PRETRAIN_SETS-nih chexpert vinbigdata}
TEMPLATE=${TEMPLATE:-}
BACKBONE=${BACKBONE:-$(pick convnext_small test_resnet)}
WEIGHTS=${WEIGHTS:-$(pick imagenet none)}
RECIPE_FLAGS=${RECIPE_FLAGS---recipe cxrlt}
FUSION=${FUSION:-attention}
PRETRAIN_EPOCHS=${PRETRAIN_EPOCHS:-$(pick 4 6)}
IMAGE_EPOCHS=${IMAGE_EPOCHS:-8}
STUDY_EPOCHS=${STUDY_EPOCHS:-10}
STUDY_FLAGS=${STUDY_FLAGS---freeze_backbone --schedule onecycle}
BATCH_SIZE=${BATCH_SIZE:-32}
LR=${LR:-$(pick 1e-4 2e-3)}
STUDY_LR=${STUDY_LR:-$(pick 3e-5 1e-3)}
IMG_SIZE=${IMG_SIZE:-$(pick 384 96)}
AUTOCAST_DTYPE=${AUTOCAST_DTYPE:-$(pick bf16 fp32)}
WORKERS=${WORKERS:-$(pick 8 1)}
NPROC=${NPROC:-1}
DEVICE=${DEVICE:-$(pick auto cpu)}
SEED=${SEED:-0}
DEMO_STUDIES=${DEMO_STUDIES:-2000}

# What the last stages would refuse, after days.
one_of() { # the name of a setting, and what it may be
  local name=$1 choices
  shift
  choices=$(printf ', %s' "$@")
  case "$choices, " in *", ${!name}, "*) ;; *) refuse "$name=${!name} is none of ${choices#, }" ;; esac
}
one_of EDITION 2023 2024.1 2024.2 2024.3 2026
one_of FUSION mean_p max lse attention
case " $RECIPE_FLAGS" in
  *" --recipe"* | *" --mode"* | *" --config"*) ;;
  *) refuse "RECIPE_FLAGS=$RECIPE_FLAGS names no --recipe and no --mode, which train_roi_baselines.py needs" ;;
esac
[ -z "$TEMPLATE" ] || [ -f "$TEMPLATE" ] || refuse "TEMPLATE: $TEMPLATE is not there; without TEMPLATE the order is that of the test table"

mkdir -p "$OUT"
LOG="$OUT/roi-run.log"
start_log run_cxrlt.sh

say "1/8 environment"
# shellcheck source=scripts/env.sh
source scripts/env.sh
make_env requirements.txt
# What the training stages would refuse, after hours.
# shellcheck disable=SC2086  # lists of words
check_setting RECIPE_FLAGS train_roi_baselines.py $RECIPE_FLAGS --train_csv x.csv --image_root x --save x.pt --schedule cosine
# shellcheck disable=SC2086
check_setting STUDY_FLAGS train_multiview.py --train_csv x.csv --image_root x --cache_dir x --init x.pt --fusion "$FUSION" $STUDY_FLAGS --save x.pt

say "2/8 data"
if [ $DEMO = 1 ]; then
  [ -d "$DATA_ROOT/cxrlt" ] || py make_demo_dataset.py --out "$DATA_ROOT/cxrlt" --layout cxrlt --studies "$DEMO_STUDIES" --long_tail --size "$IMG_SIZE" --seed "$SEED"
  number=100
  for set in $PRETRAIN_SETS; do # other pictures than those of the studies
    number=$((number + 1))
    [ -d "$DATA_ROOT/$set" ] || py make_demo_dataset.py --out "$DATA_ROOT/$set" --layout "$set" --images 1000 --size "$IMG_SIZE" --seed "$number"
  done
fi
[ -d "$DATA_ROOT/cxrlt" ] || refuse "$DATA_ROOT/cxrlt is not there; python download_datasets.py --info cxrlt says where the tables are, and ./run_cxrlt.sh --demo needs nothing"

say "3/8 tables" # a table that is there stays as it is, one that differs is an error
TRAIN_CSV="$OUT/cxrlt_train.csv" TEST_CSV="$OUT/cxrlt_test.csv" OTHERS_CSV="$OUT/other_sets.csv"
py make_chexmultimodal_csv.py --cxrlt "$EDITION" --data_root "$DATA_ROOT" --splits train val --out_csv "$TRAIN_CSV"
py make_chexmultimodal_csv.py --cxrlt "$EDITION" --data_root "$DATA_ROOT" --splits test --out_csv "$TEST_CSV"
if [ -n "$PRETRAIN_SETS" ]; then
  # shellcheck disable=SC2086  # a list of words
  py make_chexmultimodal_csv.py --datasets $PRETRAIN_SETS --data_root "$DATA_ROOT" --splits train val --out_csv "$OTHERS_CSV"
fi

launch=()
[ "$NPROC" = 1 ] || launch=(-m torch.distributed.run --standalone --nproc_per_node "$NPROC")
read=(--image_root "$DATA_ROOT" --cache_dir "$OUT/pixels" --workers "$WORKERS" --device "$DEVICE" --autocast_dtype "$AUTOCAST_DTYPE")
how=(--seed "$SEED" --resume auto --exclude_csv "$TEST_CSV")
best_of() { if [ -f "${1%.pt}_best.pt" ]; then echo "${1%.pt}_best.pt"; else echo "$1"; fi; }

PRE="$OUT/checkpoints/other_sets.pt" IMAGE="$OUT/checkpoints/images.pt" STUDY="$OUT/checkpoints/studies.pt"
begin=$WEIGHTS
if [ -n "$PRETRAIN_SETS" ]; then
  say "4/8 a model of $PRETRAIN_SETS; what a set never looked for is left out"
  py ${launch[@]+"${launch[@]}"} train_roi_baselines.py --mode standard --train_csv "$OTHERS_CSV" "${read[@]}" "${how[@]}" --backbone "$BACKBONE" --weights "$WEIGHTS" \
    --img_size "$IMG_SIZE" --batch_size "$BATCH_SIZE" --lr "$LR" --epochs "$PRETRAIN_EPOCHS" --save "$PRE" --log_csv "$OUT/other_sets_metrics.csv"
  begin=$(best_of "$PRE")
fi

say "5/8 image model; follow it: tail -F $OUT/image_metrics.csv"
# shellcheck disable=SC2086  # a list of words
py ${launch[@]+"${launch[@]}"} train_roi_baselines.py $RECIPE_FLAGS --train_csv "$TRAIN_CSV" "${read[@]}" "${how[@]}" --backbone "$BACKBONE" --weights "$begin" \
  --img_size "$IMG_SIZE" --batch_size "$BATCH_SIZE" --lr "$LR" --schedule cosine --epochs "$IMAGE_EPOCHS" --save "$IMAGE" --log_csv "$OUT/image_metrics.csv"

say "6/8 study model; follow it: tail -F $OUT/train_metrics.csv"
# shellcheck disable=SC2086  # a list of words
py ${launch[@]+"${launch[@]}"} train_multiview.py --train_csv "$TRAIN_CSV" "${read[@]}" "${how[@]}" --init "$(best_of "$IMAGE")" --fusion "$FUSION" $STUDY_FLAGS \
  --batch_size $(((BATCH_SIZE + 1) / 2)) --lr "$STUDY_LR" --epochs "$STUDY_EPOCHS" --save "$STUDY" --log_csv "$OUT/train_metrics.csv"

say "7/8 predictions of the test and the validation images"
CHECKPOINT=$(best_of "$STUDY")
infer=(${launch[@]+"${launch[@]}"} infer_roi_consistency.py --checkpoint "$CHECKPOINT" "${read[@]}" --overwrite)
newer() { [ "$1" -nt "$CHECKPOINT" ] && [ "$1" -nt "$TEST_CSV" ]; }
newer "$OUT/preds.json" || py "${infer[@]}" --csv "$TEST_CSV" --save_json "$OUT/preds.json"
VAL_CSV="$OUT/checkpoints/studies_val.csv" thresholds=()
if [ -f "$VAL_CSV" ]; then # what training held out: thresholds and calibration are chosen there
  newer "$OUT/preds_val.json" || py "${infer[@]}" --csv "$VAL_CSV" --save_json "$OUT/preds_val.json"
  thresholds=(--threshold_preds "$OUT/preds_val.json" --threshold_csv "$VAL_CSV")
fi

say "8/8 scores, submission, report"
truth=()
[ ! -f "$DATA_ROOT/cxrlt/truth.csv" ] || truth=(--truth_csv "$DATA_ROOT/cxrlt/truth.csv")
py evaluate.py --preds "$OUT/preds.json" --csv "$TEST_CSV" --train_csv "$TRAIN_CSV" ${thresholds[@]+"${thresholds[@]}"} ${truth[@]+"${truth[@]}"} --out "$OUT/scores" --overwrite
if [ -z "$TEMPLATE" ]; then
  case "$EDITION" in # the tables lie in DATA_ROOT/cxrlt, or in a folder of their edition there
    2023) name=test.csv folder=cxr-lt-2023 ;;
    2024.*) name=test_labeled_task${EDITION#2024.}.csv folder=cxr-lt-2024 ;;
    *) name= folder= ;; # of 2026 the test images are hidden
  esac
  for file in "$DATA_ROOT/cxrlt/$name" "$DATA_ROOT/cxrlt/$folder/$name"; do
    for file in "$file" "$file.gz"; do [ ! -f "$file" ] || TEMPLATE=$file; done
  done
fi
if [ -n "$TEMPLATE" ]; then
  py make_submission.py --preds "$OUT/preds.json" --template "$TEMPLATE" --out "$OUT/submission.zip" --overwrite
else
  echo "no submission: TEMPLATE=FILE names the sample submission whose columns and rows it has"
fi
py make_report.py --runs "$OUT" --image_root "$DATA_ROOT" --out "$OUT/report.html" --overwrite
say "done: report $OUT/report.html, scores $OUT/scores/metrics.json, submission $OUT/submission.zip, predictions $OUT/preds.json, log $LOG"
