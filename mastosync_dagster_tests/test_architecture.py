"""Imports point one way, and loading the definitions touches nothing outside the process."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest
from dagster_aws.s3 import S3Resource

import mastosync_dagster
from mastosync_dagster.resources import S3Bucket

PACKAGE = Path(mastosync_dagster.__file__).parent
NAME = "mastosync_dagster"


def imports(file: Path) -> set[str]:
    """Return the modules that a file imports anywhere, those for type checkers included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def modules() -> dict[str, Path]:
    """Return all modules of the package by their names."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        found[".".join((NAME, *(part for part in parts if part != "__init__")))] = file
    return found


MODULES = modules()


def room(module: str) -> str:
    """Return the folder of a module, or its own name where it lies in the package's root."""
    return module.split(".")[1] if "." in module else ""


def layers() -> dict[str, int]:
    """Return the layer of each folder: the table in docs/architecture.md."""
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([^|]*) \|$", text, re.MULTILINE)
    return {name: int(layer) for layer, names in rows for name in re.findall(r"`(\w+)`", names)}


LAYERS = layers()


def test_the_table_of_contents_names_modules_that_there_are() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    contents = text.partition("    mastosync_dagster/\n")[2].partition("\nA module imports")[0]
    entries = re.split(r"^      (?=\S)", contents, flags=re.MULTILINE)[1:]
    # A name with a folder before it is another room's.
    named = {
        f"{folder}{name}"
        for entry in entries
        for folder in re.findall(r"^\w+/", entry) or [""]
        for name in re.findall(r"(?<![\w./])\w+\.py\b", entry)
    }
    assert {name for name in named if not (PACKAGE / name).is_file()} == set()
    assert len(named) > 100


def test_every_room_has_a_layer() -> None:
    assert {room(module) for module in MODULES} - {""} == LAYERS.keys()


@pytest.mark.parametrize("module", [module for module in MODULES if room(module)])
def test_a_module_imports_from_its_own_room_and_from_lower_layers(module: str) -> None:
    ours = {name for name in imports(MODULES[module]) if name.startswith(f"{NAME}.")}
    rooms = {room(name) for name in ours if name in MODULES or name.rpartition(".")[0] in MODULES}
    assert {other: LAYERS[other] for other in rooms - {room(module)} if LAYERS[other] >= LAYERS[room(module)]} == {}


PROTOCOL = ("dagster", "dagster_aws", "psycopg2", "boto3")
FORBIDDEN = {
    "mastodon": ("dagster", "dagster_aws", "boto3", "botocore", "pycurl", "pyarrow"),
    "s3": (*PROTOCOL, "pyarrow"),
    "records": PROTOCOL,
    "plan": PROTOCOL,
    "copy": (*PROTOCOL, "botocore"),
    "resources": ("pyarrow",),
    "expected": ("dagster", "dagster_aws", "boto3", "pycurl"),
    "refetch": ("dagster", "dagster_aws", "boto3", "pycurl"),
}


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) in FORBIDDEN])
def test_a_room_knows_no_library_that_is_another_rooms(module: str) -> None:
    assert {name for name in imports(MODULES[module]) if within(name, *FORBIDDEN[room(module)])} == set()


def test_no_function_is_longer_than_sixty_lines() -> None:
    functions = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, file in MODULES.items()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in functions.items() if lines > 60} == {}


def test_no_folder_has_too_many_modules() -> None:
    folders = Counter(file.parent for file in MODULES.values() if file.name != "__init__.py")
    assert folders[PACKAGE] <= 12
    assert {folder.name: count for folder, count in folders.items() if count > 16} == {}


# Words that the code had of its own, and the common ones: docs/architecture.md defines the others.
OLD_WORDS = {
    r"moments?": "timestamp, time",
    r"told": "message, summary, result",
    r"turned|TO_TURN": "ACL changed, privacy changed",
    r"sides?(?!=)": "storage, source and destination",
    r"closer look|sight": "check, comparison",
    r"held against": "compared with",
    r"patiently|persistence": "retry",
    r"figures|tally": "stats, counts, numbers",
    r"unwanted|strangers?": "orphan; another server",
    r"undisturbed": "shield.run_shielded",
    r"stay_small": "process.limit_malloc_arenas",
    r"PLAIN_ERRORS": "AdminError",
    r"keep_access|as_source|take_private|wants_private": "acls_from_source, copy_private",
    r"place_of": "destination_id",
    r"HaltedError|PoolStoppedError|LookupStoppedError": "CancelledError",
}
OLD_CLASSES = {"About", "Share", "Claim", "Asked", "Item", "Marks", "Seen", "Look", "Side", "Sides"}
"""`ManifestOrigin`, `TableSelection`, `WatermarkClaim`, `PendingLookup`, `ExpectedObject`, `KnownState`; storages."""
# Quoted, a word may be somebody else's: the label of a metric.
OLD_WORD = re.compile(rf"""(?<![\w"'`-])({"|".join(OLD_WORDS)})(?![\w"'`-])""")
TREE = PACKAGE.parent
TEXTS = [
    file
    for folder in (PACKAGE, TREE / "mastosync_dagster_tests", TREE / "benchmarks", TREE / "scripts", TREE / "docs")
    for file in sorted(folder.rglob("*"))
    if file.suffix in {".py", ".md"} and file != Path(__file__)
]


