"""GPT <-> Hugging Face's GPT-2: one table of settings and one rule of names, strict both ways.

Reading takes a folder with `config.json` and weights, a hub id, or gpt2[-medium|-large|-xl]; what
is in the cache (HF_HOME) needs no network. No code of a repository is ever run, no pickle read but
by PyTorch's loader of plain tensors.
"""

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from backend.config.schema import ModelConfig
from backend.errors import CheckpointError, ConfigError, first_line
from backend.models.weights import Weights, shape_from

# ours -> theirs, and what the values are called
SETTINGS: Mapping[str, str] = {
    "block_size": "n_positions",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "activation": "activation_function",
    "tied_head": "tie_word_embeddings",
    "dropout": "resid_pdrop",
}
ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu2": "relu2"}
SAME_ACTIVATION = {"gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new", "gelu_python": "gelu"}
# theirs: what every GPT-2 of ours is, and GPT2Config's default
FIXED: Mapping[str, Any] = {
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
# ours: what Hugging Face's GPT-2 cannot express as anything else
ONLY: Mapping[str, Any] = {
    "attn_type": "SM",
    "position": "learned",
    "qk_norm": False,
    "logit_softcap": None,
    "bigram": 0,
}
# GPT-2's own linear layers keep their matrix as (inputs, outputs)
TRANSPOSED = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
BUFFERS = re.compile(r"\.attn\.(bias|masked_bias)$")  # causal masks that old files carry
SMALL = ["config.json", "generation_config.json", "tokenizer.json", "vocab.json", "merges.txt"]
SAFE = ["model.safetensors", "model-*.safetensors", "model.safetensors.index.json"]
OLD = ["pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"]


def refusals(config: ModelConfig) -> list[str]:
    """Why Hugging Face's GPT-2 cannot express a model: one `key = value` each, with what it can."""
    config = config.resolved()
    return [
        f"{key} = {getattr(config, key)} (GPT-2 has {value})"
        for key, value in ONLY.items()
        if getattr(config, key) != value
    ]


def to_settings(config: ModelConfig, vocab_size: int, eot: int) -> dict[str, Any]:
    """config.json.

    Raises:
        ConfigError: a model that GPT2LMHeadModel is not.
    """
    if wrong := refusals(config):
        raise ConfigError(
            f"Hugging Face's GPT-2 cannot express {', '.join(wrong)}",
            mend="--format=safetensors keeps every kind; SM with learned positions exports",
        )
    values = {theirs: getattr(config, ours) for ours, theirs in SETTINGS.items()}
    values["activation_function"] = ACTIVATIONS[config.activation]
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        **values,
        "n_ctx": config.block_size,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "vocab_size": vocab_size,
        # GPT2Config's 50,256 would lie outside a small vocabulary
        "bos_token_id": eot if eot < vocab_size else None,
        "eos_token_id": eot if eot < vocab_size else None,
        **FIXED,
        "dtype": "float32",
    }


def from_settings(values: Mapping[str, Any]) -> tuple[ModelConfig, int]:
    """(shape, vocabulary) of a config.json; what it leaves out has GPT2Config's default.

    Raises:
        ValueError: it is no GPT-2, or one with parts that ours has not.
    """
    if not isinstance(values, dict):
        raise ValueError("its config.json is no object")
    if values.get("model_type") != "gpt2":
        raise ValueError(f"its model_type is {values.get('model_type')!r}, and only gpt2 is read")
    given = {ours: values[theirs] for ours, theirs in SETTINGS.items() if theirs in values}
    name = values.get("activation_function", "gelu_new")
    ours = {theirs: ours for ours, theirs in ACTIVATIONS.items()}
    name = SAME_ACTIVATION.get(name, name)
    if name not in ours:
        raise ValueError(f"its activation_function is {name!r}, ours are {', '.join(ours)}")
    config = shape_from(given | {"activation": ours[name]})
    wrong = [f"{k} = {values[k]}" for k, v in FIXED.items() if values.get(k, v) != v]
    if values.get("n_inner") not in (None, 4 * config.n_embd):
        wrong.append(f"n_inner = {values['n_inner']}")
    if wrong:
        raise ValueError(f"it has {', '.join(wrong)}, which ours has not")
    return config, int(values.get("vocab_size", 50_257))


