"""Where predictions, maps and curves come from: what infer_roi_consistency.py says beside them, and its check."""

from typing import Any

from roi.errors import UserError
from roi.scoring.json_schema import COUNT, FLAG, NUMBER, TEXT, Each, Items, Keys, Maybe, problems

VERSIONS = Each(Maybe(TEXT))
ARGS = Keys(
    optional={"log_csv": Maybe(TEXT), "without": Maybe(Items(TEXT))}
)  # of all flags of the training, those that are read here
MODEL = {"checkpoint": Maybe(TEXT), "epoch": Maybe(COUNT), "contaminated": Maybe(FLAG)}
ORIGIN = Keys(
    optional={
        **MODEL,
        "ensemble": Items(Keys(optional={**MODEL, "file": TEXT})),
        "table": Maybe(TEXT),
        "image_root": Maybe(TEXT),
        "keep_ratio": Maybe(NUMBER),
        "tta": Maybe(TEXT),
        "classes": Items(TEXT),
        "args": Maybe(ARGS),
        "versions": Maybe(VERSIONS),
        "command": Maybe(TEXT),
        "images": COUNT,
        "contaminated_images": COUNT,
    }
)


def check_origin(meta: object, where: str) -> dict[str, Any]:
    """`meta` itself. UserError: it is no object, or a value in it is not what it must be."""
    wrong = next(problems(meta, ORIGIN), "")
    if wrong or not isinstance(meta, dict):
        raise UserError(f"{where}: {wrong}; make it anew with infer_roi_consistency.py")
    return meta
