"""The README's own code."""

import re
from pathlib import Path

import pytest
from test_contract import test_docstring_says_what_is_coded as docstring_is_whole

from dgbench import contract, registry

TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SHARP, MINE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_method_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sharp.py"
    path.write_text(SHARP.replace("from ..", "from dgbench."))
    (sharp,) = registry.load_plugin(path)
    for promise in contract.PROMISES.values():
        promise(sharp)
    monkeypatch.setattr(registry, "source", lambda folder, name: path)
    docstring_is_whole("Sharp")


def test_the_class_of_domainbeds_form_keeps_the_contract(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    (mine,) = registry.load_plugin(f"{path}:Mine")
    reasons = {name: promise(mine) for name, promise in contract.PROMISES.items()}
    apart = {name for name, reason in reasons.items() if reason == mine.quirks["device"]}
    assert apart == {"knows_tensors_only", "keeps_to_its_device"}
