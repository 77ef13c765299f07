"""``python -m tests.fuzz.one READER [OPTION...]``: one reader under Atheris, in a process that libFuzzer owns."""

from __future__ import annotations

import sys


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    try:
        import atheris
    except ImportError:
        sys.exit("Atheris is not installed: pip install 'bertkit[fuzz]' (Linux and macOS).")
    # Heavy libraries first, so that they are not instrumented.
    import hypothesis  # noqa: F401
    import numpy  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import pytest  # noqa: F401

    with atheris.instrument_imports(include=["bertkit", "json", "csv", "tomllib", "gzip"]):
        from tests.fuzz import targets

    look = targets.ALL[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], look)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
