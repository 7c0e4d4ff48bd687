"""Maps against boxes: examples worked out by hand, perfect, random and constant maps, controls, paired intervals."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from roi.data.boxes import read_boxes
from roi.data.table import image_keys, patients_from_names
from roi.demo.nih_set import plan
from roi.demo.phantom import SPACE, plant
from roi.labels import LABELS
from roi.scoring.box_matching import BY_BOX, METRICS, boxes_around, cells_of, top_cells
from roi.scoring.localization import COMPARED, READINGS, controls_of, headline_source, reading, score_maps
from roi.scoring.map_controls import (
    FOLDS,
    LabelledMaps,
    count_boxes,
    deal_folds,
    folds_of,
    label_differences,
    other_patients,
)
from roi.scoring.map_file import Maps


def box_table(*rows: tuple[str, str, float, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["image", "label", "x", "y", "w", "h"])


def one_map(
    grid: np.ndarray, kept: np.ndarray | None = None, ratio: float = 0.25, name: str = "mask", image: str = "a.png"
) -> Maps:
    bits = {} if kept is None else {name: kept[None, None].astype(np.uint8)}
    return Maps([image], [""], {name: grid[None, None].astype(np.float32)}, bits, ratio, {})


def patients_of(images: list[str]) -> pd.Series:
    names = pd.Series(images, dtype=str)
    return pd.Series(patients_from_names(names).to_numpy(), index=image_keys(names))


def score_one(maps: Maps, *rows: tuple[str, float, float, float, float], **options: float) -> dict[str, float | None]:
    """Scores of the boxes (label, x, y, w, h) of a single image."""
    section = score_maps([maps], box_table(*(("a.png", *row) for row in rows)), patients_of(maps.images), 0.5, 5, 0)
    return {metric: v["value"] for metric, v in section["sources"]["mask"]["mean"].items()}


def truth_maps(boxes: pd.DataFrame, images: list[str], m: int, ratio: float, name: str = "cam") -> Maps:
    """A map for every finding: how far its boxes cover a cell, and outside how near they are (so that the best cells
    surround a small box)."""
    stack = np.zeros((len(images), len(LABELS), m, m), np.float32)
    centre = (np.arange(m) + 0.5) / m
    for (image, label), group in boxes.groupby(["image", "label"]):
        corner = group[["x", "y", "w", "h"]].to_numpy(copy=True)
        corner[:, 2:] += corner[:, :2]
        cells = cells_of(corner, [np.arange(len(corner))], m)
        across, down = (
            np.maximum(0, np.maximum(corner[:, k, None] - centre, centre - corner[:, k + 2, None])) for k in (0, 1)
        )  # distance to each box along an axis
        near = np.hypot(down[:, :, None], across[:, None, :]).min(0)
        target = stack[images.index(image), LABELS.index(label)]
        target.ravel()[cells.cell] = cells.weight
        target -= 0.1 * near
    return Maps(images, list(LABELS), {name: stack}, {}, ratio, {})


@pytest.fixture(scope="module")
def planned() -> pd.DataFrame:
    """Boxes of a demo set that nobody has drawn."""
    rows = [
        (case.name, patch.label, *(v / SPACE for v in patch.box()))
        for case in plan(160, seed=5)
        for patch in plant(case)
    ]
    return box_table(*rows)


# ---- by hand --------------------------------------------------------------------------------------------------------


def test_detected_boxes_by_hand():
    """A 4 x 4 region against a box of 8 x 4 cells: IoU 1/2; against one of 2 x 4 inside it: IoU 1/2, but half of the
    detected box is outside."""
    grid = np.zeros((16, 16))
    grid[4:8, 4:8] = 1
    got = score_one(one_map(grid), ("Mass", 4 / 16, 4 / 16, 8 / 16, 4 / 16))
    assert [got[f"iou@0.{k}"] for k in range(1, 8)] == [1, 1, 1, 1, 0, 0, 0]  # > T, and 1/2 is not
    assert [got[f"iobb@0.{k}"] for k in range(1, 10)] == [1] * 9  # the detected box lies wholly inside
    assert [got[f"false@0.{k}"] for k in range(1, 8)] == [0, 0, 0, 0, 1, 1, 1]  # one, though both cuts find it
    got = score_one(one_map(grid), ("Mass", 4 / 16, 4 / 16, 2 / 16, 4 / 16))
    assert [got[f"iou@0.{k}"] for k in range(1, 8)] == [1, 1, 1, 1, 0, 0, 0]
    assert [got[f"iobb@0.{k}"] for k in range(1, 10)] == [1, 1, 1, 1, 0, 0, 0, 0, 0]  # 8 of its 16 cells


def test_two_cuts_two_regions():
    """A halo of 100 around a core of 255 (box of either cut), and a region of its own that touches nothing."""
    grid = np.zeros((16, 16))
    grid[1:9, 1:9], grid[3:5, 3:5], grid[12:14, 12:14] = 100, 255, 90
    whole, core = (1 / 16, 1 / 16, 8 / 16, 8 / 16), (3 / 16, 3 / 16, 2 / 16, 2 / 16)
    got = score_one(one_map(grid), ("Mass", *whole))
    assert (got["iou@0.7"], got["false@0.1"], got["iobb@0.9"]) == (
        1,
        2,
        1,
    )  # false: the core (IoU 4/64) and the far region
    got = score_one(one_map(grid), ("Mass", *core))
    assert (got["iou@0.7"], got["false@0.1"]) == (1, 2)
    got = score_one(one_map(grid), ("Mass", *whole), ("Mass", 12 / 16, 12 / 16, 2 / 16, 2 / 16))
    assert (got["iou@0.7"], got["false@0.1"]) == (1, 1)
    got = score_one(one_map(grid), ("Mass", *whole), ("Mass", 10 / 16, 1 / 16, 2 / 16, 2 / 16))
    assert got["iou@0.1"] == 0.5
    got = score_one(one_map(grid), ("Mass", *whole), ("Nodule", 12 / 16, 12 / 16, 2 / 16, 2 / 16))
    assert (got["iou@0.7"], got["false@0.1"]) == (1, 2)  # another finding's box does not excuse


def test_regions_are_eight_connected_and_never_across_maps():
    stack = np.zeros((3, 6, 6), dtype=bool)
    stack[0, [0, 1, 2], [0, 1, 2]] = stack[1, 2, 2] = stack[2, 5, 0] = True
    found = boxes_around(stack, np.zeros_like(stack))
    assert found.start.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found.box * 6, [[0, 0, 3, 3], [2, 2, 3, 3], [0, 5, 1, 6]])


def test_recall_and_precision_by_hand():
    """Kept: the left half of an 8 x 8 grid. Mass covers columns 2..5 of rows 0..3; Nodule 1 x 1 cell across the rim of
    four cells."""
    kept = np.zeros((8, 8))
    kept[:, :4] = 1
    maps = one_map(np.eye(4), kept)
    got = score_one(maps, ("Mass", 2 / 8, 0, 4 / 8, 4 / 8))
    assert (got["recall"], got["precision"], got["precision_union"], got["centre_small"]) == (0.5, 8 / 32, 8 / 32, None)
    got = score_one(maps, ("Mass", 3.25 / 8, 2.5 / 8, 1 / 8, 1 / 8))  # 3/4 of it left of the rim
    assert got["recall"] == pytest.approx(0.75) and got["precision"] == pytest.approx(0.75 / 32)
    both = [
        ("Mass", 0.0, 0.0, 0.25, 0.5),
        ("Mass", 0.0, 0.25, 0.25, 0.5),
        ("Nodule", 0.75, 0.0, 0.25, 0.5),
        ("Effusion", 0.25, 0.5, 0.5, 0.5),
    ]
    section = score_maps([maps], box_table(*(("a.png", *b) for b in both)), patients_of(["a.png"]), 0.5, 0, 0)
    scores = section["sources"]["mask"]["per_class"]
    assert scores["Mass"]["precision"]["value"] == 12 / 32  # rows 0..5, the shared cells once
    assert scores["Nodule"]["precision"]["value"] == scores["Nodule"]["recall"]["value"] == 0
    assert scores["Effusion"]["recall"] == {"value": 0.5, "low": None, "high": None}  # no resamples
    assert section["sources"]["mask"]["mean"]["precision_union"]["value"] == (12 + 8) / 32
    assert section["sources"]["mask"]["mean"]["recall"]["value"] == 0.5  # (1 + 1) / 2, 0, 0.5 over findings
    assert list(scores) == [c for c in LABELS if c in ("Effusion", "Mass", "Nodule")]


def test_small_boxes_by_their_centre():
    kept = np.zeros((64, 64))
    kept[10, 20] = 1
    side = 79 / 1024
    for x, y, small, hit in (
        (20.5, 10.5, side, 1),
        (21.5, 10.5, side, 0),
        (10.5, 20.5, side, 0),
        (20.5, 10.5, 80 / 1024, None),
    ):
        got = score_one(one_map(np.eye(4), kept), ("Nodule", x / 64 - small / 2, y / 64 - small / 2, small, small))
        assert got["centre_small"] == hit


def test_pointing_and_its_ties():
    grid = np.zeros((8, 8))
    grid[2, 5] = grid[6, 1] = 3
    in_one, in_other = ("Mass", 5 / 8, 2 / 8, 1 / 8, 1 / 8), ("Nodule", 0 / 8, 6 / 8, 3 / 8, 1 / 8)
    got = score_one(one_map(grid), in_one)
    assert (got["pointing"], got["pointing_union"]) == (0.5, 0.5)
    got = score_one(one_map(grid), in_one, in_other)
    assert (got["pointing"], got["pointing_union"]) == (0.5, 1)
    grid[6, 1] = 0
    got = score_one(one_map(grid), in_one, in_other)
    assert (got["pointing"], got["pointing_union"]) == (0.5, 1)  # Mass hit, Nodule missed
    assert score_one(one_map(grid), ("Mass", 2 / 8, 5 / 8, 1 / 8, 1 / 8))["pointing"] == 0  # x is across, y is down


def test_a_constant_map_says_nothing():
    got = score_one(one_map(np.full((32, 32), 0.7)), ("Mass", 0.25, 0.5, 0.5, 0.25))
    assert got["pointing"] == 0.5 * 0.25
    assert all(got[name] == 0 for name in METRICS if "@" in name)
    assert got["recall"] == pytest.approx(0.25, abs=0.12)  # cells drawn by lot


def test_ties_are_drawn_by_lot_and_always_the_same_number():
    maps = np.zeros((400, 8, 8))
    maps[:, 0, 0] = 1
    top = top_cells(maps, 0.25, np.random.default_rng(0))
    assert (top.sum((1, 2)) == 16).all() and top[:, 0, 0].all()
    rest = top.mean(0).ravel()[1:]
    assert abs(rest - 15 / 63).max() < 0.1 and (top == top_cells(maps, 0.25, np.random.default_rng(0))).all()


def test_area_boxes_use_the_cells_kept_at_the_ratio():
    """A map that falls off from a corner: the cuts find large boxes, a quarter of the cells is the 4 x 8 stripe."""
    grid = np.broadcast_to(-np.arange(8.0), (8, 8))
    got = score_one(one_map(grid), ("Mass", 0, 0, 2 / 8, 1))
    assert got["area_iou@0.7"] == 1 and got["recall"] == 1 and got["precision"] == 1


# ---- sets, images, controls -----------------------------------------------------------------------------------------


def test_a_perfect_mask_beats_every_control(planned: pd.DataFrame):
    images = list(dict.fromkeys(planned["image"]))
    ratio = float((planned["w"] * planned["h"]).median())
    section = score_maps([truth_maps(planned, images, 64, ratio)], planned, patients_of(images), ratio, 400, 1)
    cam = section["sources"]["cam"]
    assert (section["n_boxes"], section["n_images"], section["keep_ratio"]) == (len(planned), len(images), ratio)
    for metric in ("pointing", "pointing_union"):
        assert cam["mean"][metric] == pytest.approx({"value": 1, "low": 1, "high": 1})
    assert cam["mean"]["iou@0.7"]["value"] > 0.9 and cam["mean"]["false@0.1"]["value"] == 0
    assert list(cam["minus"]) == ["shuffled", "best_place", "random", "centre"]
    for control, metrics in cam["minus"].items():
        for metric, v in metrics.items():
            assert 0 < v["low"] <= v["value"] <= v["high"], (control, metric, v)
            by_finding = cam["minus_per_class"][control]
            assert set(by_finding) == set(planned["label"])
            assert all(set(v) == set(COMPARED) for v in by_finding.values())
    shuffled = section["sources"]["cam_shuffled"]
    assert all(
        shuffled["mean"][m]["high"] < cam["mean"][m]["low"] for m in ("pointing", "recall", "precision", "iou@0.5")
    )
    assert list(section["sources"]) == ["cam", "random", "centre", "best_place", "cam_shuffled"]
    assert shuffled["minus"] == {}
    small = (planned["w"] < 80 / 1024) & (planned["h"] < 80 / 1024)
    assert section["n_small_boxes"] == small.sum()
    for name in section["sources"]:
        assert set(section["sources"][name]["mean"]) == set(METRICS)
        assert set(section["sources"][name]["per_class"]) == set(planned["label"])


def test_the_demo_set_as_it_is_read(demo: Path):
    boxes = read_boxes(demo / "BBox_List_2017.csv")
    names = sorted(set(boxes["image"]))
    maps = truth_maps(boxes, names, 32, 0.1)
    maps.images = [f"images_001/images/{n}" for n in names]
    section = score_maps([maps], boxes, patients_of(maps.images), 0.1, 50, 0)
    assert section["n_boxes"] == len(boxes) and section["sources"]["cam"]["mean"]["pointing"]["value"] == pytest.approx(
        1
    )


def test_a_random_map_scores_chance(planned: pd.DataFrame):
    images = list(dict.fromkeys(planned["image"]))
    maps = np.random.default_rng(0).normal(size=(len(images), 1, 64, 64)).astype(np.float32)
    section = score_maps([Maps(images, [""], {"mask": maps}, {}, 0.1, {})], planned, patients_of(images), 0.1, 400, 1)
    share = []
    for _, group in planned.groupby("image"):
        corner = np.clip(
            np.concatenate([group[["x", "y"]], group[["x", "y"]].to_numpy() + group[["w", "h"]].to_numpy()], axis=1),
            0,
            1,
        )
        share.append(cells_of(corner, [np.arange(len(corner))], 64).weight.sum() / 64**2)
    chance = np.mean(share)
    for name in ("mask", "mask_shuffled", "random"):
        v = section["sources"][name]["mean"]
        assert v["pointing_union"]["low"] < chance < v["pointing_union"]["high"]
        assert v["recall"]["value"] == pytest.approx(0.1, abs=0.02)
        assert v["precision_union"]["value"] == pytest.approx(chance, abs=0.02)
    against = section["sources"]["mask"]["minus"]["random"]["recall"]
    assert against["low"] < 0 < against["high"]


def test_a_difference_is_paired(planned: pd.DataFrame):
    """The control "centre" under another name differs from it by nothing, in every resample. 12 of 16 cells: no tie at
    the disc's rim."""
    images = list(dict.fromkeys(planned["image"]))
    away = np.square(np.arange(4) - 1.5)
    disc = np.broadcast_to(-(away[:, None] + away), (len(images), 1, 4, 4)).astype(np.float32)
    section = score_maps([Maps(images, [""], {"mask": disc}, {}, 0.75, {})], planned, patients_of(images), 0.75, 100, 1)
    assert section["sources"]["mask"]["mean"] == section["sources"]["centre"]["mean"]
    for control in ("centre", "shuffled"):
        for v in section["sources"]["mask"]["minus"][control].values():
            assert v == pytest.approx({"value": 0, "low": 0, "high": 0}, abs=1e-12)


