"""`maxmig ckpt convert`: writes a checkpoint in another layout, losing nothing."""

import argparse
import json
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

from maxmig import errors
from maxmig.cli import console
from maxmig.cli.ckpt import common
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.converters import convert
    from maxmig.converters.engine import plan as engine_plan
    from maxmig.converters.engine.options import Options

_FILES = (".npz", ".npy", ".h5", ".hdf5", ".pt", ".pth", ".bin", ".pkl", ".pickle", ".zip", ".json")
_VERIFY = ("full", "deep", "sample", "none")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help=common.PATH_HELP)
    parser.add_argument(
        "destination",
        metavar="DST",
        help="the directory of steps to make, local or gs://, s3://; a name that ends in .msgpack "
        "or .safetensors makes one file",
    )
    parser.add_argument(
        "--to",
        metavar="LAYOUT",
        help="layout of the result: linen, nnx (the counterpart in SRC's family), or one of "
        + ", ".join(name for name in common.LAYOUTS if name not in ("linen", "nnx")),
    )
    common.add_step(parser)
    common.add_layers(parser)
    _mapping_arguments(parser)
    parser.add_argument(
        "--params-only",
        action="store_true",
        help="keep parameters alone: no optimizer, step or other collection (batch_stats, ...)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show the plan, read and write no array"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the step in DST (the file; a tree beside others of its step) if it exists",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with a conversion that was stopped or killed; nothing to do if it is finished",
    )
    _engine_arguments(parser)


def _mapping_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        metavar="TYPE",
        help="type of the parameters, such as bfloat16; moments keep theirs unless told: "
        "params=bfloat16,opt_state=float32",
    )
    parser.add_argument(
        "--random",
        choices=("derive", "keep", "drop"),
        default="derive",
        help="random state: kept where it has a place, else derived from (seed, path, step) when "
        "it is needed (default); refuse to leave any out; leave all out",
    )
    parser.add_argument(
        "--key-impl",
        choices=("threefry2x32", "rbg", "unsafe_rbg"),
        help="the kind of the random keys that SRC holds as raw words, as a msgpack file does",
    )
    parser.add_argument("--seed", type=common.count, metavar="N", help="what it is derived from")
    parser.add_argument(
        "--optimizer",
        metavar="MODULE:NAME",
        help="the optax optimizer, or a function that makes it, where SRC does not tell all",
    )


def _engine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-memory",
        type=common.memory,
        metavar="SIZE",
        default=4 << 30,
        help="memory that the process may take, such as 512MiB (default 4GiB)",
    )
    parser.add_argument(
        "--verify",
        choices=_VERIFY,
        default="full",
        help="full: compare all that was moved, prove all references (default); deep: also decode "
        "what is shared by reference; sample: some of it; none",
    )
    parser.add_argument(
        "--copy", action="store_true", help="share no data file with SRC by hard links"
    )
    parser.add_argument(
        "--no-fsync",
        action="store_true",
        help="do not wait for the disk: faster, but a power failure may take the result",
    )
    common.add_choice(
        parser, "ocdbt", "one database", "a directory for each array (default: as in SRC)"
    )
    parser.add_argument(
        "--zarr", type=int, choices=(2, 3), help="Zarr version of the result (default: as in SRC)"
    )
    parser.add_argument(
        "--chunk",
        type=common.memory,
        metavar="SIZE",
        default=64 << 20,
        help="largest chunk that is written anew (default 64MiB)",
    )
    parser.add_argument(
        "--processes",
        type=_processes,
        metavar="N",
        default=1,
        help="share the work among N processes of this machine",
    )


def _processes(text: str) -> int:
    count = common.count(text)
    if not 1 <= count <= 256:
        raise argparse.ArgumentTypeError(f"expected 1 to 256 processes, got {text}")
    return count


def _run(args: argparse.Namespace) -> int:
    try:
        return _converted(args)
    except (KeyboardInterrupt, errors.Interrupted) as stopped:
        if args.processes > 1 and os.environ.get("JAX_PROCESS_ID", "0") != "0":
            return errors.Interrupted.exit_code  # the first of the processes says it
        if isinstance(stopped, errors.Interrupted):
            raise
        raise errors.Interrupted(
            "interrupted before any chunk was written; the same command starts again"
        ) from stopped


