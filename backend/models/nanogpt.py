"""nanoGPT's `ckpt.pt`, both ways.

It is one dictionary: model, model_args, iter_num, best_val_loss, config, optimizer. Read as plain
tensors and numbers only, so that a file with code in it is refused. nanoGPT's GELU is the exact
one, its head is always tied, its attention always softmax with learned positions.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from backend.config.schema import ModelConfig
from backend.errors import CheckpointError, ConfigError, first_line
from backend.models import huggingface
from backend.models.weights import Weights, shape_from
from backend.storage import atomic_write

ARGUMENTS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")
PREFIXES = ("_orig_mod.", "module.")  # left by torch.compile and DDP
GPT2_SIZE, PADDED_SIZE = 50_257, 50_304
WTE = "transformer.wte.weight"


def read(path: Path) -> tuple[Weights, dict[str, Any]]:
    """(weights, {iter_num, dataset}).

    A vocabulary of 50,304 is GPT-2's with nanoGPT's padding, which is cut off.

    Raises:
        CheckpointError: unreadable, unsafe, or not nanoGPT's.
    """
    try:
        whole = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} cannot be read as plain tensors: {first_line(error)}",
            why="a pickle may hold code, and is never run",
            mend="a ckpt.pt as nanoGPT's train.py writes it",
        ) from error
    try:
        arguments = whole["model_args"]
        config = shape_from({k: arguments[k] for k in ARGUMENTS} | {"activation": "gelu"})
        vocab_size = int(arguments["vocab_size"])
        tensors = {_plain(name): tensor.float() for name, tensor in whole["model"].items()}
        training = whole.get("config") or {}
        facts = {"iter_num": int(whole.get("iter_num", 0)), "dataset": training.get("dataset")}
        tensors = {k: v for k, v in tensors.items() if not huggingface.BUFFERS.search(k)}
        tensors.pop("lm_head.weight", None)  # tied
        if vocab_size == PADDED_SIZE:
            vocab_size = GPT2_SIZE
            tensors = {k: v[:vocab_size] if k == WTE else v for k, v in tensors.items()}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of nanoGPT: {error!r} in place of what it holds"
        ) from error
    return Weights(config, vocab_size, tensors), facts


def refusals(config: ModelConfig) -> list[str]:
    """What nanoGPT cannot express."""
    wrong = huggingface.refusals(config)
    if not config.tied_head:
        wrong.append("tied_head = False (nanoGPT ties it)")
    if config.activation == "relu2":
        wrong.append("activation = relu2 (nanoGPT has the exact GELU)")
    return wrong


def write(path: Path, weights: Weights, *, step: int, loss: float, dataset: str) -> None:
    """A ckpt.pt that nanoGPT's sample.py reads, and its train.py resumes, with a fresh optimizer.

    Args:
        loss: the best validation loss, nats per token.
        dataset: nanoGPT looks for meta.pkl in data/<dataset>/.
    Raises:
        ConfigError: a model that nanoGPT has not.
    """
    if wrong := refusals(weights.config):
        raise ConfigError(
            f"nanoGPT cannot express {', '.join(wrong)}",
            mend="--format=safetensors keeps every kind",
        )
    tensors = dict(weights.tensors)
    tensors["lm_head.weight"] = tensors[WTE]
    arguments: Mapping[str, Any] = {k: getattr(weights.config, k) for k in ARGUMENTS}
    own = [v for k, v in tensors.items() if k != "lm_head.weight"]
    groups = [{"params": [v for v in own if v.dim() > 1], "weight_decay": 0.1}]
    groups += [{"params": [v for v in own if v.dim() == 1], "weight_decay": 0.0}]
    whole = {
        "model": tensors,
        "optimizer": torch.optim.AdamW(groups, betas=(0.9, 0.95)).state_dict(),
        "model_args": {**arguments, "vocab_size": weights.vocab_size},
        "iter_num": step,
        "best_val_loss": loss,
        "config": {"dataset": dataset},
    }
    with atomic_write(path, "wb") as file:
        torch.save(whole, file)


def _plain(name: str) -> str:
    for prefix in PREFIXES * 2:  # in either order
        name = name.removeprefix(prefix)
    return name
