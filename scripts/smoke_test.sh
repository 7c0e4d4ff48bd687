#!/usr/bin/env bash
# From synthetic X-rays to scores in a minute, in a folder of its own that is removed: does this machine, or container, work?
#
#   scripts/smoke_test.sh            PY=EXE: the Python (python)
set -euo pipefail
app=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PY=${PY:-python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
small=(--image_root demo --workers 0 --device auto)
"$PY" "$app/make_demo_dataset.py" --out demo --images 60 --size 64
table=("$PY" "$app/make_chexmultimodal_csv.py" --src_csv demo/Data_Entry_2017.csv --image_dir demo/images)
"${table[@]}" --out_csv train.csv --fillna Normal
"${table[@]}" --out_csv test.csv --filter_list demo/test_list.txt
"$PY" "$app/train_roi_consistency.py" --train_csv train.csv --exclude_csv test.csv "${small[@]}" --backbone test_resnet \
  --weights none --img_size 64 --epochs 2 --batch_size 8 --save roi.pt
"$PY" "$app/infer_roi_consistency.py" --checkpoint roi.pt --csv test.csv "${small[@]}" --save_json preds.json
"$PY" "$app/evaluate.py" --preds preds.json --csv test.csv --out scores --resamples 20
[ -s scores/metrics.json ]
echo "smoke test: from images to scores, all of it works"
