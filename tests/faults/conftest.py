"""Every fault test says what it measured, what the bar is and whether that passes; all of it is
printed at the end of the run.
"""

import pytest

ROWS = pytest.StashKey[list]()


def pytest_configure(config):
    config.stash[ROWS] = []


@pytest.fixture
def shows(request):
    """shows(what, measured, bar, passed): one row of the table at the end; fails if not passed."""

    def show(what, measured, bar, passed):
        request.config.stash[ROWS].append((what, measured, bar, passed))
        assert passed, f"{what}: measured {measured}, bar {bar}"

    return show


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[ROWS]
    if rows:
        terminalreporter.section("faults: measured / bar / pass")
        for what, measured, bar, passed in rows:
            terminalreporter.write_line(
                f"{what}: {measured} / {bar} / {'pass' if passed else 'FAIL'}"
            )


@pytest.fixture(scope="session")
def kills(request):
    """How many kills the storm is made of."""
    return 200 if request.config.getoption("--storm") else 20
