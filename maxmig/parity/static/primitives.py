"""What is known of JAX's primitives: which are calls, which change nothing, which commute.

Whatever is not in these tables is not compared by content: it taints what it feeds.
"""

import functools
import sys

from jax.extend.core import Primitive

# Calls, by the parameter that holds what is called. Rules of differentiation do not change values;
# where derivatives are computed, the rules are part of the equations.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}

# Results are the operands, one to one; the parameters are names and hints.
IDENTITIES = {"name", "copy", "copy_p", "optimization_barrier", "stop_gradient", "random_clone"}

# a op b is b op a, bit for bit (the payload of a NaN aside). The larger of 0 and -0 may be either.
COMMUTATIVE = {"add", "mul", "and", "or", "xor", "eq", "ne"}

# Two's complement: the same bits whether the operands are signed or not.
MODULAR = {"add", "sub", "mul"}

RENAMED = {"add_any": "add"}
SWAPPED = {"gt": "lt", "ge": "le"}

# Parameters that do not change the result.
NEUTRAL = {
    "convert_element_type": {"weak_type", "new_dtype"},  # the type is the result's
    "broadcast_in_dim": {"shape"},
    "iota": {"shape", "dtype"},
}

# Each result element comes from the operands' elements at the same place; scalars are broadcast.
ELEMENTWISE = {
    *("add", "sub", "mul", "div", "rem", "max", "min", "pow", "atan2", "nextafter"),
    *("and", "or", "xor", "not", "eq", "ne", "lt", "le", "select_n", "clamp"),
    *("shift_left", "shift_right_logical", "shift_right_arithmetic"),
}

_OTHERS = {
    *("abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "cbrt", "ceil", "cos", "cosh"),
    *("digamma", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "integer_pow"),
    *("is_finite", "lgamma", "log", "log1p", "log2", "logistic", "neg", "round", "rsqrt", "sign"),
    *("sin", "sinh", "sqrt", "square", "tan", "tanh", "population_count", "clz", "real", "imag"),
    *("complex", "conj", "bessel_i0e", "bessel_i1e", "igamma", "igammac", "igamma_grad_a"),
    *("polygamma", "zeta", "regularized_incomplete_beta", "reduce_precision"),
    *("convert_element_type", "bitcast_convert_type", "broadcast_in_dim", "reshape", "squeeze"),
    *("tile", "transpose", "rev", "concatenate", "pad", "slice", "split", "iota", "dynamic_slice"),
    *("dynamic_update_slice", "gather", "scatter", "scatter-add", "scatter_add", "scatter_mul"),
    *("scatter-mul", "scatter_min", "scatter-min", "scatter_max", "scatter-max"),
    *("dot_general", "conv_general_dilated", "cumsum", "cumprod", "cummax", "cummin"),
    *("cumlogsumexp", "argmax", "argmin", "reduce", "reduce_sum", "reduce_max", "reduce_min"),
    *("reduce_prod", "reduce_and", "reduce_or", "reduce_xor", "reduce_window"),
    *("reduce_window_sum", "reduce_window_max", "reduce_window_min", "select_and_scatter_add"),
    *("select_and_gather_add", "select_and_scatter", "sort", "top_k", "approx_top_k", "fft"),
    *("cholesky", "qr", "lu", "eigh", "svd", "triangular_solve", "tridiagonal_solve", "schur"),
    *("householder_product", "random_seed", "random_wrap", "random_unwrap", "random_bits"),
    *("random_fold_in", "random_split", "random_gamma", "threefry2x32", "rng_bit_generator"),
    *("one_minus_square", "polynomial", "stack", "unstack", "broadcast_to", "zeros_like", "mulhi"),
    *("scatter-sub", "ragged_dot_general", "iota_2x32_shape", "lu_pivots_to_permutation", "eig"),
    *("tridiagonal", "hessenberg", "geqrf", "ormqr", "symmetric_product", "cholesky_update"),
    *("philox2x32", "philox4x32", "threefry4x32"),
    *("sharding_constraint", "eq_to", "le_to", "lt_to"),
    "empty2",  # a zero, in the place of what the branch that is not taken would leave
}  # rng_uniform is not here: it gives other numbers each time, whatever its operands
KNOWN = ELEMENTWISE | _OTHERS

RANDOM = ("random_", "threefry", "philox")


def is_known(primitive: Primitive) -> bool:
    """Whether it is one of JAX's own that are functions of operands and parameters alone."""
    name = primitive.name
    return RENAMED.get(name, SWAPPED.get(name, name)) in KNOWN and is_jaxs(primitive)


def is_jaxs(primitive: Primitive) -> bool:
    """Whether JAX defines it: somebody else's may have the same name and another meaning."""
    return id(primitive) in _jaxs(len(sys.modules)) or id(primitive) in _jaxs(0)


@functools.lru_cache(maxsize=4)
def _jaxs(loaded: int) -> frozenset[int]:
    """Identities of the primitives that JAX's modules define, after `loaded` imports."""
    modules = [m for name, m in list(sys.modules.items()) if name.startswith(("jax._src", "jax."))]
    return frozenset(
        id(value) for m in modules for value in vars(m).values() if isinstance(value, Primitive)
    )
