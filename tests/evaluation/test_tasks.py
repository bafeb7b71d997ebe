"""HellaSwag and LAMBADA against Hugging Face's GPT-2, one request at a time."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.config.schema import ModelConfig
from backend.data.tokenizers import CharTokenizer
from backend.errors import DataError
from backend.evaluation import tasks
from backend.evaluation.loss import continuations
from backend.evaluation.tasks import hellaswag, lambada
from backend.models import huggingface
from backend.models.gpt import GPT
from backend.models.weights import Weights
from backend.runtime import Runtime, detect

TEXT = "the old man went down to the sea and the sea came up to him again "
TOKENS = CharTokenizer.train([TEXT])
EXAMPLES = [
    {"ctx": "the old man", "endings": ["went down", "sea", "to", "and the sea"], "label": 0},
    {"ctx": "the", "endings": ["sea came", "him", "up to him again and again", "a"], "label": 1},
    {"ctx": "the sea came up to", "endings": ["him", "the sea", "man", "gain"], "label": 2},
]
LAST_WORDS = [{"text": "the old man went"}, {"text": "down to the sea "}, {"text": "and the sea"}]


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for task, rows in (("hellaswag", EXAMPLES), ("lambada", LAST_WORDS)):
        path = tasks.FILES[task]
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    model = GPT(ModelConfig(block_size=48, n_layer=2, n_head=2, n_embd=16), TOKENS.vocab_size)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6)
    return model.eval()


@pytest.fixture(scope="module")
def theirs(model, tmp_path_factory):
    """The same weights in transformers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    weights = Weights(model.config, model.vocab_size, model.weights())
    settings = huggingface.to_settings(model.config, model.vocab_size, TOKENS.eot)
    found = GPT2LMHeadModel(GPT2Config(**settings)).eval()
    found.load_state_dict(huggingface.to_tensors(weights), strict=False)
    found.tie_weights()
    return found


def by_hand(theirs, context, text):
    """(nats, all likeliest): every token after its whole context."""
    ids = TOKENS.encode(context + text).tolist()
    nats, likeliest = 0.0, True
    for at in range(len(context), len(ids)):
        with torch.no_grad():
            logits = theirs(torch.tensor([ids[max(0, at - 48) : at]])).logits[0, -1]
        nats -= logits.log_softmax(-1)[ids[at]].item()
        likeliest &= int(logits.argmax()) == ids[at]
    return nats, likeliest


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_hellaswag_is_what_transformers_says(model, theirs, batch_size):
    acc = acc_norm = 0
    for row in EXAMPLES:
        nats = [by_hand(theirs, row["ctx"], f" {ending}")[0] for ending in row["endings"]]
        acc += int(np.argmin(nats)) == row["label"]
        norm = [n / len(ending) for n, ending in zip(nats, row["endings"], strict=True)]
        acc_norm += int(np.argmin(norm)) == row["label"]
    got = hellaswag(model, TOKENS, detect(device="cpu"), batch_size=batch_size)
    assert got["n"] == 3
    assert (got["acc"], got["acc_norm"]) == (pytest.approx(acc / 3), pytest.approx(acc_norm / 3))
    assert got["acc_stderr"] == pytest.approx(math.sqrt(acc / 3 * (1 - acc / 3) / 2))


def test_lambada_is_what_transformers_says(model, theirs):
    scores = [
        by_hand(theirs, *(f"{a}", f" {b}"))
        for a, _, b in (row["text"].strip().rpartition(" ") for row in LAST_WORDS)
    ]
    got = lambada(model, TOKENS, detect(device="cpu"))
    assert got["acc"] == pytest.approx(np.mean([right for _, right in scores]))
    assert got["perplexity"] == pytest.approx(math.exp(np.mean([n for n, _ in scores])), rel=1e-4)


