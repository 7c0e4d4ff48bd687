"""Queries of names: the file, who asks with what, a name that was not trained on, the encoder of a tiny BERT."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import one_line_error, run
from torch import Tensor, nn

from roi.data.studies import KINDS
from roi.errors import UserError
from roi.models.fusion import ViewAttention, build_study_model, pool
from roi.models.queries import (
    OWN,
    Queries,
    folder_sha256,
    permuted,
    read_queries,
    vectors_by_name,
    vectors_of_new_names,
    write_queries,
)
from roi.models.text_encoder import encode, mean_of_tokens, spoken

NAMES = ["Mass", "Pleural Effusion", "Fracture"]
CHANNELS, WIDTH, SIDE = 6, 16, 64


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text("{}")
    return tmp_path / "bert"


def written(folder: Path, model_folder: Path, names: list[str] = NAMES) -> str:
    vectors = np.random.default_rng(0).normal(size=(len(names), 5))
    write_queries(folder / "q.npz", names, vectors, "a {}", model_folder)
    return str(folder / "q.npz")


def test_classes_find_their_vectors_by_name(tmp_path: Path, model_folder: Path) -> None:
    file = read_queries(written(tmp_path, model_folder))
    assert file.names == NAMES and file.vectors.dtype == torch.float32
    assert file.model_sha256 == folder_sha256(model_folder)
    # Effusion = Pleural Effusion.
    assert torch.equal(vectors_by_name(file, ["fracture", "Effusion", "Mass"]), file.vectors[[2, 1, 0]])
    with pytest.raises(UserError, match=r"has no 'Hernia' \(1 of 2 classes are missing\).*--csv TABLE"):
        vectors_by_name(file, ["Mass", "Hernia"])
    assert torch.equal(vectors_of_new_names(file, file.model_sha256), file.vectors)
    with pytest.raises(UserError, match="of another language model"):
        vectors_of_new_names(file, "f" * 64)


def test_a_file_that_is_something_else_is_one_line(tmp_path: Path, model_folder: Path) -> None:
    path = tmp_path / "q.npz"
    with pytest.raises(UserError, match="no such file; make it with make_queries.py"):
        read_queries(str(path))
    good = dict(np.load(written(tmp_path, model_folder)))
    for change, message in (
        ({"names": np.array(NAMES, dtype=object)}, "not a file of make_queries.py"),  # a pickle
        ({"names": np.array(["Mass", "Mass", "Edema"])}, "has 'Mass' twice"),
        ({"vectors": good["vectors"][:2]}, "one vector of finite float32 a name"),
        ({"vectors": good["vectors"] * np.nan}, "one vector of finite float32 a name"),
    ):
        np.savez(path, **(good | change))
        with pytest.raises(UserError, match=message):
            read_queries(str(path))
    path.write_bytes(b"hello")
    with pytest.raises(UserError, match=r"not a file of make_queries.py"):
        read_queries(str(path))


def test_the_digest_is_of_names_and_contents(model_folder: Path) -> None:
    before = folder_sha256(model_folder)
    (model_folder / ".cache").write_text("x")
    assert folder_sha256(model_folder) == before
    (model_folder / "config.json").write_text("{ }")
    changed = folder_sha256(model_folder)
    (model_folder / "config.json").rename(model_folder / "other.json")
    assert len({before, changed, folder_sha256(model_folder)}) == 3


@pytest.mark.parametrize("count", [2, 3, 14])
def test_no_class_keeps_its_own_vector_where_they_are_permuted(count: int) -> None:
    vectors = torch.arange(count * 2.0).view(count, 2)
    moved = permuted(vectors, seed=3)
    assert torch.equal(moved.sort(0).values, vectors) and not (moved == vectors).any()
    assert torch.equal(moved, permuted(vectors, seed=3))


def attention(queries: Queries = OWN, classes: int = 3) -> ViewAttention:
    torch.manual_seed(0)
    made = ViewAttention(CHANNELS, classes, WIDTH, 4, queries)
    with torch.no_grad():
        nn.init.normal_(made.weight)
    return made.eval()


def asked(made: ViewAttention) -> Tensor:
    """Of two studies, of two images and of one."""
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(3, CHANNELS, 4, 4, generator=generator)
    with torch.no_grad():
        return made(made.tokens(maps, torch.tensor([0, 1, 2])), torch.tensor([[0, 1], [2, -1]]))


def test_learned_queries_are_drawn_as_they_were() -> None:
    made = attention()
    torch.manual_seed(0)
    # What is drawn before them.
    nn.Linear(CHANNELS, WIDTH)
    nn.Embedding(len(KINDS), WIDTH)
    assert torch.equal(made.queries, torch.randn(3, WIDTH))
    fixed = attention(Queries(fixed=True))
    assert torch.equal(fixed.queries, made.queries) and torch.equal(asked(fixed), asked(made))
    assert "queries" in fixed.state_dict() and "queries" not in dict(fixed.named_parameters())


def test_a_name_that_shares_the_last_layer_has_its_own_logit_whoever_else_is_asked() -> None:
    vectors = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    made = attention(Queries(text=vectors, shared=True))
    logits = asked(made)
    made.text = vectors[[2, 0]]
    torch.testing.assert_close(asked(made), logits[:, [2, 0]])
    assert made.weight.shape == (1, WIDTH) and (logits[:, 0] - logits[:, 1]).abs().max() > 0.1


def test_the_vectors_of_names_do_not_learn_and_the_layer_that_reads_them_does() -> None:
    made = attention(Queries(text=torch.randn(3, 5)))
    learning = dict(made.named_parameters())
    assert "text" not in learning and {"read_text.weight", "read_text.bias"} <= set(learning)
    assert "queries" not in made.state_dict() and "text" in made.state_dict()


@pytest.mark.parametrize("queries", [Queries(fixed=True), Queries(text=torch.ones(3, 5))])
def test_an_untrained_attention_changes_nothing(queries: Queries) -> None:
    model = build_study_model(
        "test_resnet", NAMES, "attention", "none", SIDE, 0, False, width=32, cells=4, queries=queries
    ).eval()
    place, kinds = torch.tensor([[0, 1]]), torch.tensor([0, 1])
    with torch.no_grad():
        seen = model.see(torch.randint(0, 256, (2, 1, SIDE, SIDE), dtype=torch.uint8), kinds)
        assert torch.equal(model.fuse(seen, place), pool(seen.logits, place, "lse"))
        assert torch.equal(model.alone(seen), seen.logits)


def test_what_is_spoken() -> None:
    assert [spoken(name) for name in ("Pleural_Thickening", "Normal (labelled)", "Mass")] == [
        "Pleural Thickening",
        "Normal",
        "Mass",
    ]
    states = torch.tensor([[[1.0, 2], [3, 4], [9, 9]]])
    assert mean_of_tokens(states, torch.tensor([[1, 1, 0]])).tolist() == [[2.0, 3.0]]


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers and 40 words, its weights drawn."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (requirements-text.txt)")
    folder = tmp_path_factory.mktemp("tiny") / "bert"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "chest", "x", "-", "ray", "showing", "mass"]
    words += ["pleural", "effusion", "fracture", "hernia", "normal", "edema"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(vocab={word: n for n, word in enumerate(words)}).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_a_vector_is_the_mean_of_the_last_hidden_states(tiny_bert: Path) -> None:
    import transformers

    vectors = encode(tiny_bert, NAMES, "a chest x-ray showing {}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    model = transformers.AutoModel.from_pretrained(tiny_bert).eval()
    for name, vector in zip(NAMES, vectors, strict=True):
        # One sentence at a time: nothing is padded.
        tokens = tokenizer(f"a chest x-ray showing {name}", return_tensors="pt")
        with torch.no_grad():
            states = model(**tokens).last_hidden_state[0]
        assert len(states) in (9, 10)
        np.testing.assert_allclose(vector, states.mean(0).numpy(), atol=1e-5)
    assert abs(vectors[0] - vectors[1]).max() > 0.01


def test_make_queries_writes_what_training_reads(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text('image,labels,unknown\n1.png,Mass,Hernia\n2.png,"Effusion,Fracture",\n')
    (tmp_path / "names.txt").write_text("Edema\n\nNormal\n")
    out = tmp_path / "q.npz"
    said = run("make_queries.py", "--model", tiny_bert, "--csv", tmp_path / "table.csv", "--out", out)
    assert f"4 names, 16 numbers each, of {tiny_bert} ({folder_sha256(tiny_bert)[:12]})" in said
    file = read_queries(str(out))
    assert file.names == ["Effusion", "Mass", "Hernia", "Fracture"]
    expected = encode(tiny_bert, file.names, "a chest x-ray showing {}")
    np.testing.assert_array_equal(file.vectors.numpy(), expected)
    names = ("make_queries.py", "--model", tiny_bert, "--names", tmp_path / "names.txt", "--out", out)
    assert "q.npz exists" in one_line_error(*names)
    run(*names, "--template", "{}", "--overwrite")
    assert read_queries(str(out)).names == ["Edema", "Normal"]


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "names.txt").write_text("Mass\nMass\n")
    command = ("make_queries.py", "--model", model_folder, "--names", tmp_path / "names.txt")
    out = ("--out", tmp_path / "q.npz")
    assert "has 'Mass' twice" in one_line_error(*command, *out)
    (tmp_path / "names.txt").unlink()
    assert f"--names {tmp_path / 'names.txt'}: no such file; give" in one_line_error(*command, *out)
    (tmp_path / "names.txt").write_text("\n")
    assert "the file is empty" in one_line_error(*command, *out)
    (tmp_path / "names.txt").write_text("Mass\n")
    assert "{} must stand where the name goes" in one_line_error(*command, *out, "--template", "an x-ray")
    assert "write a .npz" in one_line_error(*command, "--out", tmp_path / "q.json")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "transformers", None)
        error = one_line_error(*command, *out)
        assert "needs the package transformers" in error and "pip install -r requirements-text.txt" in error
    pytest.importorskip("transformers", reason="transformers is not installed (requirements-text.txt)")
    assert "transformers cannot read it" in one_line_error(*command, *out)
    nowhere = ("make_queries.py", "--model", tmp_path / "none", "--names", tmp_path / "names.txt", *out)
    assert "no folder of a language model there" in one_line_error(*nowhere)
    assert not (tmp_path / "q.npz").exists()
