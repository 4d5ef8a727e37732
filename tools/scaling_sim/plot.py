"""Draw lines over time as an SVG file."""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, TOP, GAP = 720, 150, 60, 30, 45
INK, GRID = "#444", "#ddd"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of (minutes, value) points; None leaves a gap."""

    label: str
    color: str
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    lines: Sequence[Line]


def draw(panels: Sequence[Panel], until_min: float) -> str:
    height = len(panels) * (HEIGHT + GAP) + TOP
    body = [part for i, panel in enumerate(panels) for part in _panel(panel, i, until_min)]
    size = f'width="{LEFT + WIDTH + 40}" height="{height}"'
    style = 'font-family="sans-serif" font-size="12"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
    return "\n".join([head, background, *body, "</svg>", ""])


def _panel(panel: Panel, index: int, until_min: float) -> list[str]:
    bottom = TOP + HEIGHT + index * (HEIGHT + GAP)
    peak = max(value for line in panel.lines for _, value in line.points if value is not None)
    top_value = _round_up(peak)
    parts = [_text(LEFT, bottom - HEIGHT - 8, panel.title, INK)]
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * HEIGHT
        parts.append(f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{share * top_value:g}", INK, "end"))
    for minute in range(0, int(until_min) + 1, 20):
        x = LEFT + WIDTH * minute / until_min
        parts.append(_text(x, bottom + 16, f"{minute} min", INK, "middle"))
    for i, line in enumerate(panel.lines):
        parts.append(_path(line, bottom, until_min, top_value))
        parts.append(
            _text(LEFT + WIDTH, bottom - HEIGHT - 8 + 15 * i, line.label, line.color, "end")
        )
    return parts


def _path(line: Line, bottom: float, until_min: float, top_value: float) -> str:
    pen, parts = "M", []
    for minute, value in line.points:
        if value is None:
            pen = "M"
            continue
        x, y = LEFT + WIDTH * minute / until_min, bottom - HEIGHT * value / top_value
        parts.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return f'<path d="{"".join(parts)}" fill="none" stroke="{line.color}" stroke-width="1.5"/>'


def _text(x: float, y: float, text: str, color: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" text-anchor="{anchor}">{text}</text>'


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 4, 5, 10 times a power of ten."""
    power = 1.0
    while value > 10 * power:
        power *= 10
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value)
