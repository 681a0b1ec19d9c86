"""What keeps commands apart that share an MLflow store."""

from pathlib import Path

import pytest

from harness.tracking import store
from harness.tracking.patience import STORE_ERRORS
from harness.tracking.store import store_lock


def test_a_store_that_stays_locked_is_an_error_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setattr(store, "STORE_PATIENCE", 0.1)
    with store_lock(uri), pytest.raises(STORE_ERRORS, match=r"mlflow\.db\.lock"), store_lock(uri):
        pass
    with store_lock(uri):
        pass


def test_a_server_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with store_lock("http://127.0.0.1:5000"):
        assert list(tmp_path.iterdir()) == []
