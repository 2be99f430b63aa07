"""Image classifiers: an image in, the logits of its classes out; so far the network for scikit-learn's digits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.models.kinds.base import KINDS, ModelKind, Objective

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGE_CLASSIFIER = "image_classifier"


def label_loss(model: nn.Module, rows_BR: Tensor) -> Tensor:
    """The loss that the model brings, of rows that end in their label."""
    loss: Tensor = model.training_loss(rows_BR)  # type: ignore[operator]  # torch knows no such attribute
    return loss


class ImageClassifier(ModelKind):
    """A model with `training_loss`, whose rows are images with their label at the end."""

    title = "an image classifier"
    model_types = frozenset({"digits_cnn"})
    reads: ClassVar[Literal["text", "images"]] = "images"
    labelled = True

    def auto_class(self) -> Any:
        from transformers import AutoModelForImageClassification

        import harness.models.digits  # noqa: F401  # transformers learns the network's type

        return AutoModelForImageClassification

    @property
    def objective(self) -> Objective:
        return label_loss


KINDS.add(IMAGE_CLASSIFIER, ImageClassifier())
