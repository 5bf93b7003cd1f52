"""`maxmig ckpt hash`: one digest for a checkpoint, whatever its layout."""

import argparse

from maxmig.cli import console
from maxmig.cli.ckpt import common
from maxmig.cli.verb import Verb


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help=common.PATH_HELP)
    common.add_step(parser)
    common.add_from(parser, "PATH")
    parser.add_argument(
        "--only", choices=("params", "opt", "all"), default="all", help="what to take into account"
    )
    parser.add_argument(
        "--leaves", action="store_true", help="show the digest of each leaf and section as well"
    )
    parser.add_argument(
        "--as-stored",
        action="store_true",
        help="take names and arrays as they are, whatever conversions PATH's metadata record",
    )
    common.add_map(parser, "the digest is that of the state after its rules")
    common.add_max_memory(parser)


def _run(args: argparse.Namespace) -> int:
    from maxmig.converters import checkpoint
    from maxmig.converters.compare import hash
    from maxmig.converters.mapping import files

    document = files.read(args.map) if args.map else None
    hints = document.hints if document else None
    source = checkpoint.read(args.path, step=args.step, layout=args.layout, hints=hints)
    with console.progress("hash", total=sum(x.nbytes for x in source.leaves.values())) as bar:
        found = hash.fingerprint(
            source,
            only=args.only,
            rules=document.rules if document else (),
            as_stored=args.as_stored,
            max_memory=args.max_memory,
            progress=lambda nbytes: bar.advance(bar.task_ids[0], nbytes),
        )
    for note in found.notes:
        console.note(f"note: {note}")
    if args.leaves:
        for path, digest in found.leaves.items():
            console.out(console.printable(f"{digest}  {path}  {found.kinds[path]}"))
        for name, digest in found.sections.items():
            console.out(f"{digest}  {name}/ (section)")
    console.out(f"{found.digest}  {source.storage.url}")
    if args.json:
        console.emit_json(
            {
                "path": source.storage.url,
                "layout": source.layout.name,
                "scan_layers": source.scan_layers,
                "only": args.only,
                "digest": found.digest,
                "undone": [rule.data() for rule in found.undone],
                "sections": found.sections,
                "leaves": {
                    path: {
                        "digest": digest,
                        "shape": found.kinds[path].shape,
                        "dtype": found.kinds[path].dtype,
                    }
                    for path, digest in found.leaves.items()
                },
                "notes": found.notes,
            }
        )
    return 0


VERB = Verb(
    name="hash",
    help="one digest for a checkpoint, the same in any layout, stacking and chunking",
    examples=(
        "maxmig ckpt hash maxmig_output/demo/checkpoints",
        "maxmig ckpt hash maxmig_output/demo/checkpoints --only params --leaves",
    ),
    add_arguments=_arguments,
    run=_run,
)
