"""The folder is the registry, and a plugin is one file."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dgbench import registry, sweep
from dgbench.build import check
from dgbench.errors import UsageError, exit_on_usage_error
from dgbench.spec import RunSpec
from dgbench.train import run

PLUGIN = '''
"""Sharp: a plugin."""
from torch.nn.functional import cross_entropy
from dgbench.algorithm import Algorithm


class {name}(Algorithm):
    hparams = {{"temperature": (2.0, None)}}

    def loss(self, batch):
        return cross_entropy(self(batch.x) * self.hp["temperature"], batch.y), {{}}
'''


@pytest.mark.parametrize("folder", ["algorithms", "datasets"])
def test_every_file_is_an_entry(folder: str) -> None:
    files = {path.stem for path in (registry.PACKAGE / folder).glob("[!_]*.py")}
    assert files == {name.lower() for name in registry.names(folder)}
    for name in registry.names(folder):
        assert registry.find(folder, name.lower()).__name__ == name


def test_unknown_name_lists_the_choices() -> None:
    with pytest.raises(UsageError, match=r"unknown algorithm 'EMR'; did you mean ERM\? choose from: .*ERM"):
        registry.find("algorithms", "EMR")


def test_a_plugin_file_adds_a_method(tmp_path: Path) -> None:
    """One file, no shared line: the method trains by its name."""
    path = tmp_path / "sharp.py"
    path.write_text(PLUGIN.format(name="Sharp"))
    registry.load_plugin(path)
    assert "Sharp" in registry.names("algorithms")
    record = run(RunSpec("RotatedDigits", "sharp", test_envs=("0",), steps=2), tmp_path / "run")
    assert record["hparams"]["temperature"] == 2.0


def test_a_plugin_must_not_hide_a_method(tmp_path: Path) -> None:
    path = tmp_path / "other.py"
    path.write_text(PLUGIN.format(name="ERM"))
    with pytest.raises(UsageError, match="redefines"):
        registry.load_plugin(path)


def test_two_plugins_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sharp.py").write_text(PLUGIN.format(name="Sharp"))
    first = registry.load_plugin(tmp_path / "a" / "sharp.py")
    assert registry.load_plugin(tmp_path / "a" / "sharp.py") == first, "again, as each run does"
    with pytest.raises(UsageError, match=r"a/sharp\.py and .*b/sharp\.py both define Sharp"):
        registry.load_plugin(tmp_path / "b" / "sharp.py")


def test_a_record_tells_the_plugin_that_made_it(tmp_path: Path) -> None:
    path, spec = tmp_path / "sharp.py", RunSpec("RotatedDigits", "sharp", test_envs=("0",), steps=1)
    codes = []
    for number, text in enumerate((PLUGIN, PLUGIN, PLUGIN + "# changed\n")):
        path.write_text(text.format(name="Sharp"))
        registry._loaded.clear()  # as in another process
        registry.load_plugin(path)
        codes.append(run(spec, tmp_path / f"run{number}")["code"])
    plain = run(replace(spec, algorithm="ERM"), tmp_path / "plain")["code"]
    assert codes[0] == codes[1] != codes[2]
    assert all(code.startswith(f"{plain}+sharp.py-") for code in codes)


def test_a_plugin_without_a_method(tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    path.write_text("x = 1\n")
    with pytest.raises(UsageError, match="defines no subclass"):
        registry.load_plugin(path)
    with pytest.raises(UsageError, match="no plugin file"):
        registry.load_plugin(tmp_path / "missing.py")
    with pytest.raises(UsageError, match="no plugin file"):
        registry.load_plugin(path.rename(tmp_path / "empty.txt"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            'needs = ("unlabelled",)',
            "Picky0 needs unlabelled images, which domain_generalization does not give",
        ),
        (
            'tasks = ("single_source",)',
            "does not run under domain_generalization; choose from: single_source",
        ),
        ("min_domains = 9", "needs at least 9 source domains, 5 are left"),
    ],
)
def test_a_task_that_cannot_give_what_a_method_needs(tmp_path: Path, line: str, message: str) -> None:
    number = ("needs", "tasks", "min_d").index(line[:5])
    path = tmp_path / f"picky{number}.py"
    path.write_text(PLUGIN.format(name=f"Picky{number}") + f"\n    {line}\n")
    registry.load_plugin(path)
    with pytest.raises(UsageError, match=message):
        run(RunSpec("RotatedDigits", f"Picky{number}", test_envs=("0",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_tasks_named_are_those_of_the_method() -> None:
    """Retrieval gives unlabelled images too, but FixMatch does not run under it."""
    with pytest.raises(UsageError) as told:
        check(RunSpec("RotatedDigits", "FixMatch", test_envs=("0",)))
    choices = str(told.value).partition("choose from: ")[2].split(", ")
    assert set(choices) == set(registry.find("algorithms", "FixMatch").tasks)  # type: ignore[attr-defined]


WRONG_FILES = {
    "x = 1\ndef f(:\n": (2, "SyntaxError"),
    "import dgbench\nimport no_such_module_of_mine\n": (2, "ModuleNotFoundError: No module named 'no_such"),
    "def f():\n    return 1 / 0\n\n\nf()\n": (2, "ZeroDivisionError: division by zero"),
    "import json\n\njson.loads('?')\n": (3, "JSONDecodeError"),  # raised elsewhere: the line that called
    "open('no_such_file')\n": (1, "FileNotFoundError"),
}
COMMANDS = {
    "train": ["--dataset", "PACS", "--algorithm", "ERM", "--output_dir", "run", "--plugin", "wrong.py"],
    "check": ["wrong.py"],
    "sweep": ["launch", "wrong.py", "--output_dir", "run", "--dry_run"],
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("text", WRONG_FILES)
def test_a_file_with_an_error_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "wrong.py"
    path.write_text(text)
    line, message = WRONG_FILES[text]
    command = importlib.import_module(f"dgbench.{name}")
    known = set(sys.modules)
    with pytest.raises(SystemExit) as end:
        exit_on_usage_error(lambda: command.main(COMMANDS[name]))
    told = capsys.readouterr().err
    assert end.value.code == 2 and told.count("\n") == 1
    assert f"wrong.py:{line}: {message}" in told
    assert not [each for each in set(sys.modules) - known if "wrong" in each]
    assert not (tmp_path / "run").exists()


def test_a_sweep_file_without_runs(tmp_path: Path) -> None:
    path = tmp_path / "idle.py"
    path.write_text("TABLE = ()\n")
    with pytest.raises(UsageError, match=r"idle.py' defines no function runs\(data_dir\)"):
        sweep.load_file(str(path))
