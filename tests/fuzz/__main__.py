"""``python -m tests.fuzz --minutes N``: fuzz every reader, guided by the coverage of the code that it reaches.

Each reader has a process of its own under Atheris, which is libFuzzer for Python. What breaks one is copied into
``findings/``, where ``test_finding_stays_mended`` reads it from then on; the command then exits with 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ALL = ("jsonl", "csv", "tsv", "conll", "conllu", "json", "parquet", "gzip", "task")
FINDINGS = Path(__file__).parent / "findings"
LONGEST = 8192
"""Bytes of an input: more is slower and finds no more."""
GRACE = 120
"""Seconds that a process may take to start and to end."""


def main() -> int:
    """Fuzz, and return 1 where something was found, 2 where fuzzing was not possible."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all readers together (default: 10)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once (default: one a core)")
    parser.add_argument("--findings", type=Path, default=FINDINGS, help="folder that findings are kept in")
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(ALL)} (default: all)")
    given = parser.parse_args()
    readers = given.readers or ALL
    unknown = sorted({*readers} - {*ALL, "planted"})
    if unknown:
        parser.error(f"there is no reader {unknown[0]!r}; there are {', '.join(ALL)}")
    jobs = max(1, min(given.jobs, len(readers)))
    seconds = max(1, round(given.minutes * 60 * jobs / len(readers)))
    tell(f"{len(readers)} readers, {seconds} s each, {jobs} at once")
    with ThreadPoolExecutor(jobs) as pool:
        codes = list(pool.map(lambda reader: fuzz(reader, seconds, given.findings), readers))
    return max(codes)


def fuzz(reader: str, seconds: int, findings: Path) -> int:
    """Fuzz one reader in a process of its own; return 0, 1 for a finding or 2 where it could not be run."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, found = Path(folder, "corpus"), Path(folder, "found")
        found.mkdir()
        _write_corpus(reader, corpus)
        options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-timeout=30", "-rss_limit_mb=4096"]
        options += [f"-artifact_prefix={found}/", f"-dict={corpus.with_suffix('.dict')}", "-print_final_stats=1"]
        command = [sys.executable, "-m", "tests.fuzz.one", reader, *options, str(corpus)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=seconds + GRACE, check=False)
            code, said = done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")
        except subprocess.TimeoutExpired as error:
            code, said = 1, f"it did not end by itself: {(error.stderr or b'').decode('utf-8', 'replace')}"
        kept = [_keep(reader, file, findings) for file in sorted(found.iterdir())]
    tell(f"{reader}: {_inputs(said)} inputs, {len(kept)} findings")
    if code or kept:
        tell("\n".join([said[-4000:], *map(str, kept)]))
    return 1 if kept else 2 if code else 0


def tell(text: str) -> None:
    """Write a line; torture reads those of the readers."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _write_corpus(reader: str, folder: Path) -> None:
    """Write the files that fuzzing starts from, and the words of the format, as libFuzzer's dictionary."""
    from tests.fuzz import seeds

    folder.mkdir()
    for number, data in enumerate(seeds.of(reader)):
        (folder / f"seed-{number}").write_bytes(data)
    words = [word for word in (seeds.TOML_WORDS if reader == "task" else seeds.WORDS) if len(word) <= 64]
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in words)
    folder.with_suffix(".dict").write_text("".join(lines))


def _keep(reader: str, file: Path, findings: Path) -> Path:
    """Copy what libFuzzer wrote (``crash-<sha1>``, ``timeout-...``, ``oom-...``) to where a test reads it."""
    kind, _, digest = file.name.rpartition("-")
    findings.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(file, findings / f"{reader}-{kind}-{digest[:12]}.bin"))


def _inputs(said: str) -> str:
    """Return the number of inputs that libFuzzer says it has tried."""
    lines = [line.split()[-1] for line in said.splitlines() if line.startswith("stat::number_of_executed_units")]
    return f"{int(lines[-1]):,}" if lines else "?"


if __name__ == "__main__":
    sys.exit(main())
