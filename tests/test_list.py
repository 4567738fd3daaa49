"""What there is, as users see it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dgbench import collect_results, registry
from dgbench import list as listing
from dgbench.errors import UsageError

README = Path(__file__).parent.parent / "README.md"


def test_the_readme_holds_the_table_of_methods() -> None:
    held = re.search(r"<!-- methods: .*? -->\n(.*?)\n<!-- /methods -->", README.read_text(), re.DOTALL)
    assert held is not None and held[1] == listing.method_table(), "run: python -m dgbench.list --markdown"


def test_a_method_is_linked_to_its_own_paper_alone() -> None:
    rows = {row.split("`")[1]: row for row in listing.method_table().splitlines() if "`" in row}
    assert "arxiv.org/abs/2106.07916" in rows["RCL"]
    assert "arxiv.org" not in rows["SCALE"]  # no id of its own; its docstring cites SePiCo's


def test_the_readme_shows_the_table_that_its_records_give(capsys: pytest.CaptureFixture[str]) -> None:
    folder = README.parent / "results" / "rotated_digits"
    assert collect_results.main(["--input_dir", str(folder), "--format", "markdown"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    held = re.search(
        r"<!-- results/rotated_digits/table.md -->\n(.*?)\n<!-- /table -->", README.read_text(), re.DOTALL
    )
    assert held is not None and held[1] == "\n".join(rows)


def test_everything_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert listing.main([]) == 0
    text = capsys.readouterr().out
    for name in [*registry.names("algorithms"), *registry.names("datasets"), "single_source", "pcl_pacs"]:
        assert re.search(rf"^  {re.escape(name)} ", text, re.MULTILINE), name


def test_an_entry_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert listing.main(["algorithms", "pcl"]) == 0
    text = capsys.readouterr().out
    assert "Objective as coded" in text and "pcl_weight = 1.0    10^U(-1, 1)" in text and "(shared)" in text
    assert listing.main(["datasets", "pacs"]) == 0
    assert "art_painting" in capsys.readouterr().out
    with pytest.raises(UsageError, match="did you mean PCL"):
        listing.main(["algorithms", "PCLL"])
    with pytest.raises(UsageError, match="choose from: algorithms, datasets, tasks, sweeps"):
        listing.main(["models"])


def test_listing_imports_no_torch() -> None:
    code = "import sys; from dgbench import list; list.main(['algorithms']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
