"""Every fault test says what it measured, what the bar is and whether that passes; all of it is
printed at the end of the run.
"""

import pytest

ROWS = []  # in the process that prints


@pytest.fixture
def shows(record_property):
    """shows(what, measured, bar, passed): one row of the table at the end; fails if not passed."""

    def show(what, measured, bar, passed):
        said = f"{what}: {measured} / {bar} / {'pass' if passed else 'FAIL'}"
        record_property("fault", said)
        assert passed, said

    return show


def pytest_runtest_logreport(report):
    if report.when == "call":
        ROWS.extend(said for name, said in report.user_properties if name == "fault")


def pytest_terminal_summary(terminalreporter):
    if ROWS:
        terminalreporter.section("faults: measured / bar / pass")
        for said in sorted(ROWS, key=lambda said: int(said.split()[0].strip(","))):
            terminalreporter.write_line(said)


@pytest.fixture(scope="session")
def kills(request):
    """How many kills the storm is made of."""
    return 200 if request.config.getoption("--storm") else 20
