"""Kronecker-factored curvature of linear layers: what it is made of, what a removal costs, how the others make up.

For a layer y = W x the Fisher information of W is taken to be G (x) A with A = E[x x^T] and G = E[g g^T], g the loss
gradient of y (Martens & Grosse 2015, https://arxiv.org/abs/1503.05671).  Removal and update are those of the optimal
brain surgeon with it (van der Ouderaa et al. 2024, https://arxiv.org/abs/2312.17244): with damped factors, removing
weight (r, c) costs w^2 / (2 G^-1_rr A^-1_cc), and removing the set Q together moves W by -G^-1 M A^-1, where M holds
K^-1 w_Q at Q and K_qq' = G^-1_rr' A^-1_cc'.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.blocks.inputs import InputObserver
from harness.blocks.layers import PrunableLinear
from harness.calibration.statistics import Statistic
from harness.models.objective import objective_of, trainable
from harness.progress import Reporter


@dataclass(frozen=True, slots=True)
class Curvature:
    """Two Kronecker factors, or their inverses.

    Args:
        gradient_OO: G, of the loss gradients of the layer's outputs.
        input_II: A, of the layer's inputs; with a bias that counts as a column, one longer.
    """

    gradient_OO: Tensor
    input_II: Tensor

    def balanced(self) -> "Curvature":
        """Factors of equal Frobenius norm with the same Kronecker product, so that neither runs out of float32."""
        norms = float(self.gradient_OO.double().norm()), float(self.input_II.double().norm())
        if not all(0.0 < norm < math.inf for norm in norms):
            raise ArithmeticError(f"curvature of norms {norms[0]:g} (gradients) and {norms[1]:g} (inputs)")
        common = math.sqrt(norms[0]) * math.sqrt(norms[1])
        return Curvature(self.gradient_OO * (common / norms[0]), self.input_II * (common / norms[1]))

    def inverse(self, damp_gradient: float, damp_input: float) -> "Curvature":
        """Inverses in float64 of the factors, each damped by a fraction of its mean diagonal."""
        return Curvature(_damped_inverse(self.gradient_OO, damp_gradient), _damped_inverse(self.input_II, damp_input))


def surgeon_costs(weight_OI: Tensor, inverse: Curvature) -> Tensor:
    """Loss increase [O, I] of removing each weight alone while the others make up for it."""
    scale_OI = inverse.gradient_OO.diagonal()[:, None] * inverse.input_II.diagonal()
    return (0.5 * weight_OI.double().square() / scale_OI).float()


def damage_costs(weight_OI: Tensor, curvature: Curvature) -> Tensor:
    """Loss increase [O, I] of removing each weight alone while the others stay (optimal brain damage)."""
    scale_OI = curvature.gradient_OO.diagonal()[:, None] * curvature.input_II.diagonal()
    return 0.5 * weight_OI.float().square() * scale_OI


def without(
    weight_OI: Tensor, removed_OI: Tensor, inverse: Curvature, max_correlate: int, *, add_update: bool = False
) -> Tensor:
    """The weight without the removed ones, the others moved to make up for them.

    Args:
        removed_OI: boolean; zeros among the removed weights stay zero at no cost.
        inverse: of the damped factors.
        max_correlate: most removals that are solved for together, >= 1: consecutive rows are packed while they have
            no more; a row is never split.
        add_update: later packs make up for the weights as the earlier ones left them, not as they were.
    """
    gradient_OO, input_II = inverse.gradient_OO, inverse.input_II
    old_OI = weight_OI.to(gradient_OO.dtype)
    new_OI = old_OI.clone()
    pull_OI = torch.zeros_like(old_OI)
    for rows in packs(removed_OI, max_correlate):
        row_Q, column_Q = removed_OI[rows].nonzero(as_tuple=True)
        kernel_QQ = gradient_OO[rows, rows][row_Q][:, row_Q] * input_II[column_Q][:, column_Q]
        target_Q1 = (new_OI if add_update else old_OI)[rows][row_Q, column_Q][:, None]
        pull_OI[rows][row_Q, column_Q] = torch.cholesky_solve(target_Q1, torch.linalg.cholesky(kernel_QQ))[:, 0]
        if add_update:
            new_OI -= gradient_OO[:, rows] @ (pull_OI[rows] @ input_II)
    if not add_update:
        new_OI -= gradient_OO @ (pull_OI @ input_II)
    return new_OI.masked_fill_(removed_OI, 0.0).to(weight_OI.dtype)


def packs(removed_OI: Tensor, max_correlate: int) -> Iterator[slice]:
    """Consecutive rows with at most `max_correlate` removals together, or one row; rows without any are in none."""
    start, size = 0, 0
    counts = removed_OI.sum(dim=1).tolist()
    for row, count in enumerate(counts):
        if size and size + count > max_correlate:
            yield slice(start, row)
            start, size = row, 0
        size += count
    if size:
        yield slice(start, len(counts))


def _damped_inverse(factor_NN: Tensor, damping: float) -> Tensor:
    """Inverse in float64 of the factor with `damping` times its mean diagonal added to its diagonal."""
    damped_NN = factor_NN.double()
    damped_NN = damped_NN + torch.eye(len(damped_NN), dtype=torch.float64, device=damped_NN.device) * (
        damping * damped_NN.diagonal().mean()
    )
    lower_NN, failed = torch.linalg.cholesky_ex(damped_NN)
    if failed.item() or not lower_NN.isfinite().all():
        raise ArithmeticError(f"a factor of {len(factor_NN)} features is not positive definite with damping {damping}")
    return torch.cholesky_inverse(lower_NN)


class InputGram(Statistic):
    """Sum of x x^T over all tokens."""

    def __init__(self, in_features: int, device: torch.device) -> None:
        super().__init__(in_features, device)
        self.sum_II = torch.zeros(in_features, in_features, dtype=torch.float32, device=device)

    def update(self, x_TI: Tensor, num_sequences: int) -> None:
        x_TI = x_TI.detach().float()
        self.sum_II.addmm_(x_TI.T, x_TI)
        self.num_tokens += len(x_TI)


class InputGramWithOne(InputGram):
    """The same with a one behind the features, so that a bias is a column of the weight."""

    def __init__(self, in_features: int, device: torch.device) -> None:
        super().__init__(in_features + 1, device)

    def update(self, x_TI: Tensor, num_sequences: int) -> None:
        super().update(torch.cat([x_TI, x_TI.new_ones(len(x_TI), 1)], dim=1), num_sequences)


class CurvatureObserver:
    """Collects the factors of every linear while the model runs forward and backward.

    Args:
        linears: by path in the model; those that are given the very same input share one A.
        with_bias: biases are a column of the weight.

    Attributes:
        inputs: A, not yet divided, of every linear that any token reached.
    """

    def __init__(self, linears: Mapping[str, PrunableLinear], *, with_bias: bool) -> None:
        self._linears = linears
        self._gram = InputGramWithOne if with_bias else InputGram
        self._inputs = InputObserver(linears, (self._gram,), sample_tokens=0, stop_early=False)
        self._gradients: dict[str, Tensor] = {}
        self.inputs: dict[str, InputGram] = {}

    def factors(self, name: str) -> Curvature | None:
        """Means over all tokens that reached the linear, balanced; None where its inputs or gradients were all 0.

        Raises:
            ArithmeticError: no gradient reached it, or activations or gradients overflowed.
        """
        gram = self.inputs[name]
        has_column = self._gram is InputGramWithOne and self._linears[name].bias is None
        input_II = gram.sum_II[:-1, :-1] if has_column else gram.sum_II
        try:
            if name not in self._gradients:
                raise ArithmeticError("the loss does not depend on its outputs")
            if not (self._gradients[name].any() and input_II.any()):
                return None
            return Curvature(self._gradients[name] / gram.num_tokens, input_II / gram.num_tokens).balanced()
        except ArithmeticError as error:
            raise ArithmeticError(f"{name}: {error}; a layer without a finite gradient cannot be ranked") from error

    def observe(self, model: nn.Module, batches: list[Tensor], reporter: Reporter) -> None:
        """Run the model forward and backward on every batch.

        Gradients are those of each sequence's mean loss, however the sequences are batched.
        """
        objective = objective_of(model)

        def backward(batch: Tensor) -> None:
            (objective(model, batch) * len(batch)).backward()

        handles = [linear.register_forward_hook(self._hook(name)) for name, linear in self._linears.items()]
        try:
            with trainable(model, lambda name: False):
                for batch in batches:
                    self._inputs.watch(partial(backward, batch), len(batch))
                    reporter.advance()
        finally:
            for handle in handles:
                handle.remove()
        groups = self._inputs.groups
        self.inputs = {name: group.statistics[self._gram] for group in groups for name in group.names}

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if not output.requires_grad:  # nothing before it does: the parameters' gradients are not asked for
                output.requires_grad_(True)
            output.register_hook(lambda grad: self._add_gradient(name, grad))

        return hook

    def _add_gradient(self, name: str, grad: Tensor) -> None:
        # A convolution's channels come before its positions, which are its tokens.
        last = grad.movedim(1, -1) if isinstance(self._linears[name], nn.Conv2d) else grad
        g_TO = last.reshape(-1, last.shape[-1]).float()
        if name not in self._gradients:
            self._gradients[name] = g_TO.new_zeros(g_TO.shape[1], g_TO.shape[1])
        self._gradients[name].addmm_(g_TO.T, g_TO)
