"""Specifications, fingerprints, URIs, plug-ins and the check of results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embver_pg.encoders import (
    EncoderSpec,
    MissingExtraError,
    RejectedInputError,
    Vectors,
    checked,
    fingerprint,
    load,
    parse_uri,
    providers,
    validate,
)
from embver_pg.encoders import registry as registry_module
from embver_pg.encoders.blame import encoder_of
from embver_pg.encoders.identity import content_identity
from embver_pg.encoders.probes import encode_probes
from embver_pg.errors import DimensionMismatch, EmbverError, InvalidArgument

BASE = EncoderSpec("openai", "some-model", revision="r1", query_prompt="query: ")

specs = st.builds(
    EncoderSpec,
    provider=st.sampled_from(["hash", "openai", "acme"]),
    model=st.text(min_size=1).filter(lambda s: s.strip()),
    revision=st.none() | st.text(),
    document_prompt=st.none() | st.text(),
    query_prompt=st.none() | st.text(),
    normalize=st.booleans(),
    max_tokens=st.none() | st.integers(1, 8192),
    dimensions=st.none() | st.integers(1, 4000),
    options=st.dictionaries(st.sampled_from(["a", "b"]), st.integers() | st.lists(st.booleans())),
)


@given(specs)
def test_a_specification_survives_json(spec: EncoderSpec) -> None:
    assert EncoderSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert hash(EncoderSpec.from_json(spec.to_json())) == hash(spec)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"provider": "hash"},
        {"provider": "hash", "model": ""},
        {"provider": "hash", "model": "8", "colour": 1},
        {"provider": "hash", "model": 8},
        {"provider": "hash", "model": "8", "normalize": "yes"},
        {"provider": "hash", "model": "8", "dimensions": 0},
        {"provider": "hash", "model": "8", "dimensions": True},
        {"provider": "hash", "model": "8", "max_tokens": 1.5},
        {"provider": "hash", "model": "8", "query_prompt": 3},
        {"provider": "hash", "model": "8", "options": []},
        {"provider": "hash", "model": "8", "options": {"x": float("nan")}},
        {"provider": "hash", "model": "8", "options": {"x": object()}},
    ],
)
def test_a_malformed_specification_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        EncoderSpec.from_json(data)


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": "sk-hidden"},
        {"API-KEY": "sk-hidden"},
        {"OPENAI_API_KEY": "sk-hidden"},
        {"headers": {"Authorization": "sk-hidden"}},
        {"headers": [{"x-auth-token": "sk-hidden"}]},
        {"base_url": "http://user:sk-hidden@127.0.0.1/v1"},
        {"base_url": "http://127.0.0.1/v1?api_key=sk-hidden"},
    ],
)
def test_a_secret_is_refused_and_not_repeated(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        EncoderSpec("openai", "m", options=options)
    error = caught.value
    assert "sk-hidden" not in f"{error} {error.detail} {error.hint}"
    assert "OPENAI_API_KEY" in str(error.hint)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"revision": "r2"},
        {"document_prompt": "passage: "},
        {"query_prompt": "q: "},
        {"normalize": False},
        {"max_tokens": 100},
        {"options": {"dtype": "bfloat16"}},
        {"options": {"alias": "other"}},
    ],
)
def test_what_changes_the_space_changes_the_fingerprint(change: dict[str, Any]) -> None:
    other = dataclasses.replace(BASE, **change)
    assert fingerprint(other, 64) != fingerprint(BASE, 64)
    assert fingerprint(BASE, 65) != fingerprint(BASE, 64)


@pytest.mark.parametrize(
    "change",
    [
        {"provider": "acme"},
        {"options": {"base_url": "http://127.0.0.1:9/v1"}},
        {"options": {"max_batch": 7, "device": "cpu", "dtype": "float32"}},
        {"document_prompt": ""},
        {"model": "deployment-7", "options": {"alias": "some-model"}},
    ],
)
def test_what_keeps_the_space_keeps_the_fingerprint(change: dict[str, Any]) -> None:
    assert fingerprint(dataclasses.replace(BASE, **change), 64) == fingerprint(BASE, 64)


def test_the_fingerprint_is_frozen() -> None:
    """Stored fingerprints must mean the same in every release."""
    canonical = (
        b'{"dimensions":64,"document_prompt":"","max_tokens":null,"model":"some-model",'
        b'"normalize":true,"query_prompt":"query: ","revision":"r1"}'
    )
    assert fingerprint(BASE, 64) == hashlib.sha256(canonical).hexdigest()[:32]
    assert fingerprint(BASE, 64) == "11c885d2987fbbe50b039c77ab80a73f"


def test_only_content_makes_the_revision_void() -> None:
    later = dataclasses.replace(BASE, revision="r2")
    assert fingerprint(BASE, 64, "sha256:00") == fingerprint(later, 64, "sha256:00")
    assert fingerprint(BASE, 64, "full/name") != fingerprint(later, 64, "full/name")


def model_directory(path: Path, weights: bytes = b"weights") -> Path:
    (path / "1_Pooling").mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "1_Pooling" / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_a_directory_is_its_content(tmp_path: Path) -> None:
    first = model_directory(tmp_path / "first")
    identity = content_identity(first)
    assert content_identity(model_directory(tmp_path / "second")) == identity
    assert content_identity(model_directory(tmp_path / "third", b"Weights")) != identity
    (first / "README.md").write_text("no part of the model")
    (first / "pytorch_model.bin").write_bytes(b"the same weights, pickled")
    (first / "onnx").mkdir()
    (first / "onnx" / "model.json").write_text("another runtime")
    assert content_identity(first) == identity
    (first / "model.safetensors").write_bytes(b"WEIGHTS")
    assert content_identity(first) != identity
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidArgument, match="holds no model"):
        content_identity(tmp_path / "empty")


def test_a_uri_becomes_a_specification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_uri("hash:256") == EncoderSpec("hash", "256", dimensions=256)
    named = parse_uri("sentence-transformers:sentence-transformers/all-MiniLM-L6-v2")
    assert (named.provider, named.model) == (
        "sentence-transformers",
        "sentence-transformers/all-MiniLM-L6-v2",
    )
    assert parse_uri("openai:a:b", base_url="http://127.0.0.1/v1", revision="1") == EncoderSpec(
        "openai", "a:b", revision="1", options={"base_url": "http://127.0.0.1/v1"}
    )
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_uri("model2vec:./model").model == str((tmp_path / "model").resolve())


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "hash",
        ":8",
        "hash:",
        "hash: ",
        "hash:0",
        "hash:-1",
        "hash:many",
        "hash:٣",
        "hash:16001",
        "hash:9999999999",
        "hsah:8",
        "http://127.0.0.1/v1",
        "model2vec:/no/such/directory",
        "sentence-transformers:~nobody-of-this-name/model",
        None,
        8,
    ],
)
def test_a_bad_uri_is_refused_with_what_to_type(uri: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        load(uri)
    assert caught.value.code == "VM006"
    assert caught.value.detail
    assert caught.value.hint


def test_a_misspelt_provider_is_named() -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_uri("sentence_transformers:x")
    assert caught.value.hint == "Did you mean 'sentence-transformers'?"


def test_options_are_checked() -> None:
    for options in ({"colour": 1}, {"alias": 3}, {"dimensions": 9}):
        with pytest.raises(InvalidArgument):
            load("hash:8", **options)
    assert load("hash:8", query_prompt="q ").spec.query_prompt == "q "
    assert load(EncoderSpec("hash", "8"), normalize=False).spec.normalize is False
    assert load(EncoderSpec("hash", "8").to_json()).dimensions == 8


PLUG_IN = '''
import numpy as np

class Lengths:
    """Encodes a text by its length."""

    def __init__(self, spec):
        self.spec, self.dimensions, self.fingerprint = spec, 2, "lengths"

    @classmethod
    def made(cls, spec):
        return cls(spec)

    def encode_documents(self, texts):
        return np.array([[len(t), 1] for t in texts], dtype=np.float32)

    encode_queries = encode_documents

class Half:
    def __init__(self, spec):
        self.spec = spec

class Failing(Lengths):
    def __init__(self, spec):
        super().__init__(spec)
        if spec.model == "made":
            raise OSError("no such weights")

    def encode_documents(self, texts):
        raise RuntimeError("CUDA out of memory")

    encode_queries = encode_documents
'''


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution as an installer would leave it, with good and bad entry points."""
    (tmp_path / "acme_lengths.py").write_text(PLUG_IN)
    info = tmp_path / "acme_lengths-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-lengths\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[embver_pg.encoders]\n"
        "lengths = acme_lengths:Lengths\n"
        "made = acme_lengths:Lengths.made\n"
        "half = acme_lengths:Half\n"
        "broken = acme_missing:Nothing\n"
        "failing = acme_lengths:Failing\n"
        "hash = acme_lengths:Lengths\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("acme_lengths", None)


