"""What a log line may hold."""

import base64
import json
import logging

import pytest

from faithful_rl.judge_pool.failure_log import clean, log_failure


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("401 for Authorization: Bearer abc.def-123", "401 for <key>"),
        ("wrong key sk-proj-abcdefghijk in call", "wrong key <key> in call"),
        ("bearer abcdef", "<key>"),
        ("api_key=abcdef is wrong", "<key> is wrong"),
        ("line one\n  line two", "line one line two"),
        ("bad url data:image/png;base64,iVBORw0KGgo= here", "bad url <image> here"),
        ("x " * 400, "x " * 148 + "x..."),
    ],
)
def test_text_is_cleaned(message: str, expected: str) -> None:
    assert clean(message) == expected
    assert len(expected) <= 300


def test_no_key_and_no_image_survives() -> None:
    image = base64.b64encode(bytes(range(256)) * 4).decode()
    text = clean(f"400: {{'url': 'data:image/png;base64,{image}', 'headers': {{'Authorization': 'Bearer s3cr3t-token'}}}} raw {image}")
    assert image[:40] not in text
    assert "s3cr3t" not in text


def test_one_line_of_json(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="faithful_rl.judges"):
        line = log_failure("judge_failed", uid="q1", message="two\nlines", seconds=0.5, error=ValueError("x"))
    assert caplog.messages == [line]
    assert json.loads(line) == {"event": "judge_failed", "uid": "q1", "message": "two lines", "seconds": 0.5, "error": "x"}
