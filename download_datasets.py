"""Fetch a data set and make its folder ready; the last line printed is the path of the data.

    python download_datasets.py --list
    python download_datasets.py --check nih mimic           # what is there, against the published counts
    python download_datasets.py --info mimic                # terms, credentials, citation, exact steps
    python download_datasets.py --download nih
    python download_datasets.py --download mimic --username me --only '*.csv*'
    python download_datasets.py --gather /data/nih          # a copy that you downloaded yourself

A set lies in DATA_ROOT/NAME. What was interrupted goes on with the same command. nih and vinbigdata come through kagglehub and
stay in its cache, DATA_ROOT/NAME is a link to it (nih: if --data_root is given); rexgradient through huggingface_hub; openi,
mimic, vindr and cxrlt over HTTP, with checksums where they are published. The password of PhysioNet is asked for or read from
PHYSIONET_PASSWORD. --gather links the images of the twelve shards of nih, images_001/images … images_012/images, into one
folder, images/ (112,120 links, no copies); images that are already in images/ stay as they are.
"""

import argparse
import getpass
import os
import sys
import textwrap
from pathlib import Path

from roi import cli
from roi.errors import UserError
from roi.files import atomic_write, reason
from roi.sources.catalog import CATALOG, check, folder_of, source_name, tables_there

NIH_KAGGLE = "nih-chest-xrays/data"
VINBIGDATA_KAGGLE = "vinbigdata-chest-xray-abnormalities-detection"
REXGRADIENT_HF = "rajpurkarlab/ReXGradient-160K"
OPENI = "https://openi.nlm.nih.gov/imgs/collections/"
OPENI_ARCHIVES = ("NLMCXR_reports.tgz", "NLMCXR_png.tgz")
DATA_ROOT = "Dataset"
NO_KAGGLE = (
    "cannot download NIH ChestX-ray14 from Kaggle ({reason}). Either give Kaggle access (kaggle.com, Settings, Create New Token: save kaggle.json "
    "as ~/.kaggle/kaggle.json, or set KAGGLE_USERNAME and KAGGLE_KEY), or download it yourself from https://nihcc.app.box.com/v/ChestXray-NIHCC, "
    "unpack it and name the folder: DATA_PATH=/path/to/nih ./run_all.sh. To try everything without data: ./run_all.sh --demo"
)
NO_VINBIGDATA = (
    "cannot download VinBigData from Kaggle ({reason}). Accept the rules at https://www.kaggle.com/competitions/"
    + VINBIGDATA_KAGGLE
    + "/rules, and give "
    "Kaggle access (kaggle.com, Settings, Create New Token: save kaggle.json as ~/.kaggle/kaggle.json, or set KAGGLE_USERNAME and KAGGLE_KEY)"
)
NO_HF = (
    "cannot download ReXGradient-160K from Hugging Face ({reason}). Accept the agreement at https://huggingface.co/datasets/"
    + REXGRADIENT_HF
    + ", make a "
    "read token (Settings, Access Tokens) and set HF_TOKEN (or --token); what came so far is kept, the same command goes on"
)


def name_of_set(text: str) -> str:
    try:
        return source_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--list", action="store_true", help="a line a data set: images, size, access, whether it is there"
    )
    what.add_argument(
        "--check",
        nargs="*",
        type=name_of_set,
        metavar="NAME",
        help="count what is there against what is published; exit code 0 if each set named is complete, else 1 (default: all, those not there do not count)",
    )
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
    parser.add_argument(
        "--path_file", metavar="TXT", help="write the path of the data here too (default: print it alone)"
    )
    args = parser.parse_args(argv)
    if args.only and (args.download is None or not (CATALOG[args.download].project or args.download == "rexgradient")):
        parser.error(
            f"--only is for --download of {', '.join(n for n, s in CATALOG.items() if s.project)} and rexgradient"
        )
    return args


