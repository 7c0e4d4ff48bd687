"""Maps against boxes: examples worked out by hand, perfect, random and constant maps, controls, paired intervals."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from roi.boxes import read_boxes
from roi.demo import plan
from roi.labels import LABELS
from roi.localization import BY_BOX, METRICS, boxes_around, cells_of, other_patients, score_maps, top_cells
from roi.maps import Maps
from roi.phantom import SPACE, plant
from roi.table import image_keys, patients_from_names


def box_table(*rows: tuple[str, str, float, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["image", "label", "x", "y", "w", "h"])


def one_map(grid: np.ndarray, kept: np.ndarray | None = None, ratio: float = 0.25, name: str = "mask", image: str = "a.png") -> Maps:
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
    """A map for every finding: how far its boxes cover a cell, and outside how near they are (so that the best cells surround a small box)."""
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
    rows = [(case.name, patch.label, *(v / SPACE for v in patch.box())) for case in plan(160, seed=5) for patch in plant(case)]
    return box_table(*rows)


# ---- by hand --------------------------------------------------------------------------------------------------------


def test_detected_boxes_by_hand():
    """A 4 x 4 region against a box of 8 x 4 cells: IoU 1/2; against one of 2 x 4 inside it: IoU 1/2, but half of the detected box is outside."""
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
    assert (got["iou@0.7"], got["false@0.1"], got["iobb@0.9"]) == (1, 2, 1)  # false: the core (IoU 4/64) and the far region
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
    """Kept: the left half of an 8 x 8 grid. Mass covers columns 2..5 of rows 0..3; Nodule 1 x 1 cell across the rim of four cells."""
    kept = np.zeros((8, 8))
    kept[:, :4] = 1
    maps = one_map(np.eye(4), kept)
    got = score_one(maps, ("Mass", 2 / 8, 0, 4 / 8, 4 / 8))
    assert (got["recall"], got["precision"], got["precision_union"], got["centre_small"]) == (0.5, 8 / 32, 8 / 32, None)
    got = score_one(maps, ("Mass", 3.25 / 8, 2.5 / 8, 1 / 8, 1 / 8))  # 3/4 of it left of the rim
    assert got["recall"] == pytest.approx(0.75) and got["precision"] == pytest.approx(0.75 / 32)
    both = [("Mass", 0.0, 0.0, 0.25, 0.5), ("Mass", 0.0, 0.25, 0.25, 0.5), ("Nodule", 0.75, 0.0, 0.25, 0.5), ("Effusion", 0.25, 0.5, 0.5, 0.5)]
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
    for x, y, small, hit in ((20.5, 10.5, side, 1), (21.5, 10.5, side, 0), (10.5, 20.5, side, 0), (20.5, 10.5, 80 / 1024, None)):
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
    assert list(cam["minus"]) == ["random", "centre", "shuffled"]
    for control, metrics in cam["minus"].items():
        for metric, v in metrics.items():
            assert 0 < v["low"] <= v["value"] <= v["high"], (control, metric, v)
    shuffled = section["sources"]["cam_shuffled"]
    assert all(shuffled["mean"][m]["high"] < cam["mean"][m]["low"] for m in ("pointing", "recall", "precision", "iou@0.5"))
    assert list(section["sources"]) == ["cam", "random", "centre", "cam_shuffled"] and shuffled["minus"] == {}
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
    assert section["n_boxes"] == len(boxes) and section["sources"]["cam"]["mean"]["pointing"]["value"] == pytest.approx(1)


def test_a_random_map_scores_chance(planned: pd.DataFrame):
    images = list(dict.fromkeys(planned["image"]))
    maps = np.random.default_rng(0).normal(size=(len(images), 1, 64, 64)).astype(np.float32)
    section = score_maps([Maps(images, [""], {"mask": maps}, {}, 0.1, {})], planned, patients_of(images), 0.1, 400, 1)
    share = []
    for _, group in planned.groupby("image"):
        corner = np.clip(np.concatenate([group[["x", "y"]], group[["x", "y"]].to_numpy() + group[["w", "h"]].to_numpy()], axis=1), 0, 1)
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
    """The control "centre" under another name differs from it by nothing, in every resample. 12 of 16 cells: no tie at the disc's rim."""
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
        0.1, 100, 1,
    )  # fmt: skip
    assert twice["n_images"] == 2 * once["n_images"] and twice["n_patients"] == once["n_patients"] < once["n_images"]
    for metric, v in once["sources"]["mask"]["mean"].items():
        assert twice["sources"]["mask"]["mean"][metric] == pytest.approx(v), metric


