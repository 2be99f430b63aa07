"""The measures of the source tree, of this checkout and of another revision side by side.

    python -m benchmarks house [--against f46dd30] [--page docs/architecture.md]

A room is a package or module directly inside `harness/`; an arrow, that one room imports another (inside functions,
too; not for annotations only); a floor, the longest way down to a room that imports none.  With ``--page`` the table of
rooms in that page and the picture beside it are written anew; a test compares them with the code.
"""

import argparse
import ast
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grimp

FIRST = "f46dd30"
"""The last commit of the first house."""
ROOT = Path(__file__).parents[1]
TARGETS = {
    "lines of Python": "17,000",
    "modules at the door": "<= 8",
    "rooms": "<= 24",
    "floors": "<= 10",
    "arrows between rooms": "<= 110",
    "rooms in cycles": "0",
    "modules of 250 lines and more": "<= 6",
    "median lines a module": "<= 110",
    "functions over 60 lines": "0",
    "functions with more than 6 parameters": "0",
    "runs of 6 equal lines": "0",
    "loops over blocks": "1",
    "registries of an axis": "1 class",
    "McNemar tests written": "1",
    "lines that draw figures (Python, JavaScript)": "one specification",
    "reporting and tracking : pruning and models (lines)": "< 1 : 1",
}
MARK = "<!-- rooms: written by `python -m benchmarks house --page docs/architecture.md` -->"
EQUAL_RUN = 6


@dataclass(frozen=True, slots=True)
class Room:
    """A package or module directly inside `harness/`.

    Args:
        floor: longest way down, 1 for a room that imports no other.
        about: first sentence of its docstring.
        imports: rooms that it imports.
    """

    name: str
    floor: int
    about: str
    imports: tuple[str, ...]


def rooms(root: Path = ROOT) -> list[Room]:
    """The rooms of a checkout, from the top floor down."""
    sys.path.insert(0, str(root))
    try:
        graph = grimp.build_graph("harness", exclude_type_checking_imports=True, cache_dir=None)
    finally:
        sys.path.remove(str(root))
    below: dict[str, set[str]] = defaultdict(set)
    names = {
        path.stem for path in (root / "harness").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            above, under = _room_of(importer), _room_of(imported)
            if above != under and above in names and under in names:
                below[above].add(under)
    names = {name for name in names if not name.startswith("__")}
    found = [Room(name, _floor(name, below), _about(root, name), tuple(sorted(below[name] & names))) for name in names]
    return sorted(found, key=lambda room: (-room.floor, room.name))


def rooms_table(found: list[Room]) -> str:
    """The rooms as the Markdown table of the architecture page."""
    rows = [
        f"| {room.floor} | `{room.name}` | {room.about} | {', '.join(name for name in room.imports if name[0] != '_') or '—'} |"
        for room in found
    ]
    return "\n".join(["| floor | room | what it is | imports |", "|---|---|---|---|", *rows])


def flow_picture(found: list[Room]) -> str:
    """The rooms as an SVG, a row a floor; of the arrows those that no other way down implies."""
    width, row, box_width, box_height = 900, 62, 104, 34
    by_name = {room.name: room for room in found}
    below = {room.name: _all_below(room.name, by_name) for room in found}
    centre = {}
    for floor in {room.floor for room in found}:
        on_floor = [room.name for room in found if room.floor == floor]
        for place, name in enumerate(on_floor):
            y = (max(room.floor for room in found) - floor) * row + box_height
            centre[name] = (width * (place + 1) / (len(on_floor) + 1), y)
    shapes = []
    for room in found:
        for name in room.imports:
            if any(name in below[other] for other in room.imports if other != name):
                continue
            (x, y), (to_x, to_y) = centre[room.name], centre[name]
            shapes.append(
                f'<line x1="{x:.0f}" y1="{y + box_height / 2:.0f}" x2="{to_x:.0f}" y2="{to_y - box_height / 2:.0f}" '
                'stroke="#8a8f98"/>'
            )
    for name, (x, y) in centre.items():
        shapes.append(
            f'<rect x="{x - box_width / 2:.0f}" y="{y - box_height / 2:.0f}" width="{box_width}" '
            f'height="{box_height}" rx="6" fill="#eef3fb" stroke="#3b6ea5"/>'
            f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle">{name}</text>'
        )
    height = max(y for _, y in centre.values()) + box_height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" font-family="sans-serif" '
        'font-size="14"><rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(shapes) + "\n</svg>\n"
    )


