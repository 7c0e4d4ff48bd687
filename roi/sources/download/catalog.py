"""The data sets: size, terms, how to get each, and which files must be there.

A set NAME lies in DATA_ROOT/NAME in the layout in which it was published. Figures are those of the publications and of
the pages that distribute the sets; "about" stands where none is published.
"""

from pathlib import Path

from roi.data.images import SHARDS
from roi.errors import UserError
from roi.sources.download import physionet
from roi.sources.download.data_set import DataSet, Edition, Table

# Where the full download of CheXpert has its tables.
CHEXPERT_BATCH = "CheXpert-v1.0 batch 1 (validate & csv)"
CHEXPERT_TABLES = (
    Table(("train.csv", f"{CHEXPERT_BATCH}/train.csv"), 223_414),
    Table(("valid.csv", f"{CHEXPERT_BATCH}/valid.csv"), 234),
    Table(("train_cheXbert.csv",), None, needed=False),
)
# Splits and positions are of images, labels of studies.
MIMIC_TABLES = (
    Table(("mimic-cxr-2.0.0-metadata.csv.gz", "mimic-cxr-2.0.0-metadata.csv"), 377_110),
    Table(("mimic-cxr-2.0.0-split.csv.gz", "mimic-cxr-2.0.0-split.csv"), 377_110),
    Table(("mimic-cxr-2.0.0-chexpert.csv.gz", "mimic-cxr-2.0.0-chexpert.csv"), 227_827),
    Table(("mimic-cxr-2.0.0-negbio.csv.gz", "mimic-cxr-2.0.0-negbio.csv"), 227_827),
)
# Rows are studies.
REXGRADIENT_TABLES = (
    Table(("metadata/train_metadata_view_position.json",), 140_000),
    Table(("metadata/valid_metadata_view_position.json",), 10_000),
    Table(("metadata/test_metadata_view_position.json",), 10_000),
)
PADCHEST_TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
# A row each image and reader, of whom three read an image of train; and the boxes, whose number is not published.
VINDR_TABLES = (
    Table(("annotations/image_labels_train.csv",), 45_000),
    Table(("annotations/image_labels_test.csv",), 3_000),
    Table(("annotations/annotations_train.csv",)),
    Table(("annotations/annotations_test.csv",)),
)
# Both years are one project, with a folder each; a user of one year may have its tables alone.
CXRLT_2024_TABLES = (
    Table(("cxr-lt-2024/labels.csv", "labels.csv"), 377_110),
    Table(("cxr-lt-2024/train_labeled.csv", "train_labeled.csv"), 258_871),
    Table(("cxr-lt-2024/development_labeled_task1.csv", "development_labeled_task1.csv"), 39_293),
    Table(("cxr-lt-2024/test_labeled_task1.csv", "test_labeled_task1.csv"), 78_946),
    Table(("cxr-lt-2024/test_labeled_task2.csv", "test_labeled_task2.csv"), 406, needed=False),
    Table(("cxr-lt-2024/development_labeled_task2.csv", "development_labeled_task2.csv"), needed=False),
    Table(("cxr-lt-2024/development_labeled_task3.csv", "development_labeled_task3.csv"), needed=False),
    Table(("cxr-lt-2024/test_labeled_task3.csv", "test_labeled_task3.csv"), needed=False),
)
CXRLT_2023_TABLES = (
    Table(("cxr-lt-2023/train.csv", "train.csv"), 264_849),
    Table(("cxr-lt-2023/development.csv", "development.csv"), 36_769),
    Table(("cxr-lt-2023/test.csv", "test.csv"), 75_492),
)

