"""Checkpoints: saved by orbax under another name and moved to their place, the newest few kept, each with a digest.

A checkpoint that is damaged is refused, and the one before is taken.
"""

import contextlib
import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from fdbook.disk import check_writable


__all__ = ["Checkpoints"]


def _leaves(state: PyTree) -> dict[str, np.ndarray]:
    """The arrays of a state, numbered in the order of the tree."""
    leaves = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    return {f"{number:04d}": np.asarray(leaf) for number, leaf in enumerate(leaves)}


def _digest(leaves: dict[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name, leaf in sorted(leaves.items()):
        found.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
        found.update(np.ascontiguousarray(leaf).data)
    return found.hexdigest()


class Checkpoints:
    """The checkpoints in a folder, of which the newest `keep` stay."""

    def __init__(self, folder: Path, keep: int = 2):
        import orbax.checkpoint as orbax

        logging.getLogger("absl").setLevel(logging.ERROR)
        self.folder = Path(folder).absolute()
        check_writable(self.folder)
        options = orbax.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._orbax, self._manager = orbax, orbax.CheckpointManager(self.folder, options=options)

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints, the newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, state: PyTree, story: dict[str, Any]) -> None:
        """Saves the arrays of a state, and a JSON tree with them. Raises OSError when that fails: older ones stay whole."""
        leaves, args = _leaves(state), self._orbax.args
        story = story | {"digest": _digest(leaves)}
        try:
            self._manager.save(
                step, args=args.Composite(arrays=args.StandardSave(leaves), story=args.JsonSave(story)), force=True
            )
        except Exception as error:  # a full disk comes as errors of many kinds
            with contextlib.suppress(OSError):
                for path in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
                    shutil.rmtree(path)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            last = f"the checkpoint of step {self.steps[0]} is whole" if self.steps else "there is no earlier one"
            raise OSError(
                f"The checkpoint of step {step} could not be saved in {self.folder}, {last} ({reason})."
            ) from error

    def restore(self, like: PyTree) -> tuple[PyTree, dict[str, Any], list[str]] | None:
        """The newest checkpoint that is sound: a state shaped `like` this one, its JSON tree, complaints about newer ones.

        None when there is none.
        """
        wanted, args, complaints = _leaves(like), self._orbax.args, []
        for step in self.steps:
            try:
                found = self._manager.restore(
                    step, args=args.Composite(arrays=args.StandardRestore(wanted), story=args.JsonRestore())
                )
                leaves = {name: np.asarray(leaf) for name, leaf in found.arrays.items()}
                if _digest(leaves) != found.story["digest"]:
                    raise ValueError("its arrays do not have the digest that was saved with them")
            except Exception as error:  # what a damaged checkpoint raises depends on where the damage is
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                complaints.append(f"The checkpoint of step {step} in {self.folder} is damaged ({reason}).")
                continue
            structure = jax.tree.structure(eqx.filter(like, eqx.is_array))
            arrays = structure.unflatten([jnp.asarray(leaves[name]) for name in sorted(leaves)])
            return eqx.combine(arrays, like), found.story, complaints
        if complaints:
            raise ValueError(" ".join(complaints))
        return None

    def drop_newer(self, step: int | None) -> None:
        """Removes the checkpoints after a step (None: all): they are damaged."""
        for each in self.steps:
            if step is None or each > step:
                self._manager.delete(each)
