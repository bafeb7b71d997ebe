"""Sampling from a finished run: on screen, in files, the same again; mistakes are sentences."""

import json
import shutil
from pathlib import Path

import pytest
import tiktoken
import torch

from backend.config.schema import BinarizeConfig, ExportConfig, ModelConfig, SampleConfig
from backend.data import binarize
from backend.data.tokenizers import ByteBPE, CharTokenizer
from backend.errors import CheckpointError, ConfigError
from backend.models import checkpoint, huggingface
from backend.models.generation import Sampling, complete
from backend.models.gpt import GPT
from backend.models.weights import Weights
from backend.storage import sha256, write_json
from backend.training import export, sample, train
from tests.conftest import ROOT


@pytest.fixture
def run(corpus, tiny):
    train.main(tiny(max_iters=4))
    return corpus / "out/tiny"


def songs(run):
    return [
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in sorted((run / "lyrics").glob("*.jsonl"))
    ]


def config(**changes):
    return SampleConfig(**(dict(out_dir="out/tiny", num_samples=2, max_new_tokens=40) | changes))


def test_songs_are_shown_and_kept_with_what_makes_them_again(run, capsys):
    sample.main(config(start="The wheel", artist="Anon", title="Round"))
    [rows] = songs(run)
    shown = capsys.readouterr().out
    for row in rows:
        assert row["text"].startswith("The wheel")
        assert row["text"].strip() in shown
        assert (row["artist"], row["title"]) == ("Anon", "Round")
        assert row["prompt"] == "artist: Anon\ntitle: Round\n\nThe wheel"
        assert row["checkpoint_sha256"]
        assert row["finish"] in ("end", "length")
        assert "<|" not in row["text"]
    assert [row["seed"] for row in rows] == [1337, 1338]
    assert "Round · Anon" in shown


def test_the_same_settings_show_the_same_songs_again_and_write_nothing(run, capsys):
    sample.main(config())
    first = capsys.readouterr().out
    assert sample.main(config()).skipped
    assert len(songs(run)) == 1
    assert songs(run)[0][0]["text"].strip() in first
    assert songs(run)[0][0]["text"].strip() in capsys.readouterr().out


def test_other_settings_never_overwrite_older_songs(run):
    for seed in (1, 2, 3):
        sample.main(config(seed=seed))
    sample.main(config(seed=1))  # its manifest is gone by now, its file is not
    assert len(songs(run)) == 4
    texts = [[row["text"] for row in rows] for rows in songs(run) if rows[0]["seed"] == 1]
    assert texts[0] == texts[1]


def test_a_prompt_can_come_from_a_file(run, tmp_path):
    (tmp_path / "prompt.txt").write_text("The wind\n", encoding="utf-8")
    sample.main(config(start=f"FILE:{tmp_path / 'prompt.txt'}"))
    assert all(row["text"].startswith("The wind") for row in songs(run)[0])
    with pytest.raises(ConfigError, match="prompt file"):
        sample.main(config(start="FILE:nope.txt"))


@pytest.mark.parametrize("start", ["la \udcff", "\ud83d la"])
def test_a_start_that_is_not_utf_8_is_a_sentence_that_offers_a_file(run, start):
    with pytest.raises(ConfigError) as error:
        sample.main(config(start=start))
    assert "start" in error.value.what
    assert "FILE:" in error.value.mend
    assert not (run / "lyrics").exists()


def test_a_character_the_model_never_saw_is_told_and_does_not_stop_it(run, capsys):
    sample.main(config(start="Ω wheel"))
    assert "never saw some characters: 'Ω' is read as unknown" in capsys.readouterr().out
    assert songs(run)[0][0]["text"].startswith("Ω wheel")


def test_an_accent_the_model_never_saw_is_read_as_its_base_letter_and_told(run, capsys):
    # what is read decides the song: the same as of the plain letters
    sample.main(config(start="Thé wheel", artist="Ánon"))
    said = capsys.readouterr().out
    assert "'é' is read as 'e'" in said
    assert "'Á' is read as 'A'" in said
    assert "unknown" not in said
    sample.main(config(start="The wheel", artist="Anon"))
    assert "never saw" not in capsys.readouterr().out
    accented, plain = sorted(songs(run), key=lambda rows: rows[0]["prompt"].isascii())
    for one, other in zip(accented, plain, strict=True):
        assert one["text"].startswith("Thé wheel")
        assert one["text"].removeprefix("Thé") == other["text"].removeprefix("The")


