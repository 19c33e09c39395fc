"""The one run of the launcher that nobody kills."""

import pytest
import runs


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The workdir of a run of all three stages, which tests copy and compare with."""

    def make(directory):
        runs.Place(directory).run(directory / "run")

    return runs.made_once(tmp_path_factory, "whole", make) / "run"


@pytest.fixture(scope="module")
def place(request, tmp_path_factory):
    """Where the runs of a test file lie."""
    return runs.Place(tmp_path_factory.mktemp(request.module.__name__))
