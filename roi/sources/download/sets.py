"""Downloads data sets, each from where it is published, and makes its folder ready."""

import os
from pathlib import Path

from roi.errors import UserError
from roi.files import reason
from roi.sources.download import physionet
from roi.sources.download.archive import unpack
from roi.sources.download.catalog import CATALOG, folder_of
from roi.sources.download.http_file import fetch, require_space

NIH_KAGGLE = "nih-chest-xrays/data"
VINBIGDATA_KAGGLE = "vinbigdata-chest-xray-abnormalities-detection"
REXGRADIENT_HF = "rajpurkarlab/ReXGradient-160K"
OPENI = "https://openi.nlm.nih.gov/imgs/collections/"
OPENI_ARCHIVES = ("NLMCXR_reports.tgz", "NLMCXR_png.tgz")
IMAGES = (".png", ".jpg", ".jpeg")
SPARE = 0.9  # of the published size, which is rounded, must be free
KAGGLE_TOKEN = (
    "Kaggle access (kaggle.com, Settings, Create New Token: save kaggle.json as ~/.kaggle/kaggle.json, or set "
    "KAGGLE_USERNAME and KAGGLE_KEY)"
)
NO_KAGGLE = (
    "cannot download NIH ChestX-ray14 from Kaggle ({reason}). Either give "
    + KAGGLE_TOKEN
    + ", or download it yourself "
    "from https://nihcc.app.box.com/v/ChestXray-NIHCC, unpack it and name the folder: DATA_PATH=/path/to/nih "
    "./run_all.sh. To try everything without data: ./run_all.sh --demo"
)
NO_VINBIGDATA = (
    "cannot download VinBigData from Kaggle ({reason}). Accept the rules at https://www.kaggle.com/competitions/"
    + VINBIGDATA_KAGGLE
    + "/rules, and give "
    + KAGGLE_TOKEN
)
NO_HF = (
    "cannot download ReXGradient-160K from Hugging Face ({reason}). Accept the agreement at "
    "https://huggingface.co/datasets/" + REXGRADIENT_HF + ", make a read token (Settings, Access Tokens) and set "
    "HF_TOKEN (or --token); what came so far is kept, the same command goes on"
)


def download_nih() -> Path:
    """Fetches NIH ChestX-ray14 into the cache of kagglehub and gathers its images; returns its folder there."""
    try:
        import kagglehub

        root = Path(kagglehub.dataset_download(NIH_KAGGLE))
    except Exception as error:  # kagglehub has an error of its own for each thing that goes wrong
        raise UserError(NO_KAGGLE.format(reason=reason(error))) from error
    print(gather(root))
    return root


def download_vinbigdata() -> Path:
    """Fetches the competition's files into the cache of kagglehub; returns their folder there."""
    try:
        import kagglehub

        return Path(kagglehub.competition_download(VINBIGDATA_KAGGLE))
    except Exception as error:  # as above
        raise UserError(NO_VINBIGDATA.format(reason=reason(error))) from error


def download_rexgradient(folder: Path, token: str | None, only: str | None) -> Path:
    """Fetches the files of the gated set, all or those whose names match `only`."""
    # A few tables fit everywhere.
    if not only:
        present = sum(path.stat().st_size for path in folder.glob("deid_png.part*"))
        require_space(folder, CATALOG["rexgradient"].gigabytes * 1e9 * SPARE - present)
    try:
        # It resumes and checks them.
        from huggingface_hub import snapshot_download

        snapshot_download(
            REXGRADIENT_HF,
            repo_type="dataset",
            local_dir=str(folder),
            token=token,
            allow_patterns=[only] if only else None,
        )
    except Exception as error:  # gated, no token, no network, no space: each has a class of its own
        message = str(error) or type(error).__name__
        if token:
            message = message.replace(token, "***")
        raise UserError(NO_HF.format(reason=reason(ValueError(message)))) from error
    # Unpacking is left to the user: it needs 300 GB.
    if any(folder.glob("deid_png.part*")) and not (folder / "deid_png").is_dir():
        print(f"to unpack the images (about 150 GB more): cd {folder} && cat deid_png.part* | tar --zstd -x")
    return folder


def download_openi(folder: Path) -> Path:
    """Fetches and unpacks the two archives of OpenI."""
    if not all((folder / archive).exists() for archive in OPENI_ARCHIVES):
        require_space(folder, CATALOG["openi"].gigabytes * 1e9)
    for archive in OPENI_ARCHIVES:
        path = fetch(OPENI + archive, folder / archive)
        made, kept = unpack(path, folder)
        print(f"{path}: {made:,} files unpacked, {kept:,} were there")
    return folder


def how_to_get(name: str, data_root: Path, user: str | None, only: str | None) -> UserError:
    """The error for a set that this program cannot fetch: it says what to do instead."""
    data_set = CATALOG[name]
    if not data_set.project:
        return UserError(
            f"{data_set.title} is handed out by its owners only, after a registration: "
            f"python download_datasets.py --info {name}"
        )
    command = physionet.wget_command(data_set.project, folder_of(name, data_root), user or "YOURS", only)
    return UserError(
        f"{data_set.title} comes from PhysioNet, which takes passwords from wget and not from this program; sign the "
        f"agreement (python download_datasets.py --info {name}), then run: {command}"
    )


def link(name: Path, target: Path) -> str:
    """Makes `name` a link to the folder `target`, unless something has that name; returns what was done, in a line."""
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
    """Links the images of root/images_*/images into root/images; returns what was done, in a line."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of data")
    shards = sorted(root.glob("images_*/images"))
    if not shards:
        return f"{root}: no shards to gather"
    target = root / "images"
    linked = 0
    try:
        target.mkdir(exist_ok=True)
        present = set(os.listdir(target))
        for image, shard in _images_of(shards).items():
            if image not in present:
                # Relative, so that the folder can be moved.
                os.symlink(os.path.join("..", shard.parent.name, "images", image), target / image)
                linked += 1
    except OSError as error:
        cause = f"cannot make links ({error.strerror})"
        return f"{target}: {cause}; the images are read from the {len(shards)} shards instead"
    return f"{target}: {linked:,} images of {len(shards)} shards linked, {len(present):,} were there"


def _images_of(shards: list[Path]) -> dict[str, Path]:
    """The shard of each image."""
    shard_of: dict[str, Path] = {}
    for shard in shards:
        images = [name for name in os.listdir(shard) if name.lower().endswith(IMAGES)]
        shard_of |= dict.fromkeys(images, shard)
    return shard_of
