"""Kronecker-factored removal beside the optimal brain surgeon with the whole matrix, and factors beside autograd."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.blocks.layers import prunable_layers, weight_view
from harness.data.corpora.digits import digit_rows
from harness.models.digits import DigitsCnn, DigitsConfig
from harness.models.objective import objective_of
from harness.progress import Silent
from harness.pruning.numerics.kfac import Curvature, CurvatureObserver, packs, surgeon_costs, without
from tests.families import tiny_model
from tests.models.convolutions import randomised

ROWS, COLUMNS = 4, 6


def a_case(*, seed: int = 0) -> tuple[Tensor, Curvature]:
    """A weight and factors of correlated numbers, in float64."""
    stream = torch.Generator().manual_seed(seed)
    x_TI = torch.randn(40, COLUMNS, generator=stream, dtype=torch.float64)
    x_TI = x_TI @ torch.randn(COLUMNS, COLUMNS, generator=stream, dtype=torch.float64)
    g_TO = torch.randn(40, ROWS, generator=stream, dtype=torch.float64)
    g_TO = g_TO @ torch.randn(ROWS, ROWS, generator=stream, dtype=torch.float64)
    weight_OI = torch.randn(ROWS, COLUMNS, generator=stream, dtype=torch.float64)
    return weight_OI, Curvature(g_TO.T @ g_TO / 40, x_TI.T @ x_TI / 40)


def fisher(curvature: Curvature, damp_gradient: float, damp_input: float) -> Tensor:
    """The whole matrix of the damped factors; weights in row order."""
    factors = []
    for factor, damping in ((curvature.gradient_OO, damp_gradient), (curvature.input_II, damp_input)):
        factors.append(factor + damping * factor.diagonal().mean() * torch.eye(len(factor), dtype=torch.float64))
    return torch.kron(*factors)


def surgeon(weight_OI: Tensor, removed_OI: Tensor, fisher_NN: Tensor) -> Tensor:
    """The minimum of the quadratic form under `removed = 0`, by solving for the free weights."""
    gone, free = removed_OI.flatten(), ~removed_OI.flatten()
    old = weight_OI.flatten()
    step = torch.zeros_like(old)
    step[gone] = -old[gone]
    step[free] = torch.linalg.solve(fisher_NN[free][:, free], fisher_NN[free][:, gone] @ old[gone])
    return (old + step).view_as(weight_OI)


def loss_of(old_OI: Tensor, new_OI: Tensor, fisher_NN: Tensor) -> float:
    """Estimated loss increase of a change."""
    step = (new_OI - old_OI).flatten()
    return float(0.5 * step @ fisher_NN @ step)


@pytest.mark.parametrize("seed", range(4))
def test_a_joint_update_is_the_surgeons(seed: int) -> None:
    """All removals in one pack: the exact minimum with the whole Kronecker matrix, which no code here inverts."""
    weight_OI, curvature = a_case(seed=seed)
    removed_OI = torch.rand(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed)) < 0.5
    new_OI = without(weight_OI, removed_OI, curvature.inverse(0.1, 0.01), 1000)
    torch.testing.assert_close(new_OI, surgeon(weight_OI, removed_OI, fisher(curvature, 0.1, 0.01)))
    assert torch.equal(new_OI == 0, removed_OI)


def test_the_cost_of_a_weight_is_the_loss_of_its_removal() -> None:
    """Removing each weight alone, the others making up for it, costs exactly what the formula says."""
    weight_OI, curvature = a_case()
    whole_NN = fisher(curvature, 0.1, 0.01)
    costs_OI = surgeon_costs(weight_OI, curvature.inverse(0.1, 0.01))
    for row in range(ROWS):
        for column in range(COLUMNS):
            removed_OI = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
            removed_OI[row, column] = True
            new_OI = surgeon(weight_OI, removed_OI, whole_NN)
            assert loss_of(weight_OI, new_OI, whole_NN) == pytest.approx(float(costs_OI[row, column]), rel=1e-5)


def test_packs_with_added_updates_lie_between_single_and_joint_updates() -> None:
    """The loss falls as more removals are solved for together; the exact minimum is the lowest."""
    weight_OI, curvature = a_case()
    removed_OI = torch.rand(ROWS, COLUMNS, generator=torch.Generator().manual_seed(5)) < 0.5
    inverse, whole_NN = curvature.inverse(0.1, 0.01), fisher(curvature, 0.1, 0.01)
    joint, packed = (
        loss_of(weight_OI, without(weight_OI, removed_OI, inverse, limit, add_update=True), whole_NN)
        for limit in (1000, 1)
    )
    untouched = loss_of(weight_OI, weight_OI.masked_fill(removed_OI, 0.0), whole_NN)
    assert joint < packed < untouched


def test_weights_that_are_zero_already_stay_zero_at_no_cost() -> None:
    """What an earlier shot removed is part of the constraint: the update of the others honours it."""
    weight_OI, curvature = a_case()
    first_OI = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
    first_OI[:, ::3] = True
    inverse = curvature.inverse(0.1, 0.01)
    once_OI = without(weight_OI, first_OI, inverse, 1000)
    second_OI = first_OI.clone()
    second_OI[1] = True
    twice_OI = without(once_OI, second_OI, inverse, 1000)
    # The minimum under both constraints, in one step or in two.
    torch.testing.assert_close(twice_OI, without(weight_OI, second_OI, inverse, 1000))


def test_packs_hold_whole_rows() -> None:
    """Consecutive rows up to the limit; a row above it alone; rows without removals cost nothing."""
    counts = [2, 2, 0, 3, 7, 1, 0]
    removed_OI = torch.zeros(len(counts), 8, dtype=torch.bool)
    for row, count in enumerate(counts):
        removed_OI[row, :count] = True
    found = list(packs(removed_OI, 5))
    assert [(rows.start, rows.stop) for rows in found] == [(0, 3), (3, 4), (4, 5), (5, 7)]
    assert sum(int(removed_OI[rows].sum()) for rows in found) == sum(counts)
    assert list(packs(torch.zeros(3, 3, dtype=torch.bool), 5)) == []


def test_balancing_keeps_the_product() -> None:
    """Equal norms, the same Kronecker product; factors without a signal are an error and no guess."""
    _, curvature = a_case()
    balanced = Curvature(curvature.gradient_OO * 1e-12, curvature.input_II * 1e3).balanced()
    assert float(balanced.gradient_OO.norm()) == pytest.approx(float(balanced.input_II.norm()))
    torch.testing.assert_close(
        torch.kron(balanced.gradient_OO, balanced.input_II) * 1e9,
        torch.kron(curvature.gradient_OO, curvature.input_II),
    )
    for bad in (0.0, torch.inf, torch.nan):
        with pytest.raises(ArithmeticError):
            Curvature(curvature.gradient_OO * bad, curvature.input_II).balanced()


def a_network() -> DigitsCnn:
    """Convolutions with padding, with a stride, and with neither, and linears; normalisations count their batches."""
    model = DigitsCnn(DigitsConfig(widths=(4, 6), inner_widths=(5, 3), hidden_width=8))
    model.blocks[0].conv_b = nn.Conv2d(5, 4, 3, padding=2, stride=(2, 1))
    model.blocks[1].conv_a = nn.Conv2d(4, 3, (1, 2))
    model.blocks[2].linear_a = nn.Linear(12, 8)
    randomised(model)
    return model


@pytest.mark.parametrize(
    "family", ["opt", "llama-gqa", "gpt2", "gpt-neox", "phi", "bloom", "falcon", "mixtral", "convolutions"]
)
def test_factors_are_those_of_autograd(family: str, random_tokens: Callable[..., Tensor]) -> None:
    """With one token a layer's weight gradient is g x^T, so that the factors' norms are known from it: of every linear,
    in every family, also where several linears share an input.  A convolution's tokens are its positions.
    """
    model = a_network() if family == "convolutions" else tiny_model(family)
    linears, loss = prunable_layers(model), objective_of(model)
    digits = torch.from_numpy(digit_rows("calibration")[:3].copy())
    rows_BL = digits if family == "convolutions" else random_tokens(3, 6)
    observer = CurvatureObserver(linears, with_bias=False)
    observer.observe(model, [rows_BL[:2], rows_BL[2:]], Silent())
    gradients: dict[str, list[Tensor]] = {name: [] for name in linears}
    inputs: dict[str, list[Tensor]] = {name: [] for name in linears}
    handles = []
    for name, linear in linears.items():
        handles.append(linear.register_forward_hook(keep(inputs[name], gradients[name])))
    for row_L in rows_BL:
        loss(model, row_L[None]).backward()
    for handle in handles:
        handle.remove()
    for name in linears:
        x_TI, g_TO = torch.cat(inputs[name]), torch.cat(gradients[name])
        expected = Curvature(g_TO.T @ g_TO / len(g_TO), x_TI.T @ x_TI / len(x_TI)).balanced()
        found = observer.factors(name)
        torch.testing.assert_close(found.gradient_OO, expected.gradient_OO, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(found.input_II, expected.input_II, rtol=1e-3, atol=1e-6)
        assert weight_view(linears[name]).shape == (len(found.gradient_OO), len(found.input_II))


def keep(inputs: list[Tensor], gradients: list[Tensor]) -> Callable[..., None]:
    """A hook that keeps inputs and output gradients as matrices."""

    def hook(layer: object, args: tuple[Tensor, ...], output: Tensor) -> None:
        x = args[0].detach()
        if isinstance(layer, nn.Conv2d):
            inputs.append(patches(layer, x, output))
            output.register_hook(lambda grad: gradients.append(torch.stack([grad[place] for place in places(output)])))
        else:
            inputs.append(x.reshape(-1, x.shape[-1]))
            output.register_hook(lambda grad: gradients.append(grad.reshape(-1, grad.shape[-1])))

    return hook


def places(output: Tensor) -> list[tuple[int, slice, int, int]]:
    """Where the channels of each position of a convolution's output are, image after image, row after row."""
    images, _, height, width = output.shape
    return [(b, slice(None), i, j) for b in range(images) for i in range(height) for j in range(width)]


def patches(layer: nn.Conv2d, x: Tensor, output: Tensor) -> Tensor:
    """What the kernel sees at each of these places, cut out one after the other."""
    (up, left), (down, right) = map(int, layer.padding), layer.stride
    (tall, wide), x = layer.kernel_size, functional.pad(x, (left, left, up, up))
    return torch.stack(
        [x[b, :, i * down : i * down + tall, j * right : j * right + wide].flatten() for b, _, i, j in places(output)]
    )