def _all_below(name: str, by_name: Mapping[str, Room]) -> set[str]:
    return {name}.union(*(_all_below(other, by_name) for other in by_name[name].imports))


def measures(root: Path) -> dict[str, str]:
    """The measured value of every line of the table."""
    files = {path: path.read_text(encoding="utf-8") for path in sorted((root / "harness").rglob("*.py"))}
    scripts = {
        path: path.read_text(encoding="utf-8")
        for path in (root / "harness").rglob("*.js")
        if "vendor" not in path.parts
    }
    found = rooms(root)
    lengths = {path: text.count("\n") for path, text in files.items()}
    functions = [
        node for text in files.values() for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)
    ]
    parameters = [
        sum(
            argument.arg not in ("self", "cls")
            for argument in node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        )
        for node in functions
    ]
    sizes = [int(node.end_lineno or 0) - node.lineno + 1 for node in functions]
    reporting, pruning = _lines_of(lengths, root, "reporting", "tracking"), _lines_of(lengths, root, *_COMPUTING)
    reporting += sum(text.count("\n") for text in scripts.values())
    drawn = {kind: _drawing_lines(texts) for kind, texts in (("Python", files), ("JavaScript", scripts))}
    return {
        "lines of Python": f"{sum(lengths.values()):,}",
        "of them neither blank, comment nor docstring": f"{sum(map(_lines_of_code, files.values())):,}",
        "lines of JavaScript (not vendored)": f"{sum(text.count(chr(10)) for text in scripts.values()):,}",
        "modules": str(len(files)),
        "modules at the door": str(sum(path.parent.name == "harness" and path.name[0] != "_" for path in files)),
        "rooms": str(len(found)),
        "floors": str(max(room.floor for room in found)),
        "arrows between rooms": str(sum(len(room.imports) for room in found)),
        "rooms in cycles": str(sum(room.floor < 0 for room in found)),
        "modules of 250 lines and more": str(sum(length >= 250 for length in lengths.values())),
        "median lines a module": f"{statistics.median(lengths.values()):g}",
        "functions": str(len(functions)),
        "functions over 60 lines": str(sum(size > 60 for size in sizes)),
        "functions with more than 6 parameters": str(sum(number > 6 for number in parameters)),
        "runs of 6 equal lines": str(_equal_runs(files.values())),
        "loops over blocks": str(sum(map(_loops_over_blocks, map(ast.parse, files.values())))),
        "registries of an axis": str(sum(_fills_a_table(text) for text in files.values())),
        "McNemar tests written": str(
            sum(
                "mcnemar(" in text.lower() and _defines(text, "mcnemar")
                for text in (*files.values(), *scripts.values())
            )
        ),
        "lines that draw figures (Python, JavaScript)": f"{drawn['Python']}, {drawn['JavaScript']}",
        "reporting and tracking : pruning and models (lines)": f"{reporting:,} : {pruning:,} = {reporting / pruning:.2f}",
    }


_COMPUTING = ("pruning", "calibration", "models", "recovery", "blocks", "surgery")


def _room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def _floor(name: str, below: Mapping[str, set[str]], above: tuple[str, ...] = ()) -> int:
    if name in above:
        return -1_000
    return 1 + max((_floor(other, below, (*above, name)) for other in below.get(name, ())), default=0)


def _about(root: Path, name: str) -> str:
    path = root / "harness" / f"{name}.py"
    text = (path if path.exists() else root / "harness" / name / "__init__.py").read_text(encoding="utf-8")
    first = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0].replace("\n", " ")
    return first.partition(". ")[0].rstrip(".").replace("|", "\\|")