def test_images_doubled_under_the_same_patient_do_not_shrink_an_interval(planned: pd.DataFrame):
    images = list(dict.fromkeys(planned["image"]))
    maps = np.random.default_rng(2).normal(size=(len(images), 1, 16, 16)).astype(np.float32)
    patients = patients_of(images)
    once = score_maps([Maps(images, [""], {"mask": maps}, {}, 0.1, {})], planned, patients, 0.1, 100, 1)
    copy = [f"again_{name}" for name in images]
    twice = score_maps(
        [Maps(images + copy, [""], {"mask": np.concatenate([maps, maps])}, {}, 0.1, {})],
        pd.concat([planned, planned.assign(image="again_" + planned["image"])]),
        pd.concat([patients, pd.Series(patients.to_numpy(), index=copy)]),
        0.1,
        100,
        1,
    )
    assert twice["n_images"] == 2 * once["n_images"] and twice["n_patients"] == once["n_patients"] < once["n_images"]
    for metric, v in once["sources"]["mask"]["mean"].items():
        assert twice["sources"]["mask"]["mean"][metric] == pytest.approx(v), metric


def test_findings_weigh_the_same_and_values_stay_in_range(planned: pd.DataFrame):
    images = list(dict.fromkeys(planned["image"]))
    maps = np.random.default_rng(2).normal(size=(len(images), 1, 16, 16)).astype(np.float32)
    sources = score_maps([Maps(images, [""], {"mask": maps}, {}, 0.1, {})], planned, patients_of(images), 0.1, 50, 1)[
        "sources"
    ]
    for source in sources.values():
        for metric in (*BY_BOX, "pointing", "precision"):
            each = [v[metric]["value"] for v in source["per_class"].values() if v[metric]["value"] is not None]
            assert source["mean"][metric]["value"] == pytest.approx(np.mean(each))
            assert all(-1e-9 <= v <= 1 + 1e-9 for v in each)


