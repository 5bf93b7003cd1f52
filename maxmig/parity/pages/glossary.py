"""The words of the report, for a reader who sees one for the first time."""

GLOSSARY = {
    "control, candidate": "the side that is trusted, and the side that is examined",
    "L0 static": "both programs are traced and numbered operation by operation; an output whose "
    "number is the same on both sides is the same function of its inputs, for all weights",
    "L1 semantic": "both programs evaluated with every float in 64 bits: what they mean, without "
    "the rounding of the type that they run in",
    "L2 native": "real arrays at the real type, through the programs that training runs",
    "L3 behaviour": "next-token distributions, decoded text, sharded runs, restored checkpoints",
    "exactly equal": "the same bits in every number; -0 is not 0",
    "relative L2": "‖control − candidate‖ / max(‖control‖, ‖candidate‖) of one array",
    "error": "‖side − truth‖ / ‖truth‖, the truth being the control's own program in float64",
    "error ratio": "the candidate's error over the control's: near 1 if both round alike, whatever "
    "the depth; the limit is 2, or 3 below 1,000 numbers",
    "detectable": "the smallest change of hidden states or logits that L2 could not have missed",
    "real, packed, long": "a batch of the configuration's own data; random tokens in several "
    "segments a row, with padding; random tokens in unbroken rows",
    "update": "one optimizer step from the same made-up gradients, in the middle of the schedule",
    "masks": "which parameters move without a gradient (decay), and which with one (not frozen)",
    "KL": "KL(control ‖ candidate) of the next-token distribution, nats; about half the variance "
    "of the difference of logits, so 1e-6 is an error of 1.4e-3",
    "near-tie": "the control finds both tokens as likely, within four times its own rounding",
    "INCONCLUSIVE": "nothing failed, but the evidence is too thin to call it a pass",
}
