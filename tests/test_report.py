import base64
import csv
import html.parser
import json
import re
import subprocess
import sys

import pytest
from literal_runs import constant, plan, record, spec, write, write_simple

from dgbench.collect import load, rules, tables
from dgbench.collect.formats import Cell, Row
from dgbench.collect.stats import Ranks
from dgbench.errors import UsageError
from dgbench.report import __main__ as report
from dgbench.report import drawings, figures, page
from dgbench.report import tables as report_tables
from dgbench.report.runs import command
from dgbench.spec import RunSpec

pytest.importorskip("matplotlib")
TARGETS = ("art", "cartoon", "sketch")


def write_sweep(folder, methods=("ERM", "PCL"), trials=2, draws=1, averaging=("swad",)):
    """A sweep with curves, cost, data and draws, all from literal numbers."""
    runs = [
        spec(method, target, trial_seed=trial, hparams_seed=draw, averaging=averaging)
        for method in methods
        for target in TARGETS
        for trial in range(trials)
        for draw in range(draws)
    ]
    plan(folder, runs)
    for run in runs:
        base = 0.5 + 0.1 * TARGETS.index(run.test_envs[0]) + 0.02 * methods.index(run.algorithm)
        more = {
            "hparams": {"lr": 10.0 ** -(1 + run.hparams_seed), "batch_size": 32},
            "seconds": {"train": 60.0, "evaluate": 1.0},
            "memory_gb": 1.5,
            "code": "0.1.0+abc",
        }
        content = {name: {"images": 100, "hash": name * 8} for name in TARGETS}
        lines = [
            record(
                run,
                step,
                constant(run, base + step / 9000 - run.hparams_seed / 50, base + step / 8000),
                "raw",
                content,
            )
            | more
            for step in (0, 300, 600)
        ]
        lines += [
            record(run, 600, constant(run, base, base + 0.1), kind, content) | more for kind in averaging
        ]
        write(folder, run, lines)
    return runs


def write_page(folder, output, *flags):
    report.main(["--input_dir", *map(str, folder), "--output", str(output), *flags])
    return output.read_text()


