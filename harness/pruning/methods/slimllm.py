"""SlimLLM: cut heads that the others resemble and channels off the output's axes.  Guo et al. 2025, https://arxiv.org/abs/2505.22689

With O_i = X_i W_i^T the part of an attention's output that is made of head i, O their sum, and rho(A, B) the sum over
output features of |Pearson's correlation| of A and B over the tokens: the heads of the largest rho(O - O_i, O) are to
go.  Each of them in turn takes the place of that kept head where rho(sum of the kept, O) gains most, if it gains.

With V, l the eigenvectors and eigenvalues of the covariance of a feed-forward layer's output and
l' = sigmoid(|l| / mean |l|), channel k counts || gate_k ||x|| || + || up_k ||x|| || + ||h_k|| || |down_k^T V| l' ||;
x and h are the inputs of the layers that make it and that read it, ||.|| over all tokens.  The lowest hundredth stays.

For what goes, every output feature of the layer that read it becomes a y + b, the least squares' fit of its dense
values y.  The `blocks` whose output is most like their input lose softmax(alpha c) of what goes, with c the mean
cosine of the two in the dense model; channels are judged behind the cut heads.

As https://github.com/guojialong1/Slimllm computes it, but for: grouped queries go with the key and value that they
share; fractions are scaled so that the share of all parameters is met (the published code has `base` = 0.25 for 20 %,
and 0.55 for 50 % with blocks = 0.9375 and alpha = 7, and meets no exact total).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from harness.calibration.statistics import FeatureCovariance, FeatureNorm, Statistics
from harness.job import NotNegative
from harness.pruning.methods.base import METHODS
from harness.pruning.methods.lorap_ffn import Spared, norms_of_rows
from harness.pruning.methods.structured import Compensation, StructuredMethod

if TYPE_CHECKING:
    from torch import Tensor

    from harness.pruning.context import PruningContext
    from harness.pruning.cutting import Candidates


@METHODS.register("slimllm")
@dataclass(frozen=True, slots=True)
class SlimLlm(StructuredMethod):
    """Keeps the heads and channels that make the most of the output's correlation and variance; fits what is left.

    Args:
        blocks: part of the blocks that lose something, those of the largest cosine; rounded to whole ones, 0 < it <= 1.
        alpha: how much more those lose whose cosine is larger, >= 0; 0 = the same.
        spared: part of the channels, of the lowest importance, that stay, 0 <= it < 1.
    """

    blocks: Annotated[float, Field(gt=0, le=1)] = 0.8125
    alpha: NotNegative = 10.0
    spared: Spared = 0.01
    updates_weights = True
    heads_first = True
    decides_layer_sparsities = True
    needs_whole_model = True  # a bias that a checkpoint has no place for cannot be put back into its files
    needs = (FeatureNorm, FeatureCovariance)

    def losses(self, context: PruningContext, num_blocks: int) -> Sequence[float]:
        from harness.pruning.methods.shortgpt import block_influence
        from harness.pruning.shares import least_first

        made_by = context.device, context.batch_tokens
        influence_N = context.cache(("influence of blocks", *made_by), lambda: block_influence(context))
        chosen = least_first(influence_N)[: max(1, round(self.blocks * num_blocks))]
        losses_N = influence_N.new_zeros(num_blocks)
        losses_N[chosen] = (-self.alpha * influence_N[chosen]).softmax(dim=0)
        losses: list[float] = losses_N.tolist()
        return losses

    def importance(self, candidates: Candidates, stats: Statistics) -> Tensor:
        if candidates.unit == "head":
            return -HeadOutputs.of(candidates, stats).similarity_without()
        return channel_scores(candidates, stats)

    def kept(self, candidates: Candidates, stats: Statistics, count: int) -> Tensor:
        from harness.pruning.shares import all_but_a_slice, least_first

        importance_C = self.importance(candidates, stats)
        if candidates.unit == "channel":
            return all_but_a_slice(importance_C, count, round(self.spared * len(importance_C)))
        gone_C, kept_C = least_first(importance_C).cpu().split([len(importance_C) - count, count])
        return HeadOutputs.of(candidates, stats).exchanged(kept_C.sort().values, gone_C).sort().values

    def compensation(self, weight_OI: Tensor, kept: Tensor, stats: Statistics) -> Compensation:
        import torch

        found = stats[FeatureCovariance]
        covariance_II, dense_OI, mean_I = found.covariance_II.double(), weight_OI.double(), found.mean_I.double()
        weight_OK = dense_OI[:, kept]
        with_dense_O = ((weight_OK @ covariance_II[kept]) * dense_OI).sum(dim=1)
        variance_O = ((weight_OK @ covariance_II[kept][:, kept]) * weight_OK).sum(dim=1)
        slope_O = torch.where(variance_O > 0, with_dense_O / variance_O, 1.0)
        bias_O = dense_OI @ mean_I - slope_O * (weight_OK @ mean_I[kept])
        return Compensation(bias_O, weight_OK * slope_O[:, None])


@dataclass(frozen=True, slots=True)
class HeadOutputs:
    """Covariances over the tokens of what C heads add to every output feature of their attention.

    Args:
        covariance_OCC: of every two heads, float64.
    """

    covariance_OCC: Tensor

    @classmethod
    def of(cls, candidates: Candidates, stats: Statistics) -> HeadOutputs:
        """From the covariance of the output projection's input."""
        import torch

        columns_CK = candidates.columns_CK.to(candidates.consumer_COK.device)
        flat_I = columns_CK.flatten()
        covariance_II = stats[FeatureCovariance].covariance_II.double()[flat_I][:, flat_I]
        weight_COK = candidates.consumer_COK.double()
        weight_OI = weight_COK.transpose(0, 1).flatten(1)
        of_heads = [
            ((weight_OK @ rows_KI) * weight_OI).unflatten(1, columns_CK.shape).sum(dim=2)
            for weight_OK, rows_KI in zip(weight_COK, covariance_II.split(columns_CK.shape[1]), strict=True)
        ]
        return cls(torch.stack(of_heads, dim=1))

    def similarity_without(self) -> Tensor:
        """rho(O - O_i, O) [C] for every head i."""
        import torch

        others_CC = 1.0 - torch.eye(self.covariance_OCC.shape[1]).to(self.covariance_OCC)
        return self._similarity(others_CC)

    def exchanged(self, kept: Tensor, gone: Tensor) -> Tensor:
        """The kept heads after every one that is to go was tried in the place of each of them.

        Args:
            gone: in the order of trial.
        """
        heads = kept.clone()
        best = float(self._similarity(self._sets(heads[None])))
        for head in gone.tolist():
            tried_NK = heads.repeat(len(heads), 1).fill_diagonal_(head)
            similarity_N = self._similarity(self._sets(tried_NK))
            place = int(similarity_N.argmax())
            if float(similarity_N[place]) > best:
                best, heads = float(similarity_N[place]), tried_NK[place]
        return heads

    def _sets(self, heads_NK: Tensor) -> Tensor:
        """[N, C]: 1 where a head is in a set."""
        count = self.covariance_OCC.shape[1]
        sets_NC = heads_NK.new_zeros((len(heads_NK), count)).scatter_(1, heads_NK, 1)
        return sets_NC.to(self.covariance_OCC)

    def _similarity(self, sets_NC: Tensor) -> Tensor:
        """rho(sum of a set of heads, O) [N]; an output feature that does not vary counts nothing."""
        sums_ONC = sets_NC @ self.covariance_OCC
        variance_ON = (sums_ONC * sets_NC).sum(dim=2).clamp(min=0.0)
        with_all_ON = sums_ONC.sum(dim=2)
        scale_ON = (variance_ON * self.covariance_OCC.sum(dim=(1, 2)).clamp(min=0.0)[:, None]).sqrt()
        pearson_ON = (with_all_ON / scale_ON).where(scale_ON > 0, with_all_ON.new_zeros(()))
        return pearson_ON.abs().sum(dim=0)


def channel_scores(candidates: Candidates, stats: Statistics) -> Tensor:
    """The importance [C] of every channel of a feed-forward layer."""
    import torch

    covariance_II = stats[FeatureCovariance].covariance_II.double()
    read_COK = candidates.consumer_COK.double()
    weight_OI = read_COK.new_empty((read_COK.shape[1], len(covariance_II)))
    weight_OI[:, candidates.columns_CK] = read_COK.transpose(0, 1)
    values_O, vectors_OO = torch.linalg.eigh(weight_OI @ covariance_II @ weight_OI.T)
    scale_O = (values_O.abs() / values_O.abs().mean()).sigmoid()
    along_CKO = (read_COK.transpose(1, 2) @ vectors_OO).abs() * scale_O
    norm_CK = stats[FeatureNorm].sum_of_squares_I.double().sqrt()[candidates.columns_CK]
    scores_C: Tensor = (norm_CK * along_CKO.norm(dim=2)).sum(dim=1)
    made_from = [its[FeatureNorm].sum_of_squares_I.double().sqrt() for its in candidates.made_from]
    return scores_C + norms_of_rows(candidates, made_from)
