"""Symptoms of a migration that went wrong: the cause, the fix, and who met it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Entry:
    """One trap.

    Attributes:
        code: its name on the command line.
        symptom: what is seen.
        cause: why.
        fix: what to do.
        source: where it was met, or measured.
    """

    code: str
    symptom: str
    cause: str
    fix: str
    source: str


ENTRIES = (
    Entry(
        "wrong-rung",
        "Both sides are equal because both are the same framework, or a side is not what was "
        "asked for.",
        "A flag was not read, a default won, or a mixed setting fell back to Linen. Comparing a "
        "model with itself always passes.",
        "`maxmig flags why enable_nnx CONFIG` shows who set it. maxmig proves the rung from the "
        "objects that ran and gives no verdict where both are the same; --allow-same measures "
        "noise on purpose.",
        "MaxText 36e333c2a: a comparison of compiled programs held Linen against Linen for weeks.",
    ),
    Entry(
        "weights",
        "`start` fails: a leaf differs before anything was computed.",
        "The conversion changed it: a transposed square matrix, layers in each other's place, a "
        "cast, a stack along another axis. Shapes do not tell when they are equal.",
        "`maxmig ckpt diff A B` names the leaves and the places. Convert again; for your own "
        "model, check the mapping: Linen numbers modules in the order of construction, so in "
        "Dense(4)(relu(Dense(8)(x))) the outer layer is Dense_0.",
        "Reproduced with flax 0.12.8; acfr/RobustNeuralNetworks#23, apax#500, maxtext#4504.",
    ),
    Entry(
        "missing-weights",
        "A leaf is on one side only, or has the value of the initialiser after a restore.",
        "Restoring walks the target's tree, and what has no partner keeps its first value: zeros, "
        "random numbers or a placeholder. Filters by type (nnx.Param only) lose other collections.",
        "Convert with `maxmig ckpt convert`: every leaf read has one fate, every leaf written one "
        "origin, and what is not accounted for is an error.",
        "maxtext#3844, #4341, #4343, #5226; google/orbax#1402.",
    ),
    Entry(
        "optimizer-state",
        "Outputs and gradients agree, but parameters or moments part after a step.",
        "The optimizer's state was reset or misplaced: Linen's tree keeps empty places (lists with "
        "None), nnx.Optimizer drops them and writes string numbers. Or hyperparameters differ: "
        "weight decay, epsilon, schedule, clipping.",
        "Compare `update` (one step from equal gradients) with `params`: if `update` fails, it is "
        "the optimizer; if only later steps do, its state. Carry the state over by its structure, "
        "as `maxmig ckpt convert` does.",
        "Of 16 optimizers, MaxText's own mapping kept 5; maxtext#3929, #4343, google/flax#4423.",
    ),
    Entry(
        "mask-paths",
        "Other parameters decay, or are frozen, than before.",
        "Paths of an nnx.State end in `.value` at init and not at update, so a mask that looks at "
        "the last key matches nothing, without an error.",
        "Choose by the canonical path or the number of dimensions, never by the type of the last "
        "key. The check `masks` lists what decays and what is trained on both sides.",
        "jax-ml/jax#31256, google/flax#4167; reproduced with optax 0.2.8.",
    ),
    Entry(
        "norm-promotion",
        "In bfloat16 the outputs of norms, or the gradients of their scales, differ a little.",
        "Since flax 0.12.1 NNX norms cast the input, scale and bias to the computation type first; "
        "Linen normalises in float32 and casts at the end. Statistics of BatchNorm drift as well.",
        "Give the NNX layer promote_dtype=lambda xs, *a, **k: xs, which restores equal bits; or "
        "accept it, knowing that the error ratio stays near 1.",
        "flax 3a630ff0; measured: 41 % of a LayerNorm's outputs differ, twice the error.",
    ),
    Entry(
        "norm-epsilon",
        "A small difference begins at a norm and stays small.",
        "Another epsilon: Linen's and NNX's defaults are 1e-6, many configurations say 1e-5. "
        "bfloat16 alone cannot see it: 2.4e-3 in the logits, with a noise of 8e-3.",
        "Set it explicitly on both sides. L0 and L1 name the line and both constants.",
        "Measured on an 8-layer decoder.",
    ),
    Entry(
        "momentum",
        "Running statistics (batch_stats: mean, var) differ after a training step; outputs of that "
        "step and gradients agree.",
        "Another momentum of a BatchNorm. In Linen and NNX it is the weight of the old statistics, "
        "0.99 by default; PyTorch's is the weight of the new ones, 0.1 by default, and other "
        "frameworks have 0.9. Evaluation shows it only after many steps.",
        "Set momentum explicitly on both sides. L0 and L1 name both numbers, and the line of your "
        "module that calls the layer.",
        "flax.linen.BatchNorm, flax.nnx.BatchNorm; reproduced with flax 0.12.8.",
    ),
    Entry(
        "attention-scale",
        "L0 does not prove attention: one side divides by sqrt(depth), the other multiplies.",
        "Stock Flax layers do so: Linen scales the query by division, NNX hands it to "
        "jax.nn.dot_product_attention. Equal in float64, up to 8e-3 apart in bfloat16.",
        "Harmless if L1 passes. For equal bits give nnx.MultiHeadAttention your own "
        "attention function.",
        "flax 6f7322db (0.10.5); measured.",
    ),
    Entry(
        "rope",
        "KL grows with the position, and position 0 is equal.",
        "Rotary positions differ: the time scale, the rotated part of a head, or how positions "
        "restart in packed rows. Short prompts hide it: at 4 tokens a wrong scale passes.",
        "Compare rope_max_timescale and rope_type, and run with --tokens 512 or longer.",
        "Measured: error ratio 2.5 at 4 tokens, 12.6 at 64.",
    ),
    Entry(
        "mask",
        "Logits differ at the ends of segments, or in padding.",
        "The causal mask is off by one, or one side lets a segment see another.",
        "The packed batch shows which positions differ; compare them one segment a row.",
        "One of the twelve faults that `maxmig parity selftest` injects.",
    ),
    Entry(
        "cast",
        "One side converts between floating-point types where the other does not.",
        "A precision policy differs: softmax or logits in another type, a scale cast before use.",
        "The table of casts in the report has both lines. Decide which is meant; float64 cannot "
        "tell, since it is a matter of rounding and not of meaning.",
        "Measured: a low-precision softmax is invisible to float64.",
    ),
    Entry(
        "settings",
        "`configuration` fails: a key besides the three flags differs.",
        "The two sides were not given one configuration.",
        "Use one file for both; `maxmig flags why KEY CONFIG` shows where a value is from.",
        "maxtext#4310: the reference was loaded in another type, and the comparison passed.",
    ),
    Entry(
        "not-finite",
        "NaN or infinity on one side, or on both.",
        "An overflow, a division by zero in a fully masked row, or weights that hold NaN already. "
        "On both sides it is not parity either: NaN compares equal to nothing.",
        "Look at the first check that fails: `start` means the checkpoint has it.",
        "maxtext 3d212094d: a nan_to_num that came with a migration hid it.",
    ),
    Entry(
        "zero-on-one-side",
        "An array is exactly zero on one side only.",
        "Something is not connected: a lost gradient (stop_gradient, a parameter that was replaced "
        "by a plain array), a dead branch, a loss that is not added.",
        "Assign to a parameter with `p[...] = x`, never `module.p = x`, which removes it from the "
        "state; compare the census of parameters before and after.",
        "Reproduced with flax 0.12.8.",
    ),
    Entry(
        "lost-loss",
        "A component of the loss is 0 on one side.",
        "A sown value was not collected: a filter by type missed a subclass, or scanned layers "
        "dropped it.",
        "Return auxiliary losses instead of sowing them, or assert that they are not 0.",
        "maxtext#4525 (multi-token prediction), #4829 (load balancing).",
    ),
    Entry(
        "frozen-masks",
        "Dropout draws the same mask at each step, or another one at the same step.",
        "jax.jit on an NNX module drops its state updates, so counters stand still; scanned layers "
        "can share one counter.",
        "Use nnx.jit, return the state, or derive keys from the step, as maxmig does.",
        "google/flax#4539; reproduced with flax 0.12.8.",
    ),
    Entry(
        "train-mode",
        "Evaluating twice gives two results, or changes weights or statistics.",
        "NNX layers are in training mode unless told otherwise; Linen's insist on being told.",
        "Call model.eval(), or give deterministic and use_running_average explicitly.",
        "flax 84da828a changed the default; 0.12.7 to 0.12.12 have the old one again.",
    ),
    Entry(
        "decode",
        "Teacher-forced logits agree, decoded text does not.",
        "The cache: an index that is shared between rows, positions that do not go on, keys stored "
        "before rotation. Or a near-tie, which the rule forgives.",
        "Compare the programs prefill and decode at L0, and the first token that differs.",
        "Report of issue threads; subsystem notes of MaxText.",
    ),
    Entry(
        "stream-names",
        "A pair passes, and its report notes random streams of other names, or of another number.",
        "What Linen draws with make_rng('noise'), NNX draws from another stream, or one side draws "
        "more often. Masks are as random as before, but whoever gives apply(rngs={'noise': key}), "
        "splits streams by name (nnx.split_rngs) or restores one finds the other masks.",
        "Name the NNX stream as Linen's: rngs.noise(), nnx.Dropout(..., rng_collection='noise'). "
        "One stream for all names, nnx.Rngs(0), counts as the same. maxmig gives both sides equal "
        "keys in the order of the calls, so masks are compared in any case.",
        "flax.nnx.Rngs and flax.linen.Module.make_rng; both fold other things into their keys.",
    ),
    Entry(
        "nondeterministic",
        "Two runs of the control differ.",
        "Atomic additions on a GPU, callbacks, or randomness without a key. No comparison with a "
        "second side can be finer than that.",
        "Set XLA_FLAGS=--xla_gpu_deterministic_ops=true, or measure it: `maxmig parity noise`, and "
        "give the file to `parity run --noise`.",
        "Diffy and climate models do the same: control against control first.",
    ),
    Entry(
        "noise-hides",
        "INCONCLUSIVE: rounding hides what a difference could be.",
        "In bfloat16 each side errs by about 1 %, and a wrong epsilon changes less. Of twelve "
        "faults, native bfloat16 comparisons find six or seven by any rule without false alarms.",
        "Run --level L0,L1 too: a proof, or float64, has no such noise. Or dtype=float32.",
        "Measured on an 8-layer decoder with twelve injected faults.",
    ),
)

BY_CODE = {entry.code: entry for entry in ENTRIES}
