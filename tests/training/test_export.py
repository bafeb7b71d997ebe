"""Export: other programs read the folder and agree to the last id; an old export is never lost."""

import http.server
import importlib.util
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from backend.config.loader import load, program
from backend.config.schema import (
    PRESETS,
    BinarizeConfig,
    ExportConfig,
    ModelConfig,
    SampleConfig,
    TrainConfig,
)
from backend.data import binarize
from backend.data.song import CleanSong, write_songs
from backend.data.tokenizers import ByteBPE
from backend.errors import CheckpointError, ConfigError, NetworkError
from backend.models import checkpoint, nanogpt
from backend.models.gpt import GPT
from backend.models.weights import Weights
from backend.training import export, sample, train
from backend.training.log import read_metrics
from tests.conftest import ROOT
from tests.training.conftest import TINY

TIKTOKEN = Path(os.environ.get("TIKTOKEN_CACHE_DIR") or ROOT.parent / "shared/data/tiktoken_cache")
WORDS = ("wheel", "wind", "world", "year", "tale", "cup")
SONGS = [
    CleanSong(
        text="\n".join(f"The {word} goes round {n} times" for n in range(6)),
        song_name=f"Song {word}",
        artist_name="Anon",
    )
    for word in WORDS
]
TEXTS = [
    "The wheel goes round 3 times\nThe wind goes round",
    "  The  wind\n\n\n goes ",
    "\nround\n",
    "artist: Anon\ntitle: Song tale\n\nThe tale",
    "naïve Ω 日本 \U0001f3b5 -- It's\t'll\r\n don't 12345 !!! ...",
    "",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs, out/char and out/bpe, trained once for all tests."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        picture = lambda run, *_: (run / "loss.png").write_bytes(b"")  # noqa: E731  test_train's
        patch.setattr(train, "plot_loss", picture)
        write_songs(Path("data/tiny/data.json"), (song.to_json() for song in SONGS))
        for kind, name in (("char", "char"), ("bpe", "bpe290")):
            binarize.main(BinarizeConfig(data_dir="data/tiny", tokenizer=kind, vocab_size=290))
            changes = dict(out_dir=f"out/{kind}", dataset=f"tiny/{name}", max_iters=8)
            train.main(TrainConfig(**(TINY | changes)))
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """The working folder, with both runs in it."""
    shutil.copytree(made, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture(scope="module")
def made_gpt2(tmp_path_factory):
    """A run with GPT-2's own vocabulary, on a model that is otherwise tiny."""
    if not TIKTOKEN.is_dir():
        pytest.skip("GPT-2's vocabulary is not on this computer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(TIKTOKEN))
        tokenizer = ByteBPE.gpt2()
    torch.manual_seed(0)
    model = GPT(ModelConfig(block_size=32, n_layer=1, n_head=2, n_embd=8), tokenizer.vocab_size)
    run = tmp_path_factory.mktemp("made") / "gpt2"
    trainer = ({"rng.cpu": torch.get_rng_state()}, {})
    checkpoint.save(run, model, step=3, run={}, trainer=trainer, best=None)
    (run / "tokenizer.json").write_text(tokenizer.to_json())
    return run


@pytest.fixture(params=["char", "bpe", "gpt2"])
def kind(request, place):
    """A run of every tokenizer: out/<kind>."""
    if request.param == "gpt2":
        shutil.copytree(request.getfixturevalue("made_gpt2"), "out/gpt2")
    return request.param


def export_to(format, out_dir="out/char", **more):
    return export.main(ExportConfig(out_dir=out_dir, format=format, **more))


def random_ids(vocab_size, length=32):
    return torch.randint(vocab_size, (2, length), generator=torch.Generator().manual_seed(4))


def logits(model, idx):
    with torch.inference_mode():
        out = model.eval()(idx)
    return out[0] if isinstance(out, tuple) else out.logits


def our_logits(name, idx, which="best"):
    return logits(checkpoint.load_model(checkpoint.find(name, which)), idx)


def assert_close(a, b, tolerance=1e-4):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def contents(folder):
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.iterdir())}


# --- Hugging Face ---


@pytest.mark.e2e
def test_transformers_reads_the_same_logits_ids_and_text(kind):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    summary = export_to("hf", f"out/{kind}")
    assert summary.folder == Path(f"out/{kind}/export-hf")
    source = checkpoint.find(f"out/{kind}")
    tokenizer = checkpoint.load_tokenizer(source)
    idx = random_ids(tokenizer.vocab_size)
    theirs = AutoModelForCausalLM.from_pretrained(summary.folder)
    assert type(theirs).__name__ == "GPT2LMHeadModel"
    assert_close(logits(theirs, idx), our_logits(f"out/{kind}", idx))

    their_tokenizer = AutoTokenizer.from_pretrained(summary.folder)
    for text in TEXTS:
        known = "".join(c for c in text if not tokenizer.unseen(c))
        assert kind == "char" or known == text
        ids = their_tokenizer.encode(known)
        assert ids == tokenizer.encode(known).tolist()
        assert their_tokenizer.decode(ids) == known
    assert len(their_tokenizer) == tokenizer.vocab_size
    assert their_tokenizer.encode("<|endoftext|>") == [tokenizer.eot]
    assert their_tokenizer.eos_token_id == their_tokenizer.bos_token_id == tokenizer.eot
    assert their_tokenizer.model_max_length == 32


@pytest.mark.e2e
def test_gpt2s_ids_are_tiktokens(place, made_gpt2, monkeypatch):
    import tiktoken
    from transformers import AutoTokenizer

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(TIKTOKEN))
    theirs = AutoTokenizer.from_pretrained(
        export_to("hf", str(made_gpt2), export_dir="there").folder
    )
    for text in TEXTS:
        assert theirs.encode(text) == tiktoken.get_encoding("gpt2").encode(text)


