"""What a job says while it runs, without a terminal."""

import pytest

from harness import progress
from harness.progress import JobReporter, Silent


class Clock:
    """A clock that a test turns."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The reporter's clock."""
    turned = Clock()
    monkeypatch.setattr(progress, "time", turned)
    return turned


def test_a_line_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Every 15 s a line with the job, the step, how far it is and the time left; nothing in between or at the end."""
    with JobReporter("opt__wanda__1234") as reporter:
        reporter.start("prune: blocks", 10)
        for _ in range(10):
            clock.now += 6.0
            reporter.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "opt__wanda__1234: prune: blocks 3/10, 42 s left",
        "opt__wanda__1234: prune: blocks 6/10, 24 s left",
        "opt__wanda__1234: prune: blocks 9/10, 6 s left",
    ]


def test_a_new_step_starts_its_own_count(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """The time left is that of the step; parts may be several at once."""
    with JobReporter("job") as reporter:
        reporter.start("first", 2)
        clock.now += 1000.0
        reporter.start("second", 100)
        clock.now += 20.0
        reporter.advance(25)
    assert capsys.readouterr().err == "job: second 25/100, 60 s left\n"


def test_notes_are_said_at_once_and_literally(capsys: pytest.CaptureFixture[str]) -> None:
    """A note is one line on stderr, however long, with brackets and all; stdout stays for results."""
    text = "not pruned [4 tensors] " + "x" * 300
    with JobReporter("job") as reporter:
        reporter.note(text)
        captured = capsys.readouterr()
    assert (captured.err, captured.out) == (text + "\n", "")


def test_an_error_goes_through(capsys: pytest.CaptureFixture[str]) -> None:
    """The reporter hides no exception."""
    with pytest.raises(ArithmeticError, match="singular"), JobReporter("job"):
        raise ArithmeticError("singular")


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    """`Silent` says nothing."""
    reporter = Silent()
    reporter.start("step", 1)
    reporter.advance()
    reporter.note("text")
    assert capsys.readouterr() == ("", "")
