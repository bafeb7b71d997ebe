"""What the README tells people to type, typed: the stages one by one on the demo songbook.

Left out: what another test types (`make`, Prefect: tests/flows), measures for minutes (bench), or
wants a network (Genius, DarkLyrics, GPT-2's weights).
"""

import re
import shlex
import subprocess
import sys

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
ELSEWHERE = ("flows.lyrics_pipeline", "backend.training.bench")
SHORTER = {  # the same command, in seconds
    "backend.training.train": ["--max_iters=12", "--eval_interval=12", "--tokens_per_step=512"],
    "backend.evaluation.evaluate": ["--num_samples=1", "--seeds=1", "--max_new_tokens=60"],
    "backend.training.sample": ["--num_samples=1", "--max_new_tokens=80"],
}


def of_the_table():
    """The commands of the table of stages, from above to below."""
    rows = re.findall(r"^\| \w+ \| (`.*?) \| ", README, re.MULTILINE)
    found = [command for row in rows for command in re.findall(r"`(python -m [^`]+)`", row)]
    return [words for words in map(shlex.split, found) if words[2] not in ELSEWHERE]


def of_asking():
    """What is shown of asking for a song, for the run of the table."""
    shown = re.findall(r"`(?:sample )?(--artist=[^`]+)`", README)
    assert len(shown) == 2
    return [
        ["python", "-m", "backend.training.sample", "--out_dir=out/demo", *shlex.split(text)]
        for text in shown
    ]


@pytest.mark.e2e
def test_the_stages_one_by_one_and_asking_for_songs(tmp_path):
    (tmp_path / "novel.txt").write_text("It was a dark and stormy night. " * 200)
    stages = of_the_table()
    assert [words[2].rpartition(".")[2] for words in stages] == [
        "crawl", "clean", "binarize", "corpora", "train", "evaluate", "sample", "export", "doctor",
    ]  # fmt: skip
    for _, _, module, *words in [*stages, *of_asking()]:
        command = [sys.executable, "-m", module, *words, *SHORTER.get(module, [])]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert len([*(tmp_path / "out/demo/lyrics").glob("*.txt")]) == 1 + len(of_asking())
    for path in ("data/demo/dataset_card.md", "out/demo/evaluation.md",
                 "out/demo/export-safetensors/model.safetensors"):  # fmt: skip
        assert (tmp_path / path).is_file(), path
