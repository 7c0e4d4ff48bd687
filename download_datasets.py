"""Fetch a data set and make its folder ready; the last line printed is the path of the data.

    python download_datasets.py --download nih
    python download_datasets.py --gather /data/nih          # a copy that you downloaded yourself

nih: NIH ChestX-ray14 through kagglehub, 45 GB, kept in kagglehub's cache. --gather links the images of the twelve shards
images_001/images … images_012/images into one folder, images/ (112,120 links, no copies); images that are already in
images/ stay as they are.
"""

import argparse
import os
from pathlib import Path

from roi import cli
from roi.files import reason, replacing

NIH_KAGGLE = "nih-chest-xrays/data"
NO_KAGGLE = (
    "cannot download NIH ChestX-ray14 from Kaggle ({reason}). Either give Kaggle access (kaggle.com, Settings, Create New Token: save kaggle.json "
    "as ~/.kaggle/kaggle.json, or set KAGGLE_USERNAME and KAGGLE_KEY), or download it yourself from https://nihcc.app.box.com/v/ChestXray-NIHCC, "
    "unpack it and name the folder: DATA_PATH=/path/to/nih ./run_all.sh. To try everything without data: ./run_all.sh --demo"
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--download", choices=["nih"], help="data set to download (resumed if begun before)")
    what.add_argument("--gather", metavar="DIR", help="folder with the shards images_*/images")
    parser.add_argument("--path_file", metavar="TXT", help="write the path of the data here too (default: print it alone)")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    root = Path(args.gather) if args.gather else download_nih()
    print(gather(root))
    if args.path_file:
        with replacing(args.path_file) as file:
            file.write(f"{root}\n")
    print(root)


def download_nih() -> Path:
    try:
        import kagglehub

        return Path(kagglehub.dataset_download(NIH_KAGGLE))
    except Exception as error:  # kagglehub has an error of its own for each thing that goes wrong
        raise ValueError(NO_KAGGLE.format(reason=reason(error))) from error


def gather(root: Path) -> str:
    """Link the images of root/images_*/images into root/images, with relative links; -> what was done, in one line."""
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder of data")
    shards = sorted(root.glob("images_*/images"))
    if not shards:
        return f"{root}: no shards to gather"
    target = root / "images"
    try:
        target.mkdir(exist_ok=True)
        there = set(os.listdir(target))
        names = {name: shard for shard in shards for name in os.listdir(shard) if name not in there and name.lower().endswith((".png", ".jpg", ".jpeg"))}
        for name, shard in names.items():
            os.symlink(os.path.join("..", shard.parent.name, "images", name), target / name)
    except OSError as error:
        return f"{target}: cannot make links ({error.strerror}); the images are read from the {len(shards)} shards instead"
    return f"{target}: {len(names):,} images of {len(shards)} shards linked, {len(there):,} were there"


if __name__ == "__main__":
    cli.run(main, parse_args)