def test_every_row_of_the_table_is_on_the_same_images(planned: pd.DataFrame):
    images = list(dict.fromkeys(planned["image"]))
    some = [f"images_00{1 + n % 9}/images/{name}" for n, name in enumerate(images[10:])][::-1] + ["no_box.png"]
    rng = np.random.default_rng(0)
    wide = Maps(
        images,
        [""],
        {s: rng.normal(size=(len(images), 1, 8, 8)).astype(np.float32) for s in ("mask", "mask_reinit")},
        {},
        0.1,
        {},
    )
    full = truth_maps(planned, images, 32, 0.1)
    order = [images.index(name.rpartition("/")[2]) for name in some[:-1]]
    part = Maps(
        some,
        list(LABELS),
        {"cam": np.concatenate([full.maps["cam"][order], np.zeros((1, len(LABELS), 32, 32), np.float32)])},
        {},
        0.1,
        {},
    )
    section = score_maps([wide, part], planned, patients_of(images), 0.1, 20, 0)
    assert section["n_boxes"] == planned["image"].isin(images[10:]).sum() and section["n_images"] == len(images) - 10
    ours, shuffled = ["mask", "mask_reinit", "cam"], ["mask_shuffled", "cam_shuffled"]
    assert list(section["sources"]) == [*ours, "random", "centre", "best_place", *shuffled]
    assert list(section["sources"]["mask_reinit"]["minus"]) == ["random", "centre"]
    assert list(section["sources"]["mask"]["minus"]) == ["shuffled", "best_place", "reinit", "random", "centre"]
    assert [section["sources"][name]["kind"] for name in ours] == ["union", "union", "finding"]
    assert all(section["sources"][name]["kind"] == "control" for name in ("random", "centre", "best_place", *shuffled))
    assert section["sources"]["cam"]["mean"]["pointing"]["value"] == pytest.approx(
        1
    )  # the rows were matched, in whatever order
    assert section == score_maps([wide, part], planned, patients_of(images), 0.1, 20, 0)