CATALOG: dict[str, DataSet] = {
    "nih": DataSet(
        title="NIH ChestX-ray14",
        images="112,120",
        patients="30,805",
        size="45 GB",
        gigabytes=45,
        access="Kaggle account, or none (Box)",
        terms="No restriction on use; link to the download site, cite the paper and acknowledge the NIH Clinical "
        "Center.",
        credentials="for Kaggle a token: kaggle.com, Settings, Create New Token; kaggle.json goes to ~/.kaggle/, or "
        "set KAGGLE_USERNAME and KAGGLE_KEY",
        citation="Wang X, Peng Y, Lu L, Lu Z, Bagheri M, Summers RM. ChestX-ray8: Hospital-scale Chest X-ray Database "
        "and Benchmarks. CVPR 2017.",
        url="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        steps=(
            "python download_datasets.py --download nih: through kagglehub, into its cache (KAGGLEHUB_CACHE); "
            "--data_root DIR makes DIR/nih a link to it.",
            "Or from the Box page: the twelve archives (unpack number k so that images_00k/images/*.png results), "
            "Data_Entry_2017_v2020.csv, BBox_List_2017.csv, train_val_list.txt, test_list.txt; then python "
            "download_datasets.py --gather Dataset/nih",
        ),
        editions=(
            Edition(
                (
                    # Kaggle's resized copies give the lists other names.
                    Table(("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv"), 112_120),
                    Table(("train_val_list.txt", "train_val_list_NIH.txt"), 86_524),
                    Table(("test_list.txt", "test_list_NIH.txt"), 25_596),
                    Table(("BBox_List_2017.csv", "BBox_List_2017_Official_NIH.csv"), 984, needed=False),
                ),
                112_120,
                (*SHARDS, "images"),
            ),
        ),
    ),
    "openi": DataSet(
        title="OpenI, Indiana University chest X-rays",
        images="7,470",
        patients="3,955 reports",
        size="about 3 GB with its archives",
        gigabytes=3,
        access="free",
        terms="Open-i (NLM): research use with citation; see the licence on the page of each image.",
        credentials="none",
        citation="Demner-Fushman D, Kohli MD, Rosenman MB, et al. Preparing a collection of radiology examinations "
        "for distribution and retrieval. J Am Med Inform Assoc 2016; 23(2): 304-310.",
        url="https://openi.nlm.nih.gov/faq#collection",
        steps=(
            "python download_datasets.py --download openi: NLMCXR_reports.tgz (1 MB) and NLMCXR_png.tgz (over 1 GB), "
            "then both are unpacked beside them.",
        ),
        editions=(
            # NLM's archives, or Kaggle's tables, which have the reports that have an image.
            Edition((Table(("ecgen-radiology/*.xml", "NLMCXR_reports.tgz"), 3_955),), 7_470, name="NLM"),
            Edition(
                (Table(("indiana_reports.csv",), 3_851), Table(("indiana_projections.csv",), 7_466)),
                7_466,
                name="Kaggle",
            ),
        ),
        archives=(
            ("NLMCXR_reports.tgz", 1, "tar -xzf NLMCXR_reports.tgz"),
            ("NLMCXR_png.tgz", 1, "tar -xzf NLMCXR_png.tgz"),
        ),
    ),
    "rexgradient": DataSet(
        title="ReXGradient-160K",
        images="273,004",
        patients="109,487",
        size="about 150 GB, twice that while unpacking",
        gigabytes=150,
        access="Hugging Face account, agreement",
        terms="ReXGradient-160K Non-Commercial Data Access and Use Agreement: non-commercial research, no passing on.",
        credentials="a Hugging Face token with access to the gated set: --token or HF_TOKEN",
        citation="Zhang X, Acosta JN, Miller J, Huang O, Rajpurkar P. ReXGradient-160K: A Large-Scale Publicly "
        "Available Dataset of Chest Radiographs with Free-text Reports. arXiv:2505.00228, 2025.",
        url="https://huggingface.co/datasets/rajpurkarlab/ReXGradient-160K",
        steps=(
            "Log in to huggingface.co, accept the agreement on the page of the set, make a read token (Settings, "
            "Access Tokens).",
            "HF_TOKEN=hf_... python download_datasets.py --download rexgradient [--only 'metadata/*']",
            "In Dataset/rexgradient: cat deid_png.part* | tar --zstd -x    (makes deid_png/; the parts may go then)",
        ),
        editions=(Edition(REXGRADIENT_TABLES, 273_004, ("deid_png",)),),
        archives=(("deid_png.part*", 10, "cat deid_png.part* | tar --zstd -x"),),
    ),
    "chexpert": DataSet(
        title="CheXpert",
        images="224,316",
        patients="65,240",
        size="439 GB, or 11 GB (small)",
        gigabytes=439,
        access="registration (Stanford AIMI)",
        terms="Stanford University Dataset Research Use Agreement: personal, non-commercial research, no passing on.",
        credentials="an account at Stanford AIMI; the page then shows a personal link",
        citation="Irvin J, Rajpurkar P, Ko M, et al. CheXpert: A Large Chest Radiograph Dataset with Uncertainty "
        "Labels and Expert Comparison. AAAI 2019.",
        url="https://stanfordaimi.azurewebsites.net/datasets/8cbd9ed4-2eb9-4565-affc-111cf4f7ebe2",
        steps=(
            "Register at the page above, accept the agreement; its download link is personal and works with azcopy: "
            "azcopy copy 'LINK' Dataset/chexpert --recursive. Programs cannot do this for you.",
            "Result: Dataset/chexpert/train.csv, valid.csv, train/patient00001/..., valid/...; a folder "
            "CheXpert-v1.0[-small] around them is fine, and so are the folders of the four archives beside each other "
            "('CheXpert-v1.0 batch 1 (validate & csv)', 'CheXpert-v1.0 batch 2 (train 1)', ...). 224,316 counts the "
            "668 images of the test set too, which lie elsewhere: train and valid are 223,648.",
        ),
        # Of the 224,316 of the paper 668 are of the test set, which lies elsewhere.
        editions=(Edition(CHEXPERT_TABLES, 223_648, ("train", "valid", "CheXpert-v1.0 batch *"), ".jpg"),),
        inner=("", "CheXpert-v1.0", "CheXpert-v1.0-small", "chexpertchestxrays-u20210408"),
    ),
    "mimic": DataSet(
        title="MIMIC-CXR-JPG 2.1.0",
        images="377,110",
        patients="65,379",
        size="about 570 GB",
        gigabytes=570,
        access="PhysioNet, credentialed",
        terms=physionet.TERMS,
        credentials=physionet.CREDENTIALS,
        citation="Johnson A, Lungren M, Peng Y, Lu Z, Mark R, Berkowitz S, Horng S. MIMIC-CXR-JPG - chest radiographs "
        "with structured labels (version 2.1.0). PhysioNet 2024, doi 10.13026/jsn5-t979; Johnson AEW et al. "
        "arXiv:1901.07042; Goldberger A et al. PhysioBank, PhysioToolkit, and PhysioNet. Circulation 2000; 101(23): "
        "e215-e220.",
        url="https://physionet.org/content/mimic-cxr-jpg/2.1.0/",
        steps=(
            *physionet.steps("mimic", "mimic-cxr-jpg/2.1.0"),
            "Or from Google's cloud, quicker and paid by you: " + " ".join(physionet.CLOUD_STEPS[1:]),
        ),
        editions=(Edition(MIMIC_TABLES, 377_110, ("files",), ".jpg"),),
        project="mimic-cxr-jpg/2.1.0",
    ),
    "padchest": DataSet(
        title="PadChest",
        images="160,868",
        patients="67,625",
        size="about 1 TB",
        gigabytes=1000,
        access="request form (BIMCV)",
        terms="PADCHEST Dataset Research Use Agreement: research, no passing on.",
        credentials="the form on the page of BIMCV; a link comes by mail",
        citation="Bustos A, Pertusa A, Salinas JM, de la Iglesia-Vaya M. PadChest: A large chest x-ray image dataset "
        "with multi-label annotated reports. Medical Image Analysis 2020; 66: 101797.",
        url="https://bimcv.cipf.es/bimcv-projects/padchest/",
        steps=(
            "Fill in the form at the page above and accept the agreement; BIMCV answers with the links. Programs "
            "cannot do this for you.",
            "Unpack each NN.zip into a folder NN: Dataset/padchest/0/*.png ... 50/, 54/; beside them "
            "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv or the same as .csv.gz. The table has 160,861 rows; "
            "the paper counts 160,868 images.",
        ),
        # The paper counts images that the table does not have.
        editions=(
            Edition(
                (Table((PADCHEST_TABLE, f"{PADCHEST_TABLE}.gz"), 160_861),),
                160_861,
                ("[0-9]", "[0-9][0-9]"),
                exact=False,
            ),
        ),
        archives=(("[0-9]*.zip", 52, "unzip each NN.zip into a folder NN"),),
    ),
    "vindr": DataSet(
        title="VinDr-CXR 1.0.0",
        images="18,000",
        patients="not published",
        size="about 200 GB",
        gigabytes=200,
        access="PhysioNet, credentialed",
        terms=physionet.TERMS,
        credentials=physionet.CREDENTIALS,
        citation="Nguyen HQ, Lam K, Le LT, et al. VinDr-CXR: An open dataset of chest X-rays with radiologist's "
        "annotations. Scientific Data 2022; 9: 429; PhysioNet 2021 (version 1.0.0), doi 10.13026/3akn-b287.",
        url="https://physionet.org/content/vindr-cxr/1.0.0/",
        steps=physionet.steps("vindr", "vindr-cxr/1.0.0"),
        editions=(Edition(VINDR_TABLES, 18_000, ("train", "test"), ".dicom"),),
        project="vindr-cxr/1.0.0",
        spellings=("vindrcxr", "vindr-cxr"),
    ),
    "vinbigdata": DataSet(
        title="VinBigData Chest X-ray Abnormalities Detection",
        images="18,000",
        patients="not published",
        size="about 200 GB",
        gigabytes=200,
        access="Kaggle account, competition rules",
        terms="The rules of the competition: non-commercial research and education.",
        credentials="a Kaggle token (see nih), and the rules accepted on the page of the competition",
        citation="Nguyen HQ, Lam K, Le LT, et al. VinDr-CXR: An open dataset of chest X-rays with radiologist's "
        "annotations. Scientific Data 2022; 9: 429; VinBigData Chest X-ray Abnormalities Detection, Kaggle 2020.",
        url="https://www.kaggle.com/competitions/vinbigdata-chest-xray-abnormalities-detection",
        steps=(
            "Accept the rules: https://www.kaggle.com/competitions/vinbigdata-chest-xray-abnormalities-detection/rules",
            "python download_datasets.py --download vinbigdata: through kagglehub, into its cache; Dataset/vinbigdata "
            "becomes a link to it.",
            "Its images are those of VinDr-CXR under other names: do not train on one and test on the other.",
        ),
        editions=(Edition((Table(("train.csv",), 67_914),), 18_000, ("train", "test"), ".dicom"),),
    ),
    "cxrlt": DataSet(
        title="CXR-LT 2023 and 2024 (labels of MIMIC-CXR-JPG)",
        images="377,110 (those of mimic)",
        patients="65,379",
        size="under 1 GB",
        gigabytes=1,
        access="PhysioNet, credentialed",
        terms=physionet.TERMS,
        credentials=physionet.CREDENTIALS,
        citation="Holste G, Lin M, Wang S, Zhou Y, Wei Y, Chen H, Wang A, Peng Y. CXR-LT: Multi-Label Long-Tailed "
        "Classification on Chest X-Rays (version 2.0.0). PhysioNet 2025, doi 10.13026/ryj9-x506; Lin M et al. CXR-LT "
        "2024. arXiv:2506.07984.",
        url="https://physionet.org/content/cxr-lt-iccv-workshop-cvamd/2.0.0/",
        steps=(
            *physionet.steps("cxrlt", "cxr-lt-iccv-workshop-cvamd/2.0.0"),
            "The images are those of MIMIC-CXR-JPG (mimic). One year suffices: cxr-lt-2024/, or train.csv, "
            "development.csv, test.csv of 2023.",
        ),
        editions=(Edition(CXRLT_2024_TABLES, name="2024"), Edition(CXRLT_2023_TABLES, name="2023")),
        project="cxr-lt-iccv-workshop-cvamd/2.0.0",
        spellings=("cxr-lt",),
    ),
}


def set_name(text: str) -> str:
    """The key of a set in CATALOG, whichever way it is spelled.

    Raises:
        UserError: no set has that name; all names are listed.
    """
    for name, data_set in CATALOG.items():
        if text.lower() in (name, *data_set.spellings):
            return name
    raise UserError(f"{text!r} is none of the data sets: {', '.join(CATALOG)}")


def folder_of(name: str, data_root: Path) -> Path:
    """DATA_ROOT/NAME, or the folder of another spelling if that one is there."""
    for spelling in (name, *CATALOG[name].spellings):
        if (data_root / spelling).is_dir():
            return data_root / spelling
    return data_root / name