def to_tensors(weights: Weights) -> dict[str, torch.Tensor]:
    """Our tensors as GPT2LMHeadModel names and lays them."""
    tensors = {
        name: (tensor.T if TRANSPOSED.search(name) else tensor).contiguous()
        for name, tensor in weights.tensors.items()
    }
    if not weights.config.bias:  # theirs always has biases: zero is none
        for name in list(tensors):
            if ".h." in name or ".ln_f." in name:
                tensors[name.removesuffix("weight") + "bias"] = torch.zeros(tensors[name].shape[-1])
    return tensors


def from_tensors(
    tensors: Mapping[str, torch.Tensor], config: ModelConfig
) -> dict[str, torch.Tensor]:
    """Theirs as ours; names without `transformer.`, as the released files have them, are known."""
    found = {}
    for name, tensor in tensors.items():
        if BUFFERS.search(name) or (name == "lm_head.weight" and config.tied_head):
            continue
        ours = name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"
        found[ours] = (tensor.T if TRANSPOSED.search(name) else tensor).float()
    return found


def read(folder: Path) -> Weights:
    """The model in a folder.

    Raises:
        CheckpointError: no GPT-2, or damaged.
    """
    config, vocab_size = describe(folder)
    try:
        files = sorted(folder.glob("model*.safetensors"))
        if files:
            parts = [load_file(file) for file in files]
        else:
            files = sorted(folder.glob("pytorch_model*.bin"))
            parts = [torch.load(f, map_location="cpu", weights_only=True) for f in files]
    except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{folder} cannot be loaded: {first_line(error)}") from error
    if not files:
        raise CheckpointError(f"{folder} has a config.json but no model.safetensors")
    tensors = {name: tensor for part in parts for name, tensor in part.items()}
    return Weights(config, vocab_size, from_tensors(tensors, config))


def is_model(folder: Path) -> bool:
    """A folder with a config.json of transformers? Our run folders have one of another kind."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and "model_type" in values


def describe(folder: Path) -> tuple[ModelConfig, int]:
    """(shape, vocabulary) without reading the weights."""
    try:
        return from_settings(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{folder} holds no model that can be read: {first_line(error)}"
        ) from error


def locate(name: str) -> Path:
    """The folder of a hub id: from the cache, else downloaded.

    Raises:
        CheckpointError: not in the cache, and not to be had.
    """
    from huggingface_hub import snapshot_download

    names = [name] if "/" in name else [f"openai-community/{name}", name]
    for cached in names:
        try:
            folder = Path(snapshot_download(cached, allow_patterns=SMALL, local_files_only=True))
        except (OSError, ValueError):
            continue
        if (folder / "config.json").is_file() and _has_weights(folder):
            return folder
    reason = "no weights of PyTorch's among its files"
    try:
        for patterns in (SMALL + SAFE, SMALL + OLD):
            folder = Path(snapshot_download(names[0], allow_patterns=patterns, etag_timeout=5))
            if _has_weights(folder):
                return folder
    except Exception as error:  # noqa: BLE001  the hub's client lets its transport's errors through
        reason = first_line(error)
    raise CheckpointError(
        f"{name!r} is neither a file or folder here, nor whole in the cache, nor to be had from "
        f"Hugging Face: {reason}",
        mend="a path or hub id that exists; or, with a network once, "
        f"`hf download {names[0]}` (HF_HOME says where it is kept)",
    )


def _has_weights(folder: Path) -> bool:
    for index in [*folder.glob("*.index.json")]:  # a download may have stopped between shards
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return all((folder / shard).is_file() for shard in shards)
    return any(p.stat().st_size for kind in SAFE[:1] + OLD[:1] for p in folder.glob(kind))
