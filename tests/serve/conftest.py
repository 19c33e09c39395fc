"""What tests of the server share."""

import socket
import threading

import pytest


@pytest.fixture
def canary():
    """A port that counts who asks it."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked = []

    def listen():
        while True:
            try:
                asked.append(listener.accept()[1])
            except OSError:
                return

    threading.Thread(target=listen, daemon=True).start()
    yield listener.getsockname()[1], asked
    listener.close()
