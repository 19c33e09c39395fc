"""Two threads that read rows at once; Python 3.11's own parser fails there (CPython 106905)."""

import gc
import threading
import time

from r1v3_jax.literals import parse_literal


class Finalized:
    """Garbage in a circle, whose finalizer lets another thread run in the middle of a parse."""

    def __init__(self):
        self.itself = self

    def __del__(self):
        time.sleep(0)


def test_two_threads_parse_lists_at_once():
    rows = [[number, [str(number)]] for number in range(100)]
    text = str(rows)
    wrong = []

    def read():
        for _ in range(200):
            Finalized()
            try:
                value = parse_literal(text)
            except SystemError as error:
                wrong.append(error)
            else:
                if value != rows:
                    wrong.append(value)

    usual = gc.get_threshold()
    # Often enough that a collection falls into nearly every parse.
    gc.set_threshold(20)
    try:
        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*usual)
    assert wrong == []
