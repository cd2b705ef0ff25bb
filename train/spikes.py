"""Steps that would harm the model, refused before the optimizer takes them: values that are not finite, and spikes."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from configs.errors import DataError, ImprintError
from configs.schema import Spikes

REFUSALS = 20  # in a row are the end of a training; fp16's loss scale may need 16 to find its place
LEAST = 20  # steps, or half the window if that is more, that a spike is judged by
ROUNDING = 2.0**-23  # of fp32, relative: values that differ by less have no deviation to be judged by


class Guard:
    """Decides before each optimizer step, from its loss and gradient norm, whether it is taken.

    Every process asks with the same global values, so all decide alike. What is not finite is refused, and, with
    `settings.deviations` > 0, a value more than so many standard deviations above its mean over the latest steps taken; a fall is
    no spike. `step` is the number of the first step asked about, and `state` what `state()` gave before it. With `scaled` losses
    (fp16) a gradient that overflows while the loss is finite is the search for the scale: left out, whatever the policy.
    """

    def __init__(self, settings: Spikes, step: int = 0, state: dict[str, Any] | None = None, scaled: bool = False):
        self.settings, self.step, self.scaled = settings, step, scaled
        self.refused = 0  # in a row
        self.reason = ""  # why the latest step was refused; empty if it was taken
        self._losses: deque[float] = deque(maxlen=settings.window)
        self._norms: deque[float] = deque(maxlen=settings.window)
        if state is not None:
            self._restore(state)

    def admits(self, loss: float, grad_norm: float) -> bool:
        """Whether the next step is taken. ImprintError where the policy is stop, or after 20 refusals in a row."""
        step = self.step
        self.step += 1
        self.reason = self._against("loss", loss, self._losses) or self._against("gradient norm", grad_norm, self._norms)
        if not self.reason:
            self.refused = 0
            if self.settings.deviations:
                self._losses.append(loss)
                self._norms.append(grad_norm)
            return True
        self.refused += 1
        searching = self.scaled and math.isfinite(loss) and not math.isfinite(grad_norm)
        if self.settings.policy == "stop" and not searching:
            raise ImprintError(
                f"training stopped at step {step:,}: {self.reason}; train.spikes.policy=skip goes on from the newest resume state "
                "and leaves such steps out"
            )
        if self.refused >= REFUSALS:
            raise ImprintError(
                f"step {step:,} is the last of {self.refused} in a row that were left out: {self.reason}; a training that takes no "
                "step any more needs a lower train.learning_rate or a longer train.warmup"
                + (", or more train.spikes.deviations" if self.settings.deviations else "")
            )
        return False

    def state(self) -> dict[str, Any]:
        """What going on needs, as plain numbers: floats survive JSON to the last bit."""
        return {"losses": list(self._losses), "grad_norms": list(self._norms), "refused": self.refused}

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            losses, norms = ([float(value) for value in state[name]] for name in ("losses", "grad_norms"))
            self.refused = int(state["refused"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the resume state says of the latest losses {state!r}, which is not what was written") from error
        if len(losses) != len(norms) or not all(map(math.isfinite, [*losses, *norms])):
            raise DataError("the resume state holds latest losses and gradient norms that no training has taken")
        self._losses.extend(losses)
        self._norms.extend(norms)

    def _against(self, name: str, value: float, taken: deque[float]) -> str:
        """Why a value is refused beside those of the latest steps taken; empty if it is not."""
        if not math.isfinite(value):
            return f"{name} is {value}"
        threshold = self._threshold(taken)
        if value > threshold:
            return f"{name} {value:.4g} is above {threshold:.4g}, {self.settings.deviations:g} standard deviations over its mean"
        return ""

    def _threshold(self, taken: deque[float]) -> float:
        """The largest value that is no spike; infinite while there are too few to say."""
        count = len(taken)
        if not self.settings.deviations or count < max(2, min(self.settings.window, max(LEAST, self.settings.window // 2))):
            return math.inf
        mean = math.fsum(taken) / count  # fsum: the same number on every kind of processor
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in taken) / (count - 1))
        return mean + self.settings.deviations * deviation if deviation > ROUNDING * abs(mean) else math.inf
