"""Make the bundled sample from KuaiRand-Pure: `python benchmarks/make_bundle.py --source DIR [--out DIR]`.

DIR holds `events.parquet` (one impression a row, sorted by ts_ms) and `videos.parquet`. The stretch is the one of EVENTS events
whose users come back most: the result is a function of the source alone. What is changed is listed in streams/data/NOTICE.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl

EVENTS = 50_000  # about: the stretch ends with a whole impression
STEP_ROWS = 1_000  # the stretch starts at a multiple of this many impressions

# One event per kind that a row shows, in this order; all of a row have its time. Letter: the end of event_id.
KINDS = (
    ("impression", "i", pl.lit(True)),
    ("click", "c", pl.col("is_click") == 1),
    ("view", "v", (pl.col("is_click") == 1) & (pl.col("play_time_ms") > 0)),
    ("like", "l", pl.col("is_like") == 1),
    ("follow", "f", pl.col("is_follow") == 1),
    ("comment", "m", pl.col("is_comment") == 1),
    ("share", "s", pl.col("is_forward") == 1),
    ("hate", "h", pl.col("is_hate") == 1),
)


def stretch(impressions: pl.DataFrame) -> slice:
    """Rows of the `EVENTS` consecutive events with the most clicks by users who clicked before in them; the first such."""
    counts = impressions.select(pl.sum_horizontal(pl.when(shown).then(1).otherwise(0) for _, _, shown in KINDS)).to_series()
    after = counts.cum_sum().to_numpy()
    starts = range(0, int(np.searchsorted(after, after[-1] - EVENTS)), STEP_ROWS)
    spans = [slice(at, int(np.searchsorted(after, after[at] + EVENTS)) + 1) for at in starts]
    return max(spans, key=lambda span: _returning_clicks(impressions[span]))


def _returning_clicks(rows: pl.DataFrame) -> int:
    users = rows.filter(pl.col("is_click") == 1)["user"]
    return len(users) - users.n_unique()


def expand(impressions: pl.DataFrame) -> pl.DataFrame:
    """One row per event, sorted by time, an impression's own events together and in the order of KINDS."""
    parts = [
        impressions.filter(shown).select(
            "row",
            order=pl.lit(order),
            event_id=pl.format("k{}-{}", "row", pl.lit(letter)),
            type=pl.lit(name),
            user_id=pl.format("u{}", "user"),
            item_id=pl.format("v{}", "item"),
            ts_ms="ts_ms",
            value=(pl.col("play_time_ms") / 1000).round(3) if name == "view" else pl.lit(None, dtype=pl.Float64),
        )
        for order, (name, letter, shown) in enumerate(KINDS)
    ]
    return pl.concat(parts).sort("row", "order").drop("row", "order")


def catalogue(videos: pl.DataFrame) -> pl.DataFrame:
    """One row per video, oldest upload first: item_id, categories, tags, author, numbers. The source has no text."""
    kind, upload = (pl.col(name).str.to_lowercase() for name in ("video_type", "upload_type"))
    return videos.sort("upload_dt", "video_id").select(
        item_id=pl.format("v{}", "video_id"),
        categories=_known(pl.col("tag").fill_null("unknown").str.split(",")),
        tags=_known(pl.concat_list(pl.format("type-{}", kind), pl.format("upload-{}", upload), pl.format("music-{}", "music_id"))),
        author=pl.format("a{}", "author_id"),
        numbers=pl.struct(duration_seconds=(pl.col("video_duration") / 1000).round(3)),
    )


def _known(words: pl.Expr) -> pl.Expr:
    """Lists of words, without those by which the source says that it does not know."""
    return words.list.eval(pl.element().filter(~pl.element().str.contains(r"unknown$|^music-0$")))


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "streams" / "data")
    options = parser.parse_args()
    impressions = pl.read_parquet(options.source / "events.parquet").with_row_index("row")
    span = stretch(impressions)
    made = {
        "kuairand_events.parquet": expand(impressions[span]),
        "kuairand_items.parquet": catalogue(pl.read_parquet(options.source / "videos.parquet")),
    }
    print(f"impressions {span.start} to {span.stop} of {impressions.height}")
    for name, rows in made.items():
        rows.write_parquet(options.out / name, compression="zstd", compression_level=19)
        print(f"{name}: {rows.height} rows, {(options.out / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
