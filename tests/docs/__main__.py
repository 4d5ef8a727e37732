"""`python -m tests.docs`: write the tables of the reference pages from the code."""

from tests.docs.tables import pages, with_tables

for path, text in pages().items():
    path.write_text(with_tables(text))
