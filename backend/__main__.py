"""`lyrics <verb>`: one table from verbs to programs.

lyrics crawl --source=demo          is  python -m backend.scrapers.crawl --source=demo
"""

import ast
import difflib
import importlib
import importlib.util
import sys
from pathlib import Path

from backend.config import schema
from backend.config.loader import program

PROGRAMS = {
    "crawl": ("backend.scrapers.crawl", schema.CrawlConfig),
    "clean": ("backend.data.clean", schema.CleanConfig),
    "binarize": ("backend.data.binarize", schema.BinarizeConfig),
    "corpora": ("backend.data.corpora", schema.CorporaConfig),
    "train": ("backend.training.train", schema.TrainConfig),
    "evaluate": ("backend.evaluation.evaluate", schema.EvaluateConfig),
    "sample": ("backend.training.sample", schema.SampleConfig),
    "export": ("backend.training.export", schema.ExportConfig),
    "bench": ("backend.training.bench", schema.BenchConfig),
    "doctor": ("backend.doctor", schema.DoctorConfig),
    "pipeline": ("flows.lyrics_pipeline", schema.PipelineConfig),
}


def main(argv: list[str] | None = None) -> int:
    """Run a verb. Its module is imported when it runs, so that --help is instant."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in PROGRAMS:
        asked_for_help = argv[:1] in (["--help"], ["-h"])
        if argv and not asked_for_help:
            near = difflib.get_close_matches(argv[0], PROGRAMS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            print(f"error: no verb {argv[0]!r}{hint}", file=sys.stderr)
        lines = [
            f"  {verb:<10}{about(module).splitlines()[0]}" for verb, (module, _) in PROGRAMS.items()
        ]
        print("lyrics <verb> [--key=value ...]\n\n" + "\n".join(lines),
              file=sys.stdout if asked_for_help else sys.stderr)  # fmt: skip
        return 0 if asked_for_help else 2
    module, config_type = PROGRAMS[argv[0]]

    def run(config: schema.Settings) -> None:
        importlib.import_module(module).main(config)

    return program(run, config_type, argv[1:], about(module))


def about(module: str) -> str:
    """A module's docstring, read without importing it."""
    package, _, name = module.rpartition(".")
    folder = importlib.util.find_spec(package)
    assert folder is not None
    assert folder.submodule_search_locations is not None
    path = Path(folder.submodule_search_locations[0]) / f"{name}.py"
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


if __name__ == "__main__":
    sys.exit(main())
