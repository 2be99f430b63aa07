"""Statistics: bookkeeping.  Their formulas are checked in tests/oracles."""

import pytest
import torch

from harness.calibration.statistics import FeatureMoments, FeatureNorm, InputHessian, Statistic, Statistics

KINDS = [FeatureMoments, FeatureNorm, InputHessian]
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_the_input_is_left_as_it_is_and_counted(kind: type[Statistic]) -> None:
    """An update counts tokens and sequences and does not touch what it was given, in any type."""
    for dtype in (torch.float32, torch.bfloat16):
        x_TI = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
        before = x_TI.clone()
        statistic = kind(3, CPU)
        statistic.update(x_TI, 2)
        statistic.update(x_TI[:3], 1)
        assert torch.equal(x_TI, before)
        assert (statistic.num_tokens, statistic.num_sequences) == (9, 3)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_float32_whatever_the_input(kind: type[Statistic]) -> None:
    """Half-precision activations are added in float32: a sum of 4096 ones is 4096, which bfloat16 cannot count to."""
    statistic = kind(2, CPU)
    for _ in range(4):
        statistic.update(torch.ones(1024, 2, dtype=torch.bfloat16), 1)
    if isinstance(statistic, FeatureNorm):
        assert statistic.sum_of_squares_I.tolist() == [4096.0, 4096.0]
    elif isinstance(statistic, FeatureMoments):
        assert statistic.sum_I.tolist() == [4096.0, 4096.0]
    else:
        assert isinstance(statistic, InputHessian)
        assert statistic.hessian_II.dtype == torch.float32
        torch.testing.assert_close(statistic.hessian_II, torch.full((2, 2), 2 * 1024.0), rtol=1e-4, atol=0)


def test_statistics_are_found_by_their_kind() -> None:
    """A method reads what it named in `needs`; what was not collected is our bug and says its name."""
    statistics = Statistics([FeatureNorm(2, CPU)])
    statistics.update(torch.ones(3, 2), 1)
    assert statistics[FeatureNorm].num_tokens == 3
    with pytest.raises(AssertionError, match="InputHessian was not collected"):
        _ = statistics[InputHessian]


def test_what_was_found_is_found_again() -> None:
    """Worked out once a key where there is a cache, every time where they are not."""
    statistics = Statistics([])
    worked_out: list[str] = []

    def work_out() -> str:
        worked_out.append("trace")
        return "trace"

    assert [statistics.cached("key", work_out) for _ in range(2)] == ["trace", "trace"]
    assert len(worked_out) == 2
    statistics.cache = {}
    assert [statistics.cached("key", work_out) for _ in range(2)] == ["trace", "trace"]
    assert len(worked_out) == 3
    statistics.cached("another", work_out)
    assert len(worked_out) == 4
    assert statistics.cache == {"key": "trace", "another": "trace"}
