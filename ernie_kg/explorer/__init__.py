"""`ernie-kg explore FOLDER`: a page on this machine that links text, walks the graph and asks the models of a run."""