# ---- controls that are fixed places ---------------------------------------------------------------------------------


def planned_boxes(images: int, seed: int) -> pd.DataFrame:
    cases = plan(images, seed=seed)
    rows = [(case.name, patch.label, *(v / SPACE for v in patch.box())) for case in cases for patch in plant(case)]
    return box_table(*rows)


def class_maps(grids: np.ndarray, images: list[str], name: str = "class_mask") -> Maps:
    """Maps of all findings: (N, len(LABELS), m, m)."""
    return Maps(images, list(LABELS), {name: grids.astype(np.float32)}, {}, 0.1, {})


def labels_of(maps: Maps, boxes: pd.DataFrame, patients: pd.Series) -> LabelledMaps:
    """A finding is present where it has a box."""
    target = np.zeros((len(maps.images), len(maps.classes)))
    target[boxes["image"].map(maps.images.index), boxes["label"].map(maps.classes.index)] = 1
    return LabelledMaps(maps, target, patients[maps.images].to_numpy(), "these images")


@pytest.fixture(scope="module")
def crowd() -> pd.DataFrame:
    return planned_boxes(200, 7)


def hot_cells(boxes: pd.DataFrame, m: int) -> np.ndarray:
    """For each finding a map that is highest at the mean centre of its boxes. -> (len(LABELS), m, m)"""
    grid = np.zeros((len(LABELS), m, m))
    cell = (np.arange(m) + 0.5) / m
    for finding, group in boxes.groupby("label"):
        x, y = (group["x"] + group["w"] / 2).mean(), (group["y"] + group["h"] / 2).mean()
        grid[LABELS.index(finding)] = -np.hypot(cell[:, None] - y, cell[None, :] - x)
    return grid


