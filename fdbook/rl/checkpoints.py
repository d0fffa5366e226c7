"""Checkpoints: saved by orbax under another name and moved to their place, the newest few kept, each sealed by a digest.

A checkpoint that is damaged or has no seal is refused, and the one before is taken.
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

from fdbook.disk import check_writable, write_whole


__all__ = ["Checkpoints", "copy"]


def _leaves(state: PyTree) -> dict[str, np.ndarray]:
    """The arrays of a state, numbered in the order of the tree."""
    leaves = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    return {f"{number:04d}": np.asarray(leaf) for number, leaf in enumerate(leaves)}


def _digest(folder: Path) -> str:
    """A digest of all files of a checkpoint."""
    result = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        result.update(str(path.relative_to(folder)).encode())
        result.update(path.read_bytes())
    return result.hexdigest()


class Checkpoints:
    """The checkpoints in a folder, of which the newest `keep` stay; to be used in a `with` statement, or closed.

    A checkpoint counts once a file STEP.sha256 with its digest lies beside it.
    """

    def __init__(self, folder: Path, keep: int = 2, *, read_only: bool = False):
        import orbax.checkpoint as orbax

        logging.getLogger("absl").setLevel(logging.CRITICAL)  # what is damaged is told here, in a sentence
        self.folder = Path(folder).absolute()
        if not read_only:
            check_writable(self.folder)
        options = orbax.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=not read_only,
            create=False,
            read_only=read_only,
        )
        self._orbax, self._manager = orbax, orbax.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *details: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends what orbax runs in the background."""
        self._manager.close()

    def _seal(self, step: int) -> Path:
        return self.folder / f"{step}.sha256"

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints, the newest first."""
        return sorted((step for step in self._manager.all_steps() if self._seal(step).exists()), reverse=True)

    def save(self, step: int, state: PyTree, progress: dict[str, Any], replay: PyTree = None) -> None:
        """Saves the arrays of a state, a JSON tree with them, and what an online phase has collected, if there is one.

        Raises OSError when that fails: older ones stay whole.
        """
        args = self._orbax.args
        more = {} if replay is None else {"replay": args.StandardSave(_leaves(replay))}
        parts = args.Composite(arrays=args.StandardSave(_leaves(state)), progress=args.JsonSave(progress), **more)
        try:
            if step in self._manager.all_steps():  # one that was not sealed, or that is damaged
                self._manager.delete(step)
            self._manager.save(step, args=parts, force=True)
            write_whole({self._seal(step): _digest(self.folder / str(step)).encode()})
        except Exception as error:  # a full disk comes as errors of many kinds
            with contextlib.suppress(OSError):
                for path in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
                    shutil.rmtree(path)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            last = f"the checkpoint of step {self.steps[0]} is whole" if self.steps else "there is no earlier one"
            failed = f"The checkpoint of step {step} could not be saved in {self.folder}, {last}"
            raise OSError(f"{failed} ({reason}).") from error
        for path in self.folder.glob("*.sha256"):
            if int(path.stem) not in self._manager.all_steps():
                path.unlink(missing_ok=True)

    def restore(self, like: PyTree) -> tuple[PyTree, dict[str, Any], list[str]] | None:
        """The newest checkpoint that is sound: a state shaped `like` this one, its JSON tree, complaints about newer ones.

        None when there is none. Raises ValueError when all are damaged, or the newest sound one is of another form.
        """
        wanted, args, complaints = _leaves(like), self._orbax.args, []
        for step in self.steps:
            if _digest(self.folder / str(step)) != self._seal(step).read_text(encoding="utf-8"):
                complaints.append(f"The checkpoint of step {step} in {self.folder} is damaged.")
                continue
            parts = args.Composite(arrays=args.StandardRestore(wanted), progress=args.JsonRestore())
            try:
                result: Any = self._manager.restore(step, args=parts)
            except (KeyError, ValueError) as error:  # whole, as its seal says, but of another form
                where = f"The checkpoint of step {step} in {self.folder}"
                raise ValueError(f"{where} was saved by another version of fdbook, or of other networks.") from error
            return _like(like, result.arrays), result.progress, complaints
        if complaints:
            raise ValueError(" ".join(complaints))
        return None

    def restore_replay(self, step: int, like: PyTree) -> PyTree:
        """What an online phase had collected at a step, shaped `like` this. Raises ValueError where it is of another form."""
        args = self._orbax.args
        try:
            result: Any = self._manager.restore(step, args=args.Composite(replay=args.StandardRestore(_leaves(like))))
        except (KeyError, ValueError, FileNotFoundError) as error:
            where = f"The checkpoint of step {step} in {self.folder}"
            raise ValueError(f"{where} holds no replay buffer of this length.") from error
        return _like(like, result.replay)


def _like(like: PyTree, arrays: dict[str, Any]) -> PyTree:
    """Restored arrays in the place of a tree's own."""
    structure = jax.tree.structure(eqx.filter(like, eqx.is_array))
    return eqx.combine(structure.unflatten([jnp.asarray(arrays[name]) for name in sorted(arrays)]), like)


def copy(source: Path, target: Path, step: int) -> bool:
    """Copies the checkpoint of a step to a folder that is not there yet, whole or not at all, and returns whether it is sound."""
    seal = source / f"{step}.sha256"
    if not seal.exists() or not (source / str(step)).exists():
        return False
    digest, partial = seal.read_text(encoding="utf-8"), target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source / str(step), partial / str(step))
    if _digest(partial / str(step)) != digest:
        shutil.rmtree(partial)
        return False
    shutil.copy(seal, partial / seal.name)
    partial.rename(target)
    return True
