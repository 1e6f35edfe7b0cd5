"""A graph in the files of other tools, one module a format; `kg.export.FORMATS` lists them."""
