"""What a committed model writes, letter by letter: nothing between weights and songs changed.

tests/golden/ is a run of 2,000 steps on the demo songbook, exported:

    make lyrics
    python -m backend.training.train config/lyrics_small.py --out_dir=out/golden --n_layer=2
        --n_embd=32 --block_size=64 --max_iters=2000 --eval_interval=1000 --dropout=0
    python -m backend.training.export --out_dir=out/golden --checkpoint=last --format=safetensors

songs.json is what it wrote when this was committed: `python -m tests.test_golden` writes it anew,
after a change that means to change it.
"""

import json
import shutil
from pathlib import Path

import pytest

from backend.config.schema import SampleConfig
from backend.training import sample

GOLDEN = Path(__file__).parent / "golden"
ASKED = {
    "greedy": dict(temperature=0.0, max_new_tokens=300),
    "drawn": dict(max_new_tokens=300, num_samples=2),
    "a whole song": dict(
        structure="Verse 1, Chorus, Verse 2, Chorus", lines=2, artist="Gravenwick", title="Tide",
        top_p=0.95, no_repeat_ngram=3, ban=("the",), repetition_penalty=1.1,
    ),
}  # fmt: skip


def written(folder, name):
    """The songs as this code writes them."""
    settings = dict(init_from=str(folder), out_dir=str(folder / "out"), num_samples=1) | ASKED[name]
    summary = sample.main(SampleConfig(**settings))
    rows = (summary.folder / summary.counts["file"]).with_suffix(".jsonl")
    return [json.loads(line)["text"] for line in rows.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ASKED)
def test_the_golden_model_writes_its_songs(name, tmp_path):
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    songs = json.loads((GOLDEN / "songs.json").read_text(encoding="utf-8"))
    assert written(folder, name) == songs[name]


def test_the_golden_model_is_small():
    assert sum(file.stat().st_size for file in GOLDEN.iterdir()) < 200_000


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        copied = shutil.copytree(GOLDEN, Path(place) / "golden")
        found = {name: written(copied, name) for name in ASKED}
    path = GOLDEN / "songs.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
