"""Weights laid out for writing give the same logits, or nearly, and say where they cannot."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from backend.config.schema import PRESETS, ModelConfig
from backend.errors import ConfigError
from backend.models import packed
from backend.models.generation import Row, Sampling, generate
from backend.models.gpt import GPT
from backend.models.packed import pack
from backend.runtime import cpu_has_bfloat16

V = 2000


@pytest.fixture(scope="module", params=["gpt2", "modern"])
def model(request):
    torch.manual_seed(0)
    shape = PRESETS["modern"] | {"bigram": 64} if request.param == "modern" else {}
    gpt = GPT(ModelConfig(block_size=32, n_layer=2, n_head=4, n_embd=256, **shape), V).eval()
    with torch.no_grad():
        for weight in gpt.parameters():
            weight.add_(torch.randn_like(weight) * 0.03)
    return gpt


def packed_modules(model):
    kinds = (packed.Transposed, packed.Reordered, packed.Int8)
    return [m for m in model.modules() if isinstance(m, kinds)]


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_logits_are_those_of_the_plain_model_within_the_rounding(model, dtype, rows):
    if dtype == "bfloat16" and not cpu_has_bfloat16():
        pytest.skip("this processor has no bfloat16")
    ours = pack(copy.deepcopy(model), getattr(torch, dtype), rows)
    assert packed_modules(ours)
    idx = torch.randint(V, (rows, 20))
    with torch.no_grad():
        expected, got = model(idx)[0], ours(idx)[0].float()
    spread = expected.std()
    most = {"float32": 1e-5, "bfloat16": 0.05, "int8": 0.05}[dtype]
    assert ((got - expected).std() / spread) < most
    # int8 costs well under half a per cent of the loss of such a model
    losses = [F.cross_entropy(a.flatten(0, 1), idx.flatten()) for a in (expected, got)]
    assert abs(losses[1] / losses[0] - 1) < 0.005
    assert losses[0] > math.log(V) - 1


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_what_is_packed_writes_cached_and_alike_alone_and_in_a_batch(model, dtype):
    def written(seeds):
        ours = pack(copy.deepcopy(model), getattr(torch, dtype), len(seeds))
        rows = [Row([1, 2, 3][: 1 + s % 3], s, left=50) for s in seeds]
        for _ in generate(ours, rows, Sampling(top_k=50)):
            pass
        return [row.ids for row in rows]

    together = written([1, 2, 3])
    assert len(set(map(tuple, together))) == 3
    if dtype == "float32":  # int8 scales its inputs by the largest of the batch
        assert together == [written([s])[0] for s in (1, 2, 3)]


def test_small_matrices_stay_as_they_are(model, monkeypatch):
    monkeypatch.setattr(packed, "LEAST", 10**9)
    assert not packed_modules(pack(copy.deepcopy(model), torch.int8, 1))


def test_a_pytorch_without_int8_is_a_sentence(model, monkeypatch):
    def gone(*_):
        raise RuntimeError("Didn't find engine for operation quantized::linear_prepack\nmore")

    monkeypatch.setattr(packed.Int8, "__init__", gone)
    with pytest.raises(ConfigError) as error:
        pack(copy.deepcopy(model), torch.int8, 1)
    assert "no int8 products" in error.value.what
    assert error.value.why.endswith("linear_prepack")
    assert "bfloat16" in error.value.mend