def test_continuations_are_those_of_transformers_also_where_they_outgrow_the_block(model, theirs):
    pairs = [("the sea", " came up"), (TEXT, "and"), ("a", " m")]
    requests = [tuple(TOKENS.encode(part).tolist() for part in pair) for pair in pairs]
    nats, likeliest = continuations(model, requests, detect(device="cpu"))
    for i, pair in enumerate(pairs):
        if len(pair[0]) + len(pair[1]) > 49:  # one window: its last tokens see less
            continue
        expected, greedy = by_hand(theirs, *pair)
        assert nats[i] == pytest.approx(expected, rel=1e-4)
        assert likeliest[i] == greedy
    greedy_ids = list(requests[0][0])
    for _ in range(4):
        with torch.no_grad():
            greedy_ids.append(int(theirs(torch.tensor([greedy_ids])).logits[0, -1].argmax()))
    own = (greedy_ids[:-4], greedy_ids[-4:])
    other = (greedy_ids[:-4], [*greedy_ids[-4:-1], (greedy_ids[-1] + 1) % 5])
    _, likeliest = continuations(model, [own, other], detect(device="cpu"))
    assert likeliest.tolist() == [True, False]
    long = [(requests[0][0], (requests[1][0] * 3)[:150])]
    [nats], _ = continuations(model, long, detect(device="cpu"))
    assert np.isfinite(nats)
    assert nats > 100


@pytest.mark.slow
def test_lm_eval_scores_every_request_alike(model, theirs, tmp_path):
    """Its own loglikelihood on the same weights and tokenizer; pip install lm-eval."""
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedTokenizerFast

    (tmp_path / "tokenizer.json").write_text(TOKENS.to_json())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), eos_token="<|endoftext|>"
    )
    judge = HFLM(pretrained=theirs, tokenizer=tokenizer, device="cpu", max_length=48)
    pairs = [(row["ctx"], f" {ending}") for row in EXAMPLES for ending in row["endings"]]
    pairs += [(TEXT, "and"), ("him ", "came"), ("", "the old man")]
    asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    expected = judge.loglikelihood(asked, disable_tqdm=True)
    requests = [tasks._split(TOKENS, model, *pair) for pair in pairs]
    nats, likeliest = continuations(model, requests, detect(device="cpu"))
    assert [-n for n in nats] == pytest.approx([score for score, _ in expected], rel=1e-4)
    assert likeliest.tolist() == [greedy for _, greedy in expected]


def test_a_uniform_model_is_right_by_chance_and_as_unsure_as_the_vocabulary_is_large(tmp_path):
    model = GPT(ModelConfig(block_size=48, n_layer=1, n_head=1, n_embd=8), TOKENS.vocab_size)
    torch.nn.init.zeros_(model.lm_head.weight)
    even = [
        {"ctx": "the", "endings": ["sea", "man", "old", "the"], "label": i % 4} for i in range(8)
    ]
    tasks.FILES["hellaswag"].write_text("".join(json.dumps(row) + "\n" for row in even))
    got = hellaswag(model, TOKENS, detect(device="cpu"))
    assert (got["acc"], got["acc_norm"]) == (0.25, 0.25)
    words = lambada(model, TOKENS, detect(device="cpu"))
    letters = np.mean([len(row["text"].strip().rpartition(" ")[2]) + 1 for row in LAST_WORDS])
    assert words["perplexity"] == pytest.approx(TOKENS.vocab_size**letters, rel=1e-3)


@pytest.mark.parametrize("processes", [2, 5])
def test_every_example_is_counted_once_whatever_the_number_of_processes(
    model, monkeypatch, processes
):
    requests = [([1, 2], [3, 4, 5]), ([1], [2]), ([3, 3, 3], [1, 1])]
    alone = detect(device="cpu")
    whole, _ = continuations(model, requests, alone, batch_size=1)
    monkeypatch.setattr(Runtime, "sum", lambda self, tensor: tensor)
    shares = [
        continuations(
            model, requests, replace(alone, rank=rank, world_size=processes), batch_size=1
        )[0]
        for rank in range(processes)
    ]
    assert sum(shares) == pytest.approx(whole)


def test_only_so_many_are_scored_where_that_is_asked_for(model):
    assert hellaswag(model, TOKENS, detect(device="cpu"), most=2)["n"] == 2


@pytest.mark.parametrize("line", ["", "{", "[]", '{"text": 3}', '{"text": "alone"}', "null"])
def test_what_is_no_example_is_a_sentence(model, line):
    tasks.FILES["lambada"].write_text(line)
    with pytest.raises(DataError, match="test.jsonl"):
        lambada(model, TOKENS, detect(device="cpu"))
    Path(tasks.FILES["hellaswag"]).unlink()
    with pytest.raises(DataError, match="hellaswag is not here"):
        hellaswag(model, TOKENS, detect(device="cpu"))
