"""Sampling from a finished run: on screen, in files, the same again; mistakes are sentences."""

import json

import pytest

from backend.config.schema import SampleConfig
from backend.errors import CheckpointError, ConfigError
from backend.training import sample, train


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


def test_a_character_the_model_never_saw_is_told_and_does_not_stop_it(run, capsys):
    sample.main(config(start="Ω wheel"))
    assert "never saw 'Ω'" in capsys.readouterr().out
    assert songs(run)[0][0]["text"].startswith("Ω wheel")


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
