"""The cloud of a test."""

import pytest
from stand_in_cloud import Cloud


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)