@pytest.mark.usefixtures("plug_in")
def test_a_plug_in_is_found_by_its_entry_point() -> None:
    for provider in ("lengths", "made"):
        encoder = load(f"{provider}:any", anything={"goes": 1})
        assert encoder.spec.options == {"anything": {"goes": 1}}
        assert encoder.encode_documents(["abc"]).tolist() == [[3, 1]]
    assert {"lengths", "hash", "openai"} <= set(providers())
    assert type(load("hash:8")).__module__ == "embver_pg.encoders.hashing"
    with pytest.raises(InvalidArgument, match=r"has no dimensions, encode_documents"):
        load("half:x")
    with pytest.raises(InvalidArgument, match="cannot be loaded"):
        load("broken:x")


@pytest.mark.usefixtures("plug_in")
def test_what_an_encoder_raises_says_which_one_it_was() -> None:
    with pytest.raises(OSError, match="no such weights") as made:
        load("failing:made")
    assert encoder_of(made.value) == "failing:made"
    encoder = load("failing:used")
    for call in (
        checked(encoder).encode_documents,
        checked(encoder).encode_queries,
        lambda texts: encode_probes(encoder, texts),
    ):
        with pytest.raises(RuntimeError, match="out of memory") as used:
            call(["a text"])
        assert encoder_of(used.value) == "failing:used"
    assert encoder_of(RuntimeError("not of an encoder")) is None


