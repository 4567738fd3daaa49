"""Pictures of a run: ``python -m dgbench.plots latent RUN``.

latent: the latent space in two dimensions (t-SNE), a picture for each part that the run is evaluated on.
Colour = class; circle = classified right, cross = wrong; retrieval classifies nothing. PNG and SVG.
pseudo: accuracy and keep rate of the pseudo-labels over the updates, a curve for each source. PNG and SVG.
gallery: for a run of retrieval, some queries and what they retrieve, green = right, red = wrong. PNG.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import flags, galleries, pseudo_curves
from .build import Built, build
from .checkpoint import DAMAGE
from .collect.rows import weights_label
from .errors import UsageError, exit_on_usage_error, extra, unknown
from .machine import Machine, machine_from
from .spec import RunSpec

LAYERS = ("features", "maps")
SIZE = 6.0  # inches of a picture's side
CIRCLE, CROSS = "o", "x"


@dataclass(frozen=True)
class Latent:
    """Images of a part in the latent space: z (n, F), their classes and whether each is classified right.

    right is None where a task does not classify.
    """

    z: np.ndarray
    labels: np.ndarray
    right: np.ndarray | None


def load(folder: Path, machine: Machine, weights: str = "raw") -> Built:
    """A finished run with its trained weights, in evaluation mode."""
    if not (folder / "spec.json").exists():
        raise UsageError(f"no run in {str(folder)!r}; give the folder that dgbench.train wrote")
    if not (folder / "weights.pt").exists():
        raise UsageError(f"{folder} has no weights.pt: it is not done, or ran with --skip_model_save")
    try:
        spec = RunSpec.from_dict(json.loads((folder / "spec.json").read_text()))
        kinds = torch.load(folder / "weights.pt", map_location="cpu", weights_only=True)
    except (TypeError, *DAMAGE) as error:
        told = str(error).splitlines()[0]
        raise UsageError(f"{folder} holds a damaged file ({told}); train the run again") from None
    run = build(spec, machine)
    if weights not in kinds:
        raise unknown("weights", weights, kinds)
    run.algorithm.load_state_dict(kinds[weights])
    run.algorithm.eval()
    return run


@torch.inference_mode()
def latent(run: Built, part: str, layer: str = "features", images: int = 2000, seed: int = 0) -> Latent:
    """At most ``images`` random images of a part. layer: the features, or the last feature map, flat."""
    if part not in run.split.evaluated:
        raise unknown("part", part, run.split.evaluated)
    chosen = run.split.evaluated[part].sample(images, seed)
    assert chosen.labels is not None
    maps = run.algorithm.featurizer.maps_and_head()[0] if layer == "maps" else None
    found, right, classifies = [], [], run.spec.task != "retrieval"
    for x, y in run.loader.evaluation(chosen):
        with run.autocast():
            z = run.algorithm.features(x) if maps is None else maps(x).flatten(1)
            if classifies:
                right.append(run.algorithm(x).argmax(1) == y)
        found.append(z.float())
    z = torch.cat(found).numpy(force=True)
    if not np.isfinite(z).all():
        raise UsageError(f"features of {part} are not finite: the run diverged; train with a smaller lr")
    return Latent(z, chosen.labels, torch.cat(right).numpy(force=True) if classifies else None)


def in_two_dimensions(z: np.ndarray, seed: int = 0, perplexity: float = 30.0) -> np.ndarray:
    """t-SNE of z (n, F), from its principal components: (n, 2)."""
    from sklearn.manifold import TSNE  # slow to import

    perplexity = min(perplexity, max(1.0, (len(z) - 1) / 3))
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(z)


def draw(points: np.ndarray, shown: Latent, title: str) -> Any:
    """One picture of points (n, 2), a matplotlib figure."""
    matplotlib = extra("matplotlib", "a picture", "report")
    from matplotlib.figure import Figure

    classes, is_right = np.unique(shown.labels), shown.right
    if is_right is None:
        is_right = np.ones(len(points), bool)
    few = {True: "tab10", False: "tab20"}[len(classes) <= 10]
    colours = matplotlib.colormaps[few if len(classes) <= 20 else "hsv"]
    figure = Figure(figsize=(SIZE + 0.9, SIZE), layout="constrained")
    axes = figure.subplots()
    for place, label in enumerate(classes):
        at = place if len(classes) <= 20 else place / len(classes)
        for right, marker in ((True, CIRCLE), (False, CROSS)):
            own = points[(shown.labels == label) & (is_right == right)]
            axes.scatter(
                own[:, 0], own[:, 1], s=12, marker=marker, color=colours(at), linewidths=0.8, alpha=0.75
            )
        axes.scatter([], [], s=24, marker="s", color=colours(at), label=str(label))
    if len(classes) <= 20:
        for marker, told in ((CIRCLE, "right"), (CROSS, "wrong")) if shown.right is not None else ():
            axes.scatter([], [], s=24, marker=marker, color="black", label=told)
        figure.legend(loc="outside right center", frameon=False, title="class")
    axes.set(xticks=[], yticks=[], title=title)
    axes.set_aspect("equal", "datalim")
    return figure


def save(figure: Any, stem: Path) -> list[Path]:
    """``stem``.png and .svg; equal pictures give equal files."""
    import matplotlib

    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    stem.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "dgbench"}):
        for path in paths:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def named(picture: str, weights: str) -> str:
    """How the files of a picture begin: "latent", "latent-swad", "latent-swad_tolerance_ratio_0.2"."""
    return picture if weights == "raw" else f"{picture}-{re.sub('[^a-z0-9.]', '_', weights)}"


def pictures(run: Built, folder: Path, parts: Sequence[str], args: Any) -> list[Path]:
    """The pictures of a run's parts."""
    paths = []
    for part in parts or run.split.evaluated:
        shown = latent(run, part, args.layer, args.images, args.seed)
        points = in_two_dimensions(shown.z, args.seed)
        told = f"{len(shown.z)} images"
        if shown.right is not None:
            told = f"{100 * shown.right.mean():.1f} % of {told} right"
        method = run.spec.algorithm + weights_label(args.weights)
        title = f"{method} on {run.spec.dataset}, {part}: {told}"
        stem = folder / f"{named('latent', args.weights)}-{args.layer}-{part.replace('/', '-')}"
        paths += save(draw(points, shown, title), stem)
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = flags.Parser(prog="python -m dgbench.plots", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("picture", choices=("latent", "pseudo", "gallery"))
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs")
    parser.add_argument("--parts", nargs="*", default=[], help="e.g. test/all; default: every evaluated part")
    parser.add_argument("--layer", choices=LAYERS, default="features", help="maps: the last feature map")
    parser.add_argument("--weights", default="raw", help="kind of weights: raw, swad ...")
    parser.add_argument("--images", type=int, default=2000, help="at most so many of a part")
    parser.add_argument("--queries", type=int, default=8, help="lines of a gallery")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images, and of t-SNE")
    parser.add_argument("--output_dir", type=Path, help="default: each run's own folder")
    flags.add_machine_flags(parser)
    args = parser.parse_args(argv)
    if args.images < 4:
        raise UsageError(f"--images {args.images} are too few for a picture; give at least 4")
    machine = machine_from(args)
    for folder in args.runs:
        to = folder if args.output_dir is None else args.output_dir / folder.resolve().name
        if args.picture == "pseudo":
            made = save(pseudo_curves.draw(pseudo_curves.read(folder), folder.resolve().name), to / "pseudo")
        elif args.picture == "gallery":
            name = named("gallery", args.weights)
            run = load(folder, machine, args.weights)
            made = galleries.pictures(run, to, args.queries, seed=args.seed, name=name)
        else:
            made = pictures(load(folder, machine, args.weights), to, args.parts, args)
        print(*made, sep="\n")
    return 0


if __name__ == "__main__":
    exit_on_usage_error(main)
