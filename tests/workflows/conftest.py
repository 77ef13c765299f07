"""What several files of this folder start from, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.suites import train_suite, write_glue


@pytest.fixture(scope="session")
def glue_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_glue(tmp_path_factory.mktemp("glue"))


@pytest.fixture(scope="session")
def whole(tiny_encoder: Path, glue_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished suite of all nine tasks; tests must not change it."""
    folder = tmp_path_factory.mktemp("suite")
    settings = {"glue/rte": {"init_from": "glue/mnli", "train.max_steps": 2}}
    return train_suite("glue", data=glue_data, encoder=tiny_encoder, runs=folder, settings=settings).suite