def main(args: argparse.Namespace) -> int | None:
    data_root = Path(args.data_root or DATA_ROOT)
    if args.list or args.info:
        print_info(args.info) if args.info else print_list(data_root)
        return None
    if args.check is not None:
        if args.data_root and not data_root.is_dir():
            raise UserError(
                f"{data_root}: no such folder (--data_root); a set lies in --data_root/NAME, as {data_root / 'nih'}"
            )
        return print_check(args.check, data_root)
    if args.gather:
        root = Path(args.gather)
        print(gather(root))
    else:
        root = download(args.download, data_root, args)
    if args.path_file:
        with atomic_write(args.path_file) as file:
            file.write(f"{root}\n")
    print(root)
    return None


# --- what is known and what is there --------------------------------------------------------------------------------------------


def print_list(data_root: Path) -> None:
    print(f"{'name':<12} {'images':<24} {'size':<41} {'access':<36} in {data_root}")
    for name, source in CATALOG.items():
        edition, _, tables = tables_there(name, data_root)
        needed, have = sum(t.needed for t in edition.tables), sum(t.needed for t in tables)
        state = "tables are there" if have == needed else f"{have} of {needed} tables" if tables else "-"
        print(f"{name:<12} {source.images:<24} {source.size:<41} {source.access:<36} {state}")
    print("--check counts what is there; --info NAME says how to get it")


def print_check(names: list[str], data_root: Path) -> int:
    """Exit code 0 if every set named (without names: every set that is there, and there is one) is complete."""
    states = []
    for name in names or CATALOG:
        found = check(name, data_root)
        print(
            f"{name}: "
            + (
                f"complete, {found.folder}"
                if found.complete
                else f"NOT COMPLETE, {found.folder}"
                if found.there
                else "not there"
            )
        )
        if found.there or names:
            print("".join(f"  {line}\n" for line in found.lines), end="", flush=True)
            states.append(found.complete)
    if not states:
        print(f"none of the sets is in {data_root} (another folder: --data_root); how to get one: --info NAME")
    return int(not (states and all(states)))


