"""An open meter-data lake: inbound files to Parquet and Delta, and questions answered.

`meterlake.open(url)` gives a `Lake`, which has everything that a Python user needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meterlake.lake import Lake as Lake
    from meterlake.lake import open as open

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the lake when it is asked for: the command line starts faster without."""
    if name in ("Lake", "open"):
        return getattr(import_module("meterlake.lake"), name)
    raise AttributeError(f"module 'meterlake' has no attribute '{name}'")
