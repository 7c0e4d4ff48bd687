# shellcheck shell=bash
# Sourced by run_all.sh --check, with its settings: what a run needs, before anything is fetched or written.
say "check: the data"
status=0
NIH_BYTES=45000000000
check_csv=()
free_bytes() { # of the folder, or of the nearest one above it that is there
  local folder=$1
  while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
  echo $(($(df -Pk "$folder" | awk 'NR == 2 { print $4 }') * 1024))
}
if [ -n "${DATA_PATH:-}" ]; then
  echo "NIH ChestX-ray14 lies in $DATA_PATH"
  [ ! -f "$OUT/nih_roi_train.csv" ] || check_csv=(--train_csv "$OUT/nih_roi_train.csv" --image_root "$DATA_PATH")
else
  cache=${KAGGLEHUB_CACHE:-$HOME/.cache/kagglehub}
  free=$(free_bytes "$cache")
  echo "NIH ChestX-ray14: 45 GB to fetch from Kaggle into $cache, where $((free / 1000000000)) GB are free"
  if [ "$free" -lt "$NIH_BYTES" ] && [ ! -d "$cache/datasets/nih-chest-xrays" ]; then
    echo "error: the disk is too small for the data; name another folder with KAGGLEHUB_CACHE=DIR, or a copy that you have with DATA_PATH=DIR" >&2
    status=2
  fi
fi
say "check: the training"
[ "$CACHE_DIR" = no ] || check_csv+=(--cache_dir "$CACHE_DIR")
[ "$DYNAMIC_WEIGHTS" = 0 ] || check_csv+=(--dynamic_weights)
# shellcheck disable=SC2086  # TRAIN_FLAGS is a list of words
"$PY" train_roi_consistency.py --check --backbone "$BACKBONE" --weights "$WEIGHTS" --batch_size "$BATCH_SIZE" \
  --accum_steps "$ACCUM_STEPS" --epochs "$EPOCHS" --channels_last --autocast_dtype "$AUTOCAST_DTYPE" --device "$DEVICE" --workers "$WORKERS" \
  --save "$OUT/checkpoints/nih_roi_consistency.pt" --img_size "$IMG_SIZE" ${LR:+--lr "$LR"} --objective "$OBJECTIVE" --keep_ratio "$KEEP_RATIO" \
  --val_fraction "$VAL_FRACTION" --seed "$SEED" --resume auto ${check_csv[@]+"${check_csv[@]}"} $TRAIN_FLAGS || status=$?
[ $status = 0 ] || exit $status
