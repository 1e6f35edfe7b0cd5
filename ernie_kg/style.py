"""The report's style sheet: light, one column on a phone, whole figures on paper."""

STYLE = """
:root { --ink:#1c2430; --soft:#5b6675; --line:#d9dee5; --paper:#fff; --tint:#f5f7fa; --mark:#e3eefb;
  --c0:#1f5fa8; --c1:#c2540a; --c2:#2e7d4f; --c3:#8a3fa0; --c4:#8a6d00; --c5:#a8324a; }
* { box-sizing:border-box }
body { margin:0 auto; padding:1.5rem; max-width:72rem; color:var(--ink); background:var(--paper);
  font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif }
h1 { font-size:1.8rem; margin:.2rem 0 1rem } h2 { font-size:1.35rem; margin:0 0 .3rem }
h3 { font-size:1.1rem; margin:1.4rem 0 .4rem } h4,h5,h6 { font-size:1rem; margin:1rem 0 .2rem }
h2 small { color:var(--soft); font-weight:400; font-size:.95rem; margin-left:.4rem }
section { margin:0 0 1rem } section.artifact { border-top:3px solid var(--line); padding-top:1.2rem; margin-top:2.2rem }
a { color:var(--c0) } code { font-size:.85em; overflow-wrap:anywhere }
.headline { font-size:1.1rem; margin:.2rem 0 } .source,figcaption,footer { color:var(--soft); font-size:.85rem }
.cards { display:flex; flex-wrap:wrap; gap:.8rem; margin:0 0 1.6rem }
.cards div { background:var(--tint); border:1px solid var(--line); border-radius:8px; padding:.5rem .9rem }
.cards dt { color:var(--soft); font-size:.8rem } .cards dd { margin:0; font-size:1.1rem; font-weight:600 }
.scroll { overflow-x:auto } table { border-collapse:collapse; font-size:.92rem }
th,td { text-align:left; vertical-align:top; padding:.28rem .7rem .28rem 0; border-bottom:1px solid var(--line) }
thead th,thead td { border-bottom:2px solid var(--soft); font-weight:600 }
th[scope=row] { font-weight:400; color:var(--soft) }
td.number,.number { font-variant-numeric:tabular-nums; white-space:nowrap }
figure { margin:.8rem 0 1.2rem; break-inside:avoid } figure.narrow { max-width:36rem }
figure.pairs,figure.rows,figure.chart { display:inline-block; vertical-align:top; max-width:100%; margin-right:2.5rem }
figure.chart { width:31rem } figure.long { display:block; break-inside:auto } figure.pairs.long { columns:3 20rem }
pre { margin:0; font-size:.8rem; line-height:1.45 }
.pairs { display:flex; flex-wrap:wrap; gap:0 3rem }
.charts { display:grid; grid-template-columns:repeat(auto-fill,minmax(20rem,1fr)); gap:1rem }
.chart p { margin:.2rem 0; font-weight:600; font-size:.9rem }
svg { width:100%; max-width:36rem; height:auto; display:block }
svg .axis { font:11px system-ui,"DejaVu Sans",sans-serif; fill:var(--soft) }
svg .grid { stroke:var(--line); stroke-width:1 }
svg .bar { fill:var(--c0) } svg .line { fill:none; stroke:currentColor; stroke-width:2; stroke-linejoin:round }
svg circle { fill:currentColor } svg .dots { fill-opacity:.75 }
.series-0 { color:var(--c0) } .series-1 { color:var(--c1) } .series-2 { color:var(--c2) }
.other { color:#9aa5b4 }
.series-3 { color:var(--c3) } .series-4 { color:var(--c4) } .series-5 { color:var(--c5) }
.legend { list-style:none; padding:0; margin:.2rem 0; display:flex; flex-wrap:wrap; gap:.2rem 1rem; font-size:.85rem }
.legend li::before { content:""; display:inline-block; width:1.1em; height:.2em; background:currentColor;
  margin-right:.4em; vertical-align:middle }
.linked { border:1px solid var(--line); border-radius:8px; padding:.6rem 1rem; margin:0 0 .8rem; break-inside:avoid }
.linked h4 { margin:0 } .linked p { margin:.3rem 0; line-height:1.9; overflow-wrap:anywhere }
mark { background:var(--mark); color:inherit; border-radius:4px; padding:.1em .25em; box-decoration-break:clone;
  -webkit-box-decoration-break:clone } mark small { color:var(--c0); margin-left:.35em; font-size:.72em }
details { margin:.4rem 0 } summary { cursor:pointer; color:var(--soft); font-size:.9rem }
footer { border-top:1px solid var(--line); padding-top:.8rem; margin-top:2rem }
@media (max-width:40rem) { body { padding:.9rem; font-size:15px } .charts { grid-template-columns:1fr }
  .road thead { display:none } .road tr { display:grid; grid-template-columns:1fr 1fr auto auto;
  border-bottom:1px solid var(--line) } .road td { border:0; padding-bottom:0 }
  .road td:last-child { grid-column:1/-1; padding-bottom:.4rem; color:var(--soft) } .runs td { min-width:12rem } }
@page { margin:14mm 13mm }
@media print { :root { font-size:9pt } body { max-width:none; padding:0; font-size:9pt }
  a { color:inherit; text-decoration:none } details:not([open]) { display:none } .scroll { overflow:visible }
  pre { white-space:pre-wrap } h1,h2,h3,h4,h5,h6,.headline,.source,thead,.legend { break-after:avoid }
  figure.chart { width:47%; margin-right:2.5% }
  figcaption { break-before:avoid } tr,.chart,.linked { break-inside:avoid } p { orphans:3; widows:3 }
  .charts { grid-template-columns:repeat(3,1fr) } .linked p { line-height:1.7 } td { overflow-wrap:anywhere }
  * { -webkit-print-color-adjust:exact; print-color-adjust:exact } }
"""