def test_without_a_folder_the_newest_run_is_taken_and_named(run, capsys):
    sample.main(config(out_dir=None))
    assert "out/tiny, step" in capsys.readouterr().out


def test_missing_checkpoints_are_a_sentence_with_a_command(corpus):
    with pytest.raises(CheckpointError, match=r"(?s)no checkpoint in out/nope.*backend\.training"):
        sample.main(config(out_dir="out/nope"))
    with pytest.raises(CheckpointError, match="make lyrics"):
        sample.main(config(out_dir=None))


def test_a_step_folder_can_be_named_directly(run, capsys):
    [folder] = (run / "checkpoints").glob("step_00000004")
    sample.main(config(init_from=str(folder)))
    assert "step 4" in capsys.readouterr().out


def test_a_run_on_a_bpe_of_its_own_writes_songs_and_knows_every_character(corpus, tiny, capsys):
    binarize.main(BinarizeConfig(data_dir="data/tiny", tokenizer="bpe", vocab_size=300))
    train.main(tiny(dataset="data/tiny/bpe300", max_iters=2))
    capsys.readouterr()
    sample.main(config(start="Ω wheel", artist="Björk", max_new_tokens=30))
    assert "never saw" not in capsys.readouterr().out
    [rows] = songs(corpus / "out/tiny")
    for row in rows:
        assert row["text"].startswith("Ω wheel")
        assert len(row["text"]) > len("Ω wheel")
        assert row["artist"] == "Björk"
        assert "<|endoftext|>" not in row["text"]


# --- weights from elsewhere -----------------------------------------------------------------------

SHAKESPEARES = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CHARS = CharTokenizer.train([SHAKESPEARES])  # 65 characters and two specials
NEWLINE = CHARS.encode("\n").tolist()


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def tiny_model(vocab_size=67, **changes):
    torch.manual_seed(0)
    shape = dict(block_size=16, n_layer=2, n_head=2, n_embd=16, activation="gelu")
    model = GPT(ModelConfig(**(shape | changes)), vocab_size).eval()
    with torch.no_grad():
        for weight in model.parameters():  # at 0.02 a random model says little: make it decided
            weight.mul_(10)
    return model


def weights_of(model):
    return Weights(model.config, model.vocab_size, model.weights())


