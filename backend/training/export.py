"""Export: a trained model -> a folder that other programs read, checked by reading it back.

    python -m backend.training.export --out_dir=out/demo --format=hf

Reads a checkpoint (LoRA adapters are merged) and its tokenizer. Writes <out_dir>/export-<format>/:
hf for Hugging Face's transformers, with a model card; nanogpt a ckpt.pt for nanoGPT's sample.py and
train.py; safetensors for this project, every kind of attention included. --push_to_hub=you/name
sends the Hugging Face folder to the hub, private unless --public.
"""

import math
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from backend.config.loader import program
from backend.config.schema import ExportConfig
from backend.data import tokenizers
from backend.data.tokenizers import END_OF_TEXT, UNKNOWN, Tokenizer
from backend.errors import CheckpointError, ConfigError, NetworkError, first_line
from backend.evaluation.compare import read_metrics
from backend.models import checkpoint, huggingface, nanogpt
from backend.models.checkpoint import Source
from backend.models.weights import Weights
from backend.storage import Stage, Summary, packages, write_json

VERSION = 1
TOLERANCE = 1e-4  # of logits in fp32 between two implementations; of large ones, this share
# Between them: case, accents, other scripts, an emoji, white space at every place.
PROBE = "It's  a long road,\n\nnaïve Ω 日本 \U0001f3b5 -- \tI'll walk.\n"


@dataclass(frozen=True)
class Export:
    """What is written, read once."""

    source: Source
    weights: Weights
    tokenizer: Tokenizer
    facts: Mapping[str, Any]  # model.json; empty for weights from elsewhere
    measured: Mapping[str, float]  # bpc, loss
    name: str
    dtype: torch.dtype

    @property
    def specials(self) -> bool:
        """Has the model a row for the end of text? nanoGPT's own characters have none."""
        return self.tokenizer.eot < self.weights.vocab_size


def main(config: ExportConfig) -> Summary:
    source = checkpoint.named(config.init_from, config.out_dir, config.checkpoint)
    run = checkpoint.home(source, config.out_dir)
    folder = Path(config.export_dir or run / f"export-{config.format}")
    folder = folder if folder.name else folder.resolve()
    print(f"model:   {source}")
    name = config.push_to_hub or (run if run.name else run.resolve()).name
    measured = _measured(source)
    settings = {"format": config.format, "name": name, "measured": measured}
    settings |= {} if config.dtype == "float32" else {"dtype": config.dtype}
    files = checkpoint.inputs(source)
    stage = Stage("export", VERSION, folder, settings=settings, inputs=files)
    summary = None if config.force else stage.unchanged()
    if summary is None:
        if folder.exists() and any(folder.iterdir()) and not stage.path.is_file():
            raise ConfigError(
                f"{folder} holds something else than an export; it is not replaced",
                mend="another --export_dir",
            )
        export = Export(
            source,
            checkpoint.read(source),
            checkpoint.load_tokenizer(source),
            checkpoint.facts_of(source),
            measured,
            name,
            getattr(torch, config.dtype),
        )
        aside, older = (folder.with_name(f".{kind}-{folder.name}") for kind in ("tmp", "old"))
        for left in (aside, older):  # by an export that was killed
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            making = Stage("export", VERSION, aside, settings=settings, inputs=files)
            difference = FORMATS[config.format](export, aside)
            counts = {
                "parameters": export.weights.n_params,
                "largest difference of a logit": f"{difference:.1e}",
            }
            made = making.finish(sorted(p for p in aside.iterdir() if p.is_file()), counts)
            if folder.exists():
                folder.rename(older)
            aside.rename(folder)  # with its manifest: the export stands at once, or not at all
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(older, ignore_errors=True)
        summary = replace(made, folder=folder)
    print(summary.line())
    if config.push_to_hub:
        print(f"pushed:  {_push(folder, config.push_to_hub, public=config.public)}")
    return summary


def _measured(source: Source) -> dict[str, float]:
    """The validation of this step, as metrics.jsonl has it; empty where there was none."""
    rows = [r for r in read_metrics(source.run) if r["split"] == "val" and r["step"] == source.step]
    if not rows or not source.is_step:
        return {}
    found = {key: rows[-1].get(key) for key in ("bpc", "loss")}
    return {key: value for key, value in found.items() if value is not None}  # null: it diverged


