"""A chart of a comparison as SVG: for each load a bar for each proxy, as long as its ratio to nginx."""

import statistics
from xml.sax.saxutils import escape

BARS = {"haproxy": "HAProxy", "lockgate": "Lockgate"}
WIDTH, LEFT, RIGHT, TOP = 780, 324, 52, 88
BAR, ROW = 12, 38

# What reads it may be light or dark.
STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #1f2328 }
    .title { font-size: 15px; font-weight: 600 }
    .small { font-size: 11px; fill: #59636e }
    .end { text-anchor: end }
    .middle { text-anchor: middle }
    .haproxy { fill: #afb8c1 }
    .lockgate { fill: #0969da }
    .scale { stroke: #d1d9e0 }
    .nginx { stroke: #1a7f37; stroke-width: 2 }
    .spread { stroke: #1f2328 }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc }
      .small { fill: #9198a1 }
      .haproxy { fill: #656c76 }
      .lockgate { fill: #4493f8 }
      .scale { stroke: #3d444d }
      .nginx { stroke: #3fb950 }
      .spread { stroke: #f0f6fc }
    }
"""


def svg(title, rows, notes):
    """Draws `rows`, which have for each label the ratios of each proxy, one a round."""
    most = max(1.2, *(ratio for of in rows.values() for ratios in of.values() for ratio in ratios))
    bottom = TOP + ROW * len(rows)
    height = bottom + 16 + 16 * len(notes)

    def place(ratio):
        return LEFT + (WIDTH - LEFT - RIGHT) * ratio / most

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {height}">',
             f"  <title>{escape(title)}</title>", f"  <style>{STYLE}  </style>", text(0, 18, title, "title")]
    for number, (proxy, name) in enumerate(BARS.items()):
        parts += [rect(100 * number, 34, 12, proxy), text(100 * number + 18, 44, name)]
    parts += [line(206, 33, 206, 47, "nginx"), text(218, 44, "nginx is 1")]
    for halves in range(int(2 * most) + 1):
        ratio = halves / 2
        parts += [line(place(ratio), TOP - 10, place(ratio), bottom - 6, "nginx" if ratio == 1 else "scale"),
                  text(place(ratio), TOP - 16, f"{ratio:g}", "small middle")]
    for number, (label, of) in enumerate(rows.items()):
        top = TOP + ROW * number
        parts.append(text(LEFT - 12, top + BAR + 4, label, "end"))
        for y, proxy in zip((top, top + BAR), BARS):
            least, middle, end = min(of[proxy]), statistics.median(of[proxy]), max(of[proxy])
            parts += [rect(LEFT, y, place(middle) - LEFT, proxy),
                      line(place(least), y + BAR / 2, place(end), y + BAR / 2, "spread"),
                      text(WIDTH, y + 10, f"{middle:.2f}", "small end")]
    parts += [text(0, bottom + 12 + 16 * number, note, "small") for number, note in enumerate(notes)]
    return "\n".join([*parts, "</svg>", ""])


def rect(x, y, width, kind):
    return f'  <rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:.1f}" height="{BAR - 1}"/>'


def line(x1, y1, x2, y2, kind):
    return f'  <line class="{kind}" x1="{x1:.1f}" y1="{y1:g}" x2="{x2:.1f}" y2="{y2:g}"/>'


def text(x, y, words, kind=""):
    return f'  <text x="{x:.1f}" y="{y:g}" class="{kind}">{escape(words)}</text>'
