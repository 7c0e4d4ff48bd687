"""The ways of a GPU, taken on a CPU that answers as one; shapes and host waits of large models without their memory."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run
from torch import Tensor, nn

from roi import accelerator
from roi.accelerator import Memory
from roi.data.loader import fits_on_device
from roi.losses.objectives import EvidenceOptions, consistency_terms, evidence_terms
from roi.models.roi_model import ModelOptions, RoiModel, build_model
from roi.training import checkpoint
from roi.training.device import pick_dtype

CPU = torch.device("cpu")
CLASSES = ["Mass", "Edema", "Normal"]


class FakeGpu(accelerator.Accelerator):
    """A CPU that says it is a GPU, and remembers what it was asked."""

    pins = True
    keeps_pixels = True
    free = 2**30
    asked: dict[str, int] = {}

    def name(self) -> str:
        return "Fake GPU"

    def memory(self) -> Memory:
        return Memory(self.free, 2**33)

    def peak_memory(self) -> int:
        return 3 * 2**30

    def rng_state(self) -> dict[str, Tensor]:
        self.count("rng_state")
        return {"cuda": torch.arange(3)}

    def set_rng_state(self, states: dict[str, Tensor]) -> None:
        self.count("set_rng_state")
        assert torch.equal(states["cuda"], torch.arange(3))

    def pinned(self, tensor: Tensor) -> Tensor:
        self.count("pinned")
        return tensor.clone()

    @classmethod
    def count(cls, what: str) -> None:
        cls.asked[what] = cls.asked.get(what, 0) + 1


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> type[FakeGpu]:
    monkeypatch.setattr(FakeGpu, "asked", {})
    monkeypatch.setitem(accelerator.KINDS, "cpu", FakeGpu)
    return FakeGpu


def test_no_other_module_calls_a_kind_of_device() -> None:
    asks = re.compile(r"torch\.(cuda|mps)\b|backends\.mps|\.type [!=]= \"(cuda|mps)\"")
    found = {path.name for path in (ROOT / "roi").rglob("*.py") if asks.search(path.read_text(encoding="utf-8"))}
    assert found == {"accelerator.py"}


def training(demo: Path, table: Path, out: Path, *flags: object) -> tuple[object, ...]:
    where = ("--train_csv", table, "--image_root", demo, "--save", out / "roi.pt", "--log_csv", out / "log.csv")
    model = ("--backbone", "test_resnet", "--weights", "none", "--img_size", 32, "--device", "cpu")
    rest = ("--batch_size", 8, "--max_samples", 24, "--workers", 0, "--warmup_epochs", 1, "--epochs", 2)
    return ("train_roi_consistency.py", *where, *model, *rest, "--cache_dir", out / "cache", *flags)


def tensors(path: Path) -> dict[str, Tensor]:
    return checkpoint.load(path)["model"]


@pytest.mark.parametrize("kept", [True, False], ids=["pixels on the device", "copied batch by batch"])
def test_a_training_on_a_gpu_goes_the_ways_of_a_gpu_to_the_same_model(
    demo: Path,
    tables: tuple[Path, Path],
    tmp_path: Path,
    gpu: type[FakeGpu],
    monkeypatch: pytest.MonkeyPatch,
    kept: bool,
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    with monkeypatch.context() as patch:
        patch.setitem(accelerator.KINDS, "cpu", accelerator.Accelerator)
        run(*training(demo, tables[0], here))
    monkeypatch.setattr(gpu, "free", 2**30 if kept else 100)
    said = run(*training(demo, tables[0], there))
    assert "Fake GPU" in said and "of 8 GiB free" in said
    # Indices of batches go to the device in the one case, pixels and targets in the other.
    assert gpu.asked["pinned"] > 0 and gpu.asked["rng_state"] > 0 and "set_rng_state" not in gpu.asked
    one, other = tensors(here / "roi.pt"), tensors(there / "roi.pt")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    run(*training(demo, tables[0], there, "--epochs", 3, "--resume", "auto"))
    assert gpu.asked["set_rng_state"] == 1
    assert checkpoint.load(there / "roi.pt")["rng"][0].keys() == {"cpu", "cuda"}


def test_a_check_reports_the_memory_of_the_gpu(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path, gpu: type[FakeGpu]
) -> None:
    assert "3.0 GiB of 8 GiB of GPU memory" in run(*training(demo, tables[0], tmp_path, "--check"))


def test_predictions_from_pinned_memory_are_the_same(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(*training(demo, tables[0], tmp_path))
    where = ("--csv", tables[1], "--image_root", demo, "--checkpoint", tmp_path / "roi.pt", "--device", "cpu")
    command = ("infer_roi_consistency.py", *where, "--cache_dir", tmp_path / "test-cache")
    run(*command, "--save_json", tmp_path / "a.json")
    monkeypatch.setitem(accelerator.KINDS, "cpu", FakeGpu)
    run(*command, "--save_json", tmp_path / "b.json")
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads((tmp_path / "b.json").read_text())


class Rows:
    """What `fits_on_device` asks of a cache of 10 images of 4 x 4 pixels."""

    pixels = torch.zeros(10, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("free", "choice", "fits"),
    [(320, "auto", True), (319, "auto", False), (1, "yes", True), (320, "no", False)],
)
def test_half_of_the_free_memory_may_hold_the_pixels(
    gpu: type[FakeGpu], monkeypatch: pytest.MonkeyPatch, free: int, choice: str, fits: bool
) -> None:
    monkeypatch.setattr(gpu, "free", free)
    assert fits_on_device(Rows(), 10, CPU, choice) is fits  # type: ignore[arg-type]


def test_a_cpu_keeps_no_pixels_and_pins_nothing() -> None:
    assert not fits_on_device(Rows(), 10, CPU, "yes")  # type: ignore[arg-type]
    tensor = torch.ones(3)
    assert accelerator.of(CPU).pinned(tensor) is tensor and pick_dtype("auto", CPU) == torch.float32


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_computes_in_the_half_type_that_it_has(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert pick_dtype("auto", torch.device("cuda")) == dtype


# A tensor on "meta" has a shape and no values: whatever would wait for one ends in an error. So does a GPU wait.


def on_meta(backbone: str, side: int) -> RoiModel:
    with torch.device("meta"):
        options = ModelOptions(per_class=True)
        return build_model(backbone, CLASSES, "features", "none", side, options=options)


def one_step(model: RoiModel, terms: Callable[..., dict[str, Tensor]], side: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        pixels = torch.empty(2, 1, side, side, dtype=torch.uint8)
        target, seeds = torch.empty(2, len(CLASSES)), torch.empty(2, dtype=torch.int64)
        found = terms(model, pixels, target, seeds)
        sum(found[name] for name in found if found[name].requires_grad).backward()
    return found


@pytest.mark.parametrize("side", [224, 512])
@pytest.mark.parametrize("backbone", ["convnext_base", "convnext_tiny", "resnet50", "densenet121"])
def test_a_step_has_its_shapes_and_waits_for_no_value(backbone: str, side: int) -> None:
    model = on_meta(backbone, side)

    def evidence(model: RoiModel, pixels: Tensor, target: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        return evidence_terms(model, pixels, target, EvidenceOptions(0.1, 0.3), seeds)

    terms = one_step(model, evidence, side)
    assert {"full", "consist", "drop", "locate"} <= set(terms)
    assert all(value.shape == () for value in terms.values())
    grads = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert grads and all(grad is not None for grad in grads)


def test_the_published_objective_waits_for_no_value() -> None:
    model = on_meta("convnext_tiny", 224)

    def published(model: RoiModel, pixels: Tensor, target: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        return consistency_terms(model, pixels, target, 0.1, seeds)

    assert set(one_step(model, published, 224)) >= {"full", "consist", "drop", "sparse", "tv"}


def test_a_step_that_asks_for_a_value_is_noticed() -> None:
    """The control of the two tests above."""
    model = on_meta("convnext_tiny", 224)

    def asking(model: RoiModel, pixels: Tensor, target: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        terms = evidence_terms(model, pixels, target, EvidenceOptions(0.1, 0.3), seeds)
        terms["full"].item()
        return terms

    with pytest.raises(RuntimeError, match="meta"):
        one_step(model, asking, 224)


def test_the_scale_of_fp16_falls_and_the_step_is_left_out_where_a_gradient_overflows() -> None:
    model = nn.Linear(4, 1)
    before = model.weight.detach().clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for scale, moved in ((torch.inf, False), (1.0, True)):
        optimizer.zero_grad()
        scaler.scale((model(torch.ones(2, 4)) * scale).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(model.weight, before) is not moved
    assert scaler.get_scale() == 2.0**19
