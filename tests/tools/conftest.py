"""A published checkpoint, taken in and out by the tools, for all tests here."""

import pytest
from small_checkpoints import write_images, write_published
from tools_for_tests import succeed

from r1v3_jax.hf.read_config import LAYOUTS


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """published/, imported into checkpoint/, exported into a directory for each layout."""
    work = tmp_path_factory.mktemp("work")
    write_published(work)
    succeed("import_hf", f"--hf={work}/published", f"--out={work}/checkpoint")
    for layout in LAYOUTS:
        arguments = [f"--checkpoint={work}/checkpoint", f"--out={work}/{layout}"]
        printed = succeed("export_hf", *arguments, f"--layout={layout}")
        assert printed == (
            f"{work}/{layout}: SkyworkR1VChatModel, 82,288 parameters, float32, layout {layout}\n"
        )
    write_images(work)
    return work
