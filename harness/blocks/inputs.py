"""Inputs of linear layers, observed while a block or a model runs: statistics, and a sample to measure errors on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from harness.blocks.calls import BlockCall, StopForwardError
from harness.blocks.layers import PrunableLinear, Unfolding, input_rows, unfolding
from harness.calibration.statistics import Statistic, Statistics
from harness.errors import UserError

OutputT = TypeVar("OutputT")


@dataclass(slots=True)
class InputGroup:
    """Linears of a block or model that are given the very same input: one statistic serves them all.

    The very same are the patches of convolutions that cut one input alike.

    Attributes:
        names: paths of the linears, in the order of definition.
        statistics: of the shared input.
        sample_TI: the first tokens of the input, to measure output errors on; None until the first batch.
    """

    names: list[str]
    statistics: Statistics
    sample: list[Tensor] = field(default_factory=list)

    @property
    def sample_TI(self) -> Tensor:
        return torch.cat(self.sample)

    @property
    def num_kept(self) -> int:
        """Tokens in the sample."""
        return sum(map(len, self.sample))


class InputObserver:
    """Collects statistics of every linear's input while a block or a model runs.

    "The same input" is recognised by object identity while a reference is held; freed memory comes back at the same
    address with the same shape, so addresses prove nothing.

    Args:
        linears: prunable linears by path.
        needs: kinds of statistics to collect.
        sample_tokens: how many tokens of every input to keep.
        stop_early: end the forward pass at the last linear's input, when nobody reads the output.
    """

    def __init__(
        self,
        linears: Mapping[str, PrunableLinear],
        needs: Sequence[type[Statistic]],
        *,
        sample_tokens: int,
        stop_early: bool,
    ) -> None:
        self._linears = linears
        self._needs = needs
        self._sample_tokens = sample_tokens
        self._stop_early = stop_early
        self._group_of: dict[str, InputGroup] = {}
        self._held: list[tuple[Tensor, Unfolding, InputGroup]] = []
        self._called: set[str] = set()
        self._num_sequences = 0

    @property
    def groups(self) -> list[InputGroup]:
        """Groups in the order of their first linear; a linear that no token reached is in none."""
        order = list(self._linears)
        groups = {id(group): group for group in self._group_of.values()}.values()
        for group in groups:
            group.names.sort(key=order.index)
        return sorted(groups, key=lambda group: order.index(group.names[0]))

    @property
    def is_full(self) -> bool:
        """Whether every linear has as many tokens as are kept."""
        found = [self._group_of.get(name) for name in self._linears]
        return all(group is not None and group.num_kept >= self._sample_tokens for group in found)

    def forward(self, block: nn.Module, call: BlockCall, hidden_BLH: Tensor) -> Tensor | None:
        """Replay one call under observation; None when the forward pass was ended early."""
        return self.watch(lambda: call.replay(block, hidden_BLH), hidden_BLH.shape[0])

    def watch(self, run: Callable[[], OutputT], num_sequences: int) -> OutputT | None:
        """One forward pass of so many sequences under observation; None when it was ended early."""
        self._num_sequences = num_sequences
        self._called.clear()
        handles = [linear.register_forward_pre_hook(self._hook(name)) for name, linear in self._linears.items()]
        try:
            return run()
        except StopForwardError:
            return None
        finally:
            self._held.clear()
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._observe(name, args[0])
            self._called.add(name)
            if self._stop_early and len(self._called) == len(self._linears):
                raise StopForwardError

        return hook

    def _observe(self, name: str, x: Tensor) -> None:
        if not x.numel():  # an expert that no token of this batch was sent to
            return
        linear = self._linears[name]
        cut = unfolding(linear)
        shared = next((group for held, its_cut, group in self._held if held is x and its_cut == cut), None)
        known = self._group_of.get(name)
        if shared is not None:
            assert known is None or known is shared, (
                f"{name} now shares its input with {shared.names}, and did not before"
            )
            if known is None:
                self._group_of[name] = shared
                shared.names.append(name)
            return
        x_TI = input_rows(linear, x)
        if known is None:
            known = self._group_of[name] = self._new_group(x_TI)
            known.names.append(name)
        self._held.append((x, cut, known))
        known.statistics.update(x_TI, self._num_sequences)
        missing = self._sample_tokens - known.num_kept
        if missing > 0:
            known.sample.append(x_TI[:missing].clone())

    def _new_group(self, x_TI: Tensor) -> InputGroup:
        return InputGroup([], Statistics(kind.allocate(x_TI.shape[1], x_TI.device) for kind in self._needs))


def check_reached(linears: Iterable[str], reached: Iterable[str]) -> None:
    """Raise `UserError` naming the first linear that calibration did not reach."""
    seen = set(reached)
    missed = [name for name in linears if name not in seen]
    if missed:
        raise UserError(f"no calibration token reached {missed[0]}; allowed: more or longer calibration sequences")
