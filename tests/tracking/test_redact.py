"""What is taken out of a text that may leave this machine."""

import traceback
from pathlib import Path

from harness.tracking.redact import without_secrets

PLAIN = "abcdefghij"
"""Only what stands before it says that it is a secret."""


def test_code_in_a_traceback_stays_whole() -> None:
    """There a name after `token =` is a name; in quotes, in the message and elsewhere it may be the secret itself."""
    first_token = next_password = PLAIN
    try:
        api_key = first_token.removeprefix("a"), str(object=next_password)
        raise ValueError(f"password = {PLAIN} of {len(api_key)}")
    except ValueError:
        text = traceback.format_exc()
    try:
        api_key = first_token.missing, Path(password="0123456789", secret=next_password)
    except AttributeError:
        text += traceback.format_exc()
    safe = without_secrets(text)
    assert PLAIN not in safe
    assert "0123456789" not in safe
    assert 'api_key = first_token.missing, Path(password="***", secret=next_password)' in safe
    assert "ValueError: password = *** of 2" in safe


def test_a_setting_is_no_code() -> None:
    """Written with blanks or without, in quotes or not; also where it is indented."""
    for line in ("HF_TOKEN={}", "    hf_token = {}", '{{"api_key": "{}"}}', "password: {}"):
        assert without_secrets(line.format(PLAIN)) == line.format("***")
