"""What can be asked of a lake: named questions, SQL of people's own, and the catalog.

A question is asked once, here, as data: its columns, its SQL, its filters. The REST API, the
command line, the console and the Grafana dashboards render it; none has SQL of its own.

- A question, and with it its API route `GET /name` and `meterlake ask name`: add a `Question`
  to the module of its subject (consumption, quality, grid, anomalies, forecasts, weather;
  tables for those that list one table).
- A number on a page of the console: `here.ask("name", filter=…)` in console/.
- A Grafana panel: `get("/name", columns…, filter=…)` in dashboards/.
"""
