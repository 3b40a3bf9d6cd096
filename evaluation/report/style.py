"""The page's style sheet. The colours of curves can be told apart with the common kinds of colour blindness (after Okabe, Ito, "Color
universal design", 2008), have a contrast of at least 3 to their ground, and each comes with a dash and a mark of its own."""

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fff; --raised: #f6f7f9; --mark: #eaf3fd; --ink: #1b1f24; --soft: #57606a; --rule: #d8dee4; --grid: #e7ebef;
  --c0: #0b61b8; --c1: #c04a00; --c2: #00785a; --c3: #93408a; --c4: #80660a; --c5: #57606a; --other: #6b7580;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14181d; --raised: #1c2229; --mark: #1c2f45; --ink: #e6eaef; --soft: #a3adb8; --rule: #39424d; --grid: #2a323b;
    --c0: #6db5ff; --c1: #ff9a57; --c2: #4fd1a3; --c3: #e49ada; --c4: #dfc04a; --c5: #a3adb8; --other: #8f9aa6;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 74rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.3rem; margin: 0 0 .5rem; }
p { margin: 0 0 .75rem; max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--c0); }
.about { color: var(--soft); margin-top: .25rem; }
.headline {
  font-size: 1.1rem; padding: .75rem 1rem; border-left: 4px solid var(--c0); border-radius: 0 6px 6px 0; background: var(--raised);
}
section { margin-top: 2.5rem; padding-top: 1.5rem; border-top: 1px solid var(--rule); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: 0; margin: 1rem 0 0; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.facts div { background: var(--raised); border-radius: 6px; padding: .6rem .9rem; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; }

.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.75rem 2rem; }
.figures { margin: 1.25rem 0 2rem; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; margin-bottom: .25rem; overflow-wrap: anywhere; }
figure svg[role] { display: block; width: 100%; max-width: 33rem; height: auto; }
figure svg.square { max-width: 26rem; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; list-style: none; padding: 0; margin: 0 0 .25rem; font-size: .85rem; }
.legend li { display: flex; align-items: center; gap: .35rem; overflow-wrap: anywhere; }
.legend svg { flex: none; }

.scroll { overflow-x: auto; margin: 0 0 1.75rem; }
.scroll:focus-visible, a:focus-visible { outline: 2px solid var(--c0); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .35rem; }
th, td { padding: .35rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; vertical-align: top; }
td { padding-left: .75rem; }
thead th { color: var(--soft); font-weight: 600; }
tbody th { text-align: left; font-weight: 500; }
tr > :first-child { position: sticky; left: 0; background: var(--ground); }
tr.ours > * { background: var(--mark); }
tr.ours th { font-weight: 700; }
small { display: block; color: var(--soft); font-size: .74rem; }

svg text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); font-variant-numeric: tabular-nums; }
svg .axis { fill: var(--soft); font-size: 12px; }
.grid { stroke: var(--grid); }
.axis-tick { stroke: var(--soft); }
.zero { stroke: var(--soft); stroke-dasharray: 4 3; }
.s0, .above { --of: var(--c0); }
.s1, .below { --of: var(--c1); }
.s2 { --of: var(--c2); }
.s3 { --of: var(--c3); }
.s4 { --of: var(--c4); }
.s5 { --of: var(--c5); }
.other, .tick { --of: var(--other); }
.unsure { --of: var(--soft); }
.curve { fill: none; stroke: var(--of); stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round; }
.curve.s0 { stroke-width: 2.5; }
.curve.s1 { stroke-dasharray: 7 3; }
.curve.s2 { stroke-dasharray: 2 4; }
.curve.s3 { stroke-dasharray: 9 3 2 3; }
.curve.s4 { stroke-dasharray: 4 4; }
.curve.s5 { stroke-dasharray: 1 6; }
.curve:is(.tick, .other, .above, .below, .unsure) { stroke: none; }
.point { fill: var(--of); stroke: var(--ground); stroke-width: 1; }
.point.tick { stroke: var(--of); stroke-width: 1.5; }
.point.unsure { fill: var(--ground); stroke: var(--of); stroke-width: 2; }
.whisker { stroke: var(--of); stroke-width: 2; }
@media print { figure, tr { break-inside: avoid; } body { max-width: none; } }
"""
