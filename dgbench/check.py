"""The conformance card of a method: ``python -m dgbench.check my_method.py`` (or the name of one of ours).

Every promise of the contract, the cost of an update relative to ERM's, and a short run beside ERM on the
embedded digits. Exit status 1 if a promise is broken or the run learns nothing.
"""

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from tabulate import tabulate
from tqdm import tqdm

from . import contract, features, flags, registry
from .bench.ratio import alternate
from .contract import Broken, Method
from .errors import exit_on_usage_error
from .machine import Machine
from .spec import RunSpec
from .train import run

Seen = tuple[str, str]  # verdict, what was seen
Row = tuple[str, str, str]  # what, and these


def looked(what: str, look: Callable[[Method], Seen], method: Method) -> Row:
    """What ``look`` finds; BROKEN where it raises, as a method under test may anywhere."""
    try:
        verdict, seen = look(method)
    except Broken as broken:
        verdict, seen = "BROKEN", str(broken)
    except Exception as error:
        verdict, seen = "BROKEN", f"{type(error).__name__}: {error}"
    return what, verdict, " ".join(seen.split())


def promises(method: Method) -> list[Row]:
    """One row per promise: kept, broken, or why it does not apply."""
    bar = tqdm(contract.PROMISES.items(), desc=method.__name__, unit="check")
    return [looked(name.replace("_", " "), partial(keeps, promise), method) for name, promise in bar]


def keeps(promise: Callable[[Method], str | None], method: Method) -> Seen:
    """Whether a promise is kept, or why it does not apply."""
    reason = promise(method)
    return ("kept", "") if reason is None else ("-", reason)


def find(told: str) -> list[Method]:
    """The methods that the command's argument names."""
    if ".py" in told:
        return registry.load_plugin(told)
    return [registry.find("algorithms", told)]


def other_processes(told: str, method: Method) -> Seen:
    """Python's hash of a text, and with it the order of a set, is another one in each process."""
    command = [sys.executable, "-c", "import sys, dgbench.check as c; print(c.trained(*sys.argv[1:]))"]
    ends = set()
    for seed in "123":
        env = {**os.environ, "PYTHONHASHSEED": seed}
        output = subprocess.check_output([*command, told, method.__name__], env=env, text=True)
        ends.add(output.split()[-1])  # after what the file itself prints
    if len(ends) > 1:
        raise Broken("weights depend on PYTHONHASHSEED: on hash() of a text, or on the order of a set")
    return "kept", ""


def trained(told: str, name: str) -> str:
    """A hash of what the method of this name is after a few updates."""
    torch.set_num_threads(1)
    (method,) = (method for method in find(told) if method.__name__ == name)
    algorithm = contract.build(method)
    contract.train(algorithm, range(3))
    return features.weights_hash(algorithm)


def cost(method: Method) -> Seen:
    """An update relative to ERM's, on the small network of the contract."""
    erm = registry.find("algorithms", "ERM")
    ours, plain = contract.build(method), contract.build(erm)
    batch = contract.make_batch()
    ratio = alternate("update", lambda: ours.update(batch), lambda: plain.update(batch), turns=15)
    return f"{ratio.ratio:.2f}", f"{ratio.ours:.2f} ms and {ratio.reference:.2f} ms"


def short_run(method: Method) -> Seen:
    """Default steps on RotatedDigits, target 0, beside ERM; BROKEN if the sources are not learned."""
    seen = {}
    for name in (method.__name__, "ERM"):
        with tempfile.TemporaryDirectory() as folder:
            spec = RunSpec("RotatedDigits", name, test_envs=("0",))
            record = run(spec, Path(folder) / "run", Machine(), progress=True)
        accuracy = [record["metrics"][f"{part}/acc"] for part in record["parts"]["validation"]]
        seen[name] = (sum(accuracy) / len(accuracy), record["metrics"]["0/in/acc"])
    source = seen[method.__name__][0]
    text = ", ".join(f"{name}: sources {a:.1%}, target {b:.1%}" for name, (a, b) in seen.items())
    return "learns" if source > 0.3 else "BROKEN", text


def card(method: Method, told: str) -> list[Row]:
    """All rows of a method, which the command's argument named so."""
    rows = promises(method)
    if any(verdict == "BROKEN" for _, verdict, _ in rows):
        return rows
    rows.append(looked("same weights in other processes", partial(other_processes, told), method))
    rows.append(looked("update / ERM's update", cost, method))
    if "domain_generalization" in method.tasks and not method.needs:
        rows.append(looked("RotatedDigits, 301 steps", short_run, method))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = flags.Parser(prog="python -m dgbench.check", description=__doc__.split("\n")[0])
    parser.add_argument("method", help="a Python file, FILE.py:Class, or the name of a method")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning)
    broken = False
    for method in find(args.method):
        rows = card(method, args.method)
        print(tabulate(rows, headers=(method.__name__, "verdict", "seen"), maxcolwidths=[None, None, 70]))
        broken |= any(verdict == "BROKEN" for _, verdict, _ in rows)
    return int(broken)


if __name__ == "__main__":
    exit_on_usage_error(main)
