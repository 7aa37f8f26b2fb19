"""Tables of the reference that are made from the code, so that no fact stands twice."""

from __future__ import annotations

from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from table_rows import TABLES


class TableFromCode(SphinxDirective):
    """``.. table-from-code:: client``, or tunnel, counters, events."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        heads, rows, words_at = TABLES[self.arguments[0]]
        group = nodes.tgroup(cols=len(heads))
        group += [nodes.colspec(colwidth=1) for _ in heads]
        head = nodes.thead()
        head += self._row(heads, -1)
        body = nodes.tbody()
        body += [self._row(row, words_at) for row in rows()]
        group += [head, body]
        table = nodes.table()
        table += group
        return [table]

    def _row(self, cells: tuple[str, ...], words_at: int) -> nodes.row:
        row = nodes.row()
        for place, cell in enumerate(cells):
            entry = nodes.entry()
            for line in filter(None, cell.split("\n")):
                plain = words_at < 0 or place == words_at
                paragraph = nodes.paragraph()
                if plain:
                    paragraph += nodes.Text(line.replace("`", ""))
                else:
                    paragraph += nodes.literal(line, line)
                entry += paragraph
            row += entry
        return row


def setup(app):
    """Add the directive."""
    app.add_directive("table-from-code", TableFromCode)
    return {"parallel_read_safe": True}
