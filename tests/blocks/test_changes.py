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


def test_blocks_that_are_gone_let_the_others_move_up() -> None:
    """A path of the dense model leads to where its module is now, after one removal and after two."""
    first = ModelChange(gone=frozenset({"layers.1"}), moved={"layers.2": "layers.1", "layers.3": "layers.2"})
    assert [first.place_of(f"layers.{index}.up") for index in range(4)] == [
        "layers.0.up", None, "layers.1.up", "layers.2.up"
    ]  # fmt: skip
    assert first.place_of("layers.10.up") == "layers.10.up"
    second = ModelChange(gone=frozenset({"layers.1"}), moved={"layers.2": "layers.1"})
    both = first.then(second)
    assert [both.place_of(f"layers.{index}") for index in range(4)] == ["layers.0", None, None, "layers.1"]
    assert not both.keeps_shapes


def test_what_trained_after_a_removal_is_named_as_it_was_first() -> None:
    """Layers and tensors of a later step are those of the dense model."""
    cut = ModelChange(gone=frozenset({"layers.0"}), moved={"layers.1": "layers.0"})
    trained = ModelChange.of_weights({"layers.0.up": (4, 2)}, frozenset({"layers.0.up.bias"}))
    both = cut.then(trained)
    assert both.layers == {"layers.1.up": ((4, 2), (4, 2))}
    assert both.tensors == {"layers.1.up.bias"}
