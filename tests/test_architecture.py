import ast
from pathlib import Path

from tests.conftest import REPOSITORY

# Rooms from the bottom up: a room may import from the levels below its own. Within a folder, which
# is one room, modules import each other as they need.
LEVELS = [
    [
        *("archive", "augment", "errors", "seeding", "model", "fused", "hyperband", "metrics"),
        *("published", "quiet", "schedule", "typed"),
    ],
    ["board", "config", "photo"],
    ["data", "device", "interrupt", "pruning", "results", "space"],
    ["curves", "findings", "provenance", "shipped", "step", "studies"],
    ["analysis", "inference", "stores"],
    ["figures", "importance", "task"],
    ["checkpoint", "mistakes", "page", "recorder", "resume"],
    ["fit"],
    ["worker"],
    ["workers", "cluster"],
    ["slots"],
    ["search", "finals", "search_run"],
    ["cli", "display", "publish"],
    ["stage"],
    ["tune", "finalists", "train", "evaluate", "predict", "report", "export", "demo"],
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def imports(path: Path) -> set[str]:
    """Return what a module imports, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules() -> dict[Path, str]:
    """Return every module under src/ with the room it is in."""
    root = REPOSITORY / "src"
    return {
        path: path.relative_to(root).parts[0].removesuffix(".py")
        for path in root.rglob("*.py")
        if path != root / "__init__.py"
    }


def test_every_room_has_a_level() -> None:
    assert set(modules().values()) == set(LEVEL)


def test_imports_go_one_way() -> None:
    for path, room in modules().items():
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "src" and parts[1] != room:
                assert LEVEL[parts[1]] < LEVEL[room], f"{path.name} imports {name}"


def test_what_draws_and_counts_needs_no_torch_and_no_optuna() -> None:
    rooms = {"analysis", "figures", "findings", "hyperband", "metrics", "photo", "results"}
    checked = set()
    for path, room in modules().items():
        if room in rooms:
            checked.add(room)
            for name in imports(path):
                assert name.split(".")[0] not in {"torch", "lightning", "optuna"}
    assert checked == rooms


def test_contributing_shows_the_same_levels() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    for level, rooms in enumerate(LEVELS):
        assert f"| {level} | {', '.join(f'`{room}`' for room in rooms)} |" in text