def _converted(args: argparse.Namespace) -> int:
    if args.processes > 1 and "://" in args.destination:
        from maxmig.converters.engine import remote

        raise errors.ConfigError(f"{args.destination}: {remote.ALONE}")
    if args.processes > 1 and not args.dry_run and "JAX_COORDINATOR_ADDRESS" not in os.environ:
        from maxmig.converters.engine import launch

        command = [sys.executable, "-m", "maxmig.cli.main", *words(args)]
        code, told = launch.launch(args.processes, command, capture=args.json)
        if "{" in told:  # below Python, Gloo writes lines of its own to stdout
            console.emit_json(json.JSONDecoder().raw_decode(told, told.index("{"))[0])
        return code
    from maxmig.converters import checkpoint, convert

    layers = common.layers(args)
    hints = layers["map_file"].hints if args.map else None
    source = checkpoint.read(args.source, step=args.step, layout=args.layout, hints=hints)
    todo = convert.plan(
        source,
        args.to,
        **layers,
        params_only=args.params_only,
        dtype=args.dtype,
        random=args.random,
        seed=args.seed,
        optimizer=args.optimizer,
        key_impl=args.key_impl,
        container=_container(args.destination),
    )
    prepared = convert.prepare(todo, args.destination, _options(args))
    if args.dry_run or not console.settings().quiet:
        _show(todo, prepared)
    told = f"{len(todo.leaves)} arrays, {common.size(todo.nbytes)}, layout {todo.layout.name}"
    if args.dry_run:
        return _dry_run(args, todo, prepared, told)
    if args.overwrite and (there := convert.replaced(prepared, args.destination)):
        console.out(f"note       {there}: --overwrite replaces all of it by the result")
    made, checked = _convert(args, todo, prepared)
    if args.json:
        console.emit_json(_document(args, todo, prepared, made, checked))
    console.out(f"verified   {checked}")
    console.out(f"written    {made}: {told}")
    return 0


def _dry_run(
    args: argparse.Namespace, todo: "convert.Plan", prepared: "engine_plan.Plan", told: str
) -> int:
    """Says what a run would do, or that it would be refused; the exit code is that of the run."""
    from maxmig.converters import convert

    there = convert.replaced(prepared, args.destination)
    if there:
        console.out(f"note       {there}: --overwrite would replace all of it by the result")
    asked = {"overwrite": args.overwrite, "resume": args.resume}
    refused = convert.refusal(todo, prepared, args.destination, **asked)
    if args.json:
        document = _document(args, todo, prepared, None, None)
        told_json = None if refused is None else str(refused)
        console.emit_json(document | {"replaces": there, "refused": told_json})
    if refused is None:
        console.out(f"dry run    nothing written; would be {told}")
        return 0
    console.out(f"refused    {refused}")
    console.out(f"dry run    nothing written; the run would end with exit code {refused.exit_code}")
    return refused.exit_code


def _container(destination: str) -> str:
    """What holds the result: its name tells."""
    for suffix in ("safetensors", "msgpack"):
        if destination.endswith(f".{suffix}"):
            return suffix
    if destination.lower().endswith(_FILES):
        console.note(
            f"note: {destination} will be a directory of steps, whatever its name says; only names "
            "that end in .msgpack or .safetensors make one file"
        )
    return "orbax"


def _options(args: argparse.Namespace) -> "Options":
    from maxmig.converters.engine.options import Options

    return Options(
        max_memory=args.max_memory,
        verify=args.verify,
        link=not args.copy,
        fsync=not args.no_fsync,
        ocdbt=args.ocdbt,
        zarr=args.zarr,
        chunk=args.chunk,
    )


def _convert(
    args: argparse.Namespace, todo: "convert.Plan", prepared: "engine_plan.Plan"
) -> tuple[str, str]:
    from maxmig.converters import convert

    total = sum(row["bytes"] for row in prepared.rows())
    with console.progress("convert", total=total) as bar:
        try:
            done = convert.carry_out(
                todo,
                prepared,
                args.destination,
                overwrite=args.overwrite,
                resume=args.resume,
                progress=lambda nbytes: bar.advance(bar.task_ids[0], nbytes),
            )
        except errors.Interrupted as stopped:
            command = shlex.join(["maxmig", *words(args, resume=True)])
            raise errors.Interrupted(f"{stopped}:\n  {command}") from stopped
    if done.finished:
        return done.directory, "not again: finished already, by the same plan from the same source"
    if done.resumed:
        console.out(f"resumed    {done.resumed} pieces were done already")
    return done.directory, str(done.checked)


