"""Worker output is brought from Ray's session into the run's directory."""

from pathlib import Path

import pytest

from faithful_rl.verl_plugin import worker_logs


@pytest.fixture
def session(tmp_path: Path) -> Path:
    logs = tmp_path / "session_1" / "logs"
    logs.mkdir(parents=True)
    return logs


def test_worker_output_is_copied_and_empty_or_foreign_files_are_not(session: Path, tmp_path: Path) -> None:
    (session / "worker-a.err").write_text("Traceback")
    (session / "worker-a.out").write_text("")
    (session / "monitor.log").write_text("Ray's own")
    assert worker_logs.keep(session, tmp_path / "run") == 1
    assert [path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file()] == [
        "logs/ray/session_1/worker-a.err"
    ]


def test_of_a_very_long_file_the_end_is_kept(session: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_logs, "LARGEST", 4)
    (session / "worker-a.err").write_text("0123456789")
    worker_logs.keep(session, tmp_path)
    assert (tmp_path / "logs/ray/session_1/worker-a.err").read_text() == "[the first 6 bytes are left out]\n6789"


def test_a_second_session_does_not_overwrite_the_first(session: Path, tmp_path: Path) -> None:
    (session / "worker-a.err").write_text("first")
    worker_logs.keep(session, tmp_path)
    later = tmp_path / "session_2" / "logs"
    later.mkdir(parents=True)
    (later / "worker-a.err").write_text("second")
    worker_logs.keep(later, tmp_path)
    assert (tmp_path / "logs/ray/session_1/worker-a.err").read_text() == "first"


def test_a_folder_that_cannot_be_written_is_reported_and_not_raised(
    session: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (session / "worker-a.err").write_text("text")
    (tmp_path / "logs").write_text("a file where the folder should be")
    assert worker_logs.keep(session, tmp_path) == 0
    assert "could not keep the worker log" in caplog.text