def _to_hugging_face(export: Export, folder: Path) -> float:
    """The folder that AutoModelForCausalLM and AutoTokenizer load; returns the logits' difference.

    Raises:
        ConfigError: a model that GPT-2 is not.
        CheckpointError: what comes back differs.
    """
    weights, tokenizer = export.weights, export.tokenizer
    values = huggingface.to_settings(weights.config, weights.vocab_size, tokenizer.eot)
    write_json(folder / "config.json", values)
    ends = {f"{end}_token_id": tokenizer.eot for end in ("bos", "eos", "pad") if export.specials}
    # transformers cannot go past the context: half of it is left to the prompt
    room = {"max_new_tokens": max(1, weights.config.block_size // 2)}
    manner = {"do_sample": True, "temperature": 0.8, "top_k": 200}
    write_json(folder / "generation_config.json", ends | manner | room)
    checkpoint.save_tensors(huggingface.to_tensors(weights), folder / "model.safetensors")
    _write_tokenizer(export, folder)
    (folder / "README.md").write_text(_card(export), encoding="utf-8")

    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder)
    theirs.eval()
    difference, same = _compare(weights, lambda idx: theirs(idx).logits)
    if not same:
        raise CheckpointError(f"transformers reads other logits from {folder}: by {difference:.1e}")
    again = AutoTokenizer.from_pretrained(folder)
    known = "".join(c for c in PROBE if not tokenizer.unseen(c))
    ids = again.encode(known)
    if ids != tokenizer.encode(known).tolist() or again.decode(ids) != known:
        raise CheckpointError(f"transformers reads another tokenizer from {folder}")
    return difference


def _to_nanogpt(export: Export, folder: Path) -> float:
    """ckpt.pt, and for characters the meta.pkl that nanoGPT decodes with."""
    weights, tokenizer = export.weights, export.tokenizer
    if tokenizer.kind == "bpe":
        raise ConfigError(
            "nanoGPT knows characters and GPT-2's BPE, not a BPE trained on the corpus",
            mend="--format=hf, or --format=safetensors",
        )
    dataset = str(export.facts.get("data", {}).get("corpus", export.name))
    nanogpt.write(
        folder / "ckpt.pt",
        weights,
        step=export.source.step,
        loss=export.measured.get("loss", math.inf),
        dataset=dataset,
    )
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")  # for us
    if tokenizer.kind == "char":
        (folder / "meta.pkl").write_bytes(tokenizers.nanogpt_meta(tokenizer))
    print(
        "note: nanoGPT: put ckpt.pt in a folder and name it with --out_dir"
        + (f"; put meta.pkl in data/{dataset}/" if tokenizer.kind == "char" else "")
    )
    theirs = nanogpt.read(folder / "ckpt.pt")[0].build().eval()
    difference, same = _compare(weights, lambda idx: theirs(idx)[0])
    if weights.config.activation != "gelu":
        print(
            f"note: nanoGPT has the exact GELU, this model its tanh form: logits differ by up to "
            f"{difference:.1e}"
        )
    elif not same:
        raise CheckpointError(f"{folder}/ckpt.pt gives other logits: by {difference:.1e}")
    return difference


def _to_safetensors(export: Export, folder: Path) -> float:
    """Our own form: every kind of model; any program of this project reads it by its path. The
    difference is what rounding to the numbers asked for makes."""
    tokenizer = export.tokenizer.to_json()
    rounded = {k: v.to(export.dtype) for k, v in export.weights.tensors.items()}
    checkpoint.save_weights(
        folder,
        replace(export.weights, tensors=rounded),
        step=export.source.step,
        facts={k: v for k, v in export.facts.items() if k in ("data", "from", "base_model")},
        tokenizer=tokenizer,
    )
    theirs = checkpoint.load_model(Source(folder))
    meant = replace(export.weights, tensors={k: v.float() for k, v in rounded.items()})
    difference, _ = _compare(meant, lambda idx: theirs(idx)[0])
    if difference:
        raise CheckpointError(f"{folder} gives other logits: by {difference:.1e}")
    return _compare(export.weights, lambda idx: theirs(idx)[0])[0]


# (what, a fresh folder) -> largest difference of a logit after reading it back
FORMATS: Mapping[str, Callable[[Export, Path], float]] = {
    "hf": _to_hugging_face,
    "nanogpt": _to_nanogpt,
    "safetensors": _to_safetensors,
}


@torch.inference_mode()
def _compare(
    weights: Weights, theirs: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[float, bool]:
    """(largest difference of a logit on random ids, is it no more than rounding)."""
    model = weights.build(dropout=0.0).eval()
    generator = torch.Generator().manual_seed(0)
    shape = (2, min(weights.config.block_size, 128))
    idx = torch.randint(weights.vocab_size, shape, generator=generator)  # (B, T)
    ours = model(idx)[0]
    difference = float((ours - theirs(idx)).abs().max())
    return difference, difference < TOLERANCE * max(1.0, float(ours.abs().max()))


def _write_tokenizer(export: Export, folder: Path) -> None:
    tokenizer = export.tokenizer
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT)
    if UNKNOWN in tokenizer.vocabulary():
        names["unk_token"] = UNKNOWN
    # without it AutoTokenizer takes GPT-2's own class for the model_type, and its rules
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": export.weights.config.block_size,
        "clean_up_tokenization_spaces": False,
        **(names if export.specials else {}),
    }
    write_json(folder / "tokenizer_config.json", values)


