"""The page's skeleton: plain HTML and CSS, light and dark, nothing loaded from anywhere."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title · physteer</title>
<style>
:root { --ink: #1a1d24; --muted: #5c6370; --line: #d9dce2; --page: #f6f7f9; --card: #ffffff; --accent: #1f5fae; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ec; --muted: #9aa2af; --line: #343943; --page: #15171c; --card: #1e2128; --accent: #7fb2f0; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1290px; margin: 0 auto; padding: 0 24px 64px; }
header { padding: 34px 0 14px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 40px 0 12px; }
h3 { font-size: 16px; margin: 24px 0 8px; overflow-wrap: anywhere; }
p { max-width: 78ch; margin: 8px 0 12px; }
.facts { color: var(--muted); margin: 6px 0 0; }
nav { position: sticky; top: 0; z-index: 1; background: var(--page); border-bottom: 1px solid var(--line);
  padding: 9px 0; display: flex; flex-wrap: wrap; gap: 4px 20px; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
section { scroll-margin-top: 48px; }
figure { margin: 0 0 22px; background: #ffffff; border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
figure img, figure video { display: block; max-width: 100%; height: auto; margin: 12px auto 8px; }
figcaption { background: var(--card); color: var(--muted); padding: 7px 16px; border-top: 1px solid var(--line);
  font: 12px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  margin: 0 0 16px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: left; padding: 7px 12px; border-bottom: 1px solid var(--line); vertical-align: top; }
td { white-space: pre; font-size: 12px; color: var(--muted); }
td::first-line { font-size: 14px; color: var(--ink); }
tbody tr:last-child td { border-bottom: 0; }
th { font-weight: 600; color: var(--muted); }
details { background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin: 0 0 12px; }
summary { cursor: pointer; padding: 9px 14px; }
details .scroll { border: 0; border-top: 1px solid var(--line); border-radius: 0; margin: 0; }
pre { margin: 0; padding: 12px 16px; overflow-x: auto; border-top: 1px solid var(--line);
  font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
@media print { nav { display: none; } figure, .scroll { break-inside: avoid; } }
</style>
</head>
<body>
<main>
<header><h1>$title</h1><p class="facts">$facts</p></header>
<nav>$contents</nav>
$sections
</main>
</body>
</html>
"""