def _lines_of(lengths: Mapping[Path, int], root: Path, *names: str) -> int:
    return sum(length for path, length in lengths.items() if path.relative_to(root / "harness").parts[0] in names)


def _drawing_lines(texts: Mapping[Path, str]) -> int:
    """Lines of modules in folders of figures, and of scripts that call a plotting library."""
    folders = {"plots", "figures"}
    return sum(
        text.count("\n")
        for path, text in texts.items()
        if folders & set(path.parts) or path.stem in folders or (path.suffix == ".js" and "Plotly" in text)
    )


def _equal_runs(texts: Iterator[str] | object) -> int:
    """Runs of six equal lines of code (no imports, comments, blank lines, lone brackets) that stand at two places."""
    places: Counter[tuple[str, ...]] = Counter()
    assert not isinstance(texts, str)
    for text in texts:  # type: ignore[attr-defined]
        lines = [line.strip() for line in text.splitlines()]
        lines = [line for line in lines if len(line) > 3 and not line.startswith(("#", "import ", "from ", '"""'))]
        places.update({tuple(lines[start : start + EQUAL_RUN]) for start in range(len(lines) - EQUAL_RUN + 1)})
    return sum(number > 1 for number in places.values())


def _lines_of_code(text: str) -> int:
    """Lines that are neither blank, nor a comment, nor part of a string that stands alone."""
    said = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, int(node.end_lineno or 0) + 1)
    }
    lines = enumerate(text.splitlines(), 1)
    return sum(number not in said and bool(line.strip()) and line.lstrip()[0] != "#" for number, line in lines)


def _loops_over_blocks(tree: ast.Module) -> int:
    """For loops whose body takes blocks from memory or disk one after the other (`with ... .block(index, ...)`)."""
    return sum(
        isinstance(node, ast.For)
        and any(
            isinstance(item.context_expr, ast.Call)
            and isinstance(item.context_expr.func, ast.Attribute)
            and item.context_expr.func.attr == "block"
            for inner in ast.walk(node)
            if isinstance(inner, ast.With)
            for item in inner.items
        )
        for node in ast.walk(tree)
    )


def _fills_a_table(text: str) -> int:
    """Functions that put an entry under a name into a table of an axis."""
    return text.count("def register") + text.count("def _add(table")


def _defines(text: str, name: str) -> bool:
    return f"def {name}" in text.lower() or f"function {name}" in text.lower()


@contextlib.contextmanager
def _checkout(revision: str) -> Iterator[Path]:
    """A revision's files in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(
            ["git", "archive", revision, "harness"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def _measured_elsewhere(root: Path) -> dict[str, str]:
    """`measures` in a process of its own: the import graph of a package is that of the first one imported."""
    code = f"import json, pathlib; from benchmarks.house import measures; print(json.dumps(measures(pathlib.Path({str(root)!r}))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    values: dict[str, str] = json.loads(done.stdout)
    return values


def main(arguments: list[str]) -> None:
    """Print both columns; with --page write the table of rooms."""
    parser = argparse.ArgumentParser(prog="benchmarks house")
    parser.add_argument("--against", default=FIRST, metavar="REVISION")
    parser.add_argument("--page", type=Path)
    options = parser.parse_args(arguments)
    with _checkout(options.against) as folder:
        first = _measured_elsewhere(folder)
    now = _measured_elsewhere(ROOT)
    width = max(map(len, now))
    print(f"{'measure':{width}}  {options.against:>24}  {'now':>24}  target")
    for name, value in now.items():
        print(f"{name:{width}}  {first.get(name, '—'):>24}  {value:>24}  {TARGETS.get(name, '')}")
    if options.page:
        before, mark, _ = options.page.read_text(encoding="utf-8").partition(MARK)
        assert mark, f"{options.page} has no line {MARK}"
        options.page.write_text(f"{before}{MARK}\n\n{rooms_table(rooms())}\n", encoding="utf-8")
        options.page.with_suffix(".svg").write_text(flow_picture(rooms()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