def test_maps_that_are_a_fixed_place_owe_nothing_to_their_image(crowd: pd.DataFrame):
    """The place of each finding is that of other people; each image's map is spoilt by noise of its own."""
    images = list(dict.fromkeys(crowd["image"]))
    noise = np.random.default_rng(3).normal(0, 0.03, (len(images), len(LABELS), 32, 32))
    maps = class_maps(hot_cells(planned_boxes(200, 8), 32) + noise, images)
    section = score_maps([maps], crowd, patients_of(images), 0.1, 200, 0, [labels_of(maps, crowd, patients_of(images))])
    head = section["headline"]
    assert (head["source"], head["kind"]) == ("class_mask", "finding") and list(head["minus"]) == [
        "shuffled",
        "best_place",
        "label_place",
        "random",
        "centre",
    ]
    assert head["pointing"] == section["sources"]["class_mask"]["mean"]["pointing"]
    assert head["minus"]["shuffled"]["low"] < 0 < head["minus"]["shuffled"]["high"]
    assert abs(head["minus"]["shuffled"]["value"]) < 0.02
    assert head["minus"]["random"]["low"] > 0.05  # though it beats chance
    assert head["minus"]["best_place"]["low"] <= 0
    said = [one.sentence for one in reading(head)]
    assert said[0].startswith("Nothing shows that the map depends on its image")
    assert said[1].startswith(("The map is not shown to find more", "The map finds less"))