def _card(export: Export) -> str:
    """README.md of the hub: what it is, from what data, how good, for what. No lyrics in it."""
    from huggingface_hub import EvalResult, ModelCardData

    config, data, name = export.weights.config, export.facts.get("data", {}), export.name
    corpus = str(data.get("corpus", "unknown"))
    labels = {"bpc": "Bits per character", "loss": "Loss (nats per token)"}
    base = export.facts.get("base_model")
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="lyrics",
            dataset_name=corpus,
            dataset_split="validation",
            metric_type={"bpc": "bits_per_character"}.get(key, key),
            metric_name=labels[key],
            metric_value=round(value, 4),
        )
        for key, value in export.measured.items()
    ]
    head = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["lyrics", "gpt2", "lyrics-pipeline"],
        license="other",
        base_model=base,
        model_name=name,
        eval_results=results or None,
    )
    counted = "\n".join(
        f"- {side}: {data[key]['songs']:,} songs, {data[key]['characters']:,} characters, "
        f"{data[key]['tokens']:,} tokens"
        for key, side in (("train", "Trained on"), ("val", "Held out"))
        if key in data
    )
    split = {
        "song": "split by song: no version of a held-out song was trained on",
        "contiguous": "of few songs: its last part is held out, cut inside a song",
    }.get(str(data.get("split_by")), "as its maker had it")
    scores = "\n".join(f"- {labels[key]}: {value:.4f}" for key, value in export.measured.items())
    shape = (
        f"{config.n_layer} layers, {config.n_head} heads, {config.n_embd} wide, "
        f"{config.block_size} tokens of context, {export.weights.n_params:,} parameters, "
        f"{export.tokenizer.kind} tokenizer of {export.tokenizer.vocab_size:,} entries"
    )
    begins = f"`{END_OF_TEXT}`, then " if export.specials else ""
    prompt = END_OF_TEXT if export.specials else "\\n"
    return f"""---
{head.to_yaml()}
---

# {name}

A GPT-2 that writes song lyrics: {shape}.{f" Finetuned from {base}." if base else ""}
Made with lyrics-pipeline {packages()["lyrics-pipeline"]} (step {export.source.step:,}).

## Use

```python
from transformers import pipeline

write = pipeline("text-generation", model="{name}")  # or the path of this folder
print(write("{prompt}", max_new_tokens={max(1, config.block_size // 2)})[0]["generated_text"])
```

A song begins with {begins}lines `artist: ...`, `title: ...` (any of them), a blank line, its text.

## Data

Corpus `{corpus}`, {split}.

{counted or "Its size was not recorded."}

## Results

On the whole held-out split, each token scored once:

{scores or "Not measured at this step."}

## Intended use and limits

For play, sketches and research into lyrics. It knows the manner of its training songs and little
else: it may repeat them word for word, so compare what it writes with them before you publish it,
and it may be rude where they are.

## Rights

The texts it was trained on belong to their authors. Whoever shares or sells these weights, or
lyrics made with them, answers for having the right to do so; the license field says `other` for
this reason. No lyrics are part of this card.
"""


def _push(folder: Path, repo_id: str, *, public: bool) -> str:
    """The folder as a model of the hub; returns its address.

    Raises:
        ConfigError: it would become public without being asked to.
        NetworkError: no token, no network, no permission.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=not public, exist_ok=True)
        if not public and not api.model_info(repo_id).private:
            raise ConfigError(
                f"{repo_id} exists and everybody can see it",
                mend="--public, if that is meant, or another name",
            )
        if public and api.model_info(repo_id).private:  # it was there before
            api.update_repo_settings(repo_id, private=False)
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, ignore_patterns=["export.manifest.json"]
        )
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001  the hub's client lets its transport's errors through
        raise NetworkError(
            f"cannot push to {repo_id}: {first_line(error)}",
            mend="`hf auth login`, or a token that may write in HF_TOKEN, and a name as you/name",
        ) from None
    return str(url)


if __name__ == "__main__":
    sys.exit(program(main, ExportConfig))
