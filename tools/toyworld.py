"""A seeded world of languages whose truth is known.

Several languages talk about the same meanings with different words, scripts, endings and word orders. Whatever is said
in them, the world knows what was meant: tags, trees, names, topics, entailments, translations. And it knows its
limits: how many bits a masked word costs at best, and how often the best tagger must err.

    python tools/toyworld.py --describe
    python tools/toyworld.py OUT --languages qav qag --words 1000000 --seed 0
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from toyworld_ceilings import TASKS
from toyworld_describe import describe
from toyworld_files import FOLDERS, ROWS, check, write_folder
from toyworld_lexicon import LANGUAGES, SPLITS, TOPICS
from toyworld_realizer import Token, words
from toyworld_world import PIVOT, World

__all__ = [
    "LANGUAGES",
    "PIVOT",
    "SPLITS",
    "TASKS",
    "TOPICS",
    "Token",
    "World",
    "words",
    "write_world",
]


def write_world(
    folder: Path | str,
    *,
    seed: int = 0,
    languages: Sequence[str] = (),
    words: int = 200_000,
    rows: Mapping[str, int] = MappingProxyType(ROWS),
    share: float = 1.0,
    frames: int = 200,
    tasks: Sequence[str] = FOLDERS,
) -> Path:
    """Write corpora and every task of some languages, in the layout of a folder of real data.

    Args:
        folder: to be made; it must not exist, and appears under its name only when it is complete.
        seed: of the world.
        languages: codes; all of the world's when empty.
        words: of each language's corpus, about, counted with white space between them.
        rows: sentences or questions per split of every task.
        share: of the full number of meanings; a small world is learnt in a minute.
        frames: of sentences.
        tasks: folders of labelled data to write; none is quickest.

    Returns:
        The folder.

    Raises:
        ValueError: the folder exists, a number makes no sense, or a language or task is not of this world.
    """
    check(Path(folder), languages, words, tasks)
    world = World(seed, share=share, frames=frames)
    return write_folder(world, Path(folder), languages, words, rows, tasks)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, help="folder to write (must not exist)")
    parser.add_argument(
        "--languages", nargs="+", default=list(LANGUAGES), metavar="CODE", help="default: all"
    )
    parser.add_argument(
        "--words", type=int, default=200_000, help="of each corpus (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the meanings; a small world is learnt sooner"
    )
    parser.add_argument(
        "--frames", type=int, default=200, help="of sentences (default: %(default)s)"
    )
    parser.add_argument(
        "--tasks", nargs="*", default=FOLDERS, metavar="FOLDER",
        help=f"labelled data to write, none where none is named (default: {' '.join(FOLDERS)})",
    )  # fmt: skip
    parser.add_argument("--describe", action="store_true", help="print a table of the world")
    options = parser.parse_args(arguments)
    if not options.describe and options.out is None:
        parser.error("name a folder to write, or ask to --describe the world")
    try:
        if options.out:
            check(options.out, options.languages, options.words, options.tasks)
        world = World(options.seed, share=options.share, frames=options.frames)
        if options.describe:
            print(*describe(world, options.languages), sep="\n")
        if options.out:
            write_folder(world, options.out, options.languages, options.words, tasks=options.tasks)
    except (ValueError, OSError) as error:
        print(f"toyworld: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
