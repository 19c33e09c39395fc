"""How a command of this program starts and fails: absl flags in, one line out for a mistake."""

import sys

from absl import app, flags, logging


def run(main) -> None:
    """Runs `main()` after the flags are parsed.

    A user's mistake (ValueError, OSError, ImportError) ends in one message and exit code 1, without
    a traceback. Libraries log warnings only, unless --verbosity asks for more.
    """

    def guarded(argv):
        if len(argv) > 1:
            sys.exit(f"error: unexpected argument {argv[1]!r}; see --help")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        try:
            main()
        except (ValueError, OSError, ImportError) as error:
            sys.exit(f"error: {error}")

    app.run(guarded)