def test_true_maps_owe_all_but_chance_to_their_image(crowd: pd.DataFrame):
    """own - shuffled = 1 - chance, which is that of a true map of another image, worked out over all of them."""
    images = list(dict.fromkeys(crowd["image"]))
    maps = truth_maps(crowd, images, 32, 0.1, "class_mask")
    patients = patients_of(images)
    section = score_maps([maps], crowd, patients, 0.1, 200, 0, [labels_of(maps, crowd, patients)])
    chance: dict[str, list[float]] = {}
    for (image, finding), group in crowd.groupby(["image", "label"]):
        corner = group[["x", "y", "w", "h"]].to_numpy(copy=True)
        corner[:, 2:] += corner[:, :2]
        inside = cells_of(corner, [np.arange(len(corner))], 32, centres=True).cell
        stack = maps.maps["class_mask"][:, LABELS.index(finding)].reshape(len(images), -1)
        others = stack[(patients[images] != patients[image]).to_numpy()]
        peak = others == others.max(axis=1, keepdims=True)
        chance.setdefault(finding, []).append((peak[:, inside].sum(axis=1) / peak.sum(axis=1)).mean())
    expected = 1 - np.mean([np.mean(v) for v in chance.values()])
    minus = section["headline"]["minus"]
    assert minus["shuffled"]["value"] == pytest.approx(expected, abs=0.02) and expected > 0.8
    assert minus["best_place"]["low"] > 0.2 and minus["label_place"]["low"] > 0.2
    assert [(one.verdict, one.sentence.split(" (")[0]) for one in reading(section["headline"])] == [
        ("above", READINGS["shuffled"][0]),
        ("above", READINGS["best_place"][0]),
    ]


def test_one_patient_a_finding_has_no_best_place():
    """In the sample, a place chosen on these boxes would hold them all."""
    images = [f"{n:08d}_000.png" for n in range(1, 9)]
    boxes = box_table(*((image, LABELS[n], 0.1 * n, 0.2, 0.2, 0.2) for n, image in enumerate(images)))
    maps = class_maps(np.random.default_rng(0).normal(size=(8, len(LABELS), 16, 16)), images)
    section = score_maps([maps], boxes, patients_of(images), 0.1, 20, 0)
    nothing = {"value": None, "low": None, "high": None}
    assert all(v == nothing for v in section["sources"]["best_place"]["mean"].values())
    assert section["headline"]["minus"]["best_place"] == nothing
    assert section["controls"]["best_place"] == {"pairs_without_place": 8} and section["controls"]["folds"] == FOLDS


def test_a_patient_never_chooses_the_own_place():
    """Every patient has the finding at a place of the own, one of them on many images; two are neighbours."""
    images = ["00000001_000.png", "00000002_000.png"] + [f"00000003_00{n}.png" for n in range(6)]
    x = [0.1, 0.12] + [0.7] * 6
    boxes = box_table(*((image, "Mass", left, 0.2, 0.2, 0.2) for image, left in zip(images, x, strict=True)))
    maps = one_map(np.eye(32), ratio=0.1)
    maps = Maps(images, [""], {"mask": np.repeat(maps.maps["mask"], 8, axis=0)}, {}, 0.1, {})
    for seed in range(5):
        section = score_maps([maps], boxes, patients_of(images), 0.1, 0, seed)
        # Patients 1 and 2 are told the place of patient 3, who has the most boxes; patient 3 that of 1 and 2.
        assert section["sources"]["best_place"]["mean"]["pointing"]["value"] == 0
    two = score_maps([maps], boxes[boxes["x"] < 0.5], patients_of(images), 0.1, 0, 0)
    v = two["sources"]["best_place"]["mean"]["pointing"]["value"]
    assert 0.5 < v < 1  # each is told the whole box of the other, nine tenths of which are its own


