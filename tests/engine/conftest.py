"""Makes the stand-ins of `tiny_engine.py` importable from the tests beside it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
