"""Plans: one rung at a time, what is in force over the chain, dangers, drift, the seal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rollout_files import CONFIG, KEYS

from maxmig.config import LADDER, Stage
from maxmig.errors import ConfigError, DataError, PreflightError
from maxmig.rollout import effective, plan
from maxmig.rollout.choice import Choice
from maxmig.rollout.dangers import Severity
from maxmig.rollout.era import Era
from maxmig.rollout.plan import Plan

OLD, NEW, GONE = (Choice(era=era) for era in Era)


def keys(file: plan.FilePlan) -> dict[str, tuple[str, str | None]]:
    return {change.key: (change.action, change.new) for change in file.changes}


def write(text: str, name: str = "mt.yml") -> str:
    Path(name).write_text(text)
    return name


def test_one_rung_at_a_time(config: Path) -> None:
    made = plan.make(["run.yml"], Stage.NNX)
    (file,) = made.files
    assert (file.control, file.candidate) == ("linen", "bridged-decoder")
    assert file.left == ("bridged", "hybrid", "nnx")
    assert keys(file) == {"enable_nnx": ("add", "true")}
    assert file.changes[0].origin.startswith("configs/base.yml:") or "base.yml" in (
        file.changes[0].origin
    )
    assert config.read_text() == CONFIG  # a plan touches nothing


def test_every_step_of_the_ladder_both_ways(config: Path) -> None:
    """Climbing rung by rung, and going down again, ends with the text of the start but for keys."""
    from maxmig import config as configuration
    from maxmig.rollout import apply

    seen = [configuration.load("run.yml").flags.stage]
    for goal in (Stage.NNX, Stage.LINEN):
        for _ in range(4):
            made = plan.make(["run.yml"], goal)
            apply.apply(made, assured="a test")
            seen.append(configuration.load("run.yml").flags.stage)
    assert seen == [*LADDER, *reversed(LADDER[:-1])]
    assert plan.make(["run.yml"], Stage.LINEN).pending == ()


def test_direct(config: Path) -> None:
    (file,) = plan.make(["run.yml"], Stage.NNX, direct=True).files
    assert (file.control, file.candidate, file.left) == ("linen", "nnx", ())
    assert set(keys(file)) == set(KEYS)


def test_a_contradiction_is_planned_away_at_once(config: Path) -> None:
    config.write_text(config.read_text() + "pure_nnx: true\n")
    (file,) = plan.make(["run.yml"], Stage.NNX).files
    assert (file.control, file.candidate) == (None, "nnx")
    assert "pure_nnx: true with enable_nnx: false" in file.notes[0]
    assert file.needs_evidence


def test_what_maxmig_refuses_at_the_goal_cannot_be_planned(config: Path) -> None:
    config.write_text(config.read_text() + "stepz: 3\n")
    made = plan.make(["run.yml"], Stage.NNX)
    assert made.blocked
    assert not made.pending
    assert "unknown key 'stepz'" in made.files[0].dangers[0].text


def test_values_come_over_the_chain(here: Path) -> None:
    write("base_config: tiny_llama2.yml\nenable_nnx: true\n", "parent.yml")
    write("base_config: parent.yml\nrun_name: child\n", "child.yml")
    (file,) = plan.make(["child.yml"], Stage.NNX).files
    assert (file.control, file.candidate) == ("bridged-decoder", "bridged")
    assert keys(file) == {"pure_nnx_decoder": ("add", "true")}
    (here / "deep").mkdir()
    write("# below\nbase_config: '../child.yml'  # twice removed\n", "deep/er.yml")
    write("run_name: alone\n", "other.yml")
    (up,) = plan.make(["parent.yml"], Stage.LINEN).files
    assert up.notes[-1] == "files that inherit from it and change with it: child.yml, deep/er.yml"
    assert set(file.chain) >= {"parent.yml", "child.yml"}


def test_a_file_that_sets_the_keys_itself_does_not_change_with_its_parent(here: Path) -> None:
    write("base_config: tiny_llama2.yml\nenable_nnx: false\n", "parent.yml")
    write("base_config: parent.yml\nenable_nnx: true\n", "own.yml")
    write("base_config: own.yml\n", "below.yml")
    write("base_config: parent.yml\n", "child.yml")
    (file,) = plan.make(["parent.yml"], Stage.BRIDGED_DECODER).files
    assert file.notes[-2:] == (
        "files that inherit from it and change with it: child.yml",
        "files that inherit from it and set for themselves what changes here: below.yml, own.yml",
    )


def test_a_child_inherits_from_a_parent_of_the_same_plan(here: Path) -> None:
    write("base_config: tiny_llama2.yml\nenable_nnx: false\n", "parent.yml")
    write("base_config: parent.yml\nrun_name: child\n", "child.yml")
    made = plan.make(["child.yml", "parent.yml"], Stage.BRIDGED_DECODER)
    assert [keys(file) for file in made.files] == [{}, {"enable_nnx": ("replace", "true")}]


def test_a_file_of_maxmig_itself_is_not_planned(here: Path) -> None:
    with pytest.raises(ConfigError, match="copy it, and change the copy"):
        plan.make(["demo"], Stage.NNX)
    with pytest.raises(DataError, match=r"nothing\.yml: no such file"):
        plan.make(["nothing.yml"], Stage.NNX)
    with pytest.raises(ConfigError, match="named twice"):
        plan.make([write("steps: 1\n", "a.yml"), "./a.yml"], Stage.NNX)


def test_a_circle_of_parents(here: Path) -> None:
    write("base_config: b.yml\n", "a.yml")
    write("base_config: a.yml\n", "b.yml")
    with pytest.raises(ConfigError, match=r"goes round in a circle: a\.yml -> b\.yml -> a\.yml"):
        plan.make(["a.yml"], Stage.NNX)


def test_our_chain_is_the_one_that_runs(root: Path, here: Path) -> None:
    """The values and their places are those of `config.load`, which runs the model."""
    from maxmig import config as configuration

    (here / "models").mkdir()
    write("enable_nnx: true\n", "models/mine.yml")
    write("model_name: mine\n", "by_model.yml")
    write("base_config: by_model.yml\nenable_nnx: True\npure_nnx: true\n", "child.yml")
    write("base_config: child.yml\npure_nnx: FALSE\n", "grandchild.yml")
    names = ["by_model.yml", "child.yml", "grandchild.yml"]
    names += [str(path) for path in sorted((root / "configs").glob("*.yml"))]
    names += [str(path) for path in sorted((root / "configs").glob("bench/*.yml"))]
    for name in names:
        cfg, found = configuration.load(name), Choice().read(name)
        assert found.stage is cfg.flags.stage, name
        for key in KEYS:
            assert found.value(key) == cfg.origin(key).value
            assert Path(found.origin(key).place).name == Path(cfg.origin(key).place).name


# MaxText


def test_the_chain_of_maxtext(here: Path, maxtext: Callable[[str], Path]) -> None:
    choice = Choice(folder=maxtext("default-true"))
    write("base_config: base.yml\npure_nnx: False\nmodel_name: llama9-1b\n", "parent.yml")
    found = choice.read(write("base_config: parent.yml\nenable_nnx: no\n"))
    assert found.values() == {"enable_nnx": False, "pure_nnx": False, "pure_nnx_decoder": True}
    assert found.stage is Stage.LINEN  # MaxText asks for the decoder of NNX models only
    places = [source.place for source in found.sources["pure_nnx"]]
    assert places[0] == "MaxText default (default-true)"
    assert places[1].endswith(f"{Path('configs/base.yml')}:{_line('pure_nnx')}")
    assert places[2] == "parent.yml:2"
    assert found.other("base_emb_dim") == 64.0  # of the model's file


def _line(key: str) -> int:
    from rollout_files import base_yml

    lines = base_yml("default-true").splitlines()
    return next(i for i, line in enumerate(lines, 1) if line.startswith(f"{key}:"))


def test_maxtext_without_its_base(here: Path) -> None:
    found = NEW.read(write("base_config: base.yml\nshared_experts: 8\n"))
    assert found.stage is Stage.NNX
    assert "base.yml; MaxText's defaults stand in for it" in found.notes[0]
    assert OLD.read("mt.yml").stage is Stage.LINEN


def test_the_environment_wins_in_maxtext(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M_PURE_NNX", "False")
    name = write("shared_experts: 8\nenable_nnx: true\n")
    (file,) = plan.make([name], Stage.NNX, NEW).files
    assert file.control == "bridged"
    assert [danger.severity for danger in file.dangers if "M_PURE_NNX" in danger.place] == [
        Severity.BLOCKED
    ]


@pytest.mark.parametrize("own", ["", "pure_nnx: true\n"])
def test_the_models_file_wins_in_maxtext(
    here: Path, maxtext: Callable[[str], Path], own: str
) -> None:
    folder = maxtext("default-true")
    (folder / "configs" / "models" / "llama9-1b.yml").write_text("pure_nnx: false\n")
    name = write(f"model_name: llama9-1b\n{own}")
    (file,) = plan.make([name], Stage.NNX, Choice(folder=folder), direct=True).files
    (danger,) = [d for d in file.dangers if d.severity is Severity.BLOCKED]
    assert "the model's file wins over mt.yml for pure_nnx" in danger.text


@pytest.mark.parametrize("word", ["no", "off", '"false"', "0", "False"])
def test_maxtext_takes_many_words(here: Path, word: str) -> None:
    assert NEW.read(write(f"pure_nnx: {word}\n")).value("pure_nnx") is False


@pytest.mark.parametrize("word", ["2", "maybe", "", "null", "${oc.env:NNX}", "[true]"])
def test_no_boolean(here: Path, word: str) -> None:
    with pytest.raises(ConfigError, match=r"mt\.yml:1: pure_nnx: "):
        plan.make([write(f"pure_nnx: {word}\n")], Stage.NNX, NEW)


LINEN = "enable_nnx: false\npure_nnx: false\npure_nnx_decoder: false\n"
BRIDGED = "enable_nnx: true\npure_nnx: false\npure_nnx_decoder: true\n"
NNX = "enable_nnx: true\npure_nnx: true\npure_nnx_decoder: true\n"
BLOCKED = [
    ("qwix", BRIDGED + "use_qwix_quantization: true\nquantization: int8\n", Stage.HYBRID, "Qwix"),
    ("diloco", NNX + "enable_diloco: true\n", Stage.BRIDGED, "enable_diloco: true needs pure_nnx"),
    ("distill", NNX + "distill_beta: 0.5\n", Stage.LINEN, "above 0 needs enable_nnx"),
    ("distill_scan", LINEN + "distill_beta: 1e-3\nscan_layers: False\n", Stage.NNX, "scan_layers"),
    ("bias", NNX + "routed_bias: true\ndecoder_block: deepseek4\n", Stage.BRIDGED, "routed_bias"),
    ("vllm", NNX + "attention: vllm_rpa\n", Stage.LINEN, "vllm_rpa needs enable_nnx"),
]


@pytest.mark.parametrize(
    ("text", "to", "says"), [c[1:] for c in BLOCKED], ids=[c[0] for c in BLOCKED]
)
def test_dangers_that_block(here: Path, text: str, to: Stage, says: str) -> None:
    (file,) = plan.make([write(text)], to, NEW, direct=True).files
    blocked = [danger for danger in file.dangers if danger.severity is Severity.BLOCKED]
    assert len(blocked) == 1
    assert says in blocked[0].text
    assert blocked[0].safe
    assert blocked[0].place.startswith("mt.yml:")
    # The control: without the other key nothing is in the way.
    (free,) = plan.make(
        [write("\n".join(text.splitlines()[:3]) + "\n")], to, NEW, direct=True
    ).files
    assert not free.blocked


WARNED = [
    (LINEN + "opt_type: muon\n", Stage.NNX, "MaxText cannot resume such a checkpoint"),
    (LINEN + "skip_step_on_spikes: True\n", Stage.NNX, "skip_step_on_spikes: true: MaxText cannot"),
    (LINEN, Stage.BRIDGED, "next to no end-to-end tests"),
    (LINEN, Stage.HYBRID, "what layers sow is lost"),
    (LINEN, Stage.LINEN, "calls every false flag deprecated"),
    (LINEN + "student_overrides:\n  pure_nnx: false\n", Stage.NNX, "student_overrides.pure_nnx"),
    (LINEN + "num_generations: 2\n", Stage.NNX, "must agree on pure_nnx"),
]


@pytest.mark.parametrize(("text", "to", "says"), WARNED)
def test_dangers_that_warn(here: Path, text: str, to: Stage, says: str) -> None:
    (file,) = plan.make([write(text)], to, NEW, direct=True).files
    assert any(says in danger.text for danger in file.dangers)
    assert not file.blocked


def test_no_warning_without_a_reason(here: Path) -> None:
    (file,) = plan.make([write(LINEN)], Stage.NNX, NEW, direct=True).files
    assert file.dangers == ()


def test_a_models_file(here: Path) -> None:
    (here / "models").mkdir()
    (file,) = plan.make([write("shared_experts: 8\n", "models/x.yml")], Stage.LINEN, NEW).files
    assert any("a model's file" in danger.text for danger in file.dangers)


def test_maxtext_ignores_enable_nnx_under_pure_nnx(here: Path) -> None:
    (file,) = plan.make([write("enable_nnx: false\n")], Stage.NNX, NEW).files
    assert (file.control, file.candidate) == ("nnx", "nnx")
    assert keys(file) == {"enable_nnx": ("replace", "true")}
    assert not file.needs_evidence  # the same rung runs


def test_the_era_without_the_keys(here: Path) -> None:
    (file,) = plan.make([write(LINEN)], Stage.NNX, GONE).files
    assert file.candidate == "nnx"
    assert not file.changes
    assert [danger.safe for danger in file.dangers] == [
        "remove it: maxmig flags graduate mt.yml"
    ] * 3
    (file,) = plan.make([write("shared_experts: 8\n")], Stage.LINEN, GONE).files
    assert "has no Linen and no flags: it cannot run linen" in file.dangers[0].text
    (file,) = plan.make(["mt.yml"], Stage.NNX, GONE).files
    assert not file.changes
    assert not file.dangers


def test_the_era_before_all_the_keys(here: Path) -> None:
    (here / "old" / "configs").mkdir(parents=True)
    write("enable_nnx: false\n", "old/configs/base.yml")
    choice = Choice(folder=Path("old"))
    (file,) = plan.make([write("shared_experts: 8\n")], Stage.NNX, choice, direct=True).files
    assert "has no key pure_nnx yet" in file.dangers[0].text
    (file,) = plan.make(["mt.yml"], Stage.BRIDGED_DECODER, choice).files
    assert keys(file) == {"enable_nnx": ("add", "true")}
    assert "old" not in str(effective.of(Path("mt.yml"), "mt.yml", choice.of(Path("mt.yml"))).notes)


# The file of the plan


def test_a_plan_survives_the_file(config: Path) -> None:
    made = plan.make(["run.yml"], Stage.NNX)
    made.write(Path("plan.json"))
    assert Plan.load(Path("plan.json")) == made
    made.write(Path("plan.json"))  # an older plan may be replaced


def test_an_edited_plan_is_refused(config: Path) -> None:
    plan.make(["run.yml"], Stage.NNX).write(Path("plan.json"))
    text = Path("plan.json").read_text()
    Path("plan.json").write_text(text.replace('"control": "linen"', '"control": "hybrid"'))
    with pytest.raises(PreflightError, match="edited after it was made"):
        Plan.load(Path("plan.json"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 9}', '{"a": 1}'])
def test_what_is_no_plan(here: Path, text: str) -> None:
    Path("p.json").write_text(text)
    with pytest.raises(DataError, match=r"p\.json: expected a plan"):
        Plan.load(Path("p.json"))


def test_a_plan_replaces_no_other_file(config: Path) -> None:
    before = config.read_text()
    with pytest.raises(DataError, match="exists and is no plan"):
        plan.make(["run.yml"], Stage.NNX).write(Path("run.yml"))
    assert config.read_text() == before


def test_exit_codes_and_json(run: Callable[..., Any], config: Path) -> None:
    assert run("plan", "--to", "nnx", "run.yml").code == 0
    done = run("plan", "--to", "nnx", "run.yml", "--exit-code", "--json")
    assert done.code == 6
    assert done.json["files"][0]["candidate"] == "bridged-decoder"
    assert run("plan", "--to", "linen", "run.yml", "--exit-code").code == 0
    config.write_text("stepz: 3\n")
    done = run("plan", "--to", "nnx", "run.yml", "--exit-code")
    assert done.code == 5
    assert "IMPOSSIBLE" in done.out
    assert run("plan", "--to", "nowhere", "run.yml").code == 2
    assert run("plan", "--to", "nnx", "none.yml").code == 4
    assert not list(Path().glob("*.json"))


def test_the_text_of_a_plan(run: Callable[..., Any], config: Path) -> None:
    done = run("plan", "--to", "nnx", "run.yml", "-o", "plan.json")
    assert "run.yml   linen -> bridged-decoder  (then bridged, hybrid, nnx)" in done.out
    assert "enable_nnx: true   (in force now: false, " in done.out
    assert "1 file: 1 to change, 0 blocked. No configuration was touched." in done.out
    assert "apply it: maxmig flags apply plan.json --card parity" in done.out
    assert "evidence: maxmig parity run run.yml --control linen --candidate" in done.out
    assert "--direct goes to the goal at once" in done.err
    assert json.loads(Path("plan.json").read_text())["goal"] == "nnx"


def test_no_card_is_recommended_where_none_can_be(run: Callable[..., Any], here: Path) -> None:
    write("a: &off false\nscan_layers: true\npure_nnx: *off\n")
    words = ("plan", "--to", "nnx", "--direct", "--era", "default-true", "-o", "plan.json")
    done = run(*words, "mt.yml")
    assert done.code == 0
    assert "no card:  mt.yml: maxmig cannot load it" in done.out
    assert "aliases (*name) are not accepted" in done.out
    assert "apply plan.json --assured" in done.out
    assert "--card" not in done.out
    write("scan_layers: true\npure_nnx: false\n")  # the control: maxmig can load this one
    done = run(*words, "mt.yml")
    assert "apply it: maxmig flags apply plan.json --card parity\n" in done.out
    assert "no card:" not in done.out
