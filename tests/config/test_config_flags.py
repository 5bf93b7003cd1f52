"""The truth table of the three flags: five rungs, three refusals."""

import itertools

import pytest

from maxmig import config
from maxmig.config import LADDER, Stage, flags
from maxmig.errors import ConfigError

# (enable_nnx, pure_nnx, pure_nnx_decoder) -> stage
RUNS = {
    (False, False, False): "linen",
    (True, False, False): "bridged-decoder",
    (True, False, True): "bridged",
    (True, True, False): "hybrid",
    (True, True, True): "nnx",
}


@pytest.mark.parametrize("setting", list(itertools.product([False, True], repeat=3)))
def test_truth_table(setting: tuple[bool, bool, bool]) -> None:
    overrides = [f"{key}={value}" for key, value in zip(flags.KEYS, setting, strict=True)]
    if setting in RUNS:
        stage = config.load("tiny_llama2", overrides).flags.stage
        assert stage is Stage(RUNS[setting])
        assert stage.flags == flags.Setting(*setting)
        assert Stage.from_flags(**stage.flags.as_dict()) is stage
    else:
        with pytest.raises(ConfigError) as caught:
            config.load("tiny_llama2", overrides)
        assert caught.value.exit_code == 2
        first, *places = str(caught.value).splitlines()
        assert first == flags.REFUSALS[flags.Setting(*setting)]
        assert places == [
            f"    {key}: {str(value).lower()} (command line)"
            for key, value in zip(flags.KEYS, setting, strict=True)
        ]


def test_refusals_differ_and_name_the_way_out() -> None:
    assert len(set(flags.REFUSALS.values())) == 3
    for setting, text in flags.REFUSALS.items():
        for key, value in setting.as_dict().items():
            assert key == "enable_nnx" or not value or f"{key}: true" in text
        assert "enable_nnx: false" in text and "Either set enable_nnx: true (stage '" in text
        assert "(stage 'linen')" in text


def test_the_way_out_is_right() -> None:
    for setting, text in flags.REFUSALS.items():
        fixed = flags.Setting(True, setting.pure_nnx, setting.pure_nnx_decoder)
        assert f"(stage '{Stage.from_flags(**fixed.as_dict()).value}')" in text


def test_ladder() -> None:
    assert [stage.value for stage in LADDER] == list(RUNS.values())
    assert [stage.order for stage in LADDER] == [0, 1, 2, 3, 4]
    assert LADDER[0].below is None and LADDER[-1].above is None
    for low, high in itertools.pairwise(LADDER):
        assert low.above is high and high.below is low
        assert low.flags.as_dict() | low.changes(high) == high.flags.as_dict()
        assert high.flags.as_dict() | high.changes(low) == low.flags.as_dict()
    assert len({stage.runs for stage in LADDER}) == 5


def test_the_default_is_the_control() -> None:
    assert config.load().flags.stage is Stage.LINEN
