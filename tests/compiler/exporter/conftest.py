"""Lets the tests of this folder import the helper modules of the importer's tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "importer"))
sys.path.insert(0, str(Path(__file__).parent))
