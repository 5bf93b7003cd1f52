"""`maxmig demo`: the whole migration on real text, in a few minutes on two cores."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from maxmig.cli import common, console
from maxmig.cli.verb import Verb


class _Teller:
    """Prints the story: chapters and results on stdout, progress on stderr."""

    def __init__(self, live: console.LiveLine):
        self._live = live
        self._chapter = 0

    def chapter(self, title: str) -> None:
        self._live.close()
        self._chapter += 1
        console.out(f"\n{self._chapter}. {title}")

    def tell(self, text: str) -> None:
        self._live.close()
        console.out("\n".join(f"   {line}" for line in console.printable(text).split("\n")))

    def note(self, text: str) -> None:
        self._live.close()
        console.note(f"   {text}")

    def progress(self, step: int, total: int, values: Mapping[str, float]) -> None:
        from maxmig.train import metrics

        self._live.update("   " + metrics.line(step, total, values), final=step == total)


def run(args: argparse.Namespace) -> int:
    """Tells the story, writes the report, and says whether every claim held."""
    cfg = common.load_config(args, default="demo")
    from maxmig import demo, parity
    from maxmig.demo import page

    output = Path(args.output)
    with console.LiveLine() as live:
        outcome = demo.tell(cfg, output, _Teller(live))
    parity.html.write(outcome.parity, output / "parity.html")
    report = page.write(outcome, output / "report.html")
    rows = [
        (console.status("PASS" if fact.held else "FAIL"), fact.claim, fact.detail)
        for fact in outcome.facts
    ]
    if args.json:
        console.emit_json(
            {
                "passed": bool(outcome),
                "facts": outcome.facts,
                "seconds": outcome.seconds,
                "report": str(report),
            }
        )
        return 0 if outcome else 1
    console.out("", console.table(("", "claim", "what was found"), rows))
    console.out(f"report   {report}")
    console.out(f"parity   {output / 'parity.html'}")
    console.out(f"took     {outcome.seconds:.0f} s")
    return 0 if outcome else 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    common.add_config_arguments(parser, optional="default: demo")
    parser.add_argument(
        "--output",
        default="maxmig_demo",
        metavar="DIR",
        help="folder for runs and report, made anew (maxmig_demo)",
    )


VERB = Verb(
    name="demo",
    help="the whole story in a few minutes: train, convert, check parity, flip, go on",
    examples=("maxmig demo", "maxmig demo steps=30 --output demo-short"),
    add_arguments=add_arguments,
    run=run,
)
