"""What holds in every test of the workspace: offline, silent, seeded."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "agg"

# The toy world is `tools/toyworld.py` here, and lies beside this file where one package is tested alone.
_here = Path(__file__).parent
sys.path.insert(0, str(_here / "tools" if (_here / "tools").is_dir() else _here))
