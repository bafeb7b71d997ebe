"""Checkpoints: whole or not at all, found again, and refused where they are damaged."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from backend.config.schema import ModelConfig
from backend.data.tokenizers import ByteBPE, CharTokenizer
from backend.errors import CheckpointError, DataError
from backend.models import checkpoint, huggingface, nanogpt
from backend.models.gpt import GPT
from backend.models.weights import Weights
from backend.storage import sha256


@pytest.fixture
def run(tmp_path, model):
    def save(step, best=None):
        trainer = ({"rng.cpu": torch.get_rng_state()}, {})
        return checkpoint.save(
            tmp_path, model, step=step, run={"data": "x"}, trainer=trainer, best=best
        )

    return tmp_path, save


def test_a_saved_model_gives_the_same_logits(run, model):
    _, save = run
    idx = torch.randint(50, (2, 20))
    loaded = checkpoint.load_model(save(10))
    assert torch.equal(model(idx)[0], loaded(idx)[0])
    assert not loaded.training
    assert loaded.lm_head.weight is loaded.transformer.wte.weight


def test_best_and_the_last_two_are_kept_and_only_those_two_can_resume(run):
    out, save = run
    best = None
    for step in (0, 10, 20, 30):
        save(step, best)
        if step == 10:
            best = checkpoint.Best(10, 2.5)
            checkpoint.write_index(out, best)
    assert [s.step for s in checkpoint.steps(out)] == [10, 20, 30]
    assert checkpoint.find(out, "best").step == 10
    assert checkpoint.find(out, "last").step == 30
    assert checkpoint.find(out, "20").step == 20
    checkpoint.load_trainer(checkpoint.find(out, "20"))
    with pytest.raises(CheckpointError, match="no optimizer"):
        checkpoint.load_trainer(checkpoint.find(out, "best"))
    checkpoint.load_model(checkpoint.find(out, "best"))


def test_where_the_index_is_wrong_or_gone_the_folders_win(run):
    out, save = run
    save(10), save(20)
    index = out / "checkpoints" / "index.json"
    index.write_text(json.dumps({"last": 99, "best": 77, "best_val_bpc": 1.0}))
    assert checkpoint.find(out, "last").step == 20
    assert checkpoint.find(out, "best").step == 20
    index.write_text("{ broken")
    assert checkpoint.find(out, "best").step == 20
    index.unlink()
    assert checkpoint.find(out, "best").step == 20
    save(30, checkpoint.Best(10, 2.0))  # the run itself remembers its best
    save(40, checkpoint.Best(10, 2.0))
    assert [s.step for s in checkpoint.steps(out)] == [10, 30, 40]
    assert checkpoint.find(out, "best").step == 10


def test_a_save_that_dies_leaves_the_step_before_as_the_last(run, monkeypatch):
    out, save = run
    save(10)
    for fatal in ("save_file", "sha256"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, fatal, lambda *_, **__: (_ for _ in ()).throw(OSError(28)))
            with pytest.raises(OSError):
                save(20)
        assert [s.step for s in checkpoint.steps(out)] == [10]
        checkpoint.load_model(checkpoint.find(out, "last"))
    save(20)
    assert [s.step for s in checkpoint.steps(out)] == [10, 20]


def test_a_copy_beside_the_steps_and_the_rest_of_a_killed_save_do_no_harm(run):
    out, save = run
    first = save(10)
    shutil.copytree(first.path, first.path.with_name("step_00000010.bak"))
    first.path.with_name(".tmp-step_00000011").mkdir()
    save(20)
    assert [s.step for s in checkpoint.steps(out)] == [10, 20]
    assert not list((out / "checkpoints").glob(".tmp-*"))


def test_a_complete_step_is_never_written_again(run):
    _, save = run
    first = save(10)
    before = (first.path / "model.safetensors").stat().st_mtime_ns
    save(10)
    assert (first.path / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "missing"])
def test_damaged_weights_are_refused_with_a_way_on(run, damage):
    _, save = run
    step = save(10)
    file = step.path / "model.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        kept = {"flip": len(data), "truncate": len(data) - 7, "empty": 0}[damage]
        file.write_bytes(data[:kept])
    with pytest.raises(CheckpointError, match=r"(?s)damaged.*mend"):
        checkpoint.load_model(step)


def test_a_newer_format_is_refused(run):
    _, save = run
    step = save(10)
    facts = json.loads((step.path / "model.json").read_text())
    (step.path / "model.json").write_text(json.dumps(facts | {"format": 2}))
    with pytest.raises(CheckpointError, match="format"):
        checkpoint.describe(step)


def test_a_folder_without_checkpoints_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(CheckpointError, match=r"(?s)no checkpoint.*backend\.training\.train"):
        checkpoint.find(tmp_path)


def test_an_unknown_step_lists_the_known_ones(run):
    out, save = run
    save(10)
    with pytest.raises(CheckpointError, match=r"(?s)'11'.*10"):
        checkpoint.find(out, "11")


def test_the_newest_run_is_the_one_trained_last(run, tmp_path, model):
    out, save = run
    for name, age in (("old", 100), ("new", 10)):
        trainer = ({"x": torch.zeros(1)}, {})
        step = checkpoint.save(
            out / "out" / name, model, step=1, run={}, trainer=trainer, best=None
        )
        now = step.path.stat().st_mtime
        os.utime(step.path, (now - age, now - age))
    assert checkpoint.newest_run(out / "out").name == "new"
    with pytest.raises(CheckpointError, match="make lyrics"):
        checkpoint.newest_run(tmp_path / "nothing")


# --- weights by any name ---

CHARACTERS = CharTokenizer([chr(ord("0") + i) for i in range(48)])  # 50 ids, as the model has


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The same weights under every kind of name, in the working folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = ModelConfig(block_size=32, n_layer=2, n_head=4, n_embd=32, activation="gelu")
    model = GPT(config, vocab_size=50).eval()
    weights = Weights(model.config, 50, model.weights())
    tokenizer = CHARACTERS.to_json()
    run = Path("out/songs")
    trainer = ({"rng.cpu": torch.get_rng_state()}, {})
    checkpoint.save(run, model, step=7, run={}, trainer=trainer, best=None)
    (run / "tokenizer.json").write_text(tokenizer)
    (run / "config.json").write_text("{}")  # the settings of a run, no model of Hugging Face
    checkpoint.save_weights(run / "export", weights, step=7, facts={}, tokenizer=tokenizer)
    for folder in (Path("hf"), run / "export-hf"):
        folder.mkdir()
        values = huggingface.to_settings(config, 50, CHARACTERS.eot)
        (folder / "config.json").write_text(json.dumps(values))
        checkpoint.save_tensors(huggingface.to_tensors(weights), folder / "model.safetensors")
        (folder / "tokenizer.json").write_text(tokenizer)
    nanogpt.write(Path("nano/ckpt.pt"), weights, step=7, loss=1.0, dataset="songs")
    Path("nano/tokenizer.json").write_text(tokenizer)

    def no_network(name):
        pytest.fail(f"{name} was looked for on Hugging Face")

    monkeypatch.setattr(huggingface, "locate", no_network)
    return model


STEP = "out/songs/checkpoints/step_00000007"
# name -> kind, its own path, where its lyrics go, as it is shown
NAMES = {
    "out/songs": ("ours", STEP, "out/songs", "out/songs, step 7"),
    "./out/songs/": ("ours", STEP, "out/songs", "out/songs, step 7"),
    STEP: ("ours", STEP, "out/songs", "out/songs, step 7"),
    "out/songs/export": ("ours", "out/songs/export", "out/songs", "out/songs/export, step 7"),
    "out/songs/export-hf": (
        "huggingface",
        "out/songs/export-hf",
        "out/songs",
        "out/songs/export-hf",
    ),
    "hf": ("huggingface", "hf", "out/hf", "hf"),
    "nano/ckpt.pt": ("nanogpt", "nano/ckpt.pt", "out/nano", "nano/ckpt.pt"),
    "nano": ("nanogpt", "nano/ckpt.pt", "out/nano", "nano/ckpt.pt"),
}


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_weights_are_found_by_every_kind_of_name_and_are_the_same(places, name, absolute):
    kind, path, run, shown = NAMES[name]
    source = checkpoint.find(Path(name).absolute() if absolute else name)
    assert source.kind == kind
    assert source.path.absolute() == Path(path).absolute()
    assert source.run.absolute() == Path(run).absolute()
    assert absolute or str(source) == shown
    assert source.step == (7 if kind == "ours" else 0)
    assert source.files and all(file.is_file() for file in source.files)
    idx = torch.randint(50, (2, 32))
    with torch.inference_mode():
        torch.testing.assert_close(checkpoint.load_model(source)(idx)[0], places(idx)[0])
    config, vocab_size = checkpoint.describe(source)
    assert vocab_size == 50
    assert replace(config.resolved(), bias=True) == places.config
    assert checkpoint.load_tokenizer(source).vocabulary() == CHARACTERS.vocabulary()


@pytest.mark.parametrize("name", ["gpt2", "gpt2-xl", "you/songs", "openai-community/gpt2"])
def test_a_name_that_is_no_path_is_asked_of_the_hub_and_keeps_its_name(places, monkeypatch, name):
    asked = []
    monkeypatch.setattr(huggingface, "locate", lambda n: asked.append(n) or Path("hf"))
    source = checkpoint.find(name)
    assert asked == [name]
    assert (source.kind, str(source)) == ("huggingface", name)
    assert source.run == Path("out") / name.replace("/", "-")
    assert source.files == [Path("hf/model.safetensors")]


@pytest.mark.parametrize(
    "name",
    [
        *("out/song", "out/songs/checkpoints/step_00000008", "out/songs/checkpoints", "out"),
        *("./out/typo", "../songs", "./songs", "a/b/c", "/nowhere/at/all"),
        *("empty", "empty/inner", "", "two words"),
    ],
)
def test_a_mistyped_path_is_told_with_a_command_and_never_asked_of_the_hub(places, name):
    Path("empty/inner").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"(?s)no checkpoint in.*backend\.training\.train"):
        checkpoint.find(name)


@pytest.mark.parametrize("gone", [STEP, "out/songs/checkpoints"])
def test_a_run_killed_before_its_first_step_is_no_model_of_hugging_face(places, gone):
    shutil.rmtree(gone)  # its config.json stands, with the settings of a run
    with pytest.raises(CheckpointError, match="no checkpoint in out/songs"):
        checkpoint.find("out/songs")


def test_a_program_that_only_reads_takes_the_named_weights_else_the_run(places):
    assert checkpoint.named("resume", "out/songs", "best").path == Path(STEP)
    assert checkpoint.named("resume", None, "best").path == Path(STEP)
    assert checkpoint.named("nano", "out/songs", "best").kind == "nanogpt"
    with pytest.raises(CheckpointError, match="'8'"):
        checkpoint.named("out/songs", None, "8")


# --- their tokenizers ---


def test_nanogpts_tokenizer_is_looked_for_beside_the_file_then_where_its_data_are(places):
    source = checkpoint.find("nano")
    text = Path("nano/tokenizer.json").read_text()
    Path("nano/tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"(?s)no tokenizer.*nano/tokenizer\.json.*binarize"):
        checkpoint.load_tokenizer(source)
    Path("data/songs").mkdir(parents=True)
    Path("data/songs/tokenizer.json").write_text(text)
    assert checkpoint.tokenizer_file(source) == Path("data/songs/tokenizer.json")
    assert checkpoint.load_tokenizer(source).vocabulary() == CHARACTERS.vocabulary()


def test_nanogpts_tokenizer_is_found_in_nanogpts_checkout(places):
    checkout = Path("elsewhere/nanoGPT")
    (checkout / "out-songs").mkdir(parents=True)
    (checkout / "data/songs").mkdir(parents=True)
    shutil.move("nano/ckpt.pt", checkout / "out-songs/ckpt.pt")
    shutil.move("nano/tokenizer.json", checkout / "data/songs/tokenizer.json")
    source = checkpoint.find(checkout / "out-songs")
    assert checkpoint.load_tokenizer(source).vocabulary() == CHARACTERS.vocabulary()


def test_a_hugging_face_folder_without_a_tokenizer_is_told_where_to_put_one(places):
    Path("hf/tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"(?s)no tokenizer.*hf/tokenizer\.json"):
        checkpoint.load_tokenizer(checkpoint.find("hf"))
    Path("hf/tokenizer.json").write_text("{ broken")
    with pytest.raises((CheckpointError, DataError), match=r"tokenizer\.json"):
        checkpoint.load_tokenizer(checkpoint.find("hf"))


def test_gpt2s_tokenizer_is_known_by_its_size_where_there_is_no_file(tmp_path, monkeypatch):
    config = ModelConfig(block_size=8, n_layer=1, n_head=1, n_embd=4, activation="gelu")
    model = GPT(config, vocab_size=50_257)
    weights = Weights(model.config, 50_257, model.weights())
    nanogpt.write(tmp_path / "ckpt.pt", weights, step=0, loss=1.0, dataset="openwebtext")
    known = object()
    monkeypatch.setattr(ByteBPE, "gpt2", lambda: known)
    assert checkpoint.load_tokenizer(checkpoint.find(tmp_path)) is known


# --- exported folders, and what older versions wrote ---


def test_an_export_that_dies_leaves_the_one_before(tmp_path, model, monkeypatch):
    folder, weights = tmp_path / "export", Weights(model.config, 50, model.weights())
    checkpoint.save_weights(folder, weights, step=1, facts={})
    for fatal in ("save_file", "sha256"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, fatal, lambda *_, **__: (_ for _ in ()).throw(OSError(28)))
            with pytest.raises(OSError):
                checkpoint.save_weights(folder, weights, step=2, facts={})
        assert checkpoint.find(folder).step == 1
        checkpoint.load_model(checkpoint.find(folder))
    checkpoint.save_weights(folder, weights, step=2, facts={})
    assert checkpoint.find(folder).step == 2
    assert [p.name for p in tmp_path.iterdir()] == ["export"]


def test_files_are_readable_by_whom_the_umask_lets(run):
    umask = os.umask(0)
    os.umask(umask)
    _, save = run
    for file in save(10).path.iterdir():
        assert file.stat().st_mode & 0o777 == 0o666 & ~umask, file.name


def rewrite(step, name, change):
    """A JSON file of a step as another version wrote it, with its hash."""
    file = step.path / name
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))
    complete = json.loads((step.path / "COMPLETE").read_text())
    complete[name] = [file.stat().st_size, sha256(file)]
    (step.path / "COMPLETE").write_text(json.dumps(complete))


def test_a_step_of_a_version_with_fewer_settings_is_read_with_their_defaults(run, model):
    _, save = run
    step = save(10)
    known = ("block_size", "n_layer", "n_head", "n_embd", "dropout", "bias")

    def forget(values):
        values["model"] = {k: v for k, v in values["model"].items() if k in known}

    rewrite(step, "model.json", forget)
    assert checkpoint.describe(step) == (model.config, 50)
    idx = torch.randint(50, (2, 20))
    assert torch.equal(checkpoint.load_model(step)(idx)[0], model(idx)[0])


def test_a_step_of_a_version_with_more_settings_is_refused(run):
    _, save = run
    step = save(10)
    rewrite(step, "model.json", lambda values: values["model"].update(n_experts=8))
    with pytest.raises(CheckpointError, match=r"model\.json is not whole.*n_experts"):
        checkpoint.load_model(step)


@pytest.mark.parametrize("name", ["model.json", "COMPLETE"])
@pytest.mark.parametrize("text", ["", "{ broken", "[]"])
def test_a_broken_json_of_a_step_is_a_sentence(run, name, text):
    out, save = run
    step = save(10)
    (step.path / name).write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(name)):
        checkpoint.load_model(checkpoint.find(out))


def test_a_best_at_step_0_is_the_best(run):
    out, save = run
    for step in (0, 10, 20):
        save(step, checkpoint.Best(0, 2.0))
    assert checkpoint.find(out, "best").step == 0


def test_a_full_disk_is_a_sentence_and_leaves_no_half_step(run, monkeypatch):
    out, save = run

    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"(?s)No space left.*free space"):
        save(10)
    assert not list((out / "checkpoints").iterdir())
