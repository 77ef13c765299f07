"""Peak memory of ``bertkit predict`` on 10,000 and on 1,000,000 short rows: streaming means that they are alike.

python -m benchmarks.predict_memory
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import machine

SIZES = (10_000, 1_000_000)
MEASURE = (
    "import resource, sys; from bertkit.cli import main\n"
    "try:\n    main()\n"
    "finally:\n    sys.stderr.write(f'PEAK {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}')"
)


def tiny_run(folder: Path) -> Path:
    """Train a 2-layer model of width 64 for a few steps."""
    import bertkit
    from tests.conftest import reviews, save_tiny_bert

    body = save_tiny_bert(folder / "body", hidden_size=64, intermediate_size=256)
    return bertkit.finetune(
        reviews(100), encoder=body, out=folder / "run", settings={"train.max_steps": 5, "train.max_length": 64}
    ).run


def peak(run: Path, rows: int, folder: Path) -> dict[str, Any]:
    """Return the peak resident memory in MB of a process of its own that predicts ``rows`` rows."""
    from tests.conftest import reviews

    source = folder / f"{rows}.jsonl"
    texts = [json.dumps({"text": row["text"]}) for row in reviews(1000)]
    with source.open("w") as file:
        for start in range(0, rows, len(texts)):
            file.writelines(f"{text}\n" for text in texts[: rows - start])
    out = folder / "out.jsonl"
    command = [sys.executable, "-c", MEASURE, "predict", str(source), "--run", str(run), "--out", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    with out.open() as lines:
        assert sum(1 for _ in lines) == rows
    return {"rows": rows, "peak_mb": round(int(ended.stderr.rpartition("PEAK ")[2]) / 1024, 1)}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = tiny_run(folder)
        found = [peak(run, rows, folder) for rows in SIZES]
    growth = found[1]["peak_mb"] / found[0]["peak_mb"] - 1
    machine.write("predict_memory", "python -m benchmarks.predict_memory", {"runs": found, "growth": round(growth, 4)})


if __name__ == "__main__":
    main()
