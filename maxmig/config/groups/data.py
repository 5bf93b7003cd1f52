"""Where the tokens come from."""

from typing import Any, Literal

from pydantic import field_validator, model_validator

from maxmig.config.groups.base import Contradiction, Group, key

FOREIGN_SOURCES = {
    "tfds": "TensorFlow data sets; export them to text, jsonl, parquet or arrayrecord",
    "hf": "Hugging Face data sets; download them as jsonl or parquet",
    "olmo_grain": "OLMo's token files",
    "c4_mlperf": "MLPerf's C4",
}
FOREIGN_TOKENIZERS = ("sentencepiece", "tiktoken")


class Data(Group):
    """Files, tokenizer and packing."""

    dataset_type: Literal["text", "jsonl", "parquet", "arrayrecord", "synthetic"] = key(
        "text", "Kind of the data; MaxText's grain takes the kind from grain_file_type."
    )
    train_files: str | tuple[str, ...] = key(
        "", "A path, a glob or a list of them; '' is the text that Python itself carries."
    )
    eval_files: str | tuple[str, ...] = key(
        "", "As train_files, for evaluation; '' splits a part off the training data."
    )
    eval_split_fraction: float = key(
        0.05, "Share of the training data that is split off for evaluation.", ge=0, lt=1
    )
    grain_file_type: Literal["text", "jsonl", "parquet", "arrayrecord"] | None = key(
        None, "MaxText's name of dataset_type under grain; null when it is not used."
    )
    grain_train_files: str = key("", "MaxText's name of train_files under grain.")
    grain_eval_files: str = key("", "MaxText's name of eval_files under grain.")
    grain_worker_count: int = key(0, "Processes that read data; 0 reads in the run's own.", ge=0)
    text_field: str = key("text", "Field of a jsonl or parquet record that holds the text.")
    tokenizer_type: Literal["byte", "huggingface"] = key(
        "byte", "byte needs no file; huggingface reads tokenizer_path."
    )
    tokenizer_path: str = key("", "The tokenizer.json of a huggingface tokenizer.")
    add_bos: bool = key(False, "Puts the tokenizer's begin mark before each document.")
    add_eos: bool = key(False, "Puts the tokenizer's end mark after each document.")
    packing: bool = key(True, "Fills a sequence with several documents.")
    shuffle: bool = key(True, "Shuffles the documents, by data_shuffle_seed.")

    @model_validator(mode="before")
    @classmethod
    def _grain(cls, values: Any) -> Any:
        """Turns MaxText's `dataset_type: grain` into the kind of its files."""
        values = dict(values)
        if values.get("dataset_type") != "grain":
            return values
        values["dataset_type"] = values.get("grain_file_type") or "arrayrecord"
        for ours, theirs in (
            ("train_files", "grain_train_files"),
            ("eval_files", "grain_eval_files"),
        ):
            if values.get(theirs) and not values.get(ours):
                values[ours] = values[theirs]
        return values

    @field_validator("dataset_type", mode="before")
    @classmethod
    def _known_source(cls, value: Any) -> Any:
        if isinstance(value, str) and value in FOREIGN_SOURCES:
            raise ValueError(
                f"dataset_type: maxmig does not read {value!r} ({FOREIGN_SOURCES[value]}); it has "
                "text, jsonl, parquet, arrayrecord and synthetic"
            )
        return value

    @field_validator("tokenizer_type", mode="before")
    @classmethod
    def _known_tokenizer(cls, value: Any) -> Any:
        if isinstance(value, str) and value in FOREIGN_TOKENIZERS:
            raise ValueError(
                f"tokenizer_type: maxmig does not read {value!r} tokenizers; write byte, or "
                "huggingface with tokenizer_path naming a tokenizer.json"
            )
        return value

    @model_validator(mode="after")
    def _agree(self) -> "Data":
        for ours, theirs in (
            ("dataset_type", "grain_file_type"),
            ("train_files", "grain_train_files"),
            ("eval_files", "grain_eval_files"),
        ):
            mine, given = getattr(self, ours), getattr(self, theirs)
            if given and given != mine:
                raise Contradiction(
                    (ours, theirs), f"{ours} and {theirs} say the same thing; keep {ours}"
                )
        if self.tokenizer_type == "huggingface" and not self.tokenizer_path:
            raise Contradiction(
                ("tokenizer_type", "tokenizer_path"),
                "tokenizer_type huggingface needs tokenizer_path, the path of a tokenizer.json",
            )
        if self.tokenizer_type == "byte" and self.tokenizer_path:
            raise Contradiction(
                ("tokenizer_type", "tokenizer_path"),
                "tokenizer_type byte reads no file: leave tokenizer_path out, or write "
                "tokenizer_type: huggingface",
            )
        return self
