"""ROI consistency for chest X-rays: the maths and the one training loop behind the scripts."""

import os

# MKL may split a product of small matrices among threads as it finds them free, so that sums round differently from run to run:
# a last batch of one image is enough. With this it does not (read once, at its first product); the cost is below the noise.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
if (
    os.environ.get("WORLD_SIZE", "1") != "1"
):  # torchrun; a warning of each process about parameters that a warm-up does not use
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
