"""What the code never calls: readers that run code, shells, tars unpacked to a disk."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("integration/**/*.py")])

NEVER = frozenset({
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads",
    "shelve.open", "joblib.load", "dill.load", "dill.loads", "pandas.read_pickle", "pd.read_pickle",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.jit.load", "torch.hub.load",
    "eval", "exec", "os.system", "os.popen", "tempfile.mktemp", "shutil.unpack_archive",
    "tar.extract", "tar.extractall", "tarfile.extractall", "zipfile.extractall",
})  # fmt: skip
"""Calls that stand nowhere, as they are written with the usual names of modules."""

ALWAYS = {
    "torch.load": {"weights_only": True},
    "load_state_dict": {"weights_only": True},  # timm's; a model's method takes no such thing
    "AutoConfig.from_pretrained": {"trust_remote_code": False},
    "transformers.AutoConfig.from_pretrained": {"trust_remote_code": False},
}
"""Arguments that a call always has."""


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, with what it is written as."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def constants(call: ast.Call) -> dict[str, object]:
    """Named arguments that are plain values."""
    return {
        word.arg: word.value.value
        for word in call.keywords
        if word.arg is not None and isinstance(word.value, ast.Constant)
    }


def faults(path: Path, name: str) -> Iterator[str]:
    """What is wrong with a file; `name` is its path in the repository."""
    for said, call in calls(path):
        given = constants(call)
        if said in NEVER:
            yield f"{name}:{call.lineno}: {said}"
        for argument, value in ALWAYS.get(said, {}).items():
            if given.get(argument) is not value:
                yield f"{name}:{call.lineno}: {said} without {argument}={value}"
        if given.get("allow_pickle") is True or given.get("shell") is True:
            yield f"{name}:{call.lineno}: {said} with allow_pickle or shell"
        is_checked = any(word.arg == "formats" for word in call.keywords)
        if said == "Image.open" and not is_checked:
            yield f"{name}:{call.lineno}: Image.open without formats"


def test_no_reader_runs_code() -> None:
    assert len(SOURCES) > 300
    found = [fault for path in SOURCES for fault in faults(path, path.relative_to(ROOT).as_posix())]
    assert found == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("torch.load(path)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=False)", "torch.load without weights_only=True"),
        ("np.load(path, allow_pickle=True)", "np.load with allow_pickle or shell"),
        ("pickle.loads(data)", "pickle.loads"),
        ("subprocess.run('ls', shell=True)", "subprocess.run with allow_pickle or shell"),
        ("Image.open(path)", "Image.open without formats"),
        ("torch.load(path, weights_only=True)", None),
        ("Image.open(path, formats=FORMATS)", None),
        ("model.eval()", None),
    ],
)
def test_a_fault_is_seen(line: str, fault: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(line)
    assert list(faults(path, "a.py")) == ([f"a.py:1: {fault}"] if fault else [])