def test_the_folder_holds_what_the_formats_promise(kind):
    folder = export_to("hf", f"out/{kind}").folder
    assert {p.name for p in folder.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "README.md", "export.manifest.json",
    }  # fmt: skip
    vocab_size = checkpoint.describe(checkpoint.find(f"out/{kind}"))[1]
    for name in ("config.json", "generation_config.json"):
        values = json.loads((folder / name).read_text())
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            assert key not in values or 0 <= values[key] < vocab_size, key
    values = json.loads((folder / "config.json").read_text())
    assert (values["n_positions"], values["n_ctx"], values["vocab_size"]) == (32, 32, vocab_size)
    assert values["activation_function"] == "gelu_new"
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert header["__metadata__"] == {"format": "pt"}


@pytest.mark.parametrize("format", ["hf", "nanogpt", "safetensors"])
def test_files_are_readable_by_whom_the_umask_lets(place, format):
    umask = os.umask(0)
    os.umask(umask)
    folder = export_to(format).folder
    for file in folder.iterdir():
        assert file.stat().st_mode & 0o777 == 0o666 & ~umask, file.name
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask


def test_the_card_is_one_that_the_hub_reads_and_has_no_lyrics_in_it(place):
    from huggingface_hub import ModelCard

    folder = export_to("hf").folder
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.library_name == "transformers"
    step = checkpoint.find("out/char").step
    [row] = [r for r in read_metrics(Path("out/char")) if (r["split"], r["step"]) == ("val", step)]
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found["bits_per_character"] == pytest.approx(row["bpc"], abs=1e-4)
    assert found["loss"] == pytest.approx(row["loss"], abs=1e-4)
    text = (folder / "README.md").read_text()
    assert "\nmodel-index:" in text
    for song in SONGS:
        for line in (*song.text.splitlines(), song.song_name, song.artist_name):
            assert line not in text
    meta = json.loads(Path("data/tiny/char/meta.json").read_text())
    assert f"{meta['splits']['train']['songs']:,} songs" in text


def test_a_card_for_weights_that_were_never_measured_says_so(place):
    from huggingface_hub import ModelCard

    export_to("safetensors")
    shutil.move("out/char/export-safetensors", "alone")
    folder = export.main(ExportConfig(init_from="alone", export_dir="hf")).folder
    card = ModelCard.load(folder / "README.md")
    assert not card.data.eval_results
    assert "Not measured" in card.text


# --- nanoGPT ---


