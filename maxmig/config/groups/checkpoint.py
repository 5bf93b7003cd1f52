"""What is saved, how, and what a run starts from."""

from typing import Literal

from pydantic import model_validator

from maxmig.config.groups.base import Contradiction, Group, Size, key


class Checkpoint(Group):
    """Saving, keeping and restoring."""

    enable_checkpointing: bool = key(True, "Saves checkpoints, and resumes from the latest.")
    async_checkpointing: bool = key(True, "Writes in the background while training goes on.")
    checkpoint_period: Size = key(10_000, "Steps between two checkpoints.")
    max_num_checkpoints_to_keep: Size | None = key(
        None, "Checkpoints that stay; older ones are deleted; null keeps all."
    )
    save_checkpoint_on_completion: bool = key(True, "Saves after the last step.")
    load_parameters_path: str = key("", "A checkpoint whose weights alone a new run starts from.")
    load_full_state_path: str = key("", "A checkpoint that a new run continues, step included.")
    checkpoint_layout: Literal["auto", "linen", "nnx"] = key(
        "auto", "Layout of new checkpoints; auto is the one of the stage. All are read."
    )
    checkpoint_storage_use_ocdbt: bool = key(True, "Stores the arrays in one OCDBT database.")
    checkpoint_storage_use_zarr3: bool = key(True, "Stores the arrays as Zarr version 3.")
    checkpoint_checksums: Literal["auto", "on", "off"] = key(
        "auto", "Writes checksums of all arrays with them; auto: of a state of up to 1 GiB."
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Checkpoint":
        if self.load_parameters_path and self.load_full_state_path:
            raise Contradiction(
                ("load_parameters_path", "load_full_state_path"),
                "load_parameters_path and load_full_state_path are both given: a run starts from "
                "weights alone or from a full state, not from both",
            )
        return self
