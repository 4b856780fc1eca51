"""Whether synthetic images help a classifier: arms, selection, figures, comparisons, files. Knows no program."""
