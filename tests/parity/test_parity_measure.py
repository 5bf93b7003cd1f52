"""What two arrays, and a check made of them, are found to be."""

import math

import ml_dtypes
import numpy as np
import pytest

from maxmig.parity.findings import measure
from maxmig.parity.findings.check import Check, Verdict
from maxmig.parity.findings.measurement import Measurement

BASE = np.linspace(-1.0, 2.0, 24, dtype=np.float32).reshape(2, 3, 4)


def against(other: np.ndarray, base: np.ndarray = BASE) -> Measurement:
    return measure.compare("real", "a/kernel", base, other)


def check(*measurements: Measurement, limit: float | None = None, **kwargs) -> Check:
    return Check("gradients", "gradients", measurements, limit, **kwargs)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int32, np.bool_])
def test_equal_bits(dtype):
    found = against(BASE.astype(dtype), BASE.astype(dtype).copy())
    assert found.exact and found.elements == 24 and not found.zero
    assert check(found) and check(found).needed == 0.0


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_names_the_place_of_a_difference(dtype):
    base = BASE.astype(dtype)
    other = base.copy()
    other[1, 2, 0] = 4.0
    found = against(other, base)
    assert (found.differing, found.max_abs.index, found.max_rel.index) == (1, (1, 2, 0), (1, 2, 0))
    gap = 4.0 - float(base[1, 2, 0])
    assert found.max_abs.value == pytest.approx(gap)
    assert (found.max_abs.control, found.max_abs.candidate) == (float(base[1, 2, 0]), 4.0)
    assert found.max_rel.value == pytest.approx(gap / 4.0)
    assert found.rel_l2 == pytest.approx(gap / np.linalg.norm(other.astype(np.float64)))


def test_the_needed_tolerance_is_the_smallest_that_passes():
    other = BASE + np.float32(1e-3) * (BASE > 1)
    found = against(other)
    needed = check(found).needed
    assert check(found).verdict is Verdict.FAIL
    assert check(found, limit=needed) and not check(found, limit=needed * 0.999)


def test_one_unit_in_the_last_place_fails_bitwise():
    other = BASE.copy()
    other[0, 0, 1] = np.nextafter(other[0, 0, 1], np.float32(9))
    assert check(against(other)).verdict is Verdict.FAIL


def test_signs_of_zeros_are_bits():
    zero = np.array([0.0, 1.0], np.float32)
    found = against(np.array([-0.0, 1.0], np.float32), zero)
    assert (found.differing, found.rel_l2, found.exact) == (1, 0.0, False)
    assert check(found).verdict is Verdict.FAIL and check(found, limit=0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sides", ["control", "candidate", "both"])
def test_what_is_not_finite_fails_and_is_named(value, sides):
    pair = {"control": BASE.copy(), "candidate": BASE.copy()}
    for side, array in pair.items():
        if sides in (side, "both"):
            array[0, 1, 3] = value
    found = against(pair["candidate"], pair["control"])
    told = "control and the candidate" if sides == "both" else sides
    assert found.problem.startswith(f"{value} in the {told} at [0, 1, 3], 1 of 24")
    assert check(found, limit=1e9).verdict is Verdict.FAIL
    assert check(found).needed == math.inf


def test_zeros_on_one_side_fail_at_any_tolerance():
    found = against(np.zeros_like(BASE))
    assert found.problem == "exactly zero in the candidate only"
    assert check(found, limit=1e9).verdict is Verdict.FAIL


def test_other_shapes_and_types_fail_without_subtracting():
    transposed = np.swapaxes(BASE, 0, 2)
    assert "float32 [4, 3, 2] in the candidate" in against(transposed).problem
    assert "float16" in against(BASE.astype(np.float16)).problem
    assert check(against(transposed), limit=1e9).verdict is Verdict.FAIL


def test_scalars_keep_their_values():
    found = against(np.float32(2.5)[()], np.float32(2.0)[()])
    assert found.values == (2.0, 2.5) and found.max_abs.index == ()
    assert found.max_abs.place == "a/kernel"


def test_nothing_and_only_zeros_are_inconclusive():
    zero = np.zeros_like(BASE)
    assert check().verdict is Verdict.INCONCLUSIVE
    assert check().reason == "nothing was compared"
    assert check(against(zero, zero)).reason == "only zeros were compared"
    assert check(against(zero, zero), may_be_zero=True).verdict is Verdict.PASS
    assert check(against(zero, zero), against(BASE)).verdict is Verdict.PASS
    assert not check(against(zero, zero))


def test_the_worst_is_of_the_first_item_that_fails():
    small = measure.compare("step 1", "b", BASE, BASE * np.float32(1.001))
    large = measure.compare("step 2", "c", BASE, BASE * np.float32(2))
    equal = measure.compare("step 1", "a", BASE, BASE)
    found = check(equal, small, large)
    assert found.worst is small
    assert found.max_abs.path == "c"
    assert {item: part.verdict.value for item, part in found.items.items()} == {
        "step 1": "FAIL",
        "step 2": "FAIL",
    }