def test_built_ins_need_no_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "entry_points", lambda **_: [])
    assert load("hash:8").dimensions == 8
    assert providers() == ["hash", "model2vec", "openai", "sentence-transformers"]


@pytest.mark.parametrize("extra", ["sentence-transformers", "model2vec", "openai"])
def test_a_missing_extra_says_what_to_type(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        load(f"{extra}:some/model", **({"base_url": "http://x/v1"} if extra == "openai" else {}))
    assert caught.value.hint == f"pip install 'embver-pg[{extra}]'"
    assert caught.value.code == "VM006"


def test_importing_the_package_imports_no_model_library() -> None:
    heavy = "{'torch', 'sentence_transformers', 'model2vec', 'openai', 'scipy', 'tenacity'}"
    program = (
        "import sys, embver_pg.encoders as e; e.load('hash:8').encode_documents(['a']);"
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


class Scripted:
    """An encoder that returns what it is told to."""

    spec, dimensions, fingerprint = EncoderSpec("scripted", "x"), 2, "f"

    def __init__(self, result: Any) -> None:
        self.result = result

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        return self.result  # type: ignore[no-any-return]

    encode_queries = encode_documents


def test_a_good_result_becomes_float32_and_contiguous() -> None:
    result = checked(Scripted(np.ones((2, 3)).T[:, ::1])).encode_documents(["a", "b", "c"])
    assert result.dtype == np.float32
    assert result.shape == (3, 2)
    assert result.flags["C_CONTIGUOUS"]
    assert checked(Scripted([])).encode_queries([]).shape == (0, 2)
    assert validate([], 0, 5).shape == (0, 5)


@pytest.mark.parametrize(
    ("result", "error", "code"),
    [
        ([[1, 2]], InvalidArgument, "VM006"),
        ([[1, 2]] * 3, InvalidArgument, "VM006"),
        ([1, 2], InvalidArgument, "VM006"),
        (None, InvalidArgument, "VM006"),
        ("xy", InvalidArgument, "VM006"),
        ([[1], [1, 2]], InvalidArgument, "VM006"),
        ([["a", "b"], ["c", "d"]], InvalidArgument, "VM006"),
        ([[1, 2, 3]] * 2, DimensionMismatch, "VM013"),
        ([[1, 2], [np.nan, 1]], RejectedInputError, "VM006"),
        ([[1, 2], [np.inf, 1]], RejectedInputError, "VM006"),
        ([[1, 2], [1e300, 1]], RejectedInputError, "VM006"),
        ([[1, 2], [0, 0]], RejectedInputError, "VM006"),
    ],
)
def test_a_bad_result_is_refused(result: Any, error: type[EmbverError], code: str) -> None:
    with pytest.raises(error) as caught:
        checked(Scripted(result), cosine=True).encode_documents(["a", "b"])
    assert caught.value.code == code
    assert caught.value.detail
    if error is RejectedInputError:
        assert caught.value.detail["positions"] == [1]


def test_a_zero_vector_is_fine_without_cosine() -> None:
    assert not checked(Scripted(np.zeros((1, 2)))).encode_documents(["a"]).any()