def test_nanogpts_file_states_how_much_its_gelu_changes_a_logit(place, capsys):
    folder = export_to("nanogpt").folder
    [stated] = re.findall(r"logits differ by up to (\S+)", capsys.readouterr().out)
    assert {p.name for p in folder.iterdir()} == {
        "ckpt.pt", "meta.pkl", "tokenizer.json", "export.manifest.json"
    }  # fmt: skip
    vocab_size = checkpoint.describe(checkpoint.find("out/char"))[1]
    idx = random_ids(vocab_size)
    difference = (our_logits("out/char", idx) - our_logits(folder, idx)).abs().max().item()
    assert 0 < difference < 10 * float(stated)
    assert float(stated) < 1e-2


@pytest.mark.e2e
def test_with_the_exact_gelu_nothing_changes(place, capsys):
    changes = dict(out_dir="out/exact", dataset="tiny/char", activation="gelu", max_iters=4)
    train.main(TrainConfig(**(TINY | changes)))
    folder = export_to("nanogpt", "out/exact").folder
    assert "differ" not in capsys.readouterr().out.replace("largest difference", "")
    idx = random_ids(checkpoint.describe(checkpoint.find("out/exact"))[1])
    assert torch.equal(our_logits("out/exact", idx), our_logits(folder, idx))


def test_nanogpts_file_has_the_step_the_best_loss_and_the_corpus(place):
    folder = export_to("nanogpt").folder
    whole = torch.load(folder / "ckpt.pt", weights_only=True)
    assert whole["iter_num"] == checkpoint.find("out/char").step
    losses = [row["loss"] for row in read_metrics(Path("out/char")) if row["split"] == "val"]
    assert whole["best_val_loss"] == pytest.approx(min(losses))
    assert whole["config"]["dataset"] == "tiny"


def test_nanogpts_meta_spells_every_id(place):
    folder = export_to("nanogpt").folder
    meta = pickle.loads((folder / "meta.pkl").read_bytes())  # noqa: S301  we made it
    tokenizer = checkpoint.load_tokenizer(checkpoint.find("out/char"))
    assert [meta["stoi"][c] for c in "The wheel"] == tokenizer.encode("The wheel").tolist()
    assert "".join(meta["itos"][i] for i in range(tokenizer.vocab_size)) == tokenizer.decode(
        range(tokenizer.vocab_size)
    )


def test_a_trained_bpe_is_refused_since_nanogpt_cannot_decode_it(place):
    with pytest.raises(ConfigError, match=r"(?s)not a BPE trained.*--format=hf"):
        export_to("nanogpt", "out/bpe")
    assert not Path("out/bpe/export-nanogpt").exists()


@pytest.fixture(scope="module")
def checkout():
    """A checkout of nanoGPT, named by NANOGPT."""
    folder = Path(os.environ.get("NANOGPT", ""))
    if not os.environ.get("NANOGPT") or not (folder / "model.py").is_file():
        pytest.skip("NANOGPT names no checkout of nanoGPT")
    return folder


