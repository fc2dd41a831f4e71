"""A cold start beside a restore, as an SVG with a bar for each and the phases of the restore in it."""

from __future__ import annotations

from html import escape

WIDTH, LEFT, BAR, GAP = 900, 110, 34, 26
COLD, COLORS = (
    "#9aa5b1",
    ("#2f6f9f", "#4c9a8f", "#7fb069", "#c9b458", "#d98e4a", "#b5654a", "#7b5ea7", "#5b6b7b"),
)


def svg(title: str, cold_s: float, restored_s: float, phases: dict[str, float]) -> str:
    """``phases``: seconds of each phase of the restore, in order; what they leave of ``restored_s`` is container start."""
    scale = (WIDTH - LEFT - 90) / cold_s
    before = max(0.0, restored_s - sum(phases.values()))
    parts = {"container start": before, **{name: s for name, s in phases.items() if s >= 0.005}}
    top = 44
    rows = [
        f'<text x="0" y="16" font-weight="bold">{escape(title)}</text>',
        _label("cold start", top), _bar(LEFT, top, cold_s * scale, COLD, "cold start"), _seconds(LEFT + cold_s * scale, top, cold_s),
    ]  # fmt: skip
    top += BAR + GAP
    rows += [_label("restore", top)]
    x = float(LEFT)
    for (name, seconds), color in zip(parts.items(), COLORS * 2, strict=False):
        rows.append(_bar(x, top, seconds * scale, color, name))
        x += seconds * scale
    rows.append(_seconds(x, top, restored_s))
    top += BAR + GAP
    x = float(LEFT)
    for (name, seconds), color in zip(parts.items(), COLORS * 2, strict=False):
        text = f"{name} {seconds:.2f} s"
        if x + 7 * len(text) + 30 > WIDTH:
            x, top = float(LEFT), top + 20
        rows.append(f'<rect x="{x:.0f}" y="{top - 10}" width="10" height="10" fill="{color}"/>')
        rows.append(f'<text x="{x + 15:.0f}" y="{top}" font-size="12">{escape(text)}</text>')
        x += 7 * len(text) + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 12}" font-family="sans-serif" '
        f'font-size="14" fill="#222"><rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(rows)
        + "\n</svg>\n"
    )


def _label(text: str, top: int) -> str:
    return f'<text x="0" y="{top + 22}">{escape(text)}</text>'


def _bar(x: float, top: int, width: float, color: str, name: str) -> str:
    return f'<rect x="{x:.1f}" y="{top}" width="{max(width, 0.5):.1f}" height="{BAR}" fill="{color}"><title>{escape(name)}</title></rect>'


def _seconds(x: float, top: int, seconds: float) -> str:
    return f'<text x="{x + 8:.1f}" y="{top + 22}" font-weight="bold">{seconds:.2f} s</text>'
