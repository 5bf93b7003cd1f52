"""`maxmig doctor`: versions, devices, memory, and what can run here, each part tried for real."""

import argparse
import dataclasses
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import maxmig
from maxmig.cli import console
from maxmig.cli.exit_codes import ExitCode
from maxmig.cli.verb import Verb

# The newest versions that the tests ran with; the lowest stand in pyproject.toml.
NEWEST_TESTED = {
    "jax": "0.12.0.1",
    "jaxlib": "0.12.0.1",
    "flax": "0.12.12",
    "optax": "0.2.8",
    "orbax-checkpoint": "0.12.8",
    "tensorstore": "0.1.86",
    "grain": "0.2.18",
    "numpy": "2.5.5",
    "pydantic": "2.14.3",
}
_PYTHON_LOWEST, _PYTHON_NEWEST = "3.11", "3.13"
_DEVICES = 8


@dataclasses.dataclass(frozen=True)
class Check:
    """One finding; `essential` ones decide whether maxmig can run here."""

    name: str
    verdict: str
    detail: str
    essential: bool = True


@dataclasses.dataclass(frozen=True)
class Package:
    """A package, its version here and the versions that were tested; None: not installed."""

    name: str
    version: str | None
    lowest: str | None
    newest: str
    verdict: str


def run(args: argparse.Namespace) -> int:
    """Prints the findings; 5 when something essential is missing."""
    found = packages()
    checks = [try_out(*item) for item in _TRIALS]
    sick = [p.name for p in found if p.verdict == "FAIL"]
    sick += [c.name for c in checks if c.verdict == "FAIL" and c.essential]
    verdict = "FAIL" if sick else "PASS"
    facts = machine()
    if args.json:
        console.emit_json(
            {
                "verdict": verdict,
                "failed": sick,
                "maxmig": maxmig.__version__,
                "machine": facts,
                "packages": found,
                "checks": checks,
            }
        )
    else:
        _show(facts, found, checks)
        advice = f": {', '.join(sick)}" if sick else f": maxmig {maxmig.__version__} can run here"
        console.out(console.status(verdict).append(advice))
    return ExitCode.REFUSED if sick else ExitCode.PASS


def _show(facts: dict[str, Any], found: list[Package], checks: list[Check]) -> None:
    for name, value in facts.items():
        console.out(f"{name.replace('_', ' '):<16} {_GIB.get(name, str)(value)}")
    rows = [
        (
            package.name,
            package.version or "missing",
            f"{package.lowest or 'any'} to {package.newest}",
            console.status(package.verdict),
        )
        for package in found
    ]
    console.out(console.table(["package", "version", "tested", "verdict"], rows))
    results = [(check.name, console.status(check.verdict), check.detail) for check in checks]
    console.out(console.table(["what can run here", "verdict", "detail"], results))


def packages() -> list[Package]:
    """The packages that decide what runs, with the ranges that were tested."""
    lowest = {}
    for requirement in importlib.metadata.requires("maxmig") or ():
        if match := re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", requirement):
            lowest[match[1].lower()] = match[2]
    python = platform.python_version()
    judged = _judge(python, _PYTHON_LOWEST, _PYTHON_NEWEST, parts=2)
    found = [Package("python", python, _PYTHON_LOWEST, _PYTHON_NEWEST, judged)]
    for name, newest in NEWEST_TESTED.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        judged = _judge(version, lowest.get(name), newest)
        found.append(Package(name, version, lowest.get(name), newest, judged))
    return found


def _judge(version: str | None, lowest: str | None, newest: str, *, parts: int = 4) -> str:
    """FAIL below the tested range, WARN above it: newer versions mostly work."""
    if version is None or (lowest and _numbers(version, parts) < _numbers(lowest, parts)):
        return "FAIL"
    return "WARN" if _numbers(version, parts) > _numbers(newest, parts) else "PASS"


def _numbers(version: str, parts: int) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(number) for number in match[0].split(".")] if match else []
    return tuple((numbers + [0] * parts)[:parts])


