"""A stand-in for an accelerator: it computes on the CPU, and refuses what a real one would refuse or be slow at.

Its tensors say that they are on the ``meta`` device, which every build of torch knows, and hold real numbers.  An
operation on tensors of both devices is an error, as it is on CUDA, and every wait of the host for the device is
noted.  What it cannot show is time, memory, and kernels of a real device.
"""

from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
CPU = torch.device("cpu")
aten = torch.ops.aten
EXPLICIT = {aten._to_copy.default, aten.copy_.default}
"""Copies from one device to another that the caller asked for."""
WAITS = {aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.is_nonzero.default}
"""Operations whose outcome the host needs before it can go on."""


class ImplicitTransferError(RuntimeError):
    """An operation had tensors of both devices."""


class OnAccelerator(Tensor):
    """A tensor of the stand-in; `held` are its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Self:
        """Wrap the numbers `held`."""
        wrapper: Self = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        wrapper.held = held
        return wrapper

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """The same numbers without a gradient; torch's own setter would leave the old numbers in place."""
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> None:
        assert isinstance(other, OnAccelerator), "a tensor of the accelerator is replaced by another"
        assert other.shape == self.shape, "its shape stays"
        self.held = other.held

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Outside of the mode nothing may touch the tensor."""
        raise AssertionError(f"{func} on a tensor of the accelerator that is switched off")


class Accelerator(TorchDispatchMode):
    """While it is on, ``DEVICE`` is an accelerator.

    Attributes:
        waits: the operations that made the host wait, in order.
        computed: how many operations ran on the accelerator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.computed = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` on the numbers."""
        func, args, kwargs = _as_copy(func, args, dict(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, OnAccelerator)]
        others = [tensor for tensor in tensors if not isinstance(tensor, OnAccelerator) and tensor.dim()]
        if ours and others and func not in EXPLICIT:
            raise ImplicitTransferError(f"{func} of {len(ours)} tensors on the accelerator and {len(others)} elsewhere")
        if ours and (func in WAITS or (func in EXPLICIT and _leaves(args, kwargs))):
            self.waits.append(str(func))
        target = kwargs.get("device")
        if target is not None:
            target = torch.device(target)
            kwargs["device"] = CPU
        on_device = target == DEVICE if target is not None else bool(ours)
        if not on_device and not ours:
            return func(*args, **(kwargs | ({"device": target} if target is not None else {})))
        self.computed += 1
        known = {id(tensor.held): tensor for tensor in ours}
        outcome = func(*_unwrapped(args), **_unwrapped(kwargs))
        if func is aten.copy_.default:
            return args[0]
        if func is aten._to_copy.default and any(outcome is tensor.held for tensor in ours):
            outcome = outcome.clone()
        return _wrapped(outcome, known) if on_device else outcome


def _as_copy(func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """The copy that `Tensor.to` is made of, which torch leaves whole in inference mode."""
    if func is aten.to.device:
        kwargs = {"device": args[1], "dtype": args[2]}
    elif func is aten.to.dtype_layout:
        kwargs = {name: kwargs[name] for name in ("device", "dtype") if name in kwargs}
    else:
        return func, args, kwargs
    return aten._to_copy.default, args[:1], kwargs


def _leaves(args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an explicit copy takes numbers from the accelerator to the host."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"]) != DEVICE
    return len(args) > 1 and isinstance(args[1], OnAccelerator) and not isinstance(args[0], OnAccelerator)


def _unwrapped(value: Any) -> Any:
    return tree_map(lambda leaf: leaf.held if isinstance(leaf, OnAccelerator) else leaf, value)


def _wrapped(value: Any, known: dict[int, OnAccelerator]) -> Any:
    """The outcome on the accelerator; a tensor that came in (an operation in place) is the one that goes out."""

    def wrap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return known[id(leaf)] if id(leaf) in known else OnAccelerator(leaf)

    return tree_map(wrap, value)
