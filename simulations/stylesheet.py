"""The look of the report: one style sheet for desk, phone, dark rooms and paper, with the system's own fonts."""

LIGHT = """--paper: #fff; --ink: #1b1f24; --quiet: #59636e; --rule: #d8dde3; --faint: #edf0f3; --wash: #f6f8fa;
  --main: #1a5fb4; --second: #b3500b; --bad: #b3121d; --good: #1a7436;"""
"""Colours by day; blue and orange, which differ for every kind of colour blindness, carry the lines of charts."""

DARK = """--paper: #14171b; --ink: #e6e9ed; --quiet: #9aa4af; --rule: #363d46; --faint: #262c33; --wash: #1c2127;
  --main: #78aeff; --second: #f0a05a; --bad: #ff8189; --good: #6fd08c;"""
"""The same by night."""

CHARTS = """svg text { font-size: 12px; fill: var(--ink); font-variant-numeric: tabular-nums; }
svg .tick, svg .quiet { fill: var(--quiet); } svg .quiet { font-size: 11px; }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; }
svg path { fill: none; }
svg .grid { stroke: var(--faint); } svg .mark { stroke: var(--quiet); }
svg .level { stroke: var(--quiet); stroke-dasharray: 3 3; } svg .stick { stroke: var(--main); stroke-opacity: .45; }
svg .line { stroke-width: 2; stroke-linejoin: round; }
svg .dense { stroke-width: 1; }
svg .line.main { stroke: var(--main); } svg .line.second { stroke: var(--second); }
svg circle.main, svg text.main { fill: var(--main); } svg circle.second, svg text.second { fill: var(--second); }
svg text.main, svg text.second { font-weight: 600; }
svg .band { fill: var(--main); fill-opacity: .16; } svg .title { font-size: 14px; font-weight: 600; }
svg circle.hollow { fill: var(--paper); stroke: var(--main); }
.frontier svg { min-width: 560px; max-width: 820px; }
"""
"""How the classes of charts look, on a page or in a file of their own."""

