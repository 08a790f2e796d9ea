"""The ``mvx-logger`` command: its options, and what they call."""

from __future__ import annotations

import io
import os
import re
import sys
import time
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .. import __version__
from ..errors import LogConfigurationError, LoggerError

if TYPE_CHECKING:
    from rich.console import Console

    from .source import EventFilter, Source

__all__ = ["cli", "parse_moment"]

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _print_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"mvx-logger {__version__} (Python {sys.version.split()[0]})")
        context.exit()


def _refuse(error: LoggerError) -> NoReturn:
    raise click.UsageError(str(error)) from error


@click.group(context_settings=_CONTEXT)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show it.")
def cli() -> None:
    """One pipeline for the logs of a Python program: route them, look at them, check how they are configured.

    \b
    mvx-logger run --sink sqlite:///events.db app.py   route all that app.py logs
    mvx-logger show events.db                          look at it
    mvx-logger check logging.toml                      see what a configuration would make
    mvx-logger replay dead.jsonl --to URL              deliver what was left behind
    mvx-logger new-sink acme-sink                      begin a sink of your own

    Exit code 2 means that the command line is wrong; see each command for the others.
    """


class _RunCommand(click.Command):
    """Stops looking for its own options where the program begins, also at ``-m``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from .run import split_arguments

        options, program = split_arguments(args)
        return super().parse_args(ctx, [*options, "--", *program])


@cli.command(cls=_RunCommand, context_settings=_CONTEXT, options_metavar="[OPTIONS]")
@click.option(
    "--sink", "sinks", metavar="URL", multiple=True, help="Where the events go, e.g. sqlite:///events.db. Repeatable."
)
@click.option("--config", metavar="FILE", help="A TOML, JSON or YAML file with sinks, contexts and policies.")
@click.option(
    "--keep-handlers/--replace-handlers",
    default=True,
    help="Leave the program's own logging output as it is (the default), or put ours, on stderr, in its place.",
)
@click.option(
    "--level",
    metavar="LEVEL",
    help="Route everything from this level up, also what the program's own levels hold back (its handlers do not get "
    "that). By default: what the program lets pass.",
)
@click.option("--no-children", is_flag=True, help="Do not cover the processes that the program starts or forks.")
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="[-m MODULE | -c CODE | - | SCRIPT] [ARGS]...")
def run(
    sinks: tuple[str, ...],
    config: str | None,
    keep_handlers: bool,
    level: str | None,
    no_children: bool,
    program: tuple[str, ...],
) -> None:
    """Run an unmodified Python program with its logging routed through the pipeline.

    Everything that it logs by the standard library, by structlog (as structured data) and by mvx-logger goes to the
    sinks, whatever it does to its own logging configuration; so does the exception that ends it. The program is run
    by this very Python and is entirely itself: output, exit code, signals. Processes that it starts with the same Python
    are covered too. Without --sink and --config, events go to sqlite:///mvx-events.db.

    With --config, each logger is served by the context of the file that is nearest to its name, until the program calls
    mvx_logger.configure() itself. Otherwise the pipeline stands beside whatever the program configures of mvx-logger. A
    sink that has a password is better written into such a file: command lines can be seen by other users.

    SCRIPT may also be the name of a console script of this environment, e.g. pytest.

    What is still on its way is delivered when the program ends, also by os._exit. A process that is killed (SIGKILL,
    or SIGTERM without a handler) loses the last fraction of a second.

    Exit code: the program's own; 2 when the command line or the configuration is wrong.
    """
    from .run import launch, make_settings, resolve_program

    try:
        settings = make_settings(
            sinks=sinks, config=config, replace_handlers=not keep_handlers, level=level, children=not no_children
        )
        arguments = resolve_program(program)
    except LogConfigurationError as error:
        _refuse(error)
    launch(arguments, settings)


@cli.command(context_settings=_CONTEXT)
@click.argument("config", type=click.Path(dir_okay=False, path_type=str))
def check(config: str) -> None:
    """Check a configuration file and draw what it would make, without making it.

    CONFIG is a TOML, JSON or YAML file for mvx_logger.configure(), or a plain one for logging.config.dictConfig().
    No file is created, no thread is started, nothing in this process is configured; classes that it names are imported.
    Secrets are not shown.

    Exit code: 0 when the configuration is right, 1 when it is wrong or cannot be read.
    """
    from rich.console import Console

    from .check import draw, plan_file

    # Named classes are the application's own: found where it would be run, as `python -m` does.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        plan = plan_file(config)
    except LogConfigurationError as error:
        click.echo(f"{config}: {error}", err=True)
        raise SystemExit(1) from None
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1_000  # lines as long as they are: nothing is there to wrap them for
    console.print(draw(config, plan))


# ---------------------------------------------------------------------- show

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_SPAN_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def parse_moment(text: str, now: float | None = None) -> float:
    """A moment in seconds since the epoch.

    Args:
        text: How long ago it is (``15m``, ``1h30m``, ``2d``), ISO 8601 (``2026-05-12``, ``2026-05-12T14:30``, with or
            without an offset; local time without), a time of today (``14:30``), ``today`` or ``yesterday``.
        now: What is now; None asks the clock.

    Raises:
        ValueError: It is none of these.
    """
    now = time.time() if now is None else now
    text = text.strip()
    spans = _SPAN.findall(text)
    if spans and "".join(number + unit for number, unit in spans) == text:
        return now - sum(float(number) * _SPAN_SECONDS[unit] for number, unit in spans)
    today = date.fromtimestamp(now)  # noqa: DTZ012 - people mean their own day
    if text in ("today", "yesterday"):
        day = today if text == "today" else today - timedelta(days=1)
        return datetime.combine(day, time_of_day()).timestamp()
    if re.fullmatch(r"\d\d:\d\d(:\d\d(\.\d+)?)?", text):
        return datetime.combine(today, time_of_day.fromisoformat(text)).timestamp()
    return datetime.fromisoformat(text).timestamp()


def _to_moment(_: click.Context, param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else parse_moment(value)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is no time; use e.g. 15m, 2h, 1d, 14:30, 2026-05-12 or 2026-05-12T14:30:00Z", param=param
        ) from None


def _to_level(_: click.Context, param: click.Parameter, value: str | None) -> int | None:
    from ..options import parse_level

    try:
        return None if value is None else parse_level(value)
    except LogConfigurationError as error:
        raise click.BadParameter(str(error).removeprefix("level: "), param=param) from None


def _parse_conditions(_: click.Context, param: click.Parameter, conditions: tuple[str, ...]) -> dict[str, str] | None:
    wanted: dict[str, str] = {}
    for condition in conditions:
        key, sign, value = condition.partition("=")
        if not sign or not key or '"' in key:
            raise click.BadParameter(f"{condition!r} is not of the form KEY=VALUE", param=param)
        wanted[key] = value
    return wanted or None


@cli.command(context_settings=_CONTEXT)
@click.argument("source")
@click.option(
    "--level", "min_level", callback=_to_level, metavar="LEVEL", help="This level and above: a name or a number."
)
@click.option(
    "--namespace", metavar="NAME", help="This namespace (a logger's name) and all below it, or a pattern: '*.db'."
)
@click.option("--event", metavar="NAME", help="Events of this name, or of a pattern: 'order.*'.")
@click.option("--entity", "entity_id", metavar="ID", help="Events of this entity.")
@click.option("--outcome", metavar="NAME", help="Events with this outcome, e.g. failed.")
@click.option(
    "--text", metavar="TEXT", help="Events with this text in name, message, payload or exception, in any case."
)
@click.option(
    "--since", callback=_to_moment, metavar="TIME", help="From a time on: 15m, 2h, 1d (ago), 14:30, 2026-05-12T14:30."
)
@click.option("--until", callback=_to_moment, metavar="TIME", help="Before a time.")
@click.option(
    "--where",
    "payload",
    metavar="KEY=VALUE",
    multiple=True,
    callback=_parse_conditions,
    help="Events whose payload has this value; order.id and items.0 look inside. Repeatable.",
)
@click.option("--limit", type=click.IntRange(0), metavar="N", help="The first N only.")
@click.option("--last", type=click.IntRange(0), metavar="N", help="The last N only.")
@click.option("-f", "--follow", is_flag=True, help="Show the last ones (10, or --last), then what comes, until Ctrl-C.")
@click.option("--stats", is_flag=True, help="Counts by namespace and level, and a chart of their course.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["pretty", "json", "logfmt"]),
    help="By default pretty in a terminal, json (one object a line) elsewhere.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("-v", "--verbose", is_flag=True, help="Also where in the program each event was logged (pretty only).")
def show(
    source: str,
    limit: int | None,
    last: int | None,
    follow: bool,
    stats: bool,
    output_format: str | None,
    as_json: bool,
    verbose: bool,
    **criteria: Any,
) -> None:
    """Show the events of a SQLite store, of JSON lines, or of a server.

    SOURCE is a store that a sqlite: sink writes, a file of JSON lines (also compressed by gzip; also those of other JSON
    loggers), - for JSON lines on standard input, or the URL of a sink: sqlite, file, redis (streams), postgresql, nats
    (JetStream), kafka. Nothing is changed there.

    Exit code: 0; 1 when the source cannot be read or some lines are no events (they are told on stderr, the others are
    shown); 130 after Ctrl-C.
    """
    from rich.console import Console

    from ..sinks.sqlite_store import SqliteStoreError
    from .source import EventFilter, SourceError, open_source

    if follow and (stats or limit is not None):
        raise click.UsageError("--follow goes with neither --stats nor --limit")
    console = Console(highlight=False)
    if as_json:
        output_format = "json"
    elif output_format is None:
        output_format = "pretty" if sys.stdout.isatty() else "json"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a message may hold what the terminal's encoding does not
    problems = _Problems()
    try:
        opened = open_source(source, report=problems.report, follow=follow)
        if follow and not opened.can_be_followed:
            raise click.UsageError("--follow: a compressed file does not grow")
        wanted = EventFilter(**criteria)
        if stats:
            _show_summary(opened, wanted, output_format, console)
        else:
            _show_events(opened, wanted, limit, last, follow, output_format, verbose, console)
        sys.stdout.flush()
    except (SourceError, SqliteStoreError, ValueError) as error:
        click.echo(str(error), err=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # Whoever read has had enough. What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    finally:
        problems.conclude()
    raise SystemExit(1 if opened.problems else 0)


# ---------------------------------------------------------------------- replay


@cli.command(context_settings=_CONTEXT)
@click.argument("source", type=click.Path(path_type=str))
@click.option("--to", "target", metavar="URL", help="The sink that is to have the events, e.g. postgresql://db/logs.")
@click.option(
    "--dead-letter",
    metavar="FILE",
    help="Where events go that the sink refuses. By default SOURCE itself, or SOURCE.refused.jsonl for a directory.",
)
@click.option(
    "--any-events", is_flag=True, help="Replay a file of events that are no dead letters, too, and take them out of it."
)
@click.option(
    "--give-up-after",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Stop when nothing was delivered for so long.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Only tell what there is. Needs no --to.")
def replay(
    source: str, target: str | None, dead_letter: str | None, any_events: bool, give_up_after: float, dry_run: bool
) -> None:
    """Deliver what was left behind: a spool, or dead letters.

    SOURCE is a directory that a sink had as its durable option, or a file of dead letters. Each event goes to the sink
    under the delivery id that it always had, and is removed from SOURCE when the sink's destination has confirmed it: a
    replay may be interrupted at any moment and begun again, and a destination that knows delivery ids (SQLite,
    PostgreSQL, JetStream, Elasticsearch) has each event once. A file is moved to SOURCE.replay meanwhile; its writers
    begin a new one. What a running process has in its spool is its own, and is left alone.

    Exit code: 0 when everything was delivered; 1 when something is left, was refused, or SOURCE cannot be read; 2 when the
    command line is wrong; 130 after Ctrl-C.
    """
    import signal

    from .replay import Replay, ReplayError, inspect

    try:
        if dry_run:
            _show_leftovers(inspect(source))
            return
        if target is None:
            raise click.UsageError("--to is missing: the URL of the sink that is to have the events")
        work = Replay(
            source,
            target,
            dead_letter=dead_letter,
            any_events=any_events,
            give_up_after=give_up_after,
            report=lambda text: click.echo(text, err=True),
        )
    except LogConfigurationError as error:
        _refuse(error)
    except ReplayError as error:
        click.echo(str(error), err=True)
        raise SystemExit(1) from None
    interrupted: list[int] = []

    def stop(number: int, _: object) -> None:
        interrupted.append(number)
        work.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _ReplayDisplay() as display:
            end = work.run(display.update)
    except LoggerError as error:
        click.echo(str(error), err=True)
        raise SystemExit(1) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    parts = [f"{end.delivered} delivered"]
    parts += [f"{end.refused} refused"] if end.refused else []
    parts += [f"{end.lost} lost"] if end.lost else []
    parts += [f"{end.remaining} left"] if end.remaining else []
    click.echo(", ".join(parts))
    if end.last_error is not None and (end.remaining or end.refused or end.lost):
        click.echo(f"the last error was {end.last_error}", err=True)
    if interrupted:
        raise SystemExit(128 + interrupted[0])
    raise SystemExit(1 if end.remaining or end.refused or end.lost else 0)


def _show_leftovers(found: Any) -> None:
    def moment(seconds: float | None) -> str:
        from ..formats.json import format_timestamp

        return "" if seconds is None else str(format_timestamp(seconds))

    click.echo(
        f"{found.events} events" + (f", from {moment(found.first)} to {moment(found.last)}" if found.events else "")
    )
    for title, counts in (("of", found.sinks), ("reason", found.reasons)):
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            click.echo(f"{count:>9} {title} {name}")
    if found.unreadable:
        click.echo(f"{found.unreadable:>9} lines are no events")


class _ReplayDisplay:
    """A bar in a terminal; a line every few seconds elsewhere."""

    _INTERVAL = 5.0

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._next = time.monotonic() + self._INTERVAL

    def __enter__(self) -> _ReplayDisplay:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("delivered"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[trouble]}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=None, trouble="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, progress: Any) -> None:
        """Show it."""
        if self._bar is not None:
            trouble = progress.last_error if progress.remaining and progress.last_error else ""
            self._bar.update(self._task, total=progress.total, completed=progress.delivered, trouble=trouble)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + self._INTERVAL
            click.echo(f"{progress.delivered} of {progress.total} delivered, {progress.remaining} left", err=True)


# ---------------------------------------------------------------------- new-sink


@cli.command("new-sink", context_settings=_CONTEXT)
@click.argument("name")
@click.option("--directory", metavar="DIR", help="Where it is to be; by default a new directory of that name, here.")
def new_sink(name: str, directory: str | None) -> None:
    """Write a package with a sink of your own, to begin with.

    It has a small asynchronous sink, an entry point (so that its URLs are known where the package is installed), a server
    for its tests, and the tests of the conformance kit. NAME is the project's name, e.g. acme-sink.

    Exit code: 0; 2 when the name is wrong or the directory is not empty.
    """
    from .new_sink import NewSinkError, write_package

    place = directory or name
    try:
        written = write_package(name, place)
    except NewSinkError as error:
        _refuse(error)
    for path in written:
        click.echo(path)
    click.echo(f"\ncd {place} && pip install -e '.[test]' && pytest")


# ---------------------------------------------------------------------- what was shown


class _Problems:
    """Tells of the first lines that are no events, and counts the rest: the file may be none of ours at all."""

    def __init__(self) -> None:
        self._count = 0

    def report(self, text: str) -> None:
        self._count += 1
        if self._count <= 10:
            click.echo(text, err=True)

    def conclude(self) -> None:
        if self._count > 10:
            click.echo(f"... and {self._count - 10} more lines that are no events", err=True)


def _show_events(
    source: Source,
    wanted: EventFilter,
    limit: int | None,
    last: int | None,
    follow: bool,
    output_format: str,
    verbose: bool,
    console: Console,
) -> None:
    from .render import make_writer
    from .source import in_order_of_time, wait_for_more

    write = make_writer(output_format, console, verbose=verbose)
    if not follow:
        for event in in_order_of_time(source.read(wanted, limit=limit, last=last)):
            write(event)
        return
    for found in source.follow(wanted, last=10 if last is None else last):
        if found is not None:
            write(found)
        else:
            sys.stdout.flush()
            wait_for_more()


def _show_summary(source: Source, wanted: EventFilter, output_format: str, console: Console) -> None:
    import msgspec

    from .render import draw_summary

    buckets = 60 if output_format != "pretty" else max(10, min(60, console.width // 3))
    summary = source.summarize(wanted, buckets)
    if output_format == "pretty":
        console.print(draw_summary(summary, buckets))
        return
    namespaces: dict[str, dict[str, int]] = {}
    for count in summary.counts:
        of_levels = namespaces.setdefault(count.namespace or "", {})
        of_levels[count.level_name] = of_levels.get(count.level_name, 0) + count.count
    document = {
        "count": summary.count,
        "first": summary.first,
        "last": summary.last,
        "namespaces": namespaces,
        "bucket_seconds": summary.bucket_seconds,
        "counts": summary.counts,
    }
    sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
