"""Python's parser, used by one thread at a time.

In Python 3.11 two threads that parse at once may fail with "SystemError: AST constructor recursion
depth mismatch": the parser counts its depth for all threads together (CPython issue 106905).
`ast.literal_eval` parses, and so does NumPy, for the header of every array in a file.
"""

import ast
import threading

# To be held around whatever parses in a thread that reads data.
PARSER = threading.Lock()


def parse_literal(text: str):
    """Returns the value of a literal that Python would write: "['cat', 2]". Nothing is executed.

    Raises what `ast.literal_eval` does: ValueError, SyntaxError, TypeError, MemoryError or
    RecursionError.
    """
    with PARSER:
        return ast.literal_eval(text)
