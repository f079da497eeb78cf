"""The checks of `gristmill doctor`. Each says what it found and, if that is wrong, how to repair it."""