def test_the_stated_difference_is_that_of_nanogpts_own_model(place, checkout, capsys):
    spec = importlib.util.spec_from_file_location("model_of_nanogpt", checkout / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = export_to("nanogpt").folder
    [stated] = re.findall(r"logits differ by up to (\S+)", capsys.readouterr().out)
    whole = torch.load(folder / "ckpt.pt", weights_only=True)
    theirs = module.GPT(module.GPTConfig(**whole["model_args"]))
    theirs.load_state_dict(whole["model"])
    idx = torch.randint(  # the ids that export draws
        whole["model_args"]["vocab_size"], (2, 32), generator=torch.Generator().manual_seed(0)
    )
    with torch.inference_mode():
        difference = (theirs.eval()(idx, idx)[0] - our_logits("out/char", idx)).abs().max()
    assert difference.item() == pytest.approx(float(stated), rel=0.06)  # two digits are printed


@pytest.fixture
def nanogpt_folder(place, checkout):
    """nanoGPT with our export where the note says: out/ckpt.pt, and the data in data/tiny/."""
    folder = export_to("nanogpt").folder
    for name in ("model.py", "sample.py", "train.py", "configurator.py"):
        (place / "nanoGPT").mkdir(exist_ok=True)
        shutil.copyfile(checkout / name, place / "nanoGPT" / name)
    (place / "nanoGPT/out").mkdir()
    shutil.copyfile(folder / "ckpt.pt", place / "nanoGPT/out/ckpt.pt")
    (place / "nanoGPT/data/tiny").mkdir(parents=True)
    shutil.copyfile(folder / "meta.pkl", place / "nanoGPT/data/tiny/meta.pkl")
    for name in ("train.bin", "val.bin"):
        shutil.copyfile(f"data/tiny/char/{name}", place / "nanoGPT/data/tiny" / name)
    return place / "nanoGPT"


def run_python(*words, cwd, **env):
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, env=os.environ | offline | env, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.e2e
def test_nanogpts_own_sample_py_writes_with_our_export(nanogpt_folder):
    shown = run_python(
        "sample.py", "--device=cpu", "--dtype=float32", "--num_samples=2", "--max_new_tokens=60",
        "--start=The w", cwd=nanogpt_folder,
    )  # fmt: skip
    assert "Loading meta from data/tiny/meta.pkl" in shown
    *songs, rest = shown.partition("meta.pkl...\n")[2].split("---------------\n")
    assert len(songs) == 2 and not rest
    for song in songs:
        assert song.startswith("The w")
        assert len(song) > 60


@pytest.mark.e2e
def test_nanogpts_own_train_py_goes_on_with_our_export(nanogpt_folder):
    step = checkpoint.find("out/char").step
    shown = run_python(
        "train.py", "--device=cpu", "--dtype=float32", "--compile=False", "--init_from=resume",
        "--dataset=tiny", "--eval_iters=1", "--batch_size=2", "--block_size=32",
        "--gradient_accumulation_steps=1", f"--max_iters={step + 2}", "--log_interval=1",
        cwd=nanogpt_folder,
    )  # fmt: skip
    assert f"iter {step + 1}: loss" in shown


# --- our own form ---


def test_our_own_form_is_sampled_from_as_the_run_itself(place):
    export_to("safetensors")
    settings = dict(num_samples=2, max_new_tokens=40)
    shutil.move("out/char/export-safetensors", "moved")
    sample.main(SampleConfig(out_dir="out/char", **settings))
    sample.main(SampleConfig(init_from="moved", **settings))
    texts = []
    for lyrics in ("out/char/lyrics", "out/moved/lyrics"):
        [file] = Path(lyrics).glob("*.jsonl")
        texts.append([json.loads(line)["text"] for line in file.read_text().splitlines()])
    assert texts[0] == texts[1]


@pytest.mark.parametrize("format", ["hf", "nanogpt", "safetensors"])
@pytest.mark.e2e
def test_every_form_can_be_trained_from(place, format):
    folder = export_to(format).folder
    words = [f"--{k}={v}" for k, v in TINY.items() if k not in ("block_size", "n_layer", "n_head",
                                                                "n_embd")]  # fmt: skip
    still = ["--max_iters=1", "--warmup_iters=0", "--learning_rate=0", "--min_lr=0"]
    train.main(load(TrainConfig, [*words, *still, f"--init_from={folder}", "--out_dir=out/fine"]))
    ours = checkpoint.read(checkpoint.find("out/char")).tensors
    fine = checkpoint.read(checkpoint.find("out/fine", "last"))
    assert ours.keys() == fine.tensors.keys()
    assert all(torch.equal(ours[k], v) for k, v in fine.tensors.items())
    assert fine.config.activation == ("gelu" if format == "nanogpt" else "gelu_tanh")


def test_adapters_are_merged_into_every_form(place):
    from transformers import AutoModelForCausalLM

    changes = dict(out_dir="out/lora", dataset="tiny/char", init_from="out/char", lora_rank=4,
                   max_iters=4)  # fmt: skip
    train.main(TrainConfig(**(TINY | changes)))
    vocab_size = checkpoint.describe(checkpoint.find("out/char"))[1]
    idx = random_ids(vocab_size)
    expected = our_logits("out/lora", idx, "last")
    assert (expected - our_logits("out/char", idx)).abs().max() > 1e-3
    folder = export_to("hf", "out/lora", checkpoint="last").folder
    assert_close(logits(AutoModelForCausalLM.from_pretrained(folder), idx), expected)
    folder = export_to("safetensors", "out/lora", checkpoint="last").folder
    assert_close(our_logits(folder, idx), expected, 1e-5)
    assert checkpoint.facts_of(checkpoint.find(folder))["from"].startswith("out/char")


# --- what cannot be ---


def exported(name, vocab_size=None, **shape):
    """Weights of any shape with the tokenizer of out/char."""
    tokenizer = checkpoint.load_tokenizer(checkpoint.find("out/char"))
    torch.manual_seed(0)
    config = ModelConfig(**(dict(block_size=32, n_layer=2, n_head=2, n_embd=16) | shape))
    model = GPT(config, vocab_size or tokenizer.vocab_size)
    weights = Weights(model.config, model.vocab_size, model.weights())
    checkpoint.save_weights(Path(name), weights, step=1, facts={}, tokenizer=tokenizer.to_json())
    return weights


@pytest.mark.parametrize("format", ["hf", "nanogpt"])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"attn_type": "GK"}, "attn_type = GK"), (PRESETS["modern"], "position = rotary.*qk_norm")],
    ids=["GK", "modern"],
)
def test_a_kind_that_others_cannot_express_is_refused_and_our_form_keeps_it(
    place, format, changes, reason
):
    weights = exported("any", **changes)
    with pytest.raises(ConfigError, match=rf"(?s){reason}.*--format=safetensors"):
        export.main(ExportConfig(init_from="any", format=format, export_dir="there"))
    assert not Path("there").exists()
    folder = export.main(
        ExportConfig(init_from="any", format="safetensors", export_dir="there")
    ).folder
    again = checkpoint.read(checkpoint.find(folder))
    assert again.config == weights.config
    assert all(torch.equal(again.tensors[k], v) for k, v in weights.tensors.items())


