"""What a step changed of a model: read by whoever must undo it, save it, or count its zeros again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

Shape = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ModelChange:
    """What a step that prunes, cuts or trains changed; whatever is not named here is as it was, to the bit.

    Paths are those of modules and of `state_dict`, from the model or, of a change inside a block, from the block.

    Args:
        layers: shape [O, I] before and after of every prunable linear whose weight changed, by path.
        tensors: names of the other parameters and buffers that changed: biases, norms, embeddings.
        added, gone: paths of modules that are new or are there no more.
        moved: new path of every block that moved up since one before it is gone, by its old path.
        configuration: fields of the model's configuration that changed, with their new values.
    """

    layers: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)
    tensors: frozenset[str] = frozenset()
    added: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    moved: Mapping[str, str] = field(default_factory=dict)
    configuration: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of_weights(cls, shapes: Mapping[str, Shape], tensors: frozenset[str] = frozenset()) -> ModelChange:
        """Other values in layers of these shapes, and in other tensors."""
        return cls({name: (shape, shape) for name, shape in shapes.items()}, tensors)

    @property
    def names(self) -> frozenset[str]:
        """Names in `state_dict` of all tensors that changed."""
        return self.tensors | {f"{name}.weight" for name in self.layers}

    @property
    def keeps_shapes(self) -> bool:
        """Whether the model has the modules and shapes that it had, so that copying `names` back undoes the change."""
        resized = any(before != after for before, after in self.layers.values())
        return not (resized or self.added or self.gone or self.configuration)

    def place_of(self, name: str) -> str | None:
        """The path now of a module or tensor that was at `name`; None where it is gone."""
        if any(_is_within(name, path) for path in self.gone):
            return None
        return _elsewhere(name, self.moved)

    def then(self, later: ModelChange) -> ModelChange:
        """This change and a later one as one, by the paths that were there first."""
        came_from = {new: old for old, new in self.moved.items()}
        first, layers = partial(_elsewhere, moves=came_from), dict(self.layers)
        for name, (before, after) in later.layers.items():
            layers[first(name)] = (layers.get(first(name), (before, after))[0], after)
        moved = {first(old): new for old, new in later.moved.items()}
        gone = {first(name) for name in later.gone}
        return ModelChange(
            layers,
            self.tensors | {first(name) for name in later.tensors},
            (self.added | later.added) - later.gone,
            (self.gone | gone) - self.added - later.added,
            {old: new for old, new in {**self.moved, **moved}.items() if old not in gone},
            {**self.configuration, **later.configuration},
        )

    def below(self, path: str) -> ModelChange:
        """This change of a module as one of the model that has the module at `path`."""
        tensors, added, gone = (
            frozenset(f"{path}.{name}" for name in names) for names in (self.tensors, self.added, self.gone)
        )
        layers = {f"{path}.{name}": shapes for name, shapes in self.layers.items()}
        return replace(self, layers=layers, tensors=tensors, added=added, gone=gone)


def _is_within(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _elsewhere(name: str, moves: Mapping[str, str]) -> str:
    """A path below one of those that moved, where it is afterwards."""
    return next((new + name[len(old) :] for old, new in moves.items() if _is_within(name, old)), name)
