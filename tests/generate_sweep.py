"""Write a sweep of the size of DomainBed's published one: python tests/generate_sweep.py FOLDER [--records N]

14 methods on 7 data sets, 3 trials, 20 draws, each target and each pair of targets: 1,867,320 records, cut at
``--records`` (DomainBed published 1,833,734). The numbers are random, the lines as long as real ones.
``--format domainbed`` writes DomainBed's lines, ``--runs`` folders of 10.
"""

import argparse
import hashlib
import itertools
import json
import random
from pathlib import Path

from dgbench.spec import RunSpec

FULL = 1_833_734
METHODS = ["ERM", "IRM", "GroupDRO", "Mixup", "MLDG", "CORAL", "MMD", "DANN", "CDANN", "MTL", "SagNet"]
METHODS += ["ARM", "VREx", "RSC"]
DATASETS = {  # {name: (domains, evaluations)}
    "ColoredMNIST": (["+90%", "+80%", "-90%"], 51),
    "RotatedMNIST": (["0", "15", "30", "45", "60", "75"], 51),
    "VLCS": (["Caltech101", "LabelMe", "SUN09", "VOC2007"], 18),
    "PACS": (["art_painting", "cartoon", "photo", "sketch"], 18),
    "OfficeHome": (["Art", "Clipart", "Product", "Real World"], 18),
    "TerraIncognita": (["location_100", "location_38", "location_43", "location_46"], 18),
    "DomainNet": (["clipart", "infograph", "painting", "quickdraw", "real", "sketch"], 6),
}


def runs():
    """(spec, domains, evaluations), so that any prefix holds several methods and data sets."""
    for trial, draw in itertools.product(range(3), range(20)):
        for (dataset, (domains, count)), method in itertools.product(DATASETS.items(), METHODS):
            for targets in [*itertools.combinations(domains, 1), *itertools.combinations(domains, 2)]:
                spec = RunSpec(
                    dataset,
                    method,
                    test_envs=targets,
                    trial_seed=trial,
                    hparams_seed=draw,
                    steps=5001,
                    checkpoint_freq=5000 // (count - 1),
                    backbone="resnet50",
                    pretrained="IMAGENET1K_V1",
                    freeze_bn=True,
                    image_size=224,
                )
                yield spec, domains, count


def write_ours(folder: Path, most: int, seed: int = 0) -> int:
    """The sweep in our format; returns the number of records."""
    numbers, total = random.Random(seed), 0
    folder.mkdir(parents=True, exist_ok=True)
    for spec, domains, count in runs():
        if total >= most:
            break
        keys = [f"{name}/out" for name in domains] + [f"{name}/in" for name in spec.test_envs]
        sources = [name for name in domains if name not in spec.test_envs]
        head = {
            "run": spec.run_id(),
            "spec": spec.to_dict(),
            "hparams": {"lr": 1e-5 * (1 + spec.hparams_seed), "batch_size": 32, "weight_decay": 0.0},
            "parts": {
                "validation": [f"{name}/out" for name in sources],
                "test": [f"{name}/in" for name in spec.test_envs],
                "oracle": [f"{name}/out" for name in spec.test_envs],
            },
            "fingerprint": {
                name: {"images": 2000, "hash": hashlib.sha256(name.encode()).hexdigest()} for name in domains
            },
            "pretrained": "IMAGENET1K_V1-00000000",
            "code": "0.1.0",
        }
        metrics = ", ".join(f'"{key}/acc": %.16f, "{key}/loss": %.16f' for key in keys)
        line = (
            json.dumps(head)[:-1].replace("%", "%%")
            + ', "step": %d, "epoch": %.12f, "weights": "raw", "losses": {"loss": %.16f}, "metrics": {'
            + metrics.replace("+90%", "+90%%").replace("+80%", "+80%%").replace("-90%", "-90%%")
            + '}, "seconds": {"train": 71.25, "evaluate": 12.5}, "images_per_second": 403.5, '
            + '"memory_gb": 9.5}\n'
        )
        steps = [*range(0, (count - 1) * spec.checkpoint_freq, spec.checkpoint_freq), spec.steps - 1]
        steps = steps[: most - total]
        draw = numbers.random
        values = [[draw() for _ in range(2 * len(keys) + 1)] for _ in steps]
        text = "".join(line % (step, step / 50, *row) for step, row in zip(steps, values, strict=True))
        path = folder / spec.run_id()
        path.mkdir()
        (path / "spec.json").write_text(json.dumps(spec.to_dict(), indent=1))
        (path / "results.jsonl").write_text(text)
        (path / "done").touch()
        total += len(steps)
    return total


def write_domainbed(folder: Path, most: int, lines: int = 10, seed: int = 0) -> int:
    """``most`` runs in DomainBed's format; returns the number of records."""
    numbers = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for spec, domains, _ in itertools.islice(runs(), most):
        args = {
            "algorithm": spec.algorithm,
            "checkpoint_freq": None,
            "data_dir": "/data",
            "dataset": spec.dataset,
            "holdout_fraction": 0.2,
            "hparams": None,
            "hparams_seed": spec.hparams_seed,
            "output_dir": f"sweep/{spec.run_id()}",
            "save_model_every_checkpoint": False,
            "seed": 1,
            "skip_model_save": False,
            "steps": None,
            "task": "domain_generalization",
            "test_envs": [domains.index(name) for name in spec.test_envs],
            "trial_seed": spec.trial_seed,
            "uda_holdout_fraction": 0,
        }
        hparams = {"batch_size": 32, "class_balanced": False, "data_augmentation": True, "lr": 5e-05}
        hparams |= {"nonlinear_classifier": False, "resnet18": False, "weight_decay": 0.0}
        keys = [f"env{i}_{part}_acc" for i in range(len(domains)) for part in ("in", "out")]
        path = folder / hashlib.md5(spec.run_id().encode()).hexdigest()
        path.mkdir()
        with open(path / "results.jsonl", "w") as file:
            for i in range(lines):
                accuracies = {key: numbers.random() for key in keys}
                rest = {"epoch": i / 2, "hparams": hparams, "loss": numbers.random(), "mem_gb": 9.5}
                rest |= {"step": 300 * i, "step_time": 0.25}
                file.write(json.dumps({"args": args, **accuracies, **rest}) + "\n")
        (path / "done").touch()
    return most * lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--records", type=int, default=FULL)
    parser.add_argument("--format", choices=("dgbench", "domainbed"), default="dgbench")
    parser.add_argument("--runs", type=int, default=10_080)
    flags = parser.parse_args()
    if flags.format == "domainbed":
        print(write_domainbed(flags.folder, flags.runs))
    else:
        print(write_ours(flags.folder, flags.records))
