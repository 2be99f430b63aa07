"""RTE (GLUE, Wang et al. 2019): does a text entail a sentence."""

from harness.data.tasks.base import TASKS, Task, arrow

RTE = Task(
    about="does a text entail a sentence",
    definition="glue/rte",
    version="1.0",
    asked=("sentence1", "sentence2"),
    answers=("label",),
    options=lambda row: ["True", "False"],
    folder="rte/validation.jsonl",
    embedded=arrow("glue/rte"),
    hub=("nyu-mll/glue", "rte"),
    split="validation",
    published="sha256:036d488a4602ec8d180426dbf7d8e0775b4df893d400e8b7422a2e970e428f84",
)
TASKS.add("rte", RTE)
