"""Random state: kept, dropped, or derived from (seed, path, step)."""

from pathlib import Path

import mapping_cases
import pytest
from mapping_trees import document, targets

from maxmig import errors
from maxmig.converters import checkpoint, mapping
from maxmig.converters.mapping import derive, files


def test_random_state_is_derived_from_seed_path_and_step() -> None:
    leaf = derive.key_leaf("threefry2x32", (3,))

    def made(path: str = "a/key", seed: int = 0, step: int = 5) -> list[int]:
        return list(derive.maker(path, leaf, seed, step)().ravel())

    assert made() == made()
    assert len({tuple(found) for found in (made(), made("b/key"), made(seed=1), made(step=6))}) == 4
    assert derive.maker("a/key", leaf, 0, 5)().shape == (3, 2)


def test_random_state_of_a_list_is_spelt_as_nnx_has_it_and_dropped_on_the_way_back(
    tree: Path, tmp_path: Path
) -> None:
    spelt = [{"random": f"block/{i}/dropout/rngs"} for i in range(3)]
    there = document({"list": "block"}, *spelt)
    mapping_cases.convert(tree, tmp_path / "nnx", "nnx-state", map_file=there)
    planned = mapping.planned(checkpoint.read(tree), "nnx-state", map_file=there)
    assert {"block/2/dropout/rngs/count/value", "block/2/bias/value"} <= targets(planned)
    assert "aux/block_2/dropout/rngs/key" in planned.state.items
    alone = mapping.planned(checkpoint.read(tree), "nnx-state", map_file=document(*spelt))
    assert targets(alone) == targets(planned)
    back = files.parse(there.inverse().data(), "back")
    again = mapping.planned(
        checkpoint.read(tmp_path / "nnx"), "linen-variables", map_file=back, random="keep"
    )
    assert targets(again) == targets(mapping.planned(checkpoint.read(tree), "linen-variables"))


def test_random_state_at_no_module_or_at_several(tree: Path) -> None:
    def notes(at: str) -> tuple[str, ...]:
        planned = mapping.planned(
            checkpoint.read(tree), "nnx-state", map_file=document({"random": at})
        )
        return planned.conversion.notes

    assert any("where block_2 is meant" in note for note in notes("blokc_2/dropuot/rngs"))
    assert not any("is meant" in x for at in ("block_2/rngs", "dropout/rngs") for x in notes(at))
    with pytest.raises(errors.ConfigError, match=r"path of one module, without \*"):
        document({"random": "block/*/rngs"})


def test_random_state_policies(tmp_path: Path) -> None:
    data = Path(__file__).resolve().parents[1] / "data" / "flax_0_10_optimizer"
    source = checkpoint.read(data)
    kept = mapping.plan(source, "nnx")
    assert any("rngs" in map(str, path) for path in kept.leaves)
    assert not any("rngs" in path for path in mapping.plan(source, "nnx", random="drop").leaves)
    with pytest.raises(errors.ConvertError, match="no place for random state"):
        mapping.plan(source, "linen", random="keep")
    mapping_cases.convert(data, tmp_path / "linen", "linen")
    back = mapping.plan(checkpoint.read(tmp_path / "linen"), "nnx")
    assert {item.why for item in back.made} == {"random state, derived from (seed, path, step)"}
    assert back.leaves == kept.leaves
