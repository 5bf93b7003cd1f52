"""On which axis layers are stacked where nobody says it; and a layer axis that is said in vain."""

import mapping_cases
import numpy as np
import pytest

from maxmig.converters import checkpoint, mapping


@pytest.fixture
def planned(tmp_path):
    def plan(params, **options):
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        source = mapping_cases.save(place, {"params": params})
        return mapping.planned(checkpoint.read(source), "nnx-state", **options)

    return plan


def layers(name):
    """Three layers that are apart."""
    return {f"{name}_{i}": {"dense": {"kernel": np.full((4, 6), i, np.float32)}} for i in range(3)}


MAXTEXT = {
    "token_embedder": {"embedding": np.ones((8, 4), np.float32)},
    "decoder": {"decoder_norm": {"scale": np.ones(4, np.float32)}, **layers("layers")},
}


@pytest.mark.parametrize(
    ("params", "axis", "whose"),
    [
        (layers("layers"), 0, "that of nn.scan and nnx.vmap"),
        (layers("blocks"), 0, "that of nn.scan and nnx.vmap"),
        ({"decoder": layers("layers")}, 0, "that of nn.scan and nnx.vmap"),
        (MAXTEXT, 1, "MaxText's"),
    ],
    ids=["layers", "blocks", "decoder", "maxtext"],
)
def test_maxtexts_axis_is_of_its_own_trees_alone(planned, params, axis, whose):
    todo = planned(params, scan=True)
    (kernel,) = [leaf.shape for path, leaf in todo.state.leaves().items() if "dense" in path]
    assert kernel.index(3) == axis
    assert f"layers are stacked on axis {axis}, {whose}; --scan-axis chooses" in todo.state.notes
    told = planned(params, scan=True, scan_axis=1 - axis)
    (kernel,) = [leaf.shape for path, leaf in told.state.leaves().items() if "dense" in path]
    assert kernel.index(3) == 1 - axis
    assert not any("are stacked on" in note for note in told.state.notes)


def test_the_number_of_the_step_is_told_where_the_counter_tells_it(tmp_path):
    tree = {"params": {"n": np.ones(2, np.float32)}, "step": np.int32(3)}
    source = checkpoint.read(mapping_cases.save(tmp_path / "s", tree))
    notes = [
        " ".join(mapping.planned(source, "nnx-optimizer", **options).conversion.notes)
        for options in ({}, {"container": "msgpack"}, {"params_only": True})
    ]
    assert ["the result is step 2, as MaxText" in each for each in notes] == [True, False, True]


def test_an_axis_of_no_stack_is_told(planned):
    stack = {
        "dense": {"kernel": np.ones((3, 4, 6), np.float32), "bias": np.ones((3, 6), np.float32)},
        "norm": {"scale": np.ones((3, 4), np.float32)},
    }
    for params, axis, options, vain in (
        (layers("layers"), 0, {"scan": False}, True),
        (layers("layers"), 7, {}, True),
        (layers("layers"), 0, {}, False),  # a stack without a known name is not looked for
        ({"blocks": stack}, 0, {"scan": False}, False),
        ({"layers": stack}, 0, {}, False),
    ):
        notes = planned(params, from_scan_axis=axis, **options).state.notes
        assert vain == any(f"--from-scan-axis {axis} does nothing" in note for note in notes)
