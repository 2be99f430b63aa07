"""The digits and the network that is trained on them."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageClassification

from harness.blocks.layers import decoder_blocks, prunable_shapes
from harness.blocks.offload import InMemory
from harness.blocks.runner import BlockRunner
from harness.data.arrays import fingerprint_array
from harness.data.corpora.digits import DIGITS, IDENTITIES, PIXELS, ROW, TRAINING_ROWS, digit_rows
from harness.data.sources import resolve
from harness.errors import UserError
from harness.evaluation.kinds.accuracy import accuracy
from harness.models.checkpoint import Checkpoint
from harness.models.digits import DigitsCnn, DigitsConfig, train, trained_note
from harness.models.kinds.base import KINDS
from harness.models.loading import LoadedModel, load_model
from harness.models.recipe import RECIPES
from harness.models.saving import save_model

CPU = torch.device("cpu")


@pytest.fixture
def rows() -> Tensor:
    """The held-out digits, [360, 65]."""
    return torch.from_numpy(digit_rows("evaluation").copy())


@pytest.fixture
def untrained() -> DigitsCnn:
    """A network with random weights and normalisations that do something."""
    torch.manual_seed(0)
    model = DigitsCnn(DigitsConfig()).eval()
    for name, tensor in model.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("role", ["calibration", "evaluation"])
def test_the_digits_are_the_pinned_ones(role: str) -> None:
    """Identities in the catalogue are those of the content; splits do not overlap and are all there is."""
    rows_NR = digit_rows(role)  # type: ignore[arg-type]
    assert fingerprint_array(rows_NR) == IDENTITIES[role] == resolve(DIGITS, role).identity  # type: ignore[index,arg-type]
    assert rows_NR.shape == ({"calibration": TRAINING_ROWS, "evaluation": 360}[role], ROW)
    assert (rows_NR[:, :PIXELS].min(), rows_NR[:, :PIXELS].max()) == (0, 16)
    assert set(rows_NR[:, PIXELS]) == set(range(10))


def test_digits_come_from_one_place(tmp_path: Path) -> None:
    """A path or another source is refused in one line."""
    with pytest.raises(UserError, match="come with scikit-learn"):
        resolve(DIGITS, "evaluation", path=tmp_path)
    with pytest.raises(UserError, match="come with scikit-learn"):
        resolve(DIGITS, "calibration", source="hub")


@torch.no_grad()
def test_the_network_does_not_see_labels(untrained: DigitsCnn, rows: Tensor) -> None:
    """Rows give the same logits with their label, with another one, and without any."""
    logits_BV = untrained(rows[:7]).logits
    other = rows[:7].clone()
    other[:, PIXELS] = 9 - other[:, PIXELS]
    assert logits_BV.shape == (7, 10)
    assert torch.equal(untrained(other).logits, logits_BV)
    assert torch.equal(untrained(rows[:7, :PIXELS]).logits, logits_BV)


def test_the_training_loss_is_the_labels_cross_entropy(untrained: DigitsCnn, rows: Tensor) -> None:
    """Mean of -log p(label), from the logits by hand."""
    with torch.no_grad():
        probabilities_BV = untrained(rows[:5]).logits.softmax(dim=1)
    expected = -sum(float(probabilities_BV[row, rows[row, PIXELS]].log()) for row in range(5)) / 5
    assert float(untrained.training_loss(rows[:5]).detach()) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_replayed_blocks_compute_what_the_network_computes(untrained: DigitsCnn, rows: Tensor) -> None:
    """Blocks that change the shape of what they are given are recorded and replayed as any other."""
    batches = list(rows[:5].split(3))
    recorded = BlockRunner(untrained, batches, InMemory(untrained), torch.device("cpu"))
    for place, batch in enumerate(batches):
        hidden = recorded.hidden[place]
        for block, calls in zip(decoder_blocks(untrained)[1], recorded.calls, strict=True):
            hidden = calls[place].replay(block, hidden)
        assert torch.equal(hidden, untrained(batch).logits)


def test_every_layer_takes_common_n_of_m(untrained: DigitsCnn) -> None:
    """Rows of 4 and 8: the stem, whose rows are not, is in front of the blocks and not pruned."""
    shapes = prunable_shapes(untrained)
    assert list(shapes) == [
        *("blocks.0.conv_a", "blocks.0.conv_b", "blocks.1.conv_a", "blocks.1.conv_b"),
        *("blocks.2.linear_a", "blocks.2.linear_b"),
    ]
    assert all(columns % 8 == 0 for _, columns in shapes.values())


@torch.no_grad()
def test_accuracy_counts_right_answers(untrained: DigitsCnn, rows: Tensor) -> None:
    """Against a plain loop; a destroyed network has none, not a small one."""
    measured = accuracy(untrained, InMemory(untrained), rows, CPU)
    right = sum(int(untrained(row[None]).logits[0].argmax()) == int(row[PIXELS]) for row in rows)
    assert (measured.value, measured.count) == (right / 360, 360)
    share = right / 360
    assert measured.stderr == pytest.approx((share * (1 - share) / 359) ** 0.5)
    untrained.blocks[0].conv_a.weight.fill_(torch.nan)
    assert accuracy(untrained, InMemory(untrained), rows, CPU).value is None


def test_a_saved_network_loads_as_any_folder(untrained: DigitsCnn, rows: Tensor, tmp_path: Path) -> None:
    """`model=local` takes what save_model wrote: an image classifier with the same logits, in the type asked for."""
    save_model(LoadedModel(untrained, None), tmp_path / "saved")
    checkpoint = Checkpoint("local", "saved", str(tmp_path / "saved"), None, False)
    assert checkpoint.kind is KINDS.get("image_classifier")
    loaded = load_model(checkpoint, None)
    with torch.no_grad():
        assert torch.equal(loaded.model(rows).logits, untrained(rows).logits)
    assert load_model(checkpoint, torch.bfloat16).model.dtype == torch.bfloat16
    assert isinstance(AutoModelForImageClassification.from_pretrained(tmp_path / "saved"), DigitsCnn)


@pytest.mark.slow
def test_training_comes_to_the_expected_weights(rows: Tensor, untrained: DigitsCnn) -> None:
    """The recipe gives the pinned weights on any number of threads, leaves the global random numbers alone, and
    classifies more than 95 % right; other weights are said.
    """
    torch.manual_seed(5)
    expected = torch.random.get_rng_state()
    model = train(RECIPES["digits-cnn"])
    assert torch.equal(torch.random.get_rng_state(), expected)
    assert trained_note("digits-cnn", model) == ()
    assert trained_note("digits-cnn", copy.deepcopy(model).bfloat16()) == ()
    value = accuracy(model, InMemory(model), rows, CPU).value
    assert value is not None
    assert value > 0.95
    (note,) = trained_note("digits-cnn", untrained)
    assert "came out otherwise" in note


def test_the_recipe_pins_the_checkpoint() -> None:
    """Equal recipes, equal identities; an unknown model names the known ones."""
    assert Checkpoint("trained", "digits-cnn", None, None, False).identity == "trained:digits-cnn@09a9c00e6aea2377"
    with pytest.raises(UserError, match=r"unknown trained model 'other'.*digits-cnn"):
        _ = Checkpoint("trained", "other", None, None, False).identity
