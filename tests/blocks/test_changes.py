"""What a change says of a model, and two changes as one."""

from harness.blocks.changes import ModelChange


def test_what_changed_is_named_as_the_model_names_it() -> None:
    """Weights of layers and what changed beside them; of a block's change under the block's path."""
    change = ModelChange.of_weights({"up": (4, 2)}, frozenset({"up.bias"})).below("layers.3")
    assert change.names == {"layers.3.up.weight", "layers.3.up.bias"}
    assert change.keeps_shapes


def test_a_second_change_starts_where_the_first_ended() -> None:
    """Shapes before are those of the first, shapes after those of the last; what came and went is neither."""
    cut = ModelChange({"up": ((4, 2), (3, 2))}, configuration={"width": 3})
    trained = ModelChange.of_weights({"up": (3, 2), "down": (2, 3)})
    both = cut.then(trained)
    assert both.layers == {"up": ((4, 2), (3, 2)), "down": ((2, 3), (2, 3))}
    assert not both.keeps_shapes
    assert both.configuration == {"width": 3}
    split = ModelChange(added=frozenset({"up.0", "up.1"}), gone=frozenset({"up"}))
    merged = ModelChange(added=frozenset({"up"}), gone=frozenset({"up.0", "up.1"}))
    back = split.then(merged)
    assert (back.added, back.gone) == ({"up"}, set())
