"""The command `headgate ingest`."""

import asyncio
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from config.load import load
from config.schema import Config
from pipeline.core.errors import RetrievalError
from pipeline.knowledge import ingest as ingesting
from pipeline.knowledge.errors import IngestError

SAMPLE_COLLECTION = "docs"
REPOSITORY = Path(__file__).resolve().parents[2]


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="PATH…")
@click.option("--collection", metavar="NAME", help="Which collection. Needed unless exactly one is configured.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Configuration file. Default: HEADGATE_CONFIG, else pipeline.toml in the working directory.",
)
@click.option("--recreate", is_flag=True, help="Empty the collection first, say for another embedder.")
@click.option("--keep-vanished", is_flag=True, help="Keep documents whose files under PATH are gone.")
@click.option("--quiet", is_flag=True, help="Print only what went wrong.")
@click.option(
    "--sample",
    is_flag=True,
    help=f"Load Headgate's own documentation into the collection {SAMPLE_COLLECTION!r}, unless that is not configured "
    "or holds other documents.",
)
@click.pass_context
def ingest(ctx: click.Context, /, paths: tuple[Path, ...], config_file: Path | None, **options: Any) -> None:
    """Bring a collection up to date with documents (.md, .txt, .html) in files and folders.

    New and changed documents are stored, unchanged ones skipped, and those that vanished from under PATH deleted. May
    be interrupted and run again, also while a daemon serves. Exit status 1 when something could not be read.
    """
    config = load(config_file).config
    if options["sample"]:
        paths, collection = _sample(config, paths, options["collection"]), SAMPLE_COLLECTION
    else:
        collection = options["collection"] or _only_collection(config)
        if not paths:
            raise click.UsageError("name the files and folders to ingest")
    if paths:
        ctx.exit(_run(config, paths, collection, options))


def _only_collection(config: Config) -> str:
    if len(config.collections) != 1:
        names = ", ".join(section.name for section in config.collections) or "none is configured"
        raise click.UsageError(f"say which collection with --collection ({names})")
    return config.collections[0].name


def _sample(config: Config, paths: tuple[Path, ...], collection: str | None) -> tuple[Path, ...]:
    """What to load; nothing when the collection is not configured."""
    if paths or collection:
        raise click.UsageError("--sample says itself what goes where: name no PATH and no --collection with it")
    if not any(section.name == SAMPLE_COLLECTION for section in config.collections):
        return ()
    sample = tuple(path for path in (REPOSITORY / "README.md", REPOSITORY / "docs") if path.exists())
    if not sample:
        raise click.ClickException(f"Headgate's documentation is not in {REPOSITORY}: --sample needs a clone of it")
    return sample


def _run(config: Config, paths: tuple[Path, ...], collection: str, options: dict[str, Any]) -> int:
    console = Console(stderr=True)
    bar = _Bar(console, shown=console.is_terminal and not options["quiet"])
    try:
        with bar.progress:
            report = _guarded(
                ingesting.ingest(
                    paths,
                    collection,
                    config,
                    prune=not options["keep_vanished"],
                    recreate=options["recreate"],
                    spare_others=options["sample"],
                    report=bar.show,
                )
            )
    except KeyboardInterrupt:
        done = f"{bar.latest.files_done} of {bar.latest.files} documents done"
        click.echo(
            f"\nInterrupted: {done}. The collection can be used; run the same command again for the rest.", err=True
        )
        return 130
    if not options["quiet"]:
        click.echo(summary(report, collection))
    for unread in report.unreadable:
        click.echo(f"could not be read: {unread.source}: {unread.reason}", err=True)
    return 1 if report.unreadable else 0


def _guarded(work: Any) -> Any:
    try:
        return asyncio.run(work)
    except (IngestError, RetrievalError) as error:
        raise click.ClickException(error.message) from error


def summary(report: ingesting.IngestReport, collection: str) -> str:
    if report.spared:
        return f"{collection}: holds other documents, left as it is"
    counts = f"{report.added} added, {report.updated} updated, {report.unchanged} unchanged, {report.deleted} deleted"
    empty = f", {len(report.empty)} without text" if report.empty else ""
    rate = f" ({report.chunks / report.seconds:.0f}/s)" if report.chunks and report.seconds else ""
    return (
        f"{collection}: {counts}{empty}; {report.chunks} chunks stored in {report.seconds:.1f} s{rate}, "
        f"{report.total_chunks} in the collection"
    )


class _Bar:
    """The progress bar, measured in bytes: the number of chunks is not known before all documents have been cut."""

    def __init__(self, console: Console, *, shown: bool) -> None:
        self.latest = ingesting.Progress()
        self.progress = Progress(
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[files]}  {task.fields[rate]}  left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[current]}", markup=False),
            console=console,
            disable=not shown,
            transient=True,
        )
        self._task = self.progress.add_task("", total=None, files="", rate="", current="")

    def show(self, latest: ingesting.Progress) -> None:
        self.latest = latest
        elapsed = self.progress.tasks[0].elapsed or 0.0
        self.progress.update(
            self._task,
            total=latest.bytes or None,
            completed=latest.bytes_done,
            files=f"{latest.files_done}/{latest.files} documents",
            rate=f"{latest.chunks / elapsed:.0f} chunks/s" if elapsed else "",
            current=latest.current,
        )
