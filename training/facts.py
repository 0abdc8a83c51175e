"""What a run has decided once: its steps and what each takes, whatever is computed on later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stratacube.errors import SourceError
from training.config import PretrainConfig
from training.optimizer import Schedule

__all__ = ["RunFacts"]


@dataclass(frozen=True)
class RunFacts:
    """Global batch and schedule: worked out when the run begins, and read from its checkpoint from then on."""

    batch: int
    """Samples of an optimizer step, over all ranks and micro-steps."""
    samples: int
    """Samples of an epoch."""
    schedule: Schedule
    steps_per_epoch: float
    origin: int = 0
    """Number in the stream of samples of the first of step 0. Versions before left out the rest of each epoch: of
    their runs it is what was left out."""

    @classmethod
    def begin(cls, config: PretrainConfig, samples: int, ranks: int) -> RunFacts:
        """Decide for a new run.

        Parameters
        ----------
        config
            The run.
        samples
            Samples of an epoch.
        ranks
            Processes that share each step.
        """
        batch = config.data.batch_size * config.optimizer.accumulate * ranks
        return cls(batch, samples, Schedule.of(config.optimizer, batch, samples / batch), samples / batch)

    @classmethod
    def read(cls, manifest: Mapping[str, Any], config: PretrainConfig, samples: int) -> RunFacts:
        """Read them from a checkpoint's manifest; one of before has what they follow from.

        Raises
        ------
        SourceError
            If they are not there or make no sense.
        """
        try:
            if "facts" not in manifest:
                return cls._of_before(manifest, config, samples)
            values = dict(manifest["facts"])
            return cls(**{**values, "schedule": Schedule(**values["schedule"])})
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise SourceError(
                f"the checkpoint does not tell the batch and schedule of its run ({error!r}); go on from an older one"
            ) from error

    @classmethod
    def _of_before(cls, manifest: Mapping[str, Any], config: PretrainConfig, samples: int) -> RunFacts:
        before = manifest["config"]
        micro = int(before["data"]["batch_size"]) * int(manifest["ranks"])
        accumulate = int(before["optimizer"]["accumulate"])
        steps = samples // micro / accumulate  # the rest of an epoch was left out
        return cls(micro * accumulate, samples, Schedule.of(config.optimizer, micro * accumulate, steps), steps)

    def as_dict(self) -> dict[str, Any]:
        """Give plain values, for manifests."""
        return asdict(self)
