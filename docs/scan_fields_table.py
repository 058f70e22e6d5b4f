"""Writes the tables of scan fields into docs/interchange.md, from the one table that all readers use.

Run it after a change of ``measurement/scan_fields.py``: ``python docs/scan_fields_table.py``.
"""

from pathlib import Path

from bluesky_multislice.measurement import ScanField
from bluesky_multislice.recipe import scan_fields

PAGE = Path(__file__).with_name("interchange.md")
BEGIN, END = "<!-- scan fields: written by docs/scan_fields_table.py -->", "<!-- end of scan fields -->"


def tables() -> str:
    """Return the tables of places in files and of keys in Bluesky runs."""
    fields = scan_fields().values()
    files = ["| path below the entry | shape | unit | field and meaning |", "| --- | --- | --- | --- |"]
    files += [_file_row(field) for field in fields if field.place]
    runs = [
        "| field | unit | recipe `[scan]` | start document | events of `primary` |",
        "| --- | --- | --- | --- | --- |",
    ]
    runs += [_run_row(field) for field in fields]
    return "\n".join([BEGIN, "", *files, "", _BETWEEN, "", *runs, "", END])


_BETWEEN = """In a Bluesky run the same fields have these keys. Keys of the start document have the unit of their name,
data keys the unit of their descriptor. The key in parentheses, in the start document, names another data key. Arrays
are in the one event of the stream `static`."""


def write() -> None:
    """Replace the tables in the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + tables() + rest.partition(END)[2])


def _file_row(field: ScanField) -> str:
    """Return the row of a field in files. A unit other than that of the first path stands behind the path."""
    (first, unit), *others = field.places
    paths = [f"`{first}`", *(f"`{path}`" + (f" ({own})" if own != unit else "") for path, own in others)]
    return f"| {', '.join(paths)} | {field.shape} | {unit or ''} | {field.label}: {field.description} |"


def _run_row(field: ScanField) -> str:
    event = f"`{field.event_key}`" if field.event_key else f"`static:{field.static_key}`" if field.static_key else ""
    event += f" (`{field.event_key_from}`)" if field.event_key_from else ""
    option, start = (f"`{key}`" if key else "" for key in (field.option, field.start_key))
    return f"| `{field.name}` | {field.unit or ''} | {option} | {start} | {event} |"


if __name__ == "__main__":
    write()
