"""Kinds of models, and one that a single file adds."""

import json
from functools import partial
from pathlib import Path

import pytest

from harness.models.digits import DigitsCnn, DigitsConfig
from harness.models.kinds.base import KINDS, kind_of
from tests.e2e.conftest import in_a_fork

FILE = '''
"""Classifiers of digits with other widths: a kind of its own."""

from transformers import AutoConfig, AutoModelForImageClassification

from harness.models.digits import DigitsCnn, DigitsConfig
from harness.models.kinds.base import KINDS
from harness.models.kinds.image_classifier import ImageClassifier


class WideConfig(DigitsConfig):
    model_type = "digits_wide"


class WideCnn(DigitsCnn):
    config_class = WideConfig


AutoConfig.register("digits_wide", WideConfig)
AutoModelForImageClassification.register(WideConfig, WideCnn)


class Wide(ImageClassifier):
    title = "a wide classifier"
    model_types = frozenset({"digits_wide"})


KINDS.add("wide", Wide())
'''


def test_every_configuration_has_a_kind() -> None:
    """What no kind claims is a language model; kinds agree on whose the data are."""
    assert kind_of("digits_cnn") is KINDS.get("image_classifier")
    assert kind_of("llama") is kind_of(None) is KINDS.get("causal_lm")
    assert KINDS.get("causal_lm").takes("wikitext2")
    assert not KINDS.get("causal_lm").takes("digits")
    assert KINDS.get("image_classifier").takes("digits")
    assert not KINDS.get("image_classifier").takes("wikitext2")


@pytest.mark.e2e
@pytest.mark.slow
def test_one_file_outside_the_package_adds_a_kind(tmp_path: Path) -> None:
    """A file in a folder that is named: the command line prunes and measures a model of the new kind."""
    plugins, model, results = tmp_path / "plugins", tmp_path / "model", tmp_path / "results"
    plugins.mkdir()
    (plugins / "wide_kind.py").write_text(FILE)
    DigitsCnn(DigitsConfig(widths=(8, 24), inner_widths=(8, 24))).save_pretrained(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "digits_wide"}))
    job = ("model=local", f"model.path={model}", f"plugins={plugins}", "sparsity=0.5", "evaluation=digits")
    run = partial(in_a_fork, "run", *job, f"results_dir={results}", "method=wanda")
    done = run("calibration=digits")
    assert done.code == 0, done.err
    (record,) = results.rglob("model__wanda__*.json")
    assert json.loads(record.read_text())["results"][0]["metric"] == "acc"
    refused = run("calibration=wikitext2")
    assert refused.code == 2
    assert "is a wide classifier; allowed: calibration=digits" in refused.err
