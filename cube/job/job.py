"""The five steps of a run, once for all sources: find, plan, fetch and build, publish."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cube.engine_choice import EngineChoice
from cube.job.engine import Workers
from cube.job.folder import BuildFolder
from cube.job.inspect import inspection_of
from cube.job.ledger import Entry, Ledger, Problem
from cube.job.logfile import LogFile
from cube.job.on_ranks import engine_here
from cube.job.outcome import MOST_ROWS, code_of, counted, is_lack, write_errors
from cube.job.parts import Part
from cube.job.ranks import refuse_ranks
from cube.job.run import Run
from cube.job.source import Manner, Planned, Source, Splittable
from cube.job.split import opened_part, refuse_missing, take_in
from cube.registry import ENGINES, SOURCES
from stratacube.choices import many
from stratacube.claim import refuse_claimed
from stratacube.command import Answer
from stratacube.errors import PlugError, SourceError, StratacubeError, UsageError
from stratacube.files import human_bytes

__all__ = ["run_job"]

_log = logging.getLogger(__name__)


def run_job(source: Source, *, dry_run: bool = False) -> Answer:
    """Run all of a build that is not yet done.

    Parameters
    ----------
    source
        What to build.
    dry_run
        Say what would be read, written and taken instead, and write nothing.

    Returns
    -------
    Answer
        Code 0 if every product was made whole, 1 if something is missing from them; ``errors.csv`` says what.

    Raises
    ------
    StratacubeError
        If the build cannot be made at all.
    """
    refuse_ranks()
    folder, manner = source.folder, source.manner
    engine = engine_here(manner.engine)
    if engine.executor is None:
        ENGINES.load(engine.name)  # what cannot be imported is told before a folder is made
    if dry_run:
        return _estimate(source)
    _refuse_contrary(manner)
    if manner.shard is not None:
        return _make_part(source, Part.parse(manner.shard), engine)
    if manner.publish_only:
        refuse_missing(folder, inspection_of(folder))
    with folder.opened(source.described(), source.digest(), overwrite=manner.overwrite) as fence:
        inspection = inspection_of(folder)
        taken_in = take_in(folder, inspection)
        with (
            _logged(folder.log),
            SOURCES.blamed(folder.SOURCE),
            Workers(manner.workers, engine, source.modules, fence, 60 * manner.task_minutes) as workers,
        ):
            config = folder.described()
            run = Run(folder, workers, manner.retries, lambda entry: inspection.expected(folder, config, entry))
            run.changed = taken_in
            return _steps(source, run)


def _refuse_contrary(manner: Manner) -> None:
    given = [name for name in ("shard", "publish_only", "plan_only", "overwrite") if getattr(manner, name)]
    if given[:1] in (["shard"], ["publish_only"]) and len(given) > 1:
        raise UsageError(
            f"`{given[0]}` goes on with a planned build, and not together with `{given[1]}`; leave one out"
        )


def _make_part(source: Source, part: Part, engine: EngineChoice) -> Answer:
    """Make one part of a planned build, beside other jobs that make the others."""
    folder, manner = source.folder, source.manner
    if not isinstance(source, Splittable):
        raise UsageError(f"builds of the source {folder.SOURCE!r} cannot be split; run the command without `shard`")
    with opened_part(folder, part, source.described(), source.digest()) as (fence, ledger):
        inspection, config = inspection_of(folder), folder.described()
        with (
            _logged(folder.log.with_name(f"shard-{part.name}.log")),
            SOURCES.blamed(folder.SOURCE),
            Workers(manner.workers, engine, source.modules, fence, 60 * manner.task_minutes) as workers,
        ):
            expected = partial(inspection.expected, folder, config)
            words = f"part {part}, {source.build_part(Run(folder, workers, manner.retries, expected, ledger), part)}"
            own = Ledger(part.ledger(folder.root)).entries.values()
            problems = [p for entry in own for p in entry.problems]
            _tell(folder, Planned(0, words), problems)
            return _answer(folder, Planned(0, words), problems)


def _steps(source: Source, run: Run) -> Answer:
    source.find(run)
    planned = source.plan(run)
    _note_plan(run, planned)
    for note in planned.notes:
        _log.info("%s", note)
    if source.manner.plan_only:
        if isinstance(source, Splittable):
            source.describe(run)
        _log.info("planned %s: %s", planned.words, source.folder.plan)
        problems = [p for p in source.problems(run) if p.kind != "missing"]
        for kind, reason, _ in counted(problems):
            _log.info("%s: %s", kind, reason)
        return _answer(source.folder, planned, problems)
    source.build(run)
    problems = [*run.ledger.problems(), *source.problems(run)]
    if source.manner.allow_missing:
        problems = [p for p in problems if p.kind != "missing"]
    write_errors(source.folder.errors, problems, source.problem_columns)
    try:
        source.publish(run, problems)
    except StratacubeError:
        raise
    except (RuntimeError, ValueError) as error:  # how codecs say that bytes are wrong
        raise SourceError(
            f"what was built in {source.folder.root} cannot be described ({type(error).__name__}: {error}); "
            "`verify` names what is damaged: remove that and run the same command again"
        ) from error
    _note_outcome(run, problems)
    _tell(source.folder, planned, problems)
    return _answer(source.folder, planned, problems)


def _note_plan(run: Run, planned: Planned) -> None:
    """Let the ledger know how much there is to do: ``status`` reads nothing else."""
    facts = {"tasks": str(planned.tasks), "words": planned.words}
    known = run.ledger.entries.get("planned")
    if known is None or dict(known.facts) != facts:
        run.ledger.record(Entry("planned", "done", facts=facts))


def _note_outcome(run: Run, problems: Sequence[Problem]) -> None:
    """Let the ledger know what is lacking, counted: ``status`` and ``verify`` agree with the run by it."""
    counts = {f"{kind}: {reason}": float(n) for kind, reason, n in counted(problems)[:MOST_ROWS]}
    entry = Entry("outcome", "partial" if code_of(problems) else "done", figures=counts)
    known = run.ledger.entries.get("outcome")
    if known is None or (known.status, dict(known.figures)) != (entry.status, counts):
        run.ledger.record(entry)


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Keep what the run says in the folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = LogFile(path)
    handler.setLevel(logging.INFO)
    ours = [logging.getLogger(name) for name in ("cube", "catalog", "stratacube")]
    for logger in ours:
        logger.addHandler(handler)
    try:
        yield
    except PlugError as error:
        _log.info("the traceback of what follows: %s", error, exc_info=error)
        raise
    finally:
        for logger in ours:
            logger.removeHandler(handler)
        handler.close()


def _answer(folder: BuildFolder, planned: Planned, problems: Sequence[Problem]) -> Answer:
    counts = [{"kind": kind, "reason": reason, "count": n} for kind, reason, n in counted(problems)]
    data = {"folder": str(folder.root), "planned": planned.words, "problems": counts}
    return Answer(code_of(problems), (), data)


def _tell(folder: BuildFolder, planned: Planned, problems: Sequence[Problem]) -> None:
    """Say how it went."""
    lacks = [p for p in problems if is_lack(p)]
    avoided = len(problems) - len(lacks)
    if avoided:
        _log.info("%s avoided, and others taken; see %s", many(avoided, "input"), folder.errors)
    if not lacks:
        _log.info("done: %s in %s", planned.words, folder.root)
        return
    _log.info("%s in %s, with what follows missing from them:", planned.words, folder.root)
    for kind, reason, count in counted(lacks)[:MOST_ROWS]:
        _log.info("  %6d x %s: %s", count, kind, reason)
    if any(p.kind != "product" for p in lacks):
        told = "mend the files and run the same command again to fill them in"
    else:
        told = "where its reason names no remedy, run the same command again"
    _log.info("every case is in %s; %s", folder.errors, told)


def _estimate(source: Source) -> Answer:
    """What a build would read, write and take. A folder that the real run would refuse is refused."""
    folder = source.folder
    folder.refuse_foreign()
    refuse_claimed(folder.root)
    if not source.manner.overwrite:
        folder.refuse_other(source.described(), source.digest())
    rows = dict(source.estimate())
    rows["disk free"] = f"{human_bytes(_free(folder.root))} at {folder.root}"
    return Answer(0, [f"{name:<10} {text}" for name, text in rows.items()], rows)


def _free(path: Path) -> int:
    while not path.exists():
        path = path.absolute().parent
    return shutil.disk_usage(path).free
