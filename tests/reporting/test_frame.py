"""Records as tidy rows."""

from dataclasses import replace

from harness.reporting.frame import describe, measured, to_frame
from tests.reporting.conftest import C4


def test_one_row_a_job_and_metric(record, perplexity, accuracy) -> None:
    """Values, direction, source and the job's fields stand in one tidy row each."""
    frame = to_frame([record(results=(perplexity(7.5), accuracy(0.25))), record("dense")])
    assert list(frame["metric"].fillna("none")) == ["perplexity", "acc", "none"]
    assert list(frame["higher_is_better"][:2]) == [False, True]
    assert frame.loc[0, "value"] == 7.5
    assert frame.loc[0, "calibration"] == "c4 128×2048"
    assert frame.loc[0, "seconds"] == 3.0
    assert frame.loc[0, "seconds_prune"] == 2.0
    assert not frame.loc[0, "dirty"]


def test_no_records_give_an_empty_frame_with_its_columns() -> None:
    """A notebook can filter a frame of nothing."""
    frame = to_frame([])
    assert len(frame) == 0
    assert {"job_id", "metric", "value", "seconds_evaluate"} <= set(frame.columns)


def test_a_missing_value_stays_missing(record, perplexity) -> None:
    """What could not be measured is never a number."""
    assert to_frame([record(results=(perplexity(None),))])["value"].isna().all()


def test_params_are_spelled_in_one_order(record) -> None:
    """The order in which hyperparameters are stored does not show."""
    one, other = record(params={"b": 1, "a": 2}), record(params={"a": 2, "b": 1})
    assert describe(one).params == describe(other).params == "a=2, b=1"


def test_only_full_official_results_may_be_compared(record, perplexity) -> None:
    """A subset, other data, a BOS in every window, recovery or an unmapped model has no published setting that fits."""

    def protocol(result, **job):
        setting = measured([record(results=(result,), **job)])[0].setting(result)
        return setting and setting.protocol

    assert protocol(perplexity(1.0)) == "perplexity:wikitext2:seq2048"
    assert protocol(perplexity(1.0, max_windows=4)) is None
    assert protocol(perplexity(1.0, data="mine")) != "perplexity:wikitext2:seq2048"
    assert protocol(perplexity(1.0, bos_every_window=True)) == "perplexity:wikitext2:seq2048:bos"
    assert protocol(perplexity(1.0), recovery="lora") is None
    assert protocol(perplexity(1.0), model="mine") is None


def test_other_hyperparameters_than_the_published_compare_with_nothing(record, perplexity) -> None:
    """A damping that nobody published may not stand beside SparseGPT's; one that the code lacks tells nothing."""
    for params, compares in (({"damping": 0.01}, True), ({"damping": 0.1}, False), ({"older": 1}, True)):
        entry = measured([record("sparsegpt", params=params)])[0]
        assert (entry.setting(perplexity(1.0)) is not None) is compares


def test_another_propagation_compares_with_nothing(record, perplexity) -> None:
    """Papers print what their authors' walk made."""
    for method, propagation, compares in (("wanda", "pruned", True), ("wanda", "dense", False), ("obc", "dense", True)):
        entry = measured([record(method, calibration=replace(C4, propagation=propagation))])[0]
        assert (entry.setting(perplexity(1.0)) is not None) is compares


def test_our_adaprune_compares_with_nothing(record, perplexity) -> None:
    """The tables' AdaPrune was never published; ours only has its name."""
    entry = measured([record("adaprune", calibration=replace(C4, propagation="dense"))])[0]
    assert entry.setting(perplexity(1.0)) is None


def test_an_allocation_is_part_of_the_method_s_name(record, perplexity) -> None:
    """OWL over Wanda is compared with the papers' `OWL w. Wanda`."""
    entry = measured([record(allocation="owl")])[0]
    setting = entry.setting(perplexity(1.0))
    assert setting.method == "owlw.wanda"
