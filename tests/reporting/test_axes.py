"""In what jobs differ, and how that is said."""

from harness.reporting.axes import AXES, differing, distinguishing_params, setting_labels, short_labels
from harness.reporting.frame import describe


def test_every_axis_has_a_key_of_its_own() -> None:
    """And names axes that there are."""
    keys = [axis.key for axis in AXES]
    assert len(set(keys)) == len(keys)
    assert {axis.within for axis in AXES} <= {*keys, ""}


def test_labels_say_what_differs_and_no_more(record) -> None:
    """Parameters within a method, the short name of an allocation, and never the seed."""
    jobs = [
        describe(record("sparsegpt", params={"damping": 0.01, "block_size": 128})),
        describe(record("sparsegpt", params={"damping": 0.1, "block_size": 128}, seed=1)),
        describe(record("wanda", allocation="owl")),
    ]
    assert [axis.key for axis in differing(jobs)] == ["params", "allocation", "seed"]
    assert setting_labels(jobs) == (["sparsegpt, damping=0.01", "sparsegpt, damping=0.1", "wanda, owl"], [])


def test_distinguishing_params_parameters_are_those_that_not_all_have() -> None:
    """Of several settings what they share is left out; a single one has nothing to tell."""
    told = distinguishing_params([("a=1, b=2, c=3", ""), ("a=1, b=4, c=3", ""), ("a=1", "")])
    assert told == {"a=1, b=2, c=3": "b=2, c=3", "a=1, b=4, c=3": "b=4, c=3", "a=1": ""}
    assert distinguishing_params([("a=1", "")]) == {"a=1": ""}
    assert distinguishing_params([]) == {}
    shots = "add_update=False, shots=3"
    assert distinguishing_params([(shots, "shots=3")]) == {shots: "shots=3"}, (
        "what is no default is told, though all share it"
    )


def test_choices_are_named_as_briefly_as_tells_them_apart() -> None:
    """Parameters only where two have one name, and the usual choice not at all."""
    assert short_labels(["uniform", "", "owl (width=0.08)"]) == {"uniform": "", "": "", "owl (width=0.08)": "owl"}
    two = ["owl (width=0.08)", "owl (width=0.2)", "besa (epochs=1)"]
    assert list(short_labels(two).values()) == ["owl (width=0.08)", "owl (width=0.2)", "besa"]
