"""The pictures of docs/figures, drawn again from the kept records of SmolLM2: python -m benchmarks figures"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import vl_convert

from harness.reporting.figures.base import Picture, pictures
from harness.reporting.published import load
from harness.tracking.store import RecordStore

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "figures"
SHOWN = ("perplexity-wikitext2", "allocation-wikitext2", "pareto-size-wikitext2", "layers", "time", "predictors")
PIXELS = 1.5
"""Of a picture for each of the chart."""


def main(_: list[str]) -> None:
    """Write every picture."""
    FOLDER.mkdir(exist_ok=True)
    for name, png in kept().items():
        (FOLDER / name).write_bytes(png)
        print(f"{FOLDER / name}: {len(png) / 1e3:.0f} kB")


def kept() -> Mapping[str, bytes]:
    """The pictures by the names of their files."""
    found = pictures(RecordStore(ROOT / "results" / "methods_smollm2").all(), load())
    shown = {name: each for each in found if isinstance(each, Picture) for name in SHOWN if each.name.startswith(name)}
    return {f"{name}.png": small(vl_convert.vegalite_to_png(each.spec(), scale=PIXELS)) for name, each in shown.items()}


def small(png: bytes) -> bytes:
    """The same picture, compressed as much as zlib can: a third of what the drawing library writes."""
    parts = [(kind, content) for kind, content in _chunks(png) if kind in (b"IHDR", b"IEND")]
    parts.insert(1, (b"IDAT", zlib.compress(pixels(png), 9)))
    written = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    ]
    return png[:8] + b"".join(written)


def pixels(png: bytes) -> bytes:
    """What is drawn, whatever it was compressed with."""
    return zlib.decompress(b"".join(content for kind, content in _chunks(png) if kind == b"IDAT"))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        yield png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        place += 12 + length
