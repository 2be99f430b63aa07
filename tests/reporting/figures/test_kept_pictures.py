"""The pictures in the documentation are those of the kept records."""

from benchmarks.figures import FOLDER, ROOT, kept, pixels


def test_kept_pictures_are_what_is_drawn_shown_and_small() -> None:
    """Pixel by pixel, each on the page of figures and below 150 kB; `python -m benchmarks figures` makes them again."""
    page = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    drawn = kept()
    assert {path.name for path in FOLDER.iterdir()} == {*drawn}
    for name, png in drawn.items():
        assert pixels((FOLDER / name).read_bytes()) == pixels(png), name
        assert f"(figures/{name})" in page
        assert (FOLDER / name).stat().st_size < 150_000
