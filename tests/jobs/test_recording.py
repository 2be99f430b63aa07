"""A job's start and end on a device."""

import pytest
import torch

from harness.jobs.recording import reset_peaks


def test_cuda_is_initialised_before_its_peak_memory_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's CUDA build does, the reset refuses every device until CUDA is initialised."""
    calls = []

    def reset(device: torch.device) -> None:
        if "init" not in calls:
            raise RuntimeError("Invalid device argument 0: did you call init?")
        calls.append(str(device))

    monkeypatch.setattr(torch.cuda, "init", lambda: calls.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    reset_peaks(torch.device("cpu"))
    assert calls == []
    reset_peaks(torch.device("cuda:1"))
    assert calls == ["init", "cuda:1"]