def as_nanogpt(folder, model, tokenizer=CHARS):
    """What nanoGPT's train.py leaves, torch.compile's prefix included."""
    folder.mkdir(parents=True)
    tensors = {f"_orig_mod.{k}": v for k, v in model.weights().items()}
    tensors["_orig_mod.lm_head.weight"] = tensors["_orig_mod.transformer.wte.weight"]
    keys = ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")
    arguments = {key: getattr(model.config, key) for key in keys}
    whole = {
        "model": tensors,
        "optimizer": {"state": {}, "param_groups": []},
        "model_args": {**arguments, "vocab_size": model.vocab_size},
        "iter_num": 7,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "shakespeare_char", "out_dir": "out-shakespeare-char"},
    }
    torch.save(whole, folder / "ckpt.pt")
    if tokenizer:
        (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")


def as_huggingface(folder, model, tokenizer=CHARS):
    folder.mkdir(parents=True)
    eot = tokenizer.eot if tokenizer else 0
    values = huggingface.to_settings(model.config, model.vocab_size, eot)
    write_json(folder / "config.json", values)
    tensors = huggingface.to_tensors(weights_of(model))
    checkpoint.save_tensors(tensors, folder / "model.safetensors")
    if tokenizer:
        (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")


def as_export(folder, model, tokenizer=CHARS):
    own = tokenizer.to_json()
    checkpoint.save_weights(folder, weights_of(model), step=3, facts={}, tokenizer=own)


def set_on(model, likely):
    """The model with logits that no context moves, those of `likely` {id: logit} over 0."""
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight.zero_()
        for i, logit in likely.items():
            model.lm_head.weight[i] = logit / model.config.n_embd
    return model


FORMS = [as_nanogpt, as_huggingface, as_export]


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize(
    ("asked", "where"),
    [
        (dict(init_from="models/tale", out_dir=None), "out/tale"),
        (dict(init_from="models/tale", out_dir="out/mine"), "out/mine"),
        (dict(out_dir="models/tale"), "models/tale"),
    ],
    ids=["init_from", "both", "out_dir"],
)
def test_lyrics_of_weights_from_elsewhere_lie_in_out_or_where_they_are_asked_for(
    tmp_path, write, asked, where, capsys
):
    write(tmp_path / "models/tale", tiny_model())
    summary = sample.main(config(**asked))
    assert summary.folder == Path(where) / "lyrics"
    assert not [p for p in tmp_path.rglob("lyrics") if p != tmp_path / where / "lyrics"]
    [rows] = songs(tmp_path / where)
    weights = tmp_path / rows[0]["checkpoint"]
    weights = next(weights.glob("*.safetensors")) if weights.is_dir() else weights
    assert rows[0]["checkpoint_sha256"] == sha256(weights)
    assert rows[0]["id"].startswith(f"{Path(where).name}-")
    assert "tale" in capsys.readouterr().out.splitlines()[0]
    assert sample.main(config(**asked)).skipped
    assert len(songs(tmp_path / where)) == 1
    assert not sample.main(config(**asked, seed=2)).skipped


@pytest.mark.parametrize("write", FORMS)
def test_other_weights_in_the_same_place_write_songs_of_their_own(tmp_path, write):
    write(tmp_path / "models/tale", tiny_model())
    sample.main(config(out_dir="models/tale"))
    write(tmp_path / "models/other", tiny_model(n_layer=1))
    for file in (tmp_path / "models/other").iterdir():
        file.replace(tmp_path / "models/tale" / file.name)
    assert not sample.main(config(out_dir="models/tale")).skipped
    first, second = songs(tmp_path / "models/tale")
    assert first[0]["text"] != second[0]["text"]


@pytest.mark.parametrize("write", FORMS)
def test_another_tokenizer_beside_the_same_weights_is_noticed(tmp_path, write):
    write(tmp_path / "models/tale", tiny_model())
    sample.main(config(out_dir="models/tale"))
    assert sample.main(config(out_dir="models/tale")).skipped
    other = CharTokenizer.train([SHAKESPEARES.replace("Z", "0")])  # as many characters
    (tmp_path / "models/tale/tokenizer.json").write_text(other.to_json(), encoding="utf-8")
    assert not sample.main(config(out_dir="models/tale")).skipped


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize(
    ("here", "asked", "name"), [(".", "models/tale.v2", "tale.v2"), ("models/tale", ".", "tale")]
)
def test_lyrics_of_weights_from_elsewhere_lie_in_a_folder_of_their_whole_name(
    tmp_path, monkeypatch, write, here, asked, name
):
    write(tmp_path / "models" / name, tiny_model())
    monkeypatch.chdir(tmp_path / here)
    summary = sample.main(config(init_from=asked, out_dir=None))
    assert summary.folder == Path("out") / name / "lyrics"


def test_lyrics_of_an_export_lie_with_those_of_its_run(run):
    export.main(ExportConfig(out_dir="out/tiny", format="safetensors"))
    summary = sample.main(config(init_from="out/tiny/export-safetensors", out_dir=None))
    assert summary.folder == Path("out/tiny/lyrics")
    assert sample.main(config(init_from="out/tiny", out_dir="out/more")).folder == Path(
        "out/more/lyrics"
    )


def test_a_run_and_what_was_exported_from_it_write_the_same_songs(run, tmp_path):
    export.main(ExportConfig(out_dir="out/tiny", format="safetensors"))
    shutil.copytree(run / "export-safetensors", tmp_path / "moved")
    step = checkpoint.find("out/tiny")
    own = checkpoint.load_tokenizer(step)
    as_huggingface(tmp_path / "theirs", checkpoint.load_model(step), own)
    found = {}
    for place in ("out/tiny", "moved", "theirs"):
        sample.main(config(init_from=place, out_dir=f"out/of-{Path(place).name}", start="The "))
        [rows] = songs(tmp_path / f"out/of-{Path(place).name}")
        found[place] = [(row["text"], row["finish"]) for row in rows]
    assert found["moved"] == found["theirs"] == found["out/tiny"]
    assert found["moved"][0] != found["moved"][1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("write", [as_huggingface, as_export])
@pytest.mark.parametrize(
    ("tokenizer", "more"), [(CHARS, 0), (CHARS, 33), (ByteBPE.train(["la la la"] * 9, 300), 64)]
)
def test_ids_that_no_text_has_are_never_drawn_however_likely(
    tmp_path, write, tokenizer, more, temperature
):
    # such as <|unknown|>, or the padding of others: a model larger than its tokenizer
    size = tokenizer.vocab_size + more
    never = [*tokenizer.never_sampled(), *range(tokenizer.vocab_size, size)]
    likely = {tokenizer.vocabulary()["a"]: 40.0} | dict.fromkeys(never, 80.0)
    model = set_on(tiny_model(size, tied_head=False), likely)
    write(tmp_path / "models/tale", model, tokenizer)
    sample.main(config(init_from="models/tale", temperature=temperature, top_k=5))
    [rows] = songs(tmp_path / "out/tiny")
    assert [row["text"] for row in rows] == ["a" * 40] * 2


def test_a_model_of_nanogpts_characters_starts_on_a_new_line_and_goes_to_the_end(tmp_path):
    model = tiny_model(65)  # no end of text: nanoGPT's own shakespeare_char
    as_nanogpt(tmp_path / "models/tale", model)
    sample.main(config(out_dir="models/tale", temperature=1.0))
    [rows] = songs(tmp_path / "models/tale")

    def continued(prompt):
        drawn = complete(
            model, prompt, Sampling(top_k=200), eot=None, seeds=[1337, 1338], max_new_tokens=40,
            keep=1,
        )  # fmt: skip
        return ["".join(SHAKESPEARES[i] for i in ids) for ids, _ in drawn]

    assert [row["text"] for row in rows] == continued(NEWLINE)
    assert continued(NEWLINE) != continued(CHARS.encode("a").tolist())
    for row in rows:
        assert len(row["text"]) == 40
        assert row["finish"] == "length"
        assert set(row["text"]) <= set(SHAKESPEARES)


def test_a_model_of_nanogpts_characters_goes_on_from_a_prompt(tmp_path):
    model = tiny_model(65)
    as_nanogpt(tmp_path / "models/tale", model)
    sample.main(config(out_dir="models/tale", start="O tide", artist="Anon", temperature=0))
    [rows] = songs(tmp_path / "models/tale")
    header = CHARS.encode("\nartist: Anon\n\n").tolist()
    [(ids, _)] = complete(
        model, [*header, *CHARS.encode("O tide").tolist()], Sampling(temperature=0), eot=None,
        seeds=[0], max_new_tokens=40, keep=len(header),
    )  # fmt: skip
    assert rows[0]["text"] == "O tide" + CHARS.decode(ids)
    assert rows[0]["artist"] == "Anon"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (dict(start="Ω la"), "'Ω' is left out"),
        (dict(artist="Björk"), "'ö' is read as 'o'"),
        (dict(start="☃ la", artist="Björk"), "'ö' is read as 'o', '☃' is left out"),
    ],
)
def test_a_character_that_nanogpts_model_never_saw_is_told_and_does_not_stop_it(
    tmp_path, asked, told, capsys
):
    as_nanogpt(tmp_path / "models/tale", tiny_model(65))  # it has no id for unknown
    sample.main(config(out_dir="models/tale", **asked))
    assert f"never saw some characters: {told}" in capsys.readouterr().out
    [rows] = songs(tmp_path / "models/tale")
    for row in rows:
        assert row["text"].startswith(asked.get("start", ""))
        assert len(row["text"]) == len(asked.get("start", "")) + 40
        assert row["artist"] == asked.get("artist")


def test_a_model_of_nanogpts_characters_may_know_no_line_break(tmp_path):
    own = CharTokenizer.train([SHAKESPEARES.replace("\n", "")])
    as_nanogpt(tmp_path / "models/tale", tiny_model(64), own)
    sample.main(config(out_dir="models/tale"))
    [rows] = songs(tmp_path / "models/tale")
    for row in rows:
        assert len(row["text"]) == 40
        assert set(row["text"]) <= set(own.characters)


def test_a_model_with_an_end_of_text_starts_from_it_wherever_it_comes_from(tmp_path):
    model = tiny_model(67)
    for write in FORMS:
        place = tmp_path / "models" / write.__name__
        write(place, model)
        sample.main(config(out_dir=str(place), temperature=0.0, num_samples=1))
        [[row]] = songs(place)
        [(ids, finish)] = complete(
            model, [CHARS.eot], Sampling(temperature=0, never=[CHARS.unknown]), eot=CHARS.eot,
            seeds=[0], max_new_tokens=40, keep=1,
        )  # fmt: skip
        assert (row["text"], row["finish"]) == (CHARS.decode(ids), finish)


def test_a_model_that_ends_its_song_says_so_and_no_name_of_the_end_is_in_the_text(tmp_path):
    model = set_on(tiny_model(67, tied_head=False), {CHARS.eot: 3.0})
    as_export(tmp_path / "models/tale", model)
    sample.main(config(out_dir="models/tale", max_new_tokens=300, temperature=1.0, num_samples=6))
    [rows] = songs(tmp_path / "models/tale")
    assert {row["finish"] for row in rows} == {"end"}
    assert all("<|" not in row["text"] and len(row["text"]) < 300 for row in rows)


def test_nanogpts_tokenizer_is_found_in_the_data_folder_it_names(tmp_path):
    as_nanogpt(tmp_path / "models/tale", tiny_model(65), tokenizer=None)
    with pytest.raises(CheckpointError) as error:
        sample.main(config(init_from="models/tale"))
    assert "no tokenizer" in error.value.what
    assert "models/tale/tokenizer.json" in error.value.mend
    folder = tmp_path / "data/shakespeare_char"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(CHARS.to_json(), encoding="utf-8")
    assert sample.main(config(init_from="models/tale")).counts["songs"] == 2


def test_a_hugging_face_folder_without_its_tokenizer_is_a_sentence(tmp_path):
    as_huggingface(tmp_path / "models/tale", tiny_model(67), tokenizer=None)
    with pytest.raises(CheckpointError) as error:
        sample.main(config(init_from="models/tale"))
    assert "no tokenizer" in error.value.what
    assert "models/tale/tokenizer.json" in error.value.mend


def test_gpt2_itself_needs_no_tokenizer_beside_it_but_another_of_its_size_does(
    tmp_path, monkeypatch
):
    files = ROOT.parent / "shared" / "data" / "tiktoken_cache"
    if not files.is_dir():
        pytest.skip(f"GPT-2's vocabulary is not in {files}")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(files))
    openai = tiktoken.get_encoding("gpt2")
    [love] = openai.encode(" love")
    model = set_on(tiny_model(50_257, n_embd=4, tied_head=False), {love: 40.0})
    as_huggingface(tmp_path / "models/tale", model, tokenizer=None)
    with pytest.raises(CheckpointError, match="no tokenizer"):
        sample.main(config(init_from="models/tale"))
    monkeypatch.setattr(huggingface, "locate", lambda name: Path("models/tale"))
    sample.main(config(init_from="gpt2", start="I 日本", max_new_tokens=5))
    [rows] = songs(tmp_path / "out/tiny")
    assert rows[0]["text"] == "I 日本" + " love" * 5


def test_an_older_folder_with_vocab_json_and_merges_txt_has_its_own_vocabulary(tmp_path):
    tokenizer = ByteBPE.train(["the rain the river"] * 3, 300)
    as_huggingface(tmp_path / "models/tale", tiny_model(tokenizer.vocab_size), tokenizer=None)
    tokenizer.whole.model.save(str(tmp_path / "models/tale"))
    source = checkpoint.find("models/tale")
    assert checkpoint.load_tokenizer(source).vocabulary() == tokenizer.vocabulary()