def test_ends_outside_the_vocabulary_of_nanogpts_own_characters_are_never_written(place):
    tokenizer = checkpoint.load_tokenizer(checkpoint.find("out/char"))
    weights = exported("own", tokenizer.vocab_size - 2, activation="gelu")  # without specials
    nanogpt.write(Path("nano/ckpt.pt"), weights, step=1, loss=1.0, dataset="tiny")
    shutil.copyfile("own/tokenizer.json", "nano/tokenizer.json")
    try:
        folder = export.main(ExportConfig(init_from="nano", export_dir="there")).folder
    except (ConfigError, CheckpointError):
        return  # to refuse it is as good
    values = json.loads((folder / "config.json").read_text())
    for key in ("bos_token_id", "eos_token_id"):
        assert values[key] is None or values[key] < values["vocab_size"], key


@pytest.mark.parametrize("name", ["hf", "nano"])
def test_weights_from_elsewhere_are_exported_too(place, name):
    from transformers import AutoModelForCausalLM

    folder = export_to("hf" if name == "hf" else "nanogpt").folder
    shutil.move(folder, name)
    made = export.main(ExportConfig(init_from=name)).folder
    assert made == Path(f"out/{name}/export-hf")
    idx = random_ids(checkpoint.describe(checkpoint.find("out/char"))[1])
    theirs = AutoModelForCausalLM.from_pretrained(made)
    assert_close(logits(theirs, idx), our_logits(name, idx))


@pytest.mark.parametrize("folder", ["out/char", "data/tiny/char", "holiday"])
def test_a_folder_with_something_else_in_it_is_never_replaced(place, folder):
    Path("holiday").mkdir()
    Path("holiday/photo.jpg").write_bytes(b"x")
    before = {p: p.stat().st_mtime_ns for p in sorted(Path(folder).rglob("*"))}
    for format in ("hf", "nanogpt", "safetensors"):
        with pytest.raises(ConfigError, match="something else than an export"):
            export_to(format, export_dir=folder)
    assert {p: p.stat().st_mtime_ns for p in sorted(Path(folder).rglob("*"))} == before


def test_an_empty_folder_may_be_exported_to(place):
    Path("empty").mkdir()
    assert not export_to("safetensors", export_dir="empty").skipped
    checkpoint.load_model(checkpoint.find("empty"))


# --- again ---


@pytest.mark.parametrize("format", ["hf", "nanogpt", "safetensors"])
def test_a_second_export_of_the_same_does_nothing(place, format, capsys):
    folder = export_to(format).folder
    before = contents(folder)
    assert export_to(format).skipped
    assert "nothing to do" in capsys.readouterr().out
    assert contents(folder) == before


