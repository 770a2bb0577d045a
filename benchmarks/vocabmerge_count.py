"""Does counting pieces keep up with the tokenizer itself?

Raw: `encode_batch_fast` and nothing else. The loop: one line after another into a dict, as trimming scripts do.
"""

import argparse

from record import Recorder, extra_memory, parser, race
from tokenizers import Tokenizer
from vocabmerge_fidelity import lines_of, train

from vocabmerge import count_pieces
from vocabmerge.count import batches


def main(arguments: argparse.Namespace) -> None:
    recorder = Recorder("vocabmerge_count", arguments)
    lines = lines_of("de", arguments.data, 20_000 if arguments.quick else 60_000)
    for family in ("wordpiece", "unigram"):
        vocabulary = train(family, "de", lines[:20_000], 2000 if arguments.quick else 8000)
        opened = vocabulary.segmenter()

        def raw(opened: Tokenizer = opened) -> None:
            for batch in batches(lines):
                opened.encode_batch_fast(batch, add_special_tokens=False)

        def count(opened: Tokenizer = opened, size: int = len(vocabulary)) -> None:
            count_pieces(opened, lines, size=size)

        def loop(opened: Tokenizer = opened) -> None:
            counts: dict[int, int] = {}
            for line in lines:
                for number in opened.encode(line, add_special_tokens=False).ids:
                    counts[number] = counts.get(number, 0) + 1

        times = race(
            {"encode_batch_fast alone": raw, "count_pieces": count, "dict loop": loop},
            repeats=3 if arguments.quick else 5,
        )
        recorder.add(
            "counting the pieces of a text",
            times,
            unit="s",
            floor="encode_batch_fast alone",
            bar={"count_pieces": 1 / 0.9},
            memory={"count_pieces": extra_memory(count)},
            shape={
                "family": family,
                "lines": len(lines),
                "tokens": int(count_pieces(vocabulary, lines).sum()),
            },
        )
        recorder.add(
            "against the loop",
            {name: times[name] for name in ("dict loop", "count_pieces")},
            unit="s",
            floor="dict loop",
            bar={"count_pieces": 0.5},
            shape={"family": family, "lines": len(lines)},
        )
    recorder.close()


if __name__ == "__main__":
    main(parser(__doc__ or "").parse_args())
