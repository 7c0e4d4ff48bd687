"""Fetch a data set and make its folder ready; the last line printed is the path of the data.

    python download_datasets.py --list
    python download_datasets.py --check nih mimic           # what is there, against the published counts
    python download_datasets.py --info mimic                # terms, credentials, citation, exact steps
    python download_datasets.py --download nih
    python download_datasets.py --download mimic --username me --only '*.csv*'      # prints the command to run
    python download_datasets.py --download mimic --via gcs --project my-project --shrink 512
    python download_datasets.py --gather /data/nih          # a copy that you downloaded yourself

A set lies in DATA_ROOT/NAME. What was interrupted goes on with the same command. nih and vinbigdata come through
kagglehub and stay in its cache, DATA_ROOT/NAME is a link to it (nih: if --data_root is given); rexgradient through
huggingface_hub; openi over HTTP. mimic, vindr and cxrlt come from PhysioNet, which takes passwords from wget and not
from this program: the command that fetches and checks them is printed. --gather links the images of the twelve shards
of nih, images_001/images … images_012/images, into one folder, images/ (112,120 links, no copies); images that are
already in images/ stay as they are.
"""

import argparse
import os
from pathlib import Path

from roi import cli
from roi.errors import UserError
from roi.files import atomic_write
from roi.sources.download import cloud, sets
from roi.sources.download.catalog import CATALOG, folder_of, set_name
from roi.sources.download.cloud_flags import add_cloud, check_cloud
from roi.sources.download.completeness import check_sets, list_sets

DATA_ROOT = "Dataset"
CHECK = (
    "count what is there against what is published; exit code 0 if each set named is complete, else 1 (default: all, "
    "those not there do not count)"
)


def name_of_set(text: str) -> str:
    try:
        return set_name(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--list", action="store_true", help="a line a data set: images, size, access, whether it is there"
    )
    what.add_argument("--check", nargs="*", type=name_of_set, metavar="NAME", help=CHECK)
    what.add_argument(
        "--info", type=name_of_set, metavar="NAME", help="size, terms, credentials, citation and exact steps"
    )
    what.add_argument(
        "--download", type=name_of_set, metavar="NAME", help="data set to download (resumed if begun before)"
    )
    what.add_argument("--gather", metavar="DIR", help="folder with the shards images_*/images")
    parser.add_argument("--data_root", metavar="DIR", help=f"folder of the sets (default: {DATA_ROOT})")
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        help="mimic, vindr, cxrlt, rexgradient: only files of such names, '*.csv*' (default: all)",
    )
    parser.add_argument("--username", metavar="NAME", help="of PhysioNet (default: PHYSIONET_USERNAME)")
    parser.add_argument(
        "--token", metavar="TOKEN", help="of Hugging Face (default: HF_TOKEN, which no list of processes shows)"
    )
    add_cloud(parser)
    parser.add_argument(
        "--path_file", metavar="TXT", help="write the path of the data here too (default: print it alone)"
    )
    args = parser.parse_args(argv)
    in_parts = [name for name, data_set in CATALOG.items() if data_set.project]
    if args.only and args.download not in (*in_parts, "rexgradient"):
        parser.error(f"--only is for --download of {', '.join(in_parts)} and rexgradient")
    check_cloud(parser, args)
    return args


def main(args: argparse.Namespace) -> int | None:
    data_root = Path(args.data_root or DATA_ROOT)
    if args.list:
        list_sets(data_root)
        return None
    if args.info:
        print("\n".join(CATALOG[args.info].info_lines(args.info)))
        return None
    if args.check is not None:
        if args.data_root and not data_root.is_dir():
            below = f"a set lies in --data_root/NAME, as {data_root / 'nih'}"
            raise UserError(f"{data_root}: no such folder (--data_root); {below}")
        return 0 if check_sets(args.check, data_root) else 1
    if args.gather:
        root = Path(args.gather)
        print(sets.gather(root))
    else:
        root = download(args, data_root)
    if args.path_file:
        with atomic_write(args.path_file) as file:
            file.write(f"{root}\n")
    print(root)
    return None


def download(args: argparse.Namespace, data_root: Path) -> Path:
    """Returns the folder of the data."""
    name = args.download
    folder = folder_of(name, data_root)
    if name == "nih":
        root = sets.download_nih()
        if args.data_root:
            print(sets.link(folder, root))
        return root
    if name == "vinbigdata":
        root = sets.download_vinbigdata()
        print(sets.link(folder, root))
        return root
    if name == "rexgradient":
        return sets.download_rexgradient(folder, args.token or os.environ.get("HF_TOKEN"), args.only)
    if name == "openi":
        return sets.download_openi(folder)
    if args.via and args.shrink:
        cloud.fetch_shrunk(name, folder, args.project, args.shrink)
        return folder
    if args.via:
        cloud.fetch(name, folder, args.project)
        return folder
    raise sets.how_to_get(name, data_root, args.username or os.environ.get("PHYSIONET_USERNAME"), args.only)


def command() -> None:
    cli.run(main, parse_args)


if __name__ == "__main__":
    command()
