"""The table of traps. What each looks for is in the file of its kind."""

import dataclasses

from maxmig.lint import calls, captured, layers, modes, transforms, writes
from maxmig.lint.modes import ProjectRule
from maxmig.lint.source import Rule

RULES: tuple[Rule, ...] = (
    Rule(
        "jit-drops-state",
        "an NNX module goes into jax.jit, and its state does not come out",
        "use nnx.jit, or split the module and return its state: "
        "graphdef, state = nnx.split(model); ... return out, nnx.state(model)",
        transforms.jit_drops_state,
    ),
    Rule(
        "grad-of-module",
        "jax.grad of an NNX module",
        "use nnx.grad / nnx.value_and_grad (nnx.Param only), or split off nnx.Param and "
        "differentiate with respect to that",
        transforms.grad_of_module,
    ),
    Rule(
        "captured-module",
        "a JAX transformation that uses an NNX module from outside",
        "give the module to nnx.jit, nnx.vmap or nnx.scan as an argument; or split it, pass its "
        "state, and merge it inside",
        captured.captured_module,
    ),
    Rule(
        "mask-by-path",
        "a mask that looks at the last key of a path",
        "paths of an NNX state end in `.value`: test `'kernel' in jax.tree_util.keystr(path)`, the "
        "variable's type, or ndim; then compare the lists of leaves that decay",
        calls.mask_by_path,
    ),
    Rule(
        "state-is-no-dict",
        "flax.traverse_util on an NNX state",
        "use nnx.to_pure_dict(state) first, or nnx.to_flat_state / nnx.map_state",
        calls.state_is_no_dict,
    ),
    Rule(
        "param-overwritten",
        "a variable's attribute is given a plain array",
        "write into the variable: model.kernel[...] = value, or give it nnx.Param(value)",
        writes.param_overwritten,
    ),
    Rule(
        "value-written",
        "`.value` of a variable is written",
        "since flax 0.12.1: variable[...] = value, or variable.set_value(value)",
        writes.value_written,
    ),
    Rule(
        "list-of-modules",
        "modules in a plain list, tuple or dict of an NNX module",
        "self.layers = nnx.List([...]) (nnx.Dict for a dict); both need flax 0.12",
        writes.list_of_modules,
    ),
    Rule(
        "no-decode",
        "nnx.MultiHeadAttention without decode",
        "give decode=False (or True with init_cache) to the layer or to its call",
        modes.no_decode,
    ),
    Rule(
        "no-nnx-twin",
        "a Linen layer, option or transform that NNX does not have",
        "plan its replacement before the migration starts",
        layers.no_nnx_twin,
    ),
    Rule(
        "lossy-layer",
        "a layer whose NNX class cannot hold all of its weights",
        "use a cell of your own, or see that the weight is zero before you convert",
        layers.lossy_layer,
    ),
    Rule(
        "nested-names",
        "unnamed Linen layers of one class in one nested call",
        "Linen numbers by construction, so the outer layer is _0: name them, or map by "
        "`maxmig parity run --pair`",
        layers.nested_names,
    ),
    Rule(
        "norm-promotion",
        "an NNX norm in a narrow type",
        "for Linen's numbers: promote_dtype=lambda xs, *args, **kwargs: xs",
        layers.norm_promotion,
    ),
    Rule(
        "optimizer-api",
        "nnx.Optimizer as before flax 0.11",
        "nnx.Optimizer(model, tx, wrt=nnx.Param), optimizer.update(model, grads)",
        calls.optimizer_api,
    ),
)

PROJECT_RULES: tuple[ProjectRule, ...] = (
    ProjectRule(
        **{
            f.name: getattr(rule, f.name)
            for rule in [
                Rule(
                    "training-mode",
                    "layers that differ in training, and nothing that calls .eval()",
                    "NNX starts in training mode, where Linen had to be told: call model.eval() "
                    "before evaluation and model.train() after, or pass deterministic= / "
                    "use_running_average=",
                    lambda source: iter(()),
                )
            ]
            for f in dataclasses.fields(rule)
        },
        find_all=modes.training_mode,
    ),
)
