"""Writes the page of a run, its pictures and its table.

    python -m r1v3_jax.report WORKDIR
    python -m r1v3_jax.report WORKDIR OTHER_WORKDIR ...     several runs side by side

The page is WORKDIR/report/index.html, and works on a run in progress too. See docs/viewing.md.
"""

import argparse
import sys
import threading
from pathlib import Path

from r1v3_jax.report import plots, serve
from r1v3_jax.report.page import (
    SAMPLES,
    STEPS,
    Options,
    write_report,
    write_side_by_side,
)
from r1v3_jax.report.run_numbers import read_summary


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m r1v3_jax.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    parser.add_argument(
        "--steps",
        type=natural,
        default=STEPS,
        help=f"steps with pages of samples, evenly chosen (default {STEPS}; 0: all)",
    )
    parser.add_argument(
        "--samples",
        type=natural,
        default=SAMPLES,
        help=f"samples of a step that are shown, about (default {SAMPLES}; 0: all)",
    )
    parser.add_argument(
        "--watch", action="store_true", help="write the page again as the run goes on"
    )
    parser.add_argument(
        "--serve",
        type=natural,
        metavar="PORT",
        help=f"show the page at http://{serve.ADDRESS}:PORT (0: a free port)",
    )
    return parser.parse_args(arguments)


def natural(text: str) -> int:
    """Reads a whole number from 0 on."""
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def main(arguments: list[str] | None = None) -> None:
    """Writes, and then watches or serves if asked to."""
    chosen = parse(sys.argv[1:] if arguments is None else arguments)
    refresh = int(serve.PAUSE_S) if chosen.watch else 0
    options = Options(steps=chosen.steps, samples=chosen.samples, refresh=refresh)
    try:
        path = write(chosen.workdirs, options)
        for workdir in chosen.workdirs:
            print_pictures(workdir)
        print(path)
        if chosen.serve is not None:
            server = serve.make_server(path.parent, chosen.serve)
            port = server.server_address[1]
            print(
                f"http://{serve.ADDRESS}:{port}/{path.name}  (Ctrl-C ends it)",
                flush=True,
            )
            serve.serve_in_background(server)
        if chosen.watch:
            serve.watch(
                lambda: write(chosen.workdirs, options),
                lambda: serve.state_of(chosen.workdirs),
            )
        elif chosen.serve is not None:
            threading.Event().wait()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        pass


def write(workdirs: list[Path], options: Options) -> Path:
    """Writes the page of each run; returns the page to look at."""
    pages = [write_report(workdir, options) for workdir in workdirs]
    return pages[0] if len(pages) == 1 else write_side_by_side(workdirs)


def print_pictures(workdir: Path) -> None:
    """Draws WORKDIR/plots, and prints their paths and the table of accuracies."""
    try:
        for path in plots.plot_run(workdir):
            print(path)
        print(plots.table(read_summary(workdir)))
    # The page has notes of what is damaged; pictures are drawn of whole files alone.
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"no pictures of {workdir}: {error}")


if __name__ == "__main__":
    main()
