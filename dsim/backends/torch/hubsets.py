"""Prompts out of data sets of the Hugging Face hub, as the paper's code makes them.

The four data sets of the paper have columns of their own; each :data:`TEMPLATES` entry turns one
example into one prompt. The texts are those of the paper's published code, so that its measurements
can be repeated.
"""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dsim.backends.torch.prompts import Prompt
from dsim.errors import Problem, UserError
from dsim.words import show

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

INSTALL = 'data sets of the hub need the extra "datasets": pip install "dsim[datasets]"'

MBPP_HEAD = (
    "[INST]Your task is to write a Python function to solve a programming problem.\n"
    "The Python code must be between [PYTHON] and [/PYTHON] tags.\n"
    "You are given one example test from which you can infere the function signature.\n"
    "Problem: Write a Python function to get the unique elements of a list.\n"
    "Test: assert get_unique_elements([1, 2, 3, 2, 1]) == [1, 2, 3]\n"
    "[/INST]\n[PYTHON]\ndef get_unique_elements(my_list):\nreturn list(set(my_list))\n[/PYTHON]\n"
)


def _cnn_dm(example: Mapping[str, Any]) -> str:
    article = example["article"].strip("\n")
    return f"Summarize:\n{article}\nSummary:\n"


def _alpaca(example: Mapping[str, Any]) -> str:
    what = "Below is an instruction that describes a task"
    middle = ""
    if (example["input"] or "").strip():
        what += ", paired with an input that provides further context"
        middle = f"### Input:\n{example['input']}\n\n"
    return (
        f"{what}. Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{example['instruction']}\n\n{middle}### Response:\n"
    )


def _mbpp(example: Mapping[str, Any]) -> str:
    text, test = example["text"].strip("\n"), example["test_list"][0]
    return f"{MBPP_HEAD}[INST] Problem: {text}\nTest: {test}\n[/INST]"


def _prompt(example: Mapping[str, Any]) -> str:
    text: str = example["prompt"]
    return text.strip("\n")


# For each: the columns that it reads, and what it makes of them.
TEMPLATES: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], str]]] = {
    "cnn-dm": (("article",), _cnn_dm),
    "alpaca": (("instruction", "input"), _alpaca),
    "mbpp": (("text", "test_list"), _mbpp),
    "prompt": (("prompt",), _prompt),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubSet:
    """One data set of the hub, or a local folder or file in the same form.

    Attributes:
        name: what studies call it.
        path, config, split, revision: as ``datasets.load_dataset`` takes them. A *path* may be a
            folder with Parquet, JSON or CSV files.
        template: which of :data:`TEMPLATES` makes a prompt of an example.
    """

    name: str
    path: str
    template: str
    config: str = ""
    split: str = "test"
    revision: str = ""

    def prompts(self, count: int, seed: int) -> list[Prompt]:
        """*count* prompts, drawn by shuffling with *seed*, as the paper's code does.

        Raises:
            UserError: the data set cannot be loaded, or has other columns.
        """
        if find_spec("datasets") is None:
            raise UserError(INSTALL)
        import datasets
        from datasets.exceptions import DatasetsError

        datasets.disable_progress_bars()
        try:
            rows = datasets.load_dataset(
                self.path,
                self.config or None,
                split=self.split,
                revision=self.revision or None,
            )
        except (OSError, ValueError, RuntimeError, DatasetsError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                Problem(self.name, "", f"{self.path} cannot be loaded: {first}")
            ) from error
        columns, make = TEMPLATES[self.template]
        if missing := [column for column in columns if column not in rows.column_names]:
            raise UserError(
                Problem(
                    self.name,
                    "",
                    f"{self.path} has no column {missing[0]!r}, "
                    f"only {', '.join(rows.column_names)}",
                )
            )
        chosen = rows.shuffle(seed=seed).select(range(min(count, len(rows))))
        found = []
        for i, example in enumerate(chosen, 1):
            try:
                text = make(example)
            except (AttributeError, LookupError, TypeError) as error:
                bad = next((column for column in columns if not example[column]), columns[0])
                what = f"{self.path}: an example has {show(example[bad])} in column {bad!r}"
                raise UserError(Problem(self.name, "", what)) from error
            found.append(Prompt(id=f"{self.name}-{i}", task=self.name, text=text))
        return found
