"""Generated answers are those of stock lm-eval, token by token; their lengths and what cut them are counted."""

import json
from pathlib import Path
from string import ascii_lowercase
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.data.formats import Row
from harness.data.generation.base import GENERATION_TASKS
from harness.data.sources import resolve
from harness.errors import UserError
from harness.evaluation.base import EvaluationContext, Ready
from harness.evaluation.kinds.generation import Generation
from harness.evaluation.upstream import load_task, quiet
from harness.models.loading import LoadedModel
from harness.progress import Silent
from tests.e2e.conftest import save_speaking_model

CPU = torch.device("cpu")
NEW, QUESTIONS = 6, 11


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A random model with a tokenizer of bytes, which says letters, and commas that end an answer."""
    folder = tmp_path_factory.mktemp("model")
    save_speaking_model(folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    said = set(tokenizer(f"{ascii_lowercase},")["input_ids"])
    with torch.no_grad():
        model.lm_head.weight[tokenizer(",")["input_ids"]] *= 0.75  # it is not all that is said
        model.lm_head.weight[[token for token in range(257) if token not in said]] = 0.0
    return LoadedModel(model, tokenizer)


def asked(file: Path) -> Any:
    """The protocol of the file's questions, and their place."""
    ((protocol, data),) = Generation(("nq_open",), NEW, QUESTIONS).ask(
        lambda name: resolve(name, "evaluation", path=file)
    )
    return protocol, data


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Questions of several lengths."""
    path = tmp_path / "validation.jsonl"
    questions = (ascii_lowercase[n:] * (1 + n % 3) for n in range(QUESTIONS + 2))
    path.write_text("".join(f'{{"question": "{question}", "answer": ["-"]}}\n' for question in questions))
    return path


def stock(loaded: LoadedModel, rows: list[Row]) -> tuple[list[str], dict[str, Any]]:
    """The answers and the numbers of lm-eval as it is, one question at a time."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    with quiet():
        task = load_task("nq_open", "4.0", rows)
        task.set_config("generation_kwargs", {"max_gen_toks": NEW}, update=True)
        lm = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=1, max_length=loaded.max_length)
        found = evaluate(lm=lm, task_dict={"tasks": {"nq_open": task}, "groups": {}, "group_map": {}})
    answers = [each["resps"][0][0] for each in found["samples"]["nq_open"]]
    return answers, found["results"]["nq_open"]


def test_answers_are_stock_lm_evals(loaded: LoadedModel, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one, though eight are decoded together; and so is their exact match, here of questions some of which
    are answered rightly.
    """
    from harness.evaluation.scoring.generating import GreedyLM

    answers, _ = stock(loaded, GENERATION_TASKS.get("nq_open").rows(asked(file)[1])[:QUESTIONS])
    right = [answer.strip() or "-" for answer in answers[:4]]
    lines = file.read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row, answer in zip(rows, right, strict=False):
        row["answer"] = [answer]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    protocol, data = asked(file)
    _, expected = stock(loaded, GENERATION_TASKS.get("nq_open").rows(data)[:QUESTIONS])

    given: list[str] = []
    own = GreedyLM.generate_until

    def generate_until(self: Any, *arguments: Any, **options: Any) -> list[str]:
        given.extend(own(self, *arguments, **options))
        return given

    monkeypatch.setattr(GreedyLM, "generate_until", generate_until)
    options: Any = SimpleNamespace()
    context = EvaluationContext(loaded, CPU, Silent(), options)
    (result,) = Generation.measure([Ready(protocol, data, True)], context).results
    assert given == answers
    assert len(set(answers)) > QUESTIONS // 2
    assert result.value == expected["exact_match,remove_whitespace"] > 0
    assert result.stderr == pytest.approx(expected["exact_match_stderr,remove_whitespace"])
    assert (result.num_samples, result.subset) == (QUESTIONS, f"first {QUESTIONS} of {QUESTIONS + 2} questions")
    lengths = [len(loaded.tokenizer(answer)["input_ids"]) for answer in answers]  # type: ignore[misc]
    assert result.details["mean_answer_tokens"] == pytest.approx(sum(lengths) / QUESTIONS)
    assert result.details["share_cut"] == sum(length == NEW for length in lengths) / QUESTIONS
    assert 0 < float(str(result.details["share_cut"])) < 1


def test_the_key_says_how_long_answers_may_be(file: Path) -> None:
    """Another limit is another measurement; one that leaves no room for a question is refused before the pruning."""
    protocol, data = asked(file)
    assert protocol.key.startswith(f"generation:nq_open:first{QUESTIONS}:new{NEW}:v4.0:data-")
    short: Any = SimpleNamespace(max_length=NEW)
    with pytest.raises(UserError, match=r"evaluation.max_new_tokens=6 leaves none of the model's 6 positions"):
        Generation.prepare(protocol, data, short)


@pytest.mark.parametrize("name", GENERATION_TASKS.all())
def test_the_tasks_are_lm_evals(name: str) -> None:
    """Of the version that the table says, with its filters, and questions that its prompt takes."""
    known = GENERATION_TASKS.get(name)
    rows: list[Row] = [{"question": "what", "answer": {"aliases": ["x"]} if name == "triviaqa" else ["x"]}]
    if name == "gsm8k_cot":
        rows = [{"question": "What is 1 + 1?", "answer": "#### 2"}]
    with quiet():
        task = load_task(name, known.version, rows)
    assert {each.name for each in task._filters} == set(known.filters.values())
    assert tuple(known.filters) == known.metrics
    assert task.config.num_fewshot == known.shots
    task.build_all_requests()
    prompt = task.instances[0].args[0]
    assert prompt.count("Q: " if name != "triviaqa" else "Question: ") == known.shots + 1