@pytest.mark.parametrize("folder", sorted({file.relative_to(TREE).parts[0] for file in TEXTS}))
def test_code_tests_and_docs_use_the_words_of_the_field(folder: str) -> None:
    texts = {file: file.read_text() for file in TEXTS if file.relative_to(TREE).parts[0] == folder}
    assert texts
    lines = {
        f"{file.relative_to(TREE)}:{text.count(chr(10), 0, match.start()) + 1}": match[0]
        for file, text in texts.items()
        for match in OLD_WORD.finditer(text)
    }
    assert lines == {}
    classes = {
        node.name
        for file, text in texts.items()
        if file.suffix == ".py"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
    }
    assert classes & OLD_CLASSES == set()


def test_connections_and_schema_are_handed_down_as_one_database() -> None:
    handed = {module for module in MODULES if f"{NAME}.mastodon.Schema" in imports(MODULES[module])}
    pairs = {
        f"{module}.{node.name}"
        for module, file in MODULES.items()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
        and {"connect", "schema"} <= {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
    }
    assert (handed, pairs) == (set(), set())


def test_no_test_module_imports_another() -> None:
    tests = Path(__file__).parent
    found = {file.name: {name for name in imports(file) if ".test_" in name} for file in tests.rglob("*.py")}
    assert {name: others for name, others in found.items() if others} == {}


def test_the_packages_that_the_project_is_built_on_stay() -> None:
    wanted = {"dagster", "dagster-webserver", "dagster-aws", "dagster-postgres", "sshtunnel", "psycopg2-binary"}
    (listed,) = re.findall(
        r"^dependencies = \[(.*?)^\]", (PACKAGE.parent / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL
    )
    assert wanted <= set(re.findall(r'^ *"([a-z0-9-]+)', listed, re.MULTILINE))
    assert issubclass(S3Bucket, S3Resource)


def test_other_peoples_scripts_find_what_they_import() -> None:
    assert callable(import_module(f"{NAME}.mastodon").stored_objects)
    assert callable(import_module(f"{NAME}.definitions").build_definitions)
    assert callable(import_module(f"{NAME}.alerts").failure_message)
    assert callable(import_module(f"{NAME}.launcher").WatchfulRunLauncher)
    assert callable(import_module(f"{NAME}.records.findings").read_findings)
    assert callable(import_module(f"{NAME}.cli.main").main)


_LOAD_AND_WATCH = """
import sys
import boto3, dagster, dagster_aws.s3, pycurl, certifi, paramiko, psycopg2, pyarrow.parquet, rich.progress  # not ours
touched = []
def watch(event, arguments):
    if event.startswith("socket.") or (event == "open" and not str(arguments[0]).endswith((".py", ".pyc", ".so"))):
        touched.append((event, str(arguments[0])))
sys.addaudithook(watch)
from mastosync_dagster.definitions import defs
assert defs.resolve_all_job_defs()
print(touched)
"""


@pytest.mark.long
def test_loading_the_definitions_needs_no_environment_no_files_and_no_network(tmp_path: Path) -> None:
    outcome = subprocess.run(
        [sys.executable, "-B", "-c", _LOAD_AND_WATCH], capture_output=True, text=True, check=False, cwd=tmp_path, env={}
    )
    assert (outcome.stdout.strip(), outcome.returncode) == ("[]", 0), outcome.stderr


_LOAD_AND_COUNT = """
import gc
import mastosync_dagster
before = gc.get_freeze_count()
mastosync_dagster.defs
once = gc.get_freeze_count()
mastosync_dagster.defs
print(before, once > 100_000, gc.get_freeze_count() - once, gc.isenabled())
"""


def test_the_garbage_collector_overlooks_what_definitions_consist_of_and_nothing_that_comes_later() -> None:
    output = subprocess.run([sys.executable, "-c", _LOAD_AND_COUNT], capture_output=True, text=True, check=True)
    assert output.stdout.split() == ["0", "True", "0", "True"]


def test_dagster_validates_the_definitions(tmp_path: Path) -> None:
    outcome = subprocess.run(
        [str(Path(sys.executable).with_name("dagster")), "definitions", "validate", "-m", NAME],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=tmp_path,
        # Dagster itself sets it in the process of an instance that is thrown away.
        env={name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"},
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "validation successful" in (outcome.stderr + outcome.stdout).lower()


def test_the_names_that_other_peoples_scripts_use_stay() -> None:
    defs = mastosync_dagster.defs
    names = ["media_attachments", "accounts", "custom_emojis", "preview_cards", "site_uploads", "backups"]
    assets = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert assets == {"replica", *names, *(f"{name}_verification" for name in names)}
    jobs = sorted(job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__"))
    assert jobs == sorted(
        [
            *("sync_changes", "prune_every_range", "delete_old_runs"),
            *(f"{what}_{name}" for what in ("sync", "verify", "prune") for name in names),
        ]
    )
    for name in names:
        partitions = defs.resolve_assets_def(name).partitions_def
        assert getattr(partitions, "name", None) == f"{name}_ids"
    assert {"mastodon_db", "source", "destination"} <= set(defs.resources or {})


EXCEPTION = re.compile(r"#\s*(?:noqa(?::[^#(]*)?|type: ignore(?:\[[^\]]*\])?|pragma: no cover)\s*(.*)$", re.MULTILINE)


def test_every_exception_to_a_rule_has_its_reason_beside_it() -> None:
    texts = {file.relative_to(TREE): file.read_text() for file in TEXTS if file.suffix == ".py"}
    found = {
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}"
        for name, text in texts.items()
        for match in EXCEPTION.finditer(text)
        if not re.search("[a-z]{2}", match[1])
    }
    assert found == set()
