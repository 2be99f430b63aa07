"""Inputs of linear layers, observed while a block or a model runs: statistics, and a sample to measure errors on."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from harness.blocks.calls import BlockCall, StopForwardError
from harness.blocks.layers import PrunableLinear, Unfolding, input_rows, unfolding, weight_view
from harness.calibration.statistics import Statistic, Statistics
from harness.errors import UserError

OutputT = TypeVar("OutputT")


@dataclass(slots=True, eq=False)
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


@dataclass(slots=True, eq=False)
class _Shared:
    """An input that some linears of a group were given in this pass; it is added once it is known who else was not."""

    x: Tensor
    names: list[str]


class InputObserver:
    """Collects statistics of every linear's input while a block or a model runs.

    "The same input" is recognised by object identity while a reference is held; freed memory comes back at the same
    address with the same shape, so addresses prove nothing.  Linears that are given the same input in their first pass
    are a group for as long as each pass gives it to all of them; one that is given another input, or none, goes on
    from what was collected so far with statistics of its own.

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
        self._held: list[tuple[Tensor, Unfolding, InputGroup]] = []  # what this pass has added, and to which group
        self._new: list[InputGroup] = []  # groups that this pass has made
        self._waiting: dict[InputGroup, _Shared] = {}
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
        for state in (self._called, self._held, self._new, self._waiting):
            state.clear()
        handles = [linear.register_forward_pre_hook(self._hook(name)) for name, linear in self._linears.items()]
        output = None
        try:
            output = run()
        except StopForwardError:
            pass
        finally:
            for handle in handles:
                handle.remove()
        for group in list(self._waiting):
            self._add_shared(group)
        self._held.clear()
        return output

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
        cut, group = unfolding(self._linears[name]), self._group_of.get(name)
        seen = next((each for held, its_cut, each in self._held if held is x and its_cut == cut), None)
        if group is None and seen in self._new:
            self._group_of[name] = seen
            seen.names.append(name)
        elif group is None:
            group = self._group_of[name] = self._new_group(name, x)
            self._add(group, x)
        elif group is not seen:
            if len(group.names) > 1 and group not in self._new:
                self._share(group, name, x)
            else:
                self._add(group, x)

    def _share(self, group: InputGroup, name: str, x: Tensor) -> None:
        """Note that a linear of a larger group is given `x`."""
        shared = self._waiting.get(group)
        if shared is not None and name in shared.names:  # called a second time in one pass
            self._add_shared(group)
            self._add(group, x)
            return
        if shared is not None and shared.x is not x:
            self._add(self._split(group, [name]), x)
        elif shared is not None:
            shared.names.append(name)
        else:
            shared = self._waiting[group] = _Shared(x, [name])
        if len(shared.names) == len(group.names):
            self._add_shared(group)

    def _add_shared(self, group: InputGroup) -> None:
        """Add what a group waits with; those of its linears that were not given it leave."""
        shared = self._waiting.pop(group)
        others = [name for name in group.names if name not in shared.names]
        if others:
            self._split(group, others)
        self._add(group, shared.x)

    def _split(self, group: InputGroup, names: list[str]) -> InputGroup:
        """A group of its own for some linears, with all that was collected so far."""
        own = InputGroup(names, copy.deepcopy(group.statistics), list(group.sample))
        group.names = [name for name in group.names if name not in names]
        self._group_of |= dict.fromkeys(names, own)
        return own

    def _add(self, group: InputGroup, x: Tensor) -> None:
        linear = self._linears[group.names[0]]
        x_TI = input_rows(linear, x)
        self._held.append((x, unfolding(linear), group))
        group.statistics.update(x_TI, self._num_sequences)
        missing = self._sample_tokens - group.num_kept
        if missing > 0:
            group.sample.append(x_TI[:missing].clone())

    def _new_group(self, name: str, x: Tensor) -> InputGroup:
        width = weight_view(self._linears[name]).shape[1]
        group = InputGroup([name], Statistics(kind(width, x.device) for kind in self._needs))
        self._new.append(group)
        return group


def check_reached(linears: Iterable[str], reached: Iterable[str]) -> None:
    """Raise `UserError` naming the first linear that calibration did not reach."""
    seen = set(reached)
    missed = [name for name in linears if name not in seen]
    if missed:
        raise UserError(f"no calibration token reached {missed[0]}; allowed: more or longer calibration sequences")