def test_a_difference_is_over_the_same_boxes():
    """Hernia, which one patient has, has no best place: it is in neither side of the difference."""
    images = [f"{n:08d}_000.png" for n in range(1, 12)]
    rows = [(image, "Mass", 0.5, 0.5, 0.25, 0.25) for image in images[:-1]]
    rows.append((images[-1], "Hernia", 0.0, 0.0, 0.5, 0.5))
    grids = np.zeros((11, len(LABELS), 8, 8))
    grids[:, :, 0, 0] = 1  # in the box of Hernia, and in no box of Mass
    section = score_maps([class_maps(grids, images)], box_table(*rows), patients_of(images), 0.1, 50, 0)
    assert section["sources"]["class_mask"]["mean"]["pointing"]["value"] == 0.5
    assert section["sources"]["best_place"]["mean"]["pointing"]["value"] == 1
    assert section["headline"]["minus"]["best_place"] == {"value": -1, "low": -1, "high": -1}
    assert section["sources"]["class_mask"]["minus_per_class"]["best_place"]["Hernia"]["pointing"]["value"] is None
    assert section["controls"]["best_place"] == {"pairs_without_place": 1}
    hernia = {"n_boxes": 1, "n_small_boxes": 0, "n_images": 1, "n_patients": 1}
    mass = {**hernia, "n_boxes": 10, "n_images": 10, "n_patients": 10}
    assert section["findings"] == {"Mass": mass, "Hernia": hernia}


def test_boxes_are_counted_outside_their_fold():
    fold, finding, cell = np.array([0, 0, 1, 2, 2]), np.array([0, 0, 0, 0, 1]), np.array([0, 3, 3, 3, 2])
    counted = count_boxes(fold, finding, cell, (3, 2, 2)).reshape(3, 2, 4)
    assert counted[:, 0].tolist() == [[0, 0, 0, 2], [1, 0, 0, 2], [1, 0, 0, 2]]
    assert counted[:, 1].tolist() == [[0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_places_by_labels_are_means_outside_the_fold():
    rng = np.random.default_rng(1)
    maps, target = rng.normal(size=(12, 2, 3, 3)), (rng.random((12, 2)) < 0.5).astype(float)
    target[0], target[:, 1] = np.nan, np.where(np.arange(12) < 3, 1, 0)
    fold = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, -1, -1, -1])
    found = label_differences(maps, target, fold, 3)
    for k in range(3):
        here = fold != k
        present, absent = (maps[here & (target[:, 0] == value), 0].mean(axis=0) for value in (1, 0))
        np.testing.assert_allclose(found[k, 0], present - absent, atol=1e-12)
    assert np.isnan(found[0, 1]).all() and not np.isnan(found[1:, 1]).any()  # all that have it are in fold 0


def test_folds_are_even_and_know_their_patients():
    for patients, folds in ((1, 1), (3, 3), (23, FOLDS)):
        dealt = deal_folds(patients, np.random.default_rng(0))
        often = np.bincount(dealt)
        assert len(often) == folds and often.max() - often.min() <= 1
    assert folds_of(["b", "x", "a", "b"], ["a", "b"], np.array([3, 1])).tolist() == [1, -1, 3, 1]


def test_the_place_of_other_images_is_found_by_their_labels(planned: pd.DataFrame):
    """Training images: half of the maps with the finding are high in one cell; the scored maps are noise."""
    images = list(dict.fromkeys(planned["image"]))[:40]
    boxes = planned[planned["image"].isin(images)]
    rng = np.random.default_rng(5)
    ours = class_maps(rng.normal(size=(len(images), len(LABELS), 16, 16)), images)
    grids, target = rng.normal(size=(300, len(LABELS), 16, 16)), (rng.random((300, len(LABELS))) < 0.4).astype(float)
    grids[:, :, 9, 4] += target
    names = [f"{n}.png" for n in range(300)]
    other = LabelledMaps(class_maps(grids, names), target, np.arange(300).astype(str), "training images")
    section = score_maps([ours], boxes, patients_of(images), 0.1, 0, 0, [other])
    there = np.zeros((16, 16))
    there[9, 4] = 1
    fixed = class_maps(np.broadcast_to(there, (len(images), len(LABELS), 16, 16)), images)
    expected = score_maps([fixed], boxes, patients_of(images), 0.1, 0, 0)["sources"]["class_mask"]["mean"]["pointing"]
    assert section["sources"]["class_mask_label_place"]["mean"]["pointing"] == pytest.approx(expected)
    facts = {"from": "training images", "n_images": 300, "pairs_without_place": 0}
    assert section["controls"]["label_place"] == {"class_mask": facts}
    union = Maps(images, [""], {"mask": ours.maps["class_mask"][:, :1]}, {}, 0.1, {})
    assert "mask_label_place" not in score_maps([union], boxes, patients_of(images), 0.1, 0, 0, [other])["sources"]


