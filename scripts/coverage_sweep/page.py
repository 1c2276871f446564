"""The page of results, and the same as JSON."""

from __future__ import annotations

import datetime
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from coverage_sweep.catalogue import GROUPS, LeftOut, list_cases
from coverage_sweep.record import LEAST, LEAST_EXACT, Outcome, Record
from coverage_sweep.upstream import LACKS

_PACKAGES = ("transformers", "torch", "coremltools", "numpy")
_LONGEST_REASON = 160
_WITH_CACHE = ("cached", "written")
"""Groups of what is tried without a cache as well."""


@dataclass(frozen=True)
class Counts:
    """What the records of one group come to.

    Attributes:
        tried: How many could be made tiny and called, and have a cache where it is about caches.
        accepted: How many of them passed every check.
        median_psnr: dB, of the accepted.
        median_share: Predicted share of the arithmetic on the engine, of the accepted.
        mostly: How many of the accepted have at least 0.9 of it there.
        checked: How many of the accepted were checked with other weights and inputs.
        below: How many of these stayed below the limit in float16, and are right in float32.
        wrong: How many of these do not answer as the original does.
    """

    tried: int
    accepted: int
    median_psnr: float
    median_share: float
    mostly: int
    checked: int
    below: int
    wrong: int

    @property
    def rate(self) -> float:
        """The accepted of the tried."""
        return self.accepted / self.tried if self.tried else 0.0


def count(records: Sequence[Record]) -> Counts:
    """Counts records of one group, or of all."""
    tried = [record for record in records if record.outcome in ("accepted", "refused")]
    accepted = [record for record in tried if record.outcome == "accepted"]
    shares = [record.share or 0.0 for record in accepted]
    return Counts(
        len(tried),
        len(accepted),
        statistics.median(record.psnr or 0.0 for record in accepted) if accepted else 0.0,
        statistics.median(shares) if shares else 0.0,
        sum(share >= 0.9 for share in shares),
        sum(record.checked is not None for record in accepted),
        sum(record.is_below and not record.is_wrong for record in accepted),
        sum(record.is_wrong for record in accepted),
    )


