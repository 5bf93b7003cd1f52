"""What comparing gives, as numbers and words: no side is run here.

measurement: one array. check: many under one verdict. subject: what was run. measure,
distributions, repeats: how they are measured. policy: what counts as equal. casts, constants,
doubts, known: what equal numbers hide, and which differences are nobody's fault. words:
numbers in sentences.
"""
