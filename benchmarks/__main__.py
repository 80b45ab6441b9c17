"""Measures this project beside its peers, and prints and keeps what comes out.

    python -m benchmarks                                 # everything, about four hours on two cores
    python -m benchmarks throughput search --keras .venv-keras/bin/python
    python -m benchmarks table --help                    # a table of real training, for the league
    python -m benchmarks league --help                   # tuners on such tables
    python -m benchmarks check --help                    # the league against real searches
    python -m benchmarks rematch --help                  # what was published against a search

One benchmark an argument; each prints a table and writes results/<name>.json beside this file,
with its provenance. Peers run in processes of their own, one after another. Only ratios within one
run mean anything on a machine that does other work too. Keras needs an environment of its own
(README.md); without it, its rows are left out.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    defaults,
    gpu,
    overhead,
    precision,
    race,
    recipes,
    rematch,
    search,
    startup,
    storage,
    throughput,
    workers,
)
from benchmarks.league import check, league, table
from benchmarks.tables import print_rows
from src import cli
from src.core.files import shorten_paths
from src.results.provenance import provenance
from src.training.device import choose_compute

RESULTS = Path(__file__).parent / "results"

BENCHMARKS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "throughput": throughput.measure,
    "search": search.measure,
    "defaults": defaults.measure,
    "overhead": overhead.measure,
    "workers": workers.measure,
    "precision": precision.measure,
    "recipes": recipes.measure,
    "race": race.measure,
    "storage": storage.measure,
    "gpu": gpu.measure,
    "startup": startup.measure,
}


COMMANDS: dict[str, cli.Command[Any]] = {
    "table": table.COMMAND,
    "league": league.COMMAND,
    "check": check.COMMAND,
    "rematch": rematch.COMMAND,
}
"""What has options of its own."""


def make_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; none: all")
    parser.add_argument("--keras", type=Path, help="python of the environment that has Keras Tuner")
    parser.add_argument(
        "--postgresql", help="URL of a database to be emptied and filled, for storage"
    )
    parser.add_argument("--data_dir", default="data", help="where MNIST is, or is downloaded to")
    parser.add_argument("--seeds", type=int, default=2, help="searches to compare, one a seed")
    parser.add_argument("--quick", action="store_true", help="seconds each, to see that it works")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON files")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks that are named."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]].main(words[1:])
    parser = make_parser()
    options = parser.parse_args(argv)
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")

    options.results.mkdir(parents=True, exist_ok=True)
    for name in options.names or BENCHMARKS:
        origin = provenance(choose_compute("auto", "auto"), recorded_command(options))
        report = BENCHMARKS[name](options)
        print_rows(name, report)
        text = json.dumps(report | {"provenance": origin}, indent=2, ensure_ascii=False)
        (options.results / f"{name}.json").write_text(text + "\n")
    return 0


def recorded_command(options: argparse.Namespace) -> str:
    """Return the command line with the options that differ from their defaults, without the URL."""
    parser = make_parser()
    words = ["python", "-m", "benchmarks", *options.names]
    for name, value in vars(options).items():
        if name == "names" or value == parser.get_default(name):
            continue
        if value is True:
            words.append(f"--{name}")
        else:
            words += [f"--{name}", "***" if name == "postgresql" else shorten_paths(str(value))]
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
