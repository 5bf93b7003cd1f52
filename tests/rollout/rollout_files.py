"""The files of these tests: a configuration, and what a MaxText package has."""

from typing import Any

from maxmig.config import Stage
from maxmig.rollout import plan

KEYS = ("enable_nnx", "pure_nnx_decoder", "pure_nnx")  # in MaxText's order
ERAS = ("default-false", "default-true", "removed")

TYPES = '''\
from heavy_library_that_is_not_here import BaseModel, Field


class HardwareAndMesh(BaseModel):
  """Configures hardware and parallelism."""

  scan_layers: bool = Field(True, description="Whether to scan.")
{flags}

class MaxTextConfig(HardwareAndMesh):
  model_config = ConfigDict(extra="forbid")
'''


def base_yml(era: str = "default-true") -> str:
    """A file like MaxText's base.yml: 1,400 lines, 500 of them comments, all kinds of writing."""
    lines = ["# A long base configuration, made for tests.", ""]
    for i in range(300):
        lines += [
            f"# Key {i}: what it means, with a colon: and 'quotes', [brackets] and a # sign.",
            [
                f"key_{i}: {i}",
                f"key_{i}: False  # written so on purpose",
                f'key_{i}: "text {i}"',
                f"key_{i}:",
                f"key_{i}: [a, b, ['c', {i}]]   # flow",
            ][i % 5],
            "",
        ]
    lines += ["# Rules, as a block of flow lists.", "logical_axis_rules: ["]
    for i in range(100):
        lines += [f"  # rule {i}" if i % 2 else "", f"  ['axis_{i}', ['data', 'fsdp']],"]
    lines += ["]", "scan_layers: true", "", "# NNX"]
    if era != "removed":
        lines += [f"{key}: {str(era == 'default-true').lower()}" for key in KEYS]
    lines += [f"# Note {i}." for i in range(70)]
    while len(lines) < 1396:
        lines += [f"# Key {len(lines)}.", f"key_{len(lines)}: 1.0e-{len(lines) % 9}", ""]
    lines += ["# The end."] * (1400 - len(lines))
    return "\n".join(lines) + "\n"


CONFIG = """\
# A small run.
base_config: tiny_llama2.yml
run_name: small   # its folder

steps: 4
"""


def step(*names: str, to: Stage = Stage.NNX, **options: Any) -> plan.Plan:
    """A plan of one rung; of run.yml unless other files are named."""
    return plan.make(names or ["run.yml"], to, **options)