def write_page(
    folder: Path,
    records: Sequence[Record],
    left_out: Sequence[LeftOut],
    both_ways: Sequence[Mapping[str, Any]],
    vision_tasks: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes `coverage.md` and `coverage.json`.

    Args:
        folder: Exists.
        records: The last of every case.
        left_out: The model types that are not tried.
        both_ways: Rows of the architectures that are made by hand and by graph, from `both_ways.measure`.
        vision_tasks: Vision models in their tasks, from `vision.measure`.
    """
    made_of = {"date": datetime.date.today().isoformat(), **{name: version(name) for name in _PACKAGES}}
    groups = {name: [record for record in records if record.group == name] for name in GROUPS}
    values: dict[str, Any] = {
        "made_of": made_of,
        "groups": {name: vars(count(own)) for name, own in groups.items()},
        "architectures": [_entry(record) for record in records if record.outcome in ("accepted", "refused")],
        "not_tiny": {record.key: record.reason for record in records if record.outcome == "not tiny"},
        "no_cache": {record.key: record.reason for record in records if record.outcome == "no cache"},
        "left_out": {each.model_type: each.reason for each in left_out},
        "both_ways": list(both_ways),
        "vision_tasks": list(vision_tasks),
    }
    (folder / "coverage.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    lines = _page(made_of, groups, left_out, both_ways, vision_tasks)
    (folder / "coverage.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_page(folder: Path) -> list[Record]:
    """The records that `coverage.json` holds; none where it is not there."""
    values = _read(folder)
    groups = {case.key: case.group for case in list_cases()[0]}
    others: list[tuple[Outcome, str]] = [("not tiny", "not_tiny"), ("no cache", "no_cache")]
    return [
        *(Record(**entry) for entry in values.get("architectures", [])),
        *(
            Record(key, groups[key], outcome, reason)
            for outcome, name in others
            for key, reason in values.get(name, {}).items()
            if key in groups
        ),
    ]


def read_rows(folder: Path, name: str) -> list[Mapping[str, Any]]:
    """The rows that `coverage.json` holds of another measurement: `both_ways` or `vision_tasks`."""
    rows: list[Mapping[str, Any]] = _read(folder).get(name, [])
    return rows


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "coverage.json"
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return values


def _entry(record: Record) -> dict[str, Any]:
    names = ("key", "group", "outcome", "reason", "capture", "engine_layout", "operations", "transposes", "regions")
    ratios = {name: _rounded(getattr(record, name), digits) for name, digits in (("psnr", 1), ("share", 4))}
    return (
        {name: getattr(record, name) for name in names}
        | ratios
        | {"checked": _rounded(record.checked, 1), "exact": _rounded(record.exact, 1)}
    )


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _page(
    made_of: Mapping[str, str],
    groups: Mapping[str, Sequence[Record]],
    left_out: Sequence[LeftOut],
    both_ways: Sequence[Mapping[str, Any]],
    vision_tasks: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
    yield from _introduction(made_of)
    yield from _summary(groups)
    yield from _both_ways(both_ways)
    yield from _upstream()
    for name, records in groups.items():
        if name == "decoders":
            yield from _decoders(records, groups["cached"])
        elif name != "cached":
            yield from _group(name, records)
            yield from _vision_tasks(vision_tasks if name == "vision" else ())
    yield from _left_out(
        [record for name, own in groups.items() if name not in _WITH_CACHE for record in own], left_out
    )


def _introduction(made_of: Mapping[str, str]) -> Iterator[str]:
    versions = ", ".join(f"{name} {number}" for name, number in made_of.items() if name != "date")
    yield from f"""# Architectures by graph

Written by `python scripts/coverage.py --page` on {made_of["date"]}, with
{versions}. The same as data: [coverage.json](coverage.json).

Every model type of transformers' `AutoModel` mapping that stands alone and can be made tiny from its configuration was
converted by `--method graph`: the stock model, captured and rewritten into the engine's layout. The models are small
(two layers, 64 channels), in float16 for iOS 17, with random weights that leave nothing near zero and are drawn
smaller where values would grow beyond 5,000, for float16 ends at 65,504. **Accepted** means that the saved package,
run in the portable runtime, answers as the original does in PyTorch, with at least {LEAST:.0f} dB on each of three
inputs: other contents, other masks, and an edge (one token alone, an image of two flat halves, a sound that falls
silent). Inputs that the program no longer reads are refused where the original's answer depends on them. Decibels are
those of the worst input.

**Checked** means that an accepted architecture was converted once more with other weights, other inputs and, where its
form allows it, another length, and held to the same limit. **Below** are those that are right in float32 with these
weights ({LEAST_EXACT:.0f} dB or more) and not in float16: where a network takes the best of many scores, rounding
can turn the choice, for some inputs and not for others (D-FINE: one of three); where it has no norms (MobileBERT) or
carries a state along the tokens (Qwen 3.5), rounding grows. An export is refused where its own examples show it;
compare these architectures on data of yours.

**With a cache** a decoder's language model was exported as `--task text-generation --context-length 32
--prefill-length 8` does: three functions for iOS 18 over keys and values in a state. It is accepted where the model
over our cache answers as over its own (120 dB in float32), and the package does in both ways of reading, in blocks and
token by token: the decibels are what half of the tokens reach. It was checked with other weights, lengths of context
and block, and five texts of 1 to 35 tokens, read one after another into one cache: past windows, and over rows of the
text before. Of these the decibels are the least of all texts, where single tokens count on their own.

**With both caches** an encoder-decoder model was exported as `--task text2text-generation --sequence-length 21
--context-length 24` does: it is accepted where the model over our caches answers as without any (120 dB in float32),
and the package does, token by token, of a full source and of a short one. It was checked with other weights and
lengths, on sources of 30, 11 and 1 tokens. Operations are those of its encoder, the share is the least of the three
functions.

The share is that of the arithmetic, predicted to run on the Neural Engine by the rules of `ane inspect`; regions are
the pieces that the program is predicted to be cut into. **Nothing here ran on a Mac.** A tiny model says that an
architecture converts and is right, not how fast it is, and a real checkpoint may have ranges that float16 does not
hold: every export is checked anew.
""".splitlines()
    yield ""


def _summary(groups: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    yield "## Summary"
    yield ""
    yield "| group | tried | accepted | | median dB | median share | share ≥ 0.9 | checked | below | wrong |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    everything = [record for name, own in groups.items() if name not in _WITH_CACHE for record in own]
    for name, records in (*((GROUPS[name], own) for name, own in groups.items()), ("all without a cache", everything)):
        own = count(records)
        yield (
            f"| {name} | {own.tried} | {own.accepted} | {own.rate:.0%} | {own.median_psnr:.1f} | "
            f"{own.median_share:.4f} | {own.mostly} | {own.checked} | {own.below} | {own.wrong} |"
        )
    yield ""


def _both_ways(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    yield "## By hand and by graph"
    yield ""
    yield "Architectures that are written by hand, made in both ways from one random checkpoint (`scripts/verify.py"
    yield "both_ways`): operations, transposes, predicted share, decibels, seconds of a core for the whole export."
    yield ""
    yield "| | operations | transposes | share | dB | seconds |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        hand, graph = row["hand"], row["graph"]
        cells = [
            f"{hand['operations']} → {graph['operations']}",
            f"{hand['transposes']} → {graph['transposes']}",
            f"{hand['share']:.4f} → {graph['share']:.4f}",
            f"{hand['psnr']:.1f} → {graph['psnr']:.1f}",
            " → ".join(f"{made['seconds']:.1f}" for made in (hand, graph) if made.get("seconds")),
        ]
        yield f"| {row['architecture']} | {' | '.join(cells)} |"
    yield ""


def _vision_tasks(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    yield from """### Vision, task by task

Tiny random models of the named architectures in each of their tasks, on images that are not square and of odd sides
where the architecture takes them (`scripts/verify.py vision`): decibels of the program in float32 and in float16, the
least of its outputs, over two inputs. A detector's queries are compared as a set: where it takes the best of many
scores (RT-DETR v2) rounding turns those that nearly tie, and a tenth of the queries may be others; its scores are
scaled up here, for those of random weights lie closer than a trained model's. SigLIP 2 of fixed size is SigLIP in its
configuration; the one of any size takes packed patches, and only its half of texts is here. RT-DETR of the first
version has values of six axes, and is refused.
""".splitlines()
    yield ""
    yield "| architecture | task | float32 | float16 | operations | transposes | share | regions | most axes |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        decibels = [f"{row[name]:.1f}" for name in ("exact", "half")]
        cells = (*decibels, row["operations"], row["transposes"], f"{row['share']:.4f}", row["regions"], row["rank"])
        yield f"| {row['model_type']} | {row['task']} | {' | '.join(map(str, cells))} |"
    yield ""


def _upstream() -> Iterator[str]:
    yield "## What coremltools 9.0 lacks"
    yield ""
    yield "Translated here, for the time of one conversion. Issues as they were found in upstream's tracker; without"
    yield "one where none was found."
    yield ""
    yield "| operations | what is wrong | upstream | |"
    yield "|---|---|---|---|"
    for lack in LACKS:
        yield f"| {lack.what} | {lack.why} | {lack.links()} | {lack.note} |"
    yield ""


def _decoders(records: Sequence[Record], cached: Sequence[Record]) -> Iterator[str]:
    """The group of decoders with a column about their language models with a cache, and why some of these are none."""
    of_type = {record.key.removesuffix(":cached"): record for record in cached}
    yield from _group("decoders", records, of_type)
    yield "Not among those with a cache, since transformers itself keeps something else of a text than keys and values"
    yield "of each token, for which a package has no state:"
    yield ""
    reasons = Counter(_kind(record) for record in cached if record.outcome == "no cache")
    for reason, number in reasons.most_common():
        own = [name for name, record in of_type.items() if record.outcome == "no cache" and _kind(record) == reason]
        yield f"- {number}: {reason}: {', '.join(own)}"
    yield ""


def _kind(record: Record) -> str:
    return "a recurrent state" if "recurrent" in (record.reason or "") else "nothing, or a form of its own"


def _with_cache(record: Record | None) -> str:
    """The cell of a language model with a cache."""
    if record is None:
        return "no language model"
    if record.outcome == "accepted":
        return f"{record.psnr:.1f}, checked {_checked(record)}" if _checked(record) else f"{record.psnr:.1f}"
    return _cell(f"{record.outcome}: {record.reason}")


def _checked(record: Record) -> str:
    checked = "" if record.checked is None else f"{record.checked:.1f}"
    return checked if record.exact is None else f"{checked} (float32: {record.exact:.1f})"


def _group(name: str, records: Sequence[Record], cached: Mapping[str, Record] | None = None) -> Iterator[str]:
    """A section.

    Args:
        name: Of the group.
        records: Of the group.
        cached: By model type, what became of the same with a cache, in a column of its own; None for no column.
    """
    title = GROUPS[name]
    further = "" if cached is None else " with cache |"
    yield f"## {title[0].upper()}{title[1:]}"
    yield ""
    yield f"| architecture | captured by | dB | checked | operations | transposes | share | regions |{further}"
    yield "|---|---|---|---|---|---|---|---|" + ("---|" if further else "")
    for record in _of(records, lambda record: record.outcome == "accepted"):
        layout = "" if record.engine_layout else ", layout as it was"
        cell = "" if cached is None else f" {_with_cache(cached.get(record.key))} |"
        # An export of several functions counts neither.
        counts = ("–", "–") if name in _WITH_CACHE else (record.transposes, record.regions)
        yield (
            f"| {record.key} | {record.capture}{layout} | {record.psnr:.1f} | {_checked(record)} | "
            f"{record.operations} | {counts[0]} | {record.share:.4f} | {counts[1]} |{cell}"
        )
    yield ""
    refused = list(_of(records, lambda record: record.outcome == "refused"))
    if refused:
        yield "Refused, with the first error:"
        yield ""
        yield f"| architecture | error |{further}"
        yield "|---|---|" + ("---|" if further else "")
        for record in refused:
            cell = "" if cached is None else f" {_with_cache(cached.get(record.key))} |"
            yield f"| {record.key} | {_cell(record.reason)} |{cell}"
        yield ""


def _left_out(records: Sequence[Record], left_out: Sequence[LeftOut]) -> Iterator[str]:
    yield "## Not tried"
    yield ""
    reasons = Counter(each.reason if len(each.reason) < 90 else each.reason[:60] for each in left_out)
    yield f"{len(left_out)} model types of the mapping are no single model of one kind of input:"
    yield ""
    for reason, number in reasons.most_common():
        yield f"- {number}: {_cell(reason)}"
    yield ""
    not_tiny = list(_of(records, lambda record: record.outcome == "not tiny"))
    yield f"{len(not_tiny)} could not be made tiny by the rules of the sweep, or called with inputs that it knows:"
    yield ""
    yield "| architecture | what was in the way |"
    yield "|---|---|"
    for record in not_tiny:
        yield f"| {record.key} | {_cell(record.reason)} |"


def _of(records: Sequence[Record], is_wanted: Callable[[Record], bool]) -> Iterator[Record]:
    return (record for record in records if is_wanted(record))


def _cell(text: str | None) -> str:
    said = " ".join((text or "").split()).replace("|", "\\|")
    return said if len(said) <= _LONGEST_REASON else f"{said[: _LONGEST_REASON - 1]}…"