def print_info(name: str) -> None:
    source = CATALOG[name]
    facts = {
        "images": source.images,
        "patients": source.patients,
        "size": source.size,
        "access": source.access,
        "terms": source.terms,
        "credentials": source.credentials,
        "cite": source.citation,
        "page": source.url,
    }
    print(f"{name}: {source.title}")
    for fact, text in facts.items():
        print(
            textwrap.fill(
                text,
                118,
                initial_indent=f"  {fact:<12} ",
                subsequent_indent=" " * 15,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    for number, step in enumerate(source.steps, 1):
        indent = "  steps        " if number == 1 else " " * 15
        print(
            textwrap.fill(
                f"{number}. {step}",
                118,
                initial_indent=indent,
                subsequent_indent=" " * 18,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    files = [" + ".join(table.names[0] for table in edition.tables if table.needed) for edition in source.editions]
    print(
        textwrap.fill(
            " or ".join(files),
            118,
            initial_indent="  files        ",
            subsequent_indent=" " * 15,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


# --- downloads ------------------------------------------------------------------------------------------------------------------


def download(name: str, data_root: Path, args: argparse.Namespace) -> Path:
    """-> the folder of the data."""
    folder, source = folder_of(name, data_root), CATALOG[name]
    if name == "nih":
        root = download_nih()
        print(gather(root))
        if args.data_root:
            print(link(folder, root))
        return root
    if name == "vinbigdata":
        root = download_vinbigdata()
        print(link(folder, root))
        return root
    if name == "rexgradient":
        return download_rexgradient(folder, args.token or os.environ.get("HF_TOKEN"), args.only)
    if name == "openi":
        return download_openi(folder)
    if source.project:
        return download_physionet(name, folder, args)
    raise UserError(
        f"{source.title} is handed out by its owners only, after a registration: python download_datasets.py --info {name}"
    )


def download_nih() -> Path:
    try:
        import kagglehub

        return Path(kagglehub.dataset_download(NIH_KAGGLE))
    except Exception as error:  # kagglehub has an error of its own for each thing that goes wrong
        raise UserError(NO_KAGGLE.format(reason=reason(error))) from error


def download_vinbigdata() -> Path:
    try:
        import kagglehub

        return Path(kagglehub.competition_download(VINBIGDATA_KAGGLE))
    except Exception as error:  # as above
        raise UserError(NO_VINBIGDATA.format(reason=reason(error))) from error


def download_rexgradient(folder: Path, token: str | None, only: str | None) -> Path:
    """The files of the gated set; huggingface_hub resumes and checks them. Its archive is left to the user: it needs 300 GB."""
    from roi.sources.download import room

    if not only:
        there = sum(p.stat().st_size for p in folder.glob("deid_png.part*"))
        room(folder, CATALOG["rexgradient"].gigabytes * 0.9e9 - there)
    try:
        from huggingface_hub import snapshot_download

        snapshot_download(
            REXGRADIENT_HF,
            repo_type="dataset",
            local_dir=str(folder),
            token=token,
            allow_patterns=[only] if only else None,
        )
    except Exception as error:  # gated, no token, no network, no space: each has a class of its own
        said = str(error).replace(token, "***") if token else str(error)
        raise UserError(NO_HF.format(reason=reason(ValueError(said or type(error).__name__)))) from error
    if any(folder.glob("deid_png.part*")) and not (folder / "deid_png").is_dir():
        print(f"to unpack the images (about 150 GB more): cd {folder} && cat deid_png.part* | tar --zstd -x")
    return folder


def download_openi(folder: Path) -> Path:
    from roi.sources.download import fetch, room, unpack

    if not all((folder / archive).exists() for archive in OPENI_ARCHIVES):
        room(folder, CATALOG["openi"].gigabytes * 1e9)
    for archive in OPENI_ARCHIVES:
        path = fetch(OPENI + archive, folder / archive)
        made, there = unpack(path, folder)
        print(f"{path}: {made:,} files unpacked, {there:,} were there")
    return folder


def download_physionet(name: str, folder: Path, args: argparse.Namespace) -> Path:
    from roi.sources.download import physionet, room

    source = CATALOG[name]
    user = args.username or os.environ.get("PHYSIONET_USERNAME")
    if not user:
        raise UserError(
            f"{source.title} needs a PhysioNet account: --username NAME (or PHYSIONET_USERNAME); how to get one: --info {name}"
        )
    password = ask_password(user)
    if not args.only and not folder.exists():  # what is there already is not looked through
        room(folder, source.gigabytes * 0.9e9)
    fetched, there = physionet(source.project, folder, (user, password), args.only or "*")
    print(f"{folder}: {fetched:,} files fetched, {there:,} were there")
    return folder


def ask_password(user: str) -> str:
    """From PHYSIONET_PASSWORD, else from the terminal; never from the command line, which every user of the machine can read."""
    password = os.environ.get("PHYSIONET_PASSWORD") or (
        getpass.getpass(f"PhysioNet password of {user}: ") if sys.stdin.isatty() else ""
    )
    if not password:
        raise UserError("no password for PhysioNet: run this on a terminal, or set PHYSIONET_PASSWORD")
    return password


def link(name: Path, target: Path) -> str:
    """Make `name` a link to the folder `target`, unless something has that name; -> what was done, in one line."""
    if name.is_symlink() and name.resolve() == target.resolve():
        return f"{name} is a link to {target}"
    if os.path.lexists(name):
        return f"{name} is there already and stays as it is; the data are in {target}"
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target.resolve(), name, target_is_directory=True)
    except OSError as error:
        return f"{name}: cannot make a link ({error.strerror}); the data are in {target}"
    return f"{name} is now a link to {target}"


def gather(root: Path) -> str:
    """Link the images of root/images_*/images into root/images, with relative links; -> what was done, in one line."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of data")
    shards = sorted(root.glob("images_*/images"))
    if not shards:
        return f"{root}: no shards to gather"
    target = root / "images"
    try:
        target.mkdir(exist_ok=True)
        there = set(os.listdir(target))
        names = {
            name: shard
            for shard in shards
            for name in os.listdir(shard)
            if name not in there and name.lower().endswith((".png", ".jpg", ".jpeg"))
        }
        for name, shard in names.items():
            os.symlink(os.path.join("..", shard.parent.name, "images", name), target / name)
    except OSError as error:
        return (
            f"{target}: cannot make links ({error.strerror}); the images are read from the {len(shards)} shards instead"
        )
    return f"{target}: {len(names):,} images of {len(shards)} shards linked, {len(there):,} were there"


if __name__ == "__main__":
    cli.run(main, parse_args)
