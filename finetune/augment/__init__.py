"""More training examples out of those there are: `AUGMENTERS` names the ways, `stage` is the stage."""