def test_the_findings_own_map_is_the_headline():
    def kinds(**given: str) -> str:
        return headline_source({name: {"kind": kind} for name, kind in given.items()} | {"random": {"kind": "control"}})

    assert kinds(mask="union", mask_reinit="union", cam="finding", class_mask="finding") == "class_mask"
    assert kinds(cam="finding", theirs="finding") == "theirs"
    assert kinds(cam="finding", mask="union") == "mask" and kinds(cam_reinit="finding", cam="finding") == "cam"
    assert kinds(cam_reinit="finding") == "cam_reinit"
    there = ["class_mask", "class_mask_reinit", "random", "centre", "best_place", "class_mask_shuffled"]
    assert list(controls_of("class_mask", there)) == ["shuffled", "best_place", "reinit", "random", "centre"]
    assert list(controls_of("class_mask_reinit", there)) == ["random", "centre"]


@pytest.mark.parametrize(
    ("low", "high", "verdict", "said"),
    [
        (0.01, 0.2, "above", "depends on its image"),
        (-0.1, 0.1, "equal", "Nothing shows"),
        (-0.3, -0.1, "below", "more often than the image's own"),
    ],
)
def test_a_difference_is_read_by_its_interval(low: float, high: float, verdict: str, said: str):
    without = {"value": 0.1, "low": None, "high": None}
    minus = {"shuffled": {"value": (low + high) / 2, "low": low, "high": high}, "best_place": without}
    (one,) = reading({"minus": minus})
    assert (one.control, one.verdict) == ("shuffled", verdict)
    assert said in one.sentence and f"[{low:+.3f}, {high:+.3f}]" in one.sentence


def test_a_shuffle_takes_another_patient_and_each_alike():
    patient = np.array([2, 0, 0, 1, 2, 2, 3])
    drawn = np.stack([other_patients(patient, np.random.default_rng(k)) for k in range(3000)])
    assert (patient[drawn] != patient).all()
    for n in range(len(patient)):
        often = np.bincount(drawn[:, n], minlength=len(patient))[patient != patient[n]] / len(drawn)
        assert abs(often - 1 / len(often)).max() < 0.04


def test_one_patient_has_no_shuffle():
    maps = one_map(np.eye(8), image="00000001_000.png")
    section = score_maps(
        [maps], box_table(("00000001_000.png", "Mass", 0.1, 0.1, 0.3, 0.3)), patients_of(maps.images), 0.1, 10, 0
    )
    assert section["sources"]["mask_shuffled"]["mean"]["recall"] == {"value": None, "low": None, "high": None}
    assert section["sources"]["mask"]["minus"]["shuffled"]["recall"]["value"] is None


def test_the_ratio_of_the_files_counts():
    boxes, grid = box_table(("a.png", "Mass", 0, 0, 0.5, 0.5)), -np.arange(64.0).reshape(8, 8)
    said = score_maps([one_map(grid, ratio=0.5)], boxes, patients_of(["a.png"]), 0.1, 5, 0)
    assert said["keep_ratio"] == 0.5 and said["sources"]["mask"]["mean"]["recall"]["value"] == 1
    assert score_maps([one_map(grid, ratio=0)], boxes, patients_of(["a.png"]), 0.25, 5, 0)["keep_ratio"] == 0.25


def test_bad_input_is_named():
    grid, boxes, patients = np.eye(8), box_table(("a.png", "Mass", 0.1, 0.1, 0.3, 0.3)), patients_of(["a.png"])
    mask = one_map(grid)
    cases = [
        ([mask], boxes.assign(image="b.png"), patients, "none of the 1 boxes.*b.png.*a.png"),
        ([mask], boxes.iloc[:0], patients, "none of the 0 boxes"),
        ([Maps(["a.png"], ["Nodule"], mask.maps, {}, 0.1, {})], boxes, patients, "'Mass' have no map"),
        ([mask], boxes, patients_of(["c.png"]), "'a.png' has a map and a box, but no patient"),
        ([mask], boxes.assign(x=1.2), patients, r"\(1.2, 0.1, 0.3, 0.3\) of 'a.png' has no area"),
        ([mask, one_map(grid, ratio=0.1, name="cam")], boxes, patients, "different shares.*0.1, 0.25"),
        ([mask, mask], boxes, patients, "two sources are called 'mask'"),
        ([], boxes, patients, "no maps"),
    ]
    for sets, table, who, message in cases:
        with pytest.raises(ValueError, match=message):
            score_maps(sets, table, who, 0.25, 5, 0)
    with pytest.raises(ValueError, match="keep_ratio 1.5"):
        score_maps([one_map(grid, ratio=0)], boxes, patients, 1.5, 5, 0)


def test_no_torch_and_no_global_generator():
    code = "import sys, roi.scoring.localization; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2]).returncode == 0
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    score_one(one_map(np.eye(8)), ("Mass", 0.1, 0.1, 0.3, 0.3))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
