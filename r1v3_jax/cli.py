"""How a command of this program starts and fails: absl flags in, one line out for a user's
mistake.
"""

import sys

from absl import app


def run(main) -> None:
    """Runs `main()` after the flags are parsed. A user's mistake ends in one message and exit code
    1, no traceback.
    """

    def guarded(argv):
        if len(argv) > 1:
            sys.exit(f"error: unexpected argument {argv[1]!r}; see --help")
        try:
            main()
        except (ValueError, OSError, ImportError) as error:
            sys.exit(f"error: {error}")

    app.run(guarded)