STYLE = (
    """
:root { color-scheme: light dark;
  """
    + LIGHT
    + """ }
@media (prefers-color-scheme: dark) { :root {
  """
    + DARK
    + """ } }
* { box-sizing: border-box; }
html { overflow-x: clip; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 1000px; padding: 0 20px 48px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: anywhere; }
header { padding-top: 28px; }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2; letter-spacing: -.01em; }
h2 { margin: 44px 0 12px; padding-top: 14px; border-top: 1px solid var(--rule); font-size: 1.2rem; line-height: 1.3; }
.numbered { counter-reset: part; } .numbered section:not(.why) > h2::before { counter-increment: part;
  content: counter(part) "\\2002"; color: var(--quiet); font-variant-numeric: tabular-nums; }
p { margin: 8px 0; max-width: 68ch; }
.quiet { margin: 4px 0 0; color: var(--quiet); }
.note { color: var(--quiet); font-size: .85rem; }
.alarm { position: sticky; top: 0; z-index: 1; margin: 0 calc(50% - 50vw); padding: 12px 20px; background: #b3121d;
  color: #fff; text-align: center; font-weight: 800; font-size: clamp(1.15rem, 4.6vw, 2rem); line-height: 1.2;
  letter-spacing: .04em; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.why { margin: 20px 0 0; padding: 12px 16px; border: 2px solid var(--bad); max-width: none; }
.why strong, .why h2 { color: var(--bad); }
.why h2 { margin: 0; padding: 0; border: 0; }
.claim { margin: 12px 0; padding-left: 14px; border-left: 3px solid var(--main); font-size: 1.1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 1px; margin: 24px 1px 0; }
.tiles.three { grid-template-columns: repeat(3, 1fr); }
.tiles div { display: flex; flex-direction: column; padding: 12px 14px; box-shadow: 0 0 0 1px var(--rule); }
.tiles dd { margin: 0; }
.tiles .value { font-size: 1.6rem; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 20px 28px;
  align-items: start; }
.pair > * { min-width: 0; }
h3 { margin: 8px 0 0; line-height: 1.5; } ul + h3, p + h3, .facts + h3 { margin-top: 20px; }
figure { margin: 8px 0 0; break-inside: avoid; }
figcaption, caption, h3 { padding-bottom: 6px; font-weight: 600; font-size: .95rem; text-align: left; }
svg { display: block; width: 100%; max-width: 520px; height: auto; }
"""
    + CHARTS
    + """.scroll { overflow-x: auto; margin: 8px 0 16px; break-inside: avoid; }
table { border-collapse: collapse; min-width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: baseline;
  white-space: nowrap; overflow-wrap: normal; }
th:first-child { padding-left: 0; text-align: left; } td:last-child, th:last-child { padding-right: 2px; }
tbody th { min-width: 8rem; font-weight: 400; white-space: normal; }
thead th { color: var(--quiet); font-weight: 500; font-size: .85rem; }
th.prose, td.prose { min-width: 8rem; text-align: left; white-space: normal; overflow-wrap: anywhere; }
.strong th, .strong td { font-weight: 700; background: var(--wash); }
.facts { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; margin: 0;
  font-size: .93rem; }
.facts dt, .facts dd { margin: 0; padding: 6px 0; border-bottom: 1px solid var(--rule); }
.facts dt { padding-right: 18px; color: var(--quiet); }
.claim + .facts { margin: 16px 0; max-width: 76ch; }
ul { margin: 8px 0; padding-left: 1.2em; } li { margin: 4px 0; max-width: 66ch; }
.gates { padding: 0; list-style: none; } .gates li { display: grid; grid-template-columns: 6.5rem 1fr; gap: 4px 12px;
  max-width: none; margin: 0; padding: 7px 0; border-bottom: 1px solid var(--rule); font-size: .93rem; }
.passed { color: var(--good); font-weight: 650; } .failed { color: var(--bad); font-weight: 750; }
pre { overflow-x: auto; margin: 8px 0; padding: 14px 16px; background: var(--wash); font-size: .82rem; line-height: 1.5;
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
summary { cursor: pointer; padding: 8px 0; } :focus-visible { outline: 2px solid var(--main); outline-offset: 2px; }
footer { margin-top: 44px; padding-top: 14px; border-top: 1px solid var(--rule); }
@media (max-width: 520px) { body { padding: 0 16px 32px; } h1 { font-size: 1.4rem; } .facts { display: block; }
  .facts dt { padding-bottom: 0; border: 0; } .facts dd { padding-top: 0; }
  .tiles, .tiles.three { grid-template-columns: repeat(2, 1fr); } .gates li { grid-template-columns: 1fr; gap: 0; }
  svg text { font-size: 13.5px; } svg .quiet { font-size: 11.5px; } th, td { padding: 6px; } }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --quiet: #444; --rule: #bbb; --faint: #ddd;
    --wash: #f4f4f4; --main: #1a4f94; --second: #a04a08; --bad: #a0101a; --good: #14602c; }
  body { max-width: none; padding: 0; font-size: 10.5pt; } .alarm { position: static; margin: 0; }
  h2, h3 { break-after: avoid; } .gates li { break-inside: avoid; } pre { white-space: pre-wrap; }
  .scroll { overflow: visible; }
  .pair { grid-template-columns: 1fr 1fr; } svg text { font-size: 14px; } svg .quiet { font-size: 11.5px; }
  .tiles { grid-template-columns: repeat(auto-fit, minmax(105px, 1fr)); } @page { margin: 16mm 14mm; } }
"""
)

PRINTED_ALARM = '@media print { @page { @top-center { content: "SIMULATION: NO GUARANTEE"; color: #a0101a; } } }'
"""Added to the style of a run without guarantee: the words on every printed page."""
