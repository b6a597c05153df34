"""Where the fact tables and vocabularies are: inside the installed package, or in the checkout beside it."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def data_path(name: str) -> Path:
    """Find a shipped data file ("tiers.yaml", "vocab/o200k_base.pairs.z").

    A wheel carries the folder as pricing/_data; a checkout and an editable install use data/ at the top.

    Raises  FileNotFoundError when the installation lacks the file
    """
    for folder in (_HERE / "_data", _HERE.parent / "data"):
        path = folder / name
        if path.exists():
            return path
    raise FileNotFoundError(f"{name} is missing from this installation of ratecard; install it again")
