"""On the PYTHONPATH of the processes that tests start: Python imports it before anything else."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
import every_process

sys.path.pop()
every_process.share_compiled_programs()
every_process.hide_torch()
