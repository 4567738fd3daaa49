"""What a killed run goes on from, and the weights that a finished run leaves."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import files
from .algorithm import Algorithm
from .averager import Averager
from .meter import Meter


@dataclass
class State:
    """All that changes while a run trains. Random numbers need no state: they are functions of the step."""

    algorithm: Algorithm
    averagers: Mapping[str, Averager]
    meter: Meter

    def save(self, folder: Path, step: int) -> None:
        """Write checkpoint.pt; ``step`` is the next update."""
        state = {
            "step": step,
            "algorithm": self._weights(),
            "optims": [optim.state_dict() for optim in self.algorithm.optims],
            "averagers": {name: averager.state_dict() for name, averager in self.averagers.items()},
            "meter": self.meter.state_dict(),
        }
        files.replace(folder / "checkpoint.pt", lambda file: torch.save(state, file))

    def load(self, folder: Path, device: torch.device) -> int:
        """Take up checkpoint.pt if there is one; returns the next update."""
        path = folder / "checkpoint.pt"
        if not path.exists():
            return 0
        state = torch.load(path, map_location=device, weights_only=True)
        self.algorithm.load_state_dict(state["algorithm"])
        for optim, saved in zip(self.algorithm.optims, state["optims"], strict=True):
            optim.load_state_dict(saved)
        for name, averager in self.averagers.items():
            averager.load_state_dict(state["averagers"][name])
        self.meter.load_state_dict(state["meter"])
        return state["step"]

    def finish(self, folder: Path, keep_weights: bool) -> None:
        """Write weights.pt ({kind of weights: state dict}) and then ``done``; the checkpoint goes."""
        if keep_weights:
            weights = {"raw": self._weights()}
            for name, averager in self.averagers.items():
                with averager.swapped(self.algorithm):
                    weights[name] = self._weights()
            files.replace(folder / "weights.pt", lambda file: torch.save(weights, file))
        files.replace_text(folder / "done", "")
        (folder / "checkpoint.pt").unlink(missing_ok=True)

    def _weights(self) -> dict[str, Tensor]:
        """Copies: a row of a larger tensor would be saved with all of it."""
        return {name: value.clone() for name, value in self.algorithm.state_dict().items()}