@pytest.mark.parametrize("format", ["hf", "nanogpt", "safetensors"])
def test_a_lost_file_a_changed_one_and_other_weights_are_exported_again(place, format):
    folder = export_to(format, checkpoint="last").folder
    whole = contents(folder).keys()
    weights = next(p for p in folder.iterdir() if p.suffix in (".safetensors", ".pt"))
    data = weights.read_bytes()
    weights.unlink()
    assert not export_to(format, checkpoint="last").skipped
    assert weights.read_bytes() == data
    weights.write_bytes(data[:-1])
    assert not export_to(format, checkpoint="last").skipped
    assert weights.read_bytes() == data
    first = checkpoint.steps(Path("out/char"))[0]
    assert not export_to(format, checkpoint=str(first.step)).skipped
    assert weights.read_bytes() != data
    assert contents(folder).keys() == whole


class Killed(BaseException):
    """As Ctrl-C or SIGTERM come."""


def die(*_, **__):
    raise Killed


DEATHS = {
    "writing weights": lambda patch: patch.setattr(checkpoint, "save_file", die),
    "writing the card": lambda patch: patch.setattr(export, "_card", die),
    "reading it back": lambda patch: patch.setattr(export, "_compare", die),
    "taking its name": lambda patch: patch.setattr(Path, "rename", die),
    "writing the manifest": lambda patch: patch.setattr(export.Stage, "finish", die),
}


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.e2e
def test_a_killed_export_leaves_a_whole_one_and_the_next_goes_through(place, monkeypatch, death):
    first, last = checkpoint.steps(Path("out/char"))[0], checkpoint.find("out/char", "last")
    assert first.step != last.step
    folder = export_to("hf", checkpoint=str(first.step)).folder
    with monkeypatch.context() as patch:
        DEATHS[death](patch)
        with pytest.raises(Killed):
            export_to("hf", checkpoint="last")
    idx = random_ids(checkpoint.describe(last)[1])
    steps = [our_logits("out/char", idx, str(s.step)) for s in (first, last)]
    standing = our_logits(folder, idx)  # the old one, or already the new
    assert any(torch.allclose(standing, step, atol=1e-4) for step in steps)
    assert not export_to("hf", checkpoint="last").skipped
    assert_close(our_logits(folder, idx), steps[1])
    assert not list(Path("out/char").glob(".tmp-*"))


def test_a_folder_that_transformers_reads_otherwise_is_not_kept(place, monkeypatch):
    folder = export_to("hf", checkpoint="last").folder
    before = contents(folder)
    real = export.huggingface.to_tensors

    def wrong(weights):
        tensors = real(weights)
        tensors["transformer.ln_f.bias"] = tensors["transformer.ln_f.bias"] + 0.5
        return tensors

    monkeypatch.setattr(export.huggingface, "to_tensors", wrong)
    with pytest.raises(CheckpointError, match="reads other logits"):
        export_to("hf", checkpoint=str(checkpoint.steps(Path("out/char"))[0].step))
    assert contents(folder) == before


# --- the hub ---


SECRET = "hf_" + "abcdefghij" * 3


class Api:
    """huggingface_hub.HfApi, as far as it is used."""

    def __init__(self):
        self.repos, self.calls, self.error = {}, [], None

    def __call__(self, **_):
        return self

    def create_repo(self, repo_id, *, private, exist_ok, **_):
        self.calls.append("create")
        if self.error:
            raise self.error
        assert exist_ok
        self.repos.setdefault(repo_id, {"private": private})
        return f"https://huggingface.co/{repo_id}"

    def model_info(self, repo_id, **_):
        return type("Info", (), self.repos[repo_id])

    def upload_folder(self, *, repo_id, folder_path, ignore_patterns=(), **_):
        self.calls.append("upload")
        self.repos[repo_id]["files"] = {
            p.name for p in Path(folder_path).iterdir() if p.name not in ignore_patterns
        }


@pytest.fixture
def api(monkeypatch):
    import huggingface_hub

    api = Api()
    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    return api


def test_what_is_pushed_is_private_unless_it_is_said_to_be_public(place, api, capsys):
    export_to("hf", push_to_hub="you/tides")
    assert api.repos["you/tides"]["private"] is True
    assert "https://huggingface.co/you/tides" in capsys.readouterr().out
    export_to("hf", push_to_hub="you/open", public=True)  # nothing to export, and still pushed
    assert api.repos["you/open"]["private"] is False


