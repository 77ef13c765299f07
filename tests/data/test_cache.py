"""The store of arrays: what it gives back, and that nothing that goes wrong in it is felt."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bertkit.data import cache

ARRAYS = {
    "ids": np.arange(7, dtype=np.int32),
    "pairs": np.ones((3, 2)),
    "flags": np.array([True, False]),
    "none": np.empty((0, 2), dtype=np.int64),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "features"
    monkeypatch.setenv("BERTKIT_CACHE", str(place))
    return place


def same(found: dict[str, np.ndarray] | None, wanted: dict[str, np.ndarray] = ARRAYS) -> bool:
    return (
        found is not None
        and found.keys() == wanted.keys()
        and all(np.array_equal(found[n], wanted[n]) and found[n].dtype == wanted[n].dtype for n in wanted)
    )


def test_what_was_written_is_read(folder: Path) -> None:
    assert cache.read("key") is None
    cache.write("key", ARRAYS)
    assert same(cache.read("key"))
    assert [file.name for file in folder.iterdir()] == ["key"]


def test_place_is_the_users_cache_unless_the_environment_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTKIT_CACHE", "")
    assert cache.folder() is None
    monkeypatch.delenv("BERTKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "bertkit" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "bertkit" / "features"


def test_empty_name_keeps_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BERTKIT_CACHE", "")
    monkeypatch.chdir(tmp_path)
    cache.write("key", ARRAYS)
    assert cache.read("key") is None
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_damaged_file_is_not_read_and_is_removed(folder: Path, damage: str) -> None:
    cache.write("key", ARRAYS)
    file = folder / "key"
    data = bytearray(file.read_bytes())
    data[-40] ^= 1
    file.write_bytes({"flip": bytes(data), "cut": file.read_bytes()[:-1], "empty": b"", "text": b"x" * 100}[damage])
    assert cache.read("key") is None
    assert not file.exists()
    cache.write("key", ARRAYS)
    assert same(cache.read("key"))


def test_place_that_cannot_be_written_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    monkeypatch.setenv("BERTKIT_CACHE", str(file))
    cache.write("key", ARRAYS)
    assert cache.read("key") is None
    monkeypatch.setenv("BERTKIT_CACHE", str(file / "below"))
    cache.write("key", ARRAYS)
    assert cache.read("key") is None
    assert file.read_text() == "x"


def test_full_disk_is_no_fault_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache.write("key", ARRAYS)
    assert not [*folder.iterdir()]


def test_files_that_were_not_used_for_longest_make_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"x": np.zeros(1000, dtype=np.uint8)}
    monkeypatch.setattr(cache, "MOST_BYTES", 4000)
    for age, key in enumerate("abc"):
        cache.write(key, arrays)
        os.utime(folder / key, (1000 + age, 1000 + age))
    assert same(cache.read("a"), arrays)
    cache.write("d", arrays)
    assert {file.name for file in folder.iterdir()} == {"a", "c", "d"}


def test_more_than_half_of_the_room_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES", 1000)
    cache.write("key", {"x": np.zeros(600, dtype=np.uint8)})
    assert cache.read("key") is None


def test_readers_see_whole_files_while_others_write(folder: Path) -> None:
    big = {"x": np.arange(200_000)}
    cache.write("key", big)
    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(cache.write, "key", big) for _ in range(10)]
        reads = [pool.submit(cache.read, "key") for _ in range(20)]
        assert all(same(read.result(), big) for read in reads)
        for write in writes:
            write.result()
    assert [file.name for file in folder.iterdir()] == ["key"]


def test_file_of_another_user_is_read_and_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    cache.write("key", ARRAYS)
    monkeypatch.setattr(os, "utime", refused)
    assert same(cache.read("key"))
    assert (folder / "key").is_file()


AT_ONCE = """
import random, sys
import numpy as np
from bertkit.data import cache
cache.MOST_BYTES = 200_000
rng = random.Random(int(sys.argv[1]))
hits = 0
for _ in range(150):
    number = rng.randrange(8)
    whole = {"a": np.full(2000 + number, number), "b": np.full(3, number)}
    found = cache.read(f"key-{number}")
    if found is None or rng.random() < 0.3:
        cache.write(f"key-{number}", whole)
    else:
        assert found.keys() == whole.keys()
        assert all(np.array_equal(found[name], whole[name]) for name in whole)
        hits += 1
print(hits)
"""


@pytest.mark.slow
def test_sixteen_processes_at_once_read_only_what_is_whole(folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", AT_ONCE]
    processes = [
        subprocess.Popen(
            [*command, str(seed)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for seed in range(16)
    ]
    hits = 0
    for process in processes:
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, err
        hits += int(out)
    assert hits > 100
    assert {file.name for file in folder.iterdir()} <= {f"key-{number}" for number in range(8)}


KILLED = """
import sys
import time
import numpy as np
from bertkit.data import cache
while True:
    for number in range(4):
        cache.write(f"key-{number}", {"a": np.full(50_000, number)})
"""


@pytest.mark.slow
def test_killed_processes_leave_nothing_that_is_read(folder: Path) -> None:
    chance = random.Random(3)
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen([sys.executable, "-c", KILLED], env=environment) for _ in range(16)]
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not all((folder / f"key-{number}").exists() for number in range(4)):
            time.sleep(0.05)
    finally:
        for process in processes:
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
            process.communicate()
    for number in range(4):
        assert same(cache.read(f"key-{number}"), {"a": np.full(50_000, number)})


def test_folder_in_the_place_is_no_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "sub").mkdir(parents=True)
    monkeypatch.setattr(cache, "MOST_BYTES", 300)
    cache.write("key", {"x": np.zeros(100, dtype=np.uint8)})
    assert cache.read("key") is not None
    assert (folder / "sub").is_dir()