def machine() -> dict[str, Any]:
    """Facts of this machine; sizes in bytes, None where they cannot be known."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    total, available = _memory()
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": cores,
        "memory": total,
        "memory_available": available,
        "disk_free_here": shutil.disk_usage(Path.cwd()).free,
        "disk_free_temp": shutil.disk_usage(tempfile.gettempdir()).free,
        "python": sys.executable,
    }


def _memory() -> tuple[int | None, int | None]:
    """Memory that this process may use, and what of it is free; a container's limit counts."""
    total = available = None
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.exists() and (match := re.search(r"MemAvailable:\s*(\d+)", meminfo.read_text())):
        available = int(match[1]) * 1024
    if total and limit.exists() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
        available = min(total, available) if available is not None else None
    return total, available


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"


_GIB = dict.fromkeys(("memory", "memory_available", "disk_free_here", "disk_free_temp"), _gib)


def try_out(name: str, trial: Callable[[], str], essential: bool) -> Check:
    """Runs a trial; whatever it raises is the finding, since that is what a run would meet."""
    try:
        return Check(name, "PASS", trial(), essential)
    except Exception as error:
        lines = str(error).splitlines() or [""]
        verdict = "FAIL" if essential else "WARN"
        return Check(name, verdict, f"{type(error).__name__}: {lines[0]}", essential)


def _devices() -> str:
    import jax

    kinds = sorted({device.device_kind for device in jax.devices()})
    return f"{jax.device_count()} x {', '.join(kinds)} ({jax.default_backend()})"


def _rung(stage: str) -> Callable[[], str]:
    def trial() -> str:
        import jax
        import jax.numpy as jnp
        import numpy as np
        import optax

        from maxmig import backend, config, models
        from maxmig.core.context import Context

        rung = config.Stage(stage)
        chosen = backend.at(rung, models.build(config.load("tiny_llama2")))
        params = {path: jnp.ones(p.shape, p.abstract.dtype) for path, p in chosen.spec.items()}
        proof = backend.prove(chosen, chosen.create(params, optax.sgd(0.1)))
        if proof.stage is not rung:
            raise RuntimeError(f"the objects that were built are those of {proof.stage.value!r}")
        tokens = np.zeros((1, 4), np.int32)
        logits = jax.jit(lambda p, t: chosen.apply(p, t, Context.of(t)).logits)(params, tokens)
        if not np.isfinite(logits).all():
            raise RuntimeError("the toy model's logits are not finite")
        return f"{rung.runs} ({len(params)} arrays)"

    return trial


def _async_checkpoint() -> str:
    import numpy as np
    import orbax.checkpoint as ocp

    tree = {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4)}
    with tempfile.TemporaryDirectory(prefix="maxmig_doctor_") as folder:
        with ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            checkpointer.save(Path(folder) / "tree", args=ocp.args.StandardSave(tree))
            checkpointer.wait_until_finished()
            restored = checkpointer.restore(Path(folder) / "tree")
        if not np.array_equal(restored["kernel"], tree["kernel"]):
            raise RuntimeError("what was restored is not what was saved")
        return f"saved and restored below {tempfile.gettempdir()}"


def _simulated_devices() -> str:
    code = (
        f"from maxmig.cli import common; common.setup_devices({_DEVICES}); "
        "import jax; print(jax.device_count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    if done.stdout.strip() != str(_DEVICES):
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RuntimeError(f"asked for {_DEVICES}, got {done.stdout.strip() or 'none'}: {reason}")
    return f"{_DEVICES} devices on this CPU: --simulate-devices {_DEVICES}"


_TRIALS: tuple[tuple[str, Callable[[], str], bool], ...] = (
    ("devices", _devices, True),
    *(
        (f"stage {stage}", _rung(stage), True)
        for stage in ("linen", "bridged-decoder", "bridged", "hybrid", "nnx")
    ),
    ("asynchronous checkpoints", _async_checkpoint, True),
    ("simulated devices", _simulated_devices, False),
)

VERB = Verb(
    name="doctor",
    help="versions, devices and what can run here",
    examples=("maxmig doctor", "maxmig doctor --json"),
    add_arguments=lambda parser: None,
    run=run,
)
