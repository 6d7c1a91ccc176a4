"""The effect with its bounds over time, as SVG, and the report around it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from xml.sax.saxutils import escape

from ninelives.experiments.effect import Effect
from ninelives.experiments.judge import Judged, Target
from ninelives.files import write_atomically

WIDTH, HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 20, 40, 50


def write_report(judged: Judged, folder: Path) -> tuple[Path, ...]:
    """``report.md`` and the picture that it shows, the picture first; paths of both."""
    folder.mkdir(parents=True, exist_ok=True)
    picture, report = folder / "effect.svg", folder / "report.md"
    write_atomically(picture, draw(judged.target, judged.effects, judged.look).encode())
    write_atomically(report, _text(judged).encode())
    return report, picture


def _text(judged: Judged) -> str:
    rails = [
        f"| {_cell(one.name)} | {one.verdict.value} | {_cell(one.reason)} |" for one in judged.guard_rails.findings
    ]
    return "\n".join(
        [
            f"# Experiment {judged.name}: {judged.verdict.value}",
            "",
            *(f"- {reason}" for reason in judged.reasons),
            "",
            "![The effect with its bounds, after each look](effect.svg)",
            "",
            "| guard-rail | says | why |",
            "|---|---|---|",
            *rails,
            "",
        ]
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def draw(target: Target, effects: Sequence[Effect], decided: int | None = None) -> str:
    """Looks from left to right; the band is where the true effect is, the dashed lines are what would matter.

    :param decided: the look at which the experiment was, marked
    """
    known = [(look, one) for look, one in enumerate(effects, 1) if one.known]
    reach = _reach(target, [one for _, one in known])
    last = max(len(effects), 2)

    def x(look: int) -> float:
        return round(_LEFT + (look - 1) / (last - 1) * (WIDTH - _LEFT - _RIGHT), 2)

    def y(value: float) -> float:
        share = (1 - max(-1.0, min(1.0, value / reach))) / 2
        return round(_TOP + share * (HEIGHT - _TOP - _BOTTOM), 2)

    band = [f"{x(look)},{y(one.high)}" for look, one in known] + [
        f"{x(look)},{y(one.low)}" for look, one in known[::-1]
    ]
    line = [f"{x(look)},{y(one.difference)}" for look, one in known]
    ends = f'x1="{_LEFT}" x2="{WIDTH - _RIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' font-family="sans-serif" font-size="12" role="img">',
        f"<title>Effect on {escape(target.name)} after each look</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="22">{escape(target.name)}: experiment less control, sure to {target.confidence:.4g}'
        f" at all looks together ({target.wanted} wanted)</text>",
        f'<polygon points="{" ".join(band)}" fill="#9ecae1"/>' if known else "",
        f'<line {ends} y1="{y(0)}" y2="{y(0)}" stroke="#333"/>',
        *(
            f'<line {ends} y1="{y(value)}" y2="{y(value)}" stroke="#999" stroke-dasharray="4 4"/>'
            for value in (target.matters, -target.matters)
        ),
        f'<polyline points="{" ".join(line)}" fill="none" stroke="#08519c" stroke-width="2"/>' if known else "",
        *(
            f'<text x="{_LEFT - 8}" y="{y(value) + 4}" text-anchor="end">{value:+.3g}</text>'
            for value in (reach, 0.0, -reach)
        ),
        f'<line x1="{x(decided)}" x2="{x(decided)}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}" stroke="#cb181d"/>'
        if decided and decided <= len(effects)
        else "",
        f'<text x="{_LEFT}" y="{HEIGHT - 28}">1</text>',
        f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 28}" text-anchor="end">{len(effects)}</text>',
        f'<text x="{(WIDTH + _LEFT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">look</text>',
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def draw_errors(looks: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> str:
    """Share of tries that failed up to each look, of both arms; nothing where nobody was seen.

    :param looks: tries and failures of control and experiment
    """
    shares: list[list[tuple[int, float]]] = []
    for side in (0, 1):
        tries, failures = (accumulate([one[what][side] for one in looks]) for what in (0, 1))
        both = enumerate(zip(tries, failures, strict=True), 1)
        shares.append([(look, bad / tried) for look, (tried, bad) in both if tried])
    most = 1.2 * max([0.001, *(share for arm in shares for _, share in arm)])
    if not all(shares):
        return ""
    last = max(len(looks), 2)

    def points(arm: Sequence[tuple[int, float]]) -> str:
        across, down = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
        return " ".join(
            f"{_LEFT + (look - 1) / (last - 1) * across:.2f},{_TOP + (1 - share / most) * down:.2f}"
            for look, share in arm
        )

    bottom = HEIGHT - _BOTTOM
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
            ' font-family="sans-serif" font-size="12" role="img">',
            "<title>Share of tries that failed up to each look</title>",
            '<rect width="100%" height="100%" fill="#fff"/>',
            f'<text x="{_LEFT}" y="22">tries that failed, up to each look: '
            '<tspan fill="#08519c">control</tspan> and <tspan fill="#cb181d">experiment</tspan></text>',
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}" stroke="#333"/>',
            f'<polyline points="{points(shares[0])}" fill="none" stroke="#08519c" stroke-width="2"/>',
            f'<polyline points="{points(shares[1])}" fill="none" stroke="#cb181d" stroke-width="2"/>',
            f'<text x="{_LEFT - 8}" y="{_TOP + 4}" text-anchor="end">{most:.3%}</text>',
            f'<text x="{_LEFT - 8}" y="{bottom + 4}" text-anchor="end">0%</text>',
            f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 28}" text-anchor="end">{len(looks)}</text>',
            f'<text x="{(WIDTH + _LEFT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">look</text>',
            "</svg>",
        ]
    )


def _reach(target: Target, known: Sequence[Effect]) -> float:
    """Of the axis, either way: what matters and where it ended fit; the wide bounds of the first looks are cut off."""
    last = max((abs(known[-1].low), abs(known[-1].high))) if known else 0.0
    return 1.2 * max(last, target.matters, *(abs(one.difference) for one in known), 0.0)
