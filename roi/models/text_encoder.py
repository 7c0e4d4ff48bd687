"""Vectors of names from a language model of a local folder; the package transformers is needed here alone.

Letters: N names, B of them at once, T tokens, d numbers a vector.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roi.errors import UserError
from roi.files import reason
from roi.labels import NORMAL, NORMAL_LABELLED

INSTALL = "pip install -r requirements-text.txt"
# Names that are encoded at once.
BATCH = 32


def encode(folder: Path, names: Sequence[str], template: str) -> np.ndarray:
    """One vector a name: the mean of the last hidden states over the tokens of its sentence.

    Not the pooler: of models that were trained by masked words alone it was never trained.

    Args:
        folder: a language model as transformers saves it; nothing is downloaded, and no code of it is run.
        template: the sentence, with {} in the place of the name.

    Returns:
        (N, d) float32

    Raises:
        UserError: the package, the folder or a part of it is not there.
    """
    tokenizer, model = _load(folder)
    vectors = []
    for first in range(0, len(names), BATCH):
        sentences = [template.replace("{}", spoken(name)) for name in names[first : first + BATCH]]
        # Sentences of one batch are padded to the longest; what is padded has no part in the mean.
        tokens = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            states = model(**tokens).last_hidden_state
        vectors.append(mean_of_tokens(states.float(), tokens["attention_mask"]))
    return torch.cat(vectors).numpy()


def spoken(name: str) -> str:
    """A class as a sentence has it: 'Pleural_Thickening' -> 'Pleural Thickening', 'Normal (labelled)' -> 'Normal'."""
    return NORMAL[0] if name == NORMAL_LABELLED else name.replace("_", " ")


def mean_of_tokens(states: Tensor, attention: Tensor) -> Tensor:
    """The mean over the tokens that are there: (B, T, d), (B, T) 1 or 0 where a sentence has ended -> (B, d)."""
    weight = attention[:, :, None].to(states)
    return (states * weight).sum(1) / weight.sum(1)


def _load(folder: Path) -> tuple[Any, Any]:
    """The tokenizer and the model, in eval mode."""
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise UserError(f"make_queries.py needs the package transformers ({reason(error)}): {INSTALL}") from error
    # Said here: transformers would take a folder that is not there for a name on a server.
    if not (folder / "config.json").is_file():
        raise UserError(f"--model {folder}: no folder of a language model there (it has a config.json and its weights)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # each kind of model has errors of its own
        raise UserError(f"--model {folder}: transformers cannot read it ({reason(error)})") from error
    return tokenizer, model.eval()