class Checker(html.parser.HTMLParser):
    """Tags that are closed in order, and what a page must not have."""

    void = {"meta", "link", "img", "path", "use", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.external = [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in self.void:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        for name in ("src", "href"):
            value = attributes.get(name) or ""
            if value and not value.startswith(("#", "data:")):
                self.external.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open.pop() == tag


def check(text):
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert checker.external == []
    links = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert links <= set(checker.ids)


def test_the_page_is_whole_and_needs_nothing_else(tmp_path):
    write_sweep(tmp_path / "toy", draws=3)
    text = write_page([tmp_path / "toy"], tmp_path / "report.html", "--oracle")
    check(text)
    for told in (
        "ERM + SWAD",
        "Accuracy per domain.",
        "Learning curves.",
        "Accuracy against cost.",
        "Sensitivity to lr.",
        "test-domain validation set (oracle)",
        "All 36 runs are done",
        "artartartart",
        "python -m dgbench.train",
        "0.1.0+abc",
        "Protocol in words",
        "prefers-color-scheme: dark",
    ):
        assert told in text, told
    assert "Sensitivity to batch_size" not in text  # it does not vary
    assert "://" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)


def test_equal_records_equal_page(tmp_path):
    write_sweep(tmp_path / "toy")
    texts = [write_page([tmp_path / "toy"], tmp_path / f"{i}.html") for i in range(2)]
    assert texts[0] == texts[1]


def test_each_task_of_a_data_set_has_its_runs_and_commands(tmp_path):
    plan(tmp_path / "s", runs := [spec(), spec(task="semi_supervised")])
    for run in runs:
        write_simple(tmp_path / "s", run, 0.5)
    text = write_page([tmp_path / "s"], tmp_path / "page.html")
    assert text.count("Commands</h3>") == 1
    commands = text[text.index("Commands</h3>") :]
    assert commands.count("--test_envs sketch") == 2 and commands.count("--task semi_supervised") == 1


def test_missing_runs_have_a_sign_and_a_reason(tmp_path):
    runs = write_sweep(tmp_path / "toy")
    (tmp_path / "toy" / runs[0].run_id() / "done").unlink()
    (tmp_path / "toy" / runs[0].run_id() / "error.txt").write_text("RuntimeError: out of memory <now>\n")
    text = write_page([tmp_path / "toy"], tmp_path / "report.html")
    check(text)
    assert "● 11 done, ✕ 1 failed" in text
    assert "failed: RuntimeError: out of memory &lt;now&gt;" in text


def test_the_table_can_be_downloaded(tmp_path):
    write_sweep(tmp_path / "toy")
    text = write_page([tmp_path / "toy"], tmp_path / "report.html")
    links = re.findall(r'href="data:text/csv;charset=utf-8;base64,([^"]+)" download="([^"]+)"', text)
    files = {name: base64.b64decode(data).decode() for data, name in links}
    assert "Toy-training_domain_validation.csv" in files
    curves = next(text for name, text in files.items() if text.startswith("method,part,step,accuracy"))
    assert "ERM,test,300," in curves
    commands = files["commands.csv"]
    assert commands.count("python -m dgbench.train") == 12


def test_pictures_of_the_runs_are_in_the_page(tmp_path):
    run = spec()
    folder = write_simple(tmp_path / "toy", run, 0.5)
    pixel = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    (folder / "tsne.png").write_bytes(pixel)
    (tmp_path / "toy" / "samples.png").write_bytes(pixel)
    (folder / "huge.png").write_bytes(b"0" * 500_000)
    text = write_page([tmp_path / "toy"], tmp_path / "report.html")
    check(text)
    assert text.count("data:image/png;base64,") == 2
    assert f"{run.run_id()}: tsne.png" in text
    assert "Too large for this page" in text


def test_sample_pictures_of_data_that_is_there(tmp_path):
    from dgbench.report.samples import of_dataset

    strips = of_dataset("RotatedDigits", ["0", "75"], None)
    assert strips.count("data:image/png;base64,") == 2
    assert "75: the first image of 8 classes" in strips
    assert "No sample pictures of PACS: PACS needs --data_dir" in of_dataset("PACS", ["photo"], None)
    assert "No sample pictures of Toy: unknown dataset" in of_dataset("Toy", ["art"], None)


def test_sample_pictures_of_two_channels_and_of_files(real_data):
    from dgbench.report.samples import of_dataset

    assert of_dataset("ColoredDigits", ["+90%"], None).count("<img") == 1
    assert of_dataset("PACS", ["sketch"], real_data).count("<img") == 1


def test_a_folder_of_sweeps_and_ranks_across_them(tmp_path):
    write_sweep(tmp_path / "results" / "one")
    for method, test in (("ERM", 0.9), ("PCL", 0.8)):
        for target in TARGETS:
            run = spec(method, target)
            write_simple(tmp_path / "results" / "two", type(run)(**{**vars(run), "dataset": "Other"}), test)
    (tmp_path / "results" / "published").mkdir()
    text = write_page([tmp_path / "results"], tmp_path / "report.html")
    check(text)
    assert "Critical difference." in text
    assert '<section id="sweep-1">' in text


def test_averages_stand_for_each_rule_with_every_data_set(tmp_path):
    for name, test in (("Toy", 0.5), ("Other", 0.7)):
        for target in TARGETS:
            run = spec("ERM", target)
            write_simple(tmp_path / "toy", type(run)(**{**vars(run), "dataset": name}), test)
    text = write_page([tmp_path / "toy"], tmp_path / "report.html", "--oracle")
    heads = re.findall(r"<table.*?</thead>", text, re.DOTALL)
    over = [head for head in heads if "Averages" in head]
    assert len(over) == 2 and all("Other" in head and "Toy" in head and "Rank" not in head for head in over)
    assert "A rule reads only what the sources" not in text
    assert "A rule reads only what the sources" in write_page([tmp_path / "toy"], tmp_path / "report.html")


def test_a_small_p_sorts_as_the_smallest():
    shown = [report_tables._extra(text)[1] for text in ("< 0.001", "0.0076", "")]
    assert shown == [0.001, 0.0076, None]


def test_the_baseline_is_among_the_rows_of_a_figure():
    rows = [
        Row(name, [Cell(score)])
        for name, score in (*((f"m{i}", 0.5 + i / 100) for i in range(20)), ("ERM", 0.1))
    ]
    labels = [row.label for _, row in drawings._shown(rows)]
    assert labels[-1] == "ERM" and "m0" not in labels and "m19" in labels


def test_a_method_has_one_colour_in_every_figure(tmp_path, monkeypatch):
    methods = ("ERM", "SD", "IRM", "VREx", "MMD", "CORAL", "DANN", "CDANN", "RSC", "PCL")
    write_sweep(tmp_path / "toy", methods, trials=1)
    (table,) = tables.build(load.load(tmp_path / "toy"), rules.RULES["training_domain_validation"])
    places = {}
    for kind in ("bars", "points"):
        draw = getattr(figures, kind)

        def noted(first, second, *more, kind=kind, draw=draw, **options):
            drawn = second if kind == "bars" else first
            places[kind] = {each.label: each.place for each in drawn}
            return draw(first, second, *more, **options)

        monkeypatch.setattr(figures, kind, noted)
    drawings.of_table(table)
    assert len(places["bars"]) == figures.SERIES and len(places["points"]) == 2 * len(methods)
    assert places["bars"].items() <= places["points"].items()
    assert len(set(places["points"].values())) == 2 * len(methods)


def test_one_checkpoint_one_trial_is_enough(tmp_path):
    write_simple(tmp_path / "toy", spec(), 0.5)
    check(write_page([tmp_path / "toy"], tmp_path / "report.html"))


def test_nothing_done_yet_is_a_page_too(tmp_path):
    plan(tmp_path / "toy", [spec(target=target) for target in TARGETS])
    text = write_page([tmp_path / "toy"], tmp_path / "report.html")
    check(text)
    assert "○ 3 waiting" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input_dir", "missing"], "no sweep in 'missing'"),
        (["--input_dir", "toy", "--selection", "orcale"], "did you mean oracle"),
        (["--input_dir", "toy", "--output", "no/such/folder.html"], "cannot write"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, flags, message):
    write_simple(tmp_path / "toy", spec(), 0.5)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        report.main(flags)


@pytest.mark.parametrize(
    "given",
    [
        {"hparams": {"lr": 1e-4}, "averaging": ("ema", "swad"), "steps": 300},
        {"frozen": True, "compile": True, "freeze_bn": False, "precision": "bf16"},
    ],
)
def test_commands_train_the_same_run(given):
    run = RunSpec("PACS", "PCL", test_envs=("sketch",), **given)
    from dgbench import flags

    parser = flags.Parser()
    flags.add_spec_flags(parser)
    import shlex

    words = shlex.split(command(run).replace("\\\n", ""))[3:]
    assert RunSpec(**flags.spec_values(parser.parse_args(words))) == run


def write_retrieval(folder):
    run = RunSpec("RotatedDigits", "ID", "retrieval", ("0", "15"), steps=8, checkpoint_freq=8)
    line = record(run, 7, {}) | {
        "metrics": {f"{way}/P@{k}": 0.5 for way in ("0>15", "15>0") for k in (1, 5, 15)}
    }
    line["parts"] = {"validation": [], "test": ["0>15", "15>0"], "oracle": ["0>15", "15>0"]}
    line["seconds"] = {"train": 100.0, "evaluate": 20.0}
    plan(folder, [run])
    write(folder, run, [line])
    return run


def test_a_run_of_retrieval_costs_its_minutes(tmp_path):
    write_retrieval(tmp_path)
    for table in tables.build(load.load(tmp_path), rules.RULES["training_domain_validation"]):
        (cost,) = [it for it in drawings.of_table(table) if it.title.endswith("against cost.")]
        assert [point["minutes"] for point in cost.data] == [2.0]


def test_commands_of_retrieval_train_on_both_domains(tmp_path):
    run = write_retrieval(tmp_path / "s")
    text = write_page([tmp_path / "s"], tmp_path / "page.html")
    assert "--test_envs 0 15" in text and "--source_envs" not in text
    files = re.findall(r'href="data:text/csv;charset=utf-8;base64,([^"]+)" download="commands.csv"', text)
    assert files
    for file in files:
        (told,) = csv.DictReader(base64.b64decode(file).decode().splitlines())
        assert told["run"] == run.run_id() and told["command"].count("--test_envs 0 15 ") == 1


@pytest.mark.parametrize("options", ["--over hparams", "--over trials --greedy"])
def test_the_command_of_a_soup_makes_soups(options):
    name = "soup:" + options.replace("--over ", "over=").replace(" --", ",")
    made = command(RunSpec("PACS", "PCL", test_envs=("sketch",), averaging=(name,)))
    assert made == f"python -m dgbench.soup --input_dir SWEEP --output_dir SOUPS {options}"


def test_a_command_leaves_the_file_of_a_label_split_open():
    run = RunSpec("PACS", "FixMatch", test_envs=("sketch",), task="semi_supervised", label_split="abcdef01")
    assert "--label_split FILE" in command(run)


def test_text_is_escaped():
    assert page.escape("<b> & 1 +/- 2") == "&lt;b&gt; &amp; 1 ± 2"
    assert page.tag("p", "<", class_="x", title=None) == '<p class="x">&lt;</p>'


def test_figures_follow_the_pages_colours():
    svg = figures.critical_difference(Ranks({"A": 1.0, "B": 2.0}, 5, 1.5, 0.5))
    assert "var(--ink)" in svg
    assert "#0" not in re.sub(r'(href="|url\()#', "", svg)  # no placeholder is left
    assert "A 1.00" in svg
    assert "<metadata" not in svg and "<!--" not in svg


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    write_simple(tmp_path / "toy", spec(), 0.5)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'dgbench\[report\]'"):
        write_page([tmp_path / "toy"], tmp_path / "report.html")


def test_the_command_imports_no_torch(tmp_path):
    write_simple(tmp_path / "toy", spec(), 0.5)
    flags = json.dumps(["--input_dir", str(tmp_path / "toy"), "--output", str(tmp_path / "report.html")])
    code = (
        f"import sys; from dgbench.report.__main__ import main; main({flags}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("False\n"), done.stderr
