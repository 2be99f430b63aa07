"""What a kind of model is.  No torch: planning asks which data a model takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from harness.data.corpora.base import CORPORA
from harness.data.places import Role
from harness.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

Objective: TypeAlias = "Callable[[nn.Module, Tensor], Tensor]"
"""`objective(model, batch)`: the mean loss, a scalar with a gradient, of a batch of calibration rows."""


class ModelKind(ABC):
    """Base of all kinds; one that is registered is known by the `model_type` of a checkpoint's ``config.json``."""

    title: ClassVar[str]
    """What a user is told that the model is, e.g. ``a language model``."""
    model_types: ClassVar[frozenset[str]] = frozenset()
    """The `model_type` of every configuration of this kind."""
    reads: ClassVar[Literal["text", "images"]] = "text"
    """What it is calibrated and measured on."""
    labelled: ClassVar[bool] = False
    """Whether rows end in their label: what candidates are measured by is then the share of right answers."""

    def takes(self, corpus: str) -> bool:
        """Whether calibration on this corpus is for this kind."""
        return CORPORA.get(corpus).reads == self.reads

    def allowed(self, role: Role) -> str:
        """What to calibrate or measure on, as errors say it."""
        images = [name for name, each in CORPORA.all().items() if each.reads == "images" and each.places(role)]
        if self.reads == "images":
            return " or ".join(f"{role}={name}" for name in images)
        return f"text ({role} other than {' and '.join(images)})"

    @abstractmethod
    def auto_class(self) -> Any:
        """What transformers loads such a model with."""

    @property
    @abstractmethod
    def objective(self) -> Objective:
        """What such a model is trained on: the one loss that pruning by gradients, training and fine-tuning share."""


KINDS: Registry[ModelKind] = Registry("model kind", "harness.models.kinds")
"""Kinds by name."""
LANGUAGE_MODEL = "causal_lm"
"""The kind of every configuration that no other one claims."""


def kind_of(model_type: object) -> ModelKind:
    """The kind of the models whose configuration has this `model_type`."""
    return next((kind for kind in KINDS.all().values() if model_type in kind.model_types), KINDS.get(LANGUAGE_MODEL))