def test_the_hub_gets_the_model_and_nothing_of_this_machine(place, api):
    export_to("hf", push_to_hub="you/tides")
    files = api.repos["you/tides"]["files"]
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files
    assert "export.manifest.json" not in files
    for name in files - {"model.safetensors"}:
        assert str(place) not in Path("out/char/export-hf", name).read_text(), name


def test_a_repository_that_everybody_sees_is_left_alone_unless_public_is_said(place, api):
    api.repos["you/open"] = {"private": False}
    with pytest.raises(ConfigError, match=r"(?s)everybody can see.*--public"):
        export_to("hf", push_to_hub="you/open")
    assert "upload" not in api.calls
    export_to("hf", push_to_hub="you/open", public=True)
    assert "upload" in api.calls


@pytest.mark.parametrize(
    "error", [OSError("no permission\nlong advice"), ValueError("no such name"), OSError()]
)
def test_what_the_hub_says_is_one_sentence_with_a_way_on(place, api, error):
    api.error = error
    with pytest.raises(
        NetworkError, match=r"(?s)cannot push to you/tides.*hf auth login"
    ) as caught:
        export_to("hf", push_to_hub="you/tides")
    assert "\n" not in caught.value.what
    assert Path("out/char/export-hf/config.json").is_file()  # the export itself is there


def push(capsys):
    """The program with a token around: its exit code and all that it shows."""
    words = ["--out_dir=out/char", "--push_to_hub=you/tides"]
    code = program(export.main, ExportConfig, words)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.fixture
def hub(place, monkeypatch):
    """A hub on this machine; what it answers, and the requests it had."""
    from huggingface_hub import close_session, constants

    seen = []

    class Hub(http.server.BaseHTTPRequestHandler):
        status = 401

        def do_POST(self):
            seen.append(self.headers["Authorization"])
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.send_response(Hub.status)
            self.end_headers()
            self.wfile.write(b'{"error": "Invalid credentials in Authorization header"}')

        do_GET = do_HEAD = do_POST

        def log_message(self, *_):
            pass

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        close_session()
        yield Hub, seen
        server.shutdown()
    close_session()


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_the_token_reaches_the_hub_and_no_screen(hub, capsys, status):
    handler, seen = hub
    handler.status = status
    code, out, err = push(capsys)
    assert code == 2
    assert f"Bearer {SECRET}" in seen
    assert "error: cannot push to you/tides" in err
    assert "Traceback" not in err
    assert SECRET not in out + err
    for file in Path("out").rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


def test_without_a_network_pushing_is_a_sentence(hub, capsys, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    code, out, err = push(capsys)
    assert code == 2
    assert "error: cannot push to you/tides" in err
    assert SECRET not in out + err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--push_to_hub=you/tides", "--format=nanogpt"], "push_to_hub"),
        (["--public"], "public"),
    ],
)
def test_settings_that_mean_nothing_are_refused_before_anything_is_done(place, words, reason):
    with pytest.raises(ConfigError, match=reason):
        load(ExportConfig, ["--out_dir=out/char", *words])


# --- whole programs ---


@pytest.mark.e2e
def test_the_program_exports_what_the_newest_run_is(place):
    shown = run_python("-m", "backend.training.export", cwd=place)
    folder = re.search(r"(out/\w+/export-hf)\n$", shown)[1]
    newest = checkpoint.newest_run()
    assert folder == f"{newest}/export-hf"
    assert f"model:   {newest}, step" in shown
    idx = random_ids(30)
    assert_close(our_logits(folder, idx), our_logits(newest, idx))


@pytest.mark.e2e
def test_the_pipeline_of_transformers_writes_with_an_export(kind):
    folder = export_to("hf", f"out/{kind}").folder
    code = (
        "import json, sys; from transformers import pipeline, set_seed; set_seed(0);"
        "write = pipeline('text-generation', model=sys.argv[1]);"
        "print('RESULT', json.dumps([write(p)[0]['generated_text'] for p in sys.argv[2:]]))"
    )
    prompts = ["The wheel", "<|endoftext|>"]
    shown = run_python("-c", code, folder, *prompts, cwd=Path.cwd())
    [found] = re.findall(r"^RESULT (.*)$", shown, re.MULTILINE)
    first, second = json.loads(found)
    assert first.startswith("The wheel") and len(first) > len("The wheel")
    assert second.removeprefix("<|endoftext|>")