def words(args: argparse.Namespace, *, resume: bool = False) -> list[str]:
    """The command line of these arguments, after `maxmig`."""
    found = ["ckpt", "convert", args.source, args.destination]
    for flag, value in (
        ("--to", args.to),
        ("--map", args.map),
        ("--dtype", args.dtype),
        ("--random", args.random if args.random != "derive" else None),
        ("--seed", args.seed),
        ("--optimizer", args.optimizer),
        ("--key-impl", args.key_impl),
        ("--from", args.layout),
        ("--step", args.step),
        ("--scan-axis", args.scan_axis),
        ("--from-scan-axis", args.from_scan_axis),
        ("--zarr", args.zarr),
        ("--max-memory", args.max_memory if args.max_memory != 4 << 30 else None),
        ("--chunk", args.chunk if args.chunk != 64 << 20 else None),
        ("--verify", args.verify if args.verify != "full" else None),
        ("--processes", args.processes if args.processes > 1 else None),
    ):
        found += [] if value is None else [flag, str(value)]
    for name, choice in (("scan", args.scan), ("ocdbt", args.ocdbt)):
        found += [] if choice is None else [f"--{name}" if choice else f"--no-{name}"]
    for flag in ("params_only", "overwrite", "copy", "no_fsync"):
        found += [f"--{flag.replace('_', '-')}"] if getattr(args, flag) else []
    found += ["--resume"] if resume or args.resume else []
    found += ["--json"] if args.json else []
    found += ["--quiet"] if console.settings().quiet else []
    return found


def _show(todo: "convert.Plan", prepared: "engine_plan.Plan") -> None:
    source = todo.source
    total = sum(leaf.nbytes for leaf in source.leaves.values())
    told = f"{len(source.leaves)} arrays, {common.size(total)}"
    console.out(f"source     {source.place}: {told}, layout {source.layout.name}")
    rows = [
        (row["side"], row["what"], row["leaves"], common.size(row["bytes"]))
        for row in todo.accounting.rows()
    ]
    console.out(
        console.table(("side", "fate or origin", "arrays", "size"), rows, right=("arrays", "size"))
    )
    ways = [
        (row["route"], row["arrays"], common.size(row["bytes"]), row["why"])
        for row in prepared.rows()
    ]
    console.out(console.table(("route", "arrays", "size", "why"), ways, right=("arrays", "size")))
    for note in (*todo.notes, *prepared.notes):
        console.out(f"note       {note}")
    console.out(
        f"preflight  memory floor {common.size(prepared.floor)} of "
        f"{common.size(prepared.options.max_memory)}, {common.size(prepared.disk)} written anew, "
        f"about {prepared.seconds:.1f} s"
    )


def _document(
    args: argparse.Namespace,
    todo: "convert.Plan",
    prepared: "engine_plan.Plan",
    made: str | None,
    checked: str | None,
) -> dict[str, Any]:
    return {
        "source": str(todo.source.place),
        "from": todo.source.layout.name,
        "to": todo.layout.name,
        "dry_run": args.dry_run,
        "step_directory": made,
        "arrays": len(todo.leaves),
        "bytes": todo.nbytes,
        "accounting": todo.accounting.rows(),
        "routes": prepared.rows(),
        "memory_floor": prepared.floor,
        "disk": prepared.disk,
        "seconds": prepared.seconds,
        "verified": checked,
        "notes": (*todo.notes, *prepared.notes),
    }


VERB = Verb(
    name="convert",
    help="write a checkpoint in another layout or scan layout, losing nothing",
    examples=(
        "maxmig ckpt convert maxmig_output/demo/checkpoints /tmp/nnx --to nnx --dry-run",
        "maxmig ckpt convert maxmig_output/demo/checkpoints /tmp/apart --to linen --no-scan",
    ),
    add_arguments=_arguments,
    run=_run,
)