def test_findings_weigh_the_same_and_values_stay_in_range(planned: pd.DataFrame):
    images = list(dict.fromkeys(planned["image"]))
    maps = np.random.default_rng(2).normal(size=(len(images), 1, 16, 16)).astype(np.float32)
    sources = score_maps([Maps(images, [""], {"mask": maps}, {}, 0.1, {})], planned, patients_of(images), 0.1, 50, 1)["sources"]
    for source in sources.values():
        for metric in (*BY_BOX, "pointing", "precision"):
            each = [v[metric]["value"] for v in source["per_class"].values() if v[metric]["value"] is not None]
            assert source["mean"][metric]["value"] == pytest.approx(np.mean(each))
            assert all(-1e-9 <= v <= 1 + 1e-9 for v in each)


def test_every_row_of_the_table_is_on_the_same_images(planned: pd.DataFrame):
    images = list(dict.fromkeys(planned["image"]))
    some = [f"images_00{1 + n % 9}/images/{name}" for n, name in enumerate(images[10:])][::-1] + ["no_box.png"]
    rng = np.random.default_rng(0)
    wide = Maps(images, [""], {s: rng.normal(size=(len(images), 1, 8, 8)).astype(np.float32) for s in ("mask", "mask_reinit")}, {}, 0.1, {})
    full = truth_maps(planned, images, 32, 0.1)
    order = [images.index(name.rpartition("/")[2]) for name in some[:-1]]
    part = Maps(some, list(LABELS), {"cam": np.concatenate([full.maps["cam"][order], np.zeros((1, len(LABELS), 32, 32), np.float32)])}, {}, 0.1, {})
    section = score_maps([wide, part], planned, patients_of(images), 0.1, 20, 0)
    assert section["n_boxes"] == planned["image"].isin(images[10:]).sum() and section["n_images"] == len(images) - 10
    assert list(section["sources"]) == ["mask", "mask_reinit", "cam", "random", "centre", "mask_shuffled", "cam_shuffled"]
    assert list(section["sources"]["mask_reinit"]["minus"]) == ["random", "centre"]
    assert section["sources"]["cam"]["mean"]["pointing"]["value"] == pytest.approx(1)  # the rows were matched, in whatever order
    assert section == score_maps([wide, part], planned, patients_of(images), 0.1, 20, 0)


def test_a_shuffle_takes_another_patient_and_each_alike():
    patient = np.array([2, 0, 0, 1, 2, 2, 3])
    drawn = np.stack([other_patients(patient, np.random.default_rng(k)) for k in range(3000)])
    assert (patient[drawn] != patient).all()
    for n in range(len(patient)):
        often = np.bincount(drawn[:, n], minlength=len(patient))[patient != patient[n]] / len(drawn)
        assert abs(often - 1 / len(often)).max() < 0.04


def test_one_patient_has_no_shuffle():
    maps = one_map(np.eye(8), image="00000001_000.png")
    section = score_maps([maps], box_table(("00000001_000.png", "Mass", 0.1, 0.1, 0.3, 0.3)), patients_of(maps.images), 0.1, 10, 0)
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
    code = "import sys, roi.localization; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parent.parent).returncode == 0
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    score_one(one_map(np.eye(8)), ("Mass", 0.1, 0.1, 0.3, 0.3))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
