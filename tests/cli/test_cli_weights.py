"""`maxmig eval` and `maxmig generate`: on both wings, from either layout, and what they print."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import pytest
import runs

from maxmig.config.flags import Stage

TINY = str(helpers.ROOT / "configs" / "tiny_llama2.yml")


@pytest.fixture(autouse=True)
def _one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.alone(monkeypatch)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of some steps under Linen."""
    made = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        runs.alone(patch)
        runs.train(runs.config(made, "steps=12", "checkpoint_period=6", "eval_interval=12"))
    return made


@pytest.fixture
def call(run: Callable[..., Any], trained: Path) -> Callable[..., Any]:
    def call(verb: str, *words: str, stage: Stage = Stage.LINEN) -> Any:
        # The last of two values for a key wins, so a test's own come last.
        return run(verb, TINY, *runs.arguments(trained, stage=stage), *words)

    return call


def test_eval_is_the_same_on_every_rung(call: Any, trained: Path) -> None:
    told = {stage: call("eval", "--json", stage=stage).json for stage in Stage}
    control = told[Stage.LINEN]
    for stage, document in told.items():
        assert document == control | {"stage": stage.value}
    assert control["perplexity"] == pytest.approx(math.exp(control["loss"]))
    assert control["checkpoint_step"] == 11
    assert control["tokens"] > 0 and control["batches"] > 0


def test_eval_is_that_of_training(call: Any, trained: Path, wing: Stage) -> None:
    found = call("eval", "--steps", "10", "--json", stage=wing).json
    told = runs.records(trained / "out" / "run" / "metrics.jsonl")[-1]
    assert (found["loss"], found["tokens"]) == (told["eval_loss"], told["eval_tokens"])


def test_eval_of_an_earlier_step_is_another(call: Any, trained: Path) -> None:
    """Negative control: the weights that are named are those that are read."""
    earlier = str(trained / "out" / "run" / "checkpoints" / "5")
    found = call("eval", "--checkpoint", earlier, "--json").json
    assert found["checkpoint"] == earlier and found["checkpoint_step"] == 5
    assert found["loss"] != call("eval", "--json").json["loss"]


def test_eval_prints(call: Any, trained: Path) -> None:
    done = call("eval")
    assert done.code == 0
    assert done.out.startswith("loss ") and " perplexity " in done.out and " tokens" in done.out
    heads = [line.split()[0] for line in done.err.splitlines()]
    assert heads == ["weights", "rung", "data"]
    assert "checkpoints, folder 11" in done.err
    assert call("eval", "--quiet").err == ""


@pytest.mark.parametrize("steps", ["0", "-1", "x", "1.5"])
def test_eval_of_no_steps(call: Any, steps: str) -> None:
    done = call("eval", "--steps", steps)
    assert done.code == 2 and "--steps" in done.err and "1 or more" in done.err


def test_generate_is_the_same_on_every_rung(call: Any) -> None:
    words = ("add_eos=false", "--prompt", "the quick ", "--prompt", "a", "--tokens", "12", "--json")
    told = {stage: call("generate", *words, stage=stage).json for stage in Stage}
    control = told[Stage.LINEN]
    for stage, document in told.items():
        assert document == control | {"stage": stage.value}
    assert [r["prompt"] for r in control["results"]] == ["the quick ", "a"]
    for result in control["results"]:
        assert len(result["tokens"]) == 12 and isinstance(result["text"], str)
    one = call("generate", words[0], *words[3:], stage=Stage.NNX).json["results"]
    assert one == control["results"][1:]


def test_generate_prints_prompts_with_their_text(call: Any) -> None:
    done = call("generate", "--tokens", "4", "prompt=the lazy")
    assert done.code == 0 and done.out.startswith("the lazy")
    told = call("generate", "--tokens", "4", "prompt=the lazy", "--json").json["results"]
    assert done.out == "the lazy" + told[0]["text"] + "\n"


def test_seeds(call: Any) -> None:
    words = ("--json", "--tokens", "12", "decode_sampling_strategy=weighted", "prompt=a")
    one, same, other = (call("generate", "--seed", s, *words).json["results"] for s in "112")
    assert one == same != other


def test_a_text_ends_where_the_model_ends_it(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from maxmig import infer

    rows = np.array([[97, 98, 257, 99], [97, 98, 99, 100]], np.int32)
    monkeypatch.setattr(infer.Generator, "generate", lambda *_, **__: rows)
    told = call("generate", "--prompt", "x", "--prompt", "y", "--json").json["results"]
    assert [r["text"] for r in told] == ["ab", "abcd"]
    assert told[0]["tokens"] == [97, 98]
    kept = call("generate", "--prompt", "x", "--prompt", "y", "--json", "add_eos=false")
    assert kept.json["results"][0]["tokens"] == rows[0].tolist()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--prompt", ""), "prompt 1 of 1 has no tokens"),
        (("--prompt", "x" * 17), "max_prefill_predict_length=17"),
        (("--tokens", "0"), "1 or more"),
        (("--tokens", "many"), "1 or more"),
        (("decode_sampling_strategy=topk",), "decode_sampling_top_k"),
        (("decode_sampling_strategy=nucleus",), "decode_sampling_nucleus_p"),
        (("decode_sampling_temperature=0",), "decode_sampling_temperature"),
    ],
)
def test_what_cannot_be_generated(call: Any, words: tuple[str, ...], says: str) -> None:
    done = call("generate", *words)
    assert done.code == 2 and says in done.err and done.out == ""
    assert "Traceback" not in done.err


def test_bos_begins_a_prompt_where_it_begins_documents(call: Any) -> None:
    done = call("generate", "--prompt", "", "--tokens", "3", "--json", "add_bos=true")
    assert done.code == 0, done.err
    assert len(done.json["results"]) == 1


def test_another_folder_is_named(call: Any, trained: Path, tmp_path: Path) -> None:
    """A checkpoint directory that was moved is read where it is."""
    moved = tmp_path / "moved"
    shutil.copytree(trained / "out" / "run" / "checkpoints", moved)
    one = call("eval", "--checkpoint", str(moved), "--json").json
    assert one["checkpoint"] == str(moved)
    assert one["loss"] == call("eval", "--json").json["loss"]
