"""HellaSwag and LAMBADA: does the model tell a sensible ending from others, and guess a last word?

    data/hellaswag/val.jsonl    {ctx, endings, label}; the ending follows the context and a space
    data/lambada/test.jsonl     {text}; its last word is guessed from all before it

Figures as EleutherAI's lm-evaluation-harness defines them: acc takes the likeliest ending, acc_norm
the likeliest per character; LAMBADA's word counts where each of its tokens is the likeliest, and
its perplexity is of whole words. Contexts are read as they stand, as nano-gpt and llm.c read them
(the harness puts the activity before HellaSwag's). Every example is scored once, whatever the
number of processes.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from backend.data.tokenizers import Tokenizer
from backend.errors import DataError
from backend.evaluation.loss import WINDOWS, continuations
from backend.models.gpt import GPT
from backend.runtime import Runtime

FILES = {
    "hellaswag": Path("data/hellaswag/val.jsonl"),
    "lambada": Path("data/lambada/test.jsonl"),
}


def hellaswag(
    model: GPT,
    tokenizer: Tokenizer,
    runtime: Runtime,
    *,
    most: int | None = None,
    batch_size: int = WINDOWS,
    between: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """{n, acc, acc_norm, acc_stderr} over the first `most` examples; every process must call it.

    Raises:
        DataError: the file is not there, or a row is none.
    """
    rows = list(islice(_rows("hellaswag"), most))
    requests = [
        _split(tokenizer, model, row["ctx"], f" {ending}")
        for row in rows
        for ending in row["endings"]
    ]
    nats, _ = continuations(model, requests, runtime, batch_size=batch_size, between=between)
    right = right_norm = at = 0
    for row in rows:
        own = nats[at : at + len(row["endings"])]
        at += len(own)
        right += int(own.argmin()) == row["label"]
        per_character = own / [max(1, len(ending)) for ending in row["endings"]]
        right_norm += int(per_character.argmin()) == row["label"]
    return {"n": len(rows), "acc": right / len(rows), "acc_norm": right_norm / len(rows),
            "acc_stderr": _standard_error(right / len(rows), len(rows))}  # fmt: skip


def lambada(
    model: GPT,
    tokenizer: Tokenizer,
    runtime: Runtime,
    *,
    most: int | None = None,
    batch_size: int = WINDOWS,
    between: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """{n, acc, acc_stderr, perplexity} of the last words of the first `most` texts.

    Raises:
        DataError: as hellaswag.
    """
    requests = []
    for row in islice(_rows("lambada"), most):
        context, _, word = row["text"].rstrip().rpartition(" ")
        requests.append(_split(tokenizer, model, context, f" {word}"))
    nats, greedy = continuations(model, requests, runtime, batch_size=batch_size, between=between)
    acc = float(greedy.mean())
    return {"n": len(requests), "acc": acc, "acc_stderr": _standard_error(acc, len(requests)),
            "perplexity": math.exp(min(700.0, float(nats.mean())))}  # fmt: skip


def check(*names: str) -> None:
    """Before anything is computed.

    Raises:
        DataError: a file is not there.
    """
    for name in names:
        if not FILES[name].is_file():
            raise DataError(f"{name} is not here: {FILES[name]} is missing", mend=_mend(name))


def _mend(task: str) -> str:
    return f"python -m backend.data.corpora --corpus={task}, or with --path=FILE one that you have"


def _standard_error(share: float, n: int) -> float:
    """Of a mean of zeros and ones, as the harness has it."""
    return math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else math.nan


def _split(
    tokenizer: Tokenizer, model: GPT, context: str, text: str
) -> tuple[Sequence[int], Sequence[int]]:
    """Ids of both, encoded as one: a tokenizer may join the characters at the border. Spaces that
    end the context belong to the text, as in the harness."""
    bare = context.rstrip()
    context, text = bare, context[len(bare) :] + text
    whole = _ids(tokenizer, model, context + text)
    before = _ids(tokenizer, model, context)
    if not before or len(before) >= len(whole):
        before = [tokenizer.eot if tokenizer.eot < model.vocab_size else 0]
        whole = [*before, *(_ids(tokenizer, model, text) or before)]
    return before, whole[len(before) :]


def _ids(tokenizer: Tokenizer, model: GPT, text: str) -> list[int]:
    ids = tokenizer.encode(tokenizer.nearest(text)).tolist()
    return [i for i in ids if i < model.vocab_size]


def _rows(task: str) -> Iterator[dict[str, Any]]:
    check(task)
    path, n = FILES[task], 0
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                n += 1
                row = json.loads(line)
                if task == "lambada":
                    ok = isinstance(row["text"], str) and " " in row["text"].strip()
                else:
                    ok = isinstance(row["ctx"], str) and 0 <= row["label"] < len(row["endings"])
                if not ok:
                    raise ValueError
                yield row
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path} line {n} is no example of {task}", mend=_mend(task)) from None
    if not n:
        raise DataError(f"{path} is empty", mend=_mend(task))
