"""One reader a format; the table is `kg.readers.table.READERS`."""
