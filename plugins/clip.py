"""CLIP: Learning Transferable Visual Models From Natural Language Supervision (Radford et al., ICML 2021).

arXiv 2103.00020, zero-shot: no parameter moves. logits_c = s cos(image(x), text("a photo of a CLASS.")), with
the class names that the data set's folders give and CLIP's own scale s. Not a method of the harness, since it
needs open_clip and some 600 MB of weights; as a plugin its runs are recorded and collected like any other:

    pip install 'dgbench[clip]'
    python -m dgbench.sweep launch --plugin plugins/clip.py --algorithms CLIP --datasets OfficeHome \\
      --data_dir DATA --task domain_adaptation --pairs --n_trials 1 --steps 1 --skip_model_save \\
      --backbone clip:ViT-B-32 --pretrained openai --output_dir runs/clip
    python -m dgbench.collect_results --input_dir runs/clip --published

--backbone clip:NAME and --pretrained are open_clip's names of a model and of its weights ("none": random).
Source: open_clip. Differs from the paper: one prompt; images resized to a square instead of cropped.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dgbench.algorithm import Algorithm, Batch, Logs, Problem
from dgbench.errors import UsageError, extra, unknown
from dgbench.networks import mean_and_std

PROMPT = "a photo of a {}."


class CLIP(Algorithm):
    """Zero-shot classification by the class names."""

    tasks = ("domain_adaptation", "domain_generalization", "single_source")

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        nn.Module.__init__(self)  # the featurizer is CLIP's
        self.problem, self.hp, self.step, self._optims = problem, hp, 0, []
        if not problem.class_names:
            raise UsageError("CLIP needs class names; choose a data set of image folders, e.g. OfficeHome")
        net, tokens = load(problem)
        self.featurizer = net.visual
        self.scale = float(net.logit_scale.detach().exp())
        with torch.no_grad():
            self.register_buffer("text", net.encode_text(tokens, normalize=True))  # (C, F)
        ours, theirs = mean_and_std(problem.backbone), (net.visual.image_mean, net.visual.image_std)
        for name, values in (("ours", ours), ("theirs", theirs)):
            self.register_buffer(name, torch.tensor(values)[:, :, None, None])  # (2, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = (x * self.ours[1] + self.ours[0] - self.theirs[0]) / self.theirs[1]
        return self.scale * nn.functional.normalize(self.featurizer(x), dim=-1) @ self.text.T

    def update(self, batch: Batch) -> Logs:
        return {"loss": batch.x.new_zeros(())}


def load(problem: Problem) -> tuple[Any, Tensor]:
    """The network, and the tokens (C, L) of the classes' prompts; ``UsageError`` where they cannot be had."""
    open_clip = extra("open_clip", "CLIP", "clip")
    kind, _, name = problem.backbone.partition(":")
    if kind != "clip" or name not in open_clip.list_models():
        raise unknown("CLIP backbone", problem.backbone, [f"clip:{each}" for each in open_clip.list_models()])
    tags = ["none", *open_clip.list_pretrained_tags_by_model(name)]
    if problem.pretrained not in tags:
        raise unknown(f"weights of {name}:", problem.pretrained, tags)
    weights = None if problem.pretrained == "none" else problem.pretrained
    try:
        net = open_clip.create_model(name, pretrained=weights)
    except Exception as error:  # whatever the libraries that download raise
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"cannot get CLIP's weights {problem.pretrained} of {name}: {told}") from None
    prompts = [PROMPT.format(each.replace("_", " ").lower()) for each in problem.class_names]
    return net, open_clip.get_tokenizer(name)(prompts)
